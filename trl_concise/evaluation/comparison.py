# SPDX-License-Identifier: Apache-2.0
"""[`compare`] compares two evaluations of the same problems, problem by problem; the command `trl-concise compare`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data.rows import AXES
from ..errors import Parser
from ..state.checkpoint import write_atomically
from .agreement import mcnemar
from .axes import compare_axes, print_compared_axes
from .calibration import report_uncertainty
from .completions import Completion
from .expansion import expansion
from .folder import SETTINGS_FILE, problem_rows
from .paired import paired_figures
from .plots import can_plot, plot_pass_at_k
from .quantization import name_of_mode
from .recorded import Evaluation
from .stress import is_perturbed, print_compared_stress
from .summaries import read_json


COMPARISON_FILE = "comparison.json"
FEW_TRIES = 8  # fewer say little about what a model does not solve
OUTCOMES = ("both_correct", "only_first", "only_second", "both_wrong")


def compare(
    first: str | Path, second: str | Path, output_dir: str | Path | None = None, *, null: str | Path | None = None
) -> dict[str, dict[str, Any]]:
    """
    Compare two evaluations of the same problems: a base and a trained model, or a model and its quantized form. No model is loaded.

    Accuracy and tokens are paired by problem: each bootstrap draw takes the same problems of both evaluations.

    Args:
        first (`str` or `Path`): Output folder of `trl-concise eval`, for example of the base model.
        second (`str` or `Path`): The one that is compared with it.
        output_dir (`str` or `Path`, *optional*): Where to write `comparison.json`, and `pass_at_k.png` if problems have several
            completions.
        null (`str` or `Path`, *optional*): The first model again, with another seed, for the expansion rate: see [`expansion`].

    Returns:
        `dict[str, dict[str, Any]]`: The figures of [`compare_problems`] for each problem set that both have, and `models`, `modes` (data
        type or quantization), `settings` and, of the first, `judge`. If both have as many completions per problem, and more than one, also
        `expansion`: the figures of [`expansion`]; of a set with axes, `axes`: those of [`compare_axes`]; and, of perturbed sets, `stress` of both; and, if both evaluations recorded it, `uncertainty` of both.

    Raises:
        `FileNotFoundError`: If a folder has no evaluation.
        `ValueError`: If they have no set in common, or differ in problems, sampling settings, engine or judge.

    Source: the pairing is this package's. The bounds of `loss_class` are those of Liu et al., "Quantization Hurts Reasoning?"
    (arXiv 2504.04823), which they apply to an average over several sets.
    """
    folders = [Path(first), Path(second)]
    one, other = (Evaluation.read(folder) for folder in folders)
    shared = [name for name in one.sets if name in other.sets]
    if not shared:
        raise ValueError(
            f"{first} and {second} have no problem set in common: {', '.join(one.sets)}, and {', '.join(other.sets)}. Evaluate both on "
            "the same set."
        )
    settings = [_settings(folder) for folder in folders]
    engines = [found.get("engine") for found in settings]
    if None not in engines and engines[0] != engines[1]:
        raise ValueError(
            f"{first} was generated with {engines[0]}, {second} with {engines[1]}, whose kernels differ. Evaluate both with the same engine."
        )
    again = Evaluation.read(Path(null)) if null is not None else None
    figures = {}
    for name in shared:
        problems, base = other.problems_of(name, one)
        assert base is not None
        sampled = other.settings_of(name, problems)
        unchanged = again.problems_of(name, one)[0] if again is not None else None
        figures[name] = {
            **compare_problems(list(base.values()), list(problems.values())),
            "models": [found.sets[name]["model"] for found in (one, other)],
            "modes": [name_of_mode(found.get("quantization"), found.get("dtype")) for found in settings],
            "quantization": [found.get("quantization") for found in settings],
            "settings": sampled,
            "judge": one.sets[name].get("judge"),
        }
        rows = problem_rows(folders[1])
        chosen = [rows.get((name, row), {}) for row in problems]
        if all(set(AXES) <= row.keys() for row in chosen):
            figures[name]["axes"] = compare_axes(chosen, list(base.values()), list(problems.values()))
        stressed = [found.sets[name].get("stress") for found in (one, other)]
        if None not in stressed:
            figures[name]["stress"] = stressed
        scored = [found.sets[name].get("uncertainty") for found in (one, other)]
        if None not in scored:
            figures[name]["uncertainty"] = scored
        sides = [list(side.values()) for side in (base, problems, unchanged) if side is not None]
        counts = {len(items) for side in sides for items in side}
        if len(counts) == 1 and counts != {1}:
            if again is not None:
                _check_null(again, one, name)
            figures[name]["expansion"] = expansion(*sides)
        elif null is not None:
            raise ValueError(
                f"The expansion rate on {name!r} needs as many completions of each problem from all three evaluations, and more than one; "
                f"got {sorted(counts)}. Evaluate with the same --num_completions."
            )
    if output_dir is not None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
        write_atomically(folder / COMPARISON_FILE, text.encode())
        curves = {name: found["expansion"]["pass_at_k"] for name, found in figures.items() if "expansion" in found}
        if curves and can_plot("The picture of pass@k"):
            plot_pass_at_k(curves, next(iter(figures.values()))["models"], folder / "pass_at_k.png")
    return figures


def compare_problems(first: Sequence[Sequence[Completion]], second: Sequence[Sequence[Completion]]) -> dict[str, Any]:
    """
    Compare the completions of the same problems, all judged.

    Args:
        first, second (`Sequence[Sequence[Completion]]`): The completions of each problem.

    Returns:
        `dict[str, Any]`: The figures of [`paired_figures`]; `truncated` (shares of both); `correct_token_ratio`: tokens of correct completions
        as a ratio, over the problems that both solve at least once (`None` without one), the only comparison of lengths that no wrong
        completion enters; and, with one completion per problem, `outcomes` (problems and token ratio by who is correct) and `mcnemar_p`.
    """
    right = [[fmean(bool(item.correct) for item in items) for items in side] for side in (first, second)]
    tokens = [[fmean(item.tokens for item in items) for items in side] for side in (first, second)]
    solved = [
        [
            fmean(item.tokens for item in items if item.correct) if any(item.correct for item in items) else None
            for items in side
        ]
        for side in (first, second)
    ]
    both = [(a, b) for a, b in zip(*solved, strict=True) if a is not None and b is not None]
    figures = {
        **paired_figures(*right, *tokens),
        "completions": [len(side[0]) for side in (first, second)],
        "truncated": [fmean(item.truncated for items in side for item in items) for side in (first, second)],
        "correct_token_ratio": sum(b for _, b in both) / sum(a for a, _ in both) if both else None,
    }
    if figures["completions"] != [1, 1]:
        return figures
    outcomes: dict[str, Any] = {}
    for outcome, which in zip(OUTCOMES, ((1, 1), (1, 0), (0, 1), (0, 0)), strict=True):
        rows = [row for row, pair in enumerate(zip(*right, strict=True)) if pair == which]
        spent = [sum(side[row] for row in rows) for side in tokens]
        outcomes[outcome] = {"problems": len(rows), "token_ratio": spent[1] / spent[0] if rows else None}
    p = mcnemar(outcomes["only_first"]["problems"], outcomes["only_second"]["problems"])
    return figures | {"outcomes": outcomes, "mcnemar_p": p}


def _check_null(null: Evaluation, first: Evaluation, name: str) -> None:
    """Check that the null run is the first model with another seed."""
    models, seeds = ([found.sets[name].get(key) for found in (first, null)] for key in ("model", "seed"))
    if models[0] != models[1] or seeds[0] == seeds[1] is not None:
        raise ValueError(
            f"{null.folder} is not the first model with another seed on {name!r}: model {models[1]!r} and seed {seeds[1]}; the first has "
            f"{models[0]!r} and {seeds[0]}. Evaluate the first model again with another --seed."
        )


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def main(argv: Sequence[str]) -> int:
    """Compare two evaluations, and print a table."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        figures = compare(options.first, options.second, options.output_dir, null=options.null)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print_comparison({name: found for name, found in figures.items() if not is_perturbed(found)} or figures)
    for name, found in figures.items():
        if "axes" in found:
            print_compared_axes(name, found["axes"])
    print_compared_stress(figures)
    names = _names(next(iter(figures.values())))
    if scored := {
        name: dict(zip(names, found["uncertainty"], strict=True))
        for name, found in figures.items()
        if "uncertainty" in found
    }:
        report_uncertainty(scored, options.output_dir)
    if options.output_dir is not None:
        print(f"The figures are in {Path(options.output_dir, COMPARISON_FILE)}.")
    return 0


