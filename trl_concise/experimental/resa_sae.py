# SPDX-License-Identifier: Apache-2.0
"""[`TopKSAE`], the sparse autoencoder of Resa, in the file format of `sparsify`, and the fraction of variance that it leaves unexplained."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..state.checkpoint import read_tensors, write_atomically, write_tensors


WEIGHTS_FILE, CONFIG_FILE = "sae.safetensors", "cfg.json"
_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
# Variants of sparsify that compute something else: (key of cfg.json, the value that is supported).
_SUPPORTED = (
    ("activation", "topk"),
    ("skip_connection", False),
    ("transcode", False),
    ("signed", False),
)


class TopKSAE(nn.Module):
    r"""
    Sparse autoencoder with the k largest latents of each token:

    $$ z = \text{relu}(W_\text{enc}(x - b_\text{dec}) + b_\text{enc}), \quad \hat x = W_\text{dec}^\top z_k + b_\text{dec} $$

    It starts as the release's does: $W_\text{enc}$ is random, $W_\text{dec}$ is $W_\text{enc}$ with rows of norm 1, and the biases are 0.

    Args:
        d_in (`int`): Width $d$ of the activations.
        num_latents (`int`): Latents $m$.
        k (`int`): Latents that are kept for each token, between 1 and `num_latents`.
        seed (`int`, *optional*, defaults to `0`): Seed of the random weights.

    Raises:
        `ValueError`: If `k` is out of range.

    Examples:
        >>> sae = TopKSAE(d_in=192, num_latents=2560, k=16)
        >>> sae(torch.randn(4, 192)).shape
        torch.Size([4, 192])
    """

    def __init__(self, d_in: int, num_latents: int, k: int, *, seed: int = 0):
        super().__init__()
        if not 1 <= k <= num_latents:
            raise ValueError(
                f"k must be between 1 and num_latents={num_latents}, got {k}: it is the number of active latents per token."
            )
        self.d_in, self.num_latents, self.k = d_in, num_latents, k
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Linear(d_in, num_latents)
        nn.init.zeros_(self.encoder.bias)
        self.W_dec = nn.Parameter(self.encoder.weight.detach().clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.normalize_decoder()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return the k largest latents.

        Args:
            x (`torch.Tensor`): Activations, `(..., d)`.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Values, at least 0, and indices, both `(..., k)`. A value of 0 is not active.
        """
        with torch.autocast(x.device.type, enabled=False):  # the SAE keeps its precision in mixed-precision training
            latents = F.relu(self.encoder(x.to(self.W_dec.dtype) - self.b_dec))
        values, indices = latents.topk(self.k, dim=-1, sorted=False)
        return values, indices

    def decode(self, values: Tensor, indices: Tensor) -> Tensor:
        """Return the reconstruction, `(..., d)`, of latents, `(..., k)`."""
        rows, weights = indices.reshape(-1, self.k), values.reshape(-1, self.k)
        summed = F.embedding_bag(rows, self.W_dec, mode="sum", per_sample_weights=weights)
        return summed.view(*values.shape[:-1], self.d_in) + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of activations, `(..., d)`, in their data type."""
        return self.decode(*self.encode(x)).to(x.dtype)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Scale each row of `W_dec` to norm 1."""
        norms = self.W_dec.norm(dim=1, keepdim=True)
        self.W_dec.div_(norms.clamp_min(torch.finfo(self.W_dec.dtype).eps))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Remove the part of each row's gradient that is parallel to the row of `W_dec`, which has norm 1."""
        gradient = self.W_dec.grad
        assert gradient is not None
        gradient.sub_((gradient * self.W_dec).sum(dim=1, keepdim=True) * self.W_dec)

    def save(self, folder: str | Path) -> None:
        """
        Write `sae.safetensors` and `cfg.json` into a folder, in the format of sparsify.

        Args:
            folder (`str` or `Path`): The folder. It is made if it does not exist.
        """
        write_tensors(Path(folder, WEIGHTS_FILE), {name: self.state_dict()[name] for name in _TENSORS})
        config = {
            **dict(_SUPPORTED[:3]),
            "d_in": self.d_in,
            "num_latents": self.num_latents,
            "k": self.k,
            "normalize_decoder": True,
            "multi_topk": False,
        }
        write_atomically(Path(folder, CONFIG_FILE), (json.dumps(config, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path) -> TopKSAE:
        """
        Read an SAE from the folder of one hook point, ours or one that sparsify wrote.

        Args:
            folder (`str` or `Path`): Folder with `sae.safetensors` and `cfg.json`.

        Raises:
            `FileNotFoundError`: If one of the files is missing.
            `ValueError`: If the files do not describe an SAE of this kind, or do not fit each other.
        """
        folder = Path(folder)
        for name, other in ((WEIGHTS_FILE, CONFIG_FILE), (CONFIG_FILE, WEIGHTS_FILE)):
            if not (folder / name).is_file():
                found = f"{other} is there, {name} is missing" if (folder / other).is_file() else "it has neither file"
                raise FileNotFoundError(
                    f"{folder} is not the folder of an SAE: {found}. Name the folder of one layer with {WEIGHTS_FILE} and {CONFIG_FILE}."
                )
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            config["d_in"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{folder / CONFIG_FILE} does not describe an SAE: a JSON object with d_in, k and num_latents is expected. Save the SAE again."
            ) from None
        for key, supported in _SUPPORTED:
            if config.get(key, supported) != supported:
                raise ValueError(
                    f"The SAE in {folder} has {key}={config[key]!r}, which is not supported: it must be {supported!r}."
                )
        try:
            d_in, k = int(config["d_in"]), int(config["k"])
            num_latents = int(config.get("num_latents") or d_in * config["expansion_factor"])
        except KeyError as error:
            raise ValueError(f"{folder / CONFIG_FILE} has no {error.args[0]!r}. Save the SAE again.") from None
        sae = cls(d_in, num_latents, k)
        tensors = read_tensors(folder / WEIGHTS_FILE)
        shapes = {name: tuple(value.shape) for name, value in sae.state_dict().items()}
        found_shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        if found_shapes != shapes:
            raise ValueError(
                f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: it has {found_shapes}, expected {shapes}. Save the SAE again."
            )
        sae.load_state_dict(tensors)
        return sae


def fvu(x: Tensor, reconstruction: Tensor) -> Tensor:
    r"""
    Fraction of variance unexplained: $\sum \lVert x - \hat x \rVert^2 / \sum \lVert x - \bar x \rVert^2$ over the tokens of a batch.

    Args:
        x, reconstruction (`torch.Tensor`): `(N, d)`.

    Returns:
        `torch.Tensor`: A scalar, at least 0: 0 for an exact reconstruction, 1 for the mean activation.

    Raises:
        `ValueError`: If all tokens have the same activation.

    Examples:
        >>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
        >>> fvu(x, x).item(), fvu(x, x.mean(dim=0)).item()
        (0.0, 1.0)
    """
    error, variance = (x - reconstruction).square().sum(), (x - x.mean(dim=0)).square().sum()
    if variance <= 1e-12 * x.square().sum():  # the mean of equal numbers is rounded
        raise ValueError(
            f"The fraction of variance unexplained needs tokens with different activations; all {len(x)} are equal. Use a larger batch."
        )
    return error / variance
