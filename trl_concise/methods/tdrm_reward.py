# SPDX-License-Identifier: Apache-2.0
r"""[`ProcessReward`]: a trained process reward model as a reward function, and as the score of best-of-n."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..data.steps import SEPARATOR, split_steps
from ..state.adapters import adapter_config, check_base_model, check_model, load_tokenizer
from ..verification.reward import completion_text


logger = logging.getLogger(__name__)

MAX_LENGTH = 1024  # tokens of a state, as in TRL's RewardConfig
ENTRY = "process_reward"  # of the model's config: `separator` and `max_length` of the training
ENTRY_FILE = "process_reward.json"  # the same next to an adapter, which is saved without the config of its model
_PROBE = ("first step", "second step")


def text_before_answer(text: str, separator: str = SEPARATOR) -> str:
    r"""
    Return a completion up to the first step that contains `\boxed`, as the authors' reward does.

    At least one step is kept, and a completion without `\boxed` is kept whole.

    Args:
        text (`str`): The completion.
        separator (`str`, *optional*, defaults to an empty line): Text between steps.

    Examples:
        >>> text_before_answer("6 * 7 = 42\n\nSo it is \\boxed{42}.\n\nDone.")
        '6 * 7 = 42\n\n'
        >>> text_before_answer("\\boxed{42}\n\nDone.")
        '\\boxed{42}\n\n'
    """
    steps = split_steps(text, separator)
    first = next((place for place, step in enumerate(steps) if r"\boxed" in step), len(steps))
    return "".join(steps[: max(first, 1)])


class ProcessReward:
    r"""
    Reward function that scores completions with a process reward model, for [`~trl.GRPOTrainer`] and every trainer of this package.

    The score is the logit of the state before the answer (see [`text_before_answer`]), without system messages, as in the authors' code of
    TDRM. Completions are read as text and encoded with the tokenizer of the reward model, so the policy may have another one. Combine it with
    the rule reward by `reward_weights`; the authors use 0.8 for the rule and 0.2 for the model, and give the rule first, because it says what is
    correct.

    Args:
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            Folder or Hub id of a trained model or adapter, or a model in memory. It is frozen, in evaluation mode, on the device of the process.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer of a model in memory.
        output (`"logit"` or `"sigmoid"`, *optional*, defaults to `"logit"`):
            `"logit"` is the authors' score, which has no bounds; `"sigmoid"` is the value, in [0, 1].
        before_answer (`bool`, *optional*, defaults to `True`):
            Whether the state before the answer is scored; otherwise the whole completion.
        separator (`str`, *optional*):
            Text between steps. Default: that of the training, which is saved with the model; an empty line for a model that
            another trainer saved.
        max_length (`int`, *optional*):
            Tokens of a state, of which the last are kept. Default: that of the training; 1024 for a model that another trainer saved.
        batch_size (`int`, *optional*, defaults to `16`):
            States that are scored at a time.

    Raises:
        `FileNotFoundError`: If the model is not found.
        `ValueError`: If an argument is out of range, the model is not a trained classifier with one label, or the tokenizer is missing or drops
            text of a completion.

    Example:

    ```python
    >>> from trl_concise import HAPOConfig, HAPOTrainer, math_accuracy_reward
    >>> from trl_concise.methods.tdrm import ProcessReward

    >>> trainer = HAPOTrainer(
    ...     "Qwen/Qwen2.5-1.5B-Instruct",
    ...     reward_funcs=[math_accuracy_reward, ProcessReward("tdrm")],
    ...     args=HAPOConfig(output_dir="hapo", reward_weights=[0.8, 0.2]),
    ...     train_dataset=dataset,
    ... )
    ```
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        output: str = "logit",
        before_answer: bool = True,
        separator: str | None = None,
        max_length: int | None = None,
        batch_size: int = 16,
    ):
        if output not in ("logit", "sigmoid"):
            raise ValueError(f'output must be "logit" or "sigmoid", got {output!r}.')
        if separator == "" or batch_size < 1 or (max_length is not None and max_length < 1):
            raise ValueError(
                "ProcessReward needs a separator with text, and batch_size and max_length of at least 1; got "
                f"{separator!r}, {batch_size} and {max_length}."
            )
        if isinstance(model, (str, Path)):
            tokenizer = tokenizer or load_tokenizer(str(model))
            model = load_process_model(str(model))
        if tokenizer is None:
            raise ValueError("A reward model in memory needs its tokenizer: pass tokenizer=.")
        if model.config.num_labels != 1:
            raise ValueError(
                f"The reward model has {model.config.num_labels} labels, but a process reward model has one. Train it with TDRMTrainer."
            )
        check_template_keeps_steps(tokenizer)
        trained = getattr(model.config, ENTRY, {})
        given = {"separator": separator, "max_length": max_length}
        given = {name: value for name, value in given.items() if value is not None}
        if other := {name: trained[name] for name in given if name in trained and trained[name] != given[name]}:
            logger.warning(
                "ProcessReward scores with %s, but the model was trained with %s. Leave these arguments out to use the values of the training.",
                {name: given[name] for name in other},
                other,
            )
        settings = {"separator": SEPARATOR, "max_length": MAX_LENGTH} | trained | given
        self.__name__ = "process_reward"  # of its column in TRL's metrics
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.output = output
        self.before_answer = before_answer
        self.separator: str = settings["separator"]
        self.max_length: int | None = settings["max_length"]
        self.batch_size = batch_size
        text_config = model.config.get_text_config()
        if text_config.pad_token_id is None:  # with which the model finds the end of a padded row
            text_config.pad_token_id = (
                tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
            )

    def __call__(self, prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
        """
        Score completions, as TRL calls a reward function.

        Args:
            prompts (`list`): Texts or lists of messages.
            completions (`list`): Texts or lists of messages, of which the last is scored.

        Returns:
            `list[float]`: One score per completion.
        """
        contexts, texts = [], []
        for prompt, completion in zip(prompts, completions, strict=True):
            text = completion_text(completion)
            earlier = [] if isinstance(completion, str) else completion[:-1]  # calls of tools and their results
            contexts.append(prompt if isinstance(prompt, str) else [*prompt, *earlier])
            texts.append(text_before_answer(text, self.separator) if self.before_answer else text)
        return self._score(encode_states(self.tokenizer, contexts, texts, self.max_length), self.output)

    def values(self, prompts: Sequence[Any], completions: Sequence[Sequence[str]]) -> list[list[float]]:
        """
        Return the values of all states of completions, for [`~trl_concise.methods.tdrm.smoothness`].

        Args:
            prompts (`Sequence`): Texts or lists of messages.
            completions (`Sequence[Sequence[str]]`): Their steps, as in the datasets of [`~trl_concise.methods.tdrm.TDRMTrainer`].

        Returns:
            `list[list[float]]`: V in [0, 1] after each step.
        """
        contexts, texts = [], []
        for prompt, steps in zip(prompts, completions, strict=True):
            contexts += [prompt] * len(steps)
            texts += ["".join(steps[: t + 1]) for t in range(len(steps))]
        scores: Iterator[float] = iter(
            self._score(encode_states(self.tokenizer, contexts, texts, self.max_length), "sigmoid")
        )
        return [[next(scores) for _ in steps] for steps in completions]

    @torch.inference_mode()
    def _score(self, states: list[list[int]], output: str) -> list[float]:
        device = PartialState().device
        if self.model.device != device:
            self.model.to(device)
        pad = self.model.config.get_text_config().pad_token_id
        scores: dict[int, float] = {}
        order = sorted(range(len(states)), key=lambda i: len(states[i]))  # little padding
        for first in range(0, len(order), self.batch_size):
            rows = order[first : first + self.batch_size]
            width = max(len(states[i]) for i in rows)
            ids = torch.tensor([states[i] + [pad] * (width - len(states[i])) for i in rows], device=device)
            mask = torch.tensor([[1] * len(states[i]) + [0] * (width - len(states[i])) for i in rows], device=device)
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()
            scores |= zip(rows, (logits.sigmoid() if output == "sigmoid" else logits).tolist(), strict=True)
        return [scores[i] for i in range(len(states))]


def encode_states(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any], texts: Sequence[str], max_length: int | None
) -> list[list[int]]:
    """
    Encode states: a prompt without system messages, and the steps so far as the message of the assistant.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Tokenizer of the reward model.
        prompts (`Sequence`): Texts, which the steps continue, or lists of messages, for the chat template.
        texts (`Sequence[str]`): The steps so far. White space at the end is left out.
        max_length (`int`, *optional*): Tokens of a state, of which the last are kept.

    Returns:
        `list[list[int]]`: Token ids, at least one per state.
    """
    states = []
    for prompt, text in zip(prompts, texts, strict=True):
        if isinstance(prompt, str):
            ids = tokenizer(prompt + text.rstrip()).input_ids
        else:
            messages = [message for message in prompt if message["role"] != "system"]
            messages.append({"role": "assistant", "content": text.rstrip()})
            if tokenizer.chat_template is None:
                joined = "\n\n".join(completion_text([message]) for message in messages)
                ids = tokenizer(joined).input_ids
            else:
                rendered = tokenizer.apply_chat_template(messages, tokenize=False)
                ids = tokenizer(rendered, add_special_tokens=False).input_ids
        states.append((ids[-max_length:] if max_length is not None else ids) or [tokenizer.eos_token_id])
    return states


