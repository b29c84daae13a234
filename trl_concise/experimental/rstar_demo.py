# SPDX-License-Identifier: Apache-2.0
"""
Six hand-written code problems with candidate solutions, and what the agreement rule makes of them.

The embedded model writes no programs. Candidates are drawn from the hand-written ones instead: right ones with a given probability, and wrong ones of several kinds otherwise.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.metrics import accuracy_interval
from ..state.checkpoint import write_atomically
from .code_problems import generate_inputs
from .execution import Limits
from .rstar_coder import (
    CANDIDATES,
    HARD_RATING,
    HARD_THRESHOLD,
    THRESHOLD,
    agree,
    needed,
    pass_probability,
    run_candidates,
)


@dataclass(frozen=True)
class CodeProblem:
    """
    A problem.

    Attributes:
        prompt (`str`): What to write.
        generator, validator (`str`): See [`generate_inputs`].
        right (`dict[str, str]`): Candidates that are right, by kind; the first is the reference.
        wrong (`dict[str, str]`): Candidates that are not, by kind.
        rating (`int`): Difficulty; above 1600 the problem is hard.
    """

    prompt: str
    generator: str
    validator: str
    right: dict[str, str]
    wrong: dict[str, str]
    rating: int = 800

    def row(self) -> dict[str, Any]:
        """Return a row of [`build_code_problems`] with three right candidates of five."""
        first, second = self.right.values()
        wrong = [*self.wrong.values()][:2]
        return {
            "prompt": self.prompt,
            "generator": self.generator,
            "validator": self.validator,
            "candidates": [first, second, f"{first}\n# again", *wrong],
            "rating": self.rating,
        }


_TWO = """\
import random
def generate(size):
    return f"{random.randint(1, size)} {random.randint(1, size)}"
"""
_TWO_VALID = "def validate(text): return all(1 <= int(part) <= 10**5 for part in text.split())"
_LIST = """\
import random
def generate(length, size):
    if length > 100:
        return None
    return " ".join(str(random.randint(-size, size)) for _ in range(length))
