# SPDX-License-Identifier: Apache-2.0
"""
Selection in the manner of InfiAlign (https://huggingface.co/papers/2508.05496): quotas per domain, diverse questions, long traces.

The paper names difficulty sampling by response length, diversity sampling by embedding and by domain, and a judge. The
authors' code is not public; quotas, clustering and sampling are a reconstruction.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from .embeddings import TFIDF, cluster
from .texts import digest, uniform


SHARE = 0.12  # "about 12 %" of the pool: 92K of 800K
CLUSTERS = 20
Judge = Callable[[Sequence[int]], Sequence[bool]]


def domain_quotas(counts: Mapping[str, int], size: int) -> dict[str, int]:
    """
    Divide a number of rows among domains in proportion to their rows, by the method of Sainte-Laguë.

    A larger size never gives a domain fewer rows, so a selection of a smaller size is contained in one of a larger size.

    Args:
        counts (`Mapping[str, int]`): Rows of each domain.
        size (`int`): Rows to divide, at most as many as there are.

    Returns:
        `dict[str, int]`: Quota of each domain, in the order of `counts`; at most its rows. They add up to `size`.

    Raises:
        `ValueError`: If the size is below 1, or larger than the number of rows.

    Examples:
        >>> domain_quotas({"math": 60, "code": 30, "science": 10}, 20)
        {'math': 12, 'code': 6, 'science': 2}
    """
    total = sum(counts.values())
    if not 1 <= size <= total:
        raise ValueError(
            f"The size of a selection must lie between 1 and {total}, the number of usable rows; got {size}."
        )
    quotas = dict.fromkeys(counts, 0)
    queue = [(1 / count, name) for name, count in counts.items() if count]
    heapq.heapify(queue)
    for _ in range(size):  # the next row is that of the domain with the largest count / (2 quota + 1)
        _, name = queue[0]
        quotas[name] += 1
        heapq.heapreplace(queue, ((2 * quotas[name] + 1) / counts[name], name))
    return quotas


@dataclass(frozen=True)
class DomainResult:
    """
    What became of a domain.

    Args:
        available (`int`): Its rows.
        quota (`int`): Rows asked for.
        kept (`list[int]`): Places of the rows kept, in the order in which they were drawn.
        rejected (`list[int]`): Places of the rows that the judge rejected.
        clusters (`int`): Its clusters.
    """

    available: int
    quota: int
    kept: list[int]
    rejected: list[int]
    clusters: int


def select_infialign(
    questions: Sequence[str],
    lengths: Sequence[float],
    *,
    size: int | None = None,
    share: float = SHARE,
    domains: Sequence[str] | None = None,
    quotas: Mapping[str, int] | None = None,
    clusters: int | None = None,
    embeddings: str = TFIDF,
    judge: Judge | None = None,
    keys: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, DomainResult]:
    """
    Select rows by domain, cluster and length.

    In each domain the questions are clustered. In each cluster the rows are ordered by sampling without replacement,
    with the rank of the length as weight: the longest of m rows is m times as likely to be first as the shortest. The
    clusters are then drawn from in turn until the quota of the domain is met; a row that the judge rejects is replaced by the
    next one. The result depends on the rows, not on their order.

    Args:
        questions (`Sequence[str]`): Question of each row, none empty.
        lengths (`Sequence[float]`): Length of each row's trace.
        size (`int`, *optional*): Rows to keep, divided among the domains by [`domain_quotas`]. Defaults to `share` of the rows, at
            least one.
        share (`float`, *optional*, defaults to `0.12`): Share of the rows, in (0, 1]; the paper's.
        domains (`Sequence[str]`, *optional*): Domain of each row. One domain if `None`.
        quotas (`Mapping[str, int]`, *optional*): Rows to keep of each domain, instead of `size` and `share`. Domains without a
            quota are left out.
        clusters (`int`, *optional*): Clusters per domain; a domain with fewer different questions has as many as these. Defaults to 20, or
            to the number of rows if that is smaller; ours.
        embeddings (`str`, *optional*, defaults to `"tfidf"`): See [`~trl_concise.data.selection.embeddings.cluster`].
        judge (`Callable`, *optional*): Called with places of rows, returns whether each may be kept.
        keys (`Sequence[str]`, *optional*): A text that identifies each row, for example its question and trace. Defaults to its domain,
            question and length.
        seed (`int`, *optional*, defaults to `0`): Seed of clustering and sampling.

    Returns:
        `dict[str, DomainResult]`: What became of each domain, in alphabetical order. A quota is met exactly unless the domain has
        no more rows that the judge accepts.

    Raises:
        `ImportError`: If scikit-learn is missing.
        `ValueError`: If there are 0 rows, a length is not finite, or an argument is out of range.
    """
    count = len(questions)
    if domains is None:
        domains = ["all"] * count
    clusters = clusters if clusters is not None else max(1, min(CLUSTERS, count))
    _check(questions, lengths, domains, clusters, share, quotas)
    rows_of: dict[str, list[int]] = {}
    if keys is None:
        keys = [digest(domains[i], questions[i], repr(float(lengths[i]))) for i in range(count)]
    for place in sorted(range(count), key=keys.__getitem__):  # an order that depends on the rows only
        rows_of.setdefault(domains[place], []).append(place)
    rows_of = {name: rows_of[name] for name in sorted(rows_of)}
    if quotas is None:
        size = size if size is not None else max(1, int(count * share))
        quotas = domain_quotas({name: len(rows) for name, rows in rows_of.items()}, size)
    unknown = sorted(set(quotas) - set(rows_of))
    if unknown:
        raise ValueError(f"The domain {unknown[0]!r} has a quota but no rows. Domains: {', '.join(rows_of)}.")
    results = {}
    for name, rows in rows_of.items():
        quota = quotas.get(name, 0)
        labels = (
            cluster([questions[place] for place in rows], clusters, embeddings=embeddings, seed=seed) if quota else []
        )
        groups: dict[int, list[int]] = {}
        for place, label in zip(rows, labels, strict=bool(labels)):
            groups.setdefault(label, []).append(place)
        ordered = [_sample(group, lengths, [keys[place] for place in group], seed) for group in groups.values()]
        kept, rejected = _draw(_in_turn(ordered), quota, judge)
        results[name] = DomainResult(len(rows), quota, kept, rejected, len(groups))
    return results


def _check(
    questions: Sequence[str],
    lengths: Sequence[float],
    domains: Sequence[str],
    clusters: int,
    share: float,
    quotas: Mapping[str, int] | None,
) -> None:
    if not len(questions) == len(lengths) == len(domains):
        raise ValueError(
            f"There are {len(questions)} questions, {len(lengths)} lengths and {len(domains)} domains. Give one of each per row."
        )
    if not questions:
        raise ValueError("There are 0 rows to select from. Give at least one.")
    wrong = next((place for place, length in enumerate(lengths) if not math.isfinite(length)), None)
    if wrong is not None:
        raise ValueError(f"The length of row {wrong} is {lengths[wrong]}. Leave out rows without a finite length.")
    if not 1 <= clusters <= len(questions):
        raise ValueError(
            f"clusters must lie between 1 and {len(questions)}, the number of usable rows; got {clusters}."
        )
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}.")
    for name, quota in (quotas or {}).items():
        if quota < 0:
            raise ValueError(f"The quota of {name!r} must be at least 0, got {quota}.")


def _sample(group: Sequence[int], lengths: Sequence[float], keys: Sequence[str], seed: int) -> list[int]:
    """Order rows by sampling without replacement, weighted by the rank of their length (Efraimidis and Spirakis)."""
    weight: dict[float, float] = {}
    shorter = 0
    for length, count in sorted(Counter(lengths[place] for place in group).items()):
        weight[length] = shorter + (count + 1) / 2  # equal lengths share the mean of their ranks
        shorter += count
    draws = [
        (math.log(uniform(str(seed), key)) / weight[lengths[place]], key, place)
        for place, key in zip(group, keys, strict=True)
    ]
    return [place for _, _, place in sorted(draws, reverse=True)]


def _in_turn(groups: Sequence[Sequence[int]]) -> Iterator[int]:
    """One row of each group in turn, until all are exhausted."""
    for turn in range(max(map(len, groups), default=0)):
        for group in groups:
            if turn < len(group):
                yield group[turn]


def _draw(candidates: Iterator[int], quota: int, judge: Judge | None) -> tuple[list[int], list[int]]:
    """Take candidates until the quota is met; only as many are judged as may be needed."""
    kept: list[int] = []
    rejected: list[int] = []
    while len(kept) < quota:
        chosen = list(islice(candidates, quota - len(kept)))
        if not chosen:
            break
        verdicts = judge(chosen) if judge is not None else [True] * len(chosen)
        for place, accepted in zip(chosen, verdicts, strict=True):
            (kept if accepted else rejected).append(place)
    return kept, rejected
