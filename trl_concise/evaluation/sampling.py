# SPDX-License-Identifier: Apache-2.0
"""Completions from transformers or vLLM, seeded, in the model's own distribution."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SamplingSettings:
    """
    How completions are drawn. What a model's generation config adds (top-k, repetition penalty) does not count.

    Args:
        max_new_tokens (`int`, *optional*, defaults to `4096`): Tokens after which a completion is cut.
        temperature (`float`, *optional*, defaults to `0.6`): `0.0` decodes greedily.
        top_p (`float`, *optional*, defaults to `0.95`): Nucleus; `1.0` keeps the whole distribution.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.
    """

    max_new_tokens: int = 4096
    temperature: float = 0.6  # with top_p 0.95, what DeepSeek-R1's model card recommends for evaluation
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "Sampling needs max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1; got "
                f"{self.max_new_tokens}, {self.temperature} and {self.top_p}."
            )


class Sampler(Protocol):
    """Whatever turns prompts into completions."""

    tokenizer: PreTrainedTokenizerBase
    end_token_ids: set[int]

    def sample(self, prompts: Sequence[str], settings: SamplingSettings) -> list[list[int]]:
        """
        Draw one completion per rendered prompt.

        Returns:
            `list[list[int]]`: Token ids in the order of `prompts`. The end-of-turn token is included; a completion
            without it was cut.
        """


class TransformersSampler:
    """
    Samples with `model.generate`. The caller's random state is left as it was.

    Args:
        model ([`~transformers.PreTrainedModel`]): Model to sample from.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.model = model
        self.tokenizer = with_padding_token(tokenizer)
        ends = model.generation_config.eos_token_id
        self.end_token_ids = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}

    def sample(self, prompts: Sequence[str], settings: SamplingSettings) -> list[list[int]]:
        """See [`Sampler`]."""
        model, tokenizer = self.model, self.tokenizer
        inputs = tokenizer(
            list(prompts),
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
            return_tensors="pt",
        ).to(model.device)
        drawing: dict[str, Any] = {"do_sample": False}
        if settings.temperature > 0:
            drawing = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        training = model.training
        model.eval()
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(settings.seed)
            generated = model.generate(
                **inputs,
                max_new_tokens=settings.max_new_tokens,
                eos_token_id=sorted(self.end_token_ids),
                pad_token_id=tokenizer.pad_token_id,
                repetition_penalty=1.0,
                **drawing,
            )
        model.train(training)
        return [self._end(ids) for ids in generated[:, inputs["input_ids"].shape[1] :].tolist()]

    def _end(self, ids: list[int]) -> list[int]:
        return ids[: next((place + 1 for place, token in enumerate(ids) if token in self.end_token_ids), len(ids))]


class VLLMSampler:
    """
    Samples with vLLM, in this process.

    Args:
        model (`str`): Path or id of the model, or of the base model of an adapter.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        adapter (`str`, *optional*): Path or id of a LoRA adapter.
        **engine_options: Arguments of `vllm.LLM`.

    Raises:
        `ImportError`: If vLLM is missing.
    """

    def __init__(
        self, model: str, tokenizer: PreTrainedTokenizerBase, adapter: str | None = None, **engine_options: Any
    ):
        try:
            from huggingface_hub import snapshot_download
            from peft import PeftConfig
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            raise ImportError("--use_vllm needs vLLM and PEFT: pip install 'trl-concise[vllm,peft]'.") from error
        self.tokenizer = tokenizer
        self.adapter = None
        if adapter is not None:
            folder = adapter if Path(adapter).is_dir() else snapshot_download(adapter)
            self.adapter = LoRARequest("adapter", 1, folder)
            engine_options["enable_lora"] = True
            # vLLM takes powers of two, from 16 on
            engine_options["max_lora_rank"] = max(16, 1 << (PeftConfig.from_pretrained(adapter).r - 1).bit_length())
        self.engine = LLM(model=model, generation_config="vllm", **engine_options)
        self.end_token_ids = {tokenizer.eos_token_id}

    def sample(self, prompts: Sequence[str], settings: SamplingSettings) -> list[list[int]]:
        """See [`Sampler`]."""
        from vllm import SamplingParams

        outputs = self.engine.generate(
            [{"prompt_token_ids": self.tokenizer(prompt, add_special_tokens=False).input_ids} for prompt in prompts],
            [
                SamplingParams(
                    max_tokens=settings.max_new_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=settings.seed + row,
                )
                for row in range(len(prompts))
            ],
            use_tqdm=False,
            lora_request=self.adapter,
        )
        completions = [output.outputs[0] for output in outputs]
        # Every stop is the model's own end of turn: no stop strings are set.
        self.end_token_ids |= {item.token_ids[-1] for item in completions if item.finish_reason == "stop"}
        return [list(item.token_ids) for item in completions]


def load_sampler(model: str, *, use_vllm: bool = False, dtype: str = "auto", **vllm_options: Any) -> Sampler:
    """
    Load a model, or an adapter on top of its base model, to sample from.

    Args:
        model (`str`): Path or Hub id of a model or of an adapter; `demo` is the embedded model.
        use_vllm (`bool`, *optional*, defaults to `False`): Whether to generate with vLLM.
        dtype (`str`, *optional*, defaults to `"auto"`): Data type of the weights.
        **vllm_options: Arguments of `vllm.LLM`.

    Returns:
        [`Sampler`]: On the GPU if there is one.

    Raises:
        `ImportError`: If vLLM is asked for and missing.
        `FileNotFoundError`: If there is no such model, here or on the Hub.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import find_adapter_config_file

    if model == "demo":
        from ..demo import model_path

        model = str(model_path())
    adapter = base = None
    if find_adapter_config_file(model) is not None:
        from peft import PeftConfig

        adapter, base = model, PeftConfig.from_pretrained(model).base_model_name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        if base is None and not Path(model).exists():
            raise FileNotFoundError(
                f"No model {model!r}: there is no such folder here, and the Hub did not give it: {error}"
            ) from error
        if base is None:
            raise
        tokenizer = AutoTokenizer.from_pretrained(base)  # an adapter need not bring its own
    if use_vllm:
        return VLLMSampler(base or model, tokenizer, adapter, dtype=dtype, **vllm_options)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    return TransformersSampler(loaded.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def with_padding_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer that can pad a batch: itself, or without a padding token, a copy that pads with EOS."""
    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def render_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | list[dict[str, str]]]) -> list[str]:
    """
    Render prompts up to where the model begins to write.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its chat template is used; without one, the messages' texts
            are put one below the other.
        prompts (`Sequence`): Lists of messages; a string is taken as it is.

    Returns:
        `list[str]`: Rendered prompts.
    """
    return [
        prompt
        if isinstance(prompt, str)
        else "\n\n".join(message["content"] for message in prompt)
        if tokenizer.chat_template is None
        else tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        for prompt in prompts
    ]
