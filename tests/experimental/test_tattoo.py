# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed by hand, see docs/experimental/tattoo.md."""

from __future__ import annotations

import json
import logging
import random
import runpy
import statistics
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.evaluation import best_of_n
from trl_concise.evaluation.completions import Completion
from trl_concise.evaluation.selection import choose_best, choose_majority
from trl_concise.evaluation.voting import choose_weighted, vote_weights
from trl_concise.experimental.selectors import compare_selectors, read_scores, within_problem_auc, write_scores
from trl_concise.experimental.tattoo import (
    Table,
    check_claim,
    claims,
    find_claims,
    label_steps,
    mean_label,
    step_tool_reward,
    tool_grounded_step_rewards,
    tool_support,
    verify_steps,
)


EXAMPLE = Path(__file__).parents[2] / "examples" / "tattoo.py"
PENS = {"columns": ["item", "price", "qty"], "rows": [["pen", 3, 4], ["pad", 5, 2], ["cup", 8, 1]]}
TRACE = "27+8=35\n35*2=70\n70-6=65"


def verdicts(text: str, table=None) -> list[bool | None]:
    return [check_claim(claim, Table.read(table) if table else None) for claim in find_claims(text)]


def labels(text: str, table=None, **options) -> list[int | None]:
    return [step.label for step in label_steps(text, Table.read(table) if table else None, **options)]


# Rewards


@pytest.mark.parametrize(
    ("match", "probability", "support", "lambdas", "expected"),
    [
        (1, 0.9, 1, (1, 1), 1.894639),
        (1, 0.6, 0, (1, 1), 0.489174),
        (0, 0.3, 1, (1, 1), -0.203973),
        (0, 0.001, 0, (1, 1), -6.907755),
        (0, 0, 0, (1, 1), -9.210340),
        (1, 1, 1, (1, 1), 2),
        (1, 0.9, 1, (0.8, 1.3), 2.215712),
        (0, 0.3, 1, (0.8, 1.3), 0.336822),
        (1, 0.9, 1, (0, 0), 1),
        (1, 0.6, 0, (0, 0), 1),
        (0, 0.3, 1, (0, 0), 0),
    ],
)
def test_golden_step_rewards(match, probability, support, lambdas, expected):
    predicted = 1 if match else -1
    (reward,) = tool_grounded_step_rewards(
        [predicted], [1], [probability], [support], lam_cal=lambdas[0], lam_tool=lambdas[1]
    )
    assert reward == pytest.approx(expected, abs=5e-7)


def test_golden_group_advantages():
    means = [
        statistics.fmean(tool_grounded_step_rewards([1, 1, -1], [1, 1, 1], [0.9, 0.6, 0.3], [1, 0, 1])),
        *tool_grounded_step_rewards([1, -1, 1], [1, 1, 1], [0.9, 0.3, 0.6], [1, 1, 0]),
    ]
    assert means == pytest.approx([0.726614, 1.894639, -0.203973, 0.489174], abs=1e-6)
    mean, std = statistics.fmean(means), statistics.stdev(means)
    assert (mean, std) == pytest.approx((0.726614, 0.873051), abs=1e-6)
    advantages = [(reward - mean) / (std + 1e-4) for reward in means]  # as TRL
    assert advantages == pytest.approx([0, 1.337714, -1.065780, -0.271934], abs=1e-6)


def test_a_missing_label_has_no_match_no_support_and_the_least_probability():
    assert tool_grounded_step_rewards([None], [1], [0.9], [1]) == pytest.approx([-9.210340], abs=1e-6)


probabilities = st.floats(0, 1)


@given(st.sampled_from([-1, 1]), st.sampled_from([-1, 1]), probabilities, probabilities, st.integers(0, 1))
def test_rewards_grow_with_the_probability_and_with_support(predicted, label, one, other, support):
    low, high = sorted([one, other])
    below, above = tool_grounded_step_rewards([predicted] * 2, [label] * 2, [low, high], [support] * 2)
    assert below <= above
    without, with_support = tool_grounded_step_rewards([predicted] * 2, [label] * 2, [one] * 2, [0, 1])
    assert without < with_support
    assert tool_grounded_step_rewards([predicted], [label], [one], [support], lam_cal=0, lam_tool=0) == [
        float(predicted == label)
    ]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1], [1], [0.5], [1]), {"lam_cal": -1}, "at least 0; got -1"),
        (([1], [1], [0.5], [1]), {"lam_tool": float("nan")}, "at least 0; got 1.0 and nan"),
        (([2], [1], [0.5], [1]), {}, "-1 or 1; got 2"),
        (([1], [0], [0.5], [1]), {}, "-1 or 1; got 0"),
        (([1], [1], [1.5], [1]), {}, r"\[0, 1\]"),
        (([1], [1], [0.5], [2]), {}, "0 or 1"),
        (([1], [1, 1], [0.5], [1]), {}, "zip"),
    ],
)
def test_step_rewards_refuse_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        tool_grounded_step_rewards(*arguments, **options)


