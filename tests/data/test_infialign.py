# SPDX-License-Identifier: Apache-2.0
"""InfiAlign: quotas per domain, clusters of questions, sampling by length, and the judge."""

from __future__ import annotations

import math
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.endpoint import Endpoint
from trl_concise import APITeacher
from trl_concise.data.selection import domain_quotas, select_infialign
from trl_concise.data.selection.embeddings import cluster
from trl_concise.data.selection.judging import accept_traces


COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), min_size=1)
ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50)), min_size=2, max_size=25)


@pytest.fixture
def sklearn():
    return pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'trl-concise[selection]'")


@settings(deadline=None)
@given(COUNTS, st.floats(0, 1))
def test_quotas_are_proportional_and_grow_with_the_size(counts, share):
    total = sum(counts.values())
    size = max(1, int(share * total))
    quotas = domain_quotas(counts, size)
    assert sum(quotas.values()) == size and all(quotas[name] <= counts[name] for name in counts)
    assert domain_quotas(counts, total) == counts
    if size < total:
        larger = domain_quotas(counts, size + 1)
        assert all(quotas[name] <= larger[name] for name in counts)
    assert domain_quotas(dict(reversed(counts.items())), size) == quotas


def kept(results) -> list[int]:
    return sorted(place for result in results.values() for place in result.kept)


@settings(max_examples=50, deadline=None)
@given(ROWS, st.integers(0, 3), st.randoms())
def test_selection_is_a_subset_that_depends_on_the_rows_only(rows, seed, rng):
    rows = list(dict.fromkeys(rows))
    size = 1 + len(rows) // 3
    questions = [f"Question {i} of {domain}" for i, (domain, _) in enumerate(rows)]

    def run(order, size):
        return select_infialign(
            [questions[i] for i in order],
            [rows[i][1] for i in order],
            domains=[rows[i][0] for i in order],
            size=size,
            clusters=1,
            seed=seed,
        )

    order = list(range(len(rows)))
    first = run(order, size)
    assert len(kept(first)) == len(set(kept(first))) == size and all(len(r.kept) == r.quota for r in first.values())
    shuffled = rng.sample(order, len(order))
    assert kept(first) == sorted(shuffled[place] for place in kept(run(shuffled, size)))
    assert set(kept(first)) <= set(
        kept(run(order, min(size + 1, len(rows))))
    )  # a smaller selection is in a larger one


def test_longer_traces_are_drawn_more_often():
    drawn = Counter()
    for seed in range(600):
        (result,) = select_infialign(["a", "b", "c"], [10, 20, 30], size=1, clusters=1, seed=seed).values()
        drawn[result.kept[0]] += 1
    # The weights are the ranks 1, 2 and 3; four standard deviations.
    for place, share in enumerate((1 / 6, 2 / 6, 3 / 6)):
        assert abs(drawn[place] / 600 - share) < 4 * math.sqrt(share * (1 - share) / 600)


def test_rejected_rows_never_enter_and_are_replaced():
    questions, lengths = [f"q{i}" for i in range(20)], list(range(20))
    asked = []

    def judge(places):
        asked.append(list(places))
        return [place % 4 == 0 for place in places]

    (result,) = select_infialign(questions, lengths, size=3, clusters=1, judge=judge).values()
    assert len(result.kept) == 3 and all(place % 4 == 0 for place in result.kept)
    assert sorted(result.kept + result.rejected) == sorted(sum(asked, [])) and len(asked[0]) == 3
    (result,) = select_infialign(questions, lengths, size=9, clusters=1, judge=judge).values()
    assert (result.quota, sorted(result.kept), len(result.rejected)) == (9, [0, 4, 8, 12, 16], 15)  # a shortfall of 4


def test_explicit_quotas_leave_out_other_domains():
    domains = ["math"] * 5 + ["code"] * 5
    results = select_infialign([f"q{i}" for i in range(10)], [1] * 10, domains=domains, quotas={"math": 7}, clusters=1)
    assert [(name, r.available, r.quota, len(r.kept)) for name, r in results.items()] == [
        ("code", 5, 0, 0),
        ("math", 5, 7, 5),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "must lie between 1 and 3, the number of usable rows; got 0"),
        ({"size": 4}, "must lie between 1 and 3, the number of usable rows; got 4"),
        ({"share": 0}, r"share must lie in \(0, 1\]"),
        ({"clusters": 4}, "clusters must lie between 1 and 3, the number of usable rows; got 4"),
        ({"clusters": 0}, "clusters must lie between 1 and 3"),
        ({"quotas": {"code": 1}}, "domain 'code' has a quota but no rows. Domains: all"),
        ({"quotas": {"all": -1}}, "quota of 'all' must be at least 0"),
        ({"domains": ["a"]}, "3 questions, 3 lengths and 1 domains"),
    ],
)
def test_bad_input_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        select_infialign(["a", "b", "c"], [1, 2, 3], **{"clusters": 1, **options})
    with pytest.raises(ValueError, match="length of row 1 is nan"):
        select_infialign(["a", "b"], [1, math.nan], clusters=1)
    with pytest.raises(ValueError, match="0 rows to select from"):
        select_infialign([], [])


