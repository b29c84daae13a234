# SPDX-License-Identifier: Apache-2.0
"""Comparison of an evaluation with that of the base model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .metrics import accuracy_efficiency_score
from .summaries import differing_settings, public_name, read_summary


logger = logging.getLogger(__name__)

WEIGHTS = {"alpha": 1.0, "beta": 3.0, "gamma": 5.0}  # of the accuracy-efficiency score


def read_base(base: str | Path | Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]] | None:
    """Return the records of the base model; `None` without a base."""
    if base is None:
        return None
    if isinstance(base, (str, Path)):
        return read_summary(base)
    return [{**record, "dataset": public_name(record["dataset"])} for record in base]


def _base_of(record: Mapping[str, Any], base_records: Sequence[Mapping[str, Any]] | None) -> Mapping[str, Any] | None:
    """Return the base model's record of the same set, for whole completions."""
    same_set = (item for item in base_records or () if item["dataset"] == record["dataset"])
    return next((item for item in same_set if item.get("budget") is None), None)


def differing_from_base(record: Mapping[str, Any], base_records: Sequence[Mapping[str, Any]] | None) -> str:
    """Return why a record cannot be compared with the base model's; empty if it can, or without a base."""
    base = _base_of(record, base_records)
    different = base and differing_settings(record, base)
    return f"The base cannot be compared with on {record['dataset']!r}: {different}." if different else ""


def efficiency(record: dict[str, Any], base_records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the accuracy-efficiency score against the base model's whole completions of the same set."""
    base = _base_of(record, base_records)
    score = None
    if different := differing_from_base(
        record, base_records
    ):  # a warning, so that the generated completions are not lost
        logger.warning("%s The score is left out.", different)
    elif base is not None and base["accuracy"] > 0:
        score = accuracy_efficiency_score(
            record["accuracy"], record["tokens_mean"], base["accuracy"], base["tokens_mean"], **WEIGHTS
        )
    return {
        "base_model": base["model"] if base is not None else None,
        "accuracy_efficiency_score": score,
        "accuracy_efficiency_weights": WEIGHTS,
    }