def test_support():
    assert tool_support(["35", "70"], ["So 35.", "Then 70.0."]) == 1
    assert tool_support(["35"], ["So 350."]) == 0  # not the same number
    assert tool_support(["70", "35"], ["", "70 and 35"]) == 1
    assert tool_support(["70", "35"], ["70", "70"]) == 0
    assert tool_support(["35", None], ["35", "35"]) == 0  # a call that failed
    assert tool_support(["red"], ["It is red."]) == 1
    assert tool_support([""], ["anything"]) == 0
    with pytest.raises(ValueError, match="1 outputs and 0 texts"):
        tool_support(["35"], [])


# Labels and scores


@pytest.mark.parametrize(
    ("given_labels", "mean"),
    [([1, 1, -1, 1], 0.5), ([1, -1, 1], 1 / 3), ([None], 0), ([], 0), ([1, None, -1, 1], 1 / 3)],
)
def test_golden_means(given_labels, mean):
    assert mean_label(given_labels) == pytest.approx(mean)


def test_labels_outside_of_plus_and_minus_1_are_refused():
    with pytest.raises(ValueError, match="got 0.5"):
        mean_label([0.5])


def test_golden_votes():
    answers, scores = [64, 65, 64, 70, 65, 65], [0.75, 0.666667, 1, 0.5, 0.666667, 0.666667]
    votes = [[64, 65, 70].index(answer) for answer in answers]
    items = [Completion("s", 0, place, "64", "", [1], False, True) for place in range(6)]
    assert answers[choose_majority(votes)] == 65
    assert vote_weights(votes, scores, 1) == pytest.approx({0: 1.75, 1: 2.0, 2: 0.5}, abs=2e-6)
    assert vote_weights(votes, scores, 3) == pytest.approx({0: 1.421875, 1: 0.888889, 2: 0.125}, abs=3e-6)
    assert answers[choose_weighted(votes, scores, 1)] == 65 and answers[choose_weighted(votes, scores, 3)] == 64
    assert answers[choose_best(items, scores)] == 64


def test_golden_trace():
    assert labels(TRACE) == [1, 1, -1]
    assert label_steps(TRACE)[2].text == "70-6=65"
    assert labels("First, 27 + 8 = 35.\nThen, 35 * 2 = 70.") == [1, 1]


def test_steps_are_paragraphs_where_there_are_any():
    assert labels("27+8=35\n35*2=70\n\n70-6=65\n\n") == [1, -1]
    assert labels("27+8=35\n\n") == [1]
    assert labels("") == [None]
    assert labels("<think>\n27+8=36\n</think>\n\\boxed{36}") == [None, -1, None, None]  # reasoning is read


def test_a_truncated_completion_has_no_claim_at_its_end():
    assert labels("27+8=3", finished=False) == [None]
    assert labels("27+8=3") == [-1]
    assert labels("27+8=36\n1+1=", finished=False) == [-1, None]


def test_a_claim_counts_once():
    assert labels(f"{TRACE}\nWait, let me check.\n{TRACE}") == [1, 1, -1, None, None, None, None]
    assert labels("27+8=35, and 27 + 8 = 35") == [1]
    assert labels("27+8=35\n27+8=36") == [1, -1]  # another claim


