# SPDX-License-Identifier: Apache-2.0
r"""
Effort on request, and separate lengths of reasoning and answer (NVIDIA's Nemotron 3 recipes, 2025,
https://huggingface.co/papers/2512.20848, section 3.3).

The prompt asks for a level of effort ([`~trl_concise.data.with_effort`]), and [`EffortReward`] adds a length term to the prompts whose
level has a number of tokens. [`ReasoningAnswerReward`] compares the lengths of the reasoning and of the answer with those of the group,
each on its own.

Partly reconstructed: comparing correct completions only, and counting tokens. The rest is from the authors' code: NVIDIA-NeMo/RL @ 7ea279a (rollouts.py, `_apply_effort_shaping`) and NVIDIA-NeMo/Gym @ 07d6b0d
(genrm_compare/utils.py). docs/effort.md numbers the differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import GroupReward, Paper, TrainerView
from ..components.base import tokenizer_of
from .kimi import shortness


NEMOTRON_PAPER = Paper(
    title="Nemotron 3 Nano: Open, Efficient Mixture-of-Experts Hybrid Mamba-Transformer Model for Agentic Reasoning",
    id="2512.20848",
    # docstyle-ignore
    citation="""\
@article{nvidia2025nemotron3nano,
    title        = {{Nemotron 3 Nano: Open, Efficient Mixture-of-Experts Hybrid Mamba-Transformer Model for Agentic Reasoning}},
    author       = {{NVIDIA}},
    year         = 2025,
    eprint       = {arXiv:2512.20848}
}""",
)
END_OF_REASONING = "</think>"


def effort_term(
    lengths: Tensor, rewards: Tensor, limits: Tensor, *, bonus: float = 0.1, penalty: float = 1.0
) -> Tensor:
    r"""
    Return what the requested effort adds to a reward.

    $$ R \max(\lambda, 0) + p \min(\lambda, 0), \qquad \lambda = \min\!\left(1,\, w \left(1 - \frac{\ell}{u}\right)\right) $$

    Below the limit a bonus in proportion to a positive reward; above it a penalty for correct and wrong completions alike.

    Args:
        lengths (`torch.Tensor`): $\ell$, in tokens, of any shape.
        rewards (`torch.Tensor`): $R$, of the same shape; NaN unknown. A negative one counts as 0.
        limits (`torch.Tensor`): $u$, the tokens of the level, of the same shape; NaN: no limit.
        bonus (`float`, *optional*, defaults to `0.1`): $w$, how fast the term changes with length.
        penalty (`float`, *optional*, defaults to `1.0`): $p$, weight of the part above the limit.

    Returns:
        `torch.Tensor`: At most $R$, without a lower bound; 0 without a limit, NaN where `rewards` is.

    Examples:
        >>> import torch
        >>> lengths, limits = torch.tensor([3000, 30000, 30000]), torch.tensor([15000.0, 15000.0, torch.nan])
        >>> effort_term(lengths, torch.ones(3), limits)
        tensor([ 0.0800, -0.1000,  0.0000])
    """
    saved = (bonus * (1 - lengths / limits)).clamp(max=1)
    term = rewards.clamp(min=0) * saved.clamp(min=0) + penalty * saved.clamp(max=0)
    return torch.where(limits.isnan(), 0.0, term).masked_fill(rewards.isnan(), torch.nan)


def relative_shortness(lengths: Tensor, included: Tensor) -> Tensor:
    r"""
    Place completions between the shortest and the longest of their group, with a mean of 0.

    $$ v_i = u_i - \operatorname{mean} u, \qquad u_i = 1 - \frac{\ell_i - \ell_{\min}}{\ell_{\max} - \ell_{\min}} $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        included (`torch.Tensor`): `(groups, G)` bool, the completions over which minimum, maximum and mean are taken.

    Returns:
        `torch.Tensor`: `(groups, G)` float32 between -1 and 1, whose sum over a group is 0; 0 for the others, and if all lengths are
        equal.

    Examples:
        >>> import torch
        >>> relative_shortness(torch.tensor([[100, 200, 400]]), torch.tensor([[True, True, True]]))
        tensor([[ 0.4444,  0.1111, -0.5556]])
    """
    place = shortness(lengths, included)
    return (place - place.nanmean(dim=1, keepdim=True)).nan_to_num(nan=0.0).float()


def earns_shortest_bonus(lengths: Tensor, scores: Tensor, included: Tensor) -> Tensor:
    """
    Find the completions that are shortest and have a top score.

    The top is the `int(0.2 * G)`-th largest score of the group, at least the largest.

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, in tokens. A length of 0 is left out.
        scores (`torch.Tensor`): `(groups, G)`.
        included (`torch.Tensor`): `(groups, G)` bool, the completions that are compared.

    Returns:
        `torch.Tensor`: `(groups, G)` bool, the shortest of each group, several if they are equally short.

    Examples:
        >>> import torch
        >>> lengths, scores = torch.tensor([[100, 200, 400]]), torch.tensor([[5.0, 3.0, 4.0]])
        >>> earns_shortest_bonus(lengths, scores, torch.tensor([[True, True, True]]))
        tensor([[ True, False, False]])
    """
    compared = included & (lengths > 0)
    shortest = lengths.float().masked_fill(~compared, torch.inf).amin(dim=1, keepdim=True)
    ranked = scores.masked_fill(~included, -torch.inf).sort(dim=1, descending=True).values
    top = ranked[:, max(0, int(0.2 * scores.size(1)) - 1)].unsqueeze(1)
    return compared & (lengths == shortest) & (scores >= top)


def split_at_reasoning(ids: list[int], decode: Callable[[list[int]], str]) -> tuple[int, int]:
    """
    Find the tokens of the last `</think>`.

    Args:
        ids (`list[int]`): Token ids of a completion.
        decode (`Callable`): Returns the text of token ids, special tokens included.

    Returns:
        `tuple[int, int]`: First token of `</think>`, and the token after it. Both are `len(ids)` without one: the completion is all
        reasoning.

    Examples:
        >>> words = ["6 * 7 = 42", "</", "think>", "42"]
        >>> split_at_reasoning([0, 1, 2, 3], lambda ids: "".join(words[i] for i in ids))
        (1, 3)
    """
    if END_OF_REASONING not in decode(ids):
        return len(ids), len(ids)
    low, high = 0, len(ids)  # the last tokens from `low` on hold it, those from `high` on do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if END_OF_REASONING in decode(ids[middle:]) else (low, middle)
    end = next(end for end in range(low + 1, len(ids) + 1) if END_OF_REASONING in decode(ids[low:end]))
    return low, end


class EffortReward(GroupReward):
    """
    The length term of the effort that a prompt asks for, added to the correctness.

    The training dataset needs a column `effort_tokens`: see [`~trl_concise.data.with_effort`]. A prompt whose level has no number of
    tokens keeps its reward. In an evaluation without this column, completions have no such reward.

    Args:
        bonus (`float`, *optional*, defaults to `0.1`):
            How fast the term changes with length, above 0: an empty completion would earn this share of its correctness, and one of twice
            the tokens loses it.
        penalty (`float`, *optional*, defaults to `1.0`):
            Weight of the part above the tokens of the level, at least 0. It applies to wrong completions too.

    Raises:
        `ValueError`: If a setting is out of range. In training, if the column is missing or differs within a group.
    """

    name = "effort"
    paper = NEMOTRON_PAPER

    def __init__(self, bonus: float = 0.1, penalty: float = 1.0):
        if not 0 < bonus < math.inf:
            raise ValueError(
                f"bonus must be above 0 and finite, got {bonus}. Leave the component out to switch it off."
            )
        if not 0 <= penalty < math.inf:
            raise ValueError(
                f"penalty must be at least 0 and finite, got {penalty}: a negative value would reward length."
            )
        self.bonus = bonus
        self.penalty = penalty
        self._metrics: dict[str, float] = {}

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        tokens = local.columns.get("effort_tokens")
        if local.training and tokens is None:
            raise ValueError(
                "EffortReward needs the dataset column `effort_tokens`, the tokens of the requested level; the dataset has "
                f"{sorted(local.columns)}. Make it with with_effort(dataset, levels)."
            )
        limits = [limit if limit is not None else torch.nan for limit in tokens or [None] * len(local.lengths)]
        return {"limit": torch.tensor(limits, dtype=torch.float32, device=local.lengths.device)}

    def score(self, rollouts: Rollouts) -> Tensor:
        limits = rollouts.measured[self.name]["limit"]
        by_group = rollouts.by_group(limits)
        if not torch.equal(by_group.nan_to_num(), by_group[:, :1].nan_to_num().expand_as(by_group)):
            raise ValueError(
                "The completions of a group must have the same `effort_tokens`. Make the column with with_effort."
            )
        return effort_term(rollouts.lengths, rollouts.correct, limits, bonus=self.bonus, penalty=self.penalty)

    def observe(self, rollouts: Rollouts) -> None:
        limits, lengths = rollouts.measured[self.name]["limit"], rollouts.lengths.float()
        limited = ~limits.isnan()
        self._metrics = {
            "limited_tokens_mean": lengths[limited].mean().item(),
            "unlimited_tokens_mean": lengths[~limited].mean().item(),
            "within_limit_fraction": (lengths <= limits)[limited].float().mean().item(),
        }


class ReasoningAnswerReward(GroupReward):
    """
    Rewards short reasoning and short answers, each relative to the group, added to the correctness.

    A completion is split at its last `</think>`, which counts in neither; one without it is all reasoning. The terms of a group add up to
    0, so they move reward from long completions to short ones; a bonus goes to the shortest.

    Args:
        reasoning_weight, answer_weight (`float`, *optional*, defaults to `0.5`):
            Weights of the two terms, at least 0; together at most 1 with `only_correct`.
        reasoning_bonus, answer_bonus (`float`, *optional*, defaults to `0.5`):
            Added to the completion with the shortest reasoning and to that with the shortest answer, if its score is a top one of the
            group; at least 0.
        only_correct (`bool`, *optional*, defaults to `True`):
            Whether correct completions are compared with each other, and wrong ones are left out. `False`, as in the authors' code: all
            completions of the group, whose score is the weighted sum of the reward functions.

    Raises:
        `ValueError`: If a setting is out of range.
    """

    name = "reasoning_answer"
    paper = NEMOTRON_PAPER
    reads_tokens = True

    def __init__(
        self,
        reasoning_weight: float = 0.5,
        answer_weight: float = 0.5,
        reasoning_bonus: float = 0.5,
        answer_bonus: float = 0.5,
        only_correct: bool = True,
    ):
        given = {
            "reasoning_weight": reasoning_weight,
            "answer_weight": answer_weight,
            "reasoning_bonus": reasoning_bonus,
            "answer_bonus": answer_bonus,
        }
        for argument, value in given.items():
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"{argument} must be at least 0 and finite, got {value}: a negative value would reward length."
                )
        if only_correct and reasoning_weight + answer_weight > 1:
            raise ValueError(
                "reasoning_weight and answer_weight must add up to at most 1, so that a correct completion stays above a wrong one; got "
                f"{reasoning_weight} and {answer_weight}."
            )
        self.reasoning_weight = reasoning_weight
        self.answer_weight = answer_weight
        self.reasoning_bonus = reasoning_bonus
        self.answer_bonus = answer_bonus
        self.only_correct = only_correct
        self.needs_correctness = only_correct
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        self._tokenizer = tokenizer_of(trainer.processing_class)

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        reasoning, answers = [], []
        for row, (ids, length) in enumerate(zip(local.completion_ids, local.lengths.tolist(), strict=True)):
            start, end = split_at_reasoning(ids, self._tokenizer.decode)
            written = local.tool_mask[row] if local.tool_mask is not None else [1] * len(ids)
            answer = length - sum(written[:end]) if start < len(ids) else 0
            reasoning.append(sum(written[:start]) if start < len(ids) else length)
            answers.append(max(answer, 0))
        return {
            "reasoning": torch.tensor(reasoning, device=local.lengths.device),
            "answer": torch.tensor(answers, device=local.lengths.device),
        }

    def score(self, rollouts: Rollouts) -> Tensor:
        scores = rollouts.by_group(rollouts.correct if self.only_correct else rollouts.total_rewards())
        included = scores == 1 if self.only_correct else ~scores.isnan()
        added = torch.zeros_like(scores)
        for segment in ("reasoning", "answer"):
            lengths = rollouts.by_group(rollouts.measured[self.name][segment])
            added += getattr(self, f"{segment}_weight") * relative_shortness(lengths, included)
            added += getattr(self, f"{segment}_bonus") * earns_shortest_bonus(lengths, scores, included)
        return added.masked_fill(scores.isnan(), torch.nan).flatten()

    def observe(self, rollouts: Rollouts) -> None:
        measured = rollouts.measured[self.name]
        self._metrics = {
            f"{segment}_tokens_mean": measured[segment].mean().item() for segment in ("reasoning", "answer")
        }
