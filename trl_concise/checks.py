# SPDX-License-Identifier: Apache-2.0
"""Checks that run before the first generation, and of what reward functions return."""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, IterableDataset
from transformers import AutoConfig
from transformers.trainer_utils import has_length

from .components import DIVISORS, BudgetSchedule, Component, GroupFilter, PromptSelector, Rollout


if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl import GRPOConfig


logger = logging.getLogger(__name__)

# Arguments that TRL passes to every reward function in addition to the dataset's columns (GRPOTrainer._calculate_rewards).
_TRL_REWARD_ARGUMENTS = {
    "prompts",
    "completions",
    "completion_ids",
    "completion_finished",  # ours
    "trainer_state",
    "log_extra",
    "log_metric",
    "environments",
}
# Of these, the ones that TRL also passes if the dataset has a column of that name: the call fails.
_COLLIDING_COLUMNS = {"prompts", "completions"}
# The ones that replace a column of the same name.
_REPLACED_COLUMNS = {"trainer_state", "log_extra", "log_metric", "completion_ids"}
_LOWER_IS_BETTER = ("tokens_mean", "tokens_correct_mean", "truncated_fraction", "empty_fraction", "length")


def restricted_sampling(args: GRPOConfig) -> dict[str, Any]:
    """
    Return the settings with which completions are not drawn from the model's distribution at the given temperature.

    Args:
        args ([`~trl.GRPOConfig`]): The trainer's settings.

    Returns:
        `dict[str, Any]`: Those of `top_p`, `top_k`, `min_p` and `repetition_penalty` that are not neutral.
    """
    neutral = {"top_p": (1,), "top_k": (0, -1, None), "min_p": (0, None), "repetition_penalty": (1,)}
    return {name: getattr(args, name) for name, values in neutral.items() if getattr(args, name) not in values}


