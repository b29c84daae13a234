# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed independently of this package, from the definitions; simulations of how often a bound is wrong."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trl_concise.evaluation import bounds
from trl_concise.evaluation.bounds import (
    SMALLEST_T,
    exact_loss_bound,
    problems_needed,
    proportion_lower,
    proportion_upper,
    t_quantile,
    upper_bound,
)


LENGTHS = [40, 55, 38, 62, 47, 51, 44, 58, 49, 53]
DIFFERENCES = [1] * 6 + [-1] * 4 + [0] * 190  # 6 of 200 problems lost, 4 gained


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [(0.9, 255, 1.284880), (0.9, 999, 1.282400), (0.95, 9, 1.833113), (0.99, 9, 2.821438), (0.95, 1023, 1.646344)],
)
def test_quantiles_of_t(probability, degrees, expected):
    assert t_quantile(probability, degrees) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("probability", [0.55, 0.95, 0.9999])
def test_the_series_for_many_degrees_continues_the_exact_quantile(probability, monkeypatch):
    exact = t_quantile.__wrapped__(probability, 1000)
    monkeypatch.setattr(bounds, "_LARGE", 999)
    assert t_quantile.__wrapped__(probability, 1000) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(
    ("delta", "bound", "expected"),
    [
        (0.05, "t", 54.157225),
        (0.01, "t", 56.560344),
        (0.05 / 3, "t", 55.802076),
        (0.05, "hoeffding", 74.469456),
        (0.05, "bernstein", 117.512538),
    ],
)
def test_golden_bounds_of_lengths(delta, bound, expected):
    assert upper_bound(LENGTHS, delta, bound, 64) == pytest.approx(expected, abs=1e-6)


def test_golden_bounds_of_differences():
    assert upper_bound(DIFFERENCES, 0.05) == pytest.approx(0.036168, abs=1e-6)
    assert exact_loss_bound(6, 4, 200, 0.05) == pytest.approx(0.058675, abs=1e-6)
    assert upper_bound(DIFFERENCES, 0.05, "bernstein", 2) == pytest.approx(0.139518, abs=1e-6)
    assert upper_bound(DIFFERENCES, 0.05, "hoeffding", 2) == pytest.approx(0.183082, abs=1e-6)
    assert exact_loss_bound(0, 0, 200, 0.05) == pytest.approx(0.018275, abs=1e-6)
    assert exact_loss_bound(5, 27, 1024, 0.05) == pytest.approx(-0.006089, abs=1e-6)
    assert proportion_upper(3, 100, 0.05) == pytest.approx(0.075711, abs=1e-6)
    assert proportion_upper(0, 100, 0.05) == pytest.approx(0.029513, abs=1e-6)


@pytest.mark.parametrize(("deviation", "margin", "expected"), [(0.25, 0.02, 425), (0.3, 0.02, 611), (20, 2, 273)])
def test_golden_numbers_of_problems(deviation, margin, expected):
    n = problems_needed(deviation, margin, 0.05)
    assert n == expected
    assert (
        t_quantile(0.95, n - 1) * deviation / math.sqrt(n)
        <= margin
        < t_quantile(0.95, n - 2) * deviation / math.sqrt(n - 1)
    )


def test_no_fewer_problems_are_needed_than_the_bound_accepts():
    assert problems_needed(0.01, 0.5, 0.05) == SMALLEST_T


@pytest.mark.parametrize("delta", [0.05, 0.01])
@pytest.mark.parametrize(("deviation", "margin"), [(0.25, 0.02), (0.3, 0.03)])
def test_the_exact_bound_needs_two_to_four_times_as_many_problems(deviation, margin, delta):
    """At the expected counts of a model that is as accurate as its base."""

    def upper(problems: float) -> float:
        changed = round(deviation**2 / 2 * problems)
        return exact_loss_bound(changed, changed, round(problems), delta)

    n = problems_needed(deviation, margin, delta)
    assert upper(2 * n) > margin > upper(4 * n)


@given(st.integers(1, 400), st.data(), st.floats(0.001, 0.4))
def test_limits_of_a_share_contain_it_and_are_those_of_the_binomial_distribution(total, data, delta):
    count = data.draw(st.integers(0, total))
    low, high = proportion_lower(count, total, delta), proportion_upper(count, total, delta)
    assert 0 <= low <= count / total + 1e-12 and count / total - 1e-12 <= high <= 1
    if count < total:  # a share at the limit yields so few in delta of the draws
        k = range(count + 1)
        tail = math.fsum(math.comb(total, i) * high**i * (1 - high) ** (total - i) for i in k)
        assert tail == pytest.approx(delta, abs=1e-6)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=60), st.floats(0.01, 0.3))
