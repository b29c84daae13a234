# SPDX-License-Identifier: Apache-2.0
"""
HAPO: history-aware policy optimization (Huang et al., 2025, https://huggingface.co/papers/2505.11225).

A completion is rewarded for being shorter than the shortest correct completion that the policy ever gave to the same
prompt. The target tightens as training finds shorter correct completions; short wrong completions are not penalized for being
short.

Differences from the authors' code (HCY123902/HAPO @ c91ae3b):
  1. Lengths come from the generated ids; the authors re-tokenize the decoded text, which can differ by a few tokens.
  2. Evaluation reads the history and never updates it; theirs updates it.
  3. The history is saved with the checkpoint and restored; theirs is lost on resume.
  4. A batch folds into the mean once; theirs folds it once per local duplicate of the prompt.
  5. `aggregate="mean"` keeps fractions of a token; theirs truncates the running mean to whole tokens (an int64 table).
  6. Only the batch's keys and lengths are exchanged between processes, not a table of all prompts.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import GroupReward, Paper, TrainerView
from ..state.history import PromptHistory
from ..trainer import ConciseGRPOTrainer
from .hapo_config import AGGREGATES, SHAPES, HAPOConfig


logger = logging.getLogger(__name__)

HAPO_PAPER = Paper(
    title="HAPO: Training Language Models to Reason Concisely via History-Aware Policy Optimization",
    id="2505.11225",
    # docstyle-ignore
    citation="""\
