# SPDX-License-Identifier: Apache-2.0
"""Traces of the embedded model, as offline methods take them."""

from __future__ import annotations

from transformers import AutoTokenizer

from trl_concise import build_redi_pairs, demo


def test_traces_are_correct_and_incorrect_and_fit_the_chat_template():
    rows = demo.sample_traces(8, generations=4, seed=1)
    assert len(rows) == 8 and all(len(row["generations"]) == 4 for row in rows)
    assert [row["problem"] for row in rows] == [row["problem"] for row in demo.generate_problems(8, seed=1)]
    single = list(build_redi_pairs(rows, output="single"))
    assert sum(example["label"] for example in single) > 4  # the model solves most of them

    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    prompt = tokenizer.apply_chat_template(single[0]["prompt"], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(single[0]["prompt"] + single[0]["completion"], tokenize=False)
    assert whole.startswith(prompt)
