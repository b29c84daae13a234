# SPDX-License-Identifier: Apache-2.0
"""Select2Reason: joint ranking by difficulty and length, and the judge of the difficulty."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_concise.data.selection import DifficultyJudge, joint_rank, judged_difficulty, select_jointly
from trl_concise.data.selection.judging import judge_difficulty
from trl_concise.data.selection.select2reason import INSTRUCTION


D, L = [0.9, 0.2, 0.6, 0.4], [100, 400, 300, 200]
PAIRS = st.lists(st.tuples(st.floats(-9, 9), st.integers(0, 99)), min_size=1, max_size=30)


def test_golden_difficulty():
    assert judged_difficulty(-0.2, -1.8) == pytest.approx(0.832018, abs=1e-6)
    returned = [math.exp(logp) for logp in (-0.2, -1.8, -4.0)]  # the authors divide by the sum of what came back
    assert returned[0] / sum(returned) == pytest.approx(0.816815, abs=1e-6)
    assert judged_difficulty(-math.inf, -0.1) == 0 and judged_difficulty(-900.0, -math.inf) == 1


@pytest.mark.parametrize("pair", [(math.nan, -1.0), (-1.0, math.nan), (-math.inf, -math.inf)])
def test_a_judge_without_an_answer_is_an_error(pair):
    with pytest.raises(ValueError, match="a judge that can answer 1 or 0"):
        judged_difficulty(*pair)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(0.5, [0.625, 0.625, 0.75, 0.5]), (1, [1, 0.25, 0.75, 0.5]), (0, [0.25, 1, 0.75, 0.5])],
)
def test_golden_joint_rank(weight, expected):
    assert joint_rank(D, L, weight=weight) == expected


def test_golden_selection():
    assert select_jointly(D, L, share=0.5, weight=0.5) == [2, 0]
    assert select_jointly(D, L, share=0.01) == [2]  # at least one
    assert select_jointly([1.0] * 5, [7] * 5, share=0.5) == [0, 1]  # ties in the order of the rows


@settings(max_examples=50, deadline=None)
@given(PAIRS, st.floats(0.01, 1), st.floats(0, 1))
def test_selection_depends_on_ranks_only(pairs, share, weight):
    d, lengths = map(list, zip(*pairs, strict=True))
    kept = select_jointly(d, lengths, share=share, weight=weight)
    assert len(kept) == len(set(kept)) == max(1, int(len(d) * share)) and set(kept) <= set(range(len(d)))
    ranks = {
        value: rank for rank, value in enumerate(sorted(set(d)))
    }  # a monotone transform of d, and one of the lengths
    assert kept == select_jointly([ranks[v] for v in d], [v**3 + 1 for v in lengths], share=share, weight=weight)
    assert kept == select_jointly(d, lengths, share=share, weight=weight)


@settings(max_examples=50, deadline=None)
@given(PAIRS, st.floats(0.01, 1))
def test_extreme_weights_rank_by_one_quantity(pairs, share):
    d, lengths = map(list, zip(*pairs, strict=True))
    for weight, values in ((1, d), (0, lengths)):
        kept = select_jointly(d, lengths, share=share, weight=weight)
        assert kept == sorted(range(len(d)), key=lambda i: -values[i])[: len(kept)]


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(12)), st.permutations(range(12)), st.permutations(range(12)))
def test_order_of_distinct_rows_does_not_matter(d, lengths, order):
    weight = 0.3  # no two rows have the same joint score by accident: 0.3 r + 0.7 s, r and s below 7
    d, lengths = [min(v, 6) + v / 100 for v in d], lengths
    kept = {(d[i], lengths[i]) for i in select_jointly(d, lengths, share=1 / 3, weight=weight)}
    shuffled = select_jointly([d[i] for i in order], [lengths[i] for i in order], share=1 / 3, weight=weight)
    scores = joint_rank(d, lengths, weight=weight)
    if len({round(score, 9) for score in scores}) == len(scores):
        assert kept == {(d[order[i]], lengths[order[i]]) for i in shuffled}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], []), {}, "0 rows to select from"),
        (([1.0], [1, 2]), {}, "1 difficulties and 2 lengths"),
        (([1.0, math.nan], [1, 2]), {}, "difficulty of row 1 is nan"),
        (([1.0], [math.inf]), {}, "length of row 0 is inf"),
        (([1.0], [1]), {"share": 0}, r"share must lie in \(0, 1\], got 0"),
        (([1.0], [1]), {"share": 1.5}, r"share must lie in \(0, 1\], got 1.5"),
        (([1.0], [1]), {"weight": 2}, r"weight must lie in \[0, 1\], got 2"),
    ],
)
def test_bad_input_is_an_error(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        select_jointly(*arguments, **options)


def test_judge_reads_the_probabilities_of_one_and_zero(tiny_model):
    questions = ["1 + 1?", "Prove that there are infinitely many primes.", "2?"]
    judge = DifficultyJudge(tiny_model, batch_size=2)  # of different lengths in a batch
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    for question, difficulty in zip(questions, judge(questions), strict=True):
        messages = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        logits = model(**ids).logits[0, -1].double()
        one, zero = (tokenizer.convert_tokens_to_ids(digit) for digit in "10")
        expected = torch.sigmoid(logits[one] - logits[zero]).item()
        assert difficulty == pytest.approx(expected, abs=1e-5)
    assert judge([]) == []


def test_judge_needs_a_chat_template_and_a_system_message(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ValueError, match="does not take a system message: System role not supported"):
        DifficultyJudge(tiny_model, tokenizer)(["1?"])
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template. Choose a chat model"):
        DifficultyJudge(tiny_model, tokenizer)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        DifficultyJudge(tiny_model, batch_size=0)


def test_judgments_are_kept_and_an_interrupted_run_continues(tmp_path):
    asked = []

    def judge(questions):
        asked.extend(questions)
        return [len(question) / 10 for question in questions]

    path = tmp_path / "difficulty.jsonl"
    assert list(judge_difficulty(judge, "a", ["x", "yy", "x"], path)) == [0.1, 0.2, 0.1]
    path.write_text(path.read_text()[:-7])  # the run died while it wrote
    assert list(judge_difficulty(judge, "a", ["x", "yy", "zzz"], path)) == [0.1, 0.2, 0.3]
    assert asked == ["x", "yy", "yy", "zzz"]
    assert list(judge_difficulty(judge, "another judge", ["x"], path)) == [0.1] and asked[-1] == "x"
    assert list(judge_difficulty(judge, "a", ["zzz", "yy"], path)) == [0.3, 0.2] and len(asked) == 5
