# SPDX-License-Identifier: Apache-2.0
"""
ShorterBetter: guiding reasoning models to find optimal inference length (Yi et al., 2025,
https://huggingface.co/papers/2504.21370).

The target of each group is the length of its shortest correct completion. Every completion, correct or wrong, is
penalized for its distance to the target.

Differences from the authors' code (JingyangYi/ShorterBetter, reward_manager/naive.py):
  1. Groups are consecutive completions; theirs are keyed by dataset row, and a prompt may not come twice in a batch.
  2. Lengths exclude EOS. The reward does not change, because every length of a group is one token shorter; only a
     truncated completion, which has no EOS, is one token closer to the target in theirs.
  3. A completion of unknown correctness gets no reward and is left out of the target.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import GroupReward, Paper
from ..trainer import ConciseGRPOTrainer
from .shorter_better_config import ShorterBetterConfig


SHORTER_BETTER_PAPER = Paper(
    title="ShorterBetter: Guiding Reasoning Models to Find Optimal Inference Length for Efficient Reasoning",
    id="2504.21370",
    # docstyle-ignore
    citation="""\
@article{yi2025shorterbetter,
    title        = {{ShorterBetter: Guiding Reasoning Models to Find Optimal Inference Length for Efficient Reasoning}},
    author       = {Jingyang Yi and Jiazheng Wang and Sida Li},
    year         = 2025,
    eprint       = {arXiv:2504.21370}
}""",
)


def sample_optimal_length(lengths: Tensor, correct: Tensor) -> Tensor:
    r"""
    Return each group's sample optimal length: its shortest correct one, or the mean of all if none is correct.

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, in tokens.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.

    Returns:
        `torch.Tensor`: `(groups, 1)` float32, in tokens; NaN where the correctness of the whole group is unknown.
    """
    lengths = lengths.float()
    shortest = torch.where(correct == 1, lengths, math.inf).amin(dim=1, keepdim=True)
    mean = torch.where(correct.isnan(), math.nan, lengths).nanmean(dim=1, keepdim=True)
    return torch.where(shortest.isinf(), mean, shortest)


def shorter_better_reward(lengths: Tensor, correct: Tensor, *, alpha: float = 2.0, beta: float = 0.001) -> Tensor:
    r"""
    Reward correctness, and penalize every completion for its distance to the sample optimal length of its group.

    $$ r_i = \alpha c_i - \beta \, |\ell_i - \ell^{\text{SOL}}| $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        correct (`torch.Tensor`): `(groups, G)`, $c$: 1 correct, 0 wrong, NaN unknown.
        alpha (`float`, *optional*, defaults to `2.0`): Reward of a correct completion.
        beta (`float`, *optional*, defaults to `0.001`): Penalty per token of distance.

    Returns:
        `torch.Tensor`: `(groups, G)` float32, at most `alpha`, without a lower bound; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> lengths, correct = torch.tensor([[800, 1500, 500]]), torch.tensor([[1.0, 1.0, 0.0]])
        >>> [round(reward, 4) for reward in shorter_better_reward(lengths, correct)[0].tolist()]
        [2.0, 1.3, -0.3]
    """
    return alpha * correct - beta * (lengths - sample_optimal_length(lengths, correct)).abs()


class ShorterBetterReward(GroupReward):
    r"""
    ShorterBetter's reward minus the correctness (1 or 0); with weights of 1, the two add up to the paper's reward.

    Args:
        alpha (`float`, *optional*, defaults to `2.0`):
            Reward of a correct completion, the correctness itself included.
        beta (`float`, *optional*, defaults to `0.001`):
            Penalty per token of distance to the group's shortest correct completion, at least 0.
    """

    name = "shorter_better"
    paper = SHORTER_BETTER_PAPER

    def __init__(self, alpha: float = 2.0, beta: float = 0.001):
        if not 0 < alpha < math.inf:
            raise ValueError(
                f"alpha must be above 0 and finite, got {alpha}: it rewards a correct completion. In ShorterBetterConfig it is "
                "correct_reward."
            )
        if not 0 <= beta < math.inf:
            raise ValueError(
                f"beta must be at least 0 and finite, got {beta}: a negative value would reward distance. In ShorterBetterConfig it is "
                "length_penalty."
            )
        self.alpha = alpha
        self.beta = beta
        self._metrics: dict[str, float] = {}

    def score(self, rollouts: Rollouts) -> Tensor:
        lengths, correct = rollouts.by_group(rollouts.lengths), rollouts.by_group(rollouts.correct)
        reward = shorter_better_reward(lengths, correct, alpha=self.alpha, beta=self.beta)
        return (reward - correct).flatten()

    def observe(self, rollouts: Rollouts) -> None:
        lengths, correct = rollouts.by_group(rollouts.lengths), rollouts.by_group(rollouts.correct)
        solved = (correct == 1).any(dim=1)
        target = sample_optimal_length(lengths, correct)
        self._metrics = {
            "solved_groups": solved.float().mean().item(),
            "optimal_length_mean": target[solved].mean().item(),
            "distance_mean": (lengths - target).abs().nanmean().item(),
        }


class ShorterBetterTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] with the reward of [ShorterBetter](https://huggingface.co/papers/2504.21370).

    Takes the arguments of [`ConciseGRPOTrainer`]. The first reward function (or `args.correctness`) says with 1 or 0
    whether a completion is correct; the rest of ShorterBetter's reward is added as the last column.

    Example:

    ```python
    >>> from trl_concise import ShorterBetterConfig, ShorterBetterTrainer
    >>> from trl_concise import load_problems, math_accuracy_reward

    >>> trainer = ShorterBetterTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=ShorterBetterConfig(output_dir="shorter-better"),
    ...     train_dataset=load_problems("openai/gsm8k", config_name="main"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = ShorterBetterConfig
    _tag_names = ["trl", "grpo", "trl-concise", "shorter-better"]
    _name = "ShorterBetter"
    _paper = SHORTER_BETTER_PAPER.as_card()

    def _own_rewards(self, args):
        return [(ShorterBetterReward(alpha=args.correct_reward, beta=args.length_penalty), 1.0)]
