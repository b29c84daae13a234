# SPDX-License-Identifier: Apache-2.0
"""Forward passes that read each token of a row once, and return logits and last hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    Model: TypeAlias = PreTrainedModel | PeftModel

CHUNK = 512  # tokens whose logits are held at a time
_CACHED = {"full_attention", "sliding_attention"}  # kinds of layers whose cache is one key and value per token


def check_cache(model: Model) -> None:
    """
    Check that each layer of a model caches one key and value per token.

    Raises:
        `ValueError`: If it has layers of another kind, such as those of state space models.
    """
    layers = getattr(model.config.get_text_config(), "layer_types", None) or []
    if others := sorted(set(layers) - _CACHED):
        raise ValueError(
            f"{type(model).__name__} has layers of the kind {', '.join(others)}. R2R needs a key and a value per token: use models whose "
            f"layers are of the kind {' or '.join(sorted(_CACHED))}."
        )


class CachedReader:
    """
    Reads tokens with one model for the rows of a batch. Each row has a cache, so that it reads each token once.

    A call may have any of the rows, and any number of tokens for each. Caches are padded on the left and tokens on the right, so that the positions
    of a row are contiguous. A batch of the same rows as before, with one number of tokens for all, continues with the cache as it is.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, in evaluation mode.
        rows (`int`): Number of rows.

    Attributes:
        lengths (`list[int]`): How many tokens of each row have been read.
    """

    def __init__(self, model: Model, rows: int):
        self.model = model
        self.lengths = [0] * rows
        self._kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(rows)]  # per layer, (tokens, heads, width)
        self._rows: list[int] = []  # of the current batch
        self._starts: list[int] = []  # the padding before each of them
        self._cache = DynamicCache()

    @torch.inference_mode()
    def read(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """
        Read further tokens.

        Args:
            rows (`Sequence[int]`): Distinct rows.
            tokens (`Sequence[Sequence[int]]`): Their next tokens, at least one each.

        Returns:
            `tuple[Tensor, Tensor]`: Logits of the token after the last one, `(rows, vocabulary)`, and its hidden state `(rows, width)`, the
            input of the output embeddings.
        """
        if list(rows) != self._rows:
            self._store()
            self._stack(list(rows))
        new, device = [len(ids) for ids in tokens], self.model.device
        past = [self.lengths[row] for row in rows]
        before = self._starts[0] + past[0]  # slots of the cache, the same number for each row
        mask = torch.zeros(len(rows), before + max(new), dtype=torch.long)
        for place, (start, count) in enumerate(zip(self._starts, new, strict=True)):
            mask[place, start : before + count] = 1
        keep, place_of = torch.unique(torch.tensor(new) - 1, return_inverse=True)
        with hidden_states(self.model) as seen:
            logits = self.model(
                input_ids=pad_sequence([torch.tensor(ids) for ids in tokens], batch_first=True).to(device),
                attention_mask=mask.to(device),
                position_ids=(torch.tensor(past)[:, None] + torch.arange(max(new))).to(device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=keep.to(device),
            ).logits
        for row, count in zip(rows, new, strict=True):
            self.lengths[row] += count
        if len(keep) > 1:  # padding after the shorter rows
            self._store()
        every = torch.arange(len(rows), device=device)
        return logits[every, place_of.to(device)], seen[0][every, place_of.to(device)]

    def forget(self, row: int) -> None:
        """Free the cache of a row that is complete."""
        if row in self._rows:
            self._store()
        self._kept[row], self.lengths[row] = [], 0

    def _store(self) -> None:
        for place, row in enumerate(self._rows):
            own = slice(self._starts[place], self._starts[place] + self.lengths[row])
            self._kept[row] = [
                (
                    layer.keys[place, :, own].transpose(0, 1).clone(),
                    layer.values[place, :, own].transpose(0, 1).clone(),
                )
                for layer in self._cache.layers
            ]
        self._rows, self._cache = [], DynamicCache()

    def _stack(self, rows: list[int]) -> None:
        slots = max(self.lengths[row] for row in rows)
        self._rows, self._starts = rows, [slots - self.lengths[row] for row in rows]
        known = next((self._kept[row] for row in rows if self._kept[row]), [])
        for index, pair in enumerate(known):
            padded = []
            for which, example in enumerate(pair):
                own = [self._kept[row][index][which] if self._kept[row] else example[:0] for row in rows]
                padded.append(pad_sequence(own, batch_first=True, padding_side="left").transpose(1, 2))
            self._cache.update(*padded, index)
        for row in rows:
            self._kept[row] = []


@torch.inference_mode()
def read_completion(
    model: Model, prompt_ids: Sequence[int], completion_ids: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """
    Read a prompt and its completion in one pass, in chunks of 512 tokens.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, in evaluation mode.
        prompt_ids, completion_ids (`Sequence[int]`): At least one token each.

    Yields:
        `tuple[Tensor, Tensor]`: Hidden states `(n, width)` and logits `(n, vocabulary)` of the positions that predict the next tokens of the completion,
        as many in all as it has tokens.
    """
    ids = torch.tensor([[*prompt_ids, *completion_ids[:-1]]], device=model.device)
    first, cache = len(prompt_ids) - 1, DynamicCache()
    for start in range(0, ids.shape[1], CHUNK):
        end = min(start + CHUNK, ids.shape[1])
        wanted = end - max(start, first)
        with hidden_states(model) as seen:
            logits = model(
                input_ids=ids[:, start:end],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=max(wanted, 1),
            ).logits
        if wanted > 0:
            yield seen[0][0], logits[0]


@contextmanager
def hidden_states(model: Model) -> Iterator[list[Tensor]]:
    """Collect what each forward pass gives to the output embeddings: the last hidden states, `(rows, positions, width)`."""
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def evaluation_mode(*models: torch.nn.Module) -> Iterator[None]:
    """Put models in evaluation mode, and back."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
