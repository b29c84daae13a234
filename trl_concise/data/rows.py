# SPDX-License-Identifier: Apache-2.0
"""Read columns of raw rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


# How a problem differs from training problems; kept if a source has all four columns
AXES = ("axis", "setting", "level", "part")


def read_column(row: Mapping[str, Any], column: str) -> Any:
    """
    Return the value of a column of a row; `None` if the column is missing, or NaN, which a table has for a missing number.

    Args:
        row (`Mapping[str, Any]`): The row.
        column (`str`): Name of the column. A dot steps into dictionaries: `"a.b"` is `row["a"]["b"]`, or the `b` of each
            item of `row["a"]` where that is a list.

    Raises:
        `ValueError`: If there is nothing of that name to step into.

    Examples:
        >>> read_column({"completions": [{"text": "4"}, {"text": "5"}]}, "completions.text")
        ['4', '5']
        >>> read_column({"answer": float("nan")}, "answer") is None
        True
    """
    name, dot, path = column.partition(".")
    value = row.get(name)
    for name in path.split(".") if dot else ():
        value = _step(value, name, column)
    return None if _is_missing(value) else value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _step(value: Any, name: str, column: str) -> Any:
    if _is_missing(value):
        return None
    if isinstance(value, list):
        return [_step(item, name, column) for item in value]
    if isinstance(value, Mapping) and name in value:
        return value[name]
    there = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"a {type(value).__name__}"
    raise ValueError(f"No column {column!r}: {name!r} was looked for, but there is {there}.")


def read_generations(row: Mapping[str, Any], column: str) -> list[str | None]:
    """
    Return the generations of a row, of which `None` are missing; an empty list if the row has none.

    Raises:
        `ValueError`: If they are not a list of texts.
    """
    generations = read_column(row, column)
    if generations is None:
        return []
    if not isinstance(generations, (list, tuple)):
        raise ValueError(
            f"The column {column!r} must hold a list of texts, got a {type(generations).__name__}: {str(generations):.60}. "
            "Put a single text into a list."
        )
    for text in generations:
        if text is not None and not isinstance(text, str):
            raise ValueError(
                f"The column {column!r} must hold a list of texts, got a {type(text).__name__} in it: {str(text):.60}. "
                "Name the column that holds the texts; a dot steps into dictionaries."
            )
    return list(generations)


def add_prompt_suffix(row: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    r"""
    Append a text to the problem of a row, after a space.

    Args:
        row (`Mapping[str, Any]`): With a `prompt`: text, or messages, of which the last one of the user is extended.
        suffix (`str`): For example an instruction on the form of the answer. Of a message with images, it becomes the last part.

    Returns:
        `dict[str, Any]`: The new `prompt`.

    Examples:
        >>> add_prompt_suffix({"prompt": [{"role": "user", "content": "1 + 1?"}]}, "Use \\boxed{}.")
        {'prompt': [{'role': 'user', 'content': '1 + 1? Use \\boxed{}.'}]}
    """
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return {"prompt": f"{prompt} {suffix}"}
    last = max((i for i, message in enumerate(prompt) if message["role"] == "user"), default=None)
    if last is None:
        raise ValueError(
            f"The suffix {suffix!r} is appended to the last user message, but this prompt has none: {prompt}."
        )
    content = prompt[last]["content"]
    content = f"{content} {suffix}" if isinstance(content, str) else [*content, {"type": "text", "text": f" {suffix}"}]
    return {"prompt": [*prompt[:last], {**prompt[last], "content": content}, *prompt[last + 1 :]]}