TOPICS = [f"What is {i} + {i + 1}?" for i in range(6)] + [f"Name the capital city of country {c}." for c in "ABCDEF"]


def test_every_cluster_is_drawn_from(sklearn):
    assert cluster(TOPICS, 2) == [0] * 6 + [1] * 6
    (result,) = select_infialign(TOPICS, [1] * 12, size=4, clusters=2).values()
    assert sorted(place < 6 for place in result.kept) == [False, False, True, True]
    assert result.clusters == 2


@settings(max_examples=3, deadline=None)
@given(order=st.permutations(range(12)), clusters=st.integers(2, 12))
def test_clusters_do_not_depend_on_the_order(order, clusters):
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'trl-concise[selection]'")
    one = select_infialign(TOPICS, list(range(12)), size=5, clusters=clusters)
    other = select_infialign([TOPICS[i] for i in order], list(order), size=5, clusters=clusters)
    assert kept(one) == sorted(order[place] for place in kept(other))


def test_there_are_at_most_as_many_clusters_as_different_questions(sklearn):
    assert cluster(["a b", "a b", "c"], 3) == [0, 0, 1]
    assert cluster(["a", "a"], 2) == [0, 0] and cluster(["- +", "1", "é"], 3) == [0, 1, 2]


def test_a_missing_package_is_one_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        ImportError, match=r"package sklearn, which is not installed: pip install 'trl-concise\[selection\]'"
    ):
        cluster(["a", "b"], 2)


@pytest.mark.slow  # sentence-transformers takes seconds to import
def test_embeddings_of_a_model(sklearn, tiny_model, tmp_path):
    reason = "needs sentence-transformers: pip install 'trl-concise[selection]'"
    transformers = pytest.importorskip("sentence_transformers", reason=reason)
    modules = pytest.importorskip("sentence_transformers.models", reason=reason)
    word = modules.Transformer(tiny_model)
    transformers.SentenceTransformer(modules=[word, modules.Pooling(64)], device="cpu").save(str(tmp_path))
    labels = cluster(["aaaa", "aaab", "zz 9 z", "zz 9 zz"], 2, embeddings=str(tmp_path))
    assert labels == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="embedding model 'nobody/nothing' cannot be loaded"):
        cluster(["a", "b"], 2, embeddings="nobody/nothing")


def test_a_teacher_accepts_and_rejects(tmp_path):
    def answer(request: str) -> str:
        return "Step 1 is right.\nYes." if "\\boxed{2}" in request else "yes, but 3 is wrong.\nNo"

    path = tmp_path / "judgments.jsonl"
    pairs = [("1+1?", "\\boxed{2}"), ("1+1?", "\\boxed{3}")]
    with Endpoint(answer) as endpoint:
        teacher = APITeacher("judge", base_url=endpoint.url, api_key="none", max_retries=0)
        assert accept_traces(teacher, pairs, path) == [True, False]
        assert accept_traces(teacher, [*pairs, ("1+2?", "3")], path) == [True, False, False]
        assert len(endpoint.requests) == 3  # nothing is asked twice
    asked = [(f"{i}+1?", "\\boxed{2}") for i in range(3)]
    with Endpoint(answer, ["500", "length"]) as endpoint:
        teacher = APITeacher("judge", base_url=endpoint.url, api_key="none", max_retries=0, concurrency=1)
        assert accept_traces(teacher, asked, tmp_path / "more.jsonl") == [None, False, True]  # truncated: not accepted
        assert accept_traces(teacher, asked, tmp_path / "more.jsonl") == [True, False, True]  # the failed one again
        assert len(endpoint.requests) == 4
    with Endpoint(answer, ["500"]) as endpoint:
        teacher = APITeacher("judge", base_url=endpoint.url, api_key="none", max_retries=0)
        with pytest.raises(ConnectionError, match="answered no request"):
            accept_traces(teacher, [("1+1?", "2")], tmp_path / "none.jsonl")