@article{huang2025hapo,
    title        = {{HAPO: Training Language Models to Reason Concisely via History-Aware Policy Optimization}},
    author       = {Chengyu Huang and Zhengxin Zhang and Claire Cardie},
    year         = 2025,
    eprint       = {arXiv:2505.11225}
}""",
)


def hapo_length_reward(
    length: int,
    history: float | None,
    correct: bool,
    *,
    shape: str = "cosine",
    floor: float = -0.7,
    tolerance: float = 0.1,
) -> float:
    r"""
    Reward a completion for being shorter than the shortest correct one seen so far.

    $$ f = \cos\left(\tfrac{\pi}{2} \min(\ell / h, 2)\right), \qquad
       r = \max(f, \text{floor}) \text{ if correct}, \quad \min(f, 0) \text{ otherwise} $$

    The linear shape replaces $f$ by $1 - \ell / h$ below $h$, 0 from there to $(1 + \tau) h$, and
    $-(\ell - (1 + \tau) h) / h$ beyond; a wrong completion then gets 0 up to $(1 + \tau) h$, and at least -1.

    Args:
        length (`int`):
            $\ell$, completion tokens, EOS and padding excluded.
        history (`float`, *optional*):
            $h$, the shortest (or mean) length of earlier correct completions, above 0; `None` if never solved.
        correct (`bool`):
            Whether this completion is correct.
        shape (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"` or `"linear"`.
        floor (`float`, *optional*, defaults to `-0.7`):
            Lowest reward of a correct completion. With -0.7 and a weight of at most 1, a correct completion always
            outranks a wrong one.
        tolerance (`float`, *optional*, defaults to `0.1`):
            $\tau$ of the linear shape.

    Returns:
        `float`: In `[floor, 1]` if correct, in `[-1, 0]` if wrong, `0.0` without history.

    Raises:
        `ValueError`: If `shape` is unknown.

    Examples:
        >>> hapo_length_reward(50, history=100, correct=True)  # half the length: cos(pi / 4)
        0.7071067811865476
        >>> hapo_length_reward(200, history=100, correct=True)
        -0.7
        >>> hapo_length_reward(200, history=100, correct=False)
        -1.0
    """
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}.")
    if history is None or not history > 0:  # not: NaN too
        return 0.0
    ratio = length / history
    if shape == "cosine":
        reward = math.cos(math.pi / 2 * min(ratio, 2.0))
    elif ratio < 1 and correct:
        reward = 1.0 - ratio
    else:
        reward = min(1.0 + tolerance - ratio, 0.0)
    return max(reward, floor) if correct else min(max(reward, -1.0), 0.0)


def hapo_repetition_penalty(token_ids: list[int], *, penalty: float = -1.0, ngram_size: int = 3) -> float:
    """
    Penalize repeated n-grams: the optional third term of the authors' reward, off by default.

    Every token that lies inside a second or later occurrence of an n-gram gets `penalty`, all others 0.

    Args:
        token_ids (`list[int]`): Token ids of one completion.
        penalty (`float`, *optional*, defaults to `-1.0`): At most 0.
        ngram_size (`int`, *optional*, defaults to `3`): n, as in the authors' code.

    Returns:
        `float`: Mean over tokens, in `[penalty, 0]`; `0.0` for fewer than n tokens.

    Examples:
        >>> hapo_repetition_penalty([1, 2, 3, 1, 2, 3])
        -0.5
    """
    if penalty > 0:
        raise ValueError(f"penalty must be at most 0, got {penalty}.")
    seen: set[tuple[int, ...]] = set()
    repeated: set[int] = set()
    for start in range(len(token_ids) - ngram_size + 1):
        ngram = tuple(token_ids[start : start + ngram_size])
        if ngram in seen:
            repeated.update(range(start, start + ngram_size))
        seen.add(ngram)
    return penalty * len(repeated) / len(token_ids) if repeated else 0.0


class HAPOLengthReward(GroupReward):
    """
    The length reward of HAPO, with its history.

    Args:
        shape (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"` or `"linear"`, see [`hapo_length_reward`].
        floor (`float`, *optional*, defaults to `-0.7`):
            Lowest reward of a correct completion, in `[-1, 0]`.
        aggregate (`str`, *optional*, defaults to `"min"`):
            Whether a completion is compared with the shortest (`"min"`) or the mean (`"mean"`) length of the
            prompt's earlier correct completions.
        tolerance (`float`, *optional*, defaults to `0.1`):
            Relative excess over the history that the linear shape does not penalize, at least 0.

    Attributes:
        history ([`PromptHistory`]): Per prompt, the lengths of correct completions.
    """

    name = "hapo"
    paper = HAPO_PAPER

    def __init__(self, shape: str = "cosine", floor: float = -0.7, aggregate: str = "min", tolerance: float = 0.1):
        if shape not in SHAPES:
            raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}. In HAPOConfig it is length_reward_shape.")
        if aggregate not in AGGREGATES:
            raise ValueError(
                f"aggregate must be one of {AGGREGATES}, got {aggregate!r}. In HAPOConfig it is history_aggregate."
            )
        if not -1 <= floor <= 0:
            raise ValueError(f"floor must lie in [-1, 0], got {floor}. In HAPOConfig it is length_reward_floor.")
        if tolerance < 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance}.")
        self.shape = shape
        self.floor = floor
        self.aggregate = aggregate
        self.tolerance = tolerance
        self.history = PromptHistory()
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        """
        Check that a correct completion cannot earn less than a wrong one of the same prompt.

        Raises:
            `ValueError`: If the weight of the length reward is too large for that of the correctness function.
        """
        own = next(column for column, part in trainer.group_rewards.items() if part is self)
        weights, column = trainer.reward_weights.tolist(), trainer.correctness_column
        if not weights[own] or column is None:
            return
        if weights[own] * -self.floor >= weights[column]:
            raise ValueError(
                f"A long correct completion would earn no more than a wrong one: {trainer.reward_func_names[column]!r}, which says "
                f"what is correct, has the weight {weights[column]:g}, and the length reward takes up to {weights[own]:g} * "
                f"{-self.floor:g} of it. Lower the weight of the length reward (length_reward_weight in HAPOConfig), raise its "
                "floor, or raise the other function's entry in reward_weights."
            )
        if trainer.args.multi_objective_aggregation != "sum_then_normalize":
            logger.warning(
                "multi_objective_aggregation=%r normalizes the length reward on its own, so a wrong completion can earn more "
                'than a correct one. Set it to "sum_then_normalize".',
                trainer.args.multi_objective_aggregation,
            )

    def score(self, rollouts: Rollouts) -> Tensor:
        history = self._targets(rollouts).tolist()
        rewards = [
            math.nan
            if math.isnan(correct)  # unknown correctness: no reward
            else hapo_length_reward(
                length, target, correct == 1, shape=self.shape, floor=self.floor, tolerance=self.tolerance
            )
            for length, target, correct in zip(
                rollouts.lengths.tolist(), history, rollouts.correct.tolist(), strict=True
            )
        ]
        return torch.tensor(rewards, dtype=torch.float32, device=rollouts.correct.device)

    def observe(self, rollouts: Rollouts) -> None:
        lengths, correct = rollouts.lengths.double().cpu(), rollouts.correct.cpu()
        prompts = list(dict.fromkeys(rollouts.prompt_keys))
        before = self.history.shortest(prompts)
        targets = self._targets(rollouts)
        ratios = (lengths / targets)[(correct == 1) & (targets > 0)]
        self.history.update(rollouts.prompt_keys, lengths, correct)
        after = self.history.shortest(prompts)
        known = ~before.isnan()
        self._metrics = {
            "history_coverage": known.double().mean().item(),
            "shortest_mean": after.nanmean().item(),
            "length_over_shortest": ratios.nanmean().item(),
            "improved_fraction": (after < before)[known].double().mean().item(),
        }

    def columns(self, rollouts: Rollouts) -> dict[str, Tensor]:
        return {"length_over_history": rollouts.lengths.double().cpu() / self._targets(rollouts)}

    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history.load_state_dict(state)

    def _targets(self, rollouts: Rollouts) -> Tensor:
        """Return the length that each completion is compared with: `(B,)` float64 tokens, NaN without history."""
        read = self.history.shortest if self.aggregate == "min" else self.history.mean
        return read(rollouts.prompt_keys)


class HAPOTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] that adds the length reward of [HAPO](https://huggingface.co/papers/2505.11225).

    Takes the arguments of [`ConciseGRPOTrainer`]. The first reward function (or `args.correctness`) says whether a
    completion is correct; the length reward is added as the last column, with `args.length_reward_weight`.

    Example:

    ```python
    >>> from trl_concise import HAPOConfig, HAPOTrainer, load_problems, math_accuracy_reward

    >>> trainer = HAPOTrainer(
    ...     model="Qwen/Qwen2.5-1.5B-Instruct",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=HAPOConfig(output_dir="hapo"),
    ...     train_dataset=load_problems("openai/gsm8k", config_name="main"),
    ... )
    >>> trainer.train()
    >>> trainer.history.to_pandas()
    ```
    """

    config_class = HAPOConfig
    _tag_names = ["trl", "grpo", "trl-concise", "hapo"]
    _name = "HAPO"
    _paper = HAPO_PAPER.as_card()

    def _own_rewards(self, args):
        if not 0 <= args.length_reward_weight <= 1:
            raise ValueError(
                f"length_reward_weight must lie in [0, 1], so that every correct completion outranks every wrong one; got "
                f"{args.length_reward_weight}."
            )
        length_reward = HAPOLengthReward(
            shape=args.length_reward_shape, floor=args.length_reward_floor, aggregate=args.history_aggregate
        )
        return [(length_reward, args.length_reward_weight)]
