# SPDX-License-Identifier: Apache-2.0
"""
Noisy rewards and the reasoning-pattern reward, RPR (Lv et al., 2025, https://huggingface.co/papers/2505.22653).

For experiments on how robust a run is against wrong rewards: [`NoisyReward`] inverts the correctness of a share of the prompts,
[`reasoning_pattern_reward`] rewards phrases of reasoning alone, and [`PatternCalibration`] uses these phrases to raise low scores of a weak
reward model.

From the paper; compared with the authors' code (trestad/Noisy-Rewards-in-Learning-to-Reason @ 083f72b, reward_manager/naive.py,
reward_score/math_score.py and workers/fsdp_workers.py). docs/noisy_rewards.md numbers the differences.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import GroupReward, Paper, TrainerView
from ..verification.reward import completion_text, has_boxed_answer


logger = logging.getLogger(__name__)

NOISY_REWARDS_PAPER = Paper(
    title="The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards in Learning to Reason",
    id="2505.22653",
    # docstyle-ignore
    citation="""\
@article{lv2025climb,
    title        = {{The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards in Learning to Reason}},
    author       = {Ang Lv and Ruobing Xie and Xingwu Sun and Zhanhui Kang and Rui Yan},
    year         = 2025,
    eprint       = {arXiv:2505.22653}
}""",
)
# Figure 9 of the paper, with its spelling, without the spaces at the ends.
PHRASES = (
    *(
        "i need to",
        "we need to",
        "wait",
        "alternatively",
        "let me check",
        "let me see",
        "let's focus on",
        "we know that",
    ),
    *(
        "we can observe",
        "we can see",
        "let me try",
        "let's try",
        "let us try",
        "first,",
        "firstly,",
        "next,",
        "finally,",
    ),
    *("let us first", "let's first", "let me first", "try again", "still not", "not working", "not correct"),
    *("does not work", "doesn't work", "makes sence", "since we", "because we", "consequently", "as a result", "thus"),
    *("therefore", "hence", "so that", "thereby", "if we", "given there", "for instance", "for example"),
)
UNITS = ("prompt", "completion")


def ngram_repetition(text: str, n: int = 20) -> float:
    """
    Return how many distinct n-grams of words occur more than once, divided by the number of n-grams.

    Args:
        text (`str`): Words are separated by whitespace.
        n (`int`, *optional*, defaults to `20`): Words per n-gram.

    Returns:
        `float`: In `[0, 0.5]`; 0 for a text of fewer than n words. A loop of a single phrase counts little, because its n-grams are few.

    Examples:
        >>> ngram_repetition("a b a b a", n=2)
        0.5
    """
    words = text.split()
    counts = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    return sum(count > 1 for count in counts.values()) / counts.total() if counts else 0.0


def pattern_score(
    text: str, *, n: int = 20, divisor: int = 40, count_repeats: bool = False, whole_words: bool = False
) -> float:
    """
    Return the reasoning-pattern reward of a text: the share of the 40 phrases that it contains, minus its repetition, at least 0.

    Args:
        text (`str`): The text, in any case of letters.
        n (`int`, *optional*, defaults to `20`): See [`ngram_repetition`].
        divisor (`int`, *optional*, defaults to `40`): Divides the number of phrases; the result is at most 1. 20 in the authors' code.
        count_repeats (`bool`, *optional*, defaults to `False`):
            Whether each occurrence of a phrase counts, up to a sum of 1, as section 2.2 of the paper can be read. By default a phrase
            counts once.
        whole_words (`bool`, *optional*, defaults to `False`):
            Whether a phrase must not be a piece of longer words. By default "hence" is found in "whence", as in the authors' code.

    Returns:
        `float`: In `[0, 1]`.

    Examples:
        >>> pattern_score("Wait, let me check. Therefore x = 2.")
        0.075
    """
    text = text.lower()
    counts = (len(pattern.findall(text)) for pattern in _patterns(whole_words))
    found = sum(count if count_repeats else min(count, 1) for count in counts)
    return max(0.0, min(1.0, found / divisor) - ngram_repetition(text, n))


@lru_cache(maxsize=2)
def _patterns(whole_words: bool) -> list[re.Pattern[str]]:
    border = (r"(?<!\w)", r"(?!\w)") if whole_words else ("", "")
    return [re.compile(border[0] + re.escape(phrase) + border[1]) for phrase in PHRASES]


def thinking_text(text: str) -> str:
    """Return what precedes the last `</think>`; the whole text without one."""
    thinking, marker, answer = text.rpartition("</think>")
    return thinking if marker else answer


def reasoning_pattern_reward(completions: list[Any], **kwargs: Any) -> list[float]:
    """
    Reward phrases of reasoning, whether the answer is correct or not: [`pattern_score`] of the whole completion.

    It is a plain reward function of TRL. In the paper such a run improves first, and collapses into overthinking later.

    Args:
        completions (`list`): Strings or lists of messages.

    Returns:
        `list[float]`: In `[0, 1]`, at most 1/40 per phrase.

    Examples:
        >>> reasoning_pattern_reward(["Wait, let me check. Therefore x = 2."])
        [0.075]
    """
    return [pattern_score(completion_text(completion)) for completion in completions]


def flip_rewards(rewards: Tensor, flips: Tensor, has_answer: Tensor | None = None) -> Tensor:
    """
    Invert rewards between 0 and 1 where a draw says so.

    Args:
        rewards (`torch.Tensor`): `(B,)`, NaN unknown.
        flips (`torch.Tensor`): `(B,)` bool.
        has_answer (`torch.Tensor`, *optional*): `(B,)` bool. The reward of a completion without an answer does not change.

    Returns:
        `torch.Tensor`: `(B,)`; NaN where `rewards` is.

    Examples:
        >>> import torch
        >>> flip_rewards(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor(True))
        tensor([0., 1., 0., 0.])
    """
    return torch.where(flips & has_answer if has_answer is not None else flips, 1 - rewards, rewards)


def draw_flip(probability: float, *key: int | str) -> bool:
    """Return the draw of a key, `True` with a probability. The same key gives the same draw on every machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < probability * 2**64


