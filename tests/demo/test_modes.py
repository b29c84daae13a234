# SPDX-License-Identifier: Apache-2.0
"""The embedded model with two modes, and the texts that it learns from."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_concise.demo import generate_problems, model_path, two_mode_model
from trl_concise.demo.problems import split_of, training_problems
from trl_concise.demo.traces import write_direct_answer, write_trace
from trl_concise.verification.finished import has_thought, is_finished


def test_direct_answers_slip_more_often_in_longer_problems():
    rng, problems = random.Random(0), training_problems("test")
    wrong: dict[int, list[bool]] = {2: [], 3: []}
    for _ in range(2000):
        problem = next(problems)
        text = write_direct_answer(problem, rng)
        assert has_thought(text, reasoning_opened=True) is False and is_finished(text, reasoning_opened=True)
        assert len(text) < len(write_trace(problem, rng)) + 20
        answer = text.rpartition("{")[2].rstrip("}")
        wrong[len(problem.operations)].append(int(answer) != problem.results[-1])
        assert split_of(problem.text) == "train"
    shares = {length: sum(slips) / len(slips) for length, slips in wrong.items()}
    assert shares[2] == pytest.approx(0.06, abs=0.02) and shares[3] == pytest.approx(0.17, abs=0.03)


def test_training_makes_direct_answers_likely(tmp_path):
    """A few of the steps; the folder is then complete, and not trained again."""
    folder = two_mode_model(tmp_path / "outputs" / "model", steps=12)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("</think>")
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["problem"]}], add_generation_prompt=True, tokenize=False
        )
        for row in generate_problems(8, seed=0, split="validation")
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)

    def probability(path) -> float:
        with torch.no_grad():
            return AutoModelForCausalLM.from_pretrained(path)(**inputs).logits[:, -1].softmax(-1)[:, end].mean().item()

    assert probability(folder) > probability(model_path())
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert two_mode_model(folder, steps=12) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_steps_are_checked(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        two_mode_model(tmp_path / "model", steps=0)
