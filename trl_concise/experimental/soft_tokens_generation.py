# SPDX-License-Identifier: Apache-2.0
"""
Completions that begin with a soft chain of thought, as in "Soft Tokens, Hard Truths" (2025, https://huggingface.co/papers/2509.19170).

At each position of the chain of thought, the model reads a mixture of token embeddings plus Gaussian noise. The most likely token of each
mixture is its shadow: the shadow tokens are the text of the chain of thought, and say where it ends. The answer is ordinary tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..evaluation.sampling import (
    Prompt,
    SamplingSettings,
    TransformersSampler,
    evaluating,
    tokenize_prompts,
    with_padding_token,
)
from .soft_tokens_equations import embedding_noise_scale, soft_embedding
from .soft_tokens_scoring import check_plain_embeddings


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPERATURES = {"soft": 0.5, "fuzzy": 1e-4, "hard": 1.0}  # the paper's; "hard" samples tokens


@dataclass(frozen=True)
class SoftThinking:
    r"""
    How completions with a soft chain of thought are written.

    Args:
        cot (`str`, *optional*, defaults to `"soft"`): `"soft"`, `"fuzzy"` (almost a single token, plus noise) or `"hard"` (ordinary tokens).
        temperature (`float`, *optional*): $\tau$ of the mixture. Defaults to the paper's: 0.5 if soft, 1e-4 if fuzzy.
        noise_scale (`float`, *optional*, defaults to `0.33`): Factor of the noise, see [`embedding_noise_scale`]; 0 adds none.
        max_cot_length (`int`, *optional*, defaults to `128`): L, positions of the chain of thought; 0 for none.
        max_answer_length (`int`, *optional*, defaults to `32`): Tokens of the answer after `answer_prefix`.
        cot_end (`str`, *optional*, defaults to `"The final answer is: "`): Text with which the chain of thought ends. White space at its end is
            not compared.
        answer_prefix (`str`, *optional*, defaults to `"\\boxed{"`): Text that is written for the model before the answer.

    Raises:
        `ValueError`: If a setting is out of range.
    """

    cot: str = "soft"
    temperature: float | None = None
    noise_scale: float = 0.33
    max_cot_length: int = 128
    max_answer_length: int = 32
    cot_end: str = "The final answer is: "
    answer_prefix: str = "\\boxed{"

    def __post_init__(self):
        if self.cot not in TEMPERATURES:
            raise ValueError(f"cot is {self.cot!r}, but must be one of {', '.join(map(repr, TEMPERATURES))}.")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(
                f"cot_temperature must be positive, got {self.temperature}. Leave it out for the paper's: {TEMPERATURES['soft']} if soft, "
                f"{TEMPERATURES['fuzzy']} if fuzzy."
            )
        if not 0 <= self.noise_scale < math.inf:
            raise ValueError(f"noise_scale must be at least 0, got {self.noise_scale}.")
        if self.max_cot_length < 0 or self.max_answer_length < 1:
            raise ValueError(
                f"max_cot_length must be at least 0 and max_answer_length at least 1, got {self.max_cot_length} and {self.max_answer_length}."
            )
        if not self.cot_end.strip():
            raise ValueError(
                f"cot_end is {self.cot_end!r}, so the chain of thought would have no end. Give the text that ends it, for example '</think>'."
            )

    @property
    def tau(self) -> float:
        """The temperature of the mixture, with the default of the mode."""
        return self.temperature if self.temperature is not None else TEMPERATURES[self.cot]

    def forced(self, tokenizer: PreTrainedTokenizerBase, stopped: bool) -> list[int]:
        """Return the tokens that are written for the model after the chain of thought, which has stopped by itself or reached L."""
        text = self.answer_prefix if stopped else self.cot_end + self.answer_prefix
        return tokenizer(text, add_special_tokens=False).input_ids

    def longest(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return the largest number of tokens of a completion."""
        return self.max_cot_length + len(self.forced(tokenizer, stopped=False)) + self.max_answer_length


