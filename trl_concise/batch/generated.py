# SPDX-License-Identifier: Apache-2.0
"""How the completions of a [`Rollout`] enter TRL's generation and the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import pad

from ..checks import describe
from .chunks import check_chunks, count_chunks
from .generation import Generated


if TYPE_CHECKING:
    from ..components import Rollout
    from .batch import GenerationBatch


def generate(trainer: GRPOTrainer, rollout: Rollout, batch: GenerationBatch, prompts: list) -> dict[str, Any]:
    """
    Ask a [`Rollout`] for the completions of a batch, and return them as a TRL `rollout_func` does.

    Args:
        trainer ([`~trl.GRPOTrainer`]): The trainer.
        rollout ([`Rollout`]): The component.
        batch ([`GenerationBatch`]): The batch, which remembers what the component returned.
        prompts (`list`): The prompts of the rows.

    Raises:
        `ValueError`: If the component returns too few or too many completions, tokens, numbers or columns.
    """
    generated = rollout.generate(trainer, batch.rows)
    name = type(rollout).__name__
    if not isinstance(generated, Generated):
        raise ValueError(f"{name}.generate returned {describe(generated)}. Return a Generated.")
    _check(generated, name, batch.rows)
    needs_logps = trainer.use_vllm and trainer.vllm_importance_sampling_correction
    if needs_logps and generated.logps is None:
        raise ValueError(
            f"{name}.generate returned no logps, which vllm_importance_sampling_correction needs. Return "
            "Generated.of(trainer.generate_rollouts(...)), or set vllm_importance_sampling_correction=False."
        )
    batch.generated = generated
    prompt_ids = generated.prompt_ids
    if prompt_ids is None:
        prompt_ids, _, _ = trainer._tokenize_prompts(prompts)
    if generated.chunks is not None:
        check_chunks(trainer, name)
        count_chunks(trainer, generated.chunks, prompt_ids)
    logps: list[list[float | None]] | None = None
    if generated.logps is not None:
        # Where the token was not drawn by the sampler, there is nothing to correct: TRL's ratio is 1 for None.
        old_logps = generated.old_logps or [[math.nan] * len(row) for row in generated.logps]
        logps = [
            [logp if math.isnan(old) and not math.isnan(logp) else None for logp, old in zip(row, forced, strict=True)]
            for row, forced in zip(generated.logps, old_logps, strict=True)
        ]
    mask = {"env_mask": generated.mask} if generated.mask is not None else {}
    return {
        "prompt_ids": prompt_ids,
        "completion_ids": generated.completion_ids,
        "logprobs": logps,
        **mask,
        **generated.numbers,
        **generated.columns,
    }


def _check(generated: Generated, name: str, rows: list[dict[str, Any]]) -> None:
    lengths = [len(ids) for ids in generated.completion_ids]
    if len(lengths) != len(rows) or not all(lengths):
        raise ValueError(
            f"{name}.generate returned {len(lengths)} completions, of at least {min(lengths, default=0)} tokens, for {len(rows)} "
            "rows. Return one completion of at least one token for each row."
        )
    for part in ("logps", "old_logps", "mask"):
        values = getattr(generated, part)
        if values is not None and [len(row) for row in values] != lengths:
            raise ValueError(
                f"{name}.generate returned {part} that do not match its completion_ids. Return one value for each token."
            )
    if generated.chunks is not None and (len(generated.chunks) != len(rows) or generated.mask is None):
        raise ValueError(
            f"{name}.generate returned chunks of {len(generated.chunks)} completions for {len(rows)} rows, "
            f"{'with' if generated.mask else 'without'} a mask. Return one list for each row, empty if a completion has one "
            "chunk, and a mask that is 0 at carried tokens."
        )
    for kind, given in (("number", generated.numbers), ("value", generated.columns)):
        for key, values in given.items():
            if len(values) != len(rows) or key in rows[0]:
                raise ValueError(
                    f"{name}.generate returned {len(values)} {kind}s as {key!r} for {len(rows)} rows with the columns "
                    f"{sorted(rows[0])}. Return one {kind} for each row, under a name that is not a column."
                )
    for key, tensor in generated.tensors.items():
        if not isinstance(tensor, Tensor) or tensor.ndim == 0 or len(tensor) != len(rows):
            raise ValueError(
                f"{name}.generate returned {describe(tensor)} as {key!r}. Return a tensor whose first dimension is {len(rows)}, the "
                "number of rows."
            )


def gather_numbers(generated: Generated, device: torch.device) -> dict[str, Tensor]:
    """Return the numbers of all processes: `(B,)` float32 each."""
    return {
        name: gather(torch.tensor(generated.numbers[name], dtype=torch.float32, device=device))
        for name in sorted(generated.numbers)
    }


def add_to_loss(generated: Generated, tensors: dict[str, Any]) -> None:
    """
    Add what the loss reads: the log-probabilities of forced tokens, and the tensors for a subclass.

    Args:
        generated ([`Generated`]): What the component returned.
        tensors (`dict[str, Any]`): TRL's tensors of this process's rows, changed in place.

    Raises:
        `ValueError`: If a tensor has a name that TRL uses.
    """
    device = tensors["completion_ids"].device
    if generated.old_logps is not None:
        rows = [torch.tensor(row, dtype=torch.float32) for row in generated.old_logps]
        logps = pad(rows, padding_value=math.nan, padding_side="right").to(device)
        logps = torch.nn.functional.pad(logps, (0, tensors["completion_ids"].size(1) - logps.size(1)), value=math.nan)
        tensors["is_forced"], tensors["forced_logps"] = ~logps.isnan(), logps.nan_to_num(nan=0.0)
        if tensors.get("old_per_token_logps") is not None:
            tensors["old_per_token_logps"] = replace_forced(tensors, tensors["old_per_token_logps"])
    if taken := sorted(generated.tensors.keys() & tensors.keys()):
        raise ValueError(
            f"Generated.tensors has the names {taken}, which TRL uses for tensors of its own. Rename them."
        )
    tensors |= {name: tensor.to(device) for name, tensor in generated.tensors.items()}


def replace_forced(tensors: dict[str, Any], logps: Tensor) -> Tensor:
    """Return the log-probabilities of the old policy, `(b, T)`, with those of forced tokens in their place."""
    return torch.where(tensors["is_forced"], tensors["forced_logps"].to(logps), logps)
