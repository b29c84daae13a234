# SPDX-License-Identifier: Apache-2.0
"""Shape of Thought: sets of correct, incorrect and human traces, and the student's likelihood of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_concise.data.selection import build_thought_sets, mean_nll
from trl_concise.data.selection.shape_of_thought import example, first_of_each
from trl_concise.data.selection.texts import Fields


FIELDS = Fields("problem", "generations", "answer")
VERDICTS = st.lists(st.lists(st.sampled_from([True, False, None]), max_size=4), max_size=12)


def rows_of(verdicts, **more):
    """Rows whose traces have the given verdicts: `None` states no answer."""
    texts = {True: r"So \boxed{2}.", False: r"So \boxed{3}.", None: "<think>Let me see"}
    return [
        {
            "problem": f"1 + 1? ({i})",
            "answer": "2",
            "generations": [f"trace {k}. {texts[v]}" for k, v in enumerate(row)],
        }
        | {name: values[i] for name, values in more.items()}
        for i, row in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([False, True, False, True], {"correct": 1, "incorrect": 0}),
        ([True, True], {"correct": 0}),
        ([False, False], {"incorrect": 0}),
        ([None, False], {"incorrect": 1}),
        ([], {}),
    ],
)
def test_golden_first_of_each(verdicts, expected):
    assert first_of_each(verdicts) == expected
    rows = rows_of([verdicts])
    sets = build_thought_sets(rows, FIELDS, match="none").sets
    assert sets == {name: [(0, expected[name])] if name in expected else [] for name in ("correct", "incorrect")}
    if len(expected) < 2:  # both sets drop a problem that one of them lacks
        assert build_thought_sets(rows, FIELDS).sets == {"correct": [], "incorrect": []}


@settings(max_examples=40, deadline=None)
@given(VERDICTS, st.sampled_from(["problems", "size", "none"]), st.integers(0, 3))
def test_sets_are_pure_and_matched(verdicts, match, seed):
    rows = rows_of(verdicts)
    found = build_thought_sets(rows, FIELDS, match=match, seed=seed)
    assert found == build_thought_sets(iter(rows), FIELDS, match=match, seed=seed)
    for name, value in (("correct", True), ("incorrect", False)):
        assert all(verdicts[place][index] is value for place, index in found.sets[name])
        assert [place for place, _ in found.sets[name]] == sorted({place for place, _ in found.sets[name]})
    correct, incorrect = ([place for place, _ in found.sets[name]] for name in ("correct", "incorrect"))
    assert match != "problems" or correct == incorrect
    assert match != "size" or len(correct) == len(incorrect)
    assert found.rows == len(rows) == sum(found.dropped.values()) + len(set(correct) | set(incorrect))


def test_verdict_columns_and_missing_traces():
    rows = [
        {"problem": "a", "generations": [None, "x", "y"], "ok": [True, False, True]},
        {"problem": "b", "generations": ["x", "y"], "ok": [1.0, None]},
        {"problem": "c", "generations": ["x"], "ok": [True, False]},
        {"problem": "d", "generations": ["x"], "ok": ["No"]},
        {"problem": "", "generations": ["x"], "ok": [True]},
        {"problem": "e", "generations": [], "ok": []},
        {"problem": "f", "generations": {"text": "x"}, "ok": [True]},
    ]
    found = build_thought_sets(rows, Fields("problem", "generations", None), verdict_column="ok")
    assert found.sets == {"correct": [(0, 1), (1, 0)], "incorrect": [(0, 0), (1, 1)]}
    assert dict(found.dropped) == {
        "not one verdict per trace": 1,
        "column 'ok' holds the verdict 'No', which is not a boolean or a number": 1,
        "no problem or no trace": 2,
        "column 'generations' holds a dict, not a text or a list of texts": 1,
    }


def test_human_traces_are_verified():
    human = ["Two, because 1 + 1 = 2: \\boxed{2}", "\\boxed{4}", None]
    rows = rows_of([[True, False]] * 3, human=human)
    found = build_thought_sets(rows, FIELDS, human_column="human")
    assert found.sets == {"correct": [(0, 0)], "incorrect": [(0, 1)], "human": [(0, 0)]}
    assert found.dropped == {"no human trace": 2}
    made = example(rows[0], FIELDS, "human", 0, "human", system_prompt="Think.")
    assert made["completion"] == [{"role": "assistant", "content": human[0]}]
    assert made["prompt"] == [{"role": "system", "content": "Think."}, {"role": "user", "content": "1 + 1? (0)"}]


def test_bad_input_is_an_error():
    with pytest.raises(ValueError, match="match must be one of"):
        build_thought_sets([], FIELDS, match="all")
    with pytest.raises(ValueError, match="no column is known to hold one"):
        build_thought_sets([], Fields("problem", "generations", None))
    rows = [{"problem": "a", "answer": "$", "generations": ["\\boxed{1}"]}, {"problem": "a", "generations": ["1"]}]
    assert build_thought_sets(rows, FIELDS).dropped == {
        "the reference answer cannot be read": 1,
        "no reference answer": 1,
    }


def test_mean_nll_is_that_of_the_completion_tokens(tiny_model):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    examples = [
        {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]}
        for q, a in (("1 + 1?", "2"), ("What is 2 + 3?", "It is five."), ("?", "!"))
    ]
    total, count = 0.0, 0
    for row in examples:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt + row["completion"][0]["content"], return_tensors="pt").input_ids
        start = len(tokenizer(prompt).input_ids)
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[start - 1 :]
        total, count = total - logps.sum().item(), count + len(logps)
    assert mean_nll(model, tokenizer, examples, batch_size=2) == pytest.approx(total / count, rel=1e-5)
    with pytest.raises(ValueError, match="No completion has a token"):
        mean_nll(model, tokenizer, examples, max_length=1)
    with pytest.raises(ValueError, match="No completion has a token"):
        mean_nll(model, tokenizer, [])
    assert torch.is_grad_enabled() and not model.training


def test_own_traces_are_closer_to_the_student_than_others(model, tokenizer):
    def rows(completion):
        prompt = [{"role": "user", "content": "What is 42 * 2 + 5 + 2?"}]
        return [{"prompt": prompt, "completion": [{"role": "assistant", "content": completion}]}]

    own = "<think>\n42*2=84\n84+5=89\n89+2=91\n</think>\n\\boxed{91}"
    wrong = "<think>\n42*2=84\n84+5=89\n89+2=92\n</think>\n\\boxed{92}"
    human = "<think>\nDouble 42, then add 7 to get 91.\n</think>\n\\boxed{91}"
    own, wrong, human = (mean_nll(model, tokenizer, rows(text)) for text in (own, wrong, human))
    assert own < wrong < human
