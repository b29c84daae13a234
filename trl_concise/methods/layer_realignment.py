# SPDX-License-Identifier: Apache-2.0
"""
InRa: inference-time realignment with one more layer (Zhu et al., 2025, https://huggingface.co/papers/2506.12704).

A copy of the bottom layer is inserted below it, with output projections of 0, so that it changes nothing at first. It alone is trained,
by SFT on short reasoning or by DPO. At generation the logits with and without the layer are mixed with a weight lambda, as in
[`trl_concise.methods.realignment.mix_logits`]: 0 is the original model, 1 the trained one, more than 1 extrapolates, less than 0 goes in
the opposite direction.

Differences from the authors' code: it was not compared. The layer, its initialization and the mix are the paper's.
  1. The layer is saved alone, without the model it belongs to.
  2. The stream without the layer has a cache of its own, so every token is generated with two forward passes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LogitsProcessorList, PreTrainedModel
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

from ..state.checkpoint import write_atomically
from .realignment_config import check_lambda
from .realignment_models import mix_logits


WEIGHTS_FILE = "inra.safetensors"
CONFIG_FILE = "inra.json"
MARK = "realignment_layer"  # in the config of a model that has the layer
_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense", "down_proj", "fc2", "dense_4h_to_h")


class InRa:
    """
    A causal language model with one trainable layer below the others, whose effect has an adjustable weight at generation.

    The model is changed: it has one layer more, and only this layer requires gradients. Train `inra.model` with any trainer. A model
    that a trainer saved with the layer, and loaded with `from_pretrained`, is recognized, and gets no second one.

    Args:
        model ([`~transformers.PreTrainedModel`]): A causal language model with decoder layers, without an adapter.

    Attributes:
        model ([`~transformers.PreTrainedModel`]): The model. By itself it generates with `lambda_=1`.
        layer (`torch.nn.Module`): The layer.

    Raises:
        `ValueError`: If the layer cannot be inserted, or would not leave the logits exactly as they were.

    Example:

    ```python
    >>> inra = InRa(AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-1.5B-Instruct"))
    >>> SFTTrainer(inra.model, SFTConfig("outputs/sft"), train_dataset=short_reasoning, processing_class=tokenizer).train()
    >>> inra.save("outputs/inra")

    >>> inra = InRa.load(AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-1.5B-Instruct"), "outputs/inra")
    >>> inra.generate(**tokenizer("What is 17 * 3?", return_tensors="pt"), lambda_=1.5, max_new_tokens=256)
    ```
    """

    def __init__(self, model: PreTrainedModel):
        if hasattr(model, "peft_config"):
            raise ValueError("The model has an adapter. Merge it first (trl-concise merge), then insert the layer.")
        self.model = model
        self._is_active = True
        if getattr(model.config, MARK, False):
            self.layer = _layers(model)[0]
        else:
            self.layer = _insert_layer(model)
        self.layer.register_forward_hook(self._bypass, with_kwargs=True)
        model.requires_grad_(False)
        self.layer.requires_grad_(True)

    def _bypass(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        # The layer runs even if its output is not used: its cache counts the tokens of the sequence.
        if self._is_active:
            return output
        hidden_states = args[0] if args else kwargs["hidden_states"]
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states

    @contextmanager
    def without_layer(self) -> Iterator[PreTrainedModel]:
        """Let the model compute as it did before the layer was inserted."""
        self._is_active = False
        try:
            yield self.model
        finally:
            self._is_active = True

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, lambda_: float = 1.0) -> Tensor:
        """
        Return the mixed logits of a sequence.

        Args:
            input_ids, attention_mask (`torch.Tensor`): `(B, T)`.
            lambda_ (`float`, *optional*, defaults to `1.0`): Weight of the trained model. Any finite number.

        Returns:
            `torch.Tensor`: `(B, T, V)`.
        """
        check_lambda(lambda_)
        realigned = self.model(input_ids, attention_mask=attention_mask).logits
        with self.without_layer() as model:
            return mix_logits(realigned, model(input_ids, attention_mask=attention_mask).logits, lambda_)

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, lambda_: float = 1.0, **kwargs: Any
    ) -> Any:
        """
        Generate as `model.generate`, from the mixed logits.

        With `lambda_` of 0 and 1 a token takes one forward pass, with any other value two. Temperature, `top_p` and `top_k` apply to the
        mix.

        Args:
            input_ids, attention_mask (`torch.Tensor`): `(B, T)`, prompts, padded on the left.
            lambda_ (`float`, *optional*, defaults to `1.0`):
                Weight of the trained model: 0 is the original model, 1 the trained one, more than 1 extrapolates, less than 0 goes in the
                opposite direction. Any finite number.
            **kwargs: Arguments of `model.generate`. Beam search is refused.

        Returns:
            What `model.generate` returns.

        Raises:
            `ValueError`: If `lambda_` is not a finite number, or `num_beams` exceeds 1.
        """
        check_lambda(lambda_)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if lambda_ == 0:
            with self.without_layer() as model:
                return model.generate(**inputs, **kwargs)
        if lambda_ == 1:
            return self.model.generate(**inputs, **kwargs)
        config = kwargs.get("generation_config") or self.model.generation_config
        options = {name: kwargs.get(name, getattr(config, name, None)) or 1 for name in _COUNTS}
        if options["num_beams"] > 1:
            raise ValueError(
                f"num_beams={options['num_beams']}: beam search reorders sequences, which the second stream of lambda_={lambda_} does not "
                "follow. Sample or decode greedily (num_beams=1), or use lambda_=0 or 1."
            )
        copies = options["num_return_sequences"]
        prompts, mask = (tensor.repeat_interleave(copies, dim=0) for tensor in (input_ids, attention_mask))
        mix = _MixLogits(lambda_, _OriginalStream(self), prompts, mask)
        processors = LogitsProcessorList([mix, *(kwargs.pop("logits_processor", None) or [])])
        return self.model.generate(**inputs, logits_processor=processors, **kwargs)

    def save(self, folder: str | Path) -> None:
        """
        Save the layer, without the model.

        Args:
            folder (`str` or `Path`): Gets `inra.safetensors` and `inra.json`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.layer.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        write_atomically(folder / CONFIG_FILE, (json.dumps(_shape(self.model, 1), indent=2) + "\n").encode())

    @classmethod
    def load(cls, model: PreTrainedModel, folder: str | Path) -> InRa:
        """
        Insert a saved layer into the model that it was trained on.

        Args:
            model ([`~transformers.PreTrainedModel`]): The original model, without the layer.
            folder (`str` or `Path`): A folder that `save` wrote.

        Returns:
            [`InRa`].

        Raises:
            `FileNotFoundError`: If the folder has no layer.
            `ValueError`: If the layer belongs to a model of another kind, width or depth, or the model has a layer already.
        """
        folder = Path(folder)
        if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} has no realignment layer ({CONFIG_FILE} and {WEIGHTS_FILE}). Give a folder that InRa.save wrote."
            )
        if getattr(model.config, MARK, False):
            raise ValueError("The model has a realignment layer already. Load the original model, then the layer.")
        expected, found = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")), _shape(model, 0)
        if expected != found:
            raise ValueError(
                f"The layer in {folder} was trained on a model with {expected}, but this model has {found}. Load it into the model that it "
                "was trained on."
            )
        inra = cls(model)
        inra.layer.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return inra