def check_output_dir(output_dir: str | Path) -> None:
    """
    Check that the output folder can be written to, so that this does not fail at the first checkpoint.

    Raises:
        `ValueError`: If it cannot be written to.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as file:
            file.write(b"0")
    except OSError as error:
        raise ValueError(f"output_dir={str(output_dir)!r} cannot be written to ({error}). Choose another.") from error


def check_columns_are_kept(args: GRPOConfig) -> None:
    """Raise an error for `remove_unused_columns=True`."""
    if args.remove_unused_columns:
        raise ValueError(
            "remove_unused_columns=True drops every column but `prompt`: reward functions and the per-prompt "
            "history would lose `solution`, `prompt_id` and the like. Leave it False."
        )


def check_prompts_are_known(names: Sequence[str], given: Mapping[str, Any]) -> None:
    """
    Check that components can tell prompts apart.

    Raises:
        `ValueError`: If an environment brings the data.
    """
    if names and given.get("environment_factory") is not None and given.get("train_dataset") is None:
        raise ValueError(
            f"{names} remember prompts, but an environment that owns its data gives every row the same empty one. "
            "Pass a train_dataset with a `prompt_id` column."
        )


def warn_of_unsaved_state(args: GRPOConfig, names: Sequence[str]) -> None:
    """Warn if checkpoints will not contain the state of the components."""
    if args.save_only_model and names:
        logger.warning(
            "save_only_model=True: checkpoints will contain neither the optimizer nor the state of %s, so a run cannot be "
            "resumed from them.",
            names,
        )


def check_rollout(rollout: Rollout, given: Mapping[str, Any]) -> None:
    """
    Check that a rollout component is the only one that generates.

    Args:
        rollout ([`Rollout`]): The component.
        given (`Mapping[str, Any]`): Arguments of the trainer.

    Raises:
        `ValueError`: If tools, environments or a `rollout_func` are given too.
    """
    if others := [name for name in ("tools", "environment_factory", "rollout_func") if given.get(name)]:
        raise ValueError(
            f"rollout={type(rollout).__name__}() generates the completions, but {', '.join(others)} would do so too. Pass one of them."
        )


def check_budget(schedule: BudgetSchedule, args: GRPOConfig, model: str | PreTrainedModel) -> None:
    """
    Compare the largest generation limit of a schedule with the context of vLLM in colocate mode.

    A vLLM server checks its context itself.

    Args:
        schedule ([`BudgetSchedule`]): The schedule.
        args ([`~trl.GRPOConfig`]): The trainer's settings.
        model (`str` or [`~transformers.PreTrainedModel`]): The trainer's model.

    Raises:
        `ValueError`: If a later, larger limit would not fit.
    """
    if not args.use_vllm or args.vllm_mode != "colocate" or schedule.longest is None:
        return
    context = args.vllm_max_model_length
    if context is None:
        if isinstance(model, str):
            options = args.model_init_kwargs or {}
            known = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
            config = AutoConfig.from_pretrained(model, **known)
        else:
            config = model.config
        context = config.get_text_config().max_position_embeddings
    if schedule.longest >= context:
        raise ValueError(
            f"{type(schedule).__name__} allows up to {schedule.longest} completion tokens, but vLLM's context holds "
            f"{context} tokens, prompt included. Set vllm_max_model_length to at least {schedule.longest} and the longest "
            "prompt, or lower the schedule's largest budget."
        )


def check_not_empty(train_dataset: Any, eval_dataset: Any) -> None:
    """
    Check that the datasets of a trainer have a first row, which TRL reads without a check.

    Args:
        train_dataset, eval_dataset: Datasets, streams or lists of rows; mappings of them by name; or `None`.

    Raises:
        `ValueError`: If a dataset has no rows.
    """
    for name, given in {"train": train_dataset, "eval": eval_dataset}.items():
        for dataset in given.values() if isinstance(given, dict) else [given]:
            if dataset is not None and next(iter(dataset), None) is None:
                raise ValueError(f"The {name} dataset is empty. If it was filtered, the filter kept nothing.")


def check_best_metric(metric: str | None, greater_is_better: bool | None) -> None:
    """
    Warn about a metric with which the best checkpoint would be an arbitrary one or the one with the most tokens.

    Args:
        metric (`str`, *optional*): `metric_for_best_model`; transformers sets `"loss"` where a best checkpoint is asked for
            without a metric.
        greater_is_better (`bool`, *optional*): Of the same config.
    """
    if metric is None:
        return
    if metric == "loss" or metric.endswith("_loss"):
        logger.warning(
            "The best checkpoint is chosen by %r, which is about 0 for every policy in GRPO. Set metric_for_best_model, for "
            'example to "eval_accuracy" or, with greater_is_better=True, "eval_accuracy_efficiency".',
            metric,
        )
    elif greater_is_better and metric.endswith(_LOWER_IS_BETTER):
        logger.warning(
            "metric_for_best_model=%r with greater_is_better=True keeps the checkpoint with the highest value, but lower is "
            "better. Set greater_is_better=False.",
            metric,
        )


def check_datasets(
    train_dataset: Any, eval_dataset: Any, *, prompt_selector: PromptSelector | None, **given: Any
) -> None:
    """
    Check the training dataset, and each dataset for evaluation, with [`check_dataset`].

    Args:
        train_dataset (`Dataset` or `IterableDataset`): The training data.
        eval_dataset: Everything that TRL accepts for evaluation: a dataset of any kind, a dictionary of them, or `None`.
        prompt_selector ([`PromptSelector`], *optional*): The component that looks ahead in the training dataset.
        given: Other arguments of [`check_dataset`].

    Raises:
        `ValueError`: If something is missing. The message names the dataset and says what to change.
    """
    check_dataset(train_dataset, prompt_selector=prompt_selector, **given)
    pending = [("eval", eval_dataset)]
    while pending:
        name, dataset = pending.pop()
        if isinstance(dataset, Mapping):
            pending += dataset.items()
        elif dataset is not None:
            check_dataset(dataset, prompt_selector=None, name=name, **given)


def check_dataset(
    dataset: Any,
    *,
    components: Sequence[Component],
    prompt_selector: PromptSelector | None,
    reward_funcs: Mapping[str, Callable | torch.nn.Module],
    chat_template: str | dict[str, str] | None,
    brings_own_prompts: bool,
    calls_tools: bool = False,
    name: str = "train",
) -> None:
    """
    Check that the rows and columns exist that a run needs.

    Args:
        dataset (`Dataset`, `IterableDataset`, or any object with `__len__` and `__getitem__`): The data. The columns of a
            list or a PyTorch dataset are those of its first row.
        components (`Sequence[Component]`): The trainer's components.
        prompt_selector ([`PromptSelector`], *optional*): The component that looks ahead in the dataset.
        reward_funcs (`Mapping[str, Callable | torch.nn.Module]`): By name. Their parameters name the columns they need.
        chat_template (`str` or `dict[str, str]`, *optional*): Renders conversational prompts.
        brings_own_prompts (`bool`): Whether an environment or a rollout function makes prompts and columns.
        calls_tools (`bool`, *optional*, defaults to `False`): Whether the model may call tools.
        name (`str`, *optional*, defaults to `"train"`): What the dataset is for.

    Raises:
        `ValueError`: If something is missing. The message says what to change.
    """
    if prompt_selector is not None and isinstance(dataset, IterableDataset):
        raise ValueError(
            f"{type(prompt_selector).__name__} looks ahead in the dataset, which an IterableDataset does not "
            "allow. Load it as a Dataset (streaming=False), or train without a prompt_selector."
        )
    is_indexed = hasattr(dataset, "__getitem__") and has_length(dataset)
    if is_indexed and len(dataset) == 0:
        raise ValueError(f"The {name} dataset is empty. If it was filtered, the filter kept nothing.")
    if isinstance(dataset, (Dataset, IterableDataset)):
        columns = dataset.column_names  # None: a stream that does not know
    else:
        columns = sorted(dataset[0]) if is_indexed else None
    if columns is None:
        return
    check_text_only(components, columns, name)
    if not all(isinstance(func, torch.nn.Module) for func in reward_funcs.values()):
        _check_names(columns, name)
    if brings_own_prompts:
        return
    if "prompt" not in columns:
        raise ValueError(f"The {name} dataset needs a `prompt` column; it has {columns}.")
    if components and "prompt_id" not in columns and {"image", "images"} & set(columns):
        raise ValueError(
            "Prompts with images are identified by a `prompt_id` column that is unique per prompt, but the "
            f"{name} dataset has only {columns}. Add the column."
        )
    for func_name, func in reward_funcs.items():
        if not isinstance(func, torch.nn.Module):
            _check_columns(func_name, func, columns, name)
    if is_indexed:
        _check_prompt(dataset[0]["prompt"], chat_template)
        if calls_tools and isinstance(dataset[0]["prompt"], str):
            raise ValueError(
                f"Tools are called in messages, but the first prompt of the {name} dataset is a string: "
                f"{dataset[0]['prompt']!r:.100}. Convert prompts to [{{'role': 'user', 'content': prompt}}], or train without tools."
            )
    if isinstance(dataset, Dataset) and components and "prompt_id" in columns:
        _check_prompt_ids(dataset)


def check_text_only(components: Sequence[Component], columns: Iterable[str], name: str | None = None) -> None:
    """
    Check that a dataset has no images if a component reads text only.

    Args:
        components (`Sequence[Component]`): The trainer's components.
        columns (`Iterable[str]`): Names of the dataset's columns.
        name (`str`, *optional*): What the dataset is for.

    Raises:
        `ValueError`: If it has a column `image` or `images`.
    """
    readers = [type(component).__name__ for component in components if component.text_only]
    if readers and (images := sorted({"image", "images"} & set(columns))):
        raise ValueError(
            f"{readers[0]} reads text only, but the {name + ' ' if name else ''}dataset has the columns {images}. Remove them, or train "
            f"without {readers[0]}."
        )


def _check_names(columns: Sequence[str], dataset: str) -> None:
    """Check that no column has the name of another argument of reward functions."""
    if colliding := sorted(_COLLIDING_COLUMNS & set(columns)):
        raise ValueError(
            f"The {dataset} dataset has the columns {colliding}, but TRL passes arguments of these names to every reward "
            f"function. Rename them, for example with `dataset.rename_column({colliding[0]!r}, '...')`, or remove them."
        )
    if replaced := sorted(_REPLACED_COLUMNS & set(columns)):
        logger.warning(
            "Reward functions do not receive the columns %s of the %s dataset, because TRL passes its own arguments of these "
            "names. Rename the columns.",
            replaced,
            dataset,
        )


def _check_columns(name: str, func: Callable, columns: Sequence[str], dataset: str) -> None:
    needed = [
        argument
        for argument, parameter in inspect.signature(func).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if (either := getattr(func, "needs_one_of", ())) and not set(either) & set(columns):
        raise ValueError(
            f"The reward function {name!r} needs one of the columns {list(either)}, but the {dataset} dataset has only "
            f"{columns}. Rename the one with the reference answers, e.g. with `dataset.rename_column('...', {either[0]!r})`."
        )
    missing = [argument for argument in needed if argument not in {*columns, *_TRL_REWARD_ARGUMENTS}]
    if missing:
        raise ValueError(
            f"The reward function {name!r} needs the columns {missing}, but the {dataset} "
            f"dataset has only {columns}. Add or rename them, e.g. with "
            f"`dataset.rename_column('...', {missing[0]!r})`."
        )


def _check_prompt(prompt: Any, chat_template: str | dict[str, str] | None) -> None:
    if isinstance(prompt, str):
        return
    if not (isinstance(prompt, list) and prompt and all(isinstance(turn, dict) and "role" in turn for turn in prompt)):
        raise ValueError(
            f"A prompt is a string or a list of messages such as {{'role': 'user', 'content': '...'}}; the first row's "
            f"is {prompt!r:.100}."
        )
    if chat_template is None:
        raise ValueError(
            "The prompts are lists of messages, but the tokenizer has no chat template. Pass a processing_class whose "
            "`chat_template` is set, use the model's instruct version, or give prompts as plain strings."
        )


def _check_prompt_ids(dataset: Dataset) -> None:
    """Check that no `prompt_id` names two different prompts."""
    ids = dataset.with_format("pandas").select_columns("prompt_id")[:]["prompt_id"].dropna()  # without: by its text
    for name in ids[ids.duplicated()].unique()[:100]:
        first, *others = (dataset[int(row)]["prompt"] for row in ids.index[ids == name])
        if any(other != first for other in others):
            raise ValueError(
                f"prompt_id={name!r} names different prompts, which would share one history. Make the ids unique, or drop "
                "the column: prompts are then distinguished by their text."
            )


def check_filter(group_filter: GroupFilter | None, tools: Any, environments: Any) -> None:
    """
    Check the settings of a filter, and that groups can be replaced in this run.

    Raises:
        `ValueError`: If `max_refills` or `divisor` is invalid, or groups are replaced whose completions call tools or environments.
    """
    if group_filter is None:
        return
    name, refills = type(group_filter).__name__, group_filter.max_refills
    if not isinstance(refills, int) or refills < 0:
        raise ValueError(f"{name}.max_refills is {refills!r}. Set it to an integer of at least 0.")
    if group_filter.divisor not in DIVISORS:
        raise ValueError(f"{name}.divisor is {group_filter.divisor!r}, but must be one of {DIVISORS}.")
    if refills and (tools or environments is not None):
        raise ValueError(
            f"{name} cannot replace groups whose completions call tools or environments. Set max_refills=0, or train without tools "
            "and environments."
        )


def describe(value: Any) -> str:
    """Describe the value that a component returned, for an error message."""
    return f"the shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
