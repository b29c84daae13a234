# SPDX-License-Identifier: Apache-2.0
"""
Rows that components add to a generation batch: other prompts, other completions, rewards of their own.

[`TrainsOnRows`] asks the components for them and lets TRL score them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Rows:
    """
    Completions to train on in addition to the batch, n on this process. Each process may add another number.

    Attributes:
        prompt_ids (`list[list[int]]`): Token ids before each completion, at least one.
        completion_ids (`list[list[int]]`): Token ids of each completion, at least one.
        group (`Sequence[int]`): Group of each completion. Rewards are compared within a group, all of whose rows belong to
            one process.
        rewards (`torch.Tensor`, *optional*): `(n,)`, NaN where unknown. The trainer normalizes them per group, as
            `scale_rewards` says; a row whose reward is unknown gets the advantage 0.
        advantages (`torch.Tensor`, *optional*): `(n,)`, or `(n, T)` per token; used as they are. Give these or `rewards`.
        mask (`list[list[int]]`, *optional*): 1 for each token that the loss may use. Default: all.
        logps (`list[list[float]]`, *optional*): Log-probabilities under the sampler, as `generate_rollouts` returns them
            with vLLM. Without them, vLLM's correction leaves these rows unchanged (a ratio of 1).

    Raises:
        `ValueError`: If the lists differ in length, a prompt or a completion is empty, or not exactly one of `rewards` and
            `advantages` is given.
    """

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    group: Sequence[int]
    rewards: Tensor | None = None
    advantages: Tensor | None = None
    mask: list[list[int]] | None = None
    logps: list[list[float]] | None = None

    def __post_init__(self):
        count = len(self.completion_ids)
        if len(self.prompt_ids) != count or len(self.group) != count:
            raise ValueError(
                f"Rows needs one prompt and one group for each of {count} completions, but got {len(self.prompt_ids)} "
                f"prompts and {len(self.group)} groups."
            )
        for name, lists in {"prompt": self.prompt_ids, "completion": self.completion_ids}.items():
            if not all(lists):
                raise ValueError(
                    f"The {name} of row {[len(ids) for ids in lists].index(0)} has no tokens. Give at least one."
                )
        for name in ("mask", "logps"):
            values = getattr(self, name)
            if values is not None and [len(row) for row in values] != [len(ids) for ids in self.completion_ids]:
                raise ValueError(f"{name} of Rows needs one number for each completion token of each of {count} rows.")
        if (self.rewards is None) == (self.advantages is None):
            raise ValueError("Rows takes either `rewards` or `advantages`: give one of them.")
        width = max(map(len, self.completion_ids), default=0)
        given: dict[str, tuple[Tensor | None, list[tuple[int, ...]]]] = {
            "rewards": (self.rewards, [(count,)]),
            "advantages": (self.advantages, [(count,), (count, width)]),
        }
        for name, (tensor, shapes) in given.items():
            if tensor is not None and tuple(tensor.shape) not in shapes:
                expected = " or ".join(str(shape) for shape in shapes)
                raise ValueError(f"{name} of Rows has the shape {tuple(tensor.shape)}, but must have {expected}.")
        if self.advantages is not None and not self.advantages.isfinite().all():
            raise ValueError("advantages of Rows must be finite. Give 0 to a row that the loss does not use.")

    def __len__(self) -> int:
        return len(self.completion_ids)

    @property
    def loss_mask(self) -> list[list[int]]:
        """1 for each token that the loss may use, per row."""
        return self.mask if self.mask is not None else [[1] * len(ids) for ids in self.completion_ids]

    def with_advantages(self, scale: str) -> Rows:
        """
        Return the rows with advantages: those given, or the rewards normalized per group as TRL does.

        Every process calls this, with any number of rows.

        Args:
            scale (`str`): `"group"`, `"batch"` (the standard deviation of all added rows) or `"none"`, as `scale_rewards`.
        """
        spread = None
        if scale == "batch":
            rewards = self.rewards
            if rewards is None:
                assert self.advantages is not None  # see `__post_init__`
                # On the device that the processes gather from.
                rewards = torch.full((len(self),), torch.nan, device=self.advantages.device)
            rewards = _gather_uneven(rewards.float())
            spread = _std(rewards[~rewards.isnan()])
        if self.rewards is None:
            return self
        group = torch.tensor(list(self.group), device=self.rewards.device)
        advantages = torch.zeros_like(self.rewards, dtype=torch.float32)
        for index in group.unique():
            members = (group == index) & ~self.rewards.isnan()
            known = self.rewards[members].float()
            deviations = known - known.mean()
            if scale != "none":
                deviations = deviations / ((spread if spread is not None else _std(known)) + 1e-4)
            advantages[members] = deviations
        return replace(self, rewards=None, advantages=advantages)

    def padded(self, count: int, filler: int) -> Rows:
        """Return `count` rows: these, and rows of one token that the loss does not use."""
        missing = count - len(self)
        if missing < 0:
            raise ValueError(f"There are {len(self)} rows already; cannot pad them to {count}.")
        assert self.advantages is not None  # after `with_advantages`
        last = max(self.group, default=-1)
        rows = F.pad(self.advantages, (*[0, 0] * (self.advantages.ndim - 1), 0, missing))
        if self.advantages.ndim == 2 and not rows.size(1):
            rows = rows.new_zeros(count, 1)
        return Rows(
            prompt_ids=[*self.prompt_ids, *[[filler]] * missing],
            completion_ids=[*self.completion_ids, *[[filler]] * missing],
            group=[*self.group, *range(last + 1, last + 1 + missing)],
            advantages=rows,
            mask=[*self.loss_mask, *[[0]] * missing],
            logps=[*self.logps, *[[0.0]] * missing] if self.logps is not None else None,
        )

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Return the rows of several components as one, with advantages `(n,)` or `(n, T)` and separate groups."""
        group: list[int] = []
        for part in parts:
            numbers = {index: len(set(group)) + i for i, index in enumerate(dict.fromkeys(part.group))}
            group = [*group, *(numbers[index] for index in part.group)]
        width = max((len(ids) for part in parts for ids in part.completion_ids), default=1)
        blocks = []
        for part in parts:
            assert part.advantages is not None  # after `with_advantages`
            block = part.advantages.float()
            if any(other.advantages is not None and other.advantages.ndim == 2 for other in parts):
                block = (
                    block[:, None].expand(-1, width) if block.ndim == 1 else F.pad(block, (0, width - block.size(1)))
                )
            blocks.append(block)
        logps = None
        if any(part.logps is not None for part in parts):
            logps = [
                row
                for part in parts
                for row in (part.logps or [[torch.nan] * len(ids) for ids in part.completion_ids])
            ]
        return cls(
            prompt_ids=[ids for part in parts for ids in part.prompt_ids],
            completion_ids=[ids for part in parts for ids in part.completion_ids],
            group=group,
            advantages=torch.cat(blocks),
            mask=[row for part in parts for row in part.loss_mask],
            logps=logps,
        )


