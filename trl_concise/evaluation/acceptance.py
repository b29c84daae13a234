# SPDX-License-Identifier: Apache-2.0
"""
Decides whether a finished model keeps a promise, for example "at most 2 points less accuracy, with 95 % confidence".

The second step of HC-RLHF (2025, https://huggingface.co/papers/2506.08266), with tokens and accuracy as costs: a model that breaks a
limit passes that limit's test with probability at most delta. A reconstruction, except the test with Student's t: see
docs/acceptance.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..state.checkpoint import write_atomically
from .bounds import (
    SMALLEST_T,
    check_delta,
    exact_loss_bound,
    proportion_upper,
    upper_bound,
)
from .recorded import Evaluation, Problems
from .summaries import public_name


ACCEPTANCE_FILE = "acceptance.json"
TOKEN_BOUNDS = ("t", "bernstein", "hoeffding")
ACCURACY_BOUNDS = ("exact", "t", "bernstein", "hoeffding")


@dataclass(frozen=True)
class Limits:
    """
    What a model must keep to be accepted, on every problem set.

    Args:
        max_tokens (`float`, *optional*): Largest mean number of tokens per completion, positive.
        max_token_share (`float`, *optional*): Largest mean number of tokens, as a share of the base's, positive.
        max_accuracy_loss (`float`, *optional*): Largest loss of accuracy against the base, in [0, 1]: 0.02 are 2 points.
        min_accuracy (`float`, *optional*): Smallest accuracy, in [0, 1].

    Raises:
        `ValueError`: If a limit is out of range, or there is none.
    """

    max_tokens: float | None = None
    max_token_share: float | None = None
    max_accuracy_loss: float | None = None
    min_accuracy: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if not given:
            raise ValueError(f"Nothing to test. Set at least one of {', '.join(asdict(self))}.")
        for name, value in given.items():
            is_tokens = "token" in name
            if not (0 < value < math.inf if is_tokens else 0 <= value <= 1):
                allowed = "a positive number" if is_tokens else "between 0 and 1 (0.02 are 2 points)"
                raise ValueError(f"{name} must be {allowed}, got {value}.")

    @property
    def need_base(self) -> bool:
        """Whether a limit compares with the base model."""
        return self.max_token_share is not None or self.max_accuracy_loss is not None


@dataclass(frozen=True)
class Test:
    """
    One limit on one problem set.

    Attributes:
        limit_name (`str`): Attribute of [`Limits`].
        dataset (`str`): Problem set.
        problems (`int`): Problems that count: those with a readable reference answer.
        mean (`float`): Mean cost over problems: tokens; tokens above the share of the base's; accuracy lost; share of wrong answers.
        deviation (`float`): Standard deviation of the cost between problems.
        bound (`str`): How the upper bound was computed.
        upper (`float`): Upper bound of the true mean cost.
        limit (`float`): Largest cost that is allowed.
    """

    limit_name: str
    dataset: str
    problems: int
    mean: float
    deviation: float
    bound: str
    upper: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the upper bound is within the limit."""
        return self.upper <= self.limit


@dataclass(frozen=True)
class Acceptance:
    """
    The tests of one model.

    Attributes:
        model (`str`): Name of the model.
        folder (`Path`): Folder of its evaluation.
        base (`str`, *optional*): Name of the base model.
        limits ([`Limits`]): What was asked.
        delta (`float`): Probability of a wrong acceptance that was asked for, over all candidates.
        candidates (`int`): Models among which one is accepted: each is tested at `delta / candidates`.
        tests (`list[Test]`): One per limit and problem set.
        settings (`dict`): Sampling settings and digest of the problems, by problem set.
    """

    model: str
    folder: Path
    base: str | None
    limits: Limits
    delta: float
    candidates: int
    tests: list[Test]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether every test passed."""
        return all(test.passed for test in self.tests)

    def sentence(self) -> str:
        """Return the result in words, for example for a model card: limits, confidence, problems, sampling settings."""
        limits, sets = self.limits, list(self.settings.items())
        promises = []
        if limits.max_tokens is not None:
            promises.append(f"at most {limits.max_tokens:,.12g} tokens per completion on average")
        if limits.max_token_share is not None:
            promises.append(f"at most {_percent(limits.max_token_share)} % of the tokens of {self.base}")
        if limits.max_accuracy_loss is not None:
            promises.append(
                f"an accuracy at most {_percent(limits.max_accuracy_loss)} points below that of {self.base}"
                if limits.max_accuracy_loss > 0
                else f"an accuracy not below that of {self.base}"
            )
        if limits.min_accuracy is not None:
            promises.append(f"an accuracy of at least {_percent(limits.min_accuracy)} %")
        where = " and ".join(f"{name} ({own['problems']:,} problems)" for name, own in sets)
        how = sets[0][1]
        sampling = (
            f"temperature {how['temperature']:g}, top-p {how['top_p']:g}, at most {how['max_new_tokens']:,} tokens"
        )
        verdict = "accepted" if self.accepted else "rejected"
        confidence = f"{_percent(1 - Decimal(str(self.delta)))} %"
        among = f", one of {self.candidates} candidates" if self.candidates > 1 else ""
        failed = [test for test in self.tests if not test.passed]
        because = (
            "; not shown: " + ", ".join(f"{test.limit_name} on {test.dataset}" for test in failed) if failed else ""
        )
        return (
            f"{self.model} is {verdict} at {confidence} confidence for {_listed(promises)}, on {where}, with {sampling}"
            f"{among}{because}. Overlap of these problems with the training data was not checked."
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as the content of `acceptance.json`."""
        return {
            "accepted": self.accepted,
            "sentence": self.sentence(),
            "model": self.model,
            "base": self.base,
            "limits": {name: value for name, value in asdict(self.limits).items() if value is not None},
            "delta": self.delta,
            "candidates": self.candidates,
            "tests": [{**asdict(test), "passed": test.passed} for test in self.tests],
            "settings": self.settings,
        }


