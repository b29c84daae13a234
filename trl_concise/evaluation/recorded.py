# SPDX-License-Identifier: Apache-2.0
"""The evaluations that `trl-concise accept` compares: what is on disk, and whether two of them have the same problems."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .completions import Completion, read_completions
from .folder import COMPLETIONS_FILE
from .summaries import SUMMARY_FILE, differing_settings, read_summary


Problems = dict[int, list[Completion]]  # row of the set -> its completions


@dataclass(frozen=True)
class Evaluation:
    """An evaluation on disk: the records of its summary and the completions, by problem set."""

    folder: Path
    sets: dict[str, dict[str, Any]]
    completions: dict[str, Problems]

    @classmethod
    def read(cls, folder: Path) -> Evaluation:
        """Read a folder, and check that each problem of a set has as many completions as the others."""
        sets = {record["dataset"]: record for record in read_summary(folder) if record.get("budget") is None}
        file = folder / COMPLETIONS_FILE
        if not sets:
            raise ValueError(
                f"{folder / SUMMARY_FILE} has no evaluation of whole completions. Give the output folder of `trl-concise eval`."
            )
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist, but every completion is needed. Copy it next to {SUMMARY_FILE}, or run the same "
                "`trl-concise eval` again."
            )
        completions: dict[str, Problems] = {name: {} for name in sets}
        for item in summarized_completions(file, sets):
            completions[item.dataset].setdefault(item.problem, []).append(item)
        for name, problems in completions.items():
            sizes = {len(items) for items in problems.values()}
            expected = sets[name]["completions_per_problem"]
            if sizes != {expected}:
                raise ValueError(
                    f"{folder} has an incomplete evaluation on {name!r}: problems have {sorted(sizes)} completions, expected "
                    f"{expected}. Run the same `trl-concise eval` again to complete it."
                )
            judged, recorded = len(_judged(problems)), sets[name]["problems"]
            if judged != recorded:
                raise ValueError(
                    f"{folder} has an incomplete evaluation on {name!r}: completions of {judged} problems, expected {recorded}. Run the "
                    "same `trl-concise eval` again to complete it."
                )
        return cls(folder, sets, completions)

    def check_distinct(self) -> None:
        """Check that no set contains a problem twice."""
        for name, problems in self.completions.items():
            known = [digest for items in problems.values() if (digest := items[0].prompt_sha256) is not None]
            repeated = sum(count - 1 for count in Counter(known).values())
            if repeated:
                raise ValueError(
                    f"{name!r} in {self.folder} contains {repeated} problem{'s' * (repeated > 1)} twice. The bounds need distinct "
                    "problems: remove the copies, and evaluate again."
                )

    @property
    def model(self) -> str:
        return next(iter(self.sets.values()))["model"]

    def problems_of(self, name: str, base: Evaluation | None) -> tuple[Problems, Problems | None]:
        """Return the judged problems of a set, and the same ones of the base, after checking that they can be compared."""
        if base is None:
            self._check_has(name)
            return _judged(self.completions[name]), None
        self.check_same(name, base, "the base")
        return _judged(self.completions[name]), _judged(base.completions[name])

    def check_same(self, name: str, other: Evaluation, called: str | None = None) -> None:
        """Check that another evaluation, which the message calls `called`, has the same problems and settings on a set."""
        for evaluation in (self, other):
            evaluation._check_has(name)
        if different := differing_settings(self.sets[name], other.sets[name], called or str(other.folder)):
            raise ValueError(
                f"{self.folder} and {other.folder} cannot be compared on {name!r}: {different}. Evaluate both with the same "
                "settings."
            )
        own, others = (
            {row: _identity(items[0]) for row, items in _judged(found.completions[name]).items()}
            for found in (self, other)
        )
        if own != others:
            rows = sorted(row for row in own.keys() | others.keys() if own.get(row) != others.get(row))
            raise ValueError(
                f"{self.folder} and {other.folder} have other problems, reference answers or chat templates under the name {name!r} "
                f"({len(rows)} of {len(own)}, first: row {rows[0]}). Evaluate both on the same problems."
            )

    def _check_has(self, name: str) -> None:
        if name not in self.sets:
            raise ValueError(
                f"{self.folder} has no evaluation on {name!r}, only on {', '.join(map(repr, self.sets))}."
            )

    def settings_of(self, name: str, problems: Problems) -> dict[str, Any]:
        """Return what the promise depends on: problems, completions and sampling settings."""
        record = self.sets[name]
        digest = hashlib.sha256("".join(f"{row} {_identity(items[0])}\n" for row, items in problems.items()).encode())
        kept = (
            "completions_per_problem",
            "temperature",
            "top_p",
            "max_new_tokens",
            "chunk_size",
            "keep_head",
            "seed",
            "answer_format",
            "final_form",
        )
        return {
            "problems": len(problems),
            "problems_sha256": digest.hexdigest(),
            **{key: record[key] for key in kept if record.get(key) is not None},
        }


def summarized_completions(file: Path, sets: Mapping[str, Mapping[str, Any]]) -> list[Completion]:
    """
    Read the completions that the records of a summary include, in the order of problems and completions.

    Of one that the file has twice, because two commands wrote into the same folder, the last is taken, as `evaluate` does.
    """
    found = {
        (item.dataset, item.problem, item.completion): item
        for item in read_completions(file)
        if item.dataset in sets and _is_summarized(item, sets[item.dataset])
    }
    return [found[key] for key in sorted(found)]


def _is_summarized(item: Completion, record: Mapping[str, Any]) -> bool:
    """Return whether a record includes a completion. The file may have more, of an evaluation without `--limit` in the same folder."""
    limit = record.get("limit")
    return item.completion < record["completions_per_problem"] and (limit is None or item.problem < limit)


def _judged(problems: Problems) -> Problems:
    """Leave out the problems whose reference answer is unreadable."""
    return {row: items for row, items in sorted(problems.items()) if all(item.correct is not None for item in items)}


def _identity(item: Completion) -> tuple[str | None, str]:
    return item.prompt_sha256, item.gold
