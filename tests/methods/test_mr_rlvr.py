# SPDX-License-Identifier: Apache-2.0
"""Golden values: from the reconstruction of the paper's rewards, computed by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from tests import slot_rows, tiny
from tests.distributed import process_tasks
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.data.problems import load_rows
from trl_concise.demo.process import write_answer
from trl_concise.methods.mr_rlvr import (
    build_process_tasks,
    fill_reward,
    match_pieces,
    order_reward,
    read_blanks,
    read_order,
    score_order,
)


DATA = Path(__file__).parents[3] / "shared" / "data"


def test_golden_values():
    blanks = [["3", "x+1", "7"]]
    assert fill_reward(["[blank 1] 3\n[blank 2] 1+x\n[blank 3] 8"], blanks) == [pytest.approx(0.666667, abs=1e-6)]
    orders = ["Order: 2, 1, 4, 3", "Order: 2, 1, 1, 4", "Order: 2, 1, 3, 4"]
    assert order_reward(orders, [[2, 1, 3, 4]] * 3) == [0.5, 0.0, 1.0]
    assert order_reward(["2, 1, 3", "Order: 2, 1, 3, 4", "Order:", ""], [[2, 1, 3]] * 4) == [0.0] * 4


PIECES = st.sampled_from(
    ["35", "27+8=35", "x+1", "Pythagorean theorem", "\\frac{1}{2}", "12%", "[blank 2]", "}{", "", "0"]
)
ANSWERS = st.lists(st.tuples(st.integers(0, 5), PIECES), max_size=5)


def write(answers) -> str:
    return "\n".join(f"[blank {number}] {piece}" for number, piece in answers)


@settings(max_examples=40, deadline=None)
@given(st.lists(PIECES.filter(str.strip), min_size=1, max_size=3), ANSWERS, st.integers(0, 5), PIECES, st.booleans())
def test_extra_blanks_never_raise_the_score(blanks, answers, number, piece, is_first):
    """Must hold 1 and 3: within [0, 1]; a blank that does not exist, or that is given again, earns nothing."""
    (before,) = fill_reward([write(answers)], [blanks])
    extra = [(number, piece)]
    (after,) = fill_reward([write(extra + answers if is_first else answers + extra)], [blanks])
    assert 0 <= before <= 1 and 0 <= after <= 1
    if number > len(blanks) or number == 0 or number in dict(answers):
        assert after <= before
    whole = [(place, text) for place, text in enumerate(blanks, start=1)]
    if not any("blank" in text for text in blanks):
        assert fill_reward([write(whole)], [blanks]) == [1.0]
        if before == 1:
            assert all(match_pieces(blanks, [read_blanks(write(answers)).get(i + 1) for i in range(len(blanks))]))


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(1, 5)), st.lists(st.integers(0, 6), max_size=6))
def test_only_permutations_earn_anything(order, numbers):
    """Must hold 1 and 2."""
    score = score_order(order, numbers)
    assert 0 <= score <= 1 and (score == 1) == (numbers == list(order))
    if sorted(numbers) != [1, 2, 3, 4]:
        assert score == 0
    assert order_reward([f"Order: {', '.join(map(str, numbers))}"], [order]) == [score]


@pytest.mark.parametrize(
    ("reference", "piece", "matches"),
    [
        ("0.2", "$0.20", True),
        ("35", "\\boxed{35}", True),
        ("35", "$35$.", True),
        ("35", "35 or 36", False),
        ("\\frac{1}{2}", "0.5", True),
        ("27+8=35", "8 + 27 = 35", True),
        ("27+8=35", "35", False),
        ("27+8=35", "35=35", False),
        ("27+8=35", "30+5=35", False),
        ("27+8", "35", False),
        ("35", "27+8", False),  # the calculation before the blank, copied
        ("24", "48/2", False),
        ("c^2 = 25", "c^2 = 9 + 16", False),
        ("27+8=35", "35=27+8", False),
        ("100 / 2 = $50", "100/2=50", True),
        ("c^2 = 3^2 + 4^2 = 25", "c^2=4^2+3^2=25", True),
        ("c^2 = 25", "c = 5", False),
        ("x+1", "X+1", False),
        ("Pythagorean theorem", "the **Pythagorean Theorem**", True),
        ("Pythagorean theorem", "Fermat's theorem", False),
        ("35", "}35{", False),
        ("35", "35" * 1000, False),
        ("35", "", False),
        ("1,000", "1000", True),
    ],
)
def test_what_matches(reference, piece, matches):
    assert match_pieces([reference], [piece]) == [matches]


def test_pieces_are_read_by_their_number_and_after_the_reasoning():
    assert read_blanks("<think>[blank 1] 1</think>\n- **[Blank 2]**: 70\nso that\n[blank1]=35") == {2: "70", 1: "35"}
    assert read_blanks("The [blank 1] is 5") == {}  # not at the beginning of a line
    assert read_blanks("[blank 1] 5\n[blank 1] 5.") == {1: "5"} and read_blanks("[blank 1] 5\n[blank 1] 6") == {
        1: None
    }
    assert read_blanks("[blank 1]\n  $x + 1$\n[blank 2] 5") == {1: "$x + 1$", 2: "5"}
    assert read_order("Order: 1, 2, 3\nNo.\n**Order:** \\boxed{2, 1, 3}") == [2, 1, 3]
    assert read_order("Order: Step 2, Step 1 and then 3.") == [2, 1, 3] and read_order("order of steps 1, 2") is None


def test_unfinished_completions_earn_nothing_and_other_tasks_are_left_out():
    right = [
        "[blank 1] 35",
        "<think>\n[blank 1] 35",
        "[blank 1] 35",
        [{"role": "assistant", "content": "[blank 1] 35"}],
    ]
    options = {"completion_finished": [True, True, False, True]}
    assert fill_reward(right, [["35"]] * 4) == [1.0, 0.0, 1.0, 1.0]
    assert fill_reward(right, [["35"], ["35"], ["35"], None], **options) == [1.0, 1.0, 0.0, None]
    opened = [[{"role": "assistant", "content": "<think>"}]] * 2
    assert order_reward(["Order: 2, 1", "</think>Order: 2, 1"], [[2, 1]] * 2, prompts=opened) == [0.0, 1.0]
    logged = {}
    rows = {"blanks": [["35", "7"], None], "order": [None, [2, 1, 3]], "log_metric": logged.__setitem__}
    completions = ["[blank 1] 35", "Order: 1, 1, 1"]
    assert fill_reward(completions, **rows) == [0.5, None] and order_reward(completions, **rows) == [None, 0.0]
    assert logged == {"mr_rlvr/blanks_given": 0.5, "mr_rlvr/orders_valid": 0.0}
    logged.clear()
    assert fill_reward(completions, [None, None], log_metric=logged.__setitem__) == [None, None] and not logged


@pytest.mark.skipif(not (DATA / "gsm8k_train.jsonl").exists(), reason="GSM8K and MATH500 are not installed")
@pytest.mark.parametrize(("name", "rows"), [("gsm8k_train", 200), ("math500", 60)])
def test_the_pieces_and_orders_of_published_solutions_earn_everything(name, rows):
    made = build_process_tasks(load_rows(str(DATA / f"{name}.jsonl")).select(range(rows)))
    texts = [write_answer(task) for task in made]
    rewards = fill_reward(texts, made["blanks"][:]), order_reward(texts, made["order"][:])
    assert len(made) > 0.8 * rows and all({one, other} == {1.0, None} for one, other in zip(*rewards, strict=True))


# Training on them


def test_a_resumed_run_is_the_same(tiny_model, tmp_path):
    whole = process_tasks.train(
        tiny_model, tmp_path / "whole", rows_per_process=8, save_strategy="steps", save_steps=2
    )
    resumed = process_tasks.build(tiny_model, tmp_path / "resumed", rows_per_process=8)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert slot_rows.logged(resumed) == slot_rows.logged(whole)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))
    (tasks,) = {tuple(whole.train_dataset["task"])}
    assert {"fill", "order"} == set(tasks)


def test_two_processes_reward_as_one(tiny_model, tmp_path, two_processes):
    ranks = [json.loads((two_processes / "process_tasks" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    one = process_tasks.report(process_tasks.train(tiny_model, tmp_path, rows_per_process=8))
    assert [rank.pop("world_size") for rank in ranks] == [2, 2] and one.pop("world_size") == 1
    assert any(entry["rewards/fill_reward/mean"] > 0 for entry in one["logged"])
    assert any(entry["rewards/order_reward/mean"] > 0 for entry in one["logged"])
    for two, single in zip(ranks[0]["logged"], one["logged"], strict=True):
        assert two == pytest.approx(single, abs=1e-5, nan_ok=True)


def test_a_plain_trainer_of_trl_takes_them(tiny_model, tmp_path):
    args = GRPOConfig(**tiny.settings(tmp_path, max_steps=1, num_iterations=2, beta=0.1))
    trainer = GRPOTrainer(tiny_model, [fill_reward, order_reward], args, process_tasks.tasks())
    trainer.train()
    assert tiny.losses(trainer)


def test_a_dataset_without_tasks_is_refused(tiny_model, tmp_path, problems):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    with pytest.raises(ValueError, match="blanks"):
        ConciseGRPOTrainer(tiny_model, fill_reward, args, problems)


def test_the_demo_answers_its_tasks_rightly(tmp_path):
    solutions = demo.worked_solutions(40)
    assert solutions["problem"][:] == [
        prompt[0]["content"] for prompt in demo.train_dataset(40, operations=demo.OPERATIONS)["prompt"]
    ]
    made = demo.process_tasks(solutions)
    texts = [write_answer(task) for task in made]
    rewards = fill_reward(texts, made["blanks"][:]), order_reward(texts, made["order"][:])
    assert all({one, other} == {1.0, None} for one, other in zip(*rewards, strict=True))
    folder = demo.process_model(tmp_path / "model", steps=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rendered = tokenizer.apply_chat_template(made[0]["prompt"], add_generation_prompt=True, tokenize=False)
    assert rendered.endswith("<think>\n")