def accept(
    candidates: Sequence[str | Path],
    limits: Limits,
    *,
    base: str | Path | None = None,
    datasets: Sequence[str] = (),
    delta: float = 0.05,
    token_bound: str = "t",
    accuracy_bound: str | None = None,
    earlier_candidates: int = 0,
    write: bool = True,
) -> list[Acceptance]:
    """
    Test finished models against limits on the completions of their evaluations. No model is loaded.

    A model is accepted if the upper bound of each cost, on each problem set, is within its limit. A model that breaks a limit passes
    that test with probability at most `delta / m`, where m counts all candidates, so the probability that any model is accepted that
    breaks a limit is at most `delta`. That holds for problems like the tested ones and the same sampling settings, if the models were
    fixed before the test.

    Args:
        candidates (`Sequence[str | Path]`): Folders of evaluations (`trl-concise eval --output_dir`).
        limits ([`Limits`]): What a model must keep.
        base (`str` or `Path`, *optional*): Folder of the base model's evaluation, if a limit compares with it.
        datasets (`Sequence[str]`, *optional*): Problem sets to test on. Default: all of the first candidate.
        delta (`float`, *optional*, defaults to `0.05`): Probability of a wrong acceptance, between 0 and 0.5.
        token_bound (`str`, *optional*, defaults to `"t"`): `"t"`, `"bernstein"` or `"hoeffding"` (see [`upper_bound`]).
        accuracy_bound (`str`, *optional*): One of these or `"exact"`. Default: `"exact"` for one completion per problem, `"bernstein"` for
            several.
        earlier_candidates (`int`, *optional*, defaults to `0`): Models that were tested on the same problems before.
        write (`bool`, *optional*, defaults to `True`): Whether to write `acceptance.json` into each candidate's folder.

    Returns:
        `list[Acceptance]`: One per candidate, in order.

    Raises:
        `ValueError`: If an argument is out of range or has no effect, an evaluation is incomplete, or candidates and base have other
            problems, reference answers or sampling settings.
        `FileNotFoundError`: If a folder has no evaluation.
    """
    check_delta(delta)
    if not candidates:
        raise ValueError("Give the folder of at least one evaluation.")
    if earlier_candidates < 0:
        raise ValueError(f"earlier_candidates must be at least 0, got {earlier_candidates}.")
    if token_bound not in TOKEN_BOUNDS or accuracy_bound not in (None, *ACCURACY_BOUNDS):
        raise ValueError(
            f"token_bound must be one of {TOKEN_BOUNDS} and accuracy_bound one of {ACCURACY_BOUNDS}, got {token_bound!r} and "
            f"{accuracy_bound!r}."
        )
    if limits.need_base and base is None:
        raise ValueError(
            "max_accuracy_loss and max_token_share compare with a base model. Give the folder of its evaluation."
        )
    if base is not None and not limits.need_base:
        raise ValueError(
            "base has no effect: no limit compares with a base model. Set max_accuracy_loss or max_token_share, or leave base out."
        )
    evaluations = [Evaluation.read(Path(folder)) for folder in candidates]
    of_base = Evaluation.read(Path(base)) if base is not None else None
    for evaluation in (*evaluations, *([of_base] if of_base is not None else [])):
        evaluation.check_distinct()
    names = list(dict.fromkeys(map(public_name, datasets))) or list(evaluations[0].sets)
    for evaluation in evaluations[1:]:
        for name in names:
            evaluation.check_same(name, evaluations[0])
    count = len(evaluations) + earlier_candidates
    results = []
    for evaluation in evaluations:
        tests, settings = [], {}
        for name in names:
            problems, base_problems = evaluation.problems_of(name, of_base)
            costs = _costs(limits, problems, base_problems, evaluation.sets[name]["max_new_tokens"])
            for cost in costs:
                wanted = accuracy_bound if cost.is_accuracy else token_bound
                tests.append(_test(cost, name, delta / count, wanted))
            settings[name] = evaluation.settings_of(name, problems)
        results.append(
            Acceptance(
                evaluation.model,
                evaluation.folder,
                of_base.model if of_base is not None else None,
                limits,
                delta,
                count,
                tests,
                settings,
            )
        )
    if write:
        for result in results:
            content = json.dumps(result.as_json(), indent=2, ensure_ascii=False) + "\n"
            write_atomically(result.folder / ACCEPTANCE_FILE, content.encode())
    return results


