# SPDX-License-Identifier: Apache-2.0
"""Shapes of well-known models, as their `config.json` on the Hub gives them, so that a run is planned without a network."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig


def _shape(model_type: str, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **other: Any):
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        **other,
    }


_UNTIED = {"tie_word_embeddings": False}
_QWEN2 = {
    "0.5B": _shape("qwen2", 896, 4864, 24, 14, 2),
    "1.5B": _shape("qwen2", 1536, 8960, 28, 12, 2),
    "3B": _shape("qwen2", 2048, 11008, 36, 16, 2),
    "7B": _shape("qwen2", 3584, 18944, 28, 28, 4, vocab_size=152064, **_UNTIED),
    "14B": _shape("qwen2", 5120, 13824, 48, 40, 8, vocab_size=152064, **_UNTIED),
    "32B": _shape("qwen2", 5120, 27648, 64, 40, 8, vocab_size=152064, **_UNTIED),
}
_QWEN3 = {
    "0.6B": _shape("qwen3", 1024, 3072, 28, 16, 8, head_dim=128),
    "1.7B": _shape("qwen3", 2048, 6144, 28, 16, 8, head_dim=128),
    "4B": _shape("qwen3", 2560, 9728, 36, 32, 8, head_dim=128),
    "8B": _shape("qwen3", 4096, 12288, 36, 32, 8, head_dim=128, **_UNTIED),
}
_LLAMA = {
    "1B": _shape("llama", 2048, 8192, 16, 32, 8, head_dim=64, vocab_size=128256),
    "3B": _shape("llama", 3072, 8192, 28, 24, 8, head_dim=128, vocab_size=128256),
}

# Id on the Hub -> fields of the config that determine the number of parameters and the memory. A variant of a model (Instruct,
# Math, Coder) differs from it in the context at most, which no formula reads.
KNOWN_SHAPES: dict[str, dict[str, Any]] = {
    **{
        f"Qwen/{family}-{size}{suffix}": _QWEN2[size]
        for family, sizes in {
            "Qwen2": ("0.5B", "1.5B", "7B"),
            "Qwen2.5": ("0.5B", "1.5B", "3B", "7B", "14B", "32B"),
            "Qwen2.5-Math": ("1.5B", "7B"),
            "Qwen2.5-Coder": ("0.5B", "1.5B", "3B", "7B"),
        }.items()
        for size in sizes
        for suffix in ("", "-Instruct")
    },
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _QWEN2["1.5B"] | _UNTIED,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _QWEN2["7B"],
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": _QWEN2["14B"],
    "miromind-ai/MiroMind-M1-SFT-7B": _QWEN2["7B"],  # fine-tuned from Qwen2.5-Math-7B
    **{f"Qwen/Qwen3-{size}{suffix}": shape for size, shape in _QWEN3.items() for suffix in ("", "-Base")},
    **{
        f"meta-llama/Llama-3.2-{size}{suffix}": shape for size, shape in _LLAMA.items() for suffix in ("", "-Instruct")
    },
}


def known_config(model: str) -> PretrainedConfig | None:
    """Return the config of a well-known model, with the fields of its shape only; `None` for any other model."""
    by_name = {name.lower(): shape for name, shape in KNOWN_SHAPES.items()}
    shape = by_name.get(model.lower())
    return AutoConfig.for_model(**shape) if shape is not None else None
