# SPDX-License-Identifier: Apache-2.0
"""
Figures and plot of docs/what_can_go_wrong.md: a run whose training metrics do not show the loss on harder problems.

    python benchmarks/held_out_loss.py RESULTS DATA --output docs/images/what_can_go_wrong.png

RESULTS contains the log of the run (`hapo_cpu_log.jsonl`: one entry per step, as logged) and greedy completions of the models
(`base_svamp_test.jsonl`, `grpo_svamp_test.jsonl`, `hapo_cpu_svamp_test.jsonl`, and the same for `gsm8k_test`: `text`, `tokens`,
`finish`). DATA contains `svamp_test.jsonl` and `gsm8k_test.jsonl` with their reference answers in `answer`. Prints a table in
Markdown. No model is loaded.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trl_concise import math_accuracy_reward
from trl_concise.evaluation.metrics import accuracy_interval, bootstrap_interval
from trl_concise.evaluation.plots import BLUE, VERMILLION, integer_ticks, new_figure, save_figure, show_as_percent


PROBLEMS = 300  # the first of each set: the run on the CPU was evaluated on these
SETS = {"svamp_test": "SVAMP test", "gsm8k_test": "GSM8K test"}
MODELS = {"base": "base", "grpo": "GRPO, correctness only", "hapo_cpu": "HAPO"}
AVERAGED = 5  # steps
Graded = dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def grade(results: Path, data: Path, model: str, problem_set: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Return correctness, tokens, and correctness as the run judged it, of the first problems; a truncated completion counts as wrong.

    The judge of the run accepted a calculation without its result (`final_form=False`).
    """
    rows = read_lines(results / f"{model}_{problem_set}.jsonl")[:PROBLEMS]
    references = [row["answer"] for row in read_lines(data / f"{problem_set}.jsonl")[: len(rows)]]
    judged = []
    for final_form in (True, False):
        rewards = math_accuracy_reward([row["text"] for row in rows], solution=references, final_form=final_form)
        correct = [float(bool(reward) and row["finish"] == "stop") for reward, row in zip(rewards, rows, strict=True)]
        judged.append(np.array(correct))
    return judged[0], np.array([row["tokens"] for row in rows], dtype=float), judged[1]


def table(graded: Graded) -> str:
    lines = [
        "| Problems | Model | Accuracy | Change against base, points | Tokens | As the run judged |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (problem_set, model), (correct, tokens, as_the_run) in graded.items():
        low, high = (100 * end for end in accuracy_interval(correct[:, None].tolist()))
        change = 100 * (correct - graded[problem_set, "base"][0])
        cells = [SETS[problem_set], MODELS[model], f"{100 * correct.mean():.1f} % [{low:.1f}, {high:.1f}]"]
        if model == "base":
            cells.append("")
        else:
            least, most = bootstrap_interval(change[:, None].tolist())
            cells.append(f"{change.mean():+.1f} [{least:+.1f}, {most:+.1f}]")
        lines.append(f"| {' | '.join([*cells, f'{tokens.mean():.1f}', f'{100 * as_the_run.mean():.1f} %'])} |")
    return "\n".join(lines)


def plot(log: list[dict[str, Any]], graded: Graded, output: Path) -> None:
    log = [entry for entry in log if "loss" in entry]
    steps = [entry["step"] for entry in log]
    figure = new_figure(6.8, 5.2)
    rows = figure.subplots(2, sharex=True)
    for axes, label, key, column in [
        (rows[0], "Accuracy, as the run judged", "accuracy", 2),
        (rows[1], "Completion tokens", "completions/mean_length", 1),
    ]:
        values = np.array([entry[key] for entry in log])
        smooth = np.convolve(values, np.ones(AVERAGED) / AVERAGED, mode="valid")
        axes.plot(steps, values, color=BLUE, alpha=0.3, linewidth=1)
        axes.plot(steps[AVERAGED - 1 :], smooth, color=BLUE, label=f"training problems (mean of {AVERAGED} steps)")
        for problem_set, color, marker, name in [
            ("svamp_test", "black", "o", "SVAMP test, before and after: same kind of problems"),
            ("gsm8k_test", VERMILLION, "D", "GSM8K test, before and after: harder problems"),
        ]:
            ends = [graded[problem_set, model][column].mean() for model in ("base", "hapo_cpu")]
            at = [0, steps[-1]]
            axes.plot(
                at, ends, "--", color=color, marker=marker, alpha=0.8, linewidth=1, label=name, clip_on=False, zorder=3
            )
            shifts = [(6, 6), (9, 2 if marker == "D" else -8)]  # points, from the marker
            for x, value, shift in zip(at, ends, shifts, strict=True):
                text = f"{value:.1%}" if column == 2 else f"{value:.0f}"
                axes.annotate(text, (x, value), xytext=shift, textcoords="offset points", color=color)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(right=1.14 * steps[-1])
    show_as_percent(rows[0])
    rows[0].legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.45))
    rows[1].set_xlabel("Training step")
    integer_ticks(rows[1].xaxis)
    save_figure(figure, output)
    with Image.open(output) as image:
        image.convert("RGB").quantize(64).save(output, optimize=True)  # a third of the bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images/what_can_go_wrong.png"))
    options = parser.parse_args()
    graded = {
        (problem_set, model): grade(options.results, options.data, model, problem_set)
        for problem_set in SETS
        for model in MODELS
    }
    print(table(graded))
    plot(read_lines(options.results / "hapo_cpu_log.jsonl"), graded, options.output)


if __name__ == "__main__":
    main()
