# SPDX-License-Identifier: Apache-2.0
"""[`Component`], the base class of all components, and [`TrainerView`], what a component may use of the trainer."""

from __future__ import annotations

import inspect
import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol


if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState
    from trl import GRPOConfig

    from ..batch.generation import GeneratedRollouts
    from ..batch.rollouts import LocalRollouts, Rollouts
    from ..batch.rows import Rows


def tokenizer_of(processing_class: Any) -> PreTrainedTokenizerBase:
    """Return a tokenizer, or the tokenizer of a processor."""
    return getattr(processing_class, "tokenizer", processing_class)


def context_of(trainer: TrainerView) -> float:
    """Return how many tokens a prompt and its completion may have: the context of the model, or of vLLM if that is smaller."""
    context = getattr(trainer.model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    if trainer.args.use_vllm and trainer.args.vllm_max_model_length is not None:
        context = min(trainer.args.vllm_max_model_length, context)
    return context


class TrainerView(Protocol):
    """
    What a component may use of the trainer. [`Component.attach`] receives it; nothing else of the trainer is stable.

    Attributes:
        args ([`~trl.GRPOConfig`]): The settings of the run. They must not be changed.
        state ([`~transformers.TrainerState`]): `global_step` and the log.
        accelerator (`Accelerator`): Devices and processes: `device`, `process_index`, `num_processes`.
        model ([`~transformers.PreTrainedModel`]): The policy.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]): Tokenizer, or processor with one.
        train_dataset (`Dataset` or `IterableDataset`): The training data.
        eval_dataset (*optional*): The evaluation data: a dataset, a mapping of them, or `None`.
        num_generations (`int`): Completions per prompt, G.
        max_completion_length (`int`, *optional*): The generation limit, in tokens.
        mask_truncated_completions (`bool`): Whether the loss leaves truncated completions out.
        multi_objective_aggregation (`str`): How TRL combines rewards: `"sum_then_normalize"` or `"normalize_then_sum"`.
        tools (`list[Callable]`, *optional*): Tools that the model may call.
        environment_factories (`dict[str, Callable]`, *optional*): Environments that own the prompts.
        rollout_func (`Callable`, *optional*): The user's function that generates in the place of TRL.
        reward_funcs, reward_func_names (`list`): Reward functions by column, and their names. A group reward's column contains a
            function that abstains.
        reward_weights (`torch.Tensor`): `(functions,)`.
        correctness_column (`int`, *optional*): The reward function that says whether a completion is correct; `None` if there is
            none, which is possible if no component needs it.
        components (`list[Component]`): Every component, in the order in which they observe.
    """

    args: GRPOConfig
    state: TrainerState
    accelerator: Accelerator
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase
    train_dataset: Dataset
    eval_dataset: Any
    num_generations: int
    max_completion_length: int | None
    mask_truncated_completions: bool
    multi_objective_aggregation: str
    tools: list[Callable] | None
    environment_factories: dict[str, Callable] | None
    rollout_func: Callable | None
    reward_funcs: list[Callable]
    reward_func_names: list[str]
    reward_weights: Tensor
    correctness_column: int | None
    components: list[Component]

    @property
    def end_token_ids(self) -> set[int]:
        """Tokens that end a completion, and padding."""

    @property
    def group_rewards(self) -> Mapping[int, Component]:
        """The group rewards, by column."""

    @property
    def token_credits(self) -> Sequence[Component]:
        """The token credits, in order."""

    @property
    def watch_losses(self) -> Sequence[float] | None:
        """Accuracy lost on each problem of the watch set, see [`WatchSet`]; `None` without a `watch_dataset`."""

    def generate_rollouts(
        self,
        rows: Sequence[Mapping[str, Any]],
        n: int,
        *,
        prefix_ids: Sequence[Sequence[int]] | None = None,
        max_tokens: int | None = None,
        greedy: bool = False,
    ) -> GeneratedRollouts:
        """See [`ConciseGRPOTrainer.generate_rollouts`]."""

    def reward_rollouts(self, rows: Sequence[Mapping[str, Any]], rollouts: GeneratedRollouts) -> Tensor:
        """See [`ConciseGRPOTrainer.reward_rollouts`]."""

    def judge_rollouts(self, rows: Sequence[Mapping[str, Any]], rollouts: GeneratedRollouts) -> Tensor:
        """See [`ConciseGRPOTrainer.judge_rollouts`]."""

    def tokenize_prompts(self, prompts: Sequence[Any]) -> list[list[int]]:
        """See [`ConciseGRPOTrainer.tokenize_prompts`]."""

    def score_logps(
        self, prompt_ids: list[list[int]], completion_ids: list[list[int]], *, model: str = "policy"
    ) -> Tensor:
        """See [`ConciseGRPOTrainer.score_logps`]."""

    def score_entropies(self, prompt_ids: list[list[int]], completion_ids: list[list[int]]) -> Tensor:
        """See [`ConciseGRPOTrainer.score_entropies`]."""

    def update_reference(self, weight: float = 1.0) -> None:
        """See [`ConciseGRPOTrainer.update_reference`]."""

    def add_callback(self, callback: TrainerCallback) -> None:
        """See [`~transformers.Trainer.add_callback`]."""


class Stateful(Protocol):
    """An object whose state checkpoints hold: a component, or the order of the prompts."""

    @property
    def name(self) -> str:
        """Key in the saved state."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state. See [`Component.state_dict`] for the values that it may have."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


@dataclass(frozen=True)
class Paper:
    """
    The paper that describes a method.
    Args:
        title (`str`): Title of the paper.
        id (`str`): arXiv identifier, as in `https://huggingface.co/papers/<id>`.
        citation (`str`): BibTeX entry.
        reconstructed (`str`, *optional*): Details of the implementation that are reconstructed because neither the paper
            nor the authors' code gives them; `None` if there are none.
    """

    title: str
    id: str
    citation: str
    reconstructed: str | None = None

    def as_card(self) -> dict[str, str | None]:
        """Return the dictionary that TRL trainers have as `_paper`, for their model cards."""
        return asdict(self)


class Component(ABC):
    """
    Base class of all components: a name, a paper, state that is saved with the checkpoint, and metrics.

    Attributes:
        name (`str`):
            Prefix of the metrics and key in the saved state, unique within a trainer. At most 64 ASCII letters, digits,
            `_` and `-`, the first a letter or a digit.
        paper ([`Paper`], *optional*):
            The method's source.
        card_settings (`tuple[str, ...]`):
            Attributes of a component of your own whose values the model card and `run.json` publish. Default: none.
        needs_correctness (`bool`):
            Whether the component reads which completions are correct. A trainer whose components all set it to `False` needs no
            reward function that says so. Default: `True`.
        text_only (`bool`):
            Whether the component cannot read prompts with images. A dataset with a column `image` or `images` is then refused when
            the trainer is built. Default: `False`.
        reads_tokens (`bool`):
            Whether the component scores or counts the token ids of completions, or generates completions of its own. A
            rollout that generates in chunks refuses it: the batch contains the last chunk only. Default: `False`.
        needs_reference (`bool`):
            Whether the component calls `trainer.score_logps(model="reference")`: the reference model is then loaded without a KL
            term (`beta=0`) too. Default: `False`.
        moves_reference (`bool`):
            Whether the component calls `trainer.update_reference`: checkpoints then hold the reference model, which is loaded as for
            `needs_reference`. Default: `False`.
    """

    name: ClassVar[str]
    paper: Paper | None = None
    card_settings: ClassVar[tuple[str, ...]] = ()
    needs_correctness: bool = True
    text_only: bool = False
    reads_tokens: bool = False
    needs_reference: bool = False
    moves_reference: bool = False
    _metrics: Mapping[str, float] = MappingProxyType({})

    def attach(self, trainer: TrainerView) -> None:  # noqa: B027 (a hook, empty on purpose)
        """Called once, when the trainer is built, to read its settings (token ids, schedules). Default: nothing."""

    def callbacks(self) -> list[TrainerCallback]:
        """Return callbacks that the trainer adds, after [`~Component.attach`] and after those of the user. Default: none."""
        return []

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        """
        Compute numbers from this process's rows, after the reward functions and before any group reward. Called in training; of a
        [`GroupReward`] in evaluation too.

        Args:
            local ([`LocalRollouts`]): The b rows of this process.

        Returns:
            `dict[str, torch.Tensor]`: `(b,)` each, sent as float32: the trainer gathers them into `rollouts.measured[self.name]`,
            so the keys must be the same on every process. Or `(b, T)`, one number per token, T at least the longest
            completion: they stay in this process, in `rollouts.measured_tokens[self.name]`. Default: empty.
        """
        return {}

    def observe(self, rollouts: Rollouts) -> None:  # noqa: B027
        """
        Learn from a batch, after every component has scored it. Never called in evaluation. Default: nothing.

        Every process observes the same gathered batch, so the state stays the same on all of them without communication.
        """

    def rows(self, trainer: TrainerView, rollouts: Rollouts, local: LocalRollouts) -> Rows | None:
        """
        Return further rows to train on, with prompts, groups and rewards of their own. Called in training, after
        [`~Component.observe`] and before [`TokenCredit.assign`], on every process.

        The trainer scores them under the old policy and the reference, and appends them to the batch. Token credits that
        need no groups select their tokens; no other slot applies to them. Processes may return different numbers of rows:
        the shorter ones are filled with rows that the loss does not use. Losses that divide by a number of completions
        (`grpo`, `dr_grpo`, `luspo`) count those too, as they count truncated ones under `mask_truncated_completions`.

        Args:
            trainer ([`TrainerView`]): For `generate_rollouts`, `reward_rollouts` and `score_logps`, which every process
                must call equally often.
            rollouts ([`Rollouts`]): The gathered batch, with rewards.
            local ([`LocalRollouts`]): The rows of this process.

        Returns:
            [`Rows`]: The rows of this process; `None` (the default) for none.
        """
        return None

    def metrics(self) -> Mapping[str, float]:
        """
        Return the figures of the last observed batch, logged as `<name>/<key>`. NaN is left out of averages.

        Default: `self._metrics`.
        """
        return self._metrics

    def columns(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """
        Return figures of each completion for the completions table (`log_completions=True`), as `<name>/<key>`.

        Called before [`~Component.observe`], so with the same state as `score`.

        Returns:
            `dict[str, torch.Tensor]`: `(B,)` each, the same keys in every batch. Default: none.
        """
        return {}

    def config(self) -> dict[str, Any]:
        """
        Return the settings that the model card and `run.json` publish.

        Default: the attributes that `card_settings` names, and, of the built-in component that the class is or extends, the
        numbers, switches and choices among the attributes that are named like the constructor's arguments. The card shows
        a function by its name, a path by its last component, and any other object by its type.
        """
        built_in = next(kind for kind in type(self).__mro__ if kind.__module__.split(".")[0] == "trl_concise")
        settings = {}
        for name, parameter in inspect.signature(built_in).parameters.items():
            value = getattr(self, name, None)
            is_choice = isinstance(value, str) and isinstance(parameter.default, str)  # checked by the constructor
            if hasattr(self, name) and (isinstance(value, (bool, int, float, NoneType)) or is_choice):
                settings[name] = value
        return settings | {name: getattr(self, name) for name in self.card_settings}

    def state_dict(self) -> dict[str, Any]:
        """
        Return the state that a resumed run needs.

        Returns:
            `dict[str, Any]`: Numbers, NaN and infinity included, booleans, strings and `None`, lists and dicts of these, and
            tensors at the top level. A tuple is restored as a list.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that [`~Component.state_dict`] returned."""
        if state:
            raise ValueError(f"The component `{self.name}` has no state, but was given {sorted(state)}.")
