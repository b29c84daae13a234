# SPDX-License-Identifier: Apache-2.0
"""
SIRI: iterative reinforcement learning with interleaved compression (Wen et al., 2025,
https://huggingface.co/papers/2509.25176).

The method needs no length reward: the generation limit oscillates between a small one, which forces the policy to write less, and a
large one, which lets it explore again. Each cycle ends with more accuracy per token.

We found no public code of the authors. These details are reconstructed:
  1. The stair shape switches after half a cycle: compression is the first half in the paper, expansion the second.
  2. A limit is rounded down to a whole number of tokens.
  3. A truncated completion counts only if it has a boxed answer. The paper extracts the answer of the truncated text,
     where the last number of an unfinished calculation could count as correct.
  4. The limit is a function of the optimizer steps done, so a resumed run continues at the right phase.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import BudgetSchedule, GroupReward, Paper
from ..trainer import ConciseGRPOTrainer
from ..verification.reward import has_boxed_answer
from .siri_config import SHAPES, SIRIConfig


SIRI_PAPER = Paper(
    title="SIRI: Scaling Iterative Reinforcement Learning with Interleaved Compression",
    id="2509.25176",
    # docstyle-ignore
    citation="""\
@article{wen2025siri,
    title        = {{SIRI: Scaling Iterative Reinforcement Learning with Interleaved Compression}},
    author       = {Haoming Wen and Yushi Bai and Juanzi Li and Jie Tang},
    year         = 2025,
    eprint       = {arXiv:2509.25176}
}""",
    reconstructed="Switch points of the stair shape, rounding of the limit.",
)


def siri_budget(step: int, *, longest: int, shortest: int, cycle: int, shape: str = "cosine") -> float:
    r"""
    Return SIRI's generation limit (section 4.3 of the paper).

    With $m = (L_{\max} + L_{\min}) / 2$, $a = (L_{\max} - L_{\min}) / 2$ and $\varphi = 2 \pi (t \bmod T) / T$:

    - cosine: $L(t) = m + a \cos \varphi$, from $L_{\max}$ to $L_{\min}$ and back;
    - stair: $L_{\min}$ in the first half of a cycle (compression), $L_{\max}$ in the second (expansion);
    - stair-cosine: $L_{\max}$ for $\varphi$ within $\pi/4$ of 0, $L_{\min}$ within $\pi/4$ of $\pi$, and
      $m + a \cos 2(\varphi - \pi/4)$ (falling) or $m + a \cos 2(\varphi - 3\pi/4)$ (rising) between them.

    Args:
        step (`int`): $t$, optimizer steps done.
        longest (`int`): $L_{\max}$, in tokens.
        shortest (`int`): $L_{\min}$, in tokens.
        cycle (`int`): $T$, steps per cycle.
        shape (`str`, *optional*, defaults to `"cosine"`): `"cosine"`, `"stair"` or `"stair-cosine"`.

    Returns:
        `float`: In `[shortest, longest]`, in tokens, not rounded.

    Raises:
        `ValueError`: If `shape` is unknown.

    Examples:
        >>> [siri_budget(step, longest=16384, shortest=8192, cycle=640) for step in (0, 160, 320, 640)]
        [16384.0, 12288.0, 8192.0, 16384.0]
    """
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}.")
    phase = 2 * math.pi * (step % cycle) / cycle
    if shape == "stair":
        height = -1.0 if 2 * (step % cycle) < cycle else 1.0
    elif shape == "cosine":
        height = math.cos(phase)
    else:
        # The falling and the rising part, with the plateaus of the cosine held for a quarter of the cycle each.
        distance = min(phase, 2 * math.pi - phase)  # from the nearest maximum, in [0, pi]
        height = math.cos(2 * min(max(distance - math.pi / 4, 0.0), math.pi / 2))
    return (longest + shortest) / 2 + (longest - shortest) / 2 * height


class SIRISchedule(BudgetSchedule):
    """
    The generation limit of SIRI, which oscillates between two lengths.

    The component has no state: the limit is computed from the step.

    Args:
        longest (`int`):
            Largest limit, in tokens.
        shortest (`int`):
            Smallest limit, in tokens.
        cycle (`int`, *optional*, defaults to `640`):
            Optimizer steps per cycle. 640 is the best of the paper's (320, 480, 640).
        shape (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"`, `"stair"` or `"stair-cosine"`, see [`siri_budget`].

    Raises:
        `ValueError`: If a setting is out of range.
    """

    name = "siri"
    paper = SIRI_PAPER
    needs_correctness = False
    longest: int

    def __init__(self, longest: int, shortest: int, cycle: int = 640, shape: str = "cosine"):
        if shape not in SHAPES:
            raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}. In SIRIConfig it is budget_shape.")
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"1 <= shortest <= longest must hold, got shortest={shortest} and longest={longest}. In SIRIConfig they are "
                "min_completion_length and max_completion_length."
            )
        if cycle < 1:
            raise ValueError(f"cycle must be at least 1 step, got {cycle}. In SIRIConfig it is budget_cycle.")
        self.longest = longest
        self.shortest = shortest
        self.cycle = cycle
        self.shape = shape
        self._metrics: dict[str, float] = {}

    def max_completion_length(self, step: int) -> int:
        limit = siri_budget(step, longest=self.longest, shortest=self.shortest, cycle=self.cycle, shape=self.shape)
        return int(round(limit, 6))  # round down to whole tokens, tolerating rounding errors of the cosine

    def observe(self, rollouts: Rollouts) -> None:
        self._metrics = {
            "budget": self.max_completion_length(rollouts.step),
            "truncated_fraction": rollouts.truncated.float().mean().item(),
        }


def truncation_penalty(rewards: Tensor, truncated: Tensor, *, coefficient: float = 0.0) -> Tensor:
    r"""
    Return the addition to a reward with which a truncated completion keeps only a share of it.

    $$ (\kappa - 1) \max(R,\, 0) \text{ if truncated}, \quad 0 \text{ otherwise} $$

    Args:
        rewards (`torch.Tensor`): $R$, of any shape; NaN unknown. A negative one stays as it is.
        truncated (`torch.Tensor`): Of the same shape, bool.
        coefficient (`float`, *optional*, defaults to `0.0`): $\kappa$, the share that is kept, in `[0, 1]`.

    Returns:
        `torch.Tensor`: At most 0; NaN where `rewards` is.

    Examples:
        >>> import torch
        >>> rewards, truncated = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([False, True, True])
        >>> rewards + truncation_penalty(rewards, truncated, coefficient=0.1)
        tensor([ 1.0000,  0.1000, -1.0000])
    """
    return -((1 - coefficient) * rewards.clamp(min=0) * truncated)


class TruncationPenalty(GroupReward):
    r"""
    Reduces the reward of a completion that was truncated but judged correct.

    Without `\boxed{}`, answer checkers read the last number, and that of an unfinished calculation may happen to be
    correct. With this component and a correctness of 1 or 0, a completion that was truncated before its boxed answer earns `coefficient`.

    Args:
        coefficient (`float`, *optional*, defaults to `0.0`):
            Share of the correctness that such a completion keeps, in `[0, 1]`: the stop-properly coefficient of NeMo-RL.
        spare_boxed (`bool`, *optional*, defaults to `True`):
            Whether a truncated completion with a boxed answer keeps its reward. NeMo-RL reduces every truncated one.

    Raises:
        `ValueError`: If the coefficient is out of range.
    """

    name = "truncation"

    def __init__(self, coefficient: float = 0.0, spare_boxed: bool = True):
        if not 0 <= coefficient <= 1:
            raise ValueError(f"coefficient must lie in [0, 1], got {coefficient}.")
        self.coefficient = coefficient
        self.spare_boxed = spare_boxed

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        if not self.spare_boxed:
            return {}
        answered = [has_boxed_answer(completion) for completion in local.completions]
        return {"answered": torch.tensor(answered, device=local.lengths.device)}

    def score(self, rollouts: Rollouts) -> Tensor:
        truncated = rollouts.truncated
        if self.spare_boxed:
            truncated = truncated & ~rollouts.measured[self.name]["answered"].bool()
        return truncation_penalty(rollouts.correct, truncated, coefficient=self.coefficient)


class SIRITrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] whose generation limit follows [SIRI](https://huggingface.co/papers/2509.25176).

    Takes the arguments of [`ConciseGRPOTrainer`], without `budget_schedule`. The reward is the correctness, 0 for a
    completion that is truncated before its boxed answer ([`TruncationPenalty`]). Evaluation keeps
    `args.max_completion_length`.

    Example:

    ```python
    >>> from trl_concise import SIRIConfig, SIRITrainer, load_problems, math_accuracy_reward

    >>> trainer = SIRITrainer(
    ...     model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=SIRIConfig(output_dir="siri", max_completion_length=16384, max_steps=1920),
    ...     train_dataset=load_problems("agentica-org/DeepScaleR-Preview-Dataset"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = SIRIConfig
    _tag_names = ["trl", "grpo", "trl-concise", "siri"]
    _name = "SIRI"
    _paper = SIRI_PAPER.as_card()

    def _own_rewards(self, args):
        return [(TruncationPenalty(), 1.0)]

    def _own_slots(self, args):
        if args.mask_truncated_completions:
            raise ValueError(
                "mask_truncated_completions=True removes truncated completions from the loss, but SIRI shortens "
                "completions only through them. Leave it False."
            )
        if args.max_completion_length is None:
            raise ValueError("SIRI's largest budget is max_completion_length, which is None. Set it.")
        shortest = args.min_completion_length
        schedule = SIRISchedule(
            longest=args.max_completion_length,
            shortest=shortest if shortest is not None else max(args.max_completion_length // 2, 1),
            cycle=args.budget_cycle,
            shape=args.budget_shape,
        )
        return {"budget_schedule": schedule}
