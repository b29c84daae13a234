# SPDX-License-Identifier: Apache-2.0
"""Finds and loads a model to evaluate: a folder, an id on the Hub, an adapter on its base model, or a GGUF file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..state.adapters import (
    TOKENIZER_FILES,
    adapter_config,
    check_base_model,
    check_model,
    load_adapter,
    load_tokenizer,
)
from .quantization import NOT_QUANTIZED, Quantization, check_is_quantized
from .sets import KNOWN_MODELS


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Source:
    """
    A model to evaluate, before it is loaded.

    Attributes:
        path (`str`, *optional*): Path or id of the checkpoint, or of an adapter's base model; `None` of a model in memory.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The tokenizer.
        settings (`dict[str, Any]`): `dtype`, and `quantization` as [`Quantization.describe`] returns it.
    """

    path: str | None
    tokenizer: PreTrainedTokenizerBase
    settings: dict[str, Any]


def find_source(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    dtype: str | None,
    quantization: Quantization,
    *,
    use_vllm: bool,
) -> Source:
    """
    Find a model, and how it would be loaded. `model` is a path or an id, a model in memory, or a `Sampler`, which has a tokenizer.

    Raises:
        `FileNotFoundError`: If it is found neither locally nor on the Hub.
        `ValueError`: If a model in memory has no tokenizer or is to be loaded otherwise, or the mode does not fit the model.
    """
    if not isinstance(model, str):
        config, loaded_as = getattr(model, "config", None), getattr(model, "dtype", None)  # a sampler has neither
        if tokenizer is None and config is None:
            tokenizer = getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise ValueError("A model in memory needs its tokenizer: pass tokenizer=.")
        if dtype is not None or quantization != NOT_QUANTIZED:
            raise ValueError(
                "dtype and quantization are for a model given by path or id; this one is in memory. Leave them out."
            )
        settings = {
            "dtype": str(loaded_as).removeprefix("torch.") if loaded_as is not None else None,
            "quantization": quantization.describe(config),
        }
        return Source(None, tokenizer, settings)
    path, base = find_model(model, quantization.gguf_file)
    quantization.check(path, base, use_vllm=use_vllm)
    checkpoint = base or path
    config = None if quantization.gguf_file else _config(checkpoint)
    if quantization != NOT_QUANTIZED and getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"{checkpoint} is quantized already, and transformers would load it as it is. Leave out --load_in_8bit and --load_in_4bit."
        )
    settings = {
        "dtype": dtype or checkpoint_dtype(checkpoint, quantization.gguf_file),
        "quantization": quantization.describe(config),
    }
    return Source(checkpoint, load_tokenizer_of(path, quantization), settings)


def load_model(model: str, base: str | None, dtype: str, quantization: Quantization) -> PreTrainedModel | PeftModel:
    """
    Load a model, or an adapter on its base model, on the GPU if there is one.

    Args:
        model (`str`): Path or id.
        base (`str`, *optional*): Base model, if `model` is an adapter.
        dtype (`str`): Data type of the weights that are not quantized.
        quantization ([`Quantization`]): The mode.

    Raises:
        `ValueError`: If the weights are damaged, or not quantized as asked for.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"dtype": dtype, **quantization.options(device)}
    if base is not None:
        loaded = load_adapter(model, trainable=False, **options)
    else:
        try:
            loaded = AutoModelForCausalLM.from_pretrained(model, **options)
        except SafetensorError as error:
            raise ValueError(f"The weights of {model} are damaged: {error}. Save or download them again.") from error
    check_is_quantized(loaded, quantization)
    if (
        quantization.load_in_8bit
    ):  # which warns in every layer at every token that it computes in float16, as the settings say
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return loaded if "device_map" in options else loaded.to(device)


def load_tokenizer_of(model: str, quantization: Quantization) -> PreTrainedTokenizerBase:
    """Load the tokenizer next to the weights, or the one within a GGUF file that has none next to it."""
    folder = Path(model)
    if not quantization.gguf_file or any((folder / name).is_file() for name in TOKENIZER_FILES):
        return load_tokenizer(model)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, gguf_file=quantization.gguf_file)


def find_model(model: str, gguf_file: str | None = None) -> tuple[str, str | None]:
    """
    Find a model or an adapter.

    Args:
        model (`str`): As for [`load_sampler`].
        gguf_file (`str`, *optional*): A file that has the whole model.

    Returns:
        `tuple[str, str | None]`: The path or id of the model, and that of its base model if it is an adapter.

    Raises:
        `FileNotFoundError`: If the model or its base model is not found, locally or on the Hub.
        `ValueError`: If the config of an adapter is damaged or does not name its base model.
    """
    model = KNOWN_MODELS.get(model, model)
    if Path(model).is_dir() and gguf_file is None:
        _refuse_folder_without_model(Path(model))
    config = adapter_config(model)
    if config is None:
        if gguf_file is None:
            check_model(model)
        return model, None
    base = config.get("base_model_name_or_path")
    check_base_model(model, base, config.get("revision"))
    return model, base


def checkpoint_dtype(model: str, gguf_file: str | None = None) -> str:
    """Return the data type of a checkpoint as its config names it, e.g. `bfloat16`; `auto` if it names none, `float32` for a GGUF file."""
    if gguf_file is not None:
        return "float32"  # to which transformers dequantizes it
    dtype = _config(model).dtype
    return str(dtype).removeprefix("torch.") if dtype is not None else "auto"


def context_length(model: str) -> int | None:
    """Return the number of positions of a model, `None` if its config does not limit it."""
    return getattr(_config(model).get_text_config(), "max_position_embeddings", None)


def _config(model: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model)


def _refuse_folder_without_model(folder: Path) -> None:
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
    from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

    if any((folder / name).is_file() for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME)):
        return
    checkpoints = sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: (len(path.name), path.name))
    instead = f" Choose one of its checkpoints: {', '.join(map(str, checkpoints))}." if checkpoints else ""
    raise FileNotFoundError(f"{folder} contains no model: neither {CONFIG_NAME} nor {ADAPTER_CONFIG_NAME}.{instead}")
