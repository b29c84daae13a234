# SPDX-License-Identifier: Apache-2.0
"""
GRPO-LEAD: a difficulty-aware approach for concise mathematical reasoning (Zhang and Zuo, 2025,
https://huggingface.co/papers/2504.09696).

Two components that are used together: a reward that favors short correct completions and penalizes wrong ones, and a weight on
the advantage that makes rare successes on hard prompts, and failures on easy ones, count more.

The constants (alpha = 0.05, the n - 1 standard deviation, and 0.4, 1.5, 0.75 and 10 of the weight) are those of the authors' code
(aeroplanepaper/GRPO-LEAD @ 9344bef). What that code adds to the paper's reward is an option of each component, off by default.

Differences from the authors' code:
  1. A group without a correct completion gets no advantage (`skip_unsolved=True`); theirs removes the group from the batch. Groups
     in which every reward is exactly 1 have no advantage in either.
  2. The answer is searched after `</think>`; theirs searches the text before it.
  3. Repetition is searched in the completion; theirs includes the prompt.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import Advantage, GroupReward, Paper
from ..verification.reward import completion_text, has_boxed_answer


GRPO_LEAD_PAPER = Paper(
    title="GRPO-LEAD: A Difficulty-Aware Reinforcement Learning Approach for Concise Mathematical Reasoning in Language "
    "Models",
    id="2504.09696",
    # docstyle-ignore
    citation="""\
