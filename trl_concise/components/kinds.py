# SPDX-License-Identifier: Apache-2.0
"""
The kinds of components that combine in one [`ConciseGRPOTrainer`].

Each is a small abstract class that makes one decision of a training step: which prompts to roll out
([`PromptSelector`]), how their completions are generated ([`Rollout`]), how long a completion may be ([`BudgetSchedule`]), the reward of a completion relative to its group
or its prompt's history ([`GroupReward`]), its advantage ([`Advantage`]), and which tokens carry it ([`TokenCredit`]). A component is
a plain object: it is built, called and tested without a model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from .base import Component, TrainerView


if TYPE_CHECKING:
    from torch import Tensor

    from ..batch.generation import Generated
    from ..batch.rollouts import CompletionTokens, Rollouts


class GroupReward(Component):
    """
    A reward that compares completions with each other or with their prompt's history.

    It is passed in `reward_funcs` together with ordinary reward functions. Its column is filled after the whole batch is
    gathered, and TRL weights and logs it like any other.
    """

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


DIVISORS = ("kept", "all")


class Advantage(Component):
    """
    Computes one advantage per completion, from the whole batch.

    Attributes:
        divisor (`str`): What the loss divides by if the component drops completions: `"kept"`, the completions that are kept or
            their tokens, or `"all"`, every sampled completion or token. Default: `"kept"`.
    """

    divisor: str = "kept"

    @abstractmethod
    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        """
        Compute the advantages of a batch. Called in training, after every component has observed the batch. Every process computes
        the same.

        Args:
            rollouts ([`Rollouts`]): B completions, with all rewards.
            advantages (`torch.Tensor`): `(B,)`, TRL's normalized advantages, or those of the component before this one, 0 where
                it dropped a completion. They may be ignored.

        Returns:
            `torch.Tensor`: `(B,)`; NaN drops a completion: none of its tokens is in the loss, nor in the KL term.
        """


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

    @abstractmethod
    def assign(
        self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor, selected: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """
        Spread advantages over tokens. Called in training, after the rewards, before TRL shuffles the batch.

        Args:
            rollouts ([`Rollouts`]): The gathered batch; `rollouts.local` are the rows of `batch`.
            batch (`dict[str, Any]`): TRL's tensors of this process's b rows (`completion_ids`, `completion_mask`, ...).
            advantages (`torch.Tensor`): `(b,)`, or `(b, T)` from an earlier component.
            selected (`torch.Tensor`, *optional*): `(b, T)` bool, what [`~TokenCredit.select`] returned; `None` if it returned
                `None` or was not called. A component without this parameter is called with three arguments.

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: Advantages `(b,)` or `(b, T)`, and a bool mask `(b, T)` of the
            tokens to keep in the loss; `None` keeps all.
        """


class PromptSelector(Component):
    """
    Decides which prompts are rolled out.

    Attributes:
        candidates_per_prompt (`int`, *optional*): How many rows [`~PromptSelector.choose`] is shown per prompt that the batch takes;
            `None` for the whole dataset, which then is in memory. Default: 8.
    """

    candidates_per_prompt: int | None = 8

    @abstractmethod
    def choose(self, candidates: list[dict[str, Any]], count: int, step: int) -> list[int]:
        """
        Choose the prompts of the next generation batch. The choice must be the same on every process.

        Args:
            candidates (`list[dict[str, Any]]`): The next dataset rows in sampling order, each with its `prompt_key`:
                `candidates_per_prompt` per prompt that the batch takes, or the whole dataset if it has fewer.
            count (`int`): How many prompts the batch takes.
            step (`int`): Optimizer steps done when the choice is made. The data loader reads ahead: the preceding batch
                is chosen by then, but not yet rolled out.

        Returns:
            `list[int]`: Exactly `count` distinct positions in `candidates`.
        """


class Rollout(Component):
    """
    Decides how the completions of a training batch are generated, for example with a forced beginning.

    Attributes:
        in_training (`bool`): Whether it generates in training. `False` leaves generation to TRL, for settings without effect.
            Default: `True`.
        in_evaluation (`bool`): Whether it generates in evaluation too. Default: `False`, evaluation samples as TRL does.
        bounds_context (`bool`): Whether no context holds a whole completion, so that the generation limit may exceed vLLM's context.
            Default: `False`.
    """

    in_training: bool = True
    in_evaluation: bool = False
    bounds_context: bool = False

    @abstractmethod
    def generate(self, trainer: TrainerView, rows: list[dict[str, Any]]) -> Generated:
        """
        Generate one completion per row. Every process calls this for rows of its own.

        Args:
            trainer ([`TrainerView`]): For `generate_rollouts`, which works with transformers and vLLM and draws from a random state
                of its own; `max_completion_length` is that of the budget.
            rows (`list[dict[str, Any]]`): The b dataset rows of this process. `num_generations` consecutive rows have the same
                prompt; a group may continue on the next process.

        Returns:
            [`Generated`]: b completions; [`Generated.of`] makes one of what `trainer.generate_rollouts(rows, 1)` returns.
        """

    def scoring(self, model, tensors: dict[str, Any]) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """
        Return the context of the forward pass in which the loss scores a micro-batch. Called in training, for completions of which some
        positions are not tokens that the policy drew.

        Args:
            model ([`~transformers.PreTrainedModel`]): The policy, without what accelerate has wrapped around it.
            tensors (`dict[str, Any]`): The micro-batch: TRL's tensors (`prompt_ids`, `completion_ids`, ...) and those of
                [`Generated`].

        Returns:
            A context manager that gives a function. It takes TRL's log-probabilities, `(b, T)`, and returns those of the loss, with
            gradients. Default: they stay as they are.
        """
        return nullcontext(lambda logps: logps)


class GroupFilter(Component):
    """
    Decides which completions are trained on, and has groups that keep none replaced by groups of other prompts.

    After a generation batch is judged, each group of which no completion is kept is replaced by the next prompt of the sampling
    order. This is repeated at most `max_refills` times. Groups that are still missing then stay in the batch with advantage 0,
    like every completion that is not kept, so the number of trained rows never changes. Evaluation is never filtered.

    Attributes:
        divisor (`str`): What happens to completions that are not kept: with `"all"` (the default), they have advantage 0, and count
            in the divisor of the loss and in the KL term; with `"kept"`, they are left out of the loss altogether.
        max_refills (`int`): How often missing groups are replaced per generation batch; 0 (the default) never replaces any.
    """

    divisor: str = "all"
    max_refills: int = 0

    @abstractmethod
    def keep(self, rollouts: Rollouts) -> Tensor:
        """
        Return which completions are worth training on. Called once per completion, after all rewards, before
        [`~Component.observe`].

        Args:
            rollouts ([`Rollouts`]): B completions in whole groups: the generation batch at first, then the replacements alone.
                `rewards` includes the group rewards.

        Returns:
            `torch.Tensor`: `(B,)` bool. A group without a kept completion is replaced.
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
