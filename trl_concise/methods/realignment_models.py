# SPDX-License-Identifier: Apache-2.0
"""The models of TrRa: the mix of two models' logits, the two as one frozen teacher, and how they are loaded and compared."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ..components.base import tokenizer_of
from .realignment_config import check_lambda


logger = logging.getLogger(__name__)


def mix_logits(aligned: Tensor, reference: Tensor, lambda_: float) -> Tensor:
    r"""
    Mix the logits of two models with the same vocabulary.

    $$ h_\lambda = \lambda h_\text{aligned} + (1 - \lambda) h_\text{reference}, \qquad
    p_\lambda \propto p_\text{aligned}^\lambda \, p_\text{reference}^{1 - \lambda} $$

    Args:
        aligned, reference (`torch.Tensor`): `(..., V)`, logits or log-probabilities.
        lambda_ (`float`): $\lambda$, weight of the aligned model. Any finite number.

    Returns:
        `torch.Tensor`: `(..., V)`, logits of $p_\lambda$.

    Examples:
        >>> mix_logits(torch.tensor([2.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, -1.0]), 1.5).softmax(-1)
        tensor([0.9537, 0.0288, 0.0175])
    """
    return lambda_ * aligned + (1 - lambda_) * reference


class FusedTeacher(nn.Module):
    """
    Two frozen causal language models as one, whose logits are those of [`mix_logits`].

    The hidden states of both are concatenated, and so are their output embeddings. [`~trl.DistillationTrainer`] projects them chunk by
    chunk, as those of any teacher, so the logits of two models never exist as a whole.

    Args:
        aligned, reference ([`~transformers.PreTrainedModel`]): The models. They may have different widths, not different vocabularies.
        lambda_ (`float`): Weight of the aligned model.

    Raises:
        `ValueError`: If the vocabularies differ, or a model's logits are not a linear function of its last hidden states.
    """

    def __init__(self, aligned: PreTrainedModel, reference: PreTrainedModel, lambda_: float):
        super().__init__()
        check_lambda(lambda_)
        sizes = [model.config.get_text_config().vocab_size for model in (aligned, reference)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"The aligned model has a vocabulary of {sizes[0]} entries and the reference model one of {sizes[1]}. Their logits can "
                "only be mixed if they share the vocabulary: choose two models of the same family."
            )
        _check_projection(aligned, "aligned")
        _check_projection(reference, "reference")
        self.base_model = _FusedBackbone(aligned.base_model, reference.base_model, lambda_)
        heads = [model.get_output_embeddings() for model in (aligned, reference)]
        weight = torch.cat([head.weight.detach().to(heads[1].weight) for head in heads], dim=1)  # (V, H_a + H_r)
        self.lm_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.lm_head.weight = nn.Parameter(weight)
        if any(head.bias is not None for head in heads):
            parts = [head.bias if head.bias is not None else head.weight.new_zeros(sizes[0]) for head in heads]
            self.lm_head.bias = nn.Parameter(mix_logits(parts[0].detach().to(weight), parts[1].detach(), lambda_))
        self.config = PreTrainedConfig(vocab_size=sizes[0], hidden_size=weight.shape[1])
        self.requires_grad_(False)
        self.eval()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the mixed logits, `(B, T, V)`."""
        return self.lm_head(self.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state)


class _FusedBackbone(nn.Module):
    """Both models without their heads. The hidden states carry the weights of the mix."""

    def __init__(self, aligned: nn.Module, reference: nn.Module, lambda_: float):
        super().__init__()
        self.aligned, self.reference, self.lambda_ = aligned, reference, lambda_

    def forward(self, **inputs: Any) -> BaseModelOutput:
        first, second = (model(**inputs).last_hidden_state for model in (self.aligned, self.reference))
        second = (1 - self.lambda_) * second
        return BaseModelOutput(torch.cat([self.lambda_ * first.to(second), second], dim=-1))  # (B, T, H_a + H_r)


@torch.no_grad()
def _check_projection(model: PreTrainedModel, name: str) -> None:
    """Check that the logits are the output embeddings times the last hidden states, with nothing after it."""
    head = model.get_output_embeddings()
    ids = torch.tensor([[1, 2]], device=model.device)
    was_training = model.training
    model.eval()
    logits = model(ids, use_cache=False).logits
    hidden = model.base_model(ids, use_cache=False).last_hidden_state
    model.train(was_training)
    plain = type(head) is nn.Linear and head.weight.shape[0] == logits.shape[-1]
    if not plain or not torch.allclose(head(hidden).float(), logits.float(), atol=1e-7, rtol=1e-6):
        raise ValueError(
            f"The logits of the {name} model ({type(model).__name__}) are not a plain projection of its last hidden states; it scales or "
            "caps them, or an adapter or a quantization changes its head. TrRa does not support this: merge the adapter, or use a model "
            "whose `lm_head` is a plain linear layer."
        )


def load_frozen(model: str | PreTrainedModel, student: Any, options: dict[str, Any]) -> PreTrainedModel:
    """Load a model, or copy it if it is the one to train. An adapter is merged into a copy."""
    if isinstance(model, str):
        return AutoModelForCausalLM.from_pretrained(model, **options)
    if hasattr(model, "merge_and_unload"):
        return copy.deepcopy(model).merge_and_unload()
    return copy.deepcopy(model) if model is student else model


def check_tokenizers(model: Any, aligned: Any, reference: Any, own: Any, trust_remote_code: bool) -> None:
    """Compare the tokenizers of the models, as far as they are found with them."""
    tokenizers = {"student": tokenizer_of(own) if own is not None else None}
    for name, one in {"student": model, "aligned": aligned, "reference": reference}.items():
        if tokenizers.get(name) is not None or one is None:
            continue
        path = one if isinstance(one, str) else one.config._name_or_path
        try:
            tokenizers[name] = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        except (OSError, ValueError):
            logger.warning("The tokenizer of the %s model (%s) was not found, so it is not compared.", name, path)
    student = tokenizers.pop("student")
    for name, tokenizer in tokenizers.items():
        if student is not None and tokenizer is not None and tokenizer.get_vocab() != student.get_vocab():
            raise ValueError(
                f"The tokenizers of the student and of the {name} model have different vocabularies, so their logits cannot be mixed. "
                "Choose models that share the tokenizer."
            )