def _names(found: Mapping[str, Any]) -> list[str]:
    """Return the names of both models, with what distinguishes them."""
    names = [f"{model} ({mode})" for model, mode in zip(found["models"], found["modes"], strict=True)]
    return (
        names
        if len(set(names)) == 2
        else [f"{name}, {which}" for name, which in zip(names, ("first", "second"), strict=True)]
    )


def print_comparison(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print accuracy and tokens of two evaluations, always together."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    some = next(iter(figures.values()))
    names = _names(some)
    table = Table(
        title=escape(f"{names[1]} compared with {names[0]}"),
        caption=escape(
            "[ ]: 95 % interval, paired bootstrap over problems. If correct: tokens of correct completions on the problems that both solve."
        ),
    )
    table.add_column("Problems", overflow="fold")
    for heading in ("First", "Second", "Change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in figures.items():
        low, high = (100 * bound for bound in found["accuracy_difference_interval"])
        least, most = found["token_ratio_interval"]
        correct = found["correct_token_ratio"]
        points = f"{100 * found['accuracy_difference']:+.1f} points [{low:.1f}, {high:.1f}]"
        table.add_row(escape(f"{name} ({found['problems']:,})"), "", "", "")
        table.add_row("  accuracy", *(f"{value:.1%}" for value in found["accuracy"]), escape(points))
        ratio = f"x {found['token_ratio']:.3f} [{least:.3f}, {most:.3f}]"
        table.add_row("  tokens", *(f"{value:,.1f}" for value in found["tokens"]), escape(ratio))
        table.add_row("    if correct", "", "", f"x {correct:.3f}" if correct is not None else "-")
    Console().print(table)
    for name, found in figures.items():
        low, high = found["accuracy_difference_interval"]
        note = f"{name}: {found['loss_class']}"
        if low <= 0 <= high and low < high:
            note += ", the interval includes 0"
        if "outcomes" in found:
            counts = (found["outcomes"][outcome]["problems"] for outcome in ("only_first", "only_second"))
            note += ", only the first correct on {}, only the second on {}".format(*counts)
            note += f" (McNemar p = {found['mcnemar_p']:.3g})"
        print(f"{note}.")
        if "expansion" in found:
            print(describe_expansion(found["expansion"]))


def describe_expansion(found: Mapping[str, Any]) -> str:
    """Return what the second model solves of the problems that the first does not solve, in words."""
    n = found["n"]
    pairs = {k: [f"{curve[k]['value']:.1%}" for curve in found["pass_at_k"]] for k in found["sizes"]}
    curves = "; ".join(f"pass@{k} {' -> '.join(pair)}" for k, pair in pairs.items())
    if n < FEW_TRIES and found["null_rate"] is None:
        return f"  {curves}."
    if found["rate"] is None:
        return f"  {curves}. The first model solves every problem in {n} tries, so the expansion rate is undefined."
    low, high = found["rate_interval"]
    text = (
        f"  {curves}.\n  Of {found['unsolved']:,} problems that the first model does not solve in {n} tries, the second solves "
        f"{found['rate']:.1%} [{100 * low:.1f}, {100 * high:.1f}] in as many ({len(found['expanded']):,}; guessing would solve "
        f"{found['expected_by_chance']:.1f}); it loses {len(found['shrunk']):,} of the others."
    )
    if found["null_rate"] is None:
        return f"{text} An unchanged model also solves some: measure how many with --null."
    return f"{text} The first model with another seed solves {found['null_rate']:.1%}."


def _parser() -> Parser:
    parser = Parser(
        prog="trl-concise compare",
        description="Compare two evaluations of the same problems, accuracy and tokens paired by problem. No model is loaded.",
        epilog="examples:\n"
        "  trl-concise compare outputs/base outputs/new                               # before and after training\n"
        "  trl-concise compare outputs/bf16 outputs/nf4 --output_dir outputs/compare  # a model and its quantized form",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("first", help="output folder of `trl-concise eval`")
    parser.add_argument("second", help="output folder that is compared with it")
    parser.add_argument("--output_dir", help=f"where to write {COMPARISON_FILE}, and a picture of pass@k")
    parser.add_argument(
        "--null",
        help="output folder of the first model with another seed: how much an unchanged model seems to solve anew",
    )
    return parser
