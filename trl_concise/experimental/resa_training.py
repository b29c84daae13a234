# SPDX-License-Identifier: Apache-2.0
"""Stage I of SAE-Tuning: [`train_sae`] trains a sparse autoencoder on the output of one layer of a source model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .resa_layers import check_fits, check_layer, hidden_size, layer_output
from .resa_sae import TopKSAE, fvu


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


MOMENTUM = 0.95  # of the schedule-free average, as in the release
LOG_EVERY = 100  # steps


def sae_learning_rate(num_latents: int) -> float:
    r"""
    Return the learning rate of the release, $5 \cdot 10^{-3} / \sqrt{m / 16384}$.

    Examples:
        >>> sae_learning_rate(65536)
        0.0025
    """
    return 5e-3 / math.sqrt(num_latents / 2**14)


class ScheduleFreeSign:
    r"""
    Sign descent with the schedule-free average (Defazio et al., 2024, https://huggingface.co/papers/2405.15682), which sparsify calls
    `signum`. A step with the gradient $g$ at $y_t$ is

    $$ z_{t+1} = z_t - \eta \, \text{sign}(g), \quad x_{t+1} = (1 - \tfrac{1}{t+1}) x_t + \tfrac{1}{t+1} z_{t+1}, \quad
       y_{t+1} = (1 - \beta) z_{t+1} + \beta x_{t+1} $$

    The parameters are $y$ during training; [`~ScheduleFreeSign.finish`] replaces them with the average $x$.

    Args:
        parameters (`Iterable[torch.nn.Parameter]`): What is trained.
        learning_rate (`float`): $\eta$, constant.
        momentum (`float`, *optional*, defaults to `0.95`): $\beta$, between 0 (not included) and 1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, momentum: float = MOMENTUM):
        self.parameters = list(parameters)
        self.learning_rate, self.momentum = learning_rate, momentum
        self.fast = [parameter.detach().clone() for parameter in self.parameters]  # z
        self.steps = 0

    def _average(self, parameter: nn.Parameter, fast: Tensor) -> Tensor:
        """Return x, from y and z. It is not stored, because y is changed between the steps: its rows are normalized."""
        return parameter.detach().lerp(fast, 1 - 1 / self.momentum)

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters, and clear their gradients."""
        self.steps += 1
        for parameter, fast in zip(self.parameters, self.fast, strict=True):
            if parameter.grad is None:
                continue
            average = self._average(parameter, fast)
            fast.sub_(parameter.grad.sign(), alpha=self.learning_rate)
            average.lerp_(fast, 1 / self.steps)
            parameter.copy_(average.lerp(fast, 1 - self.momentum))
            parameter.grad = None

    @torch.no_grad()
    def finish(self) -> None:
        """Replace the parameters with their average."""
        for parameter, fast in zip(self.parameters, self.fast, strict=True):
            parameter.copy_(self._average(parameter, fast))


def train_sae(
    model: PreTrainedModel,
    chunks: Dataset,
    layer: int,
    *,
    num_latents: int = 65_536,
    k: int = 32,
    batch_size: int = 16,
    learning_rate: float | None = None,
    seed: int = 0,
    sae: TopKSAE | None = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[TopKSAE, list[dict[str, Any]]]:
    """
    Train a sparse autoencoder on the output of one layer: stage I of SAE-Tuning, on one process, for one epoch. The model is not changed.

    Args:
        model ([`~transformers.PreTrainedModel`]): The source model.
        chunks (`Dataset`): Column `input_ids`, rows of one length, such as [`question_answer_chunks`] returns. They are read in order.
        layer (`int`): Decoder layer, counted from 0.
        num_latents (`int`, *optional*, defaults to `65536`): Latents of a new SAE.
        k (`int`, *optional*, defaults to `32`): Active latents per token of a new SAE.
        batch_size (`int`, *optional*, defaults to `16`): Chunks per step.
        learning_rate (`float`, *optional*): Of [`ScheduleFreeSign`]. Default: [`sae_learning_rate`].
        seed (`int`, *optional*, defaults to `0`): Seed of a new SAE.
        sae ([`TopKSAE`], *optional*): An SAE to train further, instead of a new one. It is changed.
        on_log (`Callable`, *optional*): Called with each record.

    Returns:
        `tuple[TopKSAE, list[dict]]`: The SAE, frozen, and a record every 100 steps and at the end: `step`, `fvu` (mean since the last
        record), `dead` (share of the latents that have never been active, in [0, 1]) and `tokens`.

    Raises:
        `ValueError`: If the layer does not exist, the SAE does not fit the model, `chunks` is empty or its rows have different lengths,
            or all activations are equal.
    """
    check_layer(model, layer)
    if len(chunks) == 0 or batch_size < 1:
        raise ValueError(
            f"train_sae needs at least one chunk and a batch_size of at least 1, got {len(chunks)} and {batch_size}."
        )
    is_new = sae is None
    if sae is None:
        sae = TopKSAE(hidden_size(model), num_latents, k, seed=seed)
    check_fits(model, layer, sae.d_in)
    sae.to(next(model.parameters()).device).requires_grad_(True)
    optimizer: ScheduleFreeSign | None = None
    fired = torch.zeros(sae.num_latents, dtype=torch.bool, device=sae.W_dec.device)
    records: list[dict[str, Any]] = []
    recent: list[float] = []
    tokens = 0
    starts = range(0, len(chunks), batch_size)
    for step, start in enumerate(starts, 1):
        rows = chunks[start : start + batch_size]["input_ids"]
        if len({len(row) for row in rows}) > 1:
            raise ValueError(
                "The chunks have different lengths. Make chunks of one length with question_answer_chunks."
            )
        input_ids = torch.tensor(rows, device=sae.W_dec.device)
        x = layer_output(model, layer, input_ids).flatten(0, 1).to(sae.W_dec.dtype)  # (N, d)
        if optimizer is None:
            if is_new:
                sae.b_dec.data = x.mean(dim=0)
            optimizer = ScheduleFreeSign(sae.parameters(), learning_rate or sae_learning_rate(sae.num_latents))
        sae.normalize_decoder()
        values, indices = sae.encode(x)
        loss = fvu(x, sae.decode(values, indices))
        loss.backward()
        sae.remove_parallel_gradient()
        optimizer.step()
        fired[indices[values > 0]] = True
        tokens += len(x)
        recent.append(loss.item())
        if step % LOG_EVERY == 0 or step == len(starts):
            record = {
                "step": step,
                "fvu": sum(recent) / len(recent),
                "dead": 1 - fired.float().mean().item(),
                "tokens": tokens,
            }
            records.append(record)
            recent.clear()
            if on_log is not None:
                on_log(record)
    assert optimizer is not None
    optimizer.finish()
    sae.normalize_decoder()
    return sae.requires_grad_(False).eval(), records