@dataclass(frozen=True)
class SoftCompletions:
    """
    b completions, each a chain of thought, forced tokens and an answer.

    Attributes:
        completion_ids (`list[list[int]]`): Shadow tokens, forced tokens and answer, terminating EOS included.
        mask (`list[list[int]]`): 1 where the model wrote the position, 0 where the token was forced.
        cot_lengths (`list[int]`): Soft positions of each completion, its first ones.
        stopped (`list[bool]`): Whether the shadow tokens ended with `cot_end`.
        embeds (`torch.Tensor`): `(b, L, d)`, what the model read at the soft positions, zeros after them.
        noise_scale (`float`): Standard deviation of the noise, per coordinate.
        entropies (`list[float]`): Mean entropy of the mixtures of each completion, in nats; 0 without soft positions.
        norms (`list[float]`): Mean norm of the mixtures of each completion, before noise.
    """

    completion_ids: list[list[int]]
    mask: list[list[int]]
    cot_lengths: list[int]
    stopped: list[bool]
    embeds: Tensor
    noise_scale: float
    entropies: list[float]
    norms: list[float]


@torch.no_grad()
def write_completions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[Sequence[int]],
    thinking: SoftThinking,
    *,
    end_ids: set[int],
    sampling: Mapping[str, Any],
) -> SoftCompletions:
    """
    Write one completion with a soft chain of thought per prompt, in evaluation mode.

    The noise of all positions is drawn first, so that what a row reads does not depend on where the others stop.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer, with a padding token.
        prompt_ids (`Sequence[Sequence[int]]`): Token ids of b prompts, at least one token each.
        thinking ([`SoftThinking`]): How to write, in the mode `"soft"` or `"fuzzy"`.
        end_ids (`set[int]`): Tokens that end a completion.
        sampling (`Mapping[str, Any]`): Arguments of `generate` for the answer, such as `do_sample` and `temperature`.

    Returns:
        [`SoftCompletions`]: In the order of the prompts.

    Raises:
        `ValueError`: If the list is empty, or a prompt in it is.
    """
    if not prompt_ids or not all(prompt_ids):
        raise ValueError(
            f"A completion needs a prompt of at least one token, but of {len(prompt_ids)} prompts, {sum(not ids for ids in prompt_ids)} are "
            "empty. Leave them out."
        )
    with evaluating(model):
        embeds, shadows, stopped, entropies, norms, sigma = _think(model, tokenizer, prompt_ids, thinking)
        lengths = [len(shadow) for shadow in shadows]
        forced = [thinking.forced(tokenizer, is_stopped) for is_stopped in stopped]
        answers = _answer(model, tokenizer, prompt_ids, embeds, lengths, forced, thinking, end_ids, sampling)
    used = torch.arange(embeds.size(1), device=embeds.device) < torch.tensor(lengths, device=embeds.device)[:, None]
    counts = used.sum(dim=1).clamp(min=1)
    return SoftCompletions(
        completion_ids=[[*a, *b, *c] for a, b, c in zip(shadows, forced, answers, strict=True)],
        mask=[[1] * len(a) + [0] * len(b) + [1] * len(c) for a, b, c in zip(shadows, forced, answers, strict=True)],
        cot_lengths=lengths,
        stopped=stopped,
        embeds=embeds * used[..., None],
        noise_scale=sigma,
        entropies=((entropies * used).sum(dim=1) / counts).tolist(),
        norms=((norms * used).sum(dim=1) / counts).tolist(),
    )


