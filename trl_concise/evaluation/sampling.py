# SPDX-License-Identifier: Apache-2.0
"""Seeded completions from transformers or vLLM, drawn from the model's distribution."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jinja2 import TemplateError

from .loading import checkpoint_dtype, find_model, load_model, load_tokenizer_of
from .quantization import NOT_QUANTIZED, Quantization
from .token_scores import TokenScores, entropy_bounds, score_logits


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

Prompt = str | list[dict[str, str]]  # text, or messages
LARGEST_LOGITS = 2**28  # numbers in the logits of one pass that scores tokens
SCORED = 64  # completions that vLLM scores at a time: 21 objects per token are in memory


@dataclass(frozen=True)
class SamplingSettings:
    """
    Sampling settings of completions. From a model's generation config, only the end-of-turn tokens are used.

    Args:
        max_new_tokens (`int`, *optional*, defaults to `4096`): Tokens after which a completion is truncated.
        temperature (`float`, *optional*, defaults to `0.6`): `0.0` decodes greedily.
        top_p (`float`, *optional*, defaults to `0.95`): Nucleus; `1.0` keeps the whole distribution.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws, not negative.
    """

    max_new_tokens: int = 4096
    temperature: float = 0.6  # with top_p 0.95, what DeepSeek-R1's model card recommends for evaluation
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self):
        if self.max_new_tokens < 1 or not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.seed < 0:
            raise ValueError(
                "Sampling needs max_new_tokens >= 1, temperature >= 0, 0 < top_p <= 1 and seed >= 0; got "
                f"{self.max_new_tokens}, {self.temperature}, {self.top_p} and {self.seed}."
            )


@runtime_checkable
class Sampler(Protocol):
    """An object that generates completions from prompts."""

    tokenizer: PreTrainedTokenizerBase
    end_token_ids: set[int]

    def sample(self, prompts: Sequence[list[int]], settings: SamplingSettings) -> list[list[int]]:
        """
        Draw one completion per prompt.

        Args:
            prompts (`Sequence[list[int]]`): Token ids (see [`tokenize_prompts`]).
            settings (`SamplingSettings`): How to draw.

        Returns:
            `list[list[int]]`: Token ids in the order of `prompts`. The end-of-turn token is included; a completion
            without it is truncated.
        """

    def next_token_probabilities(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> list[float]:
        """
        Return, per prompt, the probability that the next token is one of some, at temperature 1.

        Args:
            prompts (`Sequence[list[int]]`): Token ids, at least one prompt.
            token_ids (`Sequence[int]`): The tokens.
        """

    def score_tokens(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[TokenScores]:
        """
        Return how uncertain the model is at each token of some completions.

        Args:
            prompts (`Sequence[list[int]]`): Token ids, one prompt per completion.
            completions (`Sequence[list[int]]`): Token ids, at least one per completion.
        """


class TransformersSampler:
    """
    Samples with `model.generate`. The caller's random state does not change.

    Args:
        model ([`~transformers.PreTrainedModel`]): Model to sample from.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase):
        self.model = model
        self.tokenizer = with_padding_token(tokenizer)
        self.end_token_ids = end_token_ids(model, tokenizer)

    def sample(self, prompts: Sequence[list[int]], settings: SamplingSettings) -> list[list[int]]:
        """See [`Sampler`]."""
        model = self.model
        drawing: dict[str, Any] = {"do_sample": False}
        if settings.temperature > 0:
            drawing = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(settings.seed)
            generated = self._generate(prompts, max_new_tokens=settings.max_new_tokens, **drawing)
        return [self._end(ids) for ids in generated[:, max(map(len, prompts)) :].tolist()]

    def next_token_probabilities(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> list[float]:
        """See [`Sampler`]."""
        options: dict[str, Any] = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        (logits,) = self._generate(prompts, max_new_tokens=1, **options).logits
        return logits.float().softmax(dim=-1)[:, list(token_ids)].sum(dim=-1).tolist()

    def score_tokens(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[TokenScores]:
        """See [`Sampler`]."""
        longest = max(map(len, completions))
        # Logits are the largest tensor of this pass
        rows = max(1, LARGEST_LOGITS // (longest * self.model.get_output_embeddings().weight.shape[0]))
        scored: list[TokenScores] = []
        for first in range(0, len(completions), rows):
            pairs = list(zip(prompts[first : first + rows], completions[first : first + rows], strict=True))
            inputs = self._pad([[*prompt, *ids] for prompt, ids in pairs])
            kept = max(len(ids) for _, ids in pairs) + 1
            with evaluating(self.model), torch.inference_mode():
                logits = self.model(**inputs, logits_to_keep=kept).logits  # (B, kept, V)
            for own, (_, ids) in zip(logits, pairs, strict=True):
                scored.append(score_logits(own[-len(ids) - 1 : -1], ids))
        return scored

    def _pad(self, rows: Sequence[list[int]]) -> Any:
        inputs = self.tokenizer.pad(
            {"input_ids": list(rows)}, padding_side="left", return_attention_mask=True, return_tensors="pt"
        )
        positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        return {**inputs.to(self.model.device), "position_ids": positions.to(self.model.device)}

    def _generate(self, prompts: Sequence[list[int]], **options: Any) -> Any:
        tokenizer = self.tokenizer
        inputs = tokenizer.pad(
            {"input_ids": list(prompts)}, padding_side="left", return_attention_mask=True, return_tensors="pt"
        ).to(self.model.device)
        with evaluating(self.model), torch.inference_mode():
            return self.model.generate(
                **inputs,
                eos_token_id=sorted(self.end_token_ids),
                pad_token_id=tokenizer.pad_token_id,
                **options,
            )

    def _end(self, ids: list[int]) -> list[int]:
        return ids[: next((place + 1 for place, token in enumerate(ids) if token in self.end_token_ids), len(ids))]


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """
    Put a model in evaluation mode, with an empty generation config.

    `generate` reads missing settings from the model's config, even if it is given another one. The contents of the config
    are replaced, not the object, because PEFT shares the object between the adapter and the base model.
    """
    from transformers import GenerationConfig

    config = model.generation_config
    own, training = config.__dict__, model.training
    config.__dict__ = vars(GenerationConfig())
    model.eval()
    try:
        yield
    finally:
        config.__dict__ = own
        model.train(training)


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
        self.end_token_ids = _tokens(generation_config(model).eos_token_id, tokenizer)

    def sample(self, prompts: Sequence[list[int]], settings: SamplingSettings) -> list[list[int]]:
        """See [`Sampler`]."""
        from vllm import SamplingParams

        outputs = self.engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
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
        # Every stop is the model's end of turn: no stop strings are set.
        self.end_token_ids |= {item.token_ids[-1] for item in completions if item.finish_reason == "stop"}
        return [list(item.token_ids) for item in completions]

    def next_token_probabilities(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> list[float]:
        """See [`Sampler`]. vLLM returns the probabilities of the 20 most likely tokens; those of others count as 0."""
        from vllm import SamplingParams

        outputs = self.engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            SamplingParams(max_tokens=1, temperature=0.0, logprobs=20),
            use_tqdm=False,
            lora_request=self.adapter,
        )
        likely = [(output.outputs[0].logprobs or [{}])[0] for output in outputs]
        return [sum(math.exp(found[token].logprob) for token in token_ids if token in found) for found in likely]

    def score_tokens(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[TokenScores]:
        """See [`Sampler`]. vLLM returns the 20 most likely tokens, so entropies are lower bounds."""
        scored = []
        for first in range(0, len(prompts), SCORED):
            scored += self._score(prompts[first : first + SCORED], completions[first : first + SCORED])
        return scored

    def _score(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[TokenScores]:
        from vllm import SamplingParams

        outputs = self.engine.generate(
            [{"prompt_token_ids": [*prompt, *ids]} for prompt, ids in zip(prompts, completions, strict=True)],
            SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=20),
            use_tqdm=False,
            lora_request=self.adapter,
        )
        scored = []
        for output, ids in zip(outputs, completions, strict=True):
            likely = output.prompt_logprobs[-len(ids) :]
            known = [[min(1.0, math.exp(token.logprob)) for token in found.values()] for found in likely]
            scored.append(
                TokenScores(
                    # The vocabulary only matters to the upper bound
                    [entropy_bounds(found, len(found) + 1)[0] for found in known],
                    [-found[token].logprob for found, token in zip(likely, ids, strict=True)],
                    [min(1.0, sum(found)) for found in known],
                )
            )
        return scored


def load_sampler(
    model: str,
    *,
    use_vllm: bool = False,
    dtype: str | None = None,
    quantization: Quantization = NOT_QUANTIZED,
    **vllm_options: Any,
) -> Sampler:
    """
    Load a model, or an adapter on top of its base model, to sample from.

    Args:
        model (`str`): Path or Hub id of a model or of an adapter; `demo` is the embedded model.
        use_vllm (`bool`, *optional*, defaults to `False`): Whether to generate with vLLM.
        dtype (`str`, *optional*): Data type of the weights. Defaults to the checkpoint's, with both engines: vLLM's own
            default converts float32 to bfloat16.
        quantization ([`Quantization`], *optional*): In which mode to load it; with transformers only.
        **vllm_options: Arguments of `vllm.LLM`.

    Returns:
        [`Sampler`]: On the GPU if there is one.

    Raises:
        `ImportError`: If vLLM is requested and missing.
        `FileNotFoundError`: If the model, its tokenizer or its base model is not found, locally or on the Hub.
        `ValueError`: If the weights or the tokenizer are damaged, or an adapter does not name its base model.
    """
    model, base = find_model(model, quantization.gguf_file)
    quantization.check(model, base, use_vllm=use_vllm)
    tokenizer = load_tokenizer_of(model, quantization)
    dtype = dtype or checkpoint_dtype(base or model, quantization.gguf_file)
    if use_vllm:
        return VLLMSampler(base or model, tokenizer, model if base else None, dtype=dtype, **vllm_options)
    return TransformersSampler(load_model(model, base, dtype, quantization), tokenizer)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end a turn: those of the model's generation config, and the tokenizer's EOS."""
    return _tokens(model.generation_config.eos_token_id, tokenizer)


def _tokens(ends: int | list[int] | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}


def generation_config(model: str) -> GenerationConfig:
    """Return the generation config of a model by its path or id; that of its config if it has none of its own."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model)
    except OSError:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(model))


def with_padding_token(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer that can pad a batch: the tokenizer itself or, without a padding token, a copy that pads with EOS."""
    if tokenizer.pad_token_id is None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Prompt]) -> list[list[int]]:
    """
    Tokenize prompts including the generation prompt, as TRL does in training.

    A chat template adds the special tokens itself; any other text gets the tokenizer's (BOS, if it has one).

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its chat template is used; without one, the messages' texts
            are joined by line breaks.
        prompts (`Sequence`): Lists of messages; a string is taken as it is.

    Returns:
        `list[list[int]]`: Token ids.

    Raises:
        `ValueError`: If the chat template refuses the messages, for example a system message.
    """
    return [_tokenize_prompt(tokenizer, prompt) for prompt in prompts]


def _tokenize_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer(prompt).input_ids
    if tokenizer.chat_template is None:
        return tokenizer("\n\n".join(message["content"] for message in prompt)).input_ids
    try:
        rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        roles = [message["role"] for message in prompt]
        advice = (
            " Leave out the system prompt (--system_prompt), or put it into the problems." if "system" in roles else ""
        )
        raise ValueError(
            f"The model's chat template refuses messages with the roles {', '.join(roles)}: {error}.{advice}"
        ) from error
    return tokenizer(rendered, add_special_tokens=False).input_ids


def digest_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """
    Return the SHA-256 of a prompt: of its text, or of its messages and the chat template.

    The rendered text is not used, because it may contain today's date.
    """
    source = [prompt, None if isinstance(prompt, str) else tokenizer.chat_template]
    return hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