def test_a_model_and_its_base_are_never_both_better(differences, delta):
    lost, gained = differences.count(1.0), differences.count(-1.0)
    n = len(differences)
    opposite = [-difference for difference in differences]
    assert exact_loss_bound(lost, gained, n, delta) + exact_loss_bound(gained, lost, n, delta) >= -1e-9
    for bound in ("t", "bernstein", "hoeffding"):
        assert upper_bound(differences, delta, bound, 2) + upper_bound(opposite, delta, bound, 2) >= -1e-9


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=30),
    st.floats(0.01, 0.2),
    st.sampled_from(["t", "bernstein", "hoeffding"]),
)
def test_a_bound_falls_with_more_problems_and_rises_with_more_confidence(costs, delta, bound):
    one = upper_bound(costs, delta, bound, 1)
    assert upper_bound(costs * 4, delta, bound, 1) <= one + 1e-12
    assert upper_bound(costs, delta / 2, bound, 1) >= one - 1e-12


DRAWS = 10_000


def most(delta: float) -> float:
    """What a rate of at most `delta` stays below in `DRAWS` draws, but for one seed in 10,000."""
    return delta + 3.8 * math.sqrt(delta * (1 - delta) / DRAWS)


@pytest.mark.parametrize(("problems", "lost", "gained"), [(100, 0.02, 0.0), (200, 0.06, 0.04), (1000, 0.021, 0.001)])
def test_a_model_at_the_limit_of_accuracy_is_accepted_as_rarely_as_promised(problems, lost, gained):
    rng, limit = np.random.default_rng(0), lost - gained
    draws = rng.multinomial(problems, [lost, gained, 1 - lost - gained], size=DRAWS)
    exact = np.mean([exact_loss_bound(int(a), int(b), problems, 0.05) <= limit for a, b, _ in draws])
    assert exact <= most(0.05)
    bernstein = 0
    for a, b, rest in draws[:2000]:
        bernstein += upper_bound([1.0] * a + [-1.0] * b + [0.0] * rest, 0.05, "bernstein", 2) <= limit
    assert bernstein / 2000 <= 0.05
    wrong = rng.binomial(problems, lost, size=DRAWS)
    assert np.mean([proportion_upper(int(k), problems, 0.05) <= lost for k in wrong]) <= most(0.05)


@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_a_model_at_the_limit_of_tokens_is_accepted_as_rarely_as_promised(delta):
    rng, problems = np.random.default_rng(0), 40
    normal = rng.normal(60, 20, size=(DRAWS, problems))
    rate = np.mean([upper_bound(row, delta) <= 60 for row in normal])
    assert abs(rate - delta) <= most(delta) - delta  # exact for normal costs
    tailed = rng.exponential(60, size=(DRAWS, problems)).clip(max=400)
    mean = 60 * (1 - math.exp(-400 / 60))
    for bound in ("bernstein", "hoeffding"):
        assert np.mean([upper_bound(row, delta, bound, 400) <= mean for row in tailed[:2000]]) <= delta


def test_t_is_wrong_more_often_than_promised_for_long_tails():
    """What docs/acceptance.md says about it."""
    rng = np.random.default_rng(0)
    rate = np.mean([upper_bound(row, 0.05) <= 1 for row in rng.exponential(1, size=(DRAWS, 50))])
    assert 0.08 < rate < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: upper_bound([1.0], 0.05), "at least two problems"),
        (lambda: upper_bound([1.0, 2.0], 0.5), "delta must lie between 0 and 0.5"),
        (lambda: upper_bound([1.0, 2.0], 0.05, "exact"), "bound must be"),
        (lambda: upper_bound([1.0, 2.0], 0.05, "bernstein"), "needs value_range"),
        (lambda: problems_needed(0.25, 0, 0.05), "margin positive"),
        (lambda: problems_needed(1e9, 1e-9, 0.05), "More than 10,000,000 problems"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(st.lists(st.integers(1, 400), min_size=2, max_size=20), st.randoms())
def test_the_order_of_problems_does_not_matter(costs, order: random.Random):
    assume(len(set(costs)) > 1)
    shuffled = order.sample(costs, len(costs))
    assert upper_bound(shuffled, 0.05) == pytest.approx(upper_bound(costs, 0.05))
