# SPDX-License-Identifier: Apache-2.0
"""
CAMPO: context-aware multi-stage policy optimization, of MiroMind-M1 (Li et al., 2025, https://huggingface.co/papers/2507.14683).

DAPO with a penalty for completions that end in a loop, and a generation limit that grows in stages ([`StagedBudget`]).

Differences from the authors' code (MiroMindAsia/MiroMind-M1 @ 3ace1ab, verl/trainer/ppo/core_algos.py):
  1. By default the paper's penalty: the share of tokens in the loop, of every completion. The code subtracts 0.1, of completions that
     reach the generation limit only. Both are options.
  2. The loop is found in linear time; theirs takes quadratic time. The result is the same.
  3. The stages are part of one run. Theirs are separate runs, the second from a checkpoint of the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import GroupReward, Paper
from .staged_budget import StagedBudget


__all__ = ["CAMPO_PAPER", "RepetitionReward", "StagedBudget", "trailing_loop"]

CAMPO_PAPER = Paper(
    title="MiroMind-M1: An Open-Source Advancement in Mathematical Reasoning via Context-Aware Multi-Stage Policy Optimization",
    id="2507.14683",
    # docstyle-ignore
    citation="""\
@article{li2025miromind,
    title        = {{MiroMind-M1: An Open-Source Advancement in Mathematical Reasoning via Context-Aware Multi-Stage Policy Optimization}},
    author       = {Xingxuan Li and Yao Xiao and Dianwen Ng and Hai Ye and Yue Deng and others},
    year         = 2025,
    eprint       = {arXiv:2507.14683}
}""",  # noqa: E501
)
FORMS = ("paper", "released")
LOOPS = ("longest_period", "earliest_start")


def trailing_loop(tokens: Sequence[int], *, loop: str = "longest_period") -> float:
    """
    Return the share of a sequence that belongs to the loop at its end: a block of tokens, repeated at least twice.

    Several periods may repeat at the end. The authors' rule takes the longest one, whichever explains most of the sequence. The
    time is linear in the number of tokens.

    Args:
        tokens (`Sequence[int]`): Token ids, without padding.
        loop (`str`, *optional*, defaults to `"longest_period"`):
            `"longest_period"`, the authors' rule, or `"earliest_start"`, the period whose loop is longest in total.

    Returns:
        `float`: In `[0, 1]`; 0 without a repeated block at the end.

    Raises:
        `ValueError`: If `loop` is unknown.

    Examples:
        >>> trailing_loop([1, 2, 3, 4, 7, 8, 7, 8]), trailing_loop([5] * 8), trailing_loop([7, 8, 7, 8, 1])
        (0.5, 1.0, 0.0)
        >>> trailing_loop([5] * 7), trailing_loop([5] * 7, loop="earliest_start")
        (0.8571428571428571, 1.0)
    """
    if loop not in LOOPS:
        raise ValueError(f"loop must be one of {LOOPS}, got {loop!r}.")
    looped = 0
    for period, match in enumerate(_suffix_matches(tokens), start=1):
        if match >= period:  # the last `period` tokens equal those before them
            covered = period * (1 + match // period)
            looped = covered if loop == "longest_period" else max(looped, covered)
    return looped / len(tokens) if tokens else 0.0


def _suffix_matches(tokens: Sequence[int]) -> list[int]:
    """
    Return, for each period from 1 to half of the length, how many tokens at the end equal those one period before them.

    This is the Z-function of the reversed sequence (Gusfield, Algorithms on Strings, Trees and Sequences, section 1.4).
    """
    if len(tokens) < 2 or tokens[-1] not in tokens[:-1]:  # as after EOS: nothing repeats at the end
        return []
    text = tokens[::-1]
    size = len(text)
    matches = [0] * (size // 2 + 1)
    left = right = 0  # text[left:right] equals a beginning of the text, with the largest `right` so far
    for start in range(1, len(matches)):
        match = min(matches[start - left], right - start) if start < right else 0
        while start + match < size and text[match] == text[start + match]:
            match += 1
        matches[start] = match
        if start + match > right:
            left, right = start, start + match
    return matches[1:]


class RepetitionReward(GroupReward):
    r"""
    Subtracts a penalty from the reward of completions that end in a loop. See [`trailing_loop`].

    In the paper's form (eqs. 5 and 6), $r_i - f_i$ with $f_i$ the share of tokens in the loop, before the normalization in the group. EOS
    counts as a token, so only completions that the model did not end have a loop.

    Args:
        form (`str`, *optional*, defaults to `"paper"`):
            `"paper"`: minus the share of tokens in the loop. `"released"`: minus `constant` for truncated completions with a loop, as
            in the authors' code.
        loop (`str`, *optional*, defaults to `"longest_period"`):
            See [`trailing_loop`].
        constant (`float`, *optional*, defaults to `0.1`):
            The penalty of the form `"released"`, at least 0.

    Raises:
        `ValueError`: If a setting is unknown or out of range.
    """

    name = "repetition"
    paper = CAMPO_PAPER
    reads_tokens = True
    needs_correctness = False

    def __init__(self, form: str = "paper", loop: str = "longest_period", constant: float = 0.1):
        if form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, got {form!r}.")
        if loop not in LOOPS:
            raise ValueError(f"loop must be one of {LOOPS}, got {loop!r}.")
        if not 0 <= constant < float("inf"):
            raise ValueError(
                f"constant must be at least 0 and finite, got {constant}: it is subtracted from the reward."
            )
        self.form = form
        self.loop = loop
        self.constant = constant

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        return {"share": torch.tensor([trailing_loop(ids, loop=self.loop) for ids in local.completion_ids])}

    def score(self, rollouts: Rollouts) -> Tensor:
        share = rollouts.measured[self.name]["share"]
        if self.form == "paper":
            return -share
        return -self.constant * ((share > 0) & rollouts.truncated)

    def observe(self, rollouts: Rollouts) -> None:
        share = rollouts.measured[self.name]["share"]
        self._metrics = {
            "looped_fraction": (share > 0).float().mean().item(),
            "share": share[share > 0].mean().item(),  # NaN without a loop
        }
