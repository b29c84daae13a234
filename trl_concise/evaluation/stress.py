# SPDX-License-Identifier: Apache-2.0
"""
What changed wording costs: accuracy and tokens on perturbed problems against the originals, paired by problem.

Source: Zhao et al., "Large Language Models Badly Generalize across Option Length, Problem Types, and Irrelevant Noun Replacements" (arXiv
2502.12459), from its abstract: the question. The figures are this package's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..data.perturbations import PERTURBATIONS, Variant
from ..verification.extraction import final_answer
from .axes import add_row, new_table
from .completions import Completion
from .paired import paired_figures


Groups = Mapping[int, Sequence[Completion]]  # row -> the completions of the problem


def shift(original: Sequence[float], variant: Sequence[float]) -> dict[str, Any]:
    """
    Compare the shares of correct completions of the same problems in two wordings.

    Args:
        original, variant (`Sequence[float]`): p and q of each problem, in [0, 1].

    Returns:
        `dict[str, Any]`: `accuracy` (means of both), `drop` (mean of p - q), `consistency` (mean of pq + (1 - p)(1 - q): the chance that one completion of
        each has the same verdict), `right_to_wrong` (sum of p(1 - q) / sum of p) and `wrong_to_right` (sum of (1 - p)q / sum of 1 - p), `None` where
        the denominator is 0.

    Examples:
        >>> found = shift([1, 1, 0.5, 0, 1], [1, 0, 0.5, 0.5, 0.75])
        >>> {name: value if isinstance(value, list) else round(value, 6) for name, value in found.items()}
        {'accuracy': [0.7, 0.55], 'drop': 0.15, 'consistency': 0.55, 'right_to_wrong': 0.428571, 'wrong_to_right': 0.5}
    """
    pairs = list(zip(original, variant, strict=True))
    right, wrong = sum(original), sum(1 - p for p in original)
    return {
        "accuracy": [fmean(original), fmean(variant)],
        "drop": fmean(p - q for p, q in pairs),
        "consistency": fmean(p * q + (1 - p) * (1 - q) for p, q in pairs),
        "right_to_wrong": sum(p * (1 - q) for p, q in pairs) / right if right else None,
        "wrong_to_right": sum((1 - p) * q for p, q in pairs) / wrong if wrong else None,
    }


def above_chance(accuracy: float, chance: float) -> float:
    """
    Return the accuracy above that of guessing among options, (a - c) / (1 - c).

    Examples:
        >>> round(above_chance(0.62, 0.25), 6), above_chance(0.5, 0.5)
        (0.493333, 0.0)
    """
    return (accuracy - chance) / (1 - chance)


def over_variants(correct: Sequence[Sequence[float]]) -> dict[str, Any]:
    """
    Summarize verdicts on the same problems in several wordings.

    Args:
        correct (`Sequence[Sequence[float]]`): Per problem, the share of correct completions in each wording.

    Returns:
        `dict[str, Any]`: `problems`, `mean`, `variants` (mean of each), `spread` (best minus worst of these), and, if all shares are 0 or 1, `worst_case` (share of
        problems right in every wording) and `any` (in at least one); else `None`.

    Examples:
        >>> found = over_variants([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]])
        >>> round(found["mean"], 6), found["variants"], found["worst_case"], found["any"], found["spread"]
        (0.583333, [0.75, 0.5, 0.5], 0.25, 0.75, 0.25)
    """
    variants = [fmean(column) for column in zip(*correct, strict=True)]
    single = all(value in (0, 1) for row in correct for value in row)
    return {
        "problems": len(correct),
        "mean": fmean(variants),
        "variants": variants,
        "spread": max(variants) - min(variants),
        "worst_case": fmean(min(row) for row in correct) if single else None,
        "any": fmean(max(row) for row in correct) if single else None,
    }


def compare_with_original(variant: Variant, original: Groups, perturbed: Groups) -> dict[str, Any]:
    """
    Compare the completions of a perturbed problem set with those of the original problems.

    Args:
        variant ([`~trl_concise.data.perturbations.Variant`]): The perturbed set.
        original, perturbed (`Mapping[int, Sequence[Completion]]`): Row -> judged completions, as many of each. Problems with an unreadable reference answer are left out.

    Returns:
        `dict[str, Any]`: `perturbation`, `kind`, `problems` (pairs), `unchanged` (of these, read like their original), `skipped` (problems that the perturbation does
        not suit; in neither mean), the figures of [`shift`], `drop_interval` and `token_ratio_interval` (95 %, one bootstrap over problems), `drop_changed` (without the
        unchanged; `None` without others), `same_answer` (share of pairs with equal final answers, mapped back; an answer is needed in both), `tokens` and `token_ratio`,
        and, if every problem has options, `chance` and `above_chance` of both, else `None`.
    """
    kept = [
        (row, parent)
        for row, parent in enumerate(variant.parents)
        if all(item.correct is not None for item in (*original[parent], *perturbed[row]))
    ]
    before, after = [original[parent] for _, parent in kept], [perturbed[row] for row, _ in kept]
    p, q = ([fmean(bool(item.correct) for item in items) for items in side] for side in (before, after))
    tokens = [[fmean(item.tokens for item in items) for items in side] for side in (before, after)]
    paired = paired_figures(p, q, *tokens)
    low, high = paired["accuracy_difference_interval"]
    changed = [place for place, (row, _) in enumerate(kept) if not variant.unchanged[row]]
    maps = variant.gold_maps
    same = [
        _answer(item) not in ("", None) and _answer(item) == maps[row].get(_answer(other), _answer(other))
        for (row, _), items, others in zip(kept, before, after, strict=True)
        for item, other in zip(items, others, strict=True)
    ]
    found = shift(p, q)
    options = [variant.options[row] for row, _ in kept]
    chance = (
        [fmean(1 / count for count in side) for side in zip(*options, strict=True)] if all(map(all, options)) else None
    )
    return {
        "perturbation": variant.perturbation,
        "kind": PERTURBATIONS[variant.perturbation].kind,
        "problems": len(kept),
        "unchanged": len(kept) - len(changed),
        "skipped": variant.skipped,
        **found,
        "drop_interval": [0.0 - high, 0.0 - low],
        "drop_changed": fmean(p[place] - q[place] for place in changed) if changed else None,
        "same_answer": fmean(same),
        "tokens": paired["tokens"],
        "token_ratio": paired["token_ratio"],
        "token_ratio_interval": paired["token_ratio_interval"],
        "chance": chance,
        "above_chance": [above_chance(a, c) for a, c in zip(found["accuracy"], chance, strict=True)]
        if chance
        else None,
    }


def _answer(item: Completion) -> str:
    return final_answer(item.text).text.strip()


def add_stress(
    records: Sequence[dict[str, Any]], variants: Mapping[str, Variant], drawn: Mapping[str, Sequence[Completion]]
) -> None:
    """
    Add `stress` to the records of whole completions: to those of perturbed sets the figures of [`compare_with_original`], to those of originals with
    several perturbations the figures of [`over_variants`], over the problems that suit all of them, `identity` left out.
    """
    groups: dict[str, dict[int, list[Completion]]] = {}
    for name, items in drawn.items():
        groups[name] = defaultdict(list)
        for item in items:
            groups[name][item.problem].append(item)
    whole = {record["dataset"]: record for record in records if record.get("budget") is None}
    shares: dict[str, dict[str, dict[int, float]]] = defaultdict(dict)
    for name, variant in variants.items():
        whole[name]["stress"] = compare_with_original(variant, groups[variant.parent], groups[name])
        if variant.perturbation != "identity":
            shares[variant.parent][variant.perturbation] = {
                parent: fmean(bool(item.correct) for item in groups[name][row])
                for row, parent in enumerate(variant.parents)
                if all(item.correct is not None for item in groups[name][row])
            }
    for parent, several in shares.items():
        common = sorted(set.intersection(*(set(found) for found in several.values())))
        if len(several) > 1 and common:
            found = over_variants([[share[row] for share in several.values()] for row in common])
            whole[parent]["stress"] = {**found, "variants": dict(zip(several, found["variants"], strict=True))}


def report_stress(records: Sequence[Mapping[str, Any]]) -> None:
    """Print the perturbations of the records of [`evaluate`] that have them, one table per original set."""
    from rich.console import Console

    sets = {record["dataset"]: record for record in records if "stress" in record and record.get("budget") is None}
    perturbed = {name: record for name, record in sets.items() if is_perturbed(record)}
    for parent in dict.fromkeys(name.rpartition(", ")[0] for name in perturbed):
        own = [record for name, record in perturbed.items() if name.rpartition(", ")[0] == parent]
        table = new_table(
            f"{parent}: {own[0]['model']} under perturbations",
            "Accuracy: original -> perturbed, in %. [ ]: 95 % interval of the drop, paired bootstrap over problems. Same: verdict of both wordings. Flips: right to "
            "wrong and wrong to right, in %. Tokens: perturbed / original.",
            ("Perturbation", "n", "Accuracy", "Drop", "Same", "Flips", "Tokens"),
            space=0,
        )
        for record in own:
            found = record["stress"]
            low, high = (100 * bound for bound in found["drop_interval"])
            flips = [
                f"{100 * value:.0f}" if value is not None else "-"
                for value in (found["right_to_wrong"], found["wrong_to_right"])
            ]
            add_row(
                table,
                *(found["perturbation"], f"{found['problems']:,}"),
                "{:.1f} -> {:.1f}".format(*(100 * value for value in found["accuracy"])),
                f"{100 * found['drop']:+.1f} [{low:.0f}, {high:.0f}]",
                f"{found['consistency']:.2f}",
                ", ".join(flips),
                f"{found['token_ratio']:.3f}",
            )
        Console().print(table)
        for record in own:
            if record["stress"]["perturbation"] != "identity" and (note := _note(record["stress"])):
                print(note)
        if parent in sets:
            print(_overall(sets[parent]["stress"]))


def _note(found: Mapping[str, Any]) -> str:
    """Return what to know about the problems of one perturbation; empty if all were changed and none has options."""
    notes = [f"{found[kind]:,} {kind}" for kind in ("unchanged", "skipped") if found[kind]]
    if found["unchanged"] and found["drop_changed"] is not None:
        notes.append(f"drop of the others {100 * found['drop_changed']:+.1f}")
    if found["chance"] is not None:
        chance, above = ([f"{value:.1%}" for value in found[key]] for key in ("chance", "above_chance"))
        notes.append(f"chance {' -> '.join(chance)}, above chance {' -> '.join(above)}")
    return f"{found['perturbation']}: {', '.join(notes)}." if notes else ""


def _overall(found: Mapping[str, Any]) -> str:
    text = f"Over {len(found['variants'])} perturbations ({found['problems']:,} problems): mean {found['mean']:.1%}, spread {100 * found['spread']:.1f} points"
    if found["worst_case"] is None:
        return f"{text}. The worst case needs one completion per problem."
    return f"{text}, right under all {found['worst_case']:.1%}, under at least one {found['any']:.1%}."


def is_perturbed(figures: Mapping[str, Any]) -> bool:
    """Return whether a record of [`evaluate`], or the figures of [`compare`], are those of a perturbed problem set."""
    stress = figures.get("stress")
    return "perturbation" in (stress[0] if isinstance(stress, list) else stress or {})


def without_perturbed(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of sets that are not perturbed; the others have a table of their own."""
    perturbed = {record["dataset"] for record in records if is_perturbed(record)}
    return [record for record in records if record["dataset"] not in perturbed]


def print_compared_stress(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what perturbations cost each of two models, and how the accuracy on perturbed problems changed."""
    from rich.console import Console

    found = {name: item for name, item in figures.items() if is_perturbed(item)}
    if not found:
        return
    table = new_table(
        "Drop of accuracy under perturbations, in points",
        "[ ]: 95 % interval, paired bootstrap over problems. Change: accuracy of the second model on the perturbed problems minus that of the first.",
        ("Problems", "First drop", "Second drop", "Change"),
        space=0,
    )
    for name, item in found.items():
        drops = [
            "{:+.0f} [{:.0f}, {:.0f}]".format(100 * one["drop"], *(100 * bound for bound in one["drop_interval"]))
            for one in item["stress"]
        ]
        low, high = (100 * bound for bound in item["accuracy_difference_interval"])
        add_row(table, name, *drops, f"{100 * item['accuracy_difference']:+.1f} [{low:.0f}, {high:.0f}]")
    Console().print(table)
