# SPDX-License-Identifier: Apache-2.0
"""The prefix tree of a group of completions, and the advantage of each of its edges: the equation of T-SPMO."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Edge:
    """
    The choice of a token after a prefix: an edge of the prefix tree of a group.

    Attributes:
        completion (`int`): The completion that represents all that share the edge.
        position (`int`): Position of the token in it; the prefix is `completions[completion][:position]`.
        token (`int`): The token.
        count (`int`): Completions that share the edge.
        advantage (`float`): Mean reward of these, minus the mean reward of all that continue from the prefix.
    """

    completion: int
    position: int
    token: int
    count: int
    advantage: float


@dataclass(frozen=True)
class PrefixTable:
    """
    Edges of the prefix tree of a group, with their advantages.
    Attributes:
        unique_edges (`int`): $|U|$, different (prefix, token) pairs.
        branching_prefixes (`int`): Prefixes after which the group continues with more than one token.
        edges (`tuple[Edge, ...]`): The edges that leave branching prefixes. All others have the advantage 0.
        first_new (`tuple[int, ...]`): Per completion, the position of the first edge that no other completion represents,
            or its length if all are represented. It represents its edges from there on, so each edge is represented once.
    """

    unique_edges: int
    branching_prefixes: int
    edges: tuple[Edge, ...]
    first_new: tuple[int, ...]


BASELINES = ("weighted", "unweighted")


def prefix_advantages(
    completions: Sequence[Sequence[int]],
    rewards: Sequence[float],
    masks: Sequence[Sequence[int]] | None = None,
    *,
    baseline: str = "weighted",
) -> PrefixTable:
    r"""
    Compute the advantages of all tokens after all prefixes of a group.

    $$ A(v \mid p) = \operatorname{mean}\{R_i : y^{(i)} \text{ starts with } p\,v\}
                   - \operatorname{mean}\{R_i : y^{(i)} \text{ starts with } p \text{ and continues}\} $$

    Sorted completions share their longest prefixes with their neighbors, so comparing neighbors finds every branching
    prefix. Time is linear in the number of tokens, up to the sorting of G completions; no prefix is ever copied.

    Args:
        completions (`Sequence[Sequence[int]]`): G completions, their token ids (0 to 2^32 - 1), EOS included, padding not.
        rewards (`Sequence[float]`): G rewards; NaN is unknown and left out of the means.
        masks (`Sequence[Sequence[int]]`, *optional*): 0 at tokens that represent no edge (tool output, all tokens of a
            completion that is left out of the loss). They still belong to prefixes, and their rewards to the means.
        baseline (`str`, *optional*, defaults to `"weighted"`): The mean that is subtracted: over the completions that continue
            from the prefix (`"weighted"`, the equation above), or over the mean rewards of the tokens chosen there
            (`"unweighted"`), so that each choice counts once.

    Returns:
        [`PrefixTable`]: Edges in the order of sorted completions.

    Raises:
        `ValueError`: If `baseline` is unknown.

    Examples:
        >>> table = prefix_advantages([[1, 9], [1, 2, 9]], [1.0, 0.0])
        >>> table.unique_edges, [(edge.position, edge.token, edge.advantage) for edge in table.edges]
        (4, [(1, 2, -0.5), (1, 9, 0.5)])
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline must be one of {BASELINES}, got {baseline!r}.")
    lengths = [len(ids) for ids in completions]
    encoded = [np.asarray(ids, dtype=">u4") for ids in completions]  # big-endian: bytes sort as tokens do
    order = sorted(range(len(completions)), key=lambda i: encoded[i].tobytes())
    shared = [0, *(_common_prefix(encoded[a], encoded[b]) for a, b in pairwise(order))]  # with the one sorted before
    usable = [any(mask) for mask in masks] if masks is not None else [True] * len(order)

    first_new, unique_edges, common = list(lengths), 0, 0
    for place, i in enumerate(order):
        common = min(common, shared[place])  # with the last usable one
        if usable[i]:
            first_new[i] = common
            unique_edges += sum(masks[i][common:]) if masks is not None else lengths[i] - common
            common = lengths[i]

    edges, branching = [], 0
    for depth, children in _branches(shared, [lengths[i] for i in order]):
        branching += 1
        groups = [[order[place] for place in range(start, end)] for start, end in children]
        of_children = [[rewards[i] for i in group if not math.isnan(rewards[i])] for group in groups]
        for group, own in zip(groups, of_children, strict=True):
            representative = next((i for i in group if masks is None or masks[i][depth]), None)
            if representative is not None:
                advantage = _advantage(own, of_children, baseline)
                token = int(completions[representative][depth])
                edges.append(Edge(representative, depth, token, len(group), advantage))
    return PrefixTable(unique_edges, branching, tuple(edges), tuple(first_new))


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    width = min(len(a), len(b))
    different = np.flatnonzero(a[:width] != b[:width])
    return int(different[0]) if len(different) else width


def _branches(shared: list[int], lengths: list[int]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield each branching prefix of sorted completions: its length, and the ranges of completions of its children."""
    ranges = [(0, len(lengths))]
    while ranges:
        start, end = ranges.pop()
        if end - start < 2:
            continue
        depth = min(shared[start + 1 : end])
        cuts = [start, *(place for place in range(start + 1, end) if shared[place] == depth), end]
        children = [(a, b) for a, b in pairwise(cuts) if lengths[a] > depth]  # the others stop here
        if len(children) > 1:
            yield depth, children
        ranges.extend(children)


def _advantage(own: list[float], of_children: list[list[float]], baseline: str) -> float:
    """Return a child's mean reward minus the baseline; exactly 0 if all rewards are equal or the child's are unknown."""
    if not own:
        return 0.0
    base = own[0]  # subtracted first, so that equal rewards of any size cancel exactly
    children = [[reward - base for reward in rewards] for rewards in of_children if rewards]
    if baseline == "unweighted":
        means = [math.fsum(rewards) / len(rewards) for rewards in children]
    else:
        means = [reward for rewards in children for reward in rewards]
    return math.fsum(reward - base for reward in own) / len(own) - math.fsum(means) / len(means)
