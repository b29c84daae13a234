# SPDX-License-Identifier: Apache-2.0
"""
L1: controlling how long a reasoning model thinks (Aggarwal and Welleck, 2025, https://huggingface.co/papers/2503.04697).

The prompt asks for a number of tokens, and the reward penalizes the distance to that number (L1-Exact) or
exceeding it (L1-Max). After training, the length is set in the prompt.

Exact, and the released form of Max, are those of the authors' code (cmu-l3/l1, math_reward.py); the paper's form of Max
(cmu-l3/l1, docs/static/pdfs/paper.tex, which also gives delta 0.5 and the range of n) has twice the slope, and both are here.
No launch script of theirs sets the alpha of Max. The code's mixed mode, which draws Exact or Max per prompt, is left out.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts, prompt_key
from ..components import GroupReward, Paper


L1_PAPER = Paper(
    title="L1: Controlling How Long A Reasoning Model Thinks With Reinforcement Learning",
    id="2503.04697",
    # docstyle-ignore
    citation="""\
@article{aggarwal2025l1,
    title        = {{L1: Controlling How Long A Reasoning Model Thinks With Reinforcement Learning}},
    author       = {Pranjal Aggarwal and Sean Welleck},
    year         = 2025,
    eprint       = {arXiv:2503.04697}
}""",
)

_INSTRUCTIONS = {"exact": "Think for {} tokens.", "max": "Think for maximum {} tokens."}
_FORMS = ("exact", "max", "max-released")


def l1_exact_reward(lengths: Tensor, targets: Tensor, correct: Tensor, *, alpha: float = 0.0003) -> Tensor:
    r"""
    Penalize every completion, also wrong ones, for its distance to the length that its prompt asks for.

    $$ r = c - \alpha \, |n - \ell| $$

    Args:
        lengths (`torch.Tensor`): $\ell$, in tokens, of any shape.
        targets (`torch.Tensor`): $n$, in tokens, of the same shape.
        correct (`torch.Tensor`): $c$: 1 correct, 0 wrong, NaN unknown, of the same shape.
        alpha (`float`, *optional*, defaults to `0.0003`): Penalty per token of distance.

    Returns:
        `torch.Tensor`: At most 1, without a lower bound; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> l1_exact_reward(torch.tensor([800]), torch.tensor([1000]), torch.tensor([1.0]))
        tensor([0.9400])
    """
    return correct - alpha * (targets - lengths).abs()


def l1_max_reward(
    lengths: Tensor,
    targets: Tensor,
    correct: Tensor,
    *,
    alpha: float = 0.0003,
    delta: float = 0.5,
    released: bool = False,
) -> Tensor:
    r"""
    Reward a correct completion by how far it stays below the length that its prompt allows.

    $$ r = c \, \operatorname{clip}(\alpha (n - \ell) + \delta,\, 0,\, 1) $$

    The released code has $c \, (\operatorname{clip}(\alpha (n - \ell),\, -1,\, 1) + 1) / 2$, half as steep.

    Args:
        lengths, targets, correct, alpha: See [`l1_exact_reward`].
        delta (`float`, *optional*, defaults to `0.5`): Reward of a correct completion of exactly the allowed length.
            Not used by the released form, where it is 0.5.
        released (`bool`, *optional*, defaults to `False`): Use the form of the authors' code.

    Returns:
        `torch.Tensor`: In `[0, 1]`, 0 if wrong; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> length, target, correct = torch.tensor([800]), torch.tensor([2000]), torch.tensor([1.0])
        >>> l1_max_reward(length, target, correct), l1_max_reward(length, target, correct, released=True)
        (tensor([0.8600]), tensor([0.6800]))
    """
    saved = alpha * (targets - lengths)
    return correct * ((saved.clamp(-1, 1) + 1) / 2 if released else (saved + delta).clamp(0, 1))


def with_target_length(
    row: Mapping[str, Any], *, low: int = 100, high: int = 4000, mode: str = "exact", seed: int = 0
) -> dict[str, Any]:
    """
    Ask for a length in a row's prompt, after a space; for `dataset.map`.

    The length is drawn uniformly, from the prompt's key and the seed: it does not depend on the order of rows or on the
    number of processes that map.

    Args:
        row (`Mapping[str, Any]`):
            A row with a `prompt`, a string or a list of messages of which the last one is extended.
        low (`int`, *optional*, defaults to `100`):
            Fewest tokens, as in the paper.
        high (`int`, *optional*, defaults to `4000`):
            Most tokens, as in the paper.
        mode (`str`, *optional*, defaults to `"exact"`):
            `"exact"` asks for that many tokens, `"max"` for at most that many.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the lengths.

    Returns:
        `dict[str, Any]`: The columns `prompt` and `target_length` (tokens).

    Raises:
        `ValueError`: If `mode` is unknown.

    Examples:
        >>> with_target_length({"prompt": "What is 2 + 3?"}, low=100, high=100)
        {'prompt': 'What is 2 + 3? Think for 100 tokens.', 'target_length': 100}
    """
    if mode not in _INSTRUCTIONS:
        raise ValueError(f"mode must be one of {tuple(_INSTRUCTIONS)}, got {mode!r}.")
    target = random.Random(f"{seed} {prompt_key(row)}").randint(low, high)
    instruction, prompt = " " + _INSTRUCTIONS[mode].format(target), row["prompt"]
    if isinstance(prompt, str):
        prompt = prompt + instruction
    else:
        content = prompt[-1]["content"]
        content = content + (instruction if isinstance(content, str) else [{"type": "text", "text": instruction}])
        prompt = [*prompt[:-1], {**prompt[-1], "content": content}]
    return {"prompt": prompt, "target_length": target}


class L1Reward(GroupReward):
    """
    L1's reward minus the correctness (1 or 0); with weights of 1, the two add up to the paper's reward.

    The training dataset needs a column `target_length`, in tokens: see [`with_target_length`]. In an evaluation without
    this column, completions have no such reward.

    Args:
        form (`str`, *optional*, defaults to `"exact"`):
            `"exact"`, `"max"` (the paper's form) or `"max-released"` (the authors' code).
        alpha (`float`, *optional*, defaults to `0.0003`):
            Penalty per token, at least 0.
        delta (`float`, *optional*, defaults to `0.5`):
            Reward of a correct completion of exactly the allowed length; for `"max"` only.
    """

    name = "l1"
    paper = L1_PAPER

    def __init__(self, form: str = "exact", alpha: float = 0.0003, delta: float = 0.5):
        if form not in _FORMS:
            raise ValueError(f"form must be one of {_FORMS}, got {form!r}.")
        if alpha < 0:
            raise ValueError(f"alpha must be at least 0, got {alpha}.")
        self.form = form
        self.alpha = alpha
        self.delta = delta
        self._metrics: dict[str, float] = {}

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        if "target_length" not in local.columns and not local.training:
            return {"target": torch.full(local.lengths.shape, torch.nan, device=local.lengths.device)}
        if "target_length" not in local.columns:
            raise ValueError(
                "L1Reward needs the dataset column `target_length`, the tokens that the prompt asks for; the dataset has "
                f"{sorted(local.columns)}. Make it with dataset.map(with_target_length)."
            )
        return {"target": torch.tensor(local.columns["target_length"], device=local.lengths.device)}

    def score(self, rollouts: Rollouts) -> Tensor:
        numbers = rollouts.lengths, rollouts.measured[self.name]["target"], rollouts.correct
        if self.form == "exact":
            reward = l1_exact_reward(*numbers, alpha=self.alpha)
        else:
            released = self.form == "max-released"
            reward = l1_max_reward(*numbers, alpha=self.alpha, delta=self.delta, released=released)
        return reward - rollouts.correct

    def observe(self, rollouts: Rollouts) -> None:
        excess = rollouts.lengths - rollouts.measured[self.name]["target"]
        self._metrics = {
            "distance_mean": excess.abs().mean().item(),
            "over_target_fraction": (excess > 0).float().mean().item(),
        }
