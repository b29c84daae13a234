# SPDX-License-Identifier: Apache-2.0
"""Quantized evaluation of the embedded model: int8, NF4 and GGUF, each a setting of the folder."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from trl_concise.cli.commands import main
from trl_concise.demo import model_path
from trl_concise.evaluation import evaluate, load_problem_sets, read_summary
from trl_concise.evaluation.loading import find_source
from trl_concise.evaluation.quantization import NOT_QUANTIZED, Quantization


SETTINGS = {"limit": 4, "max_new_tokens": 24, "temperature": 0.0, "progress": False}


def quantized_evaluation(folder, model="demo", **mode):
    return evaluate(model, "demo", folder, quantization=Quantization(**mode), **SETTINGS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    pytest.importorskip("bitsandbytes")
    root = tmp_path_factory.mktemp("modes")
    evaluate("demo", "demo", root / "bf16", dtype="bfloat16", **SETTINGS)
    quantized_evaluation(root / "int8", load_in_8bit=True)
    quantized_evaluation(root / "nf4", load_in_4bit=True)
    return root


def test_the_mode_is_part_of_settings_and_records(runs):
    for name, expected in {
        "bf16": None,
        "int8": ("bitsandbytes", 8, "int8"),
        "nf4": ("bitsandbytes", 4, "nf4"),
    }.items():
        settings = json.loads((runs / name / "settings.json").read_text())
        (record,) = read_summary(runs / name)
        assert settings["quantization"] == record["quantization"]
        assert (settings["dtype"], record["engine"]) == ("bfloat16" if name == "bf16" else "float32", "transformers")
        found = record["quantization"]
        assert (found and (found["method"], found["bits"], found["type"])) == expected
        assert found is None or set(found["versions"]) == {"bitsandbytes", "transformers"}
    nf4 = read_summary(runs / "nf4")[0]["quantization"]
    assert (nf4["compute_dtype"], nf4["double_quant"]) == ("bfloat16", False)


@pytest.mark.parametrize("mode", [{}, {"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}])
def test_another_mode_does_not_continue_an_evaluation(mode, runs, tmp_path):
    folder = shutil.copytree(runs / "nf4", tmp_path / "nf4")
    before = (folder / "completions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="evaluation with other settings: {'quantization': {'method': 'bitsandbytes'"):
        quantized_evaluation(folder, **mode)
    assert (folder / "completions.jsonl").read_bytes() == before
    assert quantized_evaluation(folder, load_in_4bit=True) == read_summary(folder)


def test_a_folder_of_an_earlier_version_was_not_quantized(runs, tmp_path):
    folder = shutil.copytree(runs / "bf16", tmp_path / "older")
    settings = json.loads((folder / "settings.json").read_text())
    del settings["quantization"]
    (folder / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="other settings: {'quantization': None}"):
        evaluate("demo", "demo", folder, dtype="bfloat16", quantization=Quantization(load_in_8bit=True), **SETTINGS)
    assert evaluate("demo", "demo", folder, dtype="bfloat16", **SETTINGS) == read_summary(runs / "bf16")


def test_a_model_in_memory_says_how_it_is_quantized(runs, tokenizer):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    loaded = AutoModelForCausalLM.from_pretrained(
        model_path(), quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.float32
    )
    short = {**SETTINGS, "max_new_tokens": 4, "limit": 1}
    (record,) = evaluate(loaded, load_problem_sets(["demo"]), tokenizer=tokenizer, **short)
    assert (record["quantization"]["type"], record["quantization"]["bits"]) == ("int8", 8)
    with pytest.raises(ValueError, match="this one is in memory"):
        evaluate(loaded, "demo", tokenizer=tokenizer, quantization=Quantization(load_in_4bit=True), **short)


def write_gguf(path, kind: str) -> None:
    """Write the embedded model as a GGUF file, as llama.cpp's converter does."""
    import gguf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    config, quantization = model.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values, there = tensor.numpy(), names.get_name(name, try_suffixes=(".weight", ".bias"))
        if values.ndim == 2 and "embed" not in name:
            writer.add_tensor(there, gguf.quants.quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(there, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file(tmp_path):
    pytest.importorskip("gguf")
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_path() / name, folder)
    write_gguf(folder / "model-q8.gguf", "Q8_0")
    with pytest.raises(FileNotFoundError, match="has no file 'model-q4.gguf'. Its GGUF files: model-q8.gguf"):
        quantized_evaluation(tmp_path / "none", str(folder), gguf_file="model-q4.gguf")
    (record,) = quantized_evaluation(tmp_path / "run", str(folder), gguf_file="model-q8.gguf")
    assert (record["quantization"]["method"], record["quantization"]["gguf_file"]) == ("gguf", "model-q8.gguf")
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["weights"] is not None and settings["dtype"] == "float32"
    write_gguf(folder / "model-q8.gguf", "Q4_0")  # the same name, other weights
    with pytest.raises(ValueError, match="an evaluation of other weights"):
        quantized_evaluation(tmp_path / "run", str(folder), gguf_file="model-q8.gguf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--load_in_8bit", "--load_in_4bit"], "exclude one another"),
        (["--load_in_4bit", "--bnb_4bit_quant_type", "int4"], "invalid choice: 'int4'"),
        (["--bnb_4bit_quant_type", "fp4"], "--bnb_4bit_quant_type has no effect without --load_in_4bit"),
        (["--load_in_8bit", "--use_vllm"], "are for transformers. Leave out --use_vllm"),
        (["--gguf_file", "a.gguf"], "has no file 'a.gguf'. Its GGUF files: none"),
    ],
)
def test_input_errors(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["eval", "demo", "demo", "--output_dir", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_layers_that_bitsandbytes_cannot_quantize_on_a_cpu(tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoConfig

    AutoConfig.from_pretrained(
        model_path(), hidden_size=160, num_attention_heads=5, num_key_value_heads=5
    ).save_pretrained(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"The layer model\.layers\.0\.\S+ of .* has 160 inputs and .* multiples of 64 and 32"
    ):
        Quantization(load_in_4bit=True).check(str(tmp_path), None, use_vllm=False)
    Quantization(load_in_8bit=True).check(str(tmp_path), None, use_vllm=False)
    NOT_QUANTIZED.check(str(tmp_path), None, use_vllm=True)


def test_a_checkpoint_that_is_quantized_already_keeps_its_mode(tmp_path):
    shutil.copytree(model_path(), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is quantized already, and transformers would load it as it is"):
        find_source(str(tmp_path / "model"), None, None, Quantization(load_in_8bit=True), use_vllm=False)
    found = find_source(str(tmp_path / "model"), None, None, NOT_QUANTIZED, use_vllm=False).settings["quantization"]
    assert (found["bits"], found["type"]) == (4, "nf4")


def test_int8_does_not_warn_at_every_token(tmp_path, caplog):
    pytest.importorskip("bitsandbytes")
    evaluate("demo", "demo", tmp_path, quantization=Quantization(load_in_8bit=True), **{**SETTINGS, "limit": 1})
    assert "MatMul8bitLt" not in caplog.text