def _std(values: Tensor) -> Tensor:
    return values.std() if len(values) > 1 else values.new_zeros(())


def _gather_uneven(values: Tensor) -> Tensor:
    """Gather `(n,)` values of which each process may have another number; NaN fills the rest."""
    longest = int(gather(torch.tensor([len(values)], device=values.device)).max())
    return gather(F.pad(values, (0, longest - len(values)), value=torch.nan))


def append_batch(batch: dict[str, Any], added: dict[str, Any], filler: int) -> None:
    """
    Append TRL's tensors of added rows to those of the batch, in place.

    Args:
        batch (`dict[str, Any]`): Tensors of b rows, as `_generate_and_score_completions` returns them.
        added (`dict[str, Any]`): The same of n rows; a tensor that they lack is filled with zeros.
        filler (`int`): Padding token.

    Raises:
        `ValueError`: If the batch has images.
    """
    if "pixel_values" in batch:
        raise ValueError("Rows cannot be added to a batch with images. Train on prompts of text.")
    for tensors in (batch, added):
        tensors.setdefault("tool_mask", torch.ones_like(tensors["completion_mask"]))
    if added["advantages"].ndim != batch["advantages"].ndim:  # one number per completion is one for each of its tokens
        for tensors in (batch, added):
            if tensors["advantages"].ndim == 1:
                tensors["advantages"] = tensors["advantages"][:, None].expand_as(tensors["completion_ids"])
    count = len(added["completion_ids"])
    for name, value in batch.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            continue
        fill = filler if name in ("prompt_ids", "completion_ids") else 0
        extra = added[name] if name in added else value.new_full((count, *value.shape[1:]), fill)
        if value.ndim >= 2:
            wide = max(value.size(1), extra.size(1))
            inner = [0, 0] * (value.ndim - 2)  # of numbers per token, such as a mixture
            value, extra = (
                F.pad(block, (*inner, missing, 0) if name.startswith("prompt") else (*inner, 0, missing), value=fill)
                for block, missing in ((value, wide - value.size(1)), (extra, wide - extra.size(1)))
            )
        batch[name] = torch.cat([value, extra.to(value)])
