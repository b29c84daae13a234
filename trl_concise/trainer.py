# SPDX-License-Identifier: Apache-2.0
"""
[`ConciseGRPOTrainer`]: TRL's `GRPOTrainer` with slots for components.

Only this module and the folder `batch` use private methods of `GRPOTrainer`. Each override calls `super()` and changes
what it returns; no method body of TRL is repeated here, so TRL's options keep their meaning. `tests/test_contract.py`
pins the parameters of every method that is overridden.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather
from transformers import set_seed
from transformers.trainer_utils import has_length
from trl import GRPOConfig, GRPOTrainer

from .batch.advantages import compute_advantages, leave_out_dropped, metrics_of
from .batch.batch import GenerationBatch
from .batch.extra import GeneratesExtra
from .batch.generated import add_to_loss
from .batch.generating import GeneratesBatch
from .batch.generation import ForkedRandomState
from .batch.loss import ComputesLoss
from .batch.merging import check_mergeable
from .batch.reference import make_reference_movable, reference_loaded, saves_reference
from .batch.refilling import RefillsGroups
from .batch.row_scoring import TrainsOnRows
from .batch.token_credit import assign_token_credit
from .batch.warnings import BatchWarnings
from .checks import (
    check_best_metric,
    check_budget,
    check_columns_are_kept,
    check_datasets,
    check_filter,
    check_output_dir,
    check_prompts_are_known,
    check_rollout,
    warn_of_unsaved_state,
)
from .components import (
    Advantage,
    BudgetSchedule,
    Component,
    GroupFilter,
    GroupReward,
    PromptSelector,
    Rollout,
    Stateful,
    TokenCredit,
)
from .components.reward_functions import (
    add_own_rewards,
    check_reward_weights,
    find_correctness,
    hold_column,
    needs_correctness,
)
from .components.slots import check_names, fill_slots
from .config import ConciseGRPOConfig, own_config
from .evaluation.training import EvaluationLog, measure_completions
from .evaluation.watch import WatchSet
from .hub.mixin import WritesCard
from .state.checkpoint import check_states
from .state.history import PromptHistory
from .state.resume import ResumesTraining
from .state.sampling import EpochRepeatSampler, SelectingSampler
from .state.saving import SavesState
from .state.step_start import StepStart


class ConciseGRPOTrainer(
    SavesState,
    ResumesTraining,
    WritesCard,
    TrainsOnRows,
    GeneratesBatch,
    ComputesLoss,
    RefillsGroups,
    GeneratesExtra,
    GRPOTrainer,
):
    """
    [`~trl.GRPOTrainer`] with slots for components that make reasoning concise.

    Without components it trains bit for bit as `GRPOTrainer` does. All other arguments are those of `GRPOTrainer`, in their
    order.

    Args:
        model, reward_funcs, args, ...:
            As for [`~trl.GRPOTrainer`]. `reward_funcs` may contain [`GroupReward`]s, and may be left out if the components need no
            rewards. `args` may be a plain [`~trl.GRPOConfig`], and is never changed.
        prompt_selector ([`PromptSelector`], *optional*):
            Chooses which prompts are rolled out. Needs a dataset that can be indexed.
        rollout ([`Rollout`], *optional*):
            Generates the completions of training batches. Cannot be combined with tools, environments and a `rollout_func`.
        group_filter ([`GroupFilter`], *optional*):
            Decides which completions are trained on, and has groups that keep none replaced by groups of other prompts.
        advantage ([`Advantage`] or `list[Advantage]`, *optional*):
            Computes one advantage per completion, and may drop completions. Several are applied in order.
        token_credit ([`TokenCredit`] or `list[TokenCredit]`, *optional*):
            Spreads advantages over tokens. Several are applied in order; the tokens that all of them keep count.
        budget_schedule ([`BudgetSchedule`], *optional*):
            Sets the generation limit of each training step. Evaluation keeps `args.max_completion_length`.
        watch_dataset (`Dataset` or `list[dict]`, *optional*):
            Fixed problems, harder than the training problems, on which accuracy and tokens are measured during training (see
            [`WatchSet`]). `args` contains `watch_every`, `max_accuracy_loss` and `on_loss`.

    Attributes:
        components (`list[Component]`): Every component, in the order in which they observe.
        correctness_column (`int`, *optional*): Index of the reward function that says whether a completion is correct; `None` if
            no component needs one and there is none.
        history ([`PromptHistory`], *optional*): Lengths and visits per prompt, of the first component that keeps a
            `history` (HAPO); `None` if none does.

    Raises:
        `ValueError`: If the arguments, the dataset and the components do not fit together. The message says what to change.
        `TypeError`: If a component is in the wrong slot, or `args` belongs to another method's trainer.

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

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: GRPOConfig | None = None,
        *grpo_args,
        prompt_selector: PromptSelector | None = None,
        rollout: Rollout | None = None,
        group_filter: GroupFilter | None = None,
        advantage: Advantage | list[Advantage] | None = None,
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
        given["args"] = args = own_config(self.config_class, args, trainer=type(self), parent=GRPOConfig, model=model)
        check_columns_are_kept(args)
        slots: dict[str, list[Any]] = fill_slots(
            {
                "prompt_selector": prompt_selector,
                "rollout": rollout,
                "group_filter": group_filter,
                "advantage": advantage,
                "token_credit": token_credit,
                "budget_schedule": budget_schedule,
            },
            self._own_slots(args),
            trainer=type(self).__name__,
        )
        self.prompt_selector: PromptSelector | None = next(iter(slots["prompt_selector"]), None)
        self.rollout: Rollout | None = next(iter(slots["rollout"]), None)
        self.group_filter: GroupFilter | None = next(iter(slots["group_filter"]), None)
        self.advantages: list[Advantage] = slots["advantage"]
        self.token_credits: list[TokenCredit] = slots["token_credit"]
        self.budget_schedule: BudgetSchedule | None = next(iter(slots["budget_schedule"]), None)
        reward_funcs = add_own_rewards(given, self._own_rewards(args), trainer=type(self).__name__)
        self.group_rewards: dict[int, GroupReward] = {  # column -> component
            column: func for column, func in enumerate(reward_funcs) if isinstance(func, GroupReward)
        }
        is_alone = len(self.group_rewards) == len(reward_funcs)
        given["reward_funcs"] = [
            hold_column(type(func).__name__, is_alone=is_alone) if isinstance(func, GroupReward) else func
            for func in reward_funcs
        ]
        self.components: list[Component] = [
            *self.group_rewards.values(),
            *(component for filled in slots.values() for component in filled),
        ]
        needs_none = bool(self.components) and not needs_correctness(self.components)
        has_none = needs_none and not reward_funcs and not given.get("environment_factory")
        if has_none:
            given["reward_funcs"] = [hold_column("no_reward", is_alone=True)]
        check_names(self.components)
        names = [component.name for component in self.components]
        self._batch: GenerationBatch | None = None  # while it is generated and scored
        self._prompt_order: SelectingSampler | None = None  # saved with the components; see `_get_train_sampler`
        self._evaluation_log = EvaluationLog(args.metric_for_best_model)
        self._warnings = BatchWarnings()
        self._step_start = StepStart(self, self._saved_components, self._changed_by_a_step)
        # Before the user's callbacks, which may save or change a component.
        given["callbacks"] = [self._step_start, *(given.get("callbacks") or [])]

        check_prompts_are_known(names, given)
        if self.rollout is not None:
            check_rollout(self.rollout, given)
        if self.budget_schedule is not None and not (self.rollout is not None and self.rollout.bounds_context):
            check_budget(self.budget_schedule, args, model)  # before vLLM's engine is built
        check_best_metric(args.metric_for_best_model, args.greater_is_better)
        if args.should_save:
            check_output_dir(args.output_dir)
        moving = [component.name for component in self.components if component.moves_reference]
        needs_reference = bool(moving) or any(component.needs_reference for component in self.components)
        with reference_loaded(args, needs_reference):
            super().__init__(**given)
        self.beta = args.beta
        if not self.advantages and not self.token_credits:
            check_reward_weights(self.reward_weights)
        if self.use_vllm and self.vllm_mode == "colocate":
            # The engine has seeded this process with its own seed, the rank. Processes that share an engine draw alike.
            set_seed(args.seed + self.accelerator.process_index // args.vllm_tensor_parallel_size)

        check_filter(self.group_filter, self.tools, self.environment_factories)
        if args.merge_adapter_for_generation and not self.use_vllm:
            check_mergeable(self.model, is_sharded=self._dist.is_fsdp or self._dist.is_zero3)
        self._fork = ForkedRandomState(args.seed, self.accelerator.process_index, self.accelerator.device)
        self.correctness_column = find_correctness(
            args.correctness, [] if has_none else self.reward_func_names, self.group_rewards, self.components
        )
        check_datasets(
            self.train_dataset,
            self.eval_dataset,
            components=self.components,
            prompt_selector=self.prompt_selector,
            reward_funcs=dict(zip(self.reward_func_names, self.reward_funcs, strict=True)),
            chat_template=getattr(self.processing_class, "chat_template", None) or self._tokenizer.chat_template,
            brings_own_prompts=self.environment_factories is not None or self.rollout_func is not None,
            calls_tools=bool(self.tools),
        )
        warn_of_unsaved_state(args, names)
        self._keeps_reference = saves_reference(self, moving)
        if moving:
            make_reference_movable(self)
        self.watch_set: WatchSet | None = None
        if watch_dataset is not None:
            self.watch_set = WatchSet(
                self,
                watch_dataset,
                every=args.watch_every,
                max_accuracy_loss=args.max_accuracy_loss,
                on_loss=args.on_loss,
            )
        for component in self.components:
            component.attach(self)
            for callback in component.callbacks():
                self.add_callback(callback)
        check_states(self.components)
        if self.watch_set is not None:
            self.add_callback(self.watch_set)

    @property
    def history(self) -> PromptHistory | None:
        """Lengths and visits per prompt, of the first component that keeps a `history`; `None` if none does."""
        histories = (getattr(component, "history", None) for component in self.components)
        return next((history for history in histories if history is not None), None)

    @property
    def watch_losses(self) -> list[float] | None:
        """Accuracy lost on each problem of the `watch_dataset` (see [`WatchSet`]); `None` without one."""
        return self.watch_set.losses if self.watch_set is not None else None

    # Construction

    def _own_rewards(self, args: ConciseGRPOConfig) -> list[tuple[GroupReward, float]]:
        """Return the group rewards, and their weights, that a drop-in trainer adds to the user's. Default: none."""
        return []

    def _own_slots(self, args: ConciseGRPOConfig) -> dict[str, Component]:
        """Return the components, by name of the slot, with which a drop-in trainer fills its own slots. Default: none."""
        return {}

    # [1] Which prompts

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        step, accumulation = lambda: self.state.global_step, self.args.gradient_accumulation_steps
        if self._refills or self.prompt_selector is None:
            return EpochRepeatSampler(sampler, step, accumulation)
        self._prompt_order = SelectingSampler(sampler, self.prompt_selector, step, accumulation)
        return self._prompt_order

    # [2] Completions: `GeneratesBatch._generate`

    # [3] Rewards: `ScoresRewards._calculate_rewards`. Replaced groups: `RefillsGroups`

    def _observes_late(self, component):
        return component in self.token_credits or component in self.advantages

    # [4] Advantages and token credit

    def _generate_and_score_completions(self, inputs):
        training = self.model.training
        if self._rollout_in_use() is not None:
            inputs = [dict(row) for row in inputs]  # TRL adds the rollout's numbers to them
        credits = self.token_credits if training else []
        steps_in_window = self._step % self.args.gradient_accumulation_steps
        self._batch = GenerationBatch(
            rows=inputs,
            training=training,
            step=self.state.global_step,
            num_generations=self.num_generations if training else self.num_generations_eval,
            process_index=self.accelerator.process_index,
            end_ids=self.end_token_ids,
            device=self.accelerator.device,
            mask_truncated=self.mask_truncated_completions,
            earlier=steps_in_window * self.args.per_device_train_batch_size * self.accelerator.num_processes,
        )
        try:
            with self._training_budget():
                batch = super()._generate_and_score_completions(inputs)
                self._zero_unkept(batch)
                with self._keeping(None):
                    rows = self._collect_rows(self._batch) if training else None
            if training and self._batch.generated is not None:
                add_to_loss(self._batch.generated, batch)
            if training and self.advantages:
                compute_advantages(self.advantages, self._batch, batch)
                for name, value in metrics_of(self.advantages).items():
                    self._metrics["train"][name].append(value)
            if credits:
                assert self._batch.rollouts is not None  # set by `_calculate_rewards`
                metrics = assign_token_credit(credits, self._batch.rollouts, batch, self._batch.selections)
                for name, value in metrics.items():
                    self._metrics["train"][name].append(value)
                self._is_ordered = False
            self._zero_unkept(batch)
            leave_out_dropped(self._batch, batch, self.loss_type)
            with self._keeping(None):
                if rows is not None:
                    self._append_rows(batch, rows)
                if training:
                    self._append_chunks(batch)
        finally:
            self._batch = self._kept = None
        return batch

    # [5] Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        self._evaluation_log.start(metric_key_prefix)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _add_to_evaluation(self, correct, completions, batch):
        measures = measure_completions(
            completions, batch.completion_ids, batch.tool_mask, batch.end_ids, batch.reasoning_opened
        )
        measures[:, 0] += torch.tensor(batch.earlier_lengths)
        dataset = getattr(self.callback_handler.eval_dataloader, "dataset", None)
        self._evaluation_log.add(
            correct,
            gather(measures.to(self.accelerator.device)),
            rows=len(dataset) * self.num_generations_eval if dataset is not None and has_length(dataset) else None,
        )

    def log(self, logs, start_time=None):
        if not self.model.training:
            logs.update(self._evaluation_log.finish(self.state.log_history, self.state.global_step))
        super().log(logs, start_time)

    # [6] State: what `SavesState` asks

    def _saved_components(self) -> list[Stateful]:
        return [*self.components, *(order for order in (self._prompt_order, self._prompt_queue) if order is not None)]

    def _changed_by_a_step(self, between_steps: bool) -> dict[str, Any]:
        names = ["_step", *(["entropy_coef", "_last_world_entropy"] if self.use_adaptive_entropy else [])]
        # A generation block that is used up must not be kept in memory for longer than TRL keeps it.
        block = None if between_steps and self._unfinished_block() is None else self._buffered_inputs
        return {"_buffered_inputs": block, **{name: getattr(self, name) for name in names}}

    def _unfinished_block(self):
        is_used_up = self._step % (self.args.steps_per_generation * self.num_iterations) == 0
        return None if is_used_up else (self._step, self._buffered_inputs)

    def _continue_block(self, micro_step, batches):
        self._step, self._buffered_inputs = micro_step, batches

    def _was_stopped(self) -> bool:
        return self.watch_set is not None and self.watch_set.has_stopped(self.state)
