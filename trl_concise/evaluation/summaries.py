# SPDX-License-Identifier: Apache-2.0
"""Reads `summary.json`, and checks whether two of its records can be compared."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any


SUMMARY_FILE = "summary.json"
FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")  # of problem sets
KEYS = {"dataset", "model", "accuracy", "accuracy_interval", "tokens_mean", "tokens_interval"}
COMPARED = (
    *("dataset_id", "dataset_config", "dataset_split", "limit", "problems"),
    *(
        "max_new_tokens",
        "chunk_size",
        "keep_head",
        "temperature",
        "top_p",
        "system_prompt_sha256",
        "prompt_suffix_sha256",
    ),
    *("answer_format", "final_form"),
)


def public_name(dataset: str) -> str:
    """
    Return the name of a problem set in the results: of an absolute path, without the folders above it, which stay private.

    Examples:
        >>> public_name("/home/me/data/hard.jsonl"), public_name("gsm8k"), public_name("openai/gsm8k")
        ('hard', 'gsm8k', 'openai/gsm8k')
    """
    paths: list[PurePath] = [PurePosixPath(dataset), PureWindowsPath(dataset)]
    path = next((path for path in paths if path.is_absolute() or path.parts[:1] == ("~",)), None)
    if path is None:
        return dataset
    return path.stem if path.suffix in FILE_SUFFIXES else path.name


def read_summary(path: str | Path) -> list[dict[str, Any]]:
    """
    Read the records that [`evaluate`] wrote.

    Args:
        path (`str` or `Path`): `summary.json`, or its folder.

    Raises:
        `FileNotFoundError`: If the file does not exist.
        `ValueError`: If it is not a summary.
    """
    path = Path(path)
    path = path if path.suffix == Path(SUMMARY_FILE).suffix else path / SUMMARY_FILE
    if not path.is_file():
        written_by = f"`trl-concise eval --output_dir {shlex.quote(str(path.parent))}` writes it."
        raise FileNotFoundError(
            f"The file {path} does not exist. Give the output folder of an evaluation: {written_by}"
        )
    records = read_json(path)
    if not isinstance(records, list) or not all(map(_is_record, records)):
        raise ValueError(f"{path} is not a summary of an evaluation: expected a list of records.")
    return [{**record, "dataset": public_name(record["dataset"])} for record in records]


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() >= KEYS and isinstance(value["dataset"], str)


def differing_settings(record: Mapping[str, Any], base: Mapping[str, Any], other: str = "the base") -> str:
    """
    Return the settings that differ between a record and another one, so that they cannot be compared.

    `other` is what the text calls the second one.

    Settings that one of them lacks, for example in a file of an earlier version, are not compared.

    Returns:
        `str`: Empty if none differ.

    Examples:
        >>> differing_settings({"max_new_tokens": 4096, "top_p": 1.0}, {"max_new_tokens": 512, "top_p": 1.0})
        'max_new_tokens is 4096, for the base 512'
    """
    known = [key for key in COMPARED if key in record and key in base]
    differing = [f"{key} is {record[key]}, for {other} {base[key]}" for key in known if record[key] != base[key]]
    judges = [identity_of_judge(one["judge"]) for one in (record, base) if one.get("judge") is not None]
    if not differing and len(set(judges)) > 1:  # an option that differs is the reason
        differing = ["the judge is {} (fingerprint {}), for {} {} ({})".format(*judges[0], other, *judges[1])]
    return ", ".join(differing)


def identity_of_judge(judge: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name of a judge and the fingerprint of its verdicts. Its version may differ where these are the same."""
    return judge["name"], judge["fingerprint"]


def read_json(path: Path) -> Any:
    """Read a JSON file; `None` if it is not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not text
        return None
