# SPDX-License-Identifier: Apache-2.0
"""
[`ConciseGRPOTrainer`]: TRL's `GRPOTrainer` with four slots.

This is the only module that touches the private methods of `GRPOTrainer`. Each override calls `super()` and changes
what it returns; no method body of TRL's is repeated here, so TRL's options keep their meaning. `tests/test_contract.py`
pins the parameters of every method overridden below.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather
from transformers import set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import parse_response
from trl.trainer.utils import pad

from .batch.generation import ForkedRandomState, GeneratedRollouts, GenerationRequest, pad_pairs
from .batch.merging import check_mergeable, merged_adapter
from .batch.rollouts import CompletionTokens, LocalRollouts, Rollouts, completion_lengths, prompt_digest, prompt_key
from .batch.token_credit import (
    KeptTokens,
    assign_token_credit,
    gather_tokens,
    order_by_kept_length,
    select_tokens,
)
from .checks import Watch, check_best_metric, check_budget, check_datasets, check_output_dir, check_rewards, describe
from .components import BudgetSchedule, Component, GroupReward, PromptSelector, TokenCredit, check_names
from .config import ConciseGRPOConfig, own_config
from .evaluation.training import EvaluationLog, measure_completions
from .evaluation.watch import WatchSet
from .hub.mixin import WritesCard
from .state.checkpoint import check_states, load_components, save_components
from .state.history import PromptHistory
from .state.resume import (
    ResumesTraining,
    clear_checkpoint,
    drop_rollout_block,
    explain_disk_full,
    load_reference_model,
    load_rollout_block,
    save_reference_model,
    save_rollout_block,
)
from .state.sampling import EpochRepeatSampler, SelectingSampler
from .state.step_start import StepStart
from .verification.finished import is_finished, prompt_opens_reasoning
from .verification.reward import completion_text


logger = logging.getLogger(__name__)


class ConciseGRPOTrainer(ResumesTraining, WritesCard, GRPOTrainer):
    """
    [`~trl.GRPOTrainer`] with four slots for parts that make reasoning concise.

    Without parts it trains bit for bit as `GRPOTrainer` does. All other arguments are those of `GRPOTrainer`, in their
    order.

    Args:
        model, reward_funcs, args, ...:
            As for [`~trl.GRPOTrainer`]. `reward_funcs` may contain [`GroupReward`]s. `args` may be a plain
            [`~trl.GRPOConfig`], and is never changed.
        prompt_selector ([`PromptSelector`], *optional*):
            Chooses which prompts are rolled out. Needs a dataset that can be indexed.
        token_credit ([`TokenCredit`] or `list[TokenCredit]`, *optional*):
            Spreads advantages over tokens. Several are applied in order; the tokens that all of them keep count.
        budget_schedule ([`BudgetSchedule`], *optional*):
            Sets the generation limit of each training step. Evaluation keeps `args.max_completion_length`.
        watch_dataset (`Dataset` or `list[dict]`, *optional*):
            Fixed problems, harder than the training problems, on which accuracy and tokens are measured during training (see
            [`WatchSet`]). `args` contains `watch_every`, `max_accuracy_loss` and `on_loss`.

    Attributes:
        components (`list[Component]`): Every part, in the order in which they observe.
        correctness_column (`int`): Index of the reward function that says whether a completion is correct.
        history ([`PromptHistory`], *optional*): Lengths and visits per prompt, of the first part that keeps a `history`
            (HAPO); `None` if none does.

    Raises:
        `ValueError`: If the arguments, the dataset and the parts do not fit together. The message says what to change.
        `TypeError`: If a part sits in the wrong slot, or `args` belongs to another method's trainer.

    Example:

    ```python
    >>> from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, HAPOLengthReward

    >>> trainer = ConciseGRPOTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     reward_funcs=[accuracy_reward, HAPOLengthReward()],
    ...     args=ConciseGRPOConfig(output_dir="concise"),
    ...     train_dataset=dataset,
    ... )
    ```
    """

    config_class: type[ConciseGRPOConfig] = ConciseGRPOConfig
    _tag_names = ["trl", "grpo", "trl-concise"]
    # Attributes of GRPOTrainer that the methods below replace.
    _pending_metrics: dict[str, list[float]]
    _pending_extra_logs: dict[str, list[Any]]
    _buffered_inputs: list[dict[str, Any]]  # None in GRPOTrainer until it has generated

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: GRPOConfig | None = None,
        *grpo_args,
        prompt_selector: PromptSelector | None = None,
        token_credit: TokenCredit | list[TokenCredit] | None = None,
        budget_schedule: BudgetSchedule | None = None,
        watch_dataset: Sequence[Mapping[str, Any]] | None = None,
        **grpo_kwargs,
    ):
        # By name, so that what GRPOTrainer also takes by position can be changed below.
        bound = inspect.signature(GRPOTrainer.__init__).bind(
            self, model, reward_funcs, args, *grpo_args, **grpo_kwargs
        )
        given: dict[str, Any] = {name: value for name, value in bound.arguments.items() if name != "self"}
        given["args"] = args = self._own_config(model, args)
        if args.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns=True drops every column but `prompt`: reward functions and the per-prompt "
                "history would lose `solution`, `prompt_id` and the like. Leave it False."
            )
        slots: dict[str, Any] = {
            "prompt_selector": prompt_selector,
            "token_credit": token_credit,
            "budget_schedule": budget_schedule,
        }
        for slot, own in self._own_slots(args).items():
            if slots[slot] is not None:
                raise ValueError(
                    f"{type(self).__name__} fills {slot}= with a {type(own).__name__} of its own. To use yours, or both, "
                    "pass the parts to a ConciseGRPOTrainer."
                )
            slots[slot] = own
        prompt_selector, token_credit, budget_schedule = slots.values()
        credits = token_credit if isinstance(token_credit, list) else [token_credit] if token_credit else []
        for slot, part, kind in [
            ("prompt_selector", prompt_selector, PromptSelector),
            ("budget_schedule", budget_schedule, BudgetSchedule),
            *(("token_credit", part, TokenCredit) for part in credits),
        ]:
            if isinstance(part, type):
                raise TypeError(f"{slot}= takes an instance of a {kind.__name__}: {part.__name__}(), not the class.")
            if part is not None and not isinstance(part, kind):
                raise TypeError(f"{slot}= takes a {kind.__name__}, got a {type(part).__name__}.")
        self.prompt_selector = prompt_selector
        self.token_credits = credits
        self.budget_schedule = budget_schedule

        # A group reward's column is held by a function that abstains, so that TRL's weights, metrics and completions
        # table know it; `_calculate_rewards` fills the column once the batch is gathered.
        reward_funcs = self._add_own_rewards(given)
        for func in reward_funcs:
            if isinstance(func, type):
                raise TypeError(f"reward_funcs= takes functions and instances: {func.__name__}(), not the class.")
        self.group_rewards: dict[int, GroupReward] = {  # column -> component
            column: func for column, func in enumerate(reward_funcs) if isinstance(func, GroupReward)
        }
        given["reward_funcs"] = [
            _abstain_as(type(func).__name__) if isinstance(func, GroupReward) else func for func in reward_funcs
        ]
        self.components: list[Component] = [
            *self.group_rewards.values(),
            *([prompt_selector] if prompt_selector else []),
            *credits,
            *([budget_schedule] if budget_schedule else []),
        ]
        check_names(self.components)
        names = [component.name for component in self.components]
        self._prompt_order: SelectingSampler | None = None  # saved beside the parts; see `_get_train_sampler`
        self._tool_mask_list: list[list[int]] | None = None  # of the batch being scored; see `_generate`
        self._reasoning_opened: list[bool] | None = None  # by each prompt of the batch being scored
        self._tokens: CompletionTokens | None = None  # the batch being scored, for the token credit
        self._rollouts: Rollouts | None = None
        self._kept: KeptTokens | None = None  # what is to be scored; None: everything
        self._is_ordered = True  # whether the buffered micro-batches are in their final order
        self._evaluation_log = EvaluationLog(args.metric_for_best_model)
        self._watch = Watch()
        self._step_start = StepStart(self, self._saved_parts, self._changed_by_a_step)
        # Before the user's callbacks, which may save or change a component.
        given["callbacks"] = [self._step_start, *(given.get("callbacks") or [])]

        if self.components and given.get("train_dataset") is None and given.get("environment_factory") is not None:
            raise ValueError(
                f"{names} remember prompts, but an environment that owns its data gives every row the same empty one. "
                "Pass a train_dataset with a `prompt_id` column."
            )

        if budget_schedule is not None:
            check_budget(budget_schedule, args, model)  # before vLLM's engine is built
        check_best_metric(args.metric_for_best_model, args.greater_is_better)
        if args.should_save:
            check_output_dir(args.output_dir)
        super().__init__(**given)
        if self.use_vllm and self.vllm_mode == "colocate":
            # The engine has seeded this process with its own seed, the rank. Processes that share an engine draw alike.
            set_seed(args.seed + self.accelerator.process_index // args.vllm_tensor_parallel_size)

        if args.merge_adapter_for_generation and not self.use_vllm:
            check_mergeable(self.model, is_sharded=self._dist.is_fsdp or self._dist.is_zero3)
        self._fork = ForkedRandomState(args.seed, self.accelerator.process_index, self.accelerator.device)
        self.correctness_column = self._find_correctness(args.correctness)
        check_datasets(
            self.train_dataset,
            self.eval_dataset,
            components=self.components,
            prompt_selector=prompt_selector,
            reward_funcs=dict(zip(self.reward_func_names, self.reward_funcs, strict=True)),
            chat_template=getattr(self.processing_class, "chat_template", None) or self._tokenizer.chat_template,
            brings_own_prompts=self.environment_factories is not None or self.rollout_func is not None,
        )
        if args.save_only_model and self.components:
            logger.warning(
                "save_only_model=True: checkpoints will hold neither the optimizer nor the state of %s, so a run "
                "cannot be resumed from them.",
                names,
            )
        self._keeps_reference = args.sync_ref_model and not (self.is_deepspeed_enabled or self.is_fsdp_enabled)
        if args.sync_ref_model and not self._keeps_reference:
            logger.warning(
                "sync_ref_model=True with a sharded model: the reference model moves and is in no checkpoint, so a "
                "resumed run starts from the original one."
            )
        for component in self.components:
            component.attach(self)
        check_states(self.components)
        self.watch_set: WatchSet | None = None
        if watch_dataset is not None:
            self.watch_set = WatchSet(
                self,
                watch_dataset,
                every=args.watch_every,
                max_accuracy_loss=args.max_accuracy_loss,
                on_loss=args.on_loss,
            )
            self.add_callback(self.watch_set)

    @property
    def history(self) -> PromptHistory | None:
        """Lengths and visits per prompt, of the first part that keeps a `history`; `None` if none does."""
        histories = (getattr(component, "history", None) for component in self.components)
        return next((history for history in histories if history is not None), None)

    @property
    def _end_ids(self) -> set[int]:
        """Tokens that end a completion; one that ends otherwise was cut."""
        return {*self.eos_token_ids, self._tokenizer.pad_token_id}

    # Extra completions and scores

    def generate_rollouts(
        self,
        rows: Sequence[Mapping[str, Any]],
        n: int,
        *,
        prefix_ids: Sequence[Sequence[int]] | None = None,
        max_tokens: int | None = None,
        greedy: bool = False,
    ) -> GeneratedRollouts:
        """
        Generate completions beside the training batch, with the current policy and the trainer's sampling settings.

        The random state of the run, its metrics and its token counts stay as they are (a vLLM server draws from a
        state of its own). Tools are not called, and a `rollout_func` is not asked. Every process calls this for rows of its own.

        Args:
            rows (`Sequence[Mapping[str, Any]]`):
                Dataset rows with a `prompt`: a string or a list of messages, without images.
            n (`int`):
                Completions per row.
            prefix_ids (`Sequence[Sequence[int]]`, *optional*):
                Per row, token ids that its completions begin with; generation goes on behind them.
            max_tokens (`int`, *optional*):
                Tokens that may follow the prefix. Defaults to `max_completion_length` less the prefix.
            greedy (`bool`, *optional*, defaults to `False`):
                Whether to take the most likely token at each position, without dropout, instead of sampling. Needs `n = 1`.

        Returns:
            [`GeneratedRollouts`]: `len(rows) * n` completions.

        Raises:
            `ValueError`: If there is nothing to generate, or a prefix leaves no room.
        """
        request = GenerationRequest.of(rows, n, prefix_ids, max_tokens, self.max_completion_length)
        if self.environment_factories is not None:
            raise ValueError("generate_rollouts cannot render an environment's prompts. Train without environments.")
        if greedy and n != 1:
            raise ValueError(f"greedy=True gives the same completion every time, but n = {n}. Set n = 1.")
        prompt_ids, _, _ = self._tokenize_prompts(copy.deepcopy(request.prompts))
        starts = [[*prompt, *prefix] for prompt, prefix in zip(prompt_ids, request.prefix_ids, strict=True)]
        # The same everywhere: processes that share a vLLM engine, or a server, generate together.
        longest = gather(torch.tensor([max(request.limits)], device=self.accelerator.device)).max().item()
        drawing = self._greedy() if greedy else self._fork.at(self.state.global_step)
        with drawing, self._generation_limit(longest):
            completion_ids, logps = self._generate_single_turn(starts, None, {}, n)
        completion_ids = [ids[:limit] for ids, limit in zip(completion_ids, request.limits, strict=True)]
        ends, device = self._end_ids, self.accelerator.device
        return GeneratedRollouts(
            prompt_ids=prompt_ids,
            prefix_ids=request.prefix_ids,
            completion_ids=completion_ids,
            completions=[
                self._decode(prompt, start, [*prefix, *ids])
                for prompt, start, prefix, ids in zip(
                    request.prompts, prompt_ids, request.prefix_ids, completion_ids, strict=True
                )
            ],
            lengths=torch.tensor(completion_lengths(completion_ids, None, ends), device=device),
            truncated=torch.tensor([ids[-1] not in ends for ids in completion_ids], device=device),
            logps=None if logps is None else [row[: len(ids)] for row, ids in zip(logps, completion_ids, strict=True)],
        )

    def reward_rollouts(self, rows: Sequence[Mapping[str, Any]], rollouts: GeneratedRollouts) -> torch.Tensor:
        """
        Ask the reward functions about extra completions; group rewards abstain, and nothing is logged.

        Every process calls this with the same number of rows. All reward functions are called, as in a training step.

        Args:
            rows (`Sequence[Mapping[str, Any]]`): The rows given to [`~ConciseGRPOTrainer.generate_rollouts`].
            rollouts ([`GeneratedRollouts`]): What it returned for them.

        Returns:
            `torch.Tensor`: `(len(rollouts), functions)` float32 of this process's completions, NaN where a function
            abstained.
        """
        return self._reward_rollouts(rows, rollouts)

    def judge_rollouts(self, rows: Sequence[Mapping[str, Any]], rollouts: GeneratedRollouts) -> torch.Tensor:
        """
        Ask the reward function that says what is correct about extra completions; no other function is called.

        Args:
            rows, rollouts: As for [`~ConciseGRPOTrainer.reward_rollouts`].

        Returns:
            `torch.Tensor`: `(len(rollouts),)` float32 of this process's completions: 1 correct, 0 wrong, NaN unknown.
        """
        with self._only_reward_function(self.correctness_column):
            return _verdicts(self._reward_rollouts(rows, rollouts)[:, 0])

    def _reward_rollouts(self, rows, rollouts: GeneratedRollouts) -> torch.Tensor:
        inputs = [dict(row) for row in rows for _ in range(len(rollouts) // len(rows))]
        prompts = [row["prompt"] for row in inputs]
        completion_ids = [
            [*prefix, *ids] for prefix, ids in zip(rollouts.prefix_ids, rollouts.completion_ids, strict=True)
        ]
        # What reward functions log waits here for the next training batch, which does not contain these completions.
        waiting = copy.deepcopy((self._pending_metrics, self._pending_extra_logs))
        opened = [prompt_opens_reasoning(self._tokenizer, ids) for ids in rollouts.prompt_ids]
        marked = self._mark_finished(inputs, rollouts.completions, completion_ids, opened)
        rewards = super()._calculate_rewards(marked, prompts, rollouts.completions, completion_ids)
        self._pending_metrics, self._pending_extra_logs = waiting
        start = self.accelerator.process_index * len(rollouts)
        return rewards[start : start + len(rollouts)]

    @contextmanager
    def _only_reward_function(self, column: int):
        """Let TRL call one reward function only; its rewards have one column then."""
        names = ("reward_funcs", "reward_processing_classes", "reward_func_names")
        before = {name: getattr(self, name) for name in names}
        self.__dict__.update({name: [values[column]] for name, values in before.items()})
        try:
            yield
        finally:
            self.__dict__.update(before)

    def _decode(self, prompt, prompt_ids: list[int], completion_ids: list[int]):
        """Return a completion as TRL hands it to reward functions."""
        if isinstance(prompt, str):
            return self._tokenizer.decode(completion_ids, skip_special_tokens=True)
        if getattr(self._tokenizer, "response_template", None) or getattr(self._tokenizer, "response_schema", None):
            return [parse_response(self._tokenizer, completion_ids, prefix=prompt_ids, tools=self.tools)]
        content = self._tokenizer.decode(completion_ids, skip_special_tokens=True)
        return [{"role": "assistant", "content": content}]

    @torch.no_grad()
    def score_logps(self, prompt_ids: list[list[int]], completion_ids: list[list[int]]) -> torch.Tensor:
        """
        Score completions under the current policy, in evaluation mode, in chunks of `per_device_train_batch_size`.

        The log-probabilities are those of TRL's loss: at the sampling temperature. Every process calls this for rows of
        its own; the random state of the run stays as it is.

        Args:
            prompt_ids (`list[list[int]]`): What precedes each completion, at least one token.
            completion_ids (`list[list[int]]`): The tokens to score.

        Returns:
            `torch.Tensor`: `(b, T)`, the log-probability of each completion token; T is the longest completion, and
            shorter ones are followed by zeros.

        Raises:
            `ValueError`: If the lists differ in length or are empty, or a prompt is empty.
        """
        input_ids, attention_mask, width = pad_pairs(prompt_ids, completion_ids, self._tokenizer.pad_token_id)
        training = self.model.training
        self.model.eval()
        try:
            with self._fork.at(self.state.global_step), self._keeping(None):
                logps, _, _ = self._get_per_token_logps_and_entropies(
                    self.model,
                    input_ids.to(self.accelerator.device),
                    attention_mask.to(self.accelerator.device),
                    width,
                    batch_size=self.args.per_device_train_batch_size,
                )
        finally:
            self.model.train(training)
        return logps

    # Construction

    def _was_stopped(self) -> bool:
        return self.watch_set is not None and self.watch_set.has_stopped(self.state)

    def _own_rewards(self, args: ConciseGRPOConfig) -> list[tuple[GroupReward, float]]:
        """Return the group rewards, and their weights, that a drop-in trainer adds to the user's. Default: none."""
        return []

    def _own_slots(self, args: ConciseGRPOConfig) -> dict[str, Component]:
        """Return the parts, by name of the slot, with which a drop-in trainer fills its own slot. Default: none."""
        return {}

    def _add_own_rewards(self, given: dict[str, Any]) -> list:
        """Add the trainer's own rewards behind the user's, whose weights and processing classes stay as given."""
        reward_funcs = given["reward_funcs"] if isinstance(given["reward_funcs"], list) else [given["reward_funcs"]]
        reward_funcs = [func for func in reward_funcs if func is not None]
        args, own = given["args"], self._own_rewards(given["args"])
        if not own:
            return reward_funcs
        weights = args.reward_weights if args.reward_weights is not None else [1.0] * len(reward_funcs)
        if len(weights) != len(reward_funcs):
            raise ValueError(
                f"reward_weights covers your reward functions only: got {len(weights)} weights for "
                f"{len(reward_funcs)} functions. {type(self).__name__} adds its own column and weight."
            )
        args.reward_weights = [*weights, *(weight for _, weight in own)]
        if (classes := given.get("reward_processing_classes")) is not None:
            classes = classes if isinstance(classes, list) else [classes]
            given["reward_processing_classes"] = [*classes, *[None] * len(own)]
        return [*reward_funcs, *(part for part, _ in own)]

    @classmethod
    def _own_config(cls, model, args: GRPOConfig | None) -> ConciseGRPOConfig:
        """Return a config of this trainer's class that shares nothing mutable with the caller's."""
        if isinstance(args, ConciseGRPOConfig) and not isinstance(args, cls.config_class):
            if not issubclass(cls.config_class, type(args)):
                raise TypeError(
                    f"{cls.__name__} takes a {cls.config_class.__name__} or a GRPOConfig; the settings of a "
                    f"{type(args).__name__} would have no effect."
                )
        return own_config(cls.config_class, args, trainer=cls, parent=GRPOConfig, model=model)

    def _find_correctness(self, name: str | None) -> int:
        """Return the column of the reward function that says whether a completion is correct."""
        columns = {i: n for i, n in enumerate(self.reward_func_names) if i not in self.group_rewards}
        names = list(columns.values())
        if self.components and len(set(names)) < len(names):
            raise ValueError(
                f"The reward functions are called {names}, but components and metrics need different names. Define each "
                "with its own `def`; a `functools.partial` has the name of the function that it wraps."
            )
        if name is not None and name not in names:
            raise ValueError(f"correctness={name!r} names none of the reward functions {names}.")
        if not columns:
            raise ValueError(
                f"{[type(part).__name__ for part in self.group_rewards.values()]} build on correctness: put a reward "
                "function that says whether a completion is correct into `reward_funcs`, e.g. math_accuracy_reward."
            )
        if name is None and len(names) > 1 and self.components:
            logger.warning(
                "The first of the reward functions %s, %r, says what is correct. Set correctness= to name it, or another.",
                names,
                names[0],
            )
        return next(column for column, own in columns.items() if name in (None, own))

    # [1] Which prompts

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        step, accumulation = lambda: self.state.global_step, self.args.gradient_accumulation_steps
        if self.prompt_selector is None:
            return EpochRepeatSampler(sampler, step, accumulation)
        self._prompt_order = SelectingSampler(sampler, self.prompt_selector, step, accumulation)
        return self._prompt_order

    # [2] How many tokens

    @contextmanager
    def _training_budget(self):
        """Set the generation limit for one training batch."""
        if self.budget_schedule is None or not self.model.training:
            yield
            return
        budget = self.budget_schedule.max_completion_length(self.state.global_step)
        if budget < 1:
            raise ValueError(
                f"{type(self.budget_schedule).__name__} allows {budget} tokens at step {self.state.global_step}; a "
                "budget is at least 1."
            )
        with self._generation_limit(budget):
            yield

    @contextmanager
    def _generation_limit(self, tokens: int):
        """
        Limit completions to some tokens, at every place where TRL's generation reads the limit.

        `self.max_completion_length`, which bounds turns with tools, is back in place before the `dr_grpo` loss divides
        by it.
        """
        places: list[dict[str, Any]] = [self.__dict__]
        if self.use_vllm:
            places.append(self.vllm_generation.__dict__)
        changes = [(place, {"max_completion_length": tokens}) for place in places]
        if not self.use_vllm:
            changes += [(place, {"max_new_tokens": tokens}) for place in self._generation_places()]
        elif "max_tokens" in self.vllm_generation.generation_kwargs:  # set by the user, read last
            changes.append((self.vllm_generation.generation_kwargs, {"max_tokens": tokens}))
        with _changed(changes):
            yield

    @contextmanager
    def _greedy(self):
        """Generate the most likely token at each position, in evaluation mode. Draws no random number."""
        if self.use_vllm:
            greedy: dict[str, Any] = {
                "temperature": 0.0,
                "repetition_penalty": 1.0,
            }  # vLLM ignores the other sampling settings then
            user = self.vllm_generation.generation_kwargs  # read last
            changes = [(vars(self.vllm_generation), greedy), (user, {k: v for k, v in greedy.items() if k in user})]
        else:
            greedy = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}
            changes = [(place, greedy | {"repetition_penalty": 1.0}) for place in self._generation_places()]
        training = self.model.training
        self.model.eval()
        try:
            with _changed(changes):
                yield
        finally:
            self.model.train(training)

    def _generation_places(self) -> list[dict[str, Any]]:
        """Return where TRL keeps the settings of transformers' `generate`."""
        return [vars(self.generation_config), self.generation_kwargs]

    def _generate(self, prompts):
        output = super()._generate(prompts)
        self._reasoning_opened = [prompt_opens_reasoning(self._tokenizer, ids) for ids in output[0]]
        self._tool_mask_list = output[2]  # `_calculate_rewards` is not told which tokens a tool wrote
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self._watch.check_context(output[0], self.max_completion_length, context)
        if not (self.token_credits and self.model.training):
            return output
        self._tokens = self._completion_tokens(output[1], output[2])
        if (
            self.use_vllm
            and self.vllm_importance_sampling_correction
            and "sequence" in self.vllm_importance_sampling_mode
        ):
            return output  # the correction of a sequence needs the log-probabilities of all its tokens
        # From here on TRL takes the selection for a tool mask: ratios and metrics are those of the selected tokens.
        selected = select_tokens(self.token_credits, self._tokens)
        self._kept = self._keep_only(pad([torch.tensor(row, device=self.accelerator.device) for row in selected]))
        return (*output[:2], selected, *output[3:])

    def _generate_single_turn(self, *args, **kwargs):
        merges = self.args.merge_adapter_for_generation and not self.use_vllm
        with merged_adapter(self.accelerator.unwrap_model(self.model)) if merges else nullcontext():
            return super()._generate_single_turn(*args, **kwargs)

    def _completion_tokens(self, completion_ids, tool_mask) -> CompletionTokens:
        mask = tool_mask if tool_mask is not None else [[1] * len(ids) for ids in completion_ids]
        if self.mask_truncated_completions:
            ends = self._end_ids
            mask = [row if ids[-1] in ends else [0] * len(row) for row, ids in zip(mask, completion_ids, strict=True)]
        start = self.accelerator.process_index * len(completion_ids)
        steps_in_window = self._step % self.args.gradient_accumulation_steps
        tokens = CompletionTokens(
            ids=completion_ids,
            mask=mask,
            num_generations=self.num_generations,
            step=self.state.global_step,
            start=start,
            local=slice(start, start + len(completion_ids)),
            earlier=steps_in_window * self.args.per_device_train_batch_size * self.accelerator.num_processes,
        )
        straddling = len(completion_ids) % self.num_generations != 0  # the same on every process
        return gather_tokens(tokens) if straddling and any(c.needs_groups for c in self.token_credits) else tokens

    def _keep_only(self, keep: torch.Tensor) -> KeptTokens:
        # A load-balancing loss counts every token, and a tool's images stand for tokens of the completion.
        crop = not self.aux_loss_enabled and not (self._is_vlm and self.tools)
        return KeptTokens(keep.bool(), crop=crop, multiple_of=self.pad_to_multiple_of)

    # [3] Correctness, [4] group rewards

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        marked = self._mark_finished(inputs, completions, completion_ids_list, self._reasoning_opened)
        rewards = super()._calculate_rewards(marked, prompts, completions, completion_ids_list)  # (B, F), gathered
        check_rewards(rewards, self.reward_func_names)
        if self.components:
            self._watch.check_verdicts(
                rewards[:, self.correctness_column], self.reward_func_names[self.correctness_column]
            )
        if not self.model.training:
            self._add_to_evaluation(rewards, completions, completion_ids_list)
        else:
            self._metrics["train"]["accuracy"].append(self._correctness(rewards).nanmean().item())
        if not self.components:
            return rewards
        names = {i: name for i, name in enumerate(self.reward_func_names)}
        plain = {name: rewards[:, i] for i, name in names.items() if i not in self.group_rewards}
        rollouts = self._gather_rollouts(inputs, prompts, completions, completion_ids_list, rewards, plain)
        for column, group_reward in self.group_rewards.items():
            scores = group_reward.score(rollouts)
            if not isinstance(scores, torch.Tensor) or scores.shape != (len(rollouts),):
                raise ValueError(
                    f"{type(group_reward).__name__}.score returned {describe(scores)} for {len(rollouts)} completions. Return a "
                    f"tensor of the shape ({len(rollouts)},)."
                )
            rewards[:, column] = scores.to(rewards)
        check_rewards(rewards, self.reward_func_names)
        self._rollouts = dataclasses.replace(rollouts, rewards={n: rewards[:, i] for i, n in names.items()})
        if self.log_completions:
            for component in self.components:
                for name, values in component.columns(self._rollouts).items():
                    own = [round(value, 3) for value in values[rollouts.local].tolist()]  # TRL gathers them
                    self._log_completion_extra(f"{component.name}/{name}", own)
        if self.model.training:
            self._watch.observe(rollouts)
            # Every part has scored by now: what a part learns here is the past only for the next batch.
            for component in self.components:
                component.observe(self._rollouts)
                if component in self.token_credits:  # these have yet to see the batch
                    continue
                for name, value in component.metrics().items():
                    if not math.isnan(value):  # unknown in this batch
                        self._metrics["train"][f"{component.name}/{name}"].append(float(value))
        return rewards

    def _mark_finished(self, inputs, completions, completion_ids_list, reasoning_opened) -> list[dict[str, Any]]:
        """Add the column `completion_finished`, which reward functions may read: TRL does not tell them what was truncated."""
        user = self.args.generation_kwargs or {}
        limits = [self.max_completion_length, user.get("max_tokens"), user.get("max_new_tokens")]
        limit = min((tokens for tokens in limits if tokens is not None), default=math.inf)
        ends = self._end_ids
        opened = reasoning_opened or [False] * len(inputs)
        return [
            {
                **row,
                "completion_finished": is_finished(
                    completion_text(completion),
                    truncated=len(ids) >= limit and ids[-1] not in ends,  # a shorter one met a stop string
                    reasoning_opened=is_opened,
                ),
            }
            for row, completion, ids, is_opened in zip(inputs, completions, completion_ids_list, opened, strict=True)
        ]

    def _gather_rollouts(self, inputs, prompts, completions, completion_ids_list, rewards, plain_rewards) -> Rollouts:
        device, training = self.accelerator.device, self.model.training
        num_generations = self.num_generations if training else self.num_generations_eval
        ends = self._end_ids
        lengths = completion_lengths(completion_ids_list, self._tool_mask_list, ends)
        local = LocalRollouts(
            prompts=prompts,
            completions=completions,
            completion_ids=completion_ids_list,
            tool_mask=self._tool_mask_list,
            lengths=torch.tensor(lengths, device=device),
            columns={key: [row[key] for row in inputs] for key in inputs[0] if key != "prompt"},
            num_generations=num_generations,
            step=self.state.global_step,
            training=training,
        )
        # One gather carries the key (two 64-bit words), the length and the truncation of each completion.
        digests = b"".join(prompt_digest(prompt_key(row)) for row in inputs)
        words = torch.from_numpy(np.frombuffer(digests, dtype="<i8").reshape(-1, 2).copy()).to(device)
        truncated = torch.tensor([ids[-1] not in ends for ids in completion_ids_list], device=device)
        packed = gather(torch.cat([words, local.lengths[:, None], truncated[:, None].long()], dim=1))  # (B, 4)
        digests = packed[:, :2].cpu().numpy().astype("<i8").tobytes()
        start = self.accelerator.process_index * len(prompts)
        return Rollouts(
            prompt_keys=tuple(digests[i : i + 16].hex() for i in range(0, len(digests), 16)),
            lengths=packed[:, 2],
            truncated=packed[:, 3].bool(),
            correct=self._correctness(rewards),
            rewards=plain_rewards,
            measured={part.name: self._gather_measures(part, local) for part in self.group_rewards.values()},
            num_generations=num_generations,
            step=self.state.global_step,
            training=training,
            local=slice(start, start + len(prompts)),
            tokens=self._tokens,
        )

    def _correctness(self, rewards: torch.Tensor) -> torch.Tensor:
        """Return 1 correct, 0 wrong, NaN unknown: `(B, F)` becomes `(B,)`."""
        return _verdicts(rewards[:, self.correctness_column])

    def _gather_measures(self, component: GroupReward, local: LocalRollouts) -> dict[str, torch.Tensor]:
        measures = component.measure(local)
        for name, values in measures.items():
            if not isinstance(values, torch.Tensor) or values.shape != local.lengths.shape:
                raise ValueError(
                    f"{type(component).__name__}.measure returned {describe(values)} as {name!r} for {len(local.lengths)} "
                    f"completions. Return a tensor of the shape ({len(local.lengths)},)."
                )
        return {name: gather(measures[name].to(local.lengths.device, torch.float32)) for name in sorted(measures)}

    # [5] Token credit

    def _generate_and_score_completions(self, inputs):
        credits = self.token_credits if self.model.training else []
        with self._training_budget():
            batch = super()._generate_and_score_completions(inputs)
            with self._keeping(None):
                for credit in credits:
                    assert self._tokens is not None  # set by `_generate`
                    credit.extend(self, inputs, batch, self._tokens)
        if credits:
            assert self._rollouts is not None  # set by `_calculate_rewards`
            for name, value in assign_token_credit(credits, self._rollouts, batch).items():
                self._metrics["train"][name].append(value)
            self._is_ordered = False
        self._rollouts = self._tool_mask_list = self._reasoning_opened = self._tokens = self._kept = None
        return batch

    def _prepare_inputs(self, generation_batch):
        inputs = super()._prepare_inputs(generation_batch)
        if self._is_ordered:
            return inputs
        self._is_ordered = True  # once per generation batch: TRL has just shuffled and split it
        self._buffered_inputs = order_by_kept_length(self._buffered_inputs, self.args)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model, inputs):
        if not (self.token_credits and self.model.training):
            return super()._compute_loss(model, inputs)
        with self._keeping(self._keep_only(inputs["completion_mask"] * inputs["tool_mask"])) as kept:
            loss = super()._compute_loss(model, inputs)
        cropped = torch.tensor(kept.cropped_fraction, device=self.accelerator.device)
        self._metrics["train"]["token_credit/cropped_fraction"].append(self.accelerator.gather(cropped).mean().item())
        return loss

    @contextmanager
    def _keeping(self, kept: KeptTokens | None):
        """Score these tokens only, or all."""
        before, self._kept = self._kept, kept
        try:
            yield kept
        finally:
            self._kept = before

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        score = super()._get_per_token_logps_and_entropies
        if self._kept is not None:
            score = partial(self._kept.score, score)
        return score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)

    # [6] Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        self._evaluation_log.start(metric_key_prefix)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _add_to_evaluation(self, rewards, completions, completion_ids_list) -> None:
        measures = measure_completions(completions, completion_ids_list, self._tool_mask_list, self._end_ids)
        dataset = getattr(self.callback_handler.eval_dataloader, "dataset", None)
        self._evaluation_log.add(
            self._correctness(rewards),
            gather(measures.to(self.accelerator.device)),
            rows=len(dataset) * self.num_generations_eval if dataset is not None and has_length(dataset) else None,
        )

    def log(self, logs, start_time=None):
        if not self.model.training:
            logs.update(self._evaluation_log.finish(self.state.log_history, self.state.global_step))
        super().log(logs, start_time)

    # [7] State

    def _saved_parts(self) -> list[Component | SelectingSampler]:
        return [*self.components, *([self._prompt_order] if self._prompt_order is not None else [])]

    def _changed_by_a_step(self, between_steps: bool) -> dict[str, Any]:
        names = ["_step", *(["entropy_coef", "_last_world_entropy"] if self.use_adaptive_entropy else [])]
        # A generation block that is used up must not be kept in memory for longer than TRL keeps it.
        is_used_up = between_steps and self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        block = None if is_used_up else self._buffered_inputs
        return {"_buffered_inputs": block, **{name: getattr(self, name) for name in names}}

    def _save_checkpoint(self, model, trial):
        # DeepSpeed updates the weights in the backward pass of the last micro-step.
        is_updated = self.is_deepspeed_enabled and self.accelerator.sync_gradients
        with self._step_start.restored(is_updated):
            if self.args.should_save:
                folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
                clear_checkpoint(folder)
            self.accelerator.wait_for_everyone()  # before another process writes its part
            with explain_disk_full(self.args.output_dir):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # callbacks find what each process writes

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        # Here rather than after the checkpoint: the push to the Hub starts before `_save_checkpoint` returns.
        if self.args.should_save:
            save_components(self._step_start.parts or self._saved_parts(), output_dir)
            if self._keeps_reference:
                save_reference_model(output_dir, self.accelerator.unwrap_model(self.ref_model))
            if self.watch_set is not None:
                self.watch_set.save(output_dir)
        if self._step % (self.args.steps_per_generation * self.num_iterations):
            save_rollout_block(
                output_dir,
                self._buffered_inputs,
                micro_step=self._step,
                process_index=self.accelerator.process_index,
                num_processes=self.accelerator.num_processes,
            )
        else:  # in a folder that is written anew
            drop_rollout_block(output_dir, self.accelerator.process_index)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        fresh = load_components(self._saved_parts(), checkpoint)
        if self.components and fresh is None:
            logger.warning(
                "%s was written by a trainer without parts, or with save_only_model=True: %s start with an empty state.",
                checkpoint,
                [component.name for component in self.components],
            )
        elif fresh:
            logger.warning("%s holds no state of %s: they start with an empty one.", checkpoint, fresh)
        if self._keeps_reference:
            load_reference_model(checkpoint, self.accelerator.unwrap_model(self.ref_model))
        if self.watch_set is not None:
            self.watch_set.load(checkpoint)
        block = load_rollout_block(
            checkpoint,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            block_steps=self.args.steps_per_generation,
            device=self.accelerator.device,
        )
        # A process that lacks its file, say on a disk of its own, generates: then the others have to do so too.
        have = gather(torch.tensor([block is not None], device=self.accelerator.device))
        if block is not None and have.all():
            self._step, self._buffered_inputs = block
        elif have.any():
            logger.warning(
                "%s holds the rollouts of some processes only: all prompts are rolled out again.", checkpoint
            )


@contextmanager
def _changed(changes: Sequence[tuple[dict[str, Any], dict[str, Any]]]):
    """Change values of dicts, and restore them afterwards. Keys that are missing are removed again."""
    before = [(place, {key: place[key] for key in values if key in place}, values) for place, values in changes]
    try:
        for place, values in changes:
            place.update(values)
        yield
    finally:
        for place, found, values in before:
            for key in values:
                place.pop(key)
            place.update(found)


def _verdicts(rewards: torch.Tensor) -> torch.Tensor:
    """Return 1 correct, 0 wrong, NaN unknown, for the rewards of the correctness function: `(B,)`."""
    return torch.where(rewards.isnan(), rewards, (rewards >= 0.5).float())


def _abstain_as(name: str):
    """Return a reward function of this name that abstains from every completion."""

    def abstain(completions, **kwargs):
        return [None] * len(completions)

    abstain.__name__ = name
    return abstain
