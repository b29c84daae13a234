# SPDX-License-Identifier: Apache-2.0
"""The pictures of the experimental systems, drawn from the tables in their own pages. `pictures.py` calls this module."""

from __future__ import annotations

import matplotlib.pyplot as plt

from trl_concise.evaluation.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION


def tattoo(tables: list[list[list[str]]], numbers):
    """Accuracy of majority vote, weighted vote and best-of-n against the tokens of the n completions, on two sets."""
    (_, *rows), *_ = tables
    styles = {3: ("majority vote", GREY, "o"), 4: ("weighted vote", BLUE, "D"), 6: ("best of n", ORANGE, "s")}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for ax, name in zip(axes, dict.fromkeys(row[0] for row in rows), strict=True):
        own = [row for row in rows if row[0] == name]
        tokens = [numbers(row[2])[0] for row in own]
        for column, (label, color, marker) in styles.items():
            cells = [numbers(row[column]) for row in own]
            errors = [[c[0] - c[1] for c in cells], [c[2] - c[0] for c in cells]]
            ax.errorbar(tokens, [c[0] for c in cells], errors, color=color, marker=marker, capsize=3, label=label)
        ax.set(title=name, xlabel="Tokens of n completions")
    axes[0].set_ylabel("Accuracy, %")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def resa(tables: list[list[list[str]]], numbers):
    """Accuracy against tokens of base, source, controls and SAE-Tuning, on two sets."""
    styles = {
        "(a)": (BLACK, "*"),
        "source": (VERMILLION, "P"),
        "(b)": (ORANGE, "s"),
        "(c)": (GREY, "o"),
        "(d)": (GREEN, "^"),
        "(e)": (BLUE, "D"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True, layout="constrained")
    for ax, (_, *rows), title in zip(axes, tables[:2], ("2 operations, as in the texts", "3 operations"), strict=True):
        for row in rows:
            color, marker = styles[row[0].split()[0]]
            ax.scatter(numbers(row[3])[0], numbers(row[1])[0], 80, color, marker=marker, label=row[0])
        ax.set(title=title, xlabel="Mean completion tokens")
    axes[0].set_ylabel("Accuracy, %")
    axes[1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cort(tables: list[list[list[str]]], numbers):
    """Accuracy against tokens that the model wrote, on two sets."""
    styles = {"base": (BLACK, "*"), "plain HAPO": (GREY, "o"), "prompt hint": (ORANGE, "s"), "both hints": (BLUE, "D")}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for ax, title, (_, *rows) in zip(axes, ("Three operations", "Four operations (harder)"), tables, strict=False):
        for row in rows:
            name, _, stage = row[0].partition(", ")
            color, marker = styles[name]
            accuracy, low, high = numbers(row[1])[:3]
            face = "none" if stage == "SFT" else color
            ax.errorbar(
                *(numbers(row[3])[0], accuracy, [[accuracy - low], [high - accuracy]]),
                color=color,
                marker=marker,
                markerfacecolor=face,
                capsize=3,
                linestyle="",
                label=row[0],
            )
        ax.set(title=title, xlabel="Tokens that the model wrote")
    axes[0].set_ylabel("Accuracy, %")
    axes[0].legend(frameon=False, fontsize="small")
    return figure


def scale_bio(tables: list[list[list[str]]], numbers):
    """Accuracy against tokens of models that are fine-tuned on five datasets, on two sets of problems."""
    rows = next(rows for header, *rows in tables if header[1] == "Fine-tuned on")
    styles = {
        "nothing": (GREY, "o"),
        "uniform mixture": (ORANGE, "s"),
        "learned mixture": (BLUE, "D"),
        "correct source": (GREEN, "^"),
        "validation set": (PURPLE, "v"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for ax, name in zip(axes, dict.fromkeys(row[0] for row in rows), strict=True):
        for _, label, _, accuracy, tokens, _ in (row for row in rows if row[0] == name):
            color, marker = styles[label]
            value, low, high = numbers(accuracy)
            errors = [[value - low], [high - value]]
            ax.errorbar(numbers(tokens), [value], errors, color=color, marker=marker, capsize=3, ls="", label=label)
        ax.set(title=name, xlabel="Tokens per completion")
    axes[0].set_ylabel("Accuracy, %")
    axes[0].legend(frameon=False, loc="best")
    return figure


def procedures(tables: list[list[list[str]]], numbers):
    """Accuracy of procedures against all tokens that they generate, one panel per set. Columns: set, procedure, accuracy, tokens."""
    (_, *rows), *_ = tables
    names = list(dict.fromkeys(row[1] for row in rows))
    sets = list(dict.fromkeys(row[0] for row in rows))
    styles = [(color, marker) for marker in "Ds" for color in (BLUE, ORANGE, GREY, GREEN, PURPLE, VERMILLION, BLACK)]
    styles = dict(zip(names, styles, strict=False))
    figure, axes = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.8), layout="constrained")
    for ax, name in zip(axes, sets, strict=True):
        for row in rows:
            if row[0] == name:
                accuracy, low, high = numbers(row[2])
                errors = [[accuracy - low], [high - accuracy]]
                color, marker = styles[row[1]]
                ax.errorbar(
                    numbers(row[3])[0], accuracy, errors, color=color, marker=marker, capsize=3, ls="", label=row[1]
                )
        ax.set(title=name, xlabel="Generated tokens")
        ax.set_xlim(left=0)
    axes[0].set_ylabel("Accuracy, %")
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3, fontsize="small"
    )
    return figure


def soft_tokens(tables: list[list[list[str]]], numbers):
    """Accuracy of greedy and sampled completions and pass@32, before training and after each mode, on two sets."""
    (header, *rows), *_ = tables
    ways = [column for column in range(2, len(header)) if numbers(rows[0][column]) and "%" in rows[0][column]][:3]
    styles = {"before": (BLACK, "*"), "hard": (GREY, "o"), "fuzzy": (ORANGE, "s"), "soft": (BLUE, "D")}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for ax, name in zip(axes, dict.fromkeys(row[0] for row in rows), strict=True):
        for place, row in enumerate(own := [row for row in rows if row[0] == name]):
            color, marker = styles[row[1]]
            for way, column in enumerate(ways):
                accuracy, low, high = numbers(row[column])[:3]
                x = way + 0.14 * (place - (len(own) - 1) / 2)
                label = row[1] if way == 0 else None
                errors = [[accuracy - low], [high - accuracy]]
                ax.errorbar(x, accuracy, errors, color=color, marker=marker, capsize=3, linestyle="", label=label)
        ax.set(title=name)
        ax.set_xticks(range(len(ways)), [header[column] for column in ways])
    axes[0].set_ylabel("Accuracy, %")
    axes[1].legend(frameon=False, loc="lower right")
    return figure


def long_short(tables: list[list[list[str]]], numbers):
    """Accuracy of dialogues, of the long policy alone and of one policy against the tokens of both, on two sets."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, title, (_, *rows) in zip(axes, ("2 operations", "3 operations"), tables, strict=False):
        for system, accuracy, _, tokens, *_ in rows:
            kind = next(kind for kind in ("dialogue", "long alone", "") if system.startswith(kind))
            color, marker = {"dialogue": (BLUE, "D"), "long alone": (ORANGE, "o"), "": (GREY, "s")}[kind]
            value, low, high = numbers(accuracy)
            x = numbers(tokens)[0]
            ax.errorbar(x, value, [[value - low], [high - value]], color=color, marker=marker, capsize=3)
            name = system.removeprefix(kind).lstrip(", ")
            place = (
                ((0, 13), "center") if not kind else ((6, -8), "left") if kind == "dialogue" else ((-6, -3), "right")
            )
            offset, side = ((-8, -3), "right") if "own length" in name else place
            ax.annotate(name, (x, value), xytext=offset, textcoords="offset points", fontsize=7, color=color, ha=side)
        ax.set(title=title, xlabel="Tokens of both policies per problem", ylim=(0, 112))
        ax.margins(x=0.35)
    for kind, color in (("dialogue", BLUE), ("long policy alone", ORANGE), ("one policy", GREY)):
        axes[0].plot([], [], color=color, marker="s", linestyle="", label=kind)
    axes[0].set_ylabel("Accuracy, %")
    axes[0].legend(frameon=False, loc="lower left", fontsize=8)
    return figure


def r2r(tables: list[list[list[str]]], numbers):
    """Accuracy against the mean parameters per token, the small model counted at every position, on two sets."""
    styles = {
        "small": ("small model alone", BLACK, "*"),
        "large": ("large model alone", GREY, "P"),
        "router": ("router", BLUE, "o"),
        "entropy": ("entropy rule", ORANGE, "s"),
        "random": ("random rule", GREEN, "^"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    for ax, (header, *rows) in zip(axes, tables[:2], strict=True):
        drawn = set()
        for name, accuracy, *_, parameters, _ in rows:
            label, color, marker = styles[name.replace(",", "").split()[0]]
            mean, low, high = numbers(accuracy)
            x, error = numbers(parameters)[1] / 1e6, [[mean - low], [high - mean]]
            shown = None if label in drawn else label
            ax.errorbar([x], [mean], error, color=color, marker=marker, capsize=3, linestyle="", label=shown)
            drawn.add(label)
        ax.set(title=header[0], xlabel="Mean parameters per token, millions")
    axes[0].set_ylabel("Accuracy, %")
    axes[1].legend(frameon=False, loc="lower right")
    return figure


def math_rev(tables: list[list[list[str]]], numbers):
    """Accuracy against all tokens, sampled and read, for each way to choose among solutions, on two sets."""
    (_, *rows), *_ = tables
    styles = {
        "majority": (GREY, "o"),
        "majority, filtered": (BLACK, "s"),
        "verifier": (BLUE, "D"),
        "verifier, filtered": (GREEN, "D"),
        "untrained model": (ORANGE, "^"),
        "reward model": (PURPLE, "v"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, name in zip(axes, dict.fromkeys(row[0] for row in rows), strict=True):
        for label, (color, marker) in styles.items():
            own = [row for row in rows if row[:2] == [name, label]]
            cells = [numbers(row[5]) for row in own]
            tokens = [numbers(row[3])[0] + numbers(row[4])[0] for row in own]
            errors = [[c[0] - c[1] for c in cells], [c[2] - c[0] for c in cells]]
            line = "-" if len(own) > 1 else ""
            ax.errorbar(
                tokens,
                [c[0] for c in cells],
                errors,
                color=color,
                marker=marker,
                linestyle=line,
                capsize=3,
                label=label,
            )
        ax.set(title=name, xlabel="Tokens, sampled and read by a verifier")
    axes[0].set_ylabel("Accuracy, %")
    axes[1].legend(frameon=False, fontsize="small", loc="lower left")
    return figure


def rstar_coder(tables: list[list[list[str]]], numbers):
    """Share of the accepted sets of candidates whose labels are right, against the share of right candidates, by rule."""
    (_, *rows), *_ = tables
    styles = {
        "whole set, 0.6": (BLUE, "D"),
        "whole set, 0.4": (GREEN, "^"),
        "per input, 0.6": (ORANGE, "s"),
        "largest set": (GREY, "o"),
        "first that runs": (BLACK, "*"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.4), sharey=True, layout="constrained")
    for ax, name in zip(axes, ("easy", "hard"), strict=True):
        for rule, (color, marker) in styles.items():
            own = [row for row in rows if (row[0], row[2]) == (name, rule) and row[5]]
            shares = [numbers(row[1])[0] for row in own]
            cells = [numbers(row[5]) for row in own]
            errors = [[c[0] - c[1] for c in cells], [c[2] - c[0] for c in cells]]
            ax.errorbar(shares, [c[0] for c in cells], errors, color=color, marker=marker, capsize=3, label=rule)
        ax.set(title=f"{name} problems", xlabel="Right candidates, %", xticks=[30, 50, 70])
    axes[0].set_ylabel("Labels right, % of accepted")
    axes[1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


PICTURES = {
    "adapt_mi": procedures,
    "cort": cort,
    "long_short": long_short,
    "math_rev": math_rev,
    "r2r": r2r,
    "resa": resa,
    "rlot": procedures,
    "rstar_coder": rstar_coder,
    "scale_bio": scale_bio,
    "soft_tokens": soft_tokens,
    "tattoo": tattoo,
}  # by the name of the page in docs/experimental
