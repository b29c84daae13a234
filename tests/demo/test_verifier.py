# SPDX-License-Identifier: Apache-2.0
"""The texts from which the embedded model learns to verify."""

from __future__ import annotations

import random
import re

from transformers import AutoTokenizer

from trl_concise import demo, verify_answers
from trl_concise.demo.problems import Problem, split_of
from trl_concise.demo.verifier import (
    COMPARISONS,
    DIFFERS,
    SAME,
    WRONG_SHARE,
    draw_random_results,
    draw_results,
    verifier_problems,
    write_checks,
    write_drill,
    write_solution,
    write_verification,
)
from trl_concise.verification.verdicts import CUE, INSTRUCTION, read_verdict, verification_prompt


def test_verdicts_are_right():
    rng, wrong_solutions = random.Random(0), 0
    for problem, _ in zip(verifier_problems("test"), range(400), strict=False):
        assert split_of(problem.text) == "train" and 2 <= len(problem.operations) <= 4
        results = draw_results(problem, WRONG_SHARE, rng)
        solution = write_solution(problem, results)
        correct = verify_answers([str(problem.results[-1])], [solution]) == [True]
        text = write_verification(problem, results)
        # A slip that a later step undoes leaves a correct answer, but the steps are wrong.
        assert read_verdict(text, reasoning_opened=True) is (results == problem.results)
        assert correct or DIFFERS in text
        wrong_solutions += not correct
    assert 150 < wrong_solutions < 230


def test_a_verification_ends_at_the_first_step_that_differs():
    problem = Problem(42, (("*", 2), ("-", 6), ("+", 3)))
    lines = ["42*2:84 42*2=84 84 same", "84-6:68 84-6=78 68 differs", "68+3:71 68+3=71 71 same"]
    assert write_checks(problem, [84, 68, 71]) == lines
    assert write_verification(problem, [84, 68, 71]) == f"{lines[0]}\n{lines[1]}</think>\n{CUE} No"
    right = write_verification(problem, problem.results)
    assert right.endswith(f"78+3:81 78+3=81 81 same\n</think>\n{CUE} Yes")


def test_random_results_are_mostly_wrong_and_in_range():
    rng = random.Random(0)
    problem = Problem(42, (("*", 2), ("-", 6)))
    drawn = [draw_random_results(problem, rng) for _ in range(200)]
    assert all(0 <= result <= 99 for results in drawn for result in results)
    assert 100 < sum(results[0] != 84 for results in drawn) < 180


def test_drills_compare_numbers_of_which_half_differ():
    rng = random.Random(0)
    lines = "".join(write_drill(rng) for _ in range(30)).splitlines()
    same = 0
    for line in lines:
        result, claim, word = re.fullmatch(rf"=(\d+) (\d+)({SAME}|{DIFFERS})", line).groups()
        assert (result == claim) is (word == SAME)
        same += word == SAME
    assert len(lines) == 30 * COMPARISONS and 0.4 < same / len(lines) < 0.6


def test_instruction_cue_and_comparisons_are_one_token_each(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(demo.verifier_model(tmp_path / "model", steps=1))
    prompt = verification_prompt([{"role": "user", "content": "What is 6 * 7?"}], "\\boxed{42}")
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text).input_ids
    assert ids.count(tokenizer.convert_tokens_to_ids(INSTRUCTION)) == 1 and tokenizer.decode(ids) == text
    assert [tokenizer.decode([token]) for token in tokenizer(f"{CUE} No").input_ids] == [CUE, " ", "No"]
    assert [tokenizer.decode([token]) for token in tokenizer("4 differs").input_ids] == ["4", DIFFERS]
