# SPDX-License-Identifier: Apache-2.0
"""
AutoThink: learn when to think, in three stages (Tu et al., 2025, https://huggingface.co/papers/2505.10832).

The prompt ends with `<think>` and an ellipsis, after which a DeepSeek-R1 model sometimes skips the thinking. Stage 1 rewards direct answers
more and keeps both modes alive, stage 2 rewards correctness, stage 3 shortens. Compared with the authors' code
(https://github.com/ScienceOne-AI/AutoThink).

Differences from the authors' code:
  1. The share of thinking is that of the whole generation batch, gathered over processes; theirs is what one call of the reward sees.
  2. A completion answers directly if its reasoning is blank; theirs must begin with `</think>` and an empty line.
  3. The chat template of the tokenizer gets the ellipsis, so that it is saved with the model; theirs is written into the prompts.
  4. The slope of the balance is a setting; theirs is the constant 2.
  5. Stages may switch within a run; theirs are runs of their own.
  6. Lengths are in tokens without EOS.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import GroupReward, Paper, TrainerView
from ..components.base import tokenizer_of
from ..trainer import ConciseGRPOTrainer
from ..verification.extraction import without_reasoning
from ..verification.finished import MARKERS, ThinkingMarkers, opens_reasoning
from ..verification.reward import has_boxed_answer
from .auto_think_config import AutoThinkConfig
from .grpo_lead import has_adjacent_repetition
from .staged_budget import StagedBudget
from .thinking_modes import ELLIPSIS, add_ellipsis, mode_metrics, read_thoughts


if TYPE_CHECKING:
    pass


logger = logging.getLogger(__name__)

AUTO_THINK_PAPER = Paper(
    title="Learning When to Think: Shaping Adaptive Reasoning in R1-Style Models via Multi-Stage RL",
    id="2505.10832",
    # docstyle-ignore
    citation="""\
