# SPDX-License-Identifier: Apache-2.0
"""
Completions per second of `math_accuracy_reward` compared with TRL's `accuracy_reward`.

    python benchmarks/verification.py
    python benchmarks/verification.py --golds path/to/math500.jsonl
    python benchmarks/verification.py --pairs path/to/answer_pairs.jsonl

Both reward functions see the same batches, in turns, in one process. A batch holds 8 completions for each problem; a right
completion repeats the reference answer, half of the time in another notation; a third of the wrong ones repeat another wrong
one of their group. Starting the verification processes (once per run) is printed and not counted, nor is the first batch of
a mixture, in which math-verify's LaTeX parser learns its grammar. Verdicts may differ where TRL reads LaTeX without mending it
(`\\frac43`) or a notation that only we read.

`--pairs` adds the row "answer_pairs, mixed": labeled pairs (as for `benchmarks/answer_pairs.py`) of all categories, each once, so that no
verdict is asked for twice.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

from answer_pairs import MARKED, Pair, read_pairs
from trl.rewards import accuracy_reward

from trl_concise import math_accuracy_reward


GROUP = 8
MIXTURES = {"60 % right": 0.6, "all right": 1.0, "all wrong": 0.0}
STEPS = "Let us go step by step. We know what is given, so we add the parts and compare with the whole. "


def word_problem_gold(rng: random.Random) -> str:
    """Answers as in GSM8K and SVAMP: integers, some with separators, a few decimals."""
    number = rng.choice([rng.randint(1, 100), rng.randint(1, 1000), rng.randint(1000, 100_000)])
    return rng.choice([f"{number}", f"{number}", f"{number:,}", f"{number / 100:.2f}"])


def competition_gold(rng: random.Random) -> str:
    """Answers as in MATH-500, where about two in three are plain numbers."""
    a, b, c, d = (rng.randint(2, 99) for _ in range(4))
    if rng.random() < 0.64:
        return f"{rng.choice(['', '', '', '-'])}{rng.choice([a, a * b, a * b * c])}"
    return rng.choice(
        [
            rf"\frac{{{a}}}{{{a + b}}}",
            rf"{a}\sqrt{{{b}}}",
            rf"{a}\pi",
            rf"\frac{{\sqrt{{{a}}}}}{{{b}}}",
            rf"\left( {a}, -{b} \right)",
            rf"({a},{a + b}]",
            rf"{a}x^2 - {b}x + {c}",
            f"{a} + {b}i",
            f"{a}, {b}, {c}",
            rf"\begin{{pmatrix}} {a} \\ -{b} \end{{pmatrix}}",
            rf"{a}^\circ",
            rf"\text{{({rng.choice('ABCDE')})}}",
            f"y = {a}x + {b}",
        ]
    )


def other_notation(gold: str, rng: random.Random) -> str:
    return rng.choice(
        [
            gold.replace(" ", ""),
            gold.replace("frac", "dfrac"),
            gold.replace(", ", " , ").replace("+", " + ").replace("-", " - "),
            gold.replace(r"\left", "").replace(r"\right", ""),
            f"x = {gold}" if gold.isdecimal() else f" {gold} ",
        ]
    )


def wrong(gold: str, golds: list[str], rng: random.Random) -> str:
    """The gold answer with another number in it, or the answer of another problem."""
    numbers = list(re.finditer(r"\d+", gold))
    if numbers and rng.random() < 0.7:
        number = rng.choice(numbers)
        return f"{gold[: number.start()]}{int(number.group()) + rng.randint(1, 30)}{gold[number.end() :]}"
    return rng.choice([other for other in golds if other != gold])


def batch(golds: list[str], problems: list[str], share_right: float, rng: random.Random) -> tuple[list, list[str]]:
    completions, solutions = [], []
    for gold in problems:
        wrong_before: list[str] = []
        for _ in range(GROUP):
            if rng.random() < share_right:
                answer = gold if rng.random() < 0.5 else other_notation(gold, rng)
            elif wrong_before and rng.random() < 1 / 3:
                answer = rng.choice(wrong_before)
            else:
                answer = wrong(gold, golds, rng)
                wrong_before.append(answer)
            text = STEPS * rng.randint(1, 8) + rf"The answer is $\boxed{{{answer}}}$."
            completions.append([{"role": "assistant", "content": text}])
            solutions.append(f"${gold}$")
    return completions, solutions


def batch_of_pairs(pairs: list[Pair]) -> tuple[list, list[str]]:
    """Every labeled completion once: no verdict is asked for twice."""
    completions = [[{"role": "assistant", "content": pair.completion}] for pair in pairs]
    return completions, [pair.reference if MARKED.search(pair.reference) else f"${pair.reference}$" for pair in pairs]


def compare(name: str, mixture: str, batches: list[tuple[list, list[str]]]) -> None:
    """Print the line of a mixture. Its first batch is not counted."""
    theirs = ours = same = count = 0.0
    for number, (completions, solutions) in enumerate(batches):
        their_seconds, their_rewards = timed(lambda: accuracy_reward(completions, solutions))  # noqa: B023
        our_seconds, our_rewards = timed(lambda: math_accuracy_reward(completions, solutions))  # noqa: B023
        if number == 0:
            continue
        theirs, ours, count = theirs + their_seconds, ours + our_seconds, count + len(completions)
        same += sum(one == other for one, other in zip(their_rewards, our_rewards, strict=True))
    print(
        f"{name:<18}{mixture:<12}{count / theirs:>10.0f}{count / ours:>10.0f}{theirs / ours:>7.1f}x{same / count:>14.1%}"
    )


def timed(call: Callable[[], list]) -> tuple[float, list]:
    start = time.perf_counter()
    rewards = call()
    return time.perf_counter() - start, rewards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--golds", type=Path, help="JSON lines with an `answer` each, in place of the generated answers"
    )
    parser.add_argument("--pairs", type=Path, help="JSON lines with labeled pairs, measured as well")
    parser.add_argument("--problems", type=int, default=288, help="problems per mixture")
    parser.add_argument("--problems_per_batch", type=int, default=32, help="groups that one call verifies")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.problems < 2 * options.problems_per_batch:  # the first batch starts the processes and does not count
        parser.error(f"--problems must be at least {2 * options.problems_per_batch}, got {options.problems}")
    logging.disable(logging.WARNING)

    rng = random.Random(options.seed)
    sets = {
        "GSM8K/SVAMP-like": [word_problem_gold(rng) for _ in range(options.problems)],
        "MATH-500-like": [competition_gold(rng) for _ in range(options.problems)],
    }
    if options.golds is not None:
        answers = [json.loads(line)["answer"] for line in options.golds.open(encoding="utf-8")]
        sets = {options.golds.stem: rng.sample(answers, min(options.problems, len(answers)))}

    seconds, _ = timed(lambda: math_accuracy_reward([r"\boxed{1 + 1}"], ["2"]))
    accuracy_reward([[{"content": r"\boxed{1 + 1}"}]], ["$2$"])
    print(f"{os.cpu_count()} cores; verification processes started in {seconds:.1f} s")
    print(f"{'completions':<18}{'mixture':<12}{'TRL /s':>10}{'ours /s':>10}{'ratio':>8}{'same verdict':>15}")
    for name, golds in sets.items():
        for mixture, share_right in MIXTURES.items():
            compare(
                name,
                mixture,
                [
                    batch(golds, golds[start : start + options.problems_per_batch], share_right, rng)
                    for start in range(0, len(golds), options.problems_per_batch)
                ],
            )
    if options.pairs is not None:
        pairs = read_pairs(options.pairs)
        rng.shuffle(pairs)
        compare(
            "answer_pairs", "mixed", [batch_of_pairs(pairs[start : start + 60]) for start in range(0, len(pairs), 60)]
        )


if __name__ == "__main__":
    main()
