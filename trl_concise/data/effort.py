# SPDX-License-Identifier: Apache-2.0
"""Ask for a level of reasoning effort in prompts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..batch.rollouts import prompt_key
from .rows import add_prompt_suffix


EFFORT_INSTRUCTION = "Reasoning effort: {level}."

AnyDataset = TypeVar("AnyDataset")


def with_effort(
    dataset: AnyDataset,
    levels: Mapping[str, int | None] | Sequence[str],
    *,
    instruction: str = EFFORT_INSTRUCTION,
    seed: int = 0,
) -> AnyDataset:
    """
    Ask for a level of effort in every prompt of a dataset.

    Each row gets one level, drawn uniformly from its key and the seed: the level does not depend on the order of rows or on the number of
    processes. To ask every problem at every level, call this once per level.

    Args:
        dataset (`Dataset`, `IterableDataset` or a dictionary of them):
            Rows with a `prompt`: text, or messages, of which the last one of the user is extended.
        levels (`Mapping[str, int | None]` or `Sequence[str]`):
            The tokens that a completion of each level may have, at least 1, by the name of the level. `None`, or a sequence of names: no
            limit, so [`EffortReward`] adds nothing.
        instruction (`str`, *optional*, defaults to `"Reasoning effort: {level}."`):
            Text after the prompt, with `{level}` for the name of the level.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the levels.

    Returns:
        The dataset with the columns `prompt`, `effort` (name of the level) and `effort_tokens` (its tokens, or `None`). A `prompt_id`
        is extended by the level, so that the history of a prompt is kept separately for each level.

    Raises:
        `ValueError`: If `levels` is empty, a level has no name or fewer than 1 token, or `instruction` has no `{level}`.

    Examples:
        >>> from datasets import Dataset
        >>> dataset = Dataset.from_list([{"prompt": "What is 2 + 3?"}])
        >>> with_effort(dataset, {"low": 64})[0]
        {'prompt': 'What is 2 + 3? Reasoning effort: low.', 'effort': 'low', 'effort_tokens': 64}
    """
    if isinstance(levels, str) or not levels:
        raise ValueError(f'levels must name at least one level, such as {{"low": 64, "high": None}}; got {levels!r}.')
    if not isinstance(levels, Mapping):
        levels = dict.fromkeys(levels)
    for level, tokens in levels.items():
        if not isinstance(level, str) or not level.strip():
            raise ValueError(f"A level must have a name, got {level!r}.")
        if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
            raise ValueError(
                f"The level {level!r} must have at least 1 token, as a whole number, or None for no limit; got {tokens!r}."
            )
    if "{level}" not in instruction:
        raise ValueError(f"instruction must contain {{level}}, the place of the level's name; got {instruction!r}.")
    return dataset.map(_add_effort, fn_kwargs={"levels": dict(levels), "instruction": instruction, "seed": seed})  # type: ignore[attr-defined]


def read_levels(texts: Sequence[str]) -> dict[str, int | None]:
    """
    Read levels from a command line, each `NAME=TOKENS`, or `NAME` for a level without a limit.

    Raises:
        `ValueError`: If a level has no name, its tokens are not a number of at least 1, or a name occurs twice.

    Examples:
        >>> read_levels(["low=64", "high"])
        {'low': 64, 'high': None}
    """
    levels: dict[str, int | None] = {}
    for text in texts:
        name, separator, tokens = text.partition("=")
        if not name.strip() or (separator and not (tokens.isdecimal() and int(tokens))):
            raise ValueError(f"A level is NAME=TOKENS with at least 1 token, or NAME for no limit; got {text!r}.")
        if name in levels:
            raise ValueError(f"The level {name!r} was given twice.")
        levels[name] = int(tokens) if separator else None
    return levels


def _add_effort(row: Mapping[str, Any], levels: dict[str, int | None], instruction: str, seed: int) -> dict[str, Any]:
    level = random.Random(f"{seed} {prompt_key(row)}").choice(sorted(levels))
    added = {**add_prompt_suffix(row, instruction.replace("{level}", level))}
    if row.get("prompt_id") is not None:
        added["prompt_id"] = f"{row['prompt_id']} {level}"
    return {**added, "effort": level, "effort_tokens": levels[level]}