@inproceedings{tu2025learning,
    title        = {{Learning When to Think: Shaping Adaptive Reasoning in R1-Style Models via Multi-Stage RL}},
    author       = {Songjun Tu and Jiahao Lin and Qichao Zhang and Xiangyu Tian and Linjing Li and Xiangyuan Lan and Dongbin Zhao},
    year         = 2025,
    booktitle    = {Advances in Neural Information Processing Systems},
    eprint       = {arXiv:2505.10832}
}""",
)
STAGES = (1, 2, 3)


def naive_reward(correct: Tensor, thinks: Tensor, repeats: Tensor | None = None) -> Tensor:
    """
    Return the reward of stage 2: a correct direct answer earns more than a correct one with thinking, a wrong one less.

    Args:
        correct (`torch.Tensor`): `(B,)`, 1 correct, 0 wrong, NaN unknown.
        thinks (`torch.Tensor`): `(B,)` bool, whether the completion thought.
        repeats (`torch.Tensor`, *optional*): `(B,)` bool, whether it repeats itself. A wrong direct answer that does earns -2.

    Returns:
        `torch.Tensor`: `(B,)`: with thinking 1 or 0, without 2 or -1; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> naive_reward(torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([True, True, False, False]))
        tensor([ 1.,  0.,  2., -1.])
    """
    reward = torch.where(thinks, correct, 3 * correct - 1)
    if repeats is not None:
        reward = torch.where(repeats & (reward < 0), -2.0, reward)
    return reward


def balance_modes(
    reward: Tensor, correct: Tensor, thinks: Tensor, *, target: float = 0.5, slope: float = 2.0
) -> Tensor:
    r"""
    Reduce the reward of the mode that is more frequent in the batch (stage 1).

    With $z$ the share of thinking completions, $d = \text{clip}((z - \gamma) \lambda, 0, 1)$ moves completions with thinking towards 0
    (correct) or -1 (wrong), and $e = \text{clip}((1 - z - \gamma) \lambda, 0, 1)$ direct answers towards 1 or -2.

    Args:
        reward (`torch.Tensor`): `(B,)`, the rewards of the whole batch.
        correct (`torch.Tensor`): `(B,)`, 1 correct, 0 wrong, NaN unknown.
        thinks (`torch.Tensor`): `(B,)` bool.
        target (`float`, *optional*, defaults to `0.5`): $\gamma$, in `[0.5, 1]`.
        slope (`float`, *optional*, defaults to `2.0`): $\lambda$.

    Returns:
        `torch.Tensor`: `(B,)`.

    Examples:
        >>> import torch
        >>> correct, thinks = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]), torch.tensor([True, True, True, True, False])
        >>> balance_modes(naive_reward(correct, thinks), correct, thinks)
        tensor([ 0.4000, -0.6000,  0.4000, -0.6000,  2.0000])
    """
    share = thinks.float().mean()
    of_thinking = ((share - target) * slope).clamp(0, 1)
    of_direct = ((1 - share - target) * slope).clamp(0, 1)
    weight = torch.where(thinks, of_thinking, of_direct)
    worst = torch.where(thinks, correct - 1, 3 * correct - 2)
    return (1 - weight) * reward + weight * worst


def shape_lengths(
    reward: Tensor,
    lengths: Tensor,
    correct: Tensor,
    num_generations: int,
    *,
    correct_slope: float = 0.05,
    wrong_slope: float = 0.05,
) -> Tensor:
    r"""
    Add the effect of length (stage 3): short correct completions and long wrong ones earn more.

    With $y_i = (L_i - \mu) / \sigma$ among the correct, or among the wrong completions of a group, both modes together, a correct one gets
    $e^{-\alpha y_i} - 1$ and a wrong one $1 - e^{-\beta y_i}$. $\sigma$ is unbiased, and a set of one completion gets nothing.

    Args:
        reward (`torch.Tensor`): `(B,)`.
        lengths (`torch.Tensor`): `(B,)`, $L$, in tokens.
        correct (`torch.Tensor`): `(B,)`, 1 correct, 0 wrong, NaN unknown.
        num_generations (`int`): Completions per group, in consecutive rows.
        correct_slope, wrong_slope (`float`, *optional*, defaults to `0.05`): $\alpha$ and $\beta$.

    Returns:
        `torch.Tensor`: `(B,)`.
    """
    rows = lengths.double().view(-1, num_generations)
    shaped = reward.double().view(-1, num_generations)
    for verdict, slope, sign in ((1, correct_slope, 1), (0, wrong_slope, -1)):
        among = (correct == verdict).view(-1, num_generations)
        count = among.sum(dim=1, keepdim=True)
        mean = (rows * among).sum(dim=1, keepdim=True) / count.clamp(min=1)
        centered = (rows - mean) * among
        std = (centered.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        change = sign * torch.expm1(-slope * centered / std.clamp(min=1e-6))
        shaped = shaped + torch.where(among & (count > 1), change, 0.0)
    return shaped.flatten().to(reward)


def check_stages(stage: int, stage_steps: Sequence[int] | None) -> list[int]:
    """
    Return the steps after which the next stages begin.

    Raises:
        `ValueError`: If they do not rise, or there are more than stages after `stage`.
    """
    steps = list(stage_steps or [])
    if stage not in STAGES:
        raise ValueError(f"stage must be 1, 2 or 3, got {stage}.")
    if stage + len(steps) > STAGES[-1] or steps != sorted(set(steps)) or any(step < 1 for step in steps):
        raise ValueError(
            f"stage_steps must be at most {STAGES[-1] - stage} rising steps, at least 1, for a run that starts in stage {stage}; got "
            f"{steps}."
        )
    return steps


class AutoThinkReward(GroupReward):
    """
    The reward of AutoThink, less the correctness, which the correctness function adds. See [`naive_reward`], [`balance_modes`] and
    [`shape_lengths`].

    A completion without `</think>` or without a boxed answer counts as wrong, and earns what a wrong one with thinking does, 0.

    When a trainer is built, an ellipsis is added to the generation prompt of its tokenizer's chat template ([`add_ellipsis`]), which is
    saved with the model.

    Args:
        stage (`int`, *optional*, defaults to `1`): Stage at step 0: 1, 2 or 3.
        stage_steps (`Sequence[int]`, *optional*): Optimizer steps after which the next stages begin, in rising order.
        balance_target (`float`, *optional*, defaults to `0.5`): Share of each mode that stage 1 leaves alone, in `[0.5, 1]`.
        balance_slope (`float`, *optional*, defaults to `2.0`): How fast a mode above it loses reward, at least 0; 0 never.
        correct_slope, wrong_slope (`float`, *optional*, defaults to `0.05`): Effect of length in stage 3, at least 0.
        adds_ellipsis (`bool`, *optional*, defaults to `True`): Whether to add the ellipsis. `False` is for models that choose the
            mode without it. Prompts that are texts must end with it.
        start_marker, end_marker (`str`, *optional*): The texts around the thinking. Default: `<think>` and `</think>`.

    Raises:
        `ValueError`: If a setting is out of range. When a trainer is built: if the chat template does not open the thinking, or prompts
            that are texts do not end with the ellipsis.
    """

    name = "auto_think"
    paper = AUTO_THINK_PAPER
    card_settings = ("stage_steps",)

    def __init__(
        self,
        stage: int = 1,
        stage_steps: Sequence[int] | None = None,
        balance_target: float = 0.5,
        balance_slope: float = 2.0,
        correct_slope: float = 0.05,
        wrong_slope: float = 0.05,
        adds_ellipsis: bool = True,
        start_marker: str = MARKERS.start,
        end_marker: str = MARKERS.end,
    ):
        steps = check_stages(stage, stage_steps)
        if not 0.5 <= balance_target <= 1:
            raise ValueError(f"balance_target must lie in [0.5, 1], got {balance_target}.")
        for name, value in (
            ("balance_slope", balance_slope),
            ("correct_slope", correct_slope),
            ("wrong_slope", wrong_slope),
        ):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}.")
        self._markers = ThinkingMarkers(start_marker, end_marker)
        self.stage = stage
        self.stage_steps = steps
        self.balance_target = balance_target
        self.balance_slope = balance_slope
        self.correct_slope = correct_slope
        self.wrong_slope = wrong_slope
        self.adds_ellipsis = adds_ellipsis
        self.start_marker = start_marker
        self.end_marker = end_marker
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        self._tokenizer = tokenizer_of(trainer.processing_class)
        self._warn_of_another_sum(trainer)
        if not self.adds_ellipsis:
            return
        first = trainer.train_dataset[0]["prompt"] if isinstance(trainer.train_dataset, Dataset) else None
        if not isinstance(first, str):
            add_ellipsis(self._tokenizer, self._markers)
        elif not (opens_reasoning(first, markers=self._markers) and first.rstrip().endswith(ELLIPSIS.rstrip())):
            raise ValueError(
                f"The prompts are texts, to which no chat template is applied, and the first one ends with {first[-40:]!r}. AutoThink needs "
                f"{self.start_marker + chr(10) + ELLIPSIS!r} at the end of each: add it, or use prompts that are messages."
            )

    def _warn_of_another_sum(self, trainer: TrainerView) -> None:
        """Warn if the correctness and this column do not add up to the rewards of the paper."""
        own = next(column for column, reward in trainer.group_rewards.items() if reward is self)
        weights, column = trainer.reward_weights.tolist(), trainer.correctness_column
        if column is not None and weights[column] != weights[own]:
            logger.warning(
                "AutoThink's reward is the correctness plus the column %r, but %r has the weight %g and the column %g, so the sum is not the "
                "reward of the paper. Give both the same weight in reward_weights; AutoThinkTrainer's own is 1.",
                *(self.name, trainer.reward_func_names[column], weights[column], weights[own]),
            )
        if trainer.multi_objective_aggregation != "sum_then_normalize":
            logger.warning(
                "AutoThink's reward is the correctness plus the column %r, but multi_objective_aggregation = %r normalizes each before the "
                "sum. Set it to 'sum_then_normalize' for the reward of the paper.",
                *(self.name, trainer.multi_objective_aggregation),
            )

    def stage_at(self, step: int) -> int:
        """Return the stage after `step` optimizer steps."""
        return self.stage + sum(step >= start for start in self.stage_steps)

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        texts, thoughts = read_thoughts(local, self._tokenizer, self._markers)
        return {
            "thinks": torch.tensor([thought is not False for thought in thoughts]),
            "formed": torch.tensor(
                [
                    self.end_marker in text and has_boxed_answer(without_reasoning(text, self.end_marker))
                    for text in texts
                ]
            ),
            "repeats": torch.tensor([has_adjacent_repetition(text) for text in texts]),
        }

    def score(self, rollouts: Rollouts) -> Tensor:
        measured = rollouts.measured[self.name]
        thinks, formed, repeats = (measured[name] == 1 for name in ("thinks", "formed", "repeats"))
        correct = torch.where(formed | rollouts.correct.isnan(), rollouts.correct, 0.0)
        reward = naive_reward(correct, thinks, repeats & formed)
        reward = torch.where(formed | reward.isnan(), reward, 0.0)
        stage = self.stage_at(rollouts.step)
        if stage == 1:
            reward = balance_modes(reward, correct, thinks, target=self.balance_target, slope=self.balance_slope)
        if stage == 3:
            reward = shape_lengths(
                reward,
                rollouts.lengths,
                correct,
                rollouts.num_generations,
                correct_slope=self.correct_slope,
                wrong_slope=self.wrong_slope,
            )
        return reward - rollouts.correct

    def observe(self, rollouts: Rollouts) -> None:
        measured = rollouts.measured[self.name]
        thinks = measured["thinks"] == 1
        self._metrics = {
            "stage": float(self.stage_at(rollouts.step)),
            "thinking_fraction": thinks.float().mean().item(),
            "malformed_fraction": 1 - measured["formed"].mean().item(),
            **mode_metrics(rollouts, ~thinks),
        }


def stage_budget(limits: Sequence[int], stage_steps: Sequence[int]) -> StagedBudget:
    """
    Return the generation limits of the stages of a run.

    Args:
        limits (`Sequence[int]`): Limit of each stage, in tokens.
        stage_steps (`Sequence[int]`): Optimizer steps after which the next stages begin, in rising order.

    Raises:
        `ValueError`: If there is not one limit per stage, or one is below 1.

    Examples:
        >>> budget = stage_budget([8192, 16384, 24576], [300, 700])
        >>> [budget.max_completion_length(step) for step in (0, 299, 300, 700)]
        [8192, 8192, 16384, 24576]
    """
    if len(limits) != len(stage_steps) + 1 or min(limits) < 1:
        raise ValueError(
            f"stage_limits must be one number of tokens, at least 1, for each of the {len(stage_steps) + 1} stages that stage_steps = "
            f"{list(stage_steps)} makes; got {list(limits)}."
        )
    return StagedBudget(limits, [after - before for before, after in pairwise([0, *stage_steps])])


class AutoThinkTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] for [AutoThink](https://huggingface.co/papers/2505.10832).

    Takes the arguments of [`ConciseGRPOTrainer`]. The first reward function (or `args.correctness`) says whether a completion is correct; an
    [`AutoThinkReward`] with the settings of `args` is added as the last column. Each stage starts from the model of the one before, or
    follows it in the same run with `stage_steps`. With `args.stage_limits`, a [`StagedBudget`] is in the slot `budget_schedule`.

    Example:

    ```python
    >>> from trl_concise import load_problems, math_accuracy_reward
    >>> from trl_concise.methods.auto_think import AutoThinkConfig, AutoThinkTrainer

    >>> trainer = AutoThinkTrainer(
    ...     model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=AutoThinkConfig(output_dir="auto-think", max_completion_length=8192, stage=1),
    ...     train_dataset=load_problems("agentica-org/DeepScaleR-Preview-Dataset"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = AutoThinkConfig
    _tag_names = ["trl", "grpo", "trl-concise", "auto-think"]
    _name = "AutoThink"
    _paper = AUTO_THINK_PAPER.as_card()

    def _own_rewards(self, args):
        reward = AutoThinkReward(
            args.stage,
            args.stage_steps,
            args.balance_target,
            args.balance_slope,
            args.correct_slope,
            args.wrong_slope,
        )
        return [(reward, 1.0)]

    def _own_slots(self, args):
        if args.stage_limits is None:
            return {}
        return {"budget_schedule": stage_budget(args.stage_limits, check_stages(args.stage, args.stage_steps))}
