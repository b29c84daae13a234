# SPDX-License-Identifier: Apache-2.0
"""
The four kinds of components that combine in one [`ConciseGRPOTrainer`].

Each is a small abstract class that makes one decision of a training step: which prompts to roll out
([`PromptSelector`]), how long a completion may be ([`BudgetSchedule`]), the reward of a completion relative to its group
or its prompt's history ([`GroupReward`]), and which tokens carry the credit ([`TokenCredit`]). A component is a plain
object: it is built, called and tested without a model.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol


if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState
    from trl import GRPOConfig

    from .batch.generation import GeneratedRollouts
    from .batch.rollouts import CompletionTokens, LocalRollouts, Rollouts


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
        num_generations (`int`): Completions per prompt, G.
        max_completion_length (`int`, *optional*): The generation limit, in tokens.
        mask_truncated_completions (`bool`): Whether the loss leaves truncated completions out.
        multi_objective_aggregation (`str`): How TRL combines rewards: `"sum_then_normalize"` or `"normalize_then_sum"`.
        tools (`list[Callable]`, *optional*): Tools that the model may call.
        environment_factories (`dict[str, Callable]`, *optional*): Environments that own the prompts.
        reward_funcs, reward_func_names (`list`): Reward functions by column, and their names. A group reward's column contains a
            function that abstains.
        reward_weights (`torch.Tensor`): `(functions,)`.
        correctness_column (`int`): The reward function that says whether a completion is correct.
        components (`list[Component]`): Every component, in the order in which they observe.
        group_rewards (`dict[int, GroupReward]`): The group rewards, by column.
        token_credits (`list[TokenCredit]`): The token credits, in order.
    """

    args: GRPOConfig
    state: TrainerState
    accelerator: Accelerator
    model: PreTrainedModel
    processing_class: PreTrainedTokenizerBase
    train_dataset: Dataset
    num_generations: int
    max_completion_length: int | None
    mask_truncated_completions: bool
    multi_objective_aggregation: str
    tools: list[Callable] | None
    environment_factories: dict[str, Callable] | None
    reward_funcs: list[Callable]
    reward_func_names: list[str]
    reward_weights: Tensor
    correctness_column: int
    components: list[Component]
    group_rewards: dict[int, GroupReward]
    token_credits: list[TokenCredit]

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

    def score_logps(self, prompt_ids: list[list[int]], completion_ids: list[list[int]]) -> Tensor:
        """See [`ConciseGRPOTrainer.score_logps`]."""

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
    Base class of the four kinds of components: a name, a paper, state that is saved with the checkpoint, and metrics.

    Attributes:
        name (`str`):
            Prefix of the metrics and key in the saved state, unique within a trainer. At most 64 ASCII letters, digits,
            `_` and `-`, the first a letter or a digit.
        paper ([`Paper`], *optional*):
            The method's source.
        card_settings (`tuple[str, ...]`):
            Attributes of a component of your own whose values the model card and `run.json` publish. Default: none.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper | None] = None
    card_settings: ClassVar[tuple[str, ...]] = ()
    _metrics: Mapping[str, float] = MappingProxyType({})

    def attach(self, trainer: TrainerView) -> None:  # noqa: B027 (a hook, empty on purpose)
        """Called once, when the trainer is built, to read its settings (token ids, schedules). Default: nothing."""

    def observe(self, rollouts: Rollouts) -> None:  # noqa: B027
        """
        Learn from a batch, after every component has scored it. Never called in evaluation. Default: nothing.

        Every process observes the same gathered batch, so the state stays the same on all of them without communication.
        """

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
            if hasattr(self, name) and (value is None or isinstance(value, (bool, int, float)) or is_choice):
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


