# SPDX-License-Identifier: Apache-2.0
"""InRa: the inserted layer, the mix at generation, saving and loading."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tests import tiny
from tests.distributed import realignment as distributed
from tests.distributed import redi
from trl_concise.methods.layer_realignment import InRa
from trl_concise.methods.realignment import mix_logits


IDS = torch.tensor([[0, 0, 11, 23, 7], [30, 41, 5, 64, 9]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}


def trained(path: str, seed: int = 0) -> InRa:
    """The model with a layer that does something."""
    inra = InRa(tiny.load(path))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in inra.layer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return inra


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "gemma2", "qwen3"])
def test_the_layer_is_the_identity_at_first(architecture, tmp_path):
    path = tiny.make_model(tmp_path, architecture=architecture)
    model = tiny.load(path)
    with torch.no_grad():
        before = model(IDS, attention_mask=MASK).logits
        inra = InRa(model)
        assert torch.equal(inra.model(IDS, attention_mask=MASK).logits, before)
        torch.testing.assert_close(inra.logits(IDS, MASK, lambda_=3.0), before, atol=1e-5, rtol=1e-5)
    assert model.config.num_hidden_layers == 3 and len(model.model.layers) == 3
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"model.layers.0.{name}" for name, _ in inra.layer.named_parameters()}


def test_other_layers_are_refused(tmp_path):
    model = tiny.load(tiny.make_model(tmp_path))
    model.model.layers[0].mlp.down_proj.forward = lambda hidden: hidden[..., :64] + 1
    with pytest.raises(ValueError, match="cannot start as the identity"):
        InRa(model)
    with pytest.raises(ValueError, match="Merge it first"):
        InRa(get_peft_model(tiny.load(tmp_path), LoraConfig(r=2, target_modules=["q_proj"])))


def greedy(inra: InRa, lambda_: float, steps: int = 6) -> torch.Tensor:
    """Decode greedily from whole forward passes of two models, without a cache."""
    original = AutoModelForCausalLM.from_pretrained(inra.model.config._name_or_path, dtype=torch.float32)
    ids, mask = IDS, MASK
    for _ in range(steps):
        first, second = (model(ids, attention_mask=mask).logits[:, -1] for model in (inra.model, original))
        ids = torch.cat([ids, mix_logits(first, second, lambda_).argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], dim=1)
    return ids


@torch.no_grad()
def test_generation_mixes_both_streams(tiny_model):
    inra = trained(tiny_model)
    found = {}
    for lambda_ in (-1, 0, 0.5, 1, 2):
        found[lambda_] = inra.generate(IDS, MASK, lambda_=lambda_, **GREEDY)
        assert torch.equal(found[lambda_], greedy(inra, lambda_)), lambda_
    assert len({tuple(ids.flatten().tolist()) for ids in found.values()}) > 2
    assert torch.equal(found[0], tiny.load(tiny_model).generate(IDS, attention_mask=MASK, **GREEDY))
    torch.testing.assert_close(
        inra.logits(IDS, MASK, lambda_=0)[MASK.bool()],
        tiny.load(tiny_model)(IDS, attention_mask=MASK).logits[MASK.bool()],
    )


@torch.no_grad()
def test_sampling_with_several_sequences_and_excluded_tokens(tiny_model):
    inra = trained(tiny_model)
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 4, "num_return_sequences": 3, "pad_token_id": 0}
    torch.manual_seed(0)
    ids = inra.generate(IDS, MASK, lambda_=-1.0, suppress_tokens=list(range(200)), **options)
    assert ids.shape[0] == 6 and (ids[:, 5:] >= 200).all()
    assert inra.generate(IDS[1:], lambda_=1.5, **GREEDY).shape == (1, 11)  # without a mask


@pytest.mark.parametrize("lambda_", [math.nan, math.inf, None, "1", True])
def test_a_weight_that_is_not_a_number_is_refused(lambda_, tiny_model):
    inra = InRa(tiny.load(tiny_model))
    for call in (inra.generate, inra.logits):
        with pytest.raises(ValueError, match="lambda_ must be a finite number"):
            call(IDS, MASK, lambda_=lambda_)


def test_beam_search_is_refused(tiny_model):
    with pytest.raises(ValueError, match="beam search reorders sequences"):
        InRa(tiny.load(tiny_model)).generate(IDS, MASK, lambda_=2, num_beams=2)


def test_training_with_trl_changes_the_layer_alone_and_it_survives_saving(tiny_model, tmp_path):
    settings = {k: v for k, v in distributed.settings(tmp_path / "sft").items() if k != "max_completion_length"}
    settings |= {"gradient_checkpointing": True, "learning_rate": 1e-2}
    inra = InRa(tiny.load(tiny_model))
    start = copy.deepcopy(inra.model.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trainer = SFTTrainer(
        inra.model, SFTConfig(**settings), train_dataset=distributed.rows(), processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    changed = {name for name, value in inra.model.state_dict().items() if not torch.equal(value, start[name])}
    assert changed and all(name.startswith("model.layers.0.") for name in changed)

    inra.save(tmp_path / "layer")
    assert sorted(path.name for path in (tmp_path / "layer").iterdir()) == ["inra.json", "inra.safetensors"]
    with safe_open(tmp_path / "layer" / "inra.safetensors", "pt") as file:
        assert set(file.keys()) == set(inra.layer.state_dict())
    loaded = InRa.load(tiny.load(tiny_model), tmp_path / "layer")
    whole = InRa(tiny.load(tmp_path / "sft"))  # saved by the trainer, with the layer: no second one
    assert whole.model.config.num_hidden_layers == loaded.model.config.num_hidden_layers == 3
    inra.model.eval()
    with torch.no_grad():
        expected = inra.logits(IDS, MASK, lambda_=1.5)
        for other in (loaded, whole):
            torch.testing.assert_close(other.logits(IDS, MASK, lambda_=1.5), expected)
    with pytest.raises(ValueError, match="has a realignment layer already"):
        InRa.load(loaded.model, tmp_path / "layer")


def test_dpo_trains_the_layer_against_the_model_without_it(tiny_model, tmp_path):
    inra = InRa(tiny.load(tiny_model))
    start = copy.deepcopy(inra.model.state_dict())
    args = DPOConfig(**redi.settings(tmp_path, max_steps=1, learning_rate=1e-2))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trainer = DPOTrainer(inra.model, args=args, train_dataset=redi.pairs(), processing_class=tokenizer)
    trainer.train()
    assert tiny.losses(trainer)[0] == pytest.approx(math.log(2)) and trainer.ref_model.config.num_hidden_layers == 2
    changed = {name for name, value in inra.model.state_dict().items() if not torch.equal(value, start[name])}
    assert changed and all(name.startswith("model.layers.0.") for name in changed)


def test_a_layer_of_another_model_is_refused(tiny_model, tmp_path):
    InRa(tiny.load(tiny_model)).save(tmp_path)
    config = tiny.load(tiny_model).config
    config.hidden_size = 32
    with pytest.raises(ValueError, match="'hidden_size': 64.* this model has .*'hidden_size': 32"):
        InRa.load(AutoModelForCausalLM.from_config(config), tmp_path)
    saved = json.loads((tmp_path / "inra.json").read_text())
    (tmp_path / "inra.json").write_text(json.dumps({**saved, "num_hidden_layers": 5}))
    with pytest.raises(ValueError, match="'num_hidden_layers': 5"):
        InRa.load(tiny.load(tiny_model), tmp_path)
    with pytest.raises(FileNotFoundError, match="no realignment layer"):
        InRa.load(tiny.load(tiny_model), tmp_path / "missing")