# The grammar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/3+1/6=1/2", [True]),
        ("0.1+0.2=0.3", [True]),
        ("2**3=8", [True]),
        ("10/4=2", [False]),
        ("2^{10} = 1024 = 2^10", [True, True]),
        ("6*7 = 42 = 40 + 3", [True, False]),
        (r"$27 \times 8 = 216$, \(\frac{1}{2}+\frac{1}{2}=1\)", [True, True]),
        ("- 3 + 4 = 7", [True]),  # an item of a list
        ("-3 + 4 = 1", [True]),
        ("1. 3 + 4 = 7", [True]),
        ("(27+8)*2 = 70", [True]),
        ("(27 + 8 = 35)", [True]),
        ("1,200 + 34 = 1,234", [True]),
        ("3 − 4 = −1", [True]),
        ("12 ÷ 4 = 3", [True]),
        (r"70-6=\boxed{64}", [True]),
        (r"70 - 6 = 64 \text{ apples}", [True]),
        ("x + 3 = 4 + 3 = 7", [True]),  # the second pair
        ("**27 + 8 = 35** and 27+8=**36** apples, 2 ** 3 = 8", [True, False, True]),  # Markdown, and a power
        (r"4\cdot5=20", [True]),
        ("2**-1 = 0.5, 2^-1 = 0.5", []),
        ("2 + 2 = 5?", []),  # a question
        ("x + 3 = 7, 2x + 3 = 7, f(3) + 1 = 7, a_1 + 2 = 3", []),
        ("3 x 4 + 1 = 13, 3 times 4 + 1 = 13", []),
        ("22/7 = 3.14... and 10/3 ≈ 3.33 and 27+8 != 36 and 27+8 <= 36 and 27+8 := 36", []),
        ("3+4=7,5+6=11", []),  # a comma may be a decimal point
        ("5! = 120, 50% + 50% = 100%, 7:30 - 6 = 1", []),
        ("5 = 5, step 2 = 5, n = 5", []),
        ("17/5 = 3 remainder 2, 3*5 = 1 (mod 7)", []),
        ("27 + 8 =\n35", []),
        ("1/0 = 1, 2^65 = 1, 10^{64} * 10^{64} * 10^{64} * 10^{64} * 10^{64} = 1", []),
        ("((((10)^{64})^{64})^{64})^{64} + 1 = 1", []),
        ("9" * 301 + " + 1 = 2", []),
    ],
)
def test_arithmetic(text, expected):
    assert verdicts(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "It is not 27+8=36",
        "That differs: 27+8=36",
        "It isn't 27+8=36",
        "If 27+8=36, fine",
        "wrong: 27+8=36",
        "Suppose 27+8=36",
    ],
)
def test_a_claim_after_a_negation_is_left_out(text):
    assert verdicts(text) == []
    assert verdicts(f"{text}. 27+8=35") == [True]  # the next sentence
    assert verdicts(f"{text}\n27+8=35") == [True]


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("sum(qty) = 7", True),
        ("max(price) = 8", True),
        ("mean(price) = 16/3", True),
        ("mean(price where qty > 1) = 4", True),
        ("cell[pen, price] = 3", True),
        ("min(qty) = 2", False),
        ("count(item) = 3", True),
        ("count(item where price >= 5) = 2 = 1 + 1", True),
        ("count(item where item != pen) = 2", True),
        ("sum(qty where qty > 9) = 0", True),
        ("mean(qty where qty > 9) = 0", False),  # undefined
        ("cell[pen, size] = 3", False),  # an unknown column
        ("cell[ink, price] = 3", False),  # an unknown row
        ("sum(size) = 3", False),
        ("sum(item) = 3", False),  # not numbers
        ("mean(price where item > pen) = 3", False),
        ("cell[pen, item] = pen", True),
        ('cell[pen, item] = "pen"', True),
        ("cell[pen, item] = pad", False),
    ],
)
def test_claims_about_a_table(claim, expected):
    assert verdicts(claim, PENS)[0] is expected
    assert verdicts(claim)[0] is None and labels(claim)[0] in (None, 1)  # without a table: only its arithmetic


def test_cells_with_text():
    table = "item,color,size\npen,light blue,3-4\npad,red,"
    assert (
        verdicts('cell[pen, color] = "light blue"\ncell[pen, size] = 3-4\ncell[pad, color] = red', table) == [True] * 3
    )
    assert Table.read(table).look_up("cell[pad, size]") == ""


