# SPDX-License-Identifier: Apache-2.0
"""
GRESO: selective rollouts (Zheng et al., 2025, https://huggingface.co/papers/2506.02177).

A prompt whose recent groups were all correct or all wrong will most likely give another group without variance, and so
without a gradient. It is skipped before it is rolled out, with a probability that grows with its streak. The share of
skipped prompts is adjusted during training, separately for easy and for hard prompts.

Differences from the authors' code (Infini-AI-Lab/GRESO):
  1. Groups are judged on correctness, and all-wrong means that no completion is correct. Theirs uses thresholds of a
     reward of 1, 0.1 and 0, where a mixed group may count as all wrong and groups of zeros are left out of the share.
  2. The batch has a fixed size: skipped prompts are replaced before the rollout, groups without variance are not
     replaced after it. Theirs rolls out again until the batch is full (see [`greso_rollout_batch_size`]).
  3. The exploration is adjusted from the first batch in which a prompt repeats. Theirs is adjusted from the second epoch
     on, which is the same unless the dataset repeats a prompt.
  4. A choice is made before the preceding batches are rolled out, because the data loader reads ahead by one batch, or by
     the batches of an optimizer step.
  5. The exploration is adjusted once per generation batch; theirs once per optimizer step, which is the same unless
     `steps_per_generation` is below `gradient_accumulation_steps`.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from ..batch.rollouts import Rollouts, pack_keys, unpack_keys
from ..components import Paper, PromptSelector, TrainerView
from ..trainer import ConciseGRPOTrainer
from .greso_config import GRESOConfig


GRESO_PAPER = Paper(
    title="Act Only When It Pays: Efficient Reinforcement Learning for LLM Reasoning via Selective Rollouts",
    id="2506.02177",
    # docstyle-ignore
    citation="""\
