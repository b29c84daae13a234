# SPDX-License-Identifier: Apache-2.0
"""Quantized evaluation: load a model in fewer bits, and say in which, so that results of two modes are never mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import cached_file


if TYPE_CHECKING:
    from transformers import PreTrainedModel

TYPES = ("nf4", "fp4")
BLOCK, OUTPUTS = (
    64,
    32,
)  # what the inputs and outputs of a layer must be multiples of, for 4 bits on a CPU (docs/compatibility.md)


@dataclass(frozen=True)
class Quantization:
    """
    How a model is quantized when it is loaded, as TRL's `ModelConfig` names it. With the defaults it is not.

    Args:
        load_in_8bit (`bool`, *optional*, defaults to `False`): LLM.int8 of bitsandbytes.
        load_in_4bit (`bool`, *optional*, defaults to `False`): 4 bits of bitsandbytes, computed in bfloat16.
        bnb_4bit_quant_type (`str`, *optional*, defaults to `"nf4"`): `"nf4"` or `"fp4"`.
        use_bnb_nested_quant (`bool`, *optional*, defaults to `False`): Whether the scales are quantized, too.
        gguf_file (`str`, *optional*): A GGUF file in the model's folder or repository. transformers dequantizes it, so that it shows the
            effect on the weights, not on speed or memory.

    Raises:
        `ValueError`: If two modes are asked for, or the type is unknown.
    """

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "nf4"
    use_bnb_nested_quant: bool = False
    gguf_file: str | None = None

    def __post_init__(self):
        if self.load_in_8bit + self.load_in_4bit + (self.gguf_file is not None) > 1:
            raise ValueError("load_in_8bit, load_in_4bit and gguf_file exclude one another. Choose one.")
        if self.bnb_4bit_quant_type not in TYPES:
            raise ValueError(
                f"bnb_4bit_quant_type must be one of {', '.join(map(repr, TYPES))}; got {self.bnb_4bit_quant_type!r}."
            )

    def describe(self, config: Any = None) -> dict[str, Any] | None:
        """
        Return how a model with this config is quantized: `method`, `bits`, `type`, `double_quant`, `compute_dtype`, `skipped_modules`,
        `gguf_file` and `versions`; `None` if it is not.

        Args:
            config (`PretrainedConfig`, *optional*): That of a checkpoint or a model in memory, which may be quantized already.
        """
        found: dict[str, Any] = dict.fromkeys(
            ("method", "bits", "type", "double_quant", "compute_dtype", "skipped_modules", "gguf_file")
        )
        if self.gguf_file is not None:
            packages: tuple[str, ...] = ("gguf",)
            found |= {"method": "gguf", "gguf_file": self.gguf_file}
        elif self.load_in_4bit or self.load_in_8bit:
            packages = ("bitsandbytes",)
            found |= _of_bitsandbytes(self._config().to_dict())
        else:
            own = getattr(config, "quantization_config", None)
            if own is None:
                return None
            own = own if isinstance(own, Mapping) else own.to_dict()
            packages = ()
            found |= {"method": str(own.get("quant_method")), "bits": own.get("bits")}
            if own.get("load_in_4bit") or own.get("load_in_8bit"):
                packages = ("bitsandbytes",)
                found |= _of_bitsandbytes(own)
        return found | {"versions": {name: version(name) for name in (*packages, "transformers")}}

    def options(self, device: str) -> dict[str, Any]:
        """Return the arguments of `from_pretrained`."""
        if self.gguf_file is not None:
            return {"gguf_file": self.gguf_file}
        if self.load_in_4bit or self.load_in_8bit:
            return {"quantization_config": self._config(), "device_map": {"": device}}
        return {}

    def check(self, model: str, base: str | None, *, use_vllm: bool) -> None:
        """
        Check that a model can be loaded in this mode.

        Args:
            model (`str`): Path or Hub id.
            base (`str`, *optional*): Base model, if `model` is an adapter.
            use_vllm (`bool`): Whether vLLM generates.

        Raises:
            `ValueError`: If the mode does not fit vLLM, an adapter or the layers, or a package is missing.
            `FileNotFoundError`: If the GGUF file does not exist.
        """
        if self == NOT_QUANTIZED:
            return
        if use_vllm:
            raise ValueError(
                "--load_in_8bit, --load_in_4bit and --gguf_file are for transformers. Leave out --use_vllm, or give vLLM a checkpoint that "
                "is quantized."
            )
        if self.gguf_file is None:
            _check_bitsandbytes(base or model, four_bits=self.load_in_4bit)
            return
        if base is not None:
            raise ValueError(
                f"{model} is an adapter, and --gguf_file names the weights of a whole model. Merge it first."
            )
        _check_package("gguf")
        _find(model, self.gguf_file)

    def _config(self) -> Any:
        import torch
        from transformers import BitsAndBytesConfig

        if self.load_in_8bit:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=self.use_bnb_nested_quant,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )


NOT_QUANTIZED = Quantization()


def check_is_quantized(model: PreTrainedModel, quantization: Quantization) -> None:
    """
    Check that the weights were quantized as asked.

    Raises:
        `ValueError`: If no layer of the model is quantized.
    """
    wanted = "Linear4bit" if quantization.load_in_4bit else "Linear8bitLt" if quantization.load_in_8bit else None
    if wanted is not None and not any(type(module).__name__ == wanted for module in model.modules()):
        raise ValueError(
            f"No layer of the model was quantized: it has no {wanted}. Evaluate it without --load_in_4bit and --load_in_8bit."
        )


def name_of_mode(quantization: Mapping[str, Any] | None, dtype: str | None) -> str:
    """
    Return a mode in one word.

    Examples:
        >>> name_of_mode(None, "bfloat16"), name_of_mode({"method": "bitsandbytes", "bits": 8, "type": "int8"}, "bfloat16")
        ('bfloat16', 'int8')
    """
    if quantization is None:
        return dtype or "not quantized"
    return quantization.get("type") or quantization.get("gguf_file") or quantization["method"]


def _of_bitsandbytes(config: Mapping[str, Any]) -> dict[str, Any]:
    four = bool(config.get("load_in_4bit"))
    return {
        "method": "bitsandbytes",
        "bits": 4 if four else 8,
        "type": config.get("bnb_4bit_quant_type") if four else "int8",
        "double_quant": config.get("bnb_4bit_use_double_quant") if four else None,
        "compute_dtype": str(config.get("bnb_4bit_compute_dtype")).removeprefix("torch.") if four else "float16",
        "skipped_modules": config.get("llm_int8_skip_modules"),  # `None`: the output layer
    }


def _check_bitsandbytes(model: str, *, four_bits: bool) -> None:
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    _check_package("bitsandbytes")
    if not four_bits or torch.cuda.is_available():
        return
    with init_empty_weights():
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    head = empty.get_output_embeddings()
    for name, module in empty.named_modules():
        if not isinstance(module, torch.nn.Linear) or module is head:
            continue
        if module.in_features % BLOCK or module.out_features % OUTPUTS:
            raise ValueError(
                f"The layer {name} of {model} has {module.in_features} inputs and {module.out_features} outputs. On a CPU, bitsandbytes "
                f"quantizes to 4 bits only layers with multiples of {BLOCK} and {OUTPUTS}: use --load_in_8bit, or a GPU."
            )


def _check_package(name: str) -> None:
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise ValueError(f"This mode needs {name}: pip install 'trl-concise[quantization]'.")


def _find(model: str, gguf_file: str) -> None:
    if Path(model).is_dir():
        if not Path(model, gguf_file).is_file():
            there = ", ".join(sorted(path.name for path in Path(model).glob("*.gguf"))) or "none"
            raise FileNotFoundError(f"{model} has no file {gguf_file!r}. Its GGUF files: {there}.")
        return
    try:
        cached_file(model, gguf_file)
    except OSError as error:
        raise FileNotFoundError(
            f"The file {gguf_file!r} of {model!r} was not found: it is not a local folder, and the Hub did not answer with it: {error}"
        ) from error