def table_problem(rng: random.Random) -> tuple[dict, str, Fraction]:
    """Draw a table of 3 to 6 rows and 3 columns, and a question about it in the form of the grammar, with its answer."""
    items = rng.sample(["pen", "pad", "cup", "ink", "bag", "pin", "box"], rng.randint(3, 6))
    rows = [[item, rng.randint(1, 20), rng.randint(1, 9)] for item in items]
    column = rng.choice([1, 2])
    name = ("item", "price", "qty")[column]
    if rng.random() < 0.5:
        row = rng.choice(rows)
        return {"columns": ["item", "price", "qty"], "rows": rows}, f"cell[{row[0]}, {name}]", Fraction(row[column])
    least = min(row[2] for row in rows)
    kept = [row[column] for row in rows if row[2] >= least]
    function, answer = rng.choice(
        [
            ("sum", Fraction(sum(kept))),
            ("mean", Fraction(sum(kept), len(kept))),
            ("min", Fraction(min(kept))),
            ("max", Fraction(max(kept))),
            ("count", Fraction(len(kept))),
        ]
    )
    return {"columns": ["item", "price", "qty"], "rows": rows}, f"{function}({name} where qty >= {least})", answer


def test_generated_table_problems():
    rng = random.Random(0)
    for _ in range(100):
        table, question, answer = table_problem(rng)
        assert verdicts(f"So {question} = {answer}.", table) == [True], question
        assert verdicts(f"So {question} = {answer + 1}.", table) == [False], question
        text = "\n".join([",".join(table["columns"]), *(",".join(map(str, row)) for row in table["rows"])])
        assert Table.read(text).look_up(question) == Table.read(json.dumps(table)).look_up(question) == answer


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"columns": ["a", "b"], "rows": [[1]]}, "Row 0 of a table has 1 cells, but there are 2"),
        ({"columns": ["a", "a"], "rows": []}, "repeats the column name 'a'"),
        ({"columns": ["a", "b"], "rows": [[1, 2], [1, 3]]}, "repeats the row key '1'"),
        ({"columns": [], "rows": []}, "at least one column"),
        ("", "at least one column"),
        ("a,b\n1", "has 1 cells"),
        ("{columns: a}", "must be JSON"),
        ('{"rows": []}', "got dict"),
        ({"header": []}, "`columns` and `rows`, or CSV text; got dict"),
        (3, "got int"),
    ],
)
def test_malformed_tables_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        Table.read(table)
    with pytest.raises(ValueError, match=message):
        step_tool_reward(["1+1=2"], table=[table])


def test_many_claims_are_read_up_to_the_limit(caplog, monkeypatch):
    assert claims.MOST_CLAIMS == 10_000
    monkeypatch.setattr(claims, "MOST_CLAIMS", 100)
    with caplog.at_level(logging.WARNING):
        assert len(find_claims(" ".join(f"{n}+0={n}," for n in range(105)))) == 100
    assert "more than 100 claims" in caplog.text


@pytest.mark.parametrize(
    "text", ["cell[" * 20_000, "sum(" * 20_000, "1+" * 50_000, "1" * 100_000, "(" * 100_000, "=" * 100_000]
)
def test_long_texts_cost_no_time(text):
    assert find_claims(text) == []


FORMS = [
    "{} = {}",
    "So, {} = {}.",
    "Then {}={}, which",
    "- {} = {}",
    "We get $ {} = {} $.",
    "({} = {})",
    "**{} = {}**",
]


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 60)), min_size=1, max_size=4),
    st.sampled_from([" ", ""]),
    st.sampled_from([0, 1, -10]),
    st.sampled_from(FORMS),
)
def test_arithmetic_is_that_of_python(start, operations, space, slip, form):
    expression = "".join([str(start), *(f"{space}{sign}{space}{operand}" for sign, operand in operations)])
    value = Fraction(eval(expression.replace("/", "*Fraction(1)/"), {"Fraction": Fraction}))
    assert verdicts(form.format(expression, value + slip)) == [slip == 0]


pieces = st.sampled_from(
    [
        "27+8",
        "35",
        "=",
        " ",
        "\n",
        "\n\n",
        "not ",
        "x",
        "cell[pen, price]",
        "sum(qty)",
        "3",
        "^",
        "**",
        "(",
        ")",
        "-",
        "/",
        "{",
        "}",
        "\\frac{1}{2}",
        "0",
        ".",
        ",",
    ]
)
lines = st.lists(
    st.sampled_from(["27+8=35", "35*2=70", "70-6=65", "1+1=3", "so", "cell[pen, price] = 3", "sum(qty) = 8"]),
    min_size=1,
)


