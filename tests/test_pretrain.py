# SPDX-License-Identifier: Apache-2.0
"""The script that trains the embedded model."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_concise.demo import model_path
from trl_concise.demo.problems import split_of


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def pretrain(monkeypatch):
    """The script, as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("pretrain")


def test_sees_only_the_train_split(pretrain):
    texts = [problem.text for problem in itertools.islice(pretrain.training_problems(seed=0), 5000)]
    assert len(set(texts)) == 5000
    assert {split_of(text) for text in texts} == {"train"}


def test_batches_are_labeled_on_the_completion(pretrain):
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    ids, labels = next(pretrain.trace_batches(tokenizer, seed=0))
    assert ids.shape == labels.shape
    for row, targets in zip(ids, labels, strict=True):
        labeled = (targets != pretrain.IGNORED).nonzero().flatten()
        start, end = labeled[0].item(), labeled[-1].item() + 1
        assert tokenizer.decode(row[:start]).endswith("<|im_start|>assistant\n<think>\n")
        assert row[start:end].equal(targets[start:end])
        assert row[end - 1] == tokenizer.eos_token_id


def test_practice_is_labeled_on_the_results(pretrain):
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    ids, labels = next(pretrain.practice_batches(tokenizer, seed=0))
    for row, targets in zip(ids, labels, strict=True):
        for line in tokenizer.decode(row[row != tokenizer.pad_token_id]).splitlines():
            left, result = line.removeprefix("First, ").removeprefix("Then, ").removesuffix(".").split("=")
            assert eval(left) == int(result)  # our own text: digits and an operator
        labeled = tokenizer.decode(row[targets != pretrain.IGNORED])
        assert not set(labeled) - set("0123456789 .\n")


@pytest.mark.slow
def test_seeded(pretrain):
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    models = []
    for _ in range(2):
        model = pretrain.build_model(tokenizer, seed=1)
        pretrain.train(model, pretrain.trace_batches(tokenizer, seed=1), steps=2)
        models.append(model.state_dict())
    for name, tensor in models[0].items():
        assert tensor.equal(models[1][name]), name


@pytest.mark.slow
def test_script_writes_a_model_that_loads(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "pretrain.py"), "--steps", "2", "--threads", "1"]
    command += ["--evaluation_problems", "4"]
    output = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert output.count("step 1/1") == 2  # one of each cycle
    assert "greedy: accuracy" in output
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() < 1_000_000
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<|im_end|>"
    assert "of the `validation` split" in (tmp_path / "README.md").read_text()


def test_bad_arguments(pretrain, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pretrain", "--steps", "0"])
    with pytest.raises(SystemExit, match="2"):
        pretrain.main()
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err