@article{zheng2025greso,
    title        = {{Act Only When It Pays: Efficient Reinforcement Learning for LLM Reasoning via Selective Rollouts}},
    author       = {Haizhong Zheng and Yang Zhou and Brian R. Bartoldson and Bhavya Kailkhura and Fan Lai and Jiawei Zhao and Beidi Chen},
    year         = 2025,
    eprint       = {arXiv:2506.02177}
}""",
    reconstructed="the use of correctness in place of the authors' reward thresholds",
)

# metric_utils.py, presampling_selector.py of the authors' code
_FLOOR = 0.01  # least probability with which a prompt is rolled out
_STEP = 0.01  # of the exploration probabilities
_LOWEST, _HIGHEST = 0.05, 0.95


def greso_filter_probability(streak: int, exploration: float) -> float:
    r"""
    Return the probability with which a prompt is skipped.

    $$ p_\text{filter} = 1 - \max(p_e^{z},\, 0.01) $$

    Args:
        streak (`int`): $z$, how many of the prompt's latest groups in a row were all correct, or all wrong; at least 0.
        exploration (`float`): $p_e$ in `[0, 1]`, the probability for an all-correct (or all-wrong) streak.

    Returns:
        `float`: In `[0, 0.99]`; 0 without a streak.

    Examples:
        >>> [greso_filter_probability(streak, 0.5) for streak in (0, 1, 3, 7)]
        [0.0, 0.5, 0.875, 0.99]
    """
    if streak < 0 or not 0 <= exploration <= 1:
        raise ValueError(f"streak must be at least 0 and exploration lie in [0, 1], got {streak} and {exploration}.")
    return 1.0 - max(exploration**streak, _FLOOR)


def greso_exploration(exploration: float, share: float, target: float) -> float:
    """
    Adjust an exploration probability after a batch: explore less if there are too many groups without variance.

    Args:
        exploration (`float`): Probability before.
        share (`float`): Share of all-correct (or all-wrong) groups among those rolled out.
        target (`float`): Target of this share.

    Returns:
        `float`: 0.01 lower if the share has reached the target, else 0.01 higher; within `[0.05, 0.95]`.

    Examples:
        >>> greso_exploration(0.5, share=0.12, target=0.0833)
        0.49
        >>> greso_exploration(0.5, share=0.10, target=0.1667)
        0.51
    """
    if share >= target:
        return max(exploration - _STEP, _LOWEST)
    return min(exploration + _STEP, _HIGHEST)


def greso_rollout_batch_size(
    missing: int, zero_variance: float, *, default: int, minimum: int = 64, margin: float = 1.25
) -> int:
    r"""
    Return how many prompts to roll out to get a number of groups with variance.

    $$ B_r = \min\left(B_r^\text{default},\, \frac{\beta B_\Delta}{1 - \alpha}\right) $$

    The trainer's batch has a fixed size, so the trainer does not call this function. Use it to choose the batch size.

    Args:
        missing (`int`): $B_\Delta$, number of groups with variance that are needed.
        zero_variance (`float`): $\alpha$, share of groups without variance in the last batch, in `[0, 1]`.
        default (`int`): $B_r^\text{default}$, the largest batch.
        minimum (`int`, *optional*, defaults to `64`): The smallest batch.
        margin (`float`, *optional*, defaults to `1.25`): $\beta$.

    Returns:
        `int`: In `[minimum, default]`; `default` if no group had variance.

    Examples:
        >>> greso_rollout_batch_size(116, 0.45, default=384)  # 140 of 256 groups are there
        263
    """
    wanted = default if zero_variance >= 1 else int(missing / (1 - zero_variance) * margin)
    return max(min(wanted, default), minimum)


class GRESO(PromptSelector):
    """
    Skips prompts whose groups had no variance, with a probability that grows with the streak.

    Args:
        exploration (`float`, *optional*, defaults to `0.5`):
            Probability, to the power of the streak, with which a prompt is rolled out at first, in `[0.05, 0.95]`.
        zero_variance_target (`float`, *optional*, defaults to `0.25`):
            Share of groups without variance that the exploration is adjusted to, in `[0, 1]`: a third of it for
            all-correct groups, two thirds for all-wrong ones, which are more likely to change.
        seed (`int`, *optional*):
            Seed of the choices. Defaults to the trainer's `seed`.

    Attributes:
        streaks (`dict[str, int]`): Per prompt key, how many of its latest groups were all correct (positive) or all wrong
            (negative); 0 if the latest was mixed.
        p_easy, p_hard (`float`): Exploration probabilities for all-correct and for all-wrong streaks.
    """

    name = "greso"
    paper = GRESO_PAPER

    def __init__(self, exploration: float = 0.5, zero_variance_target: float = 0.25, seed: int | None = None):
        if not _LOWEST <= exploration <= _HIGHEST:
            raise ValueError(f"exploration must lie in [{_LOWEST}, {_HIGHEST}], got {exploration}.")
        if not 0 <= zero_variance_target <= 1:
            raise ValueError(f"zero_variance_target must lie in [0, 1], got {zero_variance_target}.")
        self.exploration = exploration
        self.zero_variance_target = zero_variance_target
        self.seed = seed
        self.streaks: dict[str, int] = {}
        self.p_easy = self.p_hard = exploration
        self.choices = 0  # made so far; the seed and this number determine the random numbers
        self.adjusting = False  # from the first repeated prompt on
        self._skipped_fraction = 0.0
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        if self.seed is None:
            self.seed = trainer.args.seed

    def filter_probability(self, key: str) -> float:
        """Return the current probability that a prompt is skipped."""
        streak = self.streaks.get(key, 0)
        return greso_filter_probability(abs(streak), self.p_easy if streak > 0 else self.p_hard)

    def choose(self, candidates: list[dict[str, Any]], count: int, step: int) -> list[int]:
        rng = random.Random(f"{self.seed or 0} {self.choices}")
        self.choices += 1
        left = [(position, self.filter_probability(row["prompt_key"])) for position, row in enumerate(candidates)]
        chosen: list[int] = []
        while len(chosen) < count:  # usually one pass; if nearly all prompts are skipped, they are drawn again
            skipped = []
            for position, probability in left:
                if len(chosen) < count and rng.random() >= probability:
                    chosen.append(position)
                else:
                    skipped.append((position, probability))
            left = skipped
        self._skipped_fraction = 1 - count / (max(chosen) + 1)
        return sorted(chosen)

    def observe(self, rollouts: Rollouts) -> None:
        correct = rollouts.correct.view(-1, rollouts.num_generations)
        easy, hard = (correct == 1).all(dim=1), (correct == 0).all(dim=1)
        mixed = (correct == 1).any(dim=1) & (correct == 0).any(dim=1)
        keys = rollouts.prompt_keys[:: rollouts.num_generations]
        self.adjusting = self.adjusting or any(key in self.streaks for key in keys)
        for key, is_easy, is_hard, is_mixed in zip(keys, easy.tolist(), hard.tolist(), mixed.tolist(), strict=True):
            streak = self.streaks.get(key, 0)
            if is_easy:
                self.streaks[key] = max(streak, 0) + 1
            elif is_hard:
                self.streaks[key] = min(streak, 0) - 1
            elif is_mixed:
                self.streaks[key] = 0
            # otherwise the correctness of some is unknown, and the group is ignored
        known = (easy | hard | mixed).sum()
        easy_share, hard_share = (easy.sum() / known).item(), (hard.sum() / known).item()
        if self.adjusting and known:
            self.p_easy = greso_exploration(self.p_easy, easy_share, self.zero_variance_target / 3)
            self.p_hard = greso_exploration(self.p_hard, hard_share, self.zero_variance_target * 2 / 3)
        self._metrics = {
            "skipped_fraction": self._skipped_fraction,
            "zero_variance_fraction": easy_share + hard_share,
            "p_easy": self.p_easy,
            "p_hard": self.p_hard,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "keys": pack_keys(self.streaks),
            "streaks": torch.tensor(list(self.streaks.values()), dtype=torch.int64),
            "p_easy": self.p_easy,
            "p_hard": self.p_hard,
            "choices": self.choices,
            "adjusting": self.adjusting,
            "skipped_fraction": self._skipped_fraction,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.streaks = dict(zip(unpack_keys(state["keys"]), state["streaks"].tolist(), strict=True))
        self.p_easy, self.p_hard = state["p_easy"], state["p_hard"]
        self.choices, self.adjusting = state["choices"], state["adjusting"]
        self._skipped_fraction = state["skipped_fraction"]


class GRESOTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] with the selective rollouts of [GRESO](https://huggingface.co/papers/2506.02177).

    Takes the arguments of [`ConciseGRPOTrainer`]. The first reward function (or `args.correctness`) says whether a
    completion is correct; `args.seed` seeds the choices.

    Example:

    ```python
    >>> from trl_concise import GRESOConfig, GRESOTrainer, load_problems, math_accuracy_reward

    >>> trainer = GRESOTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=GRESOConfig(output_dir="greso", num_train_epochs=5),
    ...     train_dataset=load_problems("openai/gsm8k", config_name="main"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = GRESOConfig
    _tag_names = ["trl", "grpo", "trl-concise", "greso"]
    _name = "GRESO"
    _paper = GRESO_PAPER.as_card()

    def _own_slots(self, args):
        return {"prompt_selector": GRESO(args.exploration, args.zero_variance_target)}
