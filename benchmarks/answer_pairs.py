# SPDX-License-Identifier: Apache-2.0
r"""
Wrong verdicts of `verify_answers`, of plain math-verify and of TRL's `accuracy_reward` on labeled pairs of answers.

    python benchmarks/answer_pairs.py pairs.jsonl
    python benchmarks/answer_pairs.py pairs.jsonl --show

Each line of the file is a JSON object with the keys `gold` (or `reference`), `completion`, `expected` (whether the completion is
right), `category`, and `convention` (true if the right verdict is debatable; such pairs are counted separately). For each judge the
table shows wrong acceptances and wrong refusals, for example `1+2`: one wrong completion accepted and two right ones refused.
`None` (the reference answer is unreadable) counts as a refusal. `--show` lists every pair that `verify_answers` judges wrongly.

math-verify gets the reference answer in a box, and a completion that marks no answer is read as it is and in a box. TRL gets the
reference answer between dollar signs, unless it has its own mark.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from math_verify import parse, verify
from trl.rewards import accuracy_reward

from trl_concise import verify_answers


MARKED = re.compile(r"\\f?box|\$[^$]+\$|\\\(|\\\[")


class Pair(NamedTuple):
    reference: str
    completion: str
    expected: bool
    category: str
    convention: bool


def read_pairs(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [
        Pair(
            row["reference"] if "reference" in row else row["gold"],
            row["completion"],
            bool(row["expected"]),
            row.get("category", ""),
            bool(row.get("convention", False)),
        )
        for row in rows
    ]


def judge_ours(pairs: Sequence[Pair]) -> list[bool | None]:
    return verify_answers([pair.reference for pair in pairs], [pair.completion for pair in pairs], timeout=20.0)


def judge_math_verify(pairs: Sequence[Pair]) -> list[bool | None]:
    return [math_verify_verdict(pair.reference, pair.completion) for pair in pairs]


def math_verify_verdict(reference: str, completion: str) -> bool | None:
    parsed_reference = parse(reference if MARKED.search(reference) else rf"\boxed{{{reference}}}")
    if not parsed_reference:
        return None
    texts = [completion] if MARKED.search(completion) else [completion, rf"\boxed{{{completion}}}"]
    return any(verify(parsed_reference, parse(text)) for text in texts)


def judge_trl(pairs: Sequence[Pair]) -> list[bool | None]:
    rewards = accuracy_reward(
        [[{"role": "assistant", "content": pair.completion}] for pair in pairs],
        [pair.reference if MARKED.search(pair.reference) else f"${pair.reference}$" for pair in pairs],
    )
    return [None if reward is None else bool(reward) for reward in rewards]


JUDGES: dict[str, Callable[[Sequence[Pair]], list[bool | None]]] = {
    "verify_answers": judge_ours,
    "math-verify": judge_math_verify,
    "TRL": judge_trl,
}


def count_errors(pairs: Sequence[Pair], verdicts: Sequence[bool | None]) -> Counter[tuple[str, bool, bool]]:
    """Count wrong verdicts by (category, convention, whether a wrong completion was accepted)."""
    return Counter(
        (pair.category, pair.convention, bool(verdict))
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if bool(verdict) != pair.expected
    )


def format_table(pairs: Sequence[Pair], errors: dict[str, Counter[tuple[str, bool, bool]]]) -> str:
    """Table with a row per category in which a judge errs, and the totals."""
    width = max(len("without convention"), *(len(pair.category) for pair in pairs))
    header = f"{'category':<{width}}{'pairs':>7}" + "".join(f"{name:>16}" for name in errors)
    lines = [f"{'':<{width}}{'':>7}" + f"{'wrong acceptances + wrong refusals':>{16 * len(errors)}}", header]

    def row(name: str, count: int, is_in: Callable[[str, bool], bool]) -> str:
        cells = []
        for counter in errors.values():
            accepted = sum(
                n for (category, convention, yes), n in counter.items() if yes and is_in(category, convention)
            )
            refused = sum(
                n for (category, convention, yes), n in counter.items() if not yes and is_in(category, convention)
            )
            cells.append(f"{f'{accepted}+{refused}' if accepted or refused else '.':>16}")
        return f"{name:<{width}}{count:>7}" + "".join(cells)

    for category in sorted(
        {category for counter in errors.values() for category, convention, _ in counter if not convention}
    ):
        count = sum(pair.category == category and not pair.convention for pair in pairs)
        lines.append(row(category, count, lambda name, convention, this=category: name == this and not convention))
    lines.append(
        row("without convention", sum(not pair.convention for pair in pairs), lambda _, convention: not convention)
    )
    lines.append(row("convention", sum(pair.convention for pair in pairs), lambda _, convention: convention))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON lines, one pair each")
    parser.add_argument("--show", action="store_true", help="list each pair that verify_answers judges wrongly")
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=list(JUDGES), help="the judges to run")
    options = parser.parse_args()
    logging.disable(logging.WARNING)

    pairs = read_pairs(options.file)
    verdicts = {name: JUDGES[name](pairs) for name in options.judges}
    print(format_table(pairs, {name: count_errors(pairs, judged) for name, judged in verdicts.items()}))
    if options.show and "verify_answers" in verdicts:
        for number, (pair, verdict) in enumerate(zip(pairs, verdicts["verify_answers"], strict=True), start=1):
            if bool(verdict) != pair.expected:
                print(
                    f"line {number} [{pair.category}]{' convention' if pair.convention else ''}: expected {pair.expected}, got "
                    f"{verdict}\n    reference  {pair.reference!r}\n    completion {pair.completion[-200:]!r}"
                )


if __name__ == "__main__":
    main()
