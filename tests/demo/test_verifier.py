# SPDX-License-Identifier: Apache-2.0
"""The texts from which the embedded model learns to verify."""

from __future__ import annotations

import random

from transformers import AutoTokenizer

from trl_concise import demo, verify_answers
from trl_concise.demo.problems import split_of
from trl_concise.demo.verifier import (
    VERIFICATION_SLIP_SHARE,
    WRONG_SHARE,
    draw_results,
    verifier_problems,
    write_solution,
    write_verification,
)
from trl_concise.verification.verdicts import CUE, INSTRUCTION, read_verdict, verification_prompt


def test_verdicts_are_right_unless_the_verification_slips():
    rng, right, wrong_solutions = random.Random(0), 0, 0
    for problem, _ in zip(verifier_problems("test"), range(400), strict=False):
        assert split_of(problem.text) == "train" and 2 <= len(problem.operations) <= 4
        results = draw_results(problem, WRONG_SHARE, rng)
        solution = write_solution(problem, results)
        correct = results[-1] == problem.results[-1]
        assert verify_answers([str(problem.results[-1])], [solution]) == [correct]
        text = write_verification(problem, results[-1], rng)
        right += read_verdict(text, reasoning_opened=True) is correct
        wrong_solutions += not correct
    assert 400 * (1 - VERIFICATION_SLIP_SHARE) - 30 < right < 400 * (1 - VERIFICATION_SLIP_SHARE) + 40
    assert 150 < wrong_solutions < 230


def test_instruction_and_cue_are_one_token_each(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(demo.verifier_model(tmp_path / "model", steps=1))
    prompt = verification_prompt([{"role": "user", "content": "What is 6 * 7?"}], "\\boxed{42}")
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text).input_ids
    assert ids.count(tokenizer.convert_tokens_to_ids(INSTRUCTION)) == 1 and tokenizer.decode(ids) == text
    assert [tokenizer.decode([token]) for token in tokenizer(f"{CUE} No").input_ids] == [CUE, " ", "No"]
