# SPDX-License-Identifier: Apache-2.0
"""
The router of R2R, which decides whether the large model writes the next token, with its loss and its threshold.

From "R2R: Efficiently Navigating Divergent Reasoning Paths with Small-Large Model Token Routing" (2025,
https://huggingface.co/papers/2505.21600). Router, inputs, widths, loss and threshold search as in the authors' code (thu-nics/R2R @ 560f5ec).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ...state.checkpoint import read_tensors, write_atomically, write_tensors


if TYPE_CHECKING:
    from .reading import Model

WEIGHTS, FACTS = "router.safetensors", "router.json"
GRID = torch.linspace(0.01, 0.99, 100, dtype=torch.float64)  # thresholds that are tried
_METADATA = {"format": "trl_concise.TokenRouter", "version": "1"}
# What identifies the architecture of the small model. Its whole config differs between versions of transformers.
_ARCHITECTURE = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads"),
)


@dataclass(frozen=True)
class RouterConfig:
    """
    Sizes of a [`TokenRouter`]. The defaults are those of the released routers.

    Args:
        top_k (`int`, *optional*, defaults to `100`): $k$, how many of the largest logits the router sees.
        width (`int`, *optional*, defaults to `1024`): $d$.
        blocks (`int`, *optional*, defaults to `6`): Residual blocks.
        expansion (`int`, *optional*, defaults to `4`): Inner width of a block, as a multiple of `width`.
        dropout (`float`, *optional*, defaults to `0.1`): In [0, 1).

    Raises:
        `ValueError`: If a number is out of range.
    """

    top_k: int = 100
    width: int = 1024
    blocks: int = 6
    expansion: int = 4
    dropout: float = 0.1

    def __post_init__(self):
        if min(self.top_k, self.width, self.expansion) < 1 or self.blocks < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "A router needs top_k, width and expansion of at least 1, blocks of at least 0 and dropout in [0, 1); got "
                f"{self.top_k}, {self.width}, {self.expansion}, {self.blocks} and {self.dropout}."
            )


class TokenRouter(nn.Module):
    r"""
    Probability that a token of the small model would change the line of reasoning: $p = \sigma(f(h, E[y], \text{top}_k(z)))$.

    $h$ is the last hidden state of the small model at a position, $z$ are its logits, $y$ is the token that it proposes and $E$ is a frozen
    copy of its input embeddings:

    1. $u = W_z \, \text{top}_k(z) + b_z$: the $k$ largest raw logits, in descending order, mapped to the width of $h$.
    2. $x = W_1 [h; E[y]; u] + b_1$, of width $d$, then a second linear layer.
    3. Blocks $x \leftarrow x + W_\text{out} \, \text{GELU}(W_\text{in} \, \text{LN}(x))$ with dropout; then LN, and a linear layer to one logit.

    Args:
        embeddings (`Tensor`): $E$, `(vocabulary, embedding width)`. Copied, not trained, and not saved.
        hidden_size (`int`): Width of $h$.
        config ([`RouterConfig`], *optional*): Sizes. Default: those of the released routers.

    Attributes:
        threshold (`float`, *optional*): The one that [`train_router`] found.
        recall, flagged_share (`float`, *optional*): Of that threshold on the validation responses.
        small_model (`str`, *optional*): Digest of the small model that it belongs to (see [`digest_model`]).

    Raises:
        `ValueError`: If `top_k` is larger than the vocabulary.
    """

    embeddings: Tensor

    def __init__(self, embeddings: Tensor, hidden_size: int, config: RouterConfig | None = None):
        super().__init__()
        self.config = config = config or RouterConfig()
        vocabulary, embedding_width = embeddings.shape
        if config.top_k > vocabulary:
            raise ValueError(
                f"top_k = {config.top_k} is larger than the vocabulary of the small model, {vocabulary} tokens. Lower top_k."
            )
        self.threshold: float | None = None
        self.recall: float | None = None
        self.flagged_share: float | None = None
        self.small_model: str | None = None
        self.register_buffer("embeddings", embeddings.detach().clone(), persistent=False)
        width, inner = config.width, config.width * config.expansion
        self.logits_in = nn.Linear(config.top_k, hidden_size)
        self.join = nn.Linear(2 * hidden_size + embedding_width, width)
        self.mix = nn.Linear(width, width)
        self.blocks = nn.ModuleList(_Block(width, inner, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 1)

    @classmethod
    def for_model(cls, small: Model, config: RouterConfig | None = None) -> TokenRouter:
        """Make an untrained router for a small model, on its device."""
        embeddings = small.get_input_embeddings().weight
        output = small.get_output_embeddings()
        router = cls(embeddings, output.weight.shape[1], config).to(embeddings.device)
        router.small_model = digest_model(small)
        return router

    def forward(self, hidden: Tensor, top_logits: Tensor, tokens: Tensor) -> Tensor:
        """
        Args:
            hidden (`Tensor`): $h$, `(n, width of the small model)`.
            top_logits (`Tensor`): The `top_k` largest logits in descending order, `(n, top_k)`, or more of them.
            tokens (`Tensor`): $y$, `(n,)`.

        Returns:
            `Tensor`: Logits, `(n,)`; the probability is their sigmoid.
        """
        dtype, device = self.out.weight.dtype, self.out.weight.device
        logits = self.logits_in(top_logits[:, : self.config.top_k].to(device, dtype))
        proposed = self.embeddings[tokens.to(device)].to(dtype)
        x = self.mix(self.join(torch.cat([hidden.to(device, dtype), proposed, logits], dim=-1)))
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))[:, 0]

    def save(self, folder: str | Path) -> None:
        """Write `router.safetensors`, without the embeddings, and `router.json`."""
        facts = {
            "small_model": self.small_model,
            "threshold": self.threshold,
            "recall": self.recall,
            "flagged_share": self.flagged_share,
            "config": asdict(self.config),
        }
        write_tensors(Path(folder, WEIGHTS), self.state_dict(), metadata=_METADATA)
        write_atomically(Path(folder, FACTS), (json.dumps(facts, indent=2) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path, small: Model) -> TokenRouter:
        """
        Read a router.

        Args:
            folder (`str` or `Path`): Where `save` wrote it.
            small ([`~transformers.PreTrainedModel`]): The small model that it was trained for.

        Raises:
            `FileNotFoundError`: If a file does not exist.
            `ValueError`: If a file is damaged, or the router was trained for another small model.
        """
        path = Path(folder, FACTS)
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            names = {item.name for item in fields(RouterConfig)}
            config = RouterConfig(**{name: facts["config"][name] for name in names})
            trained_for, found = facts["small_model"], {key: facts[key] for key in _FOUND}
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} does not exist. Train the router first.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not describe a router ({error!r}). Train the router again.") from error
        if trained_for != (digest := digest_model(small)):
            raise ValueError(
                f"The router in {folder} was trained for another small model: its digest is {trained_for}, that of the given one {digest}. Give "
                "the small model of the labels, or label and train again."
            )
        router = cls.for_model(small, config)
        tensors = read_tensors(Path(folder, WEIGHTS), metadata=_METADATA)
        try:
            router.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(
                f"{Path(folder, WEIGHTS)} does not belong to {path}: {error}. Train the router again."
            ) from error
        for key, value in found.items():
            setattr(router, key, value)
        return router.eval()


_FOUND = ("threshold", "recall", "flagged_share")


class _Block(nn.Module):
    def __init__(self, width: int, inner: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.narrow(nn.functional.gelu(self.widen(self.norm(x)))))


def digest_model(model: Model) -> str:
    """
    Return a digest of a small model: of its architecture and of its input embeddings at 1,024 places, in bfloat16, so that the data type of the weights does
    not matter.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    config = model.config.get_text_config()
    values = model.get_input_embeddings().weight.detach().flatten()
    sampled = values[:: max(1, len(values) // 1024)].to("cpu", torch.bfloat16).view(torch.int16)
    known = {name: getattr(config, name, None) for name in _ARCHITECTURE}
    return hashlib.sha256(json.dumps(known).encode() + sampled.numpy().tobytes()).hexdigest()[:32]


def positive_weight(labels: Tensor, recall_factor: float = 1.0) -> Tensor:
    """
    Return the weight of the positive class: tokens of label 0 divided by those of label 1, times `recall_factor`.

    Raises:
        `ValueError`: If no token has the label 1, or every token has it.
    """
    divergent = labels.sum()
    if not divergent:
        raise ValueError(
            f"None of the {len(labels)} labeled tokens is divergent, so a router cannot be trained. Label more responses, or harder problems."
        )
    if divergent == len(labels):
        raise ValueError(
            f"All {len(labels)} labeled tokens are divergent, so a router cannot be trained. Check the judge, or take a better small model."
        )
    return (len(labels) - divergent) / divergent * recall_factor


def router_loss(logits: Tensor, labels: Tensor, weight: Tensor | float) -> Tensor:
    """
    Return the mean binary cross-entropy with logits.

    Args:
        logits, labels (`Tensor`): `(n,)`; labels are 0 or 1.
        weight (`Tensor` or `float`): Weight of the positive class.
    """
    weight = torch.as_tensor(weight, dtype=logits.dtype, device=logits.device)
    return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=weight)


class Threshold(NamedTuple):
    """A threshold of the router, with the recall of divergent tokens and the share of all tokens at or above it."""

    value: float
    recall: float
    flagged_share: float


def search_threshold(
    probabilities: Sequence[float] | Tensor, labels: Sequence[int] | Tensor, min_recall: float = 0.95
) -> Threshold:
    """
    Search 100 thresholds from 0.01 to 0.99 for the lowest share of flagged tokens whose recall is at least `min_recall`; the first one of several.

    If none reaches that recall, the highest recall counts first.

    Args:
        probabilities (`Sequence[float]` or `Tensor`): Of the router, `(n,)`.
        labels (`Sequence[int]` or `Tensor`): 1 for divergent tokens, else 0, `(n,)`.
        min_recall (`float`, *optional*, defaults to `0.95`): In [0, 1].

    Raises:
        `ValueError`: If `min_recall` is out of range, or no label is 1.

    Examples:
        >>> found = search_threshold([0.9, 0.6, 0.3, 0.7, 0.4, 0.2], [1, 1, 1, 0, 0, 0], min_recall=0.6)
        >>> round(found.value, 4), found.flagged_share
        (0.406, 0.5)
    """
    if not 0 <= min_recall <= 1:
        raise ValueError(f"min_recall must be between 0 and 1, got {min_recall}.")
    labels = torch.as_tensor(labels).bool()
    if not labels.any():
        raise ValueError("A threshold needs at least one divergent token among the labels. Label more responses.")
    flagged = torch.as_tensor(probabilities, dtype=torch.float64)[:, None] >= GRID
    recalls = flagged[labels].double().mean(dim=0).tolist()
    shares = flagged.double().mean(dim=0).tolist()
    best = min(range(len(GRID)), key=lambda i: (-min(recalls[i], min_recall), shares[i], i))
    return Threshold(GRID[best].item(), recalls[best], shares[best])
