# SPDX-License-Identifier: Apache-2.0
"""The weights that ship with the package."""

from __future__ import annotations

import torch

from trl_concise.demo import evaluate_model, generate_problems, model_path


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
    rows = generate_problems(128, seed=0, split="validation")
    evaluation = evaluate_model(model, tokenizer, rows)
    assert evaluation.accuracy > 0.85
    assert evaluation.tokens_mean > 60  # its shortest traces have some 25
    assert evaluation.summary()["truncated_fraction"] < 0.05