def check_template_keeps_steps(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Check that the chat template keeps the reasoning of a reply, which several templates drop.

    Raises:
        `ValueError`: If it does not.
    """
    if tokenizer.chat_template is None:
        return
    reply = f"<think>\n{_PROBE[0]}\n</think>\n\n{_PROBE[1]}"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": reply}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    if not all(text in rendered for text in _PROBE):
        raise ValueError(
            "The chat template of the reward model drops the reasoning of a reply, so most steps would not be seen. Set a "
            "template that keeps it, such as that of trl.chat_template_utils.get_training_chat_template(tokenizer); or "
            "tokenizer.chat_template = None if the prompts are texts."
        )


def load_process_model(model: str) -> Any:
    """
    Load a trained process reward model, or an adapter on its base model.

    Args:
        model (`str`): Folder or Hub id.

    Raises:
        `FileNotFoundError`: If the model or the base model is not found.
        `ValueError`: If it has no trained value head.
    """
    config = adapter_config(model)
    if config is not None:
        check_base_model(model, config.get("base_model_name_or_path"), config.get("revision"))
        if config.get("task_type") != "SEQ_CLS":
            raise ValueError(
                f"{model} is an adapter for {config.get('task_type')}, not a process reward model. Train one with TDRMTrainer."
            )
        from peft import AutoPeftModelForSequenceClassification

        adapted = AutoPeftModelForSequenceClassification.from_pretrained(model, num_labels=1)
        saved = cached_file(model, ENTRY_FILE, _raise_exceptions_for_missing_entries=False)
        if saved is not None:
            setattr(adapted.config, ENTRY, json.loads(Path(saved).read_text(encoding="utf-8")))
        return adapted
    check_model(model)
    loaded, found = AutoModelForSequenceClassification.from_pretrained(model, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"{model} has no trained value head: {missing} are missing. Train a process reward model with TDRMTrainer."
        )
    return loaded
