# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.evaluation import (
    accuracy_efficiency_score,
    accuracy_interval,
    bootstrap_interval,
    on_frontier,
    pass_at_k,
)


# Published accuracies and lengths: DLER (2510.15110, Table 1), AutoThink (Table 1). The scores are worked by hand, e.g. the
# first: dL = (10499 - 2466) / 10499 = .7651, dA = 5 / 51.7 = .0967, score = .7651 + 3 * .0967.
@pytest.mark.parametrize(
    ("accuracy", "tokens", "base_accuracy", "base_tokens", "score"),
    [
        (56.7, 2466, 51.7, 10499, 1.0553),
        (51.7, 5108, 48.6, 10633, 0.7110),
        (48.9, 5180, 51.7, 10499, 0.2358),  # accuracy lost: gamma
        (51.6, 3769, 51.7, 10499, 0.6313),
    ],
)
def test_accuracy_efficiency_score_of_published_results(accuracy, tokens, base_accuracy, base_tokens, score):
    assert accuracy_efficiency_score(accuracy, tokens, base_accuracy, base_tokens) == pytest.approx(score, abs=5e-5)


def test_accuracy_efficiency_score_with_other_weights():
    score = accuracy_efficiency_score(51.6, 3769, 51.7, 10499, alpha=1, beta=5, gamma=10)
    assert score == pytest.approx(0.6217, abs=5e-5)


accuracies = st.floats(0.01, 1.0)
lengths = st.floats(1, 1e5)


@given(accuracies, lengths)
def test_the_base_scores_zero(accuracy, tokens):
    assert accuracy_efficiency_score(accuracy, tokens, accuracy, tokens) == 0


@given(accuracies, accuracies, accuracies, lengths, lengths)
def test_score_grows_with_accuracy(one, other, base_accuracy, tokens, base_tokens):
    low, high = sorted([one, other])
    assert accuracy_efficiency_score(low, tokens, base_accuracy, base_tokens) <= accuracy_efficiency_score(
        high, tokens, base_accuracy, base_tokens
    )


@given(accuracies, accuracies, lengths, lengths, lengths)
def test_score_grows_with_shortening(accuracy, base_accuracy, one, other, base_tokens):
    short, long = sorted([one, other])
    assert accuracy_efficiency_score(accuracy, short, base_accuracy, base_tokens) >= accuracy_efficiency_score(
        accuracy, long, base_accuracy, base_tokens
    )


def test_a_loss_of_accuracy_weighs_more_than_an_equal_gain():
    assert accuracy_efficiency_score(0.6, 100, 0.5, 100) < -accuracy_efficiency_score(0.4, 100, 0.5, 100)


@pytest.mark.parametrize(("base_accuracy", "base_tokens"), [(0.0, 100), (0.5, 0)])
def test_score_without_a_base_is_undefined(base_accuracy, base_tokens):
    with pytest.raises(ValueError, match="must be positive"):
        accuracy_efficiency_score(0.5, 100, base_accuracy, base_tokens)


@pytest.mark.parametrize(
    ("n", "c", "k", "probability"),
    [(1, 1, 1, 1.0), (1, 0, 1, 0.0), (10, 3, 1, 0.3), (4, 2, 2, 5 / 6), (5, 3, 3, 1.0), (5, 0, 5, 0.0)],
)
def test_pass_at_k(n, c, k, probability):
    assert pass_at_k(n, c, k) == pytest.approx(probability)


@given(st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_correct_completion(data):
    n = data.draw(st.integers(1, 9))
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations(range(n), k))  # the first c completions are the correct ones
    assert pass_at_k(n, c, k) == pytest.approx(sum(min(draw) < c for draw in draws) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="got n="):
        pass_at_k(n, c, k)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=12))
def test_bootstrap_interval_holds_the_mean_of_equal_groups(values):
    values = [group[:1] * 3 for group in values]
    low, high = bootstrap_interval(values, confidence=0.999, resamples=200)
    means = [group[0] for group in values]
    assert min(means) - 1e-9 <= low <= high <= max(means) + 1e-9


def test_bootstrap_draws_problems_not_completions():
    """Ten problems, whose completions all agree: 1,000 completions tell no more than 10 would."""
    few = bootstrap_interval([[float(i < 5)] for i in range(10)])
    many = bootstrap_interval([[float(i < 5)] * 100 for i in range(10)])
    assert few == many == (0.2, 0.8)  # 2.5 % and 97.5 % quantiles of a binomial with n = 10, p = 0.5


def test_bootstrap_interval_is_seeded():
    values = [[float(i % 3), float(i)] for i in range(30)]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_bootstrap_interval_of_a_single_problem():
    assert bootstrap_interval([[0.0, 1.0]]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="at least one problem"):
        bootstrap_interval([])


points = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@given(points)
def test_every_point_off_the_frontier_is_beaten_by_one_on_it(points):
    accuracies, tokens = zip(*points, strict=True)
    best = on_frontier(accuracies, tokens)
    assert any(best)
    ahead = [point for point, is_best in zip(points, best, strict=True) if is_best]
    for (accuracy, length), is_best in zip(points, best, strict=True):
        beaten = any(a >= accuracy and t <= length and (a, t) != (accuracy, length) for a, t in ahead)
        assert beaten != is_best


def test_accuracy_interval():
    values = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert accuracy_interval(values) == bootstrap_interval(values)
    assert accuracy_interval([[1.0]] * 10) == pytest.approx((0.7225, 1.0), abs=1e-4)  # Wilson, 10 of 10
    assert accuracy_interval([[0.0, 0.0]] * 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
