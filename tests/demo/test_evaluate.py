# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import torch

from trl_concise.demo import Evaluation, evaluate_model, generate_problems
from trl_concise.demo.evaluate import evaluate_cut, judge_completions


ROWS = generate_problems(12, seed=3, split="validation")


def test_summary():
    evaluation = Evaluation([[5, 2], [5, 6, 7, 8], [2], [5]], [True, False, True, True], [True, False, True, False])
    summary = evaluation.summary()
    (low, high), (fewest, most) = summary.pop("accuracy_interval"), summary.pop("tokens_interval")
    assert 0 <= low < 0.75 < high <= 1 and 1 <= fewest < 2 < most <= 4
    assert summary == {
        "accuracy": 0.75,
        "tokens_mean": 2.0,
        "truncated_fraction": 0.5,
        "problems": 4,
    }


def test_seeded_without_effect_on_the_random_state(model, tokenizer):
    model.train()
    before = torch.get_rng_state()
    first = evaluate_model(model, tokenizer, ROWS, seed=1, max_completion_length=40)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert first == evaluate_model(model, tokenizer, ROWS, seed=1, max_completion_length=40)
    assert first != evaluate_model(model, tokenizer, ROWS, seed=2, max_completion_length=40)


def test_reports_batches(model, tokenizer):
    done = []
    evaluate_model(model, tokenizer, ROWS, max_completion_length=4, on_batch=done.append)
    assert sum(done) == len(ROWS)


def test_judges_the_final_answer(model, tokenizer):
    rows = [{"problem": "", "answer": "42"}] * 3
    texts = ["</think>\n\\boxed{42}<|im_end|>", "42\n</think>\n\\boxed{24}<|im_end|>", "6*7=41\n"]
    evaluation = judge_completions(model, tokenizer, rows, [tokenizer(text).input_ids for text in texts])
    assert evaluation.correct == [True, False, False]
    assert evaluation.finished == [True, True, False]


def test_a_completion_ends_at_any_token_that_the_model_ends_with(model, tokenizer):
    ending = copy.deepcopy(model)
    (newline,) = tokenizer("\n").input_ids
    ending.generation_config.eos_token_id = [tokenizer.eos_token_id, newline]
    evaluation = evaluate_model(ending, tokenizer, ROWS)
    assert newline in {ids[-1] for ids in evaluation.completions}
    assert all(evaluation.finished) and evaluation.summary()["truncated_fraction"] == 0


def test_truncated_completions_answer_at_the_limit(model, tokenizer):
    base = evaluate_model(model, tokenizer, ROWS)
    cut = evaluate_cut(model, tokenizer, ROWS, base, tokens=30)
    for before, after in zip(base.completions, cut.completions, strict=True):
        if len(before) <= 30:
            assert after == before
        else:
            assert len(after) <= 31
            assert "</think>\n\\boxed{" in tokenizer.decode(after)
            assert tokenizer.decode(before).startswith(tokenizer.decode(after).split("</think>")[0])
    assert cut.accuracy <= base.accuracy