def _think(model, tokenizer, prompt_ids, thinking: SoftThinking):
    """Return what is read at each soft position `(b, L, d)`, shadow tokens, whether each row stopped, entropies, norms and sigma."""
    weight = model.get_input_embeddings().weight
    device, rows, limit = weight.device, len(prompt_ids), thinking.max_cot_length
    sigma = embedding_noise_scale(weight, thinking.noise_scale).item()
    shape = (rows, limit, weight.size(1))
    embeds = torch.randn(shape, device=device) if sigma else torch.zeros(shape, device=device)
    embeds = embeds.mul_(sigma).to(weight.dtype)  # h0 is added where it is known
    entropies, norms = (torch.zeros(rows, limit, device=device) for _ in range(2))
    shadows: list[list[int]] = [[] for _ in prompt_ids]
    stopped = [False] * rows

    padded = tokenizer.pad(
        {"input_ids": [list(ids) for ids in prompt_ids]},
        padding_side="left",
        return_attention_mask=True,
        return_tensors="pt",
    )
    inputs: dict[str, Tensor] = {"input_ids": padded["input_ids"].to(device)}
    mask = padded["attention_mask"].to(device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = None
    for step in range(limit):
        output = model(
            **inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, logits = output.past_key_values, output.logits[:, -1]
        mean = soft_embedding(logits, weight, thinking.tau)
        embeds[:, step] = (mean + embeds[:, step].float()).to(embeds.dtype)
        entropies[:, step] = torch.special.entr((logits.float() / thinking.tau).softmax(dim=-1)).sum(dim=-1)
        norms[:, step] = mean.norm(dim=-1)
        for row, token in enumerate(logits.argmax(dim=-1).tolist()):
            if not stopped[row]:
                shadows[row].append(token)
                stopped[row] = _ends_with(tokenizer, shadows[row], thinking.cot_end.rstrip())
        if all(stopped):
            break
        inputs = {"inputs_embeds": embeds[:, step : step + 1]}
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        positions = positions[:, -1:] + 1
    return embeds, shadows, stopped, entropies, norms, sigma


def _ends_with(tokenizer, ids: list[int], text: str) -> bool:
    """Return whether the text of tokens ends with another, white space apart. Each token has at least one byte."""
    last = tokenizer.decode(ids[-len(text.encode()) - 1 :], clean_up_tokenization_spaces=False)
    return last.rstrip().endswith(text)


def _answer(
    model, tokenizer, prompt_ids, embeds, lengths, forced, thinking: SoftThinking, end_ids, sampling
) -> list[list[int]]:
    """Return the tokens of the answers, which `generate` writes after the embeddings of prompt, chain of thought and forced tokens."""
    embed = model.get_input_embeddings()

    def look_up(ids: Sequence[int]) -> Tensor:
        return embed(torch.tensor(list(ids), dtype=torch.long, device=embeds.device))

    starts = [
        torch.cat([look_up(prompt), embeds[row, : lengths[row]], look_up(forced[row])])
        for row, prompt in enumerate(prompt_ids)
    ]
    masks = [start.new_ones(len(start), dtype=torch.long) for start in starts]
    own = {
        "inputs_embeds": pad_sequence(starts, batch_first=True, padding_side="left"),
        "attention_mask": pad_sequence(masks, batch_first=True, padding_side="left"),
        "max_new_tokens": thinking.max_answer_length,
        "eos_token_id": sorted(end_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }
    generated = model.generate(**{**sampling, **own}).tolist()
    return [ids[: next((i + 1 for i, token in enumerate(ids) if token in end_ids), len(ids))] for ids in generated]


def soft_generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    cot: str = "soft",
    noise: float = 0.33,
    seed: int = 0,
    **settings: Any,
) -> SoftCompletions:
    """
    Write one completion per prompt, in a mode of one's own choice: the paper's evaluation. The caller's random state does not change.

    Args:
        model ([`~transformers.PreTrainedModel`]): An ordinary causal language model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        prompts (`Sequence`): Strings, or lists of messages; one batch.
        cot (`str`, *optional*, defaults to `"soft"`): `"soft"`, `"fuzzy"` or `"hard"`. A hard completion is ordinary text, without forced tokens.
        noise (`float`, *optional*, defaults to `0.33`): Factor of the noise. 0 is greedy: no noise, and the most likely tokens, also of a hard
            completion. Otherwise tokens are sampled at temperature 1.
        seed (`int`, *optional*, defaults to `0`): Seed of noise and tokens.
        **settings: Other arguments of [`SoftThinking`].

    Returns:
        [`SoftCompletions`]: In the order of the prompts.

    Raises:
        `ValueError`: If a setting is out of range, or the embeddings of the model are not a plain lookup.

    Example:

    ```python
    >>> written = soft_generate(model, tokenizer, ["What is 2 + 3?"], noise=0.0, cot_end="</think>")
    >>> tokenizer.batch_decode(written.completion_ids)
    ```
    """
    thinking = SoftThinking(cot=cot, noise_scale=noise, **settings)
    sampler = TransformersSampler(model, tokenizer)
    prompt_ids = tokenize_prompts(tokenizer, prompts)
    if cot == "hard":
        ids = sampler.sample(
            prompt_ids,
            SamplingSettings(thinking.longest(tokenizer), temperature=float(noise > 0), top_p=1.0, seed=seed),
        )
        empty = model.get_input_embeddings().weight.new_zeros(len(ids), 0, model.get_input_embeddings().weight.size(1))
        nothing = [0.0] * len(ids)
        return SoftCompletions(
            ids, [[1] * len(row) for row in ids], [0] * len(ids), [False] * len(ids), empty, 0.0, nothing, nothing
        )
    check_plain_embeddings(model)
    sampling: dict[str, Any] = {"do_sample": False}
    if noise:
        sampling = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return write_completions(
            model,
            with_padding_token(tokenizer),
            prompt_ids,
            thinking,
            end_ids=sampler.end_token_ids,
            sampling=sampling,
        )