@article{zhang2025grpolead,
    title        = {{GRPO-LEAD: A Difficulty-Aware Reinforcement Learning Approach for Concise Mathematical Reasoning in Language Models}},
    author       = {Jixiao Zhang and Chunsheng Zuo},
    year         = 2025,
    eprint       = {arXiv:2504.09696}
}""",  # noqa: E501
)


def grpo_lead_reward(lengths: Tensor, correct: Tensor, *, alpha: float = 0.05, min_length: float = 0) -> Tensor:
    r"""
    Reward correct completions by how short they are among the correct ones of their group.

    $$ r_i = e^{-\alpha z_i} \text{ if correct}, \quad -1 \text{ otherwise}, \qquad
       z_i = \frac{\ell_i - \operatorname{mean}_{c=1} \ell}{\operatorname{std}_{c=1} \ell} $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        alpha (`float`, *optional*, defaults to `0.05`): Strength of the length term.
        min_length (`float`, *optional*, defaults to `0`): A group has no length term if its three shortest
            completions, correct or wrong, have at most this many tokens on average. The authors' code has 4,000.

    Returns:
        `torch.Tensor`: `(groups, G)` float32, above 0 if correct (1 if its group has one correct length only), -1 if
        wrong; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> lengths = torch.tensor([[800, 1500, 2600, 500]])
        >>> grpo_lead_reward(lengths, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        tensor([[ 1.0470,  1.0074,  0.9481, -1.0000]])
    """
    solved = torch.where(correct == 1, lengths.float(), torch.nan)
    mean = solved.nanmean(dim=1, keepdim=True)
    freedom = (correct == 1).sum(dim=1, keepdim=True) - 1
    std = ((solved - mean).square().nansum(dim=1, keepdim=True) / freedom.clamp(min=1)).sqrt()
    shortest = lengths.float().sort(dim=1).values[:, :3].mean(dim=1, keepdim=True)
    z = torch.where((std > 0) & (shortest > min_length), (lengths - mean) / std, 0.0)
    return torch.where(correct == 1, torch.exp(-alpha * z), -1.0).masked_fill(correct.isnan(), torch.nan)


def has_adjacent_repetition(text: str, *, times: int = 10, longest_ngram: int = 30, longest_word: int = 120) -> bool:
    """
    Check whether a text repeats itself without a break, as the GRPO-LEAD authors do.

    Args:
        text (`str`): A completion.
        times (`int`, *optional*, defaults to `10`): How often an n-gram of words must follow itself.
        longest_ngram (`int`, *optional*, defaults to `30`): Longest n-gram, in words. N-grams start at multiples of n.
        longest_word (`int`, *optional*, defaults to `120`): A word of at least this many characters counts as repetition.

    Returns:
        `bool`: Whether the text repeats itself.

    Examples:
        >>> has_adjacent_repetition("wait " * 10), has_adjacent_repetition("wait " * 9)
        (True, False)
    """
    words = text.split()
    if any(len(word) >= longest_word for word in words):
        return True
    for n in range(1, min(longest_ngram, len(words) // times) + 1):
        run = 1
        for start in range(n, len(words) - n + 1, n):
            run = run + 1 if words[start : start + n] == words[start - n : start] else 1
            if run >= times:
                return True
    return False


def difficulty_weight(success_rate: Tensor) -> Tensor:
    r"""
    Return GRPO-LEAD's weight of an advantage, which falls with the success rate of the prompt.

    $$ w(\rho) = 0.4 + \frac{1.1}{1 + e^{10 (\rho - 0.75)}} $$

    Args:
        success_rate (`torch.Tensor`): $\rho$, share of correct completions, in `[0, 1]`.

    Returns:
        `torch.Tensor`: Between 0.48 (always solved) and 1.5 (never).
    """
    return 0.4 + 1.1 * torch.sigmoid(-10 * (success_rate - 0.75))


class GRPOLEADReward(GroupReward):
    """
    Adds GRPO-LEAD's terms to a correctness of 1 or 0; with weights of 1 the sum is the paper's reward.

    The defaults are the paper's reward. `GRPOLEADReward(min_length=4000, unanswered_reward=0.0, repetition_reward=-2.0)` is the
    reward of the authors' code.

    Args:
        alpha (`float`, *optional*, defaults to `0.05`):
            Strength of the length term, at least 0.
        min_length (`float`, *optional*, defaults to `0`):
            No length term in groups whose three shortest completions have at most this many tokens on average, at least 0.
        unanswered_reward (`float`, *optional*, defaults to `None`):
            Reward of a completion without `</think>`, or without a `\\boxed` answer after it, whatever its correctness.
            `None`: such a completion is scored like any other.
        repetition_reward (`float`, *optional*, defaults to `None`):
            Reward of an unanswered completion that repeats itself ([`has_adjacent_repetition`]). Defaults to
            `unanswered_reward`, which it needs.

    Raises:
        `ValueError`: If a setting is out of range, or `repetition_reward` is given without `unanswered_reward`.
    """

    name = "grpo_lead"
    paper = GRPO_LEAD_PAPER

    def __init__(
        self,
        alpha: float = 0.05,
        min_length: float = 0,
        unanswered_reward: float | None = None,
        repetition_reward: float | None = None,
    ):
        if alpha < 0:
            raise ValueError(f"alpha must be at least 0, got {alpha}: a negative value would reward length.")
        if min_length < 0:
            raise ValueError(f"min_length must be at least 0 tokens, got {min_length}.")
        if repetition_reward is not None and unanswered_reward is None:
            raise ValueError(
                f"repetition_reward={repetition_reward} applies to unanswered completions only, but unanswered_reward is "
                "None. Set unanswered_reward, for example to the authors' 0.0."
            )
        self.alpha = alpha
        self.min_length = min_length
        self.unanswered_reward = unanswered_reward
        self.repetition_reward = repetition_reward

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        if self.unanswered_reward is None:
            return {}
        repeated = self.repetition_reward if self.repetition_reward is not None else self.unanswered_reward
        rewards = []  # of unanswered completions; NaN for the others
        for completion in local.completions:
            text = completion_text(completion)
            answered = "</think>" in text and has_boxed_answer(completion)
            unanswered = repeated if has_adjacent_repetition(text) else self.unanswered_reward
            rewards.append(float("nan") if answered else unanswered)
        return {"unanswered": torch.tensor(rewards, device=local.lengths.device)}

    def score(self, rollouts: Rollouts) -> Tensor:
        correct = rollouts.correct
        if self.unanswered_reward is None:
            unanswered = torch.full_like(correct, torch.nan)
        else:
            unanswered = rollouts.measured[self.name]["unanswered"].to(correct)
        answered_correctly = correct.masked_fill(~unanswered.isnan() & ~correct.isnan(), 0)
        rewards = grpo_lead_reward(
            rollouts.by_group(rollouts.lengths),
            rollouts.by_group(answered_correctly),
            alpha=self.alpha,
            min_length=self.min_length,
        ).flatten()
        rewards = torch.where(unanswered.isnan() | rewards.isnan(), rewards, unanswered)
        return rewards - correct


class DifficultyWeighting(Advantage):
    r"""
    Weights advantages by the success rate of their prompt, as GRPO-LEAD does.

    $$ A' = A \, w(\rho) \text{ if } A > 0, \quad A \, w(1 - \rho) \text{ otherwise} $$

    See [`difficulty_weight`]. Advantages of a prompt of unknown correctness do not change.

    Args:
        skip_unsolved (`bool`, *optional*, defaults to `False`):
            Whether groups without a correct completion get no advantage. The authors' code rejects such groups.
    """

    name = "difficulty_weighting"
    paper = GRPO_LEAD_PAPER

    def __init__(self, skip_unsolved: bool = False):
        self.skip_unsolved = skip_unsolved

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        by_group = rollouts.by_group(rollouts.correct).nanmean(dim=1)
        success_rate = by_group.repeat_interleave(rollouts.num_generations)
        weight = difficulty_weight(torch.where(advantages > 0, success_rate, 1 - success_rate))
        weight = weight.nan_to_num(nan=1.0)
        if self.skip_unsolved:
            weight = weight.masked_fill(success_rate == 0, 0.0)
        return advantages * weight
