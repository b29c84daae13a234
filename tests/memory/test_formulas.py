# SPDX-License-Identifier: Apache-2.0
"""The formulas against what PyTorch, PEFT and bitsandbytes allocate on the CPU."""

from __future__ import annotations

import weakref

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DynamicCache,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from trl_concise.batch.merging import merged_adapter
from trl_concise.memory import formulas
from trl_concise.memory.formulas import Architecture


TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS, LENGTH = 3, 200
CLASSES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def config(model_type: str, **changes):
    # The proportions of a 1.5B Qwen2: the MLP is 5.8 times as wide as the model, six query heads share one key.
    return CLASSES[model_type](
        **{
            "vocab_size": 500,
            "hidden_size": 96,
            "intermediate_size": 560,
            "num_hidden_layers": 3,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "head_dim": 8,
            **changes,
        }
    )


def build(
    model_type: str,
    tuning: str = "full",
    dtype=torch.bfloat16,
    checkpointing: bool = False,
    targets=TARGETS,
    **changes,
):
    model = AutoModelForCausalLM.from_config(config(model_type, **changes)).to(dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if tuning == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, lora_dropout=0.0))
        model.enable_input_require_grads()
    return model.train()


def backbone(model):
    return model.get_base_model().model if hasattr(model, "peft_config") else model.model


def run(model):
    """The backbone's forward pass as TRL runs it, on rows of which one is padded."""
    ids = torch.randint(0, 500, (ROWS, LENGTH))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.autocast("cpu", torch.bfloat16):
        return backbone(model)(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state


def saved_bytes(model) -> int:
    """Bytes that a forward pass saves for the backward one: each storage once, weights and their casts not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}
    alive = []  # a freed storage's address could come back

    def pack(tensor):
        alive.append(tensor)
        if LENGTH in tensor.shape or ROWS * LENGTH in tensor.shape:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(model)
    return sum(size for address, size in saved.items() if address not in own)


class PeakBytes(TorchDispatchMode):
    """The largest number of bytes that tensors made under this mode hold at a time."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.current = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self._release, storage._cdata)
                    self.current += storage.nbytes()
                    self.peak = max(self.peak, self.current)
        return output

    def _release(self, key: int) -> None:
        self.current -= self.alive.pop(key)


# Weights, adapter, optimizer


@pytest.mark.parametrize("model_type", CLASSES)
@pytest.mark.parametrize("tied", [True, False])
def test_architecture(model_type, tied):
    built = config(model_type, tie_word_embeddings=tied)
    shape, model = Architecture.from_config(built), AutoModelForCausalLM.from_config(built)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.tied, shape.qk_norm) == (tied, model_type == "qwen3")
    assert sorted(shape.linears) == sorted(TARGETS)
    assert formulas.weight_bytes(shape, 2) == sum(p.nbytes for p in model.bfloat16().parameters())


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="describe llama, mistral, qwen2, qwen3, got a model of type 'gpt2'"):
        Architecture.from_config(GPT2Config())


@pytest.mark.parametrize("targets", [TARGETS, ["q_proj", "v_proj"]])
def test_adapter_gradients_and_optimizer(targets):
    model = build("qwen2", "lora", targets=targets)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = formulas.lora_parameters(Architecture.from_config(config("qwen2")), 4, targets)
    assert sum(parameter.numel() for parameter in trained) == expected
    assert {parameter.dtype for parameter in trained} == {torch.float32}  # PEFT, beside bf16 weights
    optimizer = torch.optim.AdamW(trained)
    run(model).sum().backward()
    optimizer.step()
    assert sum(parameter.grad.nbytes for parameter in trained) == 4 * expected
    moments = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    assert sum(moment.nbytes for moment in moments) == formulas.adamw_bytes(expected, 4)


@pytest.mark.parametrize("double_quantization", [False, True])
def test_nf4(double_quantization):
    elements = 512 * 512
    linear = bitsandbytes.nn.Linear4bit(
        512, 512, bias=False, quant_type="nf4", compress_statistics=double_quantization
    ).to("cpu")
    weight = linear.weight
    state = weight.quant_state
    scales = [state.absmax] + ([state.state2.absmax] if double_quantization else [])
    expected = formulas.nf4_bytes(elements, double_quantization=double_quantization)
    assert weight.nbytes + sum(scale.nbytes for scale in scales) == expected
    assert 8 * expected / elements == pytest.approx(4.127 if double_quantization else 4.5, abs=1e-3)


# Activations


