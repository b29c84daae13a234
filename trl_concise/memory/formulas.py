# SPDX-License-Identifier: Apache-2.0
"""
GPU memory of each component of a training run, in bytes.

Pure functions of a model's shape and a run's settings, for decoders of the Llama family (grouped-query attention, RMSNorm,
gated MLP) under bf16 autocast, as TRL 1.16 trains them. `tests/memory/test_formulas.py` checks them against tensors that
PyTorch, PEFT and bitsandbytes really allocate on a CPU; `docs/memory.md` derives them.

Symbols, in the comments: $B$ rows, $S$ tokens per row, $H$ hidden size, $I$ intermediate size, $L$ layers, $V$ vocabulary,
$r$ LoRA rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig


# Model types whose decoder layer the formulas describe.
SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")

# TRL 1.16 multiplies hidden states and LM head in tiles of this many tokens and vocabulary entries
# (TOKEN_CHUNK_SIZE in trl/kernels/chunked_logprob.py, _CHUNKED_LOGPROB_CHUNK_SIZE in trl/trainer/utils.py).
LM_HEAD_TILE = (4096, 32768)

FLOAT32, BFLOAT16 = 4, 2  # bytes per element


@dataclass(frozen=True)
class Architecture:
    """
    The shape of a model, as far as the formulas need it.

    Attributes:
        hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size (`int`):
            As in the model's config.
        parameters (`int`): All parameters, tied ones once.
        linears (`dict[str, tuple[int, int]]`): Linear modules of one decoder layer: name -> (inputs, outputs).
        tied (`bool`): Whether the LM head is the embedding.
        qk_norm (`bool`): Whether queries and keys are normalized per head (Qwen3).
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    parameters: int
    linears: dict[str, tuple[int, int]]
    tied: bool
    qk_norm: bool

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> Architecture:
        """
        Read a model's shape from its config; parameters are counted on a model without storage (the meta device).

        Raises:
            `ValueError`: If the formulas do not describe the model type.
        """
        if config.model_type not in SUPPORTED_MODEL_TYPES:
            raise ValueError(
                f"The memory formulas describe {', '.join(SUPPORTED_MODEL_TYPES)}, got a model of type "
                f"{config.model_type!r}. Measure it: start a run with --max_steps 1 and read torch.cuda.max_memory_allocated."
            )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        layer = dict(model.base_model.layers[0].named_modules())
        return cls(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocab_size=config.vocab_size,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            linears={
                name.rpartition(".")[2]: (module.in_features, module.out_features)
                for name, module in layer.items()
                if isinstance(module, torch.nn.Linear)
            },
            tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
            qk_norm=any(name.endswith("q_norm") for name in layer),
        )

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear modules of all decoder layers, biases not counted."""
        return self.num_layers * sum(inputs * outputs for inputs, outputs in self.linears.values())


# Weights, adapter, optimizer


def nf4_bytes(elements: int, *, double_quantization: bool = False, block: int = 64, nested_block: int = 256) -> float:
    """
    Return the bytes of a weight in NF4 ([QLoRA](https://huggingface.co/papers/2305.14314), section 3).

    Half a byte per element, and per block of 64 a scale: 4 bytes, or with double quantization 1 byte plus 4 bytes per 256
    scales. That is 4.5 or 4.127 bits per element. Code tables (about 1 kB per tensor) are not counted.
    """
    scales = elements / block
    return elements / 2 + (scales + 4 * scales / nested_block if double_quantization else 4 * scales)


def weight_bytes(
    shape: Architecture, dtype_bytes: int, *, nf4: bool = False, double_quantization: bool = False
) -> float:
    """Return the bytes of the base model: everything in one dtype, or the layers' linear weights in NF4."""
    if not nf4:
        return shape.parameters * dtype_bytes
    kept = (shape.parameters - shape.linear_parameters) * dtype_bytes  # embeddings, LM head, norms, biases
    return kept + nf4_bytes(shape.linear_parameters, double_quantization=double_quantization)


def lora_parameters(shape: Architecture, rank: int, targets: Sequence[str]) -> int:
    """Return the parameters of a LoRA adapter: $r$ (inputs + outputs) for each target module of each layer."""
    return shape.num_layers * rank * sum(sum(shape.linears[target]) for target in targets)


def merged_bytes(shape: Architecture, targets: Sequence[str], dtype_bytes: int) -> int:
    """Return the bytes of the copies that an adapter is merged into for generation, of NF4 weights too."""
    return dtype_bytes * shape.num_layers * sum(math.prod(shape.linears[target]) for target in targets)


def adamw_bytes(parameters: int, dtype_bytes: int) -> int:
    """Return the bytes of AdamW's two moments, which have the dtype of the parameters."""
    return 2 * parameters * dtype_bytes


# Activations


def layer_activation_bytes(
    shape: Architecture,
    rows: int,
    length: int,
    *,
    dtype_bytes: int = BFLOAT16,
    lora_rank: int = 0,
    lora_targets: Sequence[str] = (),
    quantized: bool = False,
    flash_attention: bool = False,
) -> int:
    """
    Return the bytes that one decoder layer saves for its backward pass.

    Without LoRA targets all weights are trained. LoRA dropout is 0, and rows are padded, so that SDPA gets a mask.

    Args:
        shape ([`Architecture`]): The model.
        rows, length (`int`): $B$ and $S$.
        dtype_bytes (`int`, *optional*, defaults to `2`): Of the weights, and so of the residual stream.
        lora_rank, lora_targets (*optional*): The adapter.
        quantized (`bool`, *optional*, defaults to `False`): NF4 weights, whose adapters TRL keeps in bf16.
        flash_attention (`bool`, *optional*, defaults to `False`): No mask and no repeated keys and values.
    """
    hidden, wide = shape.hidden_size, shape.intermediate_size
    queries = shape.num_heads * shape.head_dim
    keys = queries if not flash_attention else shape.num_kv_heads * shape.head_dim  # SDPA with a mask repeats them
    trains_norms = not lora_targets

    per_token = 2 * (FLOAT32 * hidden + FLOAT32)  # two RMSNorms: input in float32, 1 / rms
    per_token += 2 * dtype_bytes * hidden * trains_norms  # and what a trained weight multiplies
    per_token += BFLOAT16 * (2 * queries + 2 * keys) + FLOAT32 * shape.num_heads  # q, out, k, v, log-sum-exp
    per_token += BFLOAT16 * length * (not flash_attention)  # a row of the mask, as an additive bias
    per_token += BFLOAT16 * 3 * wide  # gate, silu(gate), up
    if shape.qk_norm:
        heads = shape.num_heads + shape.num_kv_heads
        per_token += heads * (FLOAT32 * (shape.head_dim + 1) + BFLOAT16 * shape.head_dim * trains_norms)

    # Inputs of the linear modules. A trained one saves its input in bf16, one copy where the input already is. LoRA saves
    # the input of each target for itself: it is cast to the adapter's float32 and, by autocast, back to bf16.
    trained = lora_targets or list(shape.linears)
    shared = quantized or (not lora_targets and dtype_bytes == BFLOAT16)
    if shared:
        per_token += BFLOAT16 * hidden * bool({"q_proj", "k_proj", "v_proj"} & set(trained))
        per_token += BFLOAT16 * hidden * bool({"gate_proj", "up_proj"} & set(trained))
        per_token += BFLOAT16 * wide * ("down_proj" in trained)
        # The input of o_proj is the attention's output, counted above.
    else:
        own = [target for target in trained if lora_targets or target != "o_proj"]
        per_token += BFLOAT16 * sum(shape.linears[target][0] for target in own)
    per_token += BFLOAT16 * lora_rank * len(lora_targets)  # A x
    return rows * length * per_token


def checkpoint_bytes(shape: Architecture, rows: int, length: int, dtype_bytes: int = BFLOAT16) -> int:
    """Return the bytes of the layers' inputs, all that gradient checkpointing saves: $L B S H$ elements."""
    return shape.num_layers * rows * length * shape.hidden_size * dtype_bytes


def layer_backward_bytes(
    shape: Architecture,
    rows: int,
    length: int,
    *,
    dtype_bytes: int = BFLOAT16,
    lora: bool = False,
    quantized: bool = False,
) -> int:
    """
    Return the bytes that a layer's backward pass (with its recomputation) allocates in addition to the saved tensors.

    The MLP decides: with float32 adapters $6 B S I$ bytes (the product of gate and up, and its float32 copy), else
    $4 B S I$ (the gradients of gate and up). Then the gradient of the residual stream, and a dequantized NF4 weight.
    """
    wide = (6 if lora and not quantized else 4) * shape.intermediate_size
    whole = BFLOAT16 * shape.hidden_size * shape.intermediate_size * quantized
    return rows * length * (wide + dtype_bytes * shape.hidden_size) + whole


def inference_bytes(
    shape: Architecture, rows: int, length: int, *, dtype_bytes: int = BFLOAT16, flash_attention: bool = False
) -> int:
    """
    Return the bytes of a forward pass without gradients: the residual stream and the peak of one layer.

    The largest allocation is in the MLP: residual, normed input, gate, its silu, up and their product are alive together.
    """
    per_token = 3 * dtype_bytes * shape.hidden_size + 4 * BFLOAT16 * shape.intermediate_size
    per_token += length * (not flash_attention)  # the boolean mask
    return rows * length * per_token


def lm_head_bytes(
    shape: Architecture, tokens: int, *, dtype_bytes: int = BFLOAT16, trained: bool = False, backward: bool = True
) -> int:
    """
    Return the bytes of TRL 1.16's tiled LM head for a number of scored tokens (those whose label is not -100).

    One tile of logits, the scored hidden states, a handful of statistics per token; backward, their gradient in float32 and
    that of a trained head (float32, and once more in its own dtype). The logits of all tokens never exist.
    """
    tile_tokens, tile_vocabulary = LM_HEAD_TILE
    total = min(tokens, tile_tokens) * tile_vocabulary * BFLOAT16
    total += tokens * shape.hidden_size * dtype_bytes + 8 * FLOAT32 * tokens
    if dtype_bytes == FLOAT32:
        total += (
            min(shape.vocab_size, tile_vocabulary) * shape.hidden_size * BFLOAT16
        )  # autocast's copy of the tile's weights
    if backward:
        total += tokens * shape.hidden_size * FLOAT32
        if trained:
            total += shape.vocab_size * shape.hidden_size * (FLOAT32 + (dtype_bytes if dtype_bytes != FLOAT32 else 0))
    return total


# Generation


def kv_cache_bytes(shape: Architecture, rows: int, length: int, dtype_bytes: int = BFLOAT16) -> int:
    """Return the bytes of the keys and values of all layers: $2 L B S$ times the width of the key-value heads."""
    return 2 * shape.num_layers * rows * length * shape.num_kv_heads * shape.head_dim * dtype_bytes


def generation_bytes(
    shape: Architecture, rows: int, prompt_length: int, completion_length: int, dtype_bytes: int = BFLOAT16
) -> int:
    """
    Return the bytes that generation with transformers allocates in addition to its cache.

    The larger of the prompts' forward pass and a decoding step, which grows one layer's keys or values by copying them, and
    holds the next token's logits, their scores and probabilities in float32.
    """
    grown = kv_cache_bytes(shape, rows, prompt_length + completion_length, dtype_bytes) // (2 * shape.num_layers)
    logits = rows * shape.vocab_size * (dtype_bytes + 3 * FLOAT32)
    return max(inference_bytes(shape, rows, prompt_length, dtype_bytes=dtype_bytes), grown) + logits