class NoisyReward(GroupReward):
    """
    The correctness of each completion, inverted for a random share of the prompts, for experiments.

    Give the correctness function itself the weight 0: `reward_weights=[0.0, 1.0]`. Metrics and other components then still see the true
    correctness. Evaluation is never noisy.

    A draw depends on the seed, the step and the prompt alone. So all completions of a prompt are inverted or none is, on every process and
    in a resumed run too; another visit of the prompt is another draw.

    Args:
        probability (`float`, *optional*, defaults to `0.4`):
            Share of the prompts whose rewards are inverted, in `[0, 1]`. In the paper 0.4 costs 4 points on MATH-500, and 0.5 ends in a
            collapse.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draws.
        per (`str`, *optional*, defaults to `"prompt"`):
            `"prompt"` or `"completion"`: what a draw applies to.
        needs_answer (`bool`, *optional*, defaults to `True`):
            Whether a wrong completion without an answer in a closed `\\boxed{}` keeps the reward 0, as in the paper.

    Raises:
        `ValueError`: If a setting is out of range.
    """

    name = "noisy_reward"
    paper = NOISY_REWARDS_PAPER

    def __init__(self, probability: float = 0.4, seed: int = 0, per: str = "prompt", needs_answer: bool = True):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be between 0 and 1, got {probability}.")
        if per not in UNITS:
            raise ValueError(f"per must be one of {list(UNITS)}, got {per!r}.")
        self.probability = probability
        self.seed = seed
        self.per = per
        self.needs_answer = needs_answer

    def attach(self, trainer: TrainerView) -> None:
        column = trainer.correctness_column
        if column is not None and (weight := trainer.reward_weights[column].item()) != 0:
            logger.warning(
                "NoisyReward replaces the correctness %s, whose own weight is %g, so the loss sees both. Set its weight in "
                "reward_weights to 0.",
                trainer.reward_func_names[column],
                weight,
            )

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        return {"has_answer": torch.tensor([float(has_boxed_answer(completion)) for completion in local.completions])}

    def flips(self, rollouts: Rollouts) -> Tensor:
        """Return the draws of a batch: `(B,)` bool."""
        size = rollouts.num_generations if self.per == "completion" else 1
        drawn = [
            draw_flip(self.probability, self.seed, rollouts.step, key, i % size)
            for i, key in enumerate(rollouts.prompt_keys)
        ]
        return torch.tensor(drawn, device=rollouts.correct.device)

    def score(self, rollouts: Rollouts) -> Tensor:
        if not rollouts.training:
            return rollouts.correct
        has_answer = (rollouts.measured[self.name]["has_answer"] > 0) | (rollouts.correct == 1)
        return flip_rewards(rollouts.correct, self.flips(rollouts), has_answer if self.needs_answer else None)

    def observe(self, rollouts: Rollouts) -> None:
        changed = self.score(rollouts) != rollouts.correct
        known = ~rollouts.correct.isnan()
        self._metrics = {"inverted": changed[known].float().mean().item()}


