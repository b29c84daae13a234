# SPDX-License-Identifier: Apache-2.0
"""The folder of an evaluation: its settings and the completions so far."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..data.rows import AXES
from ..state.checkpoint import write_atomically
from .completions import Completion, count_complete, read_completions
from .judges import judge_name
from .summaries import identity_of_judge, public_name, read_json


if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")

COMPLETIONS_FILE = "completions.jsonl"
SETTINGS_FILE = "settings.json"
PROBLEMS_FILE = "problems.jsonl"
KEPT_COLUMNS = (*AXES, "perturbation", "parent", "gold_map")  # of a problem set, in `problems.jsonl`
_NEW_SETTINGS: dict[str, Any] = {  # missing from older files
    "prompt_suffix": None,
    "answer_format": "auto",
    "final_form": True,
    "thinking_markers": ["<think>", "</think>"],
    "chunk_size": None,
    "keep_head": None,
    "quantization": None,
}


def read_folder(folder: Path, settings: dict[str, Any]) -> list[Completion]:
    """Return the completions in the folder, after checking that they have the same model and settings."""
    if not next(path for path in (folder, *folder.absolute().parents) if path.exists()).is_dir():
        raise ValueError(f"The results cannot be written into {folder}: it, or a parent of it, is a file.")
    check_settings(folder, settings)
    completions = folder / COMPLETIONS_FILE
    if not completions.exists():
        return []
    items = read_completions(completions)
    end = count_complete(items)
    lines = completions.read_bytes().split(b"\n")
    if any(lines[end:]):  # the run ended while it wrote a batch, which is drawn again: its seed is that of the whole
        write_atomically(completions, b"".join(line + b"\n" for line in lines[:end]))
    return items[:end]


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Check that the results in a folder have the same settings and weights."""
    path = folder / SETTINGS_FILE
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(
                f"{path} does not contain the settings of an evaluation. Choose another output, or delete this folder."
            )
        found = _NEW_SETTINGS | found
        if "judge" in settings and "judge" not in found and (folder / COMPLETIONS_FILE).is_file():
            raise ValueError(
                f"The completions in {folder} were judged by an earlier version, which did not record its judge. {_judge_again(folder)}"
            )
        other = {key: found[key] for key in settings if key in found and found[key] != settings[key]}
        if "judge" in other and identity_of_judge(found["judge"]) == identity_of_judge(settings["judge"]):
            del other["judge"]
        if other.keys() == {"judge"}:
            old, new = (judge_name(given["judge"]) for given in (found, settings))
            raise ValueError(
                f"The completions in {folder} were judged by {old}, now the judge is {new}. {_judge_again(folder)}"
            )
        if other.keys() == {"weights"}:
            raise ValueError(
                f"{folder} contains an evaluation of other weights than {settings['model']!r} has now: the model was trained "
                "since, or another one has the same name. Choose another output, or delete this folder."
            )
        if other:
            other.pop("weights", None)
            other.pop("judge", None)  # whose options are among the others
            raise ValueError(
                f"{folder} contains an evaluation with other settings: {other}, now "
                f"{ {key: settings[key] for key in other} }. Choose another output, or delete this folder."
            )


def _judge_again(folder: Path) -> str:
    return f"Judge them again with `trl-concise rescore {shlex.quote(str(folder))} --output_dir OUT`, and continue in OUT, or choose another output."


def append_lines(path: Path, items: Sequence[Any]) -> None:
    """Append dataclasses to a file, one line of JSON each."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items))


def read_lines(path: Path, kind: Callable[..., T]) -> list[T]:
    """
    Read what [`append_lines`] wrote, and remove an incomplete last line from the file; nothing without a file.

    Raises:
        `ValueError`: If another line is damaged.
    """
    if not path.is_file():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        items = [kind(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it; its content is then written again.") from error
    if rest:
        write_atomically(path, "".join(line + "\n" for line in lines).encode())
    return items


def write_problems(folder: Path, datasets: Mapping[str, Dataset]) -> None:
    """Write the problems as the model saw them, next to those of other sets that are there. Reports and exports read them."""
    found = problem_rows(folder)
    for name, dataset in datasets.items():
        columns = (list(dataset[column]) for column in ("prompt", "solution"))
        further = dataset.select_columns([column for column in KEPT_COLUMNS if column in dataset.column_names])
        for problem, (prompt, solution) in enumerate(zip(*columns, strict=True)):
            row = {"dataset": public_name(name), "problem": problem, "prompt": prompt, "gold": solution}
            found[row["dataset"], problem] = row | (further[problem] if further.column_names else {})
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for _, row in sorted(found.items()))
    write_atomically(folder / PROBLEMS_FILE, text.encode())


def read_problems(folder: Path) -> dict[tuple[str, int], str]:
    """Return the problems of an evaluation as text, by problem set and row; empty for an evaluation of an earlier version."""
    return {key: _as_text(row["prompt"]) for key, row in problem_rows(folder).items()}


def problem_rows(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the rows of `problems.jsonl`, by problem set and row; empty for an evaluation of an earlier version."""
    path = folder / PROBLEMS_FILE
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return {(row["dataset"], row["problem"]): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete it, and run the same `trl-concise eval` again."
        ) from error


def _as_text(prompt: str | list[dict[str, str]]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(message["content"] for message in prompt if message["role"] == "user")


def read_sets(folder: str | Path, datasets: Mapping[str, Dataset]) -> dict[str, list[Completion]]:
    """
    Read the completions of problem sets that were evaluated.

    Args:
        folder (`str` or `Path`): Output folder of [`evaluate`].
        datasets (`Mapping[str, Dataset]`): The problem sets, by name, with the column `solution`.

    Returns:
        `dict[str, list[Completion]]`: By name, in the order of the problems, then of their completions.

    Raises:
        `FileNotFoundError`: If the folder has no completions.
        `ValueError`: If it has none of a set, or those of other problems.
    """
    path = Path(folder, COMPLETIONS_FILE)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Give the output folder of `trl-concise eval`.")
    found: dict[str, list[Completion]] = {name: [] for name in datasets}
    for item in sorted(read_completions(path), key=lambda item: (item.problem, item.completion)):
        if item.dataset in found:
            found[item.dataset].append(item)
    for name, items in found.items():
        if not items:
            raise ValueError(f"{path} has no completions of {name!r}. Evaluate that problem set first.")
        solutions = list(datasets[name]["solution"])
        for item in items:
            if item.problem >= len(solutions) or item.gold != solutions[item.problem]:
                raise ValueError(
                    f"{path} has completions of other problems under the name {name!r} (first: row {item.problem}). Give the "
                    "dataset that was evaluated."
                )
    return found
