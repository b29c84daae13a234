# SPDX-License-Identifier: Apache-2.0
"""The output of a decoder layer: read it, replace it with the reconstruction of a sparse autoencoder, and find its reasoning features."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..verification.finished import MARKERS, ThinkingMarkers
from .resa_text import SYSTEM_PROMPT


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .resa_sae import TopKSAE


def decoder(model: PreTrainedModel) -> nn.Module:
    """Return the decoder of a causal language model, with or without an adapter."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = base.get_decoder()
    if not isinstance(getattr(found, "layers", None), nn.ModuleList):
        raise ValueError(
            f"{type(base).__name__} has no list of decoder layers. Use a causal language model such as Qwen2 or Llama."
        )
    return found


def hidden_size(model: PreTrainedModel) -> int:
    """Return the width d of a model's layers."""
    return model.config.get_text_config().hidden_size


def check_layer(model: PreTrainedModel, layer: int) -> nn.Module:
    """
    Return a decoder layer.

    Raises:
        `ValueError`: If the model has no such layer.
    """
    layers = decoder(model).layers
    if not 0 <= layer < len(layers):
        raise ValueError(
            f"layer must be between 0 and {len(layers) - 1}, got {layer}: the model has {len(layers)} layers, counted from 0."
        )
    return layers[layer]


def check_fits(model: PreTrainedModel, layer: int, d_in: int) -> None:
    """
    Raises:
        `ValueError`: If the model has no such layer, or its layers do not have the width of the SAE.
    """
    check_layer(model, layer)
    if d_in != hidden_size(model):
        raise ValueError(
            f"The SAE has the width {d_in}, the model {hidden_size(model)}. Source and target model need layers of equal width."
        )


def _hidden(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def layer_output(model: PreTrainedModel, layer: int, input_ids: Tensor) -> Tensor:
    """
    Return the hidden states after a layer, in evaluation mode.

    Args:
        model ([`~transformers.PreTrainedModel`]): A causal language model.
        layer (`int`): Decoder layer, counted from 0.
        input_ids (`torch.Tensor`): `(B, T)`, without padding.

    Returns:
        `torch.Tensor`: `(B, T, d)`.
    """
    captured: list[Tensor] = []
    handle = check_layer(model, layer).register_forward_hook(
        lambda module, args, output: captured.append(_hidden(output))
    )
    was_training = model.training
    try:
        model.eval()
        decoder(model)(input_ids=input_ids, use_cache=False)
    finally:
        handle.remove()
        model.train(was_training)
    return captured[0]


class InsertedSAE:
    """
    The forward hook of [`sae_inserted`].

    Args:
        sae ([`TopKSAE`]): The autoencoder.
        gradient (`bool`): Whether the gradient passes through it.

    Attributes:
        x, reconstruction (`torch.Tensor`, *optional*): Activations and reconstruction of the last forward pass, `(B, T, d)`, detached.
    """

    def __init__(self, sae: TopKSAE, gradient: bool):
        self.sae, self.gradient = sae, gradient
        self.x: Tensor | None = None
        self.reconstruction: Tensor | None = None
        self._is_active = True

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if not self._is_active:
            return output
        x = _hidden(output)
        with torch.set_grad_enabled(self.gradient and torch.is_grad_enabled()):
            reconstruction = self.sae(x)
        self.x, self.reconstruction = x.detach(), reconstruction.detach()
        return (reconstruction, *output[1:]) if isinstance(output, tuple) else reconstruction

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the model compute without the SAE."""
        self._is_active = False
        try:
            yield
        finally:
            self._is_active = True


@contextmanager
def sae_inserted(model: PreTrainedModel, layer: int, sae: TopKSAE, *, gradient: bool = True) -> Iterator[InsertedSAE]:
    """
    Replace the output of a layer with its reconstruction by an SAE, inside a `with` block. The hook is removed at its end.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The model. Its layers may return tensors or tuples.
        layer (`int`): Decoder layer, counted from 0.
        sae ([`TopKSAE`]): An SAE of the model's width. It is moved to the device of the layer.
        gradient (`bool`, *optional*, defaults to `True`): Whether the gradient passes through the SAE to the layers up to `layer`.

    Yields:
        [`InsertedSAE`]: The hook, which has the last activations.

    Raises:
        `ValueError`: If the layer does not exist, or the widths differ.

    Example:

    ```python
    >>> with sae_inserted(model, 12, TopKSAE.load("outputs/sae")):
    ...     logits = model(input_ids).logits
    ```
    """
    check_fits(model, layer, sae.d_in)
    module = check_layer(model, layer)
    sae.to(next(module.parameters()).device)
    inserted = InsertedSAE(sae, gradient)
    handle = module.register_forward_hook(inserted)
    try:
        yield inserted
    finally:
        handle.remove()


def reasoning_features(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sae: TopKSAE,
    layer: int,
    *,
    text: str = SYSTEM_PROMPT,
    markers: ThinkingMarkers = MARKERS,
) -> list[int]:
    """
    Return the reasoning features of a layer: the latents that are active at both markers of a text and at no other token of it.

    Args:
        model, tokenizer: The model, and its tokenizer, which has a token for each marker.
        sae ([`TopKSAE`]): An SAE of the layer.
        layer (`int`): Decoder layer, counted from 0.
        text (`str`, *optional*): A text with both markers. Default: `SYSTEM_PROMPT`.
        markers ([`ThinkingMarkers`], *optional*): Default: `<think>` and `</think>`.

    Returns:
        `list[int]`: Indices of latents, sorted.

    Raises:
        `ValueError`: If a marker is not one token of the tokenizer, or is not in the text.
    """
    ids = tokenizer.encode(text, add_special_tokens=False)
    places = []
    for marker in (markers.start, markers.end):
        pieces = tokenizer.encode(marker, add_special_tokens=False)
        if len(pieces) != 1:
            raise ValueError(
                f"Reasoning features need a tokenizer in which {marker!r} is one token; here it is {len(pieces)}. "
                "Choose a reasoning model, or other markers."
            )
        places.append([place for place, token in enumerate(ids) if token == pieces[0]])
        if not places[-1]:
            raise ValueError(f"The text has no marker {marker!r}. Reasoning features need a text with both markers.")
    check_fits(model, layer, sae.d_in)
    sae.to(next(model.parameters()).device)
    x = layer_output(model, layer, torch.tensor([ids], device=next(model.parameters()).device))[0]
    values, indices = sae.encode(x)
    active = [set(row[keep].tolist()) for row, keep in zip(indices, values > 0, strict=True)]
    return select_reasoning_features(active, [*places[0], *places[1]])


def select_reasoning_features(active: Sequence[Collection[int]], markers: Collection[int]) -> list[int]:
    """
    Return the latents that are active at every marker and at no other token.

    Args:
        active (`Sequence[Collection[int]]`): Active latents of each token.
        markers (`Collection[int]`): Places of the markers among the tokens.

    Examples:
        >>> select_reasoning_features([{1, 2}, {2, 5, 7}, {3}, {5, 7, 9}, {7}], [1, 3])
        [5]
    """
    inside = set.intersection(*(set(active[place]) for place in markers))
    outside = {latent for place, latents in enumerate(active) if place not in markers for latent in latents}
    return sorted(inside - outside)
