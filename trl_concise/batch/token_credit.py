# SPDX-License-Identifier: Apache-2.0
"""
Passes the token selection of [`TokenCredit`] components to the loss, and skips the computation of unselected tokens.

Unselected tokens get the label -100, so that TRL's fused head skips them, and a micro-batch is cropped after its last
selected token, so that the backbone does not process later tokens. Both are exact for causal models: the log-probability of
a token, and its gradient, depend only on the tokens before it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from torch.nn import functional as F
from trl import GRPOConfig

from ..checks import describe
from ..components import TokenCredit
from .rollouts import CompletionTokens, Rollouts


def check_selection(credit: TokenCredit, args: GRPOConfig) -> None:
    """Raise an error for settings that need the same weight for all tokens of a completion."""
    name = type(credit).__name__
    if args.importance_sampling_level == "sequence":
        raise ValueError(
            f'{name} gives each token a separate credit, but importance_sampling_level="sequence" gives all tokens of a '
            'completion one ratio. Set it to "token".'
        )
    if args.loss_type == "vespo":
        raise ValueError(
            f'{name} selects tokens, but loss_type="vespo" weighs a completion by the ratio of all its tokens. Choose '
            'another loss_type, e.g. "grpo" or "dapo".'
        )
    if args.off_policy_mask_threshold is not None:
        raise ValueError(
            f"{name} selects tokens, but off_policy_mask_threshold drops completions by the divergence of all their tokens "
            "and by the sign of one advantage. Leave it None."
        )


def gather_tokens(tokens: CompletionTokens) -> CompletionTokens:
    """Return the tokens of all processes, for groups that straddle them."""
    pairs = gather_object(list(zip(tokens.ids, tokens.mask, strict=True)))
    return CompletionTokens(
        ids=[ids for ids, _ in pairs],
        mask=[mask for _, mask in pairs],
        num_generations=tokens.num_generations,
        step=tokens.step,
        start=0,
        local=tokens.local,
        earlier=tokens.earlier,
    )


def select_tokens(
    credits: Sequence[TokenCredit], tokens: CompletionTokens
) -> tuple[list[list[int]], list[Tensor | None]]:
    """
    Return, per completion of this process, 1 for each token that every component may keep, and what each component selected,
    before any reward is known.

    Raises:
        `ValueError`: If a component selects among more or fewer completions, or among fewer tokens, than there are.
    """
    chosen = [mask for _, mask in tokens.own()]
    selections = [credit.select(tokens) for credit in credits]
    for credit, keep in zip(credits, selections, strict=True):
        if keep is not None:
            longest = max(map(len, chosen), default=0)
            is_mask = isinstance(keep, Tensor) and keep.ndim == 2
            if not is_mask or keep.size(0) != len(chosen) or keep.size(1) < longest:
                raise ValueError(
                    f"{type(credit).__name__}.select returned {describe(keep)} for {len(chosen)} completions of at most "
                    f"{longest} tokens. Return a tensor of the shape ({len(chosen)}, {longest}), or wider."
                )
            chosen = [
                [int(a and b) for a, b in zip(mask, row, strict=False)]
                for mask, row in zip(chosen, keep.tolist(), strict=True)
            ]
    return chosen, selections


def takes_selection(credit: TokenCredit) -> bool:
    """Return whether `assign` of a component takes the selection as its fourth argument: that of version 0.1.0 takes three."""
    try:
        inspect.signature(credit.assign).bind(None, None, None, None)
    except TypeError:
        return False
    return True


def assign_token_credit(
    credits: Sequence[TokenCredit], rollouts: Rollouts, batch: dict[str, Any], selections: Sequence[Tensor | None] = ()
) -> dict[str, float]:
    """
    Apply the components to the batch's advantages, and write advantages, token mask and token count into the batch.

    Args:
        credits (`Sequence[TokenCredit]`): The components, in order.
        rollouts ([`Rollouts`]): The gathered batch.
        batch (`dict[str, Any]`): TRL's tensors of this process's rows, changed in place.
        selections (`Sequence[torch.Tensor | None]`, *optional*): What each component selected; empty if none was asked.

    Returns:
        `dict[str, float]`: The metrics of the components, averaged over processes.

    Raises:
        `ValueError`: If a component returns another shape, or an advantage that is not finite.
    """
    mask = batch["completion_mask"].bool()
    if "tool_mask" in batch:
        mask = mask & batch["tool_mask"].bool()
    for i, credit in enumerate(credits):
        selected = selections[i] if i < len(selections) else None
        arguments: tuple[Tensor | None, ...] = ()
        if takes_selection(credit):
            arguments = (_fit(selected, mask) if selected is not None else None,)
        advantages, keep = credit.assign(rollouts, batch, batch["advantages"], *arguments)
        if advantages.shape not in (mask.shape[:1], mask.shape) or (keep is not None and keep.shape != mask.shape):
            raise ValueError(
                f"{type(credit).__name__}.assign returned advantages {tuple(advantages.shape)} and a mask "
                f"{tuple(keep.shape) if keep is not None else None}; expected {tuple(mask.shape[:1])} or "
                f"{tuple(mask.shape)}, and {tuple(mask.shape)}."
            )
        if not advantages.isfinite().all():
            raise ValueError(
                f"{type(credit).__name__}.assign returned an advantage that is infinite or NaN, which would make the weights "
                "NaN. Return finite numbers; 0 leaves a token without effect."
            )
        batch["advantages"] = advantages
        mask = mask & keep if keep is not None else mask
    # TRL multiplies the loss mask by `tool_mask` whenever the key is there: a token mask for every loss type.
    batch["tool_mask"] = mask.long()
    # The losses that divide by all tokens of the batch (dapo, cispo, vespo) must count the kept ones.
    batch["num_items_in_batch"] = gather(mask.sum()).sum()
    metrics = {f"{credit.name}/{name}": value for credit in credits for name, value in credit.metrics().items()}
    if not metrics:
        return {}
    means = gather(torch.tensor([list(metrics.values())], device=mask.device)).nanmean(dim=0)
    return dict(zip(metrics, means.tolist(), strict=True))


def _fit(selected: Tensor, mask: Tensor) -> Tensor:
    """Pad a selection to the size of the batch: nothing is selected in padding, everything in rows that were added later."""
    selected = selected.to(mask.device).bool()[:, : mask.size(1)]
    selected = F.pad(selected, (0, mask.size(1) - selected.size(1)))
    return F.pad(selected, (0, 0, 0, mask.size(0) - selected.size(0)), value=True)


def order_by_kept_length(chunks: list[dict[str, Any]], args: GRPOConfig) -> list[dict[str, Any]]:
    """
    Put rows that need the same width into the same micro-batch.

    Rows move only between the micro-batches of one optimizer step, whose gradients are added anyway. Rows are not moved
    if the loss has a mean or a quantile over a micro-batch, or if they have images.

    Args:
        chunks (`list[dict[str, Any]]`): Micro-batches of a generation batch, as TRL split them.
        args ([`~trl.GRPOConfig`]): The trainer's.

    Returns:
        `list[dict[str, Any]]`: As many micro-batches of the same sizes.
    """
    mean_over_chunk = args.loss_type == "bnpo" or args.entropy_coef != 0 or args.use_adaptive_entropy
    mean_over_chunk |= args.top_entropy_quantile < 1  # a quantile over a micro-batch
    window = min(args.gradient_accumulation_steps, len(chunks))  # micro-batches of one optimizer step
    aligned = args.gradient_accumulation_steps % window == 0 and len(chunks) % window == 0
    if window == 1 or not aligned or mean_over_chunk or "pixel_values" in chunks[0]:
        return chunks
    ordered = []
    for start in range(0, len(chunks), window):
        group = chunks[start : start + window]
        keep = torch.cat([chunk["completion_mask"] * chunk["tool_mask"] for chunk in group])
        permutation = kept_lengths(keep).argsort(
            stable=True, descending=True
        )  # the widest first, so that peak memory is reached early
        sizes = [len(chunk["completion_mask"]) for chunk in group]
        whole = {
            name: value
            if value is None or (isinstance(value, Tensor) and value.ndim == 0)
            else _reorder([chunk[name] for chunk in group], permutation)
            for name, value in group[0].items()
        }
        for end, size in zip(torch.tensor(sizes).cumsum(0).tolist(), sizes, strict=True):
            ordered.append(
                {
                    name: value[end - size : end]
                    if isinstance(value, list) or (value is not None and value.ndim)
                    else value
                    for name, value in whole.items()
                }
            )
    return ordered


def _reorder(chunks: list, permutation: Tensor):
    if isinstance(chunks[0], Tensor):
        return torch.cat(chunks)[permutation]
    rows = [row for chunk in chunks for row in chunk]
    return [rows[i] for i in permutation.tolist()]


def kept_lengths(keep: Tensor) -> Tensor:
    """
    Return how many tokens of each completion the model must process to score the kept ones.

    Args:
        keep (`torch.Tensor`): `(b, T)`, nonzero where a token is kept.

    Returns:
        `torch.Tensor`: `(b,)` int64, index of the last kept token plus 1; 0 where none is.
    """
    positions = torch.arange(1, keep.size(1) + 1, device=keep.device)
    return (keep.bool() * positions).amax(dim=1)


class KeptTokens:
    """
    Scores only the kept tokens of a batch.

    Args:
        keep (`torch.Tensor`): `(b, T)` bool. Columns that TRL pads beyond T count as not kept.
        crop (`bool`, *optional*, defaults to `True`): Whether the columns after the last kept token are left out of
            the forward pass. A batch without kept tokens still runs one column, so that no process waits for it.
        multiple_of (`int`, *optional*): Round the cropped width up to a multiple, as TRL's `pad_to_multiple_of`.
    """

    def __init__(self, keep: Tensor, crop: bool = True, multiple_of: int | None = None):
        self.keep = keep
        self.crop = crop
        self.multiple_of = multiple_of or 1
        self.cropped_fraction = 0.0  # of the columns of the last scored batch

    def score(
        self, score: Callable, model, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args, **kwargs
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """
        Call TRL's scoring on the cropped batch, and pad the result to the whole batch with zeros where nothing is kept.

        Args:
            score (`Callable`): `GRPOTrainer._get_per_token_logps_and_entropies`, bound.
            model, input_ids, attention_mask, logits_to_keep, ...: Its arguments.
        """
        keep = F.pad(self.keep, (0, logits_to_keep - self.keep.size(1)))
        width = logits_to_keep
        if self.crop:
            needed = max(1, int(kept_lengths(keep).max()))
            width = min(width, -(-needed // self.multiple_of) * self.multiple_of)
        left_out = logits_to_keep - width
        self.cropped_fraction = left_out / input_ids.size(1)
        end = input_ids.size(1) - left_out
        for name in ("token_type_ids", "mm_token_type_ids"):
            if kwargs.get(name) is not None:
                kwargs[name] = kwargs[name][:, :end]
        model = _SelectedLabels(model, keep[:, :width])
        logps, entropies, aux_loss = score(model, input_ids[:, :end], attention_mask[:, :end], width, *args, **kwargs)
        entropies = F.pad(entropies, (0, left_out)) if entropies is not None else None
        return F.pad(logps, (0, left_out)), entropies, aux_loss


class _SelectedLabels:
    """Calls a model with the label -100 at every token that is not kept; batches come in chunks, in order."""

    def __init__(self, model, keep: Tensor):
        self.model = model
        self.keep = keep
        self.row = 0

    def __call__(self, *, labels: Tensor, **kwargs):
        keep = self.keep[self.row : self.row + len(labels)]
        self.row += len(labels)
        labels = labels.clone()
        labels[:, -keep.size(1) :].masked_fill_(~keep, -100)
        return self.model(labels=labels, **kwargs)