@pytest.mark.parametrize("model_type", CLASSES)
@pytest.mark.parametrize(
    ("tuning", "dtype", "targets"),
    [
        ("lora", torch.bfloat16, TARGETS),
        ("lora", torch.bfloat16, ["q_proj", "v_proj"]),
        ("full", torch.bfloat16, []),
        ("full", torch.float32, []),
    ],
)
def test_saved_activations(model_type, tuning, dtype, targets):
    shape = Architecture.from_config(config(model_type))
    rank = 4 if targets else 0
    one = formulas.layer_activation_bytes(
        shape, ROWS, LENGTH, dtype_bytes=dtype.itemsize, lora_rank=rank, lora_targets=targets
    )
    # Layer by layer, so that embedding and final norm cancel.
    deep, shallow = (
        saved_bytes(build(model_type, tuning, dtype, targets=targets, num_hidden_layers=n)) for n in (3, 2)
    )
    assert deep - shallow == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
@pytest.mark.parametrize(("tuning", "dtype"), [("lora", torch.bfloat16), ("full", torch.float32)])
def test_saved_activations_with_checkpointing(model_type, tuning, dtype):
    shape = Architecture.from_config(config(model_type))
    deep, shallow = (
        saved_bytes(build(model_type, tuning, dtype, checkpointing=True, num_hidden_layers=n)) for n in (3, 1)
    )
    assert deep - shallow == formulas.checkpoint_bytes(shape, ROWS, LENGTH, dtype.itemsize) * 2 / 3


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_peak_of_the_backward_pass(tuning):
    """Checkpoints, one layer's saved tensors and the backward pass's own, to 10 %."""
    shape = Architecture.from_config(config("qwen2"))
    model = build("qwen2", tuning, checkpointing=True)
    run(model).sum().backward()  # gradients are there, as in every micro-batch but the first
    lora = {"lora_rank": 4, "lora_targets": TARGETS} if tuning == "lora" else {}
    expected = (
        formulas.checkpoint_bytes(shape, ROWS, LENGTH)
        + formulas.layer_activation_bytes(shape, ROWS, LENGTH, **lora)
        + formulas.layer_backward_bytes(shape, ROWS, LENGTH, lora=bool(lora))
        + ROWS * LENGTH * LENGTH  # the boolean mask
    )
    with PeakBytes() as memory:
        run(model).sum().backward()
    assert memory.peak == pytest.approx(expected, rel=0.1)


def test_peak_of_the_forward_pass():
    """Checkpoints and the widest moment of the last layer, to 10 %."""
    shape = Architecture.from_config(config("qwen2"))
    model = build("qwen2", "lora", checkpointing=True)
    expected = (
        formulas.checkpoint_bytes(shape, ROWS, LENGTH)
        + formulas.inference_bytes(shape, ROWS, LENGTH, flash_attention=True)
        + ROWS * LENGTH * LENGTH  # the boolean mask
    )
    with PeakBytes() as memory:
        run(model)
    assert memory.peak == pytest.approx(expected, rel=0.1)


# Generation


def test_kv_cache():
    shape, model = Architecture.from_config(config("qwen2")), build("qwen2")
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.randint(0, 500, (ROWS, 30)), past_key_values=cache)
        model(input_ids=torch.randint(0, 500, (ROWS, 1)), past_key_values=cache)
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert size == formulas.kv_cache_bytes(shape, ROWS, 31)


# Quantized


@pytest.mark.usefixtures("plain_nf4")
def test_quantized_weights_and_activations(tmp_path):
    built = config("qwen2")
    shape = Architecture.from_config(built)
    AutoModelForCausalLM.from_config(built).to(torch.bfloat16).save_pretrained(tmp_path)

    def load(layers: int):
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=quantization, dtype=torch.bfloat16, num_hidden_layers=layers
        )
        model = get_peft_model(model, LoraConfig(r=4, target_modules=TARGETS, lora_dropout=0.0))
        for parameter in model.parameters():  # as TRL does
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
        model.enable_input_require_grads()
        return model.train()

    deep, shallow = load(3), load(2)
    stored = 0
    for module in deep.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = module.weight.quant_state
            stored += module.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
            stored += 0 if module.bias is None else module.bias.nbytes
    stored += sum(
        p.nbytes
        for n, p in deep.named_parameters()
        if "lora_" not in n and not n.rpartition(".")[0].endswith(("proj", "base_layer"))
    )
    assert stored == pytest.approx(formulas.weight_bytes(shape, 2, nf4=True, double_quantization=True), rel=1e-2)
    one = formulas.layer_activation_bytes(shape, ROWS, LENGTH, lora_rank=4, lora_targets=TARGETS, quantized=True)
    assert saved_bytes(deep) - saved_bytes(shallow) == pytest.approx(one, rel=1e-3)


def test_copies_for_merging():
    """An adapter is merged into copies of the adapted layers, biases apart."""
    shape = Architecture.from_config(config("llama"))
    model = get_peft_model(build("llama"), LoraConfig(target_modules=["q_proj", "down_proj"]))
    before = {name: value.data_ptr() for name, value in model.named_parameters()}
    with merged_adapter(model):
        copies = [value for name, value in model.named_parameters() if value.data_ptr() != before[name]]
    assert sum(value.nbytes for value in copies) == formulas.merged_bytes(shape, ["q_proj", "down_proj"], 2)
