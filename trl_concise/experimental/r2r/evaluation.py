# SPDX-License-Identifier: Apache-2.0
"""Accuracy against cost of a pair of models, with the router, with other rules, and of each model alone."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...evaluation.completions import Completion, read_completions
from ...evaluation.evaluator import evaluate
from ...evaluation.folder import COMPLETIONS_FILE
from ...evaluation.metrics import bootstrap_interval
from .labels import LabeledResponse
from .router import TokenRouter
from .rules import ENTROPY, EntropyRule, RandomRule, RouterRule, mean_parameters
from .sampling import AloneSampler, RoutedSampler
from .training import predict, token_features


if TYPE_CHECKING:
    from datasets import Dataset

    from ...evaluation.sampling import TransformersSampler

SMALL, LARGE = "small model alone", "large model alone"
FOLLOWS = ", as often as "  # in the name of a rule that has the share of another system
COLUMNS = (
    "| {kind} | Accuracy | Against {other}, points | Against the router, points | Tokens | Large share | Large model: calls, positions read "
    "| Mean parameters: one model, both | Cost: one model, both |\n|---|---|---|---|---:|---:|---|---|---|"
)


@dataclass(frozen=True)
class Measured:
    """
    A system measured on one problem set.

    Attributes:
        record (`dict`): That of [`~trl_concise.evaluation.evaluate`], with `large_share`, `large_calls` and `large_positions` (means per completion), and
            the costs `mean_parameters_one`, `mean_parameters_both` (see [`mean_parameters`]), `cost_one` and `cost_both` (these times the mean tokens) and
            `router_parameters`, which the costs do not contain.
        completions (`list[Completion]`): In the order of the problems.
    """

    record: dict[str, Any]
    completions: list[Completion]


def evaluate_pair(
    name: str,
    sampler: RoutedSampler | AloneSampler,
    sizes: tuple[int, int],
    datasets: Mapping[str, Dataset],
    **options: Any,
) -> dict[str, Measured]:
    """
    Measure accuracy and cost of a [`RoutedSampler`], or of one model of its pair alone.

    Args:
        name (`str`): Name of the system in the results.
        sampler ([`RoutedSampler`] or [`AloneSampler`]): What to measure.
        sizes (`tuple[int, int]`): Parameters of the small and of the large model.
        datasets (`Mapping[str, Dataset]`): Problem sets with the columns `prompt` and `solution`.
        **options: Options of [`~trl_concise.evaluation.evaluate`], except `output_dir`, `budgets`, `thinking_budgets`, `chunking` and `model_name`.

    Returns:
        `dict[str, Measured]`: By the name of the problem set.

    Raises:
        `ValueError`: As by [`~trl_concise.evaluation.evaluate`].
    """
    sampler.completions.clear()
    with tempfile.TemporaryDirectory() as folder:  # what the large model reads is not on file, so nothing is continued
        records = evaluate(sampler, datasets, folder, model_name=name, **options)
        written = read_completions(Path(folder, COMPLETIONS_FILE))
    routed = dict(zip(map(_key, written), sampler.completions, strict=True))
    measured: dict[str, Measured] = {}
    for record in records:
        own = sorted((item for item in written if item.dataset == record["dataset"]), key=_key)
        drawn = [routed[_key(item)] for item in own]
        tokens = fmean(item.tokens for item in own)
        calls = fmean(len(item.routed) for item in drawn)
        one, both = mean_parameters(calls / tokens, *sizes)
        if isinstance(sampler, AloneSampler):
            both = one  # the other model does not run
        measured[record["dataset"]] = Measured(
            record
            | {
                "large_share": calls / tokens,
                "large_calls": calls,
                "large_positions": fmean(item.large_positions for item in drawn),
                "mean_parameters_one": one,
                "mean_parameters_both": both,
                "cost_one": one * tokens,
                "cost_both": both * tokens,
                "router_parameters": _router_parameters(sampler),
            },
            own,
        )
    return measured


def _key(item: Completion) -> tuple[str, int, int]:
    return item.dataset, item.problem, item.completion


def _router_parameters(sampler: RoutedSampler | AloneSampler) -> int:
    rule = sampler.rule if isinstance(sampler, RoutedSampler) else None
    return sum(parameter.numel() for parameter in rule.router.parameters()) if isinstance(rule, RouterRule) else 0


def compare(
    pair: tuple[TransformersSampler, TransformersSampler],
    router: TokenRouter,
    responses: Sequence[LabeledResponse],
    datasets: Mapping[str, Dataset],
    thresholds: Sequence[float | None] = (None,),
    **options: Any,
) -> dict[str, dict[str, Measured]]:
    """
    Measure each model alone, the router, and the entropy and the random rule at the share of large tokens that the router has.

    The random rule has the router's share on each problem set. The threshold of the entropy rule is that at which it flags as many of the labeled tokens as
    the router, so its share on a problem set may differ. The entropy rule with the authors' threshold is measured, too.

    Args:
        pair (`tuple[TransformersSampler, TransformersSampler]`): The small and the large model.
        router ([`TokenRouter`]): The router.
        responses (`Sequence[LabeledResponse]`): Labels, for the threshold of the entropy rule.
        datasets (`Mapping[str, Dataset]`): Problem sets with the columns `prompt` and `solution`.
        thresholds (`Sequence[float]`, *optional*): Thresholds of the router; `None` is its own.
        **options: As for [`evaluate_pair`].

    Returns:
        `dict[str, dict[str, Measured]]`: By the name of the system, then of the problem set.
    """
    small, large = pair
    sizes = small.model.num_parameters(), large.model.num_parameters()
    data = token_features(small.model, responses, router.config.top_k)
    probabilities, highest = predict(router, data).sigmoid(), data.entropies.sort(descending=True).values
    samplers: dict[str, RoutedSampler | AloneSampler] = {
        SMALL: AloneSampler(small, is_large=False),
        LARGE: AloneSampler(large, is_large=True),
    }
    routed: dict[str, str] = {}  # random rule -> the router that it follows
    for threshold in thresholds:
        rule = RouterRule(router, threshold)
        flagged = int((probabilities >= rule.threshold).sum())
        matched = EntropyRule(highest[flagged - 1].item() if flagged else math.inf)
        end = f" at {rule.threshold:.6g}"
        samplers[f"router{end}"] = RoutedSampler(small, large, rule)
        samplers[f"entropy{FOLLOWS}router{end}"] = RoutedSampler(small, large, matched)
        samplers[f"random{FOLLOWS}router{end}"] = RoutedSampler(small, large, RandomRule(flagged / len(data)))
        routed[f"random{FOLLOWS}router{end}"] = f"router{end}"
    samplers[f"entropy at {ENTROPY}"] = RoutedSampler(small, large, EntropyRule())
    measured: dict[str, dict[str, Measured]] = {name: {} for name in samplers}
    for dataset, problems in datasets.items():
        for name, sampler in samplers.items():
            if name in routed and isinstance(sampler, RoutedSampler):
                sampler.rule = RandomRule(measured[routed[name]][dataset].record["large_share"])
            measured[name] |= evaluate_pair(name, sampler, sizes, {dataset: problems}, **options)
    return measured


def difference(own: Sequence[Completion], other: Sequence[Completion]) -> tuple[float, float, float]:
    """
    Return the difference in accuracy with its 95 % interval, paired over problems: mean, low, high, in [-1, 1].

    Args:
        own, other (`Sequence[Completion]`): Completions of the same problems. Those without a verdict are left out.

    Raises:
        `ValueError`: If the problems differ, or none has a verdict.
    """
    if [_key(item) for item in own] != [_key(item) for item in other]:
        raise ValueError("Two systems can only be compared on completions of the same problems, but these differ.")
    changes: dict[int, list[float]] = {}
    for item, base in zip(own, other, strict=True):
        if item.correct is not None and base.correct is not None:
            changes.setdefault(item.problem, []).append(float(item.correct) - float(base.correct))
    low, high = bootstrap_interval(list(changes.values()))
    return fmean(change for group in changes.values() for change in group), low, high


def table(systems: Mapping[str, Mapping[str, Measured]], dataset: str, other: str) -> str:
    """
    Return the table of one problem set, in Markdown. Rules that have the share of a router are also compared with it.

    Args:
        systems (`Mapping[str, Mapping[str, Measured]]`): Results of [`evaluate_pair`], by the name of the system.
        dataset (`str`): The problem set.
        other (`str`): The system with which the others are compared.
    """
    lines = [COLUMNS.format(kind=dataset, other=other)]
    for name, sets in systems.items():
        record = sets[dataset].record
        low, high = record["accuracy_interval"]
        changes = []
        for reference in (other, name.partition(FOLLOWS)[2]):
            change = ""
            if reference and reference != name:
                found = difference(sets[dataset].completions, systems[reference][dataset].completions)
                change = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in found))
            changes.append(change)
        cells = [
            name,
            f"{record['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]".replace("%", " %"),
            *changes,
            f"{record['tokens_mean']:.1f}",
            f"{record['large_share']:.1%}".replace("%", " %"),
            f"{record['large_calls']:.1f}, {record['large_positions']:.1f}",
            f"{record['mean_parameters_one']:,.0f}, {record['mean_parameters_both']:,.0f}",
            f"{record['cost_one'] / 1e6:,.1f} M, {record['cost_both'] / 1e6:,.1f} M",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
