# SPDX-License-Identifier: Apache-2.0
"""
LASER-D and LASER-DE: adaptive length-based reward shaping (Liu et al., 2025, https://huggingface.co/papers/2505.15612).

LASER with one target each for easy, medium and hard prompts, updated every few steps on a monitor set. LASER-DE also
rewards wrong completions that continue exploring beyond their target.

Differences from the authors' code (hkust-nlp/Laser):
  1. The number of correct completions in the rule for a target depends on `monitor_generations`; theirs is always that of 8.
  2. A share of exactly 1/3 counts as medium and of 2/3 as easy, in training and on the monitor set; their monitor counts
     it one band lower. With 8 completions neither occurs.
  3. Repetition is searched in plain integers. Theirs compares zero-dimensional tensors, which never match.
  4. Levels and their monitor agree on what is correct: a correctness of 1. Theirs needs a score of 1 in training (boxed, after
     `</think>`), and plain correctness on the monitor set.
  5. Targets default to shares of `max_completion_length`, which are the paper's values at its 16,384 tokens.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import GroupReward, TrainerView
from ..trainer import ConciseGRPOTrainer
from ..verification.reward import has_boxed_answer
from .laser import LASER_PAPER, laser_reward
from .laser_d_config import LASERDConfig
from .laser_d_monitor import PolicyMonitor


_LEVELS = ("high", "medium", "low")  # of the group's accuracy: easy, medium, hard prompts


def covered_shares(lengths: Tensor, limits: list[int]) -> dict[int, float]:
    """
    Return the share of completions, right or wrong, that stay within each of some lengths.

    Args:
        lengths (`torch.Tensor`): `(completions,)`, in tokens.
        limits (`list[int]`): In tokens.

    Returns:
        `dict[int, float]`: By length, in `[0, 1]`; 0 everywhere without a completion.
    """
    within = (lengths[:, None] <= torch.tensor(limits, device=lengths.device)).sum(dim=0).tolist()
    return {limit: count / max(len(lengths), 1) for limit, count in zip(limits, within, strict=True)}


def adaptive_target(
    coverage: dict[int, float], longest: int, level: str, *, generations: int = 8, rounding: str = "floor"
) -> int:
    r"""
    Return LASER-D's target: the shortest length that covers as many completions as an estimate says are correct.

    With $P(l)$ the share of the level's monitor completions of at most $l$ tokens, and $C$ the fewest correct of
    `generations` completions that make a prompt high (2/3), medium (1/3) or low (1),

    $$ L = \min \{\, l : P(l) \, C \ge 1 \,\} $$

    Args:
        coverage (`dict[int, float]`): $P$, by length in tokens.
        longest (`int`): Longest completion of the training batch, in tokens: the target where no shorter one will do.
        level (`str`): `"high"`, `"medium"` or `"low"`.
        generations (`int`, *optional*, defaults to `8`): Completions per monitor prompt.
        rounding (`str`, *optional*, defaults to `"floor"`): Whether $C$ is rounded down (`"floor"`) or up (`"ceil"`).

    Returns:
        `int`: In tokens, at most `longest`.

    Examples:
        >>> adaptive_target({4096: 0.25, 5120: 0.5, 6144: 0.75}, longest=16384, level="medium")
        5120
    """
    round_to = math.floor if rounding == "floor" else math.ceil
    fewest_correct = 1 if level == "low" else max(round_to(generations * (2 if level == "high" else 1) / 3), 1)
    enough = [length for length, share in coverage.items() if share * fewest_correct >= 1]
    return min([*enough, longest])


def levels_of(correct: Tensor) -> Tensor:
    """
    Return which level each group belongs to: 0 high (at least 2/3 correct), 1 medium (at least 1/3), 2 low.

    Args:
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, anything else not.

    Returns:
        `torch.Tensor`: `(groups,)` int64.
    """
    thrice = 3 * (correct == 1).sum(dim=1)  # whole numbers: 2 of 3 is 2/3, on every device
    return (thrice < 2 * correct.size(1)).long() + (thrice < correct.size(1)).long()


def is_repetitive(token_ids: Iterable[int]) -> bool:
    """
    Return whether a completion repeats itself: LASER-DE's filter.

    True if an n-gram (n = 2 below 30 tokens, 3 below 100, else 4; not of one token only, for n > 2) comes 2 times, or 3
    from 200 tokens on, with two neighboring ones closer than a third of the completion; or if any 2n-gram comes twice
    in a completion of at least 4n tokens. A completion of at most 8 tokens never counts as repetitive.

    Args:
        token_ids (`Iterable[int]`): Token ids of one completion; a list, an array or a tensor.

    Returns:
        `bool`: Whether it repeats itself.

    Examples:
        >>> is_repetitive([1, 2, 3] * 4), is_repetitive(range(12))
        (True, False)
    """
    ids = [int(token) for token in token_ids]
    if len(ids) <= 8:
        return False
    n = 2 if len(ids) < 30 else 3 if len(ids) < 100 else 4
    needed = 2 if len(ids) < 200 else 3
    starts: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for start in range(len(ids) - n + 1):
        ngram = tuple(ids[start : start + n])
        if n == 2 or len(set(ngram)) > 1:
            starts[ngram].append(start)
    for places in starts.values():
        gaps = [after - before for before, after in zip(places, places[1:], strict=False)]
        if len(places) >= needed and min(gaps) < len(ids) // 3:
            return True
    longer = [tuple(ids[start : start + 2 * n]) for start in range(len(ids) - 2 * n + 1)]
    return len(ids) >= 4 * n and len(set(longer)) < len(longer)


class LASERDReward(GroupReward):
    """
    The length bonus of LASER-D and LASER-DE: one target each for easy, medium and hard prompts, from a monitor set.

    Args:
        shortest_target (`int`):
            Smallest candidate target, in tokens; also the target until the monitor has run.
        longest_target (`int`):
            Largest candidate target.
        interval (`int`):
            Distance between candidate targets.
        alpha (`float`, *optional*, defaults to `0.5`):
            The bonus, at least 0.
        explore (`bool`, *optional*, defaults to `False`):
            LASER-DE: reward wrong completions beyond the target too, if they end in a boxed answer and do not repeat
            themselves.
        monitor_prompts (`int`, *optional*, defaults to `500`):
            Prompts in the monitor set, drawn from the training dataset.
        monitor_generations (`int`, *optional*, defaults to `8`):
            Completions per prompt.
        monitor_every (`int`, *optional*, defaults to `20`):
            Optimizer steps between two samplings of the monitor set.
        rounding (`str`, *optional*, defaults to `"floor"`):
            See [`adaptive_target`].
    """

    name = "laser_d"
    paper = LASER_PAPER
    reads_tokens = True

    def __init__(
        self,
        shortest_target: int,
        longest_target: int,
        interval: int,
        alpha: float = 0.5,
        explore: bool = False,
        monitor_prompts: int = 500,
        monitor_generations: int = 8,
        monitor_every: int = 20,
        rounding: str = "floor",
    ):
        for name, value, least in [
            ("shortest_target", shortest_target, 1),
            ("longest_target (max_completion_length in LASERDConfig)", longest_target, shortest_target),
            ("interval (target_interval in LASERDConfig)", interval, 1),
            ("alpha (length_bonus in LASERDConfig)", alpha, 0),
            ("monitor_prompts", monitor_prompts, 1),
            ("monitor_generations", monitor_generations, 1),
            ("monitor_every", monitor_every, 1),
        ]:
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if rounding not in ("floor", "ceil"):
            raise ValueError(f"rounding must be 'floor' or 'ceil', got {rounding!r}.")
        self.shortest_target = shortest_target
        self.longest_target = longest_target
        self.interval = interval
        self.alpha = alpha
        self.explore = explore
        self.monitor_prompts = monitor_prompts
        self.monitor_generations = monitor_generations
        self.monitor_every = monitor_every
        self.rounding = rounding
        self.coverage: dict[str, dict[int, float]] = {}  # level -> length in tokens -> share of completions within it
        self.monitor_tokens = 0
        self._metrics: dict[str, float] = {}

    @property
    def lengths(self) -> list[int]:
        """Candidate targets in tokens, in increasing order."""
        # If the shortest target is below the interval, the authors continue with multiples of the interval.
        first = self.interval if self.shortest_target < self.interval else self.shortest_target + self.interval
        return [self.shortest_target, *range(first, self.longest_target + 1, self.interval)]

    def attach(self, trainer: TrainerView) -> None:
        trainer.add_callback(
            PolicyMonitor(
                trainer, self.monitor_prompts, self.monitor_generations, self.monitor_every, self.learn_coverage
            )
        )

    def learn_coverage(self, lengths: Tensor, correct: Tensor) -> None:
        """
        Store, from the monitor's figures, the share of each level's completions, correct or wrong, within each length.

        Args:
            lengths (`torch.Tensor`): `(prompts, generations)`, in tokens.
            correct (`torch.Tensor`): `(prompts, generations)`, 1, 0 or NaN.
        """
        self.monitor_tokens += int(lengths.sum())
        levels = levels_of(correct)
        self.coverage = {
            name: covered_shares(lengths[levels == level].flatten(), self.lengths)
            for level, name in enumerate(_LEVELS)
        }

    def targets(self, longest: int) -> dict[str, int]:
        """
        Return the target of each level.

        Args:
            longest (`int`): Longest completion of the training batch, in tokens.

        Returns:
            `dict[str, int]`: Tokens by level, `"high"`, `"medium"` and `"low"`.
        """
        if not self.coverage:
            return dict.fromkeys(_LEVELS, self.shortest_target)
        return {
            level: adaptive_target(
                self.coverage[level], longest, level, generations=self.monitor_generations, rounding=self.rounding
            )
            for level in _LEVELS
        }

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        if not self.explore:
            return {}
        explores = [
            has_boxed_answer(completion) and not is_repetitive(ids)
            for completion, ids in zip(local.completions, local.completion_ids, strict=True)
        ]
        return {"explores": torch.tensor(explores, device=local.lengths.device)}

    def score(self, rollouts: Rollouts) -> Tensor:
        scores = torch.where(rollouts.correct == 0, -0.5, rollouts.correct)
        explores = None
        if self.explore:
            explores = rollouts.measured[self.name]["explores"].bool() & ~rollouts.truncated
        targets = self._targets(rollouts)
        return laser_reward(rollouts.lengths, scores, targets, alpha=self.alpha, explores=explores) - scores

    def observe(self, rollouts: Rollouts) -> None:
        within = rollouts.lengths <= self._targets(rollouts)
        targets = self.targets(int(rollouts.lengths.max()))
        self._metrics = {
            "within_target": within[rollouts.correct == 1].float().mean().item(),
            **{f"target_{level}": target for level, target in targets.items()},
            "monitor_tokens": self.monitor_tokens,
        }

    def state_dict(self) -> dict[str, Any]:
        coverage = {
            level: {str(length): share for length, share in shares.items()} for level, shares in self.coverage.items()
        }
        return {"coverage": coverage, "monitor_tokens": self.monitor_tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coverage = {
            level: {int(length): share for length, share in shares.items()}
            for level, shares in state["coverage"].items()
        }
        self.monitor_tokens = state["monitor_tokens"]

    def _targets(self, rollouts: Rollouts) -> Tensor:
        """Return each completion's target, by the level of its group: `(B,)`, in tokens."""
        targets = list(self.targets(int(rollouts.lengths.max())).values())  # in the order of _LEVELS
        targets = torch.tensor(targets, device=rollouts.lengths.device)
        return targets[levels_of(rollouts.by_group(rollouts.correct))][rollouts.group_index]


class LASERDTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] with the length bonus of [LASER-D and -DE](https://huggingface.co/papers/2505.15612).

    Takes the arguments of [`ConciseGRPOTrainer`]. The first reward function (or `args.correctness`) says whether a
    completion is correct; the bonus is added as the last column. The monitor set is drawn from the training dataset.

    Example:

    ```python
    >>> from trl_concise import LASERDConfig, LASERDTrainer
    >>> from trl_concise import load_problems, math_accuracy_reward

    >>> trainer = LASERDTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=LASERDConfig(
    ...         output_dir="laser-de",
    ...         explore=True,
    ...         max_completion_length=2048,
    ...         monitor_prompts=100,
    ...     ),
    ...     train_dataset=load_problems("openai/gsm8k", config_name="main"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = LASERDConfig
    _tag_names = ["trl", "grpo", "trl-concise", "laser-d"]
    _name = "LASER-D"
    _paper = LASER_PAPER.as_card()

    def _own_rewards(self, args):
        limit = args.max_completion_length
        if limit is None:
            raise ValueError("The targets of LASER-D go up to max_completion_length, which is None. Set it.")
        reward = LASERDReward(
            shortest_target=args.shortest_target if args.shortest_target is not None else max(limit // 4, 1),
            longest_target=limit,
            interval=args.target_interval if args.target_interval is not None else max(limit // 16, 1),
            alpha=args.length_bonus,
            explore=args.explore,
            monitor_prompts=args.monitor_prompts,
            monitor_generations=args.monitor_generations,
            monitor_every=args.monitor_every,
        )
        return [(reward, 1.0)]