@given(st.lists(pieces, max_size=30).map("".join))
def test_any_text_has_a_score(text):
    steps = label_steps(text, Table.read(PENS))
    assert "".join(step.text for step in steps) == text
    assert -1 <= mean_label([step.label for step in steps]) <= 1
    for claim in find_claims(text):
        assert 0 <= claim.start < claim.end <= len(text)


@given(lines, st.data())
def test_repeated_claims_and_steps_without_claims_change_nothing(steps, data):
    before = step_tool_reward(["\n".join(steps)], table=[PENS])
    place = data.draw(st.integers(0, len(steps) - 1))
    later = data.draw(st.integers(place + 1, len(steps)))
    repeated = [*steps[:later], steps[place], *steps[later:]]
    assert step_tool_reward(["\n".join(repeated)], table=[PENS]) == before
    assert step_tool_reward(["\n".join([*steps[:later], "Let me think.", *steps[later:]])], table=[PENS]) == before


@given(st.lists(lines.map("\n".join), min_size=1, max_size=5), st.randoms())
def test_the_order_of_completions_and_the_reference_answer_do_not_matter(completions, rng):
    order = list(range(len(completions)))
    rng.shuffle(order)
    rewards = step_tool_reward(completions, solution=["65"] * len(completions))
    assert step_tool_reward([completions[i] for i in order], solution=["0"] * len(order)) == [
        rewards[i] for i in order
    ]


def test_the_reward_reads_messages_and_logs():
    logged = {}
    rewards = step_tool_reward(
        [[{"role": "assistant", "content": TRACE}], [{"role": "assistant", "content": "no claim"}], []],
        completion_finished=[False, True, True],
        log_metric=logged.__setitem__,
    )
    assert rewards == [1, 0, 0]  # the last claim of the first one may be incomplete
    assert logged == {"tattoo/claims": 2 / 3, "tattoo/labeled_fraction": 1 / 3, "tattoo/false_fraction": 0}
    assert step_tool_reward([]) == []


