# SPDX-License-Identifier: Apache-2.0
"""
Weights while completions are generated: an adapter merged into its base model, and everything as before afterwards.

PEFT's `unmerge_adapter` subtracts what `merge_adapter` added, and rounding makes the result differ from the original weights.
Here the merged weights are copies, and the originals are put back afterwards. They are never written to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


# What an adapter may be merged into.
_PLAIN = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_QUANTIZED = "Linear4bit"  # of bitsandbytes


def check_mergeable(model: Any, *, is_sharded: bool) -> None:
    """
    Check that the adapter of a model can be merged for generation.

    Args:
        model: The model to train. A model without an adapter passes: there is nothing to merge.
        is_sharded (`bool`): Whether its parameters are distributed over processes (FSDP, DeepSpeed ZeRO-3).

    Raises:
        `ValueError`: If the adapter cannot be merged, or not into these weights.
    """
    if getattr(model, "peft_config", None) is None:
        return
    if is_sharded:
        raise ValueError(
            "merge_adapter_for_generation=True needs whole parameters on each process, but the model is sharded (FSDP or DeepSpeed "
            "ZeRO-3). Set it to False, or use ZeRO-2."
        )
    reason = next((text for layer in _layers(model) if (text := _obstacle(layer)) is not None), None)
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        reason = "it adds tokens instead of weights"
    elif not _layers(model):
        reason = "it adapts no layer"
    if reason is not None:
        raise ValueError(
            f"merge_adapter_for_generation=True, but the adapter cannot be merged: {reason}. Set it to False, or use LoRA on linear "
            "layers that are not quantized or have 4-bit weights of bitsandbytes."
        )


@contextmanager
def generation_weights(model: Any, *, merge: bool, restore_dtypes: bool) -> Iterator[None]:
    """
    Generate with other weights than those that are trained.

    Args:
        model: The unwrapped model.
        merge (`bool`): Whether to merge the adapter, see [`merged_adapter`].
        restore_dtypes (`bool`): Whether to undo casts of the model, see [`restored_dtypes`].
    """
    with ExitStack() as stack:
        if restore_dtypes:
            stack.enter_context(restored_dtypes(model))
        if merge:
            stack.enter_context(merged_adapter(model))
        yield


@contextmanager
def merged_adapter(model: Any) -> Iterator[None]:
    """
    Merge the active adapter into copies of the base weights; afterwards, also after an exception, use the originals again.

    Meanwhile, every adapted weight is in memory twice. The copy of a quantized layer is not quantized: merging into 4-bit
    weights would round the adapter away. It has the dtype in which the layer computes.

    Args:
        model: The unwrapped model to generate with, checked by [`check_mergeable`]. Without an adapter, nothing happens.
    """
    layers = _layers(model) if getattr(model, "peft_config", None) is not None else []
    before = [
        (layer, layer.base_layer, dict(layer.base_layer._parameters), [*layer.merged_adapters]) for layer in layers
    ]
    try:
        with torch.no_grad():
            for layer in layers:
                _merge(layer)
        yield
    finally:
        for layer, base_layer, parameters, merged in before:
            base_layer._parameters.update(parameters)
            layer.base_layer = base_layer
            layer.merged_adapters[:] = merged


@contextmanager
def restored_dtypes(model: Any) -> Iterator[None]:
    """
    Afterwards, use the model's tensors as they were before.

    For continuous batching, TRL casts the whole model to bfloat16 or float16 in place. Without this, training continues with
    parameters and rotary frequencies in that dtype.
    """
    tensors = [value for value in (*model.parameters(), *(p.grad for p in model.parameters())) if value is not None]
    data = [(value, value.data) for value in tensors]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for value, before in data:
            value.data = before
        for module, before in buffers:
            module._buffers.update(before)


def _layers(model: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _obstacle(layer: Any) -> str | None:
    """Return why this layer's adapter cannot be merged, or `None`."""
    base = layer.base_layer
    variants = {type(variant).__name__ for variant in getattr(layer, "lora_variant", {}).values()}
    if "ALoraLinearVariant" in variants:
        return "an activated LoRA applies to some tokens only"
    if type(base).__name__ == _QUANTIZED:
        if variants or not hasattr(layer, "lora_A"):
            return "into 4-bit weights, only LoRA without variants (such as DoRA) is merged"
        return None
    if not isinstance(base, _PLAIN) or type(base.weight) is not nn.Parameter or not base.weight.is_floating_point():
        weight = getattr(base, "weight", None)
        return f"it adapts a {type(base).__name__} with weights of {getattr(weight, 'dtype', type(weight).__name__)}"
    return None


def _merge(layer: Any) -> None:
    base = layer.base_layer
    if type(base).__name__ == _QUANTIZED:
        layer.base_layer = _Merged(layer)
        layer.merged_adapters.extend(layer.active_adapters)
        return
    # New parameters: PEFT writes to the copies, and a tied embedding keeps its own.
    for name, parameter in base._parameters.items():
        if parameter is not None:
            base._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    layer.merge()


class _Merged(nn.Module):
    """A 4-bit layer and its LoRA as one matrix, in the dtype in which the layer computes."""

    def __init__(self, layer: Any):
        super().__init__()
        from peft.utils.integrations import dequantize_module_weight

        base = layer.base_layer
        weight, bias = dequantize_module_weight(base).detach(), base.bias
        dtype = base.compute_dtype or weight.dtype
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weight = weight + layer.get_delta_weight(name)
                if layer.lora_bias[name]:
                    bias = bias + layer.lora_B[name].bias * layer.scaling[name]
        self.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False) if bias is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)
