# SPDX-License-Identifier: Apache-2.0
"""Soft positions in the loss: their log-densities, the hooks with which the model reads them again, and what a model and a run must have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .soft_tokens_equations import gaussian_logps, soft_embedding


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel
    from trl import GRPOConfig

POSITIONS = 1024  # whose logits are in memory at a time


@contextmanager
def reading(model, embeds: Tensor, is_soft: Tensor) -> Iterator[list[Tensor]]:
    """
    Let the model read embeddings in the place of tokens, and keep its last hidden states. Without the context it is an ordinary model.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, or one with an adapter.
        embeds (`torch.Tensor`): `(b, T, d)`, for the last T positions.
        is_soft (`torch.Tensor`): `(b, T)` bool, where they are read.

    Returns:
        `list[torch.Tensor]`: Receives the last hidden states of each forward pass, `(b, positions, d)`.
    """
    states: list[Tensor] = []

    def replace_embeddings(module, inputs, output: Tensor) -> Tensor:
        first = output.size(1) - embeds.size(1)
        read = torch.where(is_soft[..., None], embeds.to(output.dtype), output[:, first:])
        return torch.cat([output[:, :first], read], dim=1)

    def keep_states(module, inputs, output) -> None:
        states.append(output.last_hidden_state)

    handles = [
        model.get_input_embeddings().register_forward_hook(replace_embeddings),
        without_adapter(model).base_model.register_forward_hook(keep_states),
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def without_adapter(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def score_soft(model, states: Tensor, embeds: Tensor, sigma: Tensor, temperature: float) -> Tensor:
    """Return the log-densities of n soft positions, `(n,)`. Logits are computed for some positions at a time, and again in backward."""
    head, weight = model.get_output_embeddings(), model.get_input_embeddings().weight

    def score(states: Tensor, embeds: Tensor, sigma: Tensor) -> Tensor:
        return gaussian_logps(embeds, soft_embedding(head(states), weight, temperature), sigma)

    blocks = zip(states.split(POSITIONS), embeds.split(POSITIONS), sigma.split(POSITIONS), strict=True)
    return torch.cat([checkpoint(score, *block, use_reentrant=False) for block in blocks])


def check_plain_embeddings(model: PreTrainedModel | PeftModel) -> None:
    """
    Check that the embedding module is a lookup and nothing else, so that a mixture of its rows is a mixture of what tokens are read as.

    Raises:
        `ValueError`: If it scales, adapts or normalizes the rows.
    """
    module = model.get_input_embeddings()
    if type(module) is not torch.nn.Embedding or module.max_norm is not None:
        raise ValueError(
            f"The embedding module is a {type(module).__module__}.{type(module).__name__}, which does more than a lookup. Soft tokens need a plain "
            "torch.nn.Embedding: choose another model, or train the embeddings without an adapter."
        )


@torch.no_grad()
def check_plain_head(model) -> None:
    """
    Check that the logits are those of the output head, so that training mixes what generation has mixed.

    Raises:
        `ValueError`: If the model scales or caps them.
    """
    own = without_adapter(model)
    weight = own.get_input_embeddings().weight
    inputs = torch.arange(min(8, len(weight)), device=weight.device)[None]
    hidden: list[Tensor] = []
    handle = own.base_model.register_forward_hook(
        lambda module, inputs, output: hidden.append(output.last_hidden_state)
    )
    training = own.training
    own.eval()
    try:
        logits = own(input_ids=inputs).logits
    finally:
        handle.remove()
        own.train(training)
    expected = own.get_output_embeddings()(hidden[0]).float()
    if (logits.float() - expected).norm() > 0.01 * expected.norm():
        raise ValueError(
            f"{type(own).__name__} scales or caps its logits after the output head, which the mixture in the loss would lack. Choose another "
            "model."
        )


def check_on_policy(args: GRPOConfig) -> None:
    """
    Check that each completion is trained on once, with the weights that wrote it, and that the model itself writes it.

    A ratio of densities is useless: a shift of the mean by a tenth of sigma per coordinate changes the log-density of a position by
    several units.

    Raises:
        `ValueError`: If a setting needs a ratio, a reference, or vLLM.
    """
    if args.use_vllm:
        raise ValueError(
            "use_vllm=True: vLLM reads embeddings in the prompt only, so it cannot write a soft chain of thought. Set use_vllm=False, or "
            "cot='hard'."
        )
    if args.beta:
        raise ValueError(
            f"beta = {args.beta}: the reference model gives soft positions no log-probability to compare with. Set beta=0."
        )
    block = args.steps_per_generation * args.num_iterations
    if args.num_iterations > 1 or args.gradient_accumulation_steps % block:
        raise ValueError(
            f"num_iterations = {args.num_iterations} and steps_per_generation = {args.steps_per_generation} with gradient_accumulation_steps = "
            f"{args.gradient_accumulation_steps} train on completions of older weights, whose soft positions have no usable ratio. Set "
            "num_iterations=1, and steps_per_generation to gradient_accumulation_steps."
        )