def test_training_with_the_reward(tiny_model, problems, tmp_path):
    seen = []

    def reward(completions, **kwargs):
        seen.append(kwargs["table"])
        return step_tool_reward(
            [[{"role": "assistant", "content": "cell[pen, price] = 3, so 3"}]] * len(completions), **kwargs
        )

    trainer = ConciseGRPOTrainer(
        tiny_model,
        [tiny.even_reward, reward, step_tool_reward],
        ConciseGRPOConfig(**tiny.settings(tmp_path, reward_weights=[1.0, 0.2, 0.2], max_steps=1)),
        problems.add_column("table", ["item,price\npen,3"] * 16),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert set(seen[0]) == {"item,price\npen,3"} and logged["rewards/reward/mean"] == 1
    assert "tattoo/claims" in logged


# Evaluations


def completion(problem: int, place: int, text: str, correct: bool | None = True, **changes) -> Completion:
    changes = {"truncated": False, **changes}
    return Completion("set", problem, place, "64", text, [1] * 10, correct=correct, **changes)


@pytest.fixture
def evaluation(tmp_path):
    """Two problems with four completions each, in the folder of an evaluation."""
    right, wrong = "27+8=35\n35*2=70\n70-6=64\n\\boxed{64}", TRACE + "\n\\boxed{65}"
    texts = [[wrong, right, wrong, right], [right, "27+8=36\n\\boxed{64}", "\\boxed{65}", wrong]]
    items = [
        completion(problem, place, text, text.endswith("{64}"))
        for problem in (0, 1)
        for place, text in enumerate(texts[problem])
    ]
    (tmp_path / "completions.jsonl").write_text("".join(item.line() for item in items))
    return tmp_path, {"set": Dataset.from_dict({"prompt": ["(27 + 8) * 2 - 6"] * 2, "solution": ["64"] * 2})}, items


def test_verify_steps(evaluation):
    folder, sets, items = evaluation
    (record,) = verify_steps(folder, sets, folder / "steps")
    assert record["completions"] == 8 and record["labeled_steps"] == 19 and record["false_claims"] == 4
    assert record["claims_mean"] == 19 / 8 and record["false_fraction"] == 4 / 19
    found = record["selectors"]
    assert found["majority"]["accuracy"] == 0.5  # the first of two equal answers is wrong in the first problem
    assert found["steps"]["accuracy"] == 1 and record["any"] == 1
    assert found["steps, weighted"]["accuracy"] == 0.5  # in the second problem 1 for 64 against 1/2 + 2/3 for 65
    assert found["steps"]["difference"] == 0.5 and record["single"] == 0.5 and record["tokens_mean"] == 40
    assert record["auc"] == pytest.approx((4 + 2 + 0) / 8)
    lines = [json.loads(line) for line in (folder / "steps" / "steps.jsonl").read_text().splitlines()]
    assert [(line["problem"], line["completion"], line["step"], line["claim"]) for line in lines] == [
        (0, 0, 2, "70-6 = 65"),
        (0, 2, 2, "70-6 = 65"),
        (1, 1, 0, "27+8 = 36"),
        (1, 3, 2, "70-6 = 65"),
    ]
    assert read_scores(folder / "steps", items) == pytest.approx([2 / 3, 1, 2 / 3, 1, 1, 0, 0.5, 2 / 3])
    (two,) = verify_steps(folder, sets, folder / "steps", n=2)
    (best,) = best_of_n(folder, sets, step_tool_reward, sizes=(2,))
    assert two["selectors"]["steps"]["accuracy"] == best["best_accuracy"]
    assert two["selectors"]["steps"]["difference_interval"] == tuple(best["difference_interval"])
    assert two["selectors"]["majority"]["accuracy"] == best["majority_accuracy"] and two["any"] == best["any_accuracy"]


def test_verify_steps_refuses_bad_input(evaluation, tmp_path):
    folder, sets, items = evaluation
    with pytest.raises(ValueError, match="between 1 and 4"):
        verify_steps(folder, sets, folder / "steps", n=5)
    with pytest.raises(ValueError, match="alpha must be a finite number of at least 0, got -1"):
        verify_steps(folder, sets, folder / "steps", alpha=-1)
    with pytest.raises(ValueError, match="repeats the column name"):
        verify_steps(folder, {"set": sets["set"].add_column("table", ["a,a", "b"])}, folder / "steps")
    with pytest.raises(FileNotFoundError, match="trl-concise eval"):
        verify_steps(folder / "nothing", sets, folder / "steps")


def test_scores_of_other_completions_are_refused(evaluation):
    folder, _, items = evaluation
    with pytest.raises(FileNotFoundError, match=r"scores\.jsonl does not exist"):
        read_scores(folder, items)
    write_scores(folder, items[:-1], [0.5] * 7)
    with pytest.raises(ValueError, match=r"scores of 7 completions, but 8 others .*\('set', 1, 3\)"):
        read_scores(folder, items)
    write_scores(folder, [replace(item, problem=item.problem + 1) for item in items], [0.5] * 8)
    with pytest.raises(ValueError, match=r"first without a score: \('set', 0, 0\)"):
        read_scores(folder, items)
    (folder / "scores.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="damaged"):
        read_scores(folder, items)


def test_selectors_refuse_missing_scores_and_skip_truncated_completions():
    items = [
        completion(0, 0, "\\boxed{65}", False, truncated=True),
        completion(0, 1, "\\boxed{64}"),
        completion(1, 0, "", None),
    ]
    found = compare_selectors(items[:2], {"score": [1.0, 0.0]}, 2)
    assert found["selectors"]["score"].accuracy == 1
    with pytest.raises(ValueError, match="got 1 for 2"):
        compare_selectors(items[:2], {"score": [1.0]}, 2)
    with pytest.raises(ValueError, match="1 of them missing or not finite"):
        compare_selectors(items[:2], {"score": [1.0, float("nan")]}, 2)
    with pytest.raises(ValueError, match="between 1 and 0"):
        compare_selectors(items[2:], {"score": [1.0]}, 1)  # nothing is judged
    assert within_problem_auc([[1.0]], [[True]]) is None


def test_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--report_problems 1 --samples 2 --max_steps 1 --per_device_train_batch_size 4 --num_generations 2 --max_completion_length 8"
    monkeypatch.setattr(sys, "argv", ["tattoo.py", *flags.split()])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| harder |" in printed and "| correctness and steps | test |" in printed
    report = json.loads((tmp_path / "outputs/tattoo-demo/report.json").read_text())
    assert len(report["selection"]) == 2 and len(report["training"]) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--samples 1", "--samples must be at least 2"),
        ("--step_weight -1", "--step_weight must be"),
        ("--alpha -1", "--alpha must be"),
    ],
)
def test_the_example_refuses_bad_input(flags, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tattoo.py", *flags.split()])
    with pytest.raises(SystemExit):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert message in capsys.readouterr().err