class GroupReward(Component):
    """
    A reward that compares completions with each other or with their prompt's history.

    It is passed in `reward_funcs` together with ordinary reward functions. Its column is filled after the whole batch is
    gathered, and TRL weights and logs it like any other.
    """

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        """
        Compute numbers from this process's rows; the trainer gathers them into `rollouts.measured[self.name]`.

        Args:
            local ([`LocalRollouts`]): The b rows of this process.

        Returns:
            `dict[str, torch.Tensor]`: `(b,)` each (sent as float32), the same keys on every process. Default: empty.
        """
        return {}

    @abstractmethod
    def score(self, rollouts: Rollouts) -> Tensor:
        """
        Score a gathered batch with the state from before it: a completion must not be compared with itself.

        Args:
            rollouts ([`Rollouts`]): B completions.

        Returns:
            `torch.Tensor`: `(B,)` rewards; NaN abstains.
        """

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        raise TypeError(
            f"{type(self).__name__} scores whole groups: pass it to a ConciseGRPOTrainer. A plain GRPOTrainer calls "
            "reward functions on one process's rows, before they are gathered."
        )


class TokenCredit(Component):
    """
    Decides which tokens carry a completion's advantage, and with which weight.

    Attributes:
        needs_groups (`bool`): Whether `rollouts.tokens` must contain whole groups. If groups straddle processes, the
            trainer then gathers the token ids.
    """

    needs_groups: ClassVar[bool] = False

    def select(self, tokens: CompletionTokens) -> Tensor | None:
        """
        Return, before the rewards are known, which tokens [`~TokenCredit.assign`] may keep. The log-probabilities of the
        old policy and the reference model are computed for these only. Called in training, after generation.

        Args:
            tokens ([`CompletionTokens`]): Token ids of this process's b rows, or of whole groups.

        Returns:
            `torch.Tensor`: `(b, T)` bool, T at least the longest completion; `None` (the default) for any token.
        """
        return None

    def extend(  # noqa: B027
        self,
        trainer: TrainerView,
        inputs: list[dict[str, Any]],
        batch: dict[str, Any],
        tokens: CompletionTokens,
    ) -> None:
        """
        Append rows to the batch, after the rewards and before [`~TokenCredit.assign`]. Default: nothing.

        Args:
            trainer ([`TrainerView`]): For `generate_rollouts`, `reward_rollouts` and `score_logps`.
            inputs (`list[dict[str, Any]]`): Dataset rows of the batch.
            batch (`dict[str, Any]`): TRL's tensors of this process's b rows, changed in place.
            tokens ([`CompletionTokens`]): Token ids of the batch.
        """

    @abstractmethod
    def assign(self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor) -> tuple[Tensor, Tensor | None]:
        """
        Spread advantages over tokens. Called in training, after the rewards, before TRL shuffles the batch.

        Args:
            rollouts ([`Rollouts`]): The gathered batch; `rollouts.local` are the rows of `batch`.
            batch (`dict[str, Any]`): TRL's tensors of this process's b rows (`completion_ids`, `completion_mask`, ...).
            advantages (`torch.Tensor`): `(b,)`, or `(b, T)` from an earlier component.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: Advantages `(b,)` or `(b, T)`, and a bool mask `(b, T)` of the
            tokens to keep in the loss; `None` keeps all.
        """


class PromptSelector(Component):
    """Decides which prompts are rolled out."""

    @abstractmethod
    def choose(self, candidates: list[dict[str, Any]], count: int, step: int) -> list[int]:
        """
        Choose the prompts of the next generation batch. The choice must be the same on every process.

        Args:
            candidates (`list[dict[str, Any]]`): The next dataset rows in sampling order, each with its `prompt_key`:
                eight per prompt that the batch takes, or the whole dataset if it has fewer.
            count (`int`): How many prompts the batch takes.
            step (`int`): Optimizer steps done when the choice is made. The data loader reads ahead: the preceding batch
                is chosen by then, but not yet rolled out.

        Returns:
            `list[int]`: Exactly `count` distinct positions in `candidates`.
        """


class BudgetSchedule(Component):
    """
    Decides how many tokens a training completion may have.

    Attributes:
        longest (`int`, *optional*): The largest limit that it returns in the whole run, compared with vLLM's context
            before training; `None` skips this check.
    """

    longest: int | None = None

    @abstractmethod
    def max_completion_length(self, step: int) -> int:
        """
        Return the generation limit.

        Args:
            step (`int`): Optimizer steps done so far.

        Returns:
            `int`: At least 1, in tokens.
        """