class PatternCalibration(GroupReward):
    r"""
    Raises the low scores of a weak reward model by the phrases in the reasoning: RPR calibration.

    $$ \alpha \operatorname{RPR}(\text{thinking}) \text{ if } s < \tau, \text{ else } 0 $$

    is added to the score $s$ of a reward function; give both the same weight. The thinking is the text before the last
    `</think>`, or the whole text without one.

    Args:
        reward (`str`, *optional*):
            Name of the reward function, as TRL logs it in `rewards/<name>`. Default: the only one that is not a group reward.
        threshold (`float`, *optional*, defaults to `0.5`):
            $\tau$.
        weight (`float`, *optional*, defaults to `0.1`):
            $\alpha$, at least 0.
        divisor (`int`, *optional*, defaults to `40`), count_repeats, whole_words (`bool`, *optional*, defaults to `False`):
            See [`pattern_score`].

    Raises:
        `ValueError`: If a setting is out of range. When the trainer is built, if it has no reward function of this name, or several and
            none is named.

    Example:

    ```python
    >>> trainer = ConciseGRPOTrainer(
    ...     reward_funcs=[weak_reward, PatternCalibration()], ...
    ... )
    ```
    """

    name = "pattern_calibration"
    paper = NOISY_REWARDS_PAPER
    needs_correctness = False
    card_settings = ("reward",)

    def __init__(
        self,
        reward: str | None = None,
        threshold: float = 0.5,
        weight: float = 0.1,
        divisor: int = 40,
        count_repeats: bool = False,
        whole_words: bool = False,
    ):
        if not math.isfinite(threshold) or not 0 <= weight < math.inf:
            raise ValueError(
                f"threshold must be finite and weight at least 0 and finite, got {threshold} and {weight}: a negative weight would "
                "lower scores."
            )
        if divisor < 1:
            raise ValueError(f"divisor must be at least 1, got {divisor}. There are {len(PHRASES)} phrases.")
        self.reward = reward
        self.threshold = threshold
        self.weight = weight
        self.divisor = divisor
        self.count_repeats = count_repeats
        self.whole_words = whole_words
        self._reward = reward  # the name, once it is known

    def attach(self, trainer: TrainerView) -> None:
        plain = [name for column, name in enumerate(trainer.reward_func_names) if column not in trainer.group_rewards]
        if not self.reward and len(plain) != 1:
            raise ValueError(
                f"PatternCalibration calibrates one reward function, but reward_funcs has {plain}. Name one of them in `reward`."
            )
        if self.reward is not None and self.reward not in plain:
            raise ValueError(
                f"PatternCalibration calibrates the reward function {self.reward!r}, but reward_funcs has {plain}. Name one of them."
            )
        self._reward = self.reward if self.reward is not None else plain[0]

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        texts = [thinking_text(completion_text(completion)) for completion in local.completions]
        scores = [
            pattern_score(text, divisor=self.divisor, count_repeats=self.count_repeats, whole_words=self.whole_words)
            for text in texts
        ]
        return {"pattern_score": torch.tensor(scores)}

    def score(self, rollouts: Rollouts) -> Tensor:
        assert self._reward is not None  # attached
        scores, patterns = rollouts.rewards[self._reward], rollouts.measured[self.name]["pattern_score"]
        return torch.where(scores < self.threshold, self.weight * patterns, 0.0).masked_fill(scores.isnan(), torch.nan)

    def observe(self, rollouts: Rollouts) -> None:
        assert self._reward is not None  # attached
        scores = rollouts.rewards[self._reward]
        self._metrics = {
            "pattern_score": rollouts.measured[self.name]["pattern_score"].mean().item(),
            "calibrated": (scores < self.threshold)[~scores.isnan()].float().mean().item(),
        }