"""
_LIST_VALID = "def validate(text): return 1 <= len(text.split()) <= 100"
_ONE = "import random\ndef generate(size):\n    return str(random.randint(1, size))\n"
_ONE_VALID = "def validate(text): return 1 <= int(text) <= 10**5"
_RANDOM = "import random\nprint(random.random())"
_CRASHES = "print(1 / (len(input()) - len(input())))"
_SLOW = "import time\ninput()\ntime.sleep(60)"
_READ = "a = list(map(int, input().split()))\n"
_FAULTS = {"slow": _SLOW, "random": _RANDOM, "crashing": _CRASHES}

PROBLEMS = (
    CodeProblem(
        "Read two integers and print their sum.",
        _TWO,
        _TWO_VALID,
        {"sum": "print(sum(map(int, input().split())))", "plus": "a, b = map(int, input().split())\nprint(a + b)"},
        {"off by one": "print(sum(map(int, input().split())) + 1)", **_FAULTS},
    ),
    CodeProblem(
        "Read integers on one line and print the largest.",
        _LIST,
        _LIST_VALID,
        {"max": _READ + "print(max(a))", "sorted": _READ + "print(sorted(a)[-1])"},
        {"by text": "print(max(input().split()))", "from zero": _READ + "print(max([0, *a]))", **_FAULTS},
    ),
    CodeProblem(
        "Read two integers and print their greatest common divisor.",
        _TWO,
        _TWO_VALID,
        {
            "math": "import math\nprint(math.gcd(*map(int, input().split())))",
            "loop": "a, b = map(int, input().split())\nwhile b: a, b = b, a % b\nprint(a)",
        },
        {
            "one step": "a, b = map(int, input().split())\nprint(a % b or b)",
            "smaller": _READ + "print(min(a))",
            **_FAULTS,
        },
    ),
    CodeProblem(
        "Read an integer and print the sum of its digits.",
        _ONE,
        _ONE_VALID,
        {
            "text": "print(sum(map(int, input().strip())))",
            "loop": "n, s = int(input()), 0\nwhile n: n, s = n // 10, s + n % 10\nprint(s)",
        },
        {
            "root": "print((int(input()) - 1) % 9 + 1)",
            "off by one": "print(sum(map(int, input().strip())) + 1)",
            **_FAULTS,
        },
    ),
    CodeProblem(
        "Read an integer n and print the number of zeros at the end of n!.",
        _ONE,
        _ONE_VALID,
        {
            "powers": "n, s = int(input()), 0\nwhile n: n //= 5; s += n\nprint(s)",
            "sum": "n = int(input())\nprint(sum(n // 5**k for k in range(1, 12)))",
        },
        # The usual mistake, in two forms that agree.
        {
            "fives": "print(int(input()) // 5)",
            "fives again": "n = int(input())\nprint((n - n % 5) // 5)",
            "tens": "print(int(input()) // 10)",
            "crashing": _CRASHES,
        },
        rating=1700,
    ),
    CodeProblem(
        "Read integers on one line and print the largest sum of neighboring ones, at least one.",
        _LIST,
        _LIST_VALID,
        {
            "kadane": _READ
            + "best = now = a[0]\nfor x in a[1:]:\n    now = max(x, now + x)\n    best = max(best, now)\nprint(best)",
            "pairs": _READ + "print(max(sum(a[i:j]) for i in range(len(a)) for j in range(i + 1, len(a) + 1)))",
        },
        # The usual mistake, in two forms that agree: an empty sum is allowed.
        {
            "empty": _READ
            + "best = now = 0\nfor x in a:\n    now = max(0, now + x)\n    best = max(best, now)\nprint(best)",
            "empty again": _READ
            + "print(max([0] + [sum(a[i:j]) for i in range(len(a)) for j in range(i, len(a) + 1)]))",
            "positive": _READ + "print(sum(x for x in a if x > 0))",
            "crashing": _CRASHES,
        },
        rating=1900,
    ),
)


def measure(
    output_dir: str | Path | None = None,
    *,
    inputs: int = 50,
    candidates: int = CANDIDATES,
    draws: int = 500,
    shares: Sequence[float] = (0.3, 0.5, 0.7),
    timeout: float = 2.0,
    seed: int = 0,
    problems: Sequence[CodeProblem] = PROBLEMS,
) -> dict[str, Any]:
    """
    Measure how often rules accept a problem, and how often all labels of an accepted one are right.

    Every hand-written candidate runs once on all inputs, twice each. Then sets of candidates are drawn: each is right with a given probability. The
    rules see the same sets, so they cost the same runs.

    Args:
        output_dir (`str` or `Path`, *optional*): Where `results.json` is written.
        inputs (`int`, *optional*, defaults to `50`): Inputs per problem.
        candidates (`int`, *optional*, defaults to `16`): Candidates per set.
        draws (`int`, *optional*, defaults to `500`): Sets per problem and probability.
        shares (`Sequence[float]`, *optional*): Probabilities that a candidate is right.
        timeout (`float`, *optional*, defaults to `2.0`): Seconds of a run.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.
        problems (`Sequence[CodeProblem]`, *optional*): Default: the six of this module.

    Returns:
        `dict[str, Any]`: `settings` and `rows`: for each set of problems and probability, the predicted acceptance and, by rule, `accepted` and
        `right` (among the accepted), each with its 95 % interval over draws.
    """
    found = []
    for problem in problems:
        given = generate_inputs(problem.generator, problem.validator, most=inputs).inputs
        pool = [*problem.right.values(), *problem.wrong.values()]
        outputs = [one.outputs for one in run_candidates(pool, given, limits=Limits(wall=timeout))]
        reference = outputs[0]
        if None in reference:
            raise ValueError(f"The reference of {problem.prompt!r} fails within {timeout} s. Raise timeout.")
        # A candidate of a wrong kind may be right on all inputs.
        right = [own for own in outputs if own == reference]
        found.append((problem, reference, right, [own for own in outputs if own != reference]))
    rows = []
    for label, is_hard in (("easy", False), ("hard", True)):
        own = [entry for entry in found if (entry[0].rating > HARD_RATING) == is_hard]
        for share in shares if own else ():
            rng = random.Random(f"{seed} {label} {share}")
            judged: dict[str, list[bool | None]] = {name: [] for name in RULES}
            for _, reference, right, wrong in own:
                for _ in range(draws):
                    drawn = [rng.choice(right if rng.random() < share else wrong) for _ in range(candidates)]
                    for name, rule in RULES.items():
                        labels = rule(drawn)
                        judged[name].append(labels == reference if labels is not None else None)
            rows.append(
                {
                    "set": label,
                    "share": share,
                    "predicted": {str(t): pass_probability(candidates, share, t) for t in (THRESHOLD, HARD_THRESHOLD)},
                    "rules": {name: _rates(verdicts) for name, verdicts in judged.items()},
                }
            )
    settings = {"inputs": inputs, "candidates": candidates, "draws": draws, "seed": seed, "problems": len(problems)}
    results = {"settings": settings, "rows": rows}
    if output_dir is not None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    return results


Drawn = list[list[str | None]]


def _whole(threshold: float):
    def rule(drawn: Drawn) -> list[str] | None:
        agreement = agree(drawn, threshold)
        return agreement.labels if agreement.accepted else None

    return rule


def _per_input(drawn: Drawn) -> list[str] | None:
    """The most frequent output of each input, if it has the votes of 60 % of all candidates."""
    labels = []
    for outputs in zip(*drawn, strict=True):
        votes = Counter(output for output in outputs if output is not None).most_common(1)
        if not votes or votes[0][1] < needed(len(drawn)):
            return None
        labels.append(votes[0][0])
    return labels


def _first(drawn: Drawn) -> list[str] | None:
    """The outputs of the first candidate that does not fail."""
    return next((list(own) for own in drawn if None not in own), None)  # type: ignore[return-value]


def _largest(drawn: Drawn) -> list[str] | None:
    """The outputs of the largest set that agrees, of any size."""
    counts = Counter(tuple(own) for own in drawn if None not in own).most_common(1)
    return [*counts[0][0]] if counts else None  # type: ignore[list-item]


RULES = {
    f"whole set, {THRESHOLD}": _whole(THRESHOLD),
    f"whole set, {HARD_THRESHOLD}": _whole(HARD_THRESHOLD),
    "largest set": _largest,
    "per input, 0.6": _per_input,
    "first that runs": _first,
}


def _rates(verdicts: Sequence[bool | None]) -> dict[str, Any]:
    accepted = [verdict is not None for verdict in verdicts]
    right = [verdict for verdict in verdicts if verdict is not None]
    return {
        "accepted": sum(accepted) / len(accepted),
        "accepted_interval": accuracy_interval([[float(one)] for one in accepted]),
        "right": sum(right) / len(right) if right else None,
        "right_interval": accuracy_interval([[float(one)] for one in right]) if right else None,
    }


def table(results: Mapping[str, Any]) -> str:
    """Return the results of [`measure`] as a table in Markdown."""
    lines = [
        "| Problems | Right candidates | Rule | Accepted [95 %] | Predicted | Labels right, of accepted [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        for name, rates in row["rules"].items():
            predicted = row["predicted"].get(name.removeprefix("whole set, "))
            cells = [
                row["set"],
                f"{100 * row['share']:.0f} %",
                name,
                _with_interval(rates["accepted"], rates["accepted_interval"]),
                f"{100 * predicted:.1f} %" if predicted is not None and name.startswith("whole") else "",
                _with_interval(rates["right"], rates["right_interval"]) if rates["right"] is not None else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{100 * value:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
