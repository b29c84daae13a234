# SPDX-License-Identifier: Apache-2.0
"""
The equations of "Soft Tokens, Hard Truths" (2025, https://huggingface.co/papers/2509.19170): mixtures of embeddings, their noise, its density,
and advantages.
"""

from __future__ import annotations

from torch import Tensor

from ..methods.ddca import reward_advantages


def embedding_noise_scale(weight: Tensor, factor: float = 0.33) -> Tensor:
    r"""
    Return the standard deviation of the noise, per coordinate.

    $$ \sigma = f \sqrt{\operatorname{mean} E_{ij}^2} $$

    The root mean square per coordinate is a reconstruction: it agrees with the paper's remark that the noise is comparable to an embedding,
    but a bit smaller.

    Args:
        weight (`torch.Tensor`): `(V, d)`, the embedding matrix E.
        factor (`float`, *optional*, defaults to `0.33`): The paper's f.

    Returns:
        `torch.Tensor`: A float32 scalar.

    Examples:
        >>> import torch
        >>> embedding_noise_scale(torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]))
        tensor(0.2333)
    """
    return factor * weight.float().square().mean().sqrt()


def soft_embedding(logits: Tensor, weight: Tensor, temperature: float) -> Tensor:
    r"""
    Return the mixture of token embeddings that the next position reads, before noise.

    $$ h^0_t = \operatorname{softmax}(W h^L_{t-1} / \tau) \, E $$

    Args:
        logits (`torch.Tensor`): `(..., V)`, of the position before.
        weight (`torch.Tensor`): `(V, d)`, the embedding matrix E.
        temperature (`float`): $\tau$, positive. Close to 0, the mixture is the embedding of the most likely token.

    Returns:
        `torch.Tensor`: `(..., d)` float32. The softmax is computed in float32, the product in the type of E.

    Examples:
        >>> import torch
        >>> E = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
        >>> soft_embedding(torch.tensor([2.0, 1, 0, -1]), E, 0.5)
        tensor([0.8671, 0.1192, 0.0180])
    """
    probabilities = (logits.float() / temperature).softmax(dim=-1)  # subtracts the maximum
    return (probabilities.to(weight.dtype) @ weight).float()


def gaussian_logps(embeds: Tensor, mean: Tensor, noise_scale: Tensor | float) -> Tensor:
    r"""
    Return the log-density of what was read at a soft position, without its constant.

    $$ \log \pi(\tilde h_t \mid \tilde h_{<t}) = -\frac{\lVert \tilde h_t - h^0_t \rVert^2}{2 \sigma^2} $$

    Args:
        embeds (`torch.Tensor`): `(..., d)`, $\tilde h$: constants.
        mean (`torch.Tensor`): `(..., d)`, $h^0$, of [`soft_embedding`]: a function of the parameters.
        noise_scale (`torch.Tensor` or `float`): $\sigma$; a tensor has the shape `(...)`.

    Returns:
        `torch.Tensor`: `(...)` float32.

    Examples:
        >>> import torch
        >>> gaussian_logps(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), 0.5)
        tensor(-2.)
    """
    return -(embeds.float() - mean.float()).square().sum(dim=-1) / (2 * noise_scale**2)


def rloo_advantages(rewards: Tensor) -> Tensor:
    r"""
    Compare each reward with the mean of the others of its group.

    $$ A_g = r_g - \operatorname{mean}_{j \ne g} r_j = \frac{G}{G - 1} (r_g - \operatorname{mean} r) $$

    Args:
        rewards (`torch.Tensor`): `(groups, G)`, NaN unknown; G at least 2.

    Returns:
        `torch.Tensor`: `(groups, G)` float32, 0 where the reward is unknown.

    Raises:
        `ValueError`: If a group has one completion.

    Examples:
        >>> import torch
        >>> rloo_advantages(torch.tensor([[100.0, 10.0, 0.0, 0.0]]))
        tensor([[ 96.6667, -23.3333, -36.6667, -36.6667]])
    """
    if rewards.size(1) < 2:
        raise ValueError(
            "RLOO compares a completion with the others of its group, but the group has 1. Set num_generations to at least 2."
        )
    return reward_advantages(rewards, baseline="rloo")
