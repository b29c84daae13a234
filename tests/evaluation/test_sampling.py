# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_concise.cli.commands import main
from trl_concise.evaluation.sampling import (
    SamplingSettings,
    TransformersSampler,
    digest_prompt,
    load_sampler,
    tokenize_prompts,
)


PROBLEMS = ["12+7", "9*6-3", "(4+5)*8"]


def messages(problem: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem}]


def draw(model, tokenizer, **changes) -> list[list[int]]:
    settings = SamplingSettings(**{"max_new_tokens": 24, "temperature": 1.0, "top_p": 1.0, **changes})
    prompts = tokenize_prompts(tokenizer, [messages(problem) for problem in PROBLEMS])
    return TransformersSampler(model, tokenizer).sample(prompts, settings)


@pytest.mark.parametrize(
    "own",
    [
        {"no_repeat_ngram_size": 2, "repetition_penalty": 2.0},
        {"min_p": 0.9, "typical_p": 0.1, "top_k": 1},
        {"min_new_tokens": 20},
        {"num_beams": 3},
        {"num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True},
        {"stop_strings": ["="]},
        {"suppress_tokens": [5, 6], "bad_words_ids": [[7]], "forced_eos_token_id": 5, "guidance_scale": 2.0},
        {"exponential_decay_length_penalty": (2, 1.5), "max_time": 1e-6},
    ],
    ids=lambda own: next(iter(own)),
)
def test_the_generation_config_of_the_model_does_not_count(own, model, tokenizer):
    opinionated = copy.deepcopy(model)
    for name, value in own.items():
        setattr(opinionated.generation_config, name, value)
    before = opinionated.generation_config.to_dict()
    for temperature in (1.0, 0.0):
        drawn = draw(opinionated, tokenizer, temperature=temperature)
        assert drawn == draw(model, tokenizer, temperature=temperature)
    assert opinionated.generation_config.to_dict() == before


def test_the_generation_config_of_an_adapter_is_restored(model, tokenizer):
    peft = pytest.importorskip("peft")
    base = copy.deepcopy(model)
    base.generation_config.no_repeat_ngram_size = 2
    adapter = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"]))
    assert draw(adapter, tokenizer) == draw(model, tokenizer)  # a new adapter changes nothing
    assert adapter.merge_and_unload().generation_config.no_repeat_ngram_size == 2


def test_a_model_is_restored_after_an_error(model, tokenizer):
    model.train()
    before = model.generation_config.to_dict()
    with pytest.raises(IndexError):
        TransformersSampler(model, tokenizer).sample([[10**6]], SamplingSettings(4))
    assert model.training and model.generation_config.to_dict() == before


def test_text_has_the_special_tokens_that_training_gives_it(tokenizer):
    beginning = copy.deepcopy(tokenizer)
    bos = beginning.convert_tokens_to_ids("<|im_start|>")
    beginning._tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    (text,) = tokenize_prompts(beginning, ["1+1"])
    assert text == [bos, *tokenizer("1+1").input_ids] == beginning(text="1+1").input_ids
    rendered = beginning.apply_chat_template(messages("1+1"), add_generation_prompt=True, return_dict=True)
    assert tokenize_prompts(beginning, [messages("1+1")]) == [rendered["input_ids"]]  # no second one
    beginning.chat_template = None
    assert tokenize_prompts(beginning, [messages("1+1")]) == [text]


def test_different_prompts_have_different_keys(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template += " "
    prompts = ["1+1", "1+2", messages("1+1"), messages("1+2")]
    digests = [digest_prompt(tokenizer, prompt) for prompt in prompts]
    assert len(set(digests)) == 4
    assert [digest_prompt(other, prompt) == digest for prompt, digest in zip(prompts, digests, strict=True)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_negative_seed():
    with pytest.raises(ValueError, match="seed >= 0; got .* and -1"):
        SamplingSettings(seed=-1)


def test_a_run_with_only_checkpoints(tmp_path):
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    with pytest.raises(FileNotFoundError, match="contains no model.*checkpoint-5, .*checkpoint-10"):
        load_sampler(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="adapter_config.json.$"):
        load_sampler(str(tmp_path / "checkpoint-5"))


def _copy_of(folder: str, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def _with_half_the_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def _with_a_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {}}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_tokenizer, r"copy has no tokenizer: files such as tokenizer\.json, .*save_pretrained"),
        (_with_half_the_weights, r"The weights of .*copy are damaged: "),
        (_with_a_damaged_tokenizer, r"The tokenizer in .*copy cannot be read: "),
    ],
)
def test_a_damaged_folder_ends_the_command_with_one_line(damage, message, tiny_model, tmp_path, capsys):
    damage(_copy_of(tiny_model, tmp_path / "copy"))
    with pytest.raises(SystemExit) as stop:
        main(["eval", str(tmp_path / "copy"), "demo", "--limit", "1", "--output_dir", str(tmp_path / "results")])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("/nowhere/base", "needs its base model '/nowhere/base': it is not a local folder"),
        ("nobody/no-model", "needs its base model 'nobody/no-model': it is not a local folder"),
        (None, "needs its base model, but does not name it"),
    ],
)
def test_an_adapter_without_its_base_model(base, message, tiny_model, tmp_path):
    peft = pytest.importorskip("peft")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
    with pytest.raises((FileNotFoundError, ValueError), match=re.escape(message)):
        load_sampler(str(tmp_path))


def test_a_template_that_refuses_the_system_prompt(tiny_model, tmp_path, capsys):
    folder = _copy_of(tiny_model, tmp_path / "copy")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(folder)
    command = ["eval", str(folder), "demo", "--limit", "1", "--max_new_tokens", "2"]
    command += ["--output_dir", str(tmp_path / "results")]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--system_prompt", "Be brief."])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "refuses messages with the roles system, user: System role not supported. Leave out the system" in last
    assert main(command) == 0  # no settings with the refused system prompt were left in the folder