_COUNTS = ("num_beams", "num_return_sequences")


class _OriginalStream:
    """The model without the layer, called as the processor below calls a model."""

    def __init__(self, inra: InRa):
        self.inra = inra

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]  # as `generate` does
        with self.inra.without_layer() as model:
            return model(input_ids, attention_mask=attention_mask, position_ids=positions, **kwargs)


class _MixLogits(UnbatchedClassifierFreeGuidanceLogitsProcessor):
    """Classifier-free guidance mixes two streams with the same equation; here the second one is the model without the layer."""

    def get_unconditional_logits(self, input_ids: Tensor) -> Tensor:
        return super().get_unconditional_logits(input_ids)[:, -1:].float()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # A token that an earlier processor has excluded stays excluded, also with a negative weight.
        return super().__call__(input_ids, scores).masked_fill(scores == -torch.inf, -torch.inf)


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise ValueError(
            f"{type(model).__name__} has no list of decoder layers (`get_decoder().layers`), below which a layer could be inserted. Use "
            "another model, such as Qwen2 or Llama."
        )
    return layers


def _shape(model: PreTrainedModel, own_layers: int) -> dict[str, Any]:
    """Return what a model must have in common with the one that the layer was trained on."""
    config = model.config.get_text_config()
    return {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers - own_layers,
    }


@torch.no_grad()
def _insert_layer(model: PreTrainedModel) -> nn.Module:
    """Insert a copy of the bottom layer that adds nothing, and check that the logits are the same."""
    layers, config = _layers(model), model.config.get_text_config()
    before = _probe(model)
    layer = copy.deepcopy(layers[0])
    for name, parameter in layer.named_parameters():
        if set(name.split(".")) & set(_OUTPUT_PROJECTIONS):
            parameter.zero_()
    for module in layers.modules():  # the layers above move up by one in the cache
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx += 1
    layers.insert(0, layer)
    config.num_hidden_layers += 1
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0], *config.layer_types]
    if not torch.equal(before, _probe(model)):
        raise ValueError(
            f"A copy of the bottom layer of {type(model).__name__} changes the logits although its output projections are 0, so the "
            f"layer cannot start as the identity. Supported are layers whose outputs are projected by one of {_OUTPUT_PROJECTIONS}. Load the "
            "model again: this one has been changed."
        )
    setattr(model.config, MARK, True)
    return layer


def _probe(model: PreTrainedModel) -> Tensor:
    """Return the logits of a few tokens."""
    was_training = model.training
    model.eval()
    logits = model(torch.arange(1, 5, device=model.device)[None], use_cache=False).logits
    model.train(was_training)
    return logits
