# SPDX-License-Identifier: Apache-2.0
"""The weights that ship with the package."""

from __future__ import annotations

import torch

from trl_concise.demo import OPERATIONS, evaluate_model, model_path, problem_dataset


def test_folder_is_small():
    files = [path for path in model_path().rglob("*") if path.is_file()]
    assert "model.safetensors" in {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= 4_000_000


def test_model(model, tokenizer):
    assert model.config.model_type == "qwen2"
    assert 800_000 <= model.num_parameters() <= 1_000_000
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings >= 2048
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_the_model_solves_problems_verbosely(model, tokenizer):
    record = evaluate_model(model, tokenizer, problem_dataset(128, split="validation", operations=OPERATIONS))
    assert record["accuracy"] > 0.85
    assert record["tokens_mean"] > 60  # its shortest traces have some 25
    assert record["truncated_fraction"] < 0.05


def test_an_evaluation_does_not_change_the_random_state_or_the_mode(model, tokenizer):
    model.train()
    before = torch.get_rng_state()
    problems = problem_dataset(8)
    record = evaluate_model(model, tokenizer, problems, max_new_tokens=16)
    assert record == evaluate_model(model, tokenizer, problems, max_new_tokens=16)
    assert torch.equal(torch.get_rng_state(), before) and model.training