def _percent(share: float | Decimal) -> str:
    return f"{(100 * Decimal(str(share))).normalize():f}"


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


@dataclass(frozen=True)
class _Cost:
    """The cost of a limit, one number per problem."""

    limit_name: str
    values: list[float]
    limit: float
    value_range: float
    exact: tuple[int, int] | int | None = None  # lost and gained, or wrong, with one completion per problem

    @property
    def is_accuracy(self) -> bool:
        return "accuracy" in self.limit_name


def _costs(limits: Limits, problems: Problems, base: Problems | None, longest: int) -> list[_Cost]:
    tokens = [fmean(item.tokens for item in items) for items in problems.values()]
    correct = [fmean(bool(item.correct) for item in items) for items in problems.values()]
    is_single = all(len(items) == 1 for items in problems.values())
    costs = []
    if limits.max_tokens is not None:
        costs.append(_Cost("max_tokens", tokens, limits.max_tokens, longest))
    if limits.max_token_share is not None and base is not None:
        of_base = [fmean(item.tokens for item in items) for items in base.values()]
        share = limits.max_token_share
        above = [own - share * other for own, other in zip(tokens, of_base, strict=True)]
        costs.append(_Cost("max_token_share", above, 0.0, longest * (1 + share)))
    if limits.max_accuracy_loss is not None and base is not None:
        before = [fmean(bool(item.correct) for item in items) for items in base.values()]
        losses = [other - own for own, other in zip(correct, before, strict=True)]
        both_single = is_single and all(len(items) == 1 for items in base.values())
        exact = (sum(loss > 0 for loss in losses), sum(loss < 0 for loss in losses)) if both_single else None
        costs.append(_Cost("max_accuracy_loss", losses, limits.max_accuracy_loss, 2.0, exact))
    if limits.min_accuracy is not None:
        wrong = [1 - own for own in correct]
        costs.append(
            _Cost("min_accuracy", wrong, 1 - limits.min_accuracy, 1.0, round(sum(wrong)) if is_single else None)
        )
    return costs


def _test(cost: _Cost, dataset: str, delta: float, bound: str | None) -> Test:
    n = len(cost.values)
    if n < 2:
        raise ValueError(
            f"{dataset!r} has {n} problem{'s' * (n != 1)} with a readable reference answer, too few for a bound."
        )
    deviation = stdev(cost.values)
    if bound is None:
        bound = "exact" if cost.exact is not None else "bernstein"
    if bound == "t" and cost.is_accuracy and deviation == 0:
        bound = "bernstein"  # t would take a sample without a difference as proof that there is none
    if bound == "exact":
        if cost.exact is None:
            raise ValueError(
                f"The exact bound needs one completion per problem, but {dataset!r} has several, for the model or the base. Choose "
                "accuracy_bound='bernstein'."
            )
        if isinstance(cost.exact, tuple):
            upper = exact_loss_bound(*cost.exact, n, delta)
        else:
            upper = proportion_upper(cost.exact, n, delta)
    else:
        if bound == "t" and n < SMALLEST_T:
            raise ValueError(
                f"{dataset!r} has {n} problems, but the bound 't' needs at least {SMALLEST_T}. Evaluate on more problems, or choose "
                "'bernstein' or 'hoeffding', which hold for any number and are wide."
            )
        upper = upper_bound(cost.values, delta, bound, cost.value_range)
    return Test(cost.limit_name, dataset, n, fmean(cost.values), deviation, bound, upper, cost.limit)


def read_acceptance(folder: Path, models: Collection[str] | None = None) -> Mapping[str, Any] | None:
    """
    Return the content of the newest `acceptance.json` in a run's folder or one folder deeper; `None` without one.

    Args:
        folder (`Path`): The run's folder.
        models (`Collection[str]`, *optional*): Names of models. Tests of other models, such as controls, are left out.
    """
    found = [path for path in (folder / ACCEPTANCE_FILE, *folder.glob(f"*/{ACCEPTANCE_FILE}")) if path.is_file()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # damaged
            continue
        if not isinstance(content, dict) or not isinstance(content.get("sentence"), str):
            continue
        if models is None or content.get("model") in models:
            return content
    return None
