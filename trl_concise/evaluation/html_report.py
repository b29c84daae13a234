# SPDX-License-Identifier: Apache-2.0
"""The page of `trl-concise report --html`: tables, pictures, and the completions of two models side by side, in one file."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ..state.checkpoint import write_atomically
from ..verification.extraction import final_answer
from .completions import Completion, has_no_answer
from .folder import COMPLETIONS_FILE, read_problems
from .recorded import summarized_completions
from .summaries import SUMMARY_FILE, read_summary


TEMPLATE = Path(__file__).with_name("report.html")
LONGEST = 20_000  # characters of a completion on the page; of a longer one, its beginning and its end
MOST_COMPLETIONS = 2_000  # of a set and a model
KINDS = ("truncated", "reasoning not finished", "no answer", "wrong answer")


def failure_kind(item: Completion) -> str | None:
    """
    Return why a completion is wrong: one of [`KINDS`]; `None` if it is correct or was not judged.

    Examples:
        >>> failure_kind(Completion("set", 0, 0, "7", "So it is 8.", [1, 2], truncated=False, correct=False))
        'wrong answer'
    """
    if item.correct or item.correct is None:
        return None
    if item.truncated:
        return "truncated"
    if has_no_answer(item.text) or not final_answer(item.text).text:
        return "no answer"
    return "reasoning not finished" if item.finished is False else "wrong answer"


def write_html(
    output: Path,
    folders: Mapping[str | None, Path],
    names: Mapping[tuple[str, str | None, str], str],
    table: Mapping[str, Any],
    pictures: Sequence[Path],
) -> Path:
    """
    Write the page.

    Args:
        output (`Path`): The file.
        folders (`Mapping[str | None, Path]`): Name of each run or evaluation (`None`: of the base) -> its folder. Completions are read
            there and one folder deeper.
        names (`Mapping[tuple[str, str | None, str], str]`): Problem set, run, and model as in `summary.json` -> name of the model on
            the page, in the order of the page. Completions of others are left out.
        table (`Mapping[str, Any]`): `header`, `rows` and `notes` of the table of results.
        pictures (`Sequence[Path]`): SVG files.

    Returns:
        `Path`: `output`.
    """
    sets = _read_sets(folders, names)
    images = {path.stem: base64.b64encode(path.read_bytes()).decode() for path in pictures}
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    text = page.render(
        title=" and ".join(dict.fromkeys(folder.resolve().name for folder in folders.values())),
        version=version("trl-concise"),
        table=table,
        images=images,
        failures=[(found["name"], found.pop("failures")) for found in sets],
        kinds=KINDS,
        left_out=[
            (found["name"], len(found["problems"]), found["all"])
            for found in sets
            if found["all"] > len(found["problems"])
        ],
        # Within a script element, only `<` could end it or open a comment
        data=json.dumps(sets, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, text.encode())
    return output


def _read_sets(
    folders: Mapping[str | None, Path], names: Mapping[tuple[str, str | None, str], str]
) -> list[dict[str, Any]]:
    """Return, per problem set, the problems and the completions of every model."""
    answers: dict[str, dict[str, dict[int, list[Completion]]]] = {}
    prompts: dict[tuple[str, int], str] = {}
    order = {name: place for place, name in enumerate(dict.fromkeys(names.values()))}
    files: dict[Path, tuple[str | None, Path]] = {}
    for run, folder in folders.items():
        for file in _completion_files(folder):
            files.setdefault(file.resolve(), (run, file))
    for run, file in files.values():
        evaluated = {
            record["dataset"]: record
            for record in read_summary(file.parent)
            if (record["dataset"], run, record["model"]) in names and record.get("budget") is None
        }
        prompts |= read_problems(file.parent)
        titles = {name: names[name, run, record["model"]] for name, record in evaluated.items()}
        for name, title in titles.items():
            if title in answers.get(name, {}):  # the same model in two folders
                titles[name] = f"{title} ({file.parent.name})"
                order.setdefault(titles[name], len(order))
        for item in summarized_completions(file, evaluated):
            if item.correct is not None:
                of_model = answers.setdefault(item.dataset, {}).setdefault(titles[item.dataset], {})
                of_model.setdefault(item.problem, []).append(item)
    sets = []
    for dataset, found in answers.items():
        rows: list[int] = sorted({row for items in found.values() for row in items})
        most = max(len(items) for own in found.values() for items in own.values())  # of a problem
        models = sorted(found, key=order.__getitem__)
        sets.append(
            {
                "name": dataset,
                "models": models,
                "all": len(rows),
                "problems": [
                    {
                        "row": row,
                        "prompt": prompts.get((dataset, row)),
                        "gold": next(items[row][0].gold for items in found.values() if row in items),
                        "answers": [[_shown(item) for item in found[model].get(row, [])] for model in models],
                    }
                    for row in rows[: max(1, MOST_COMPLETIONS // most)]
                ],
                "failures": [
                    _failures(model, [item for items in found[model].values() for item in items]) for model in models
                ],
            }
        )
    return sets


def _completion_files(folder: Path) -> list[Path]:
    files = [folder / COMPLETIONS_FILE, *sorted(folder.glob(f"*/{COMPLETIONS_FILE}"))]
    return [file for file in files if file.is_file() and (file.parent / SUMMARY_FILE).is_file()]


def _shown(item: Completion) -> dict[str, Any]:
    text = item.text
    if len(text) > LONGEST:
        half = LONGEST // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
    return {"text": text, "tokens": item.tokens, "correct": bool(item.correct), "kind": failure_kind(item)}


def _failures(model: str, items: Sequence[Completion]) -> tuple[str, int, Counter[str]]:
    """Return the model, the number of its completions, and that of the failures of each kind."""
    return model, len(items), Counter(kind for item in items if (kind := failure_kind(item)) is not None)
