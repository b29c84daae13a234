# SPDX-License-Identifier: Apache-2.0
"""Data sources and their shares, for ScaleBiO: reading, dividing and mixing."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from ..data.problems import load_rows


SOURCE = "source"  # column with the name of a row's source
TOLERANCE = 1e-3  # of the sum of shares: the authors' sum to 1.00001
DIGITS = 9  # to which products are rounded, so that ties are ties on every machine


def check_shares(shares: Sequence[float]) -> None:
    """
    Check that numbers are shares.

    Args:
        shares (`Sequence[float]`): $p_k$.

    Raises:
        `ValueError`: If there are none, one is negative or not finite, or they do not sum to 1, to within 0.001.
    """
    if not shares or not all(share >= 0 and math.isfinite(share) for share in shares):
        raise ValueError(f"Shares must be numbers of at least 0, got {list(shares)}.")
    if abs(sum(shares) - 1) > TOLERANCE:
        raise ValueError(
            f"Shares must sum to 1, got {list(shares)}, which sum to {sum(shares):.6g}. Divide them by it."
        )


def effective_sources(shares: Sequence[float]) -> float:
    r"""
    Effective number of sources, the exponential of the entropy of the shares.

    $$ \exp\Big(-\sum_k p_k \log p_k\Big) $$

    Args:
        shares (`Sequence[float]`): $p_k$, at least 0, with the sum 1.

    Returns:
        `float`: From 1, if one source has everything, to the number of sources, if the shares are uniform.

    Examples:
        >>> round(effective_sources([0.25, 0.75]), 6)
        1.754765
    """
    check_shares(shares)
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def divide_rows(shares: Sequence[float], size: int, available: Sequence[int] | None = None) -> list[int]:
    """
    Divide a number of rows by largest remainder, with at most what each source has.

    What a source lacks goes to the others, in proportion to their shares, repeatedly. Equal remainders: the lower index first.

    Args:
        shares (`Sequence[float]`): At least 0, with the sum 1.
        size (`int`): Rows to divide, at least 0.
        available (`Sequence[int]`, *optional*): Rows that each source has. Default: no limit.

    Returns:
        `list[int]`: Rows per source, with the sum `size`.

    Raises:
        `ValueError`: If the shares are invalid, or the sources with a share have fewer than `size` rows.

    Examples:
        >>> divide_rows([0.25, 0.35, 0.40], 10)
        [3, 3, 4]
        >>> divide_rows([0.5, 0.3, 0.2], 100, [20, 100, 100])
        [20, 48, 32]
    """
    check_shares(shares)
    limits = list(available) if available is not None else [size] * len(shares)
    if len(limits) != len(shares):
        raise ValueError(
            f"There are {len(shares)} shares, but rows of {len(limits)} sources. Give one of each per source."
        )
    total = sum(limit for limit, share in zip(limits, shares, strict=True) if share > 0)
    if not 0 <= size <= total:
        raise ValueError(
            f"{size} rows cannot be taken: the sources with a share have {total}. Rows are not repeated; lower the size."
        )
    taken = [0] * len(shares)
    while (left := size - sum(taken)) > 0:
        open_ = [k for k, share in enumerate(shares) if share > 0 and taken[k] < limits[k]]
        whole = sum(shares[k] for k in open_)
        quotas = {k: round(left * shares[k] / whole, DIGITS) for k in open_}
        floors = {k: int(quota) for k, quota in quotas.items()}
        for k in sorted(open_, key=lambda k: (floors[k] - quotas[k], k))[: left - sum(floors.values())]:
            floors[k] += 1
        for k in open_:
            taken[k] = min(taken[k] + floors[k], limits[k])
    return taken


def mix_sources(sources: Mapping[str, Dataset], shares: Mapping[str, float], size: int, seed: int = 0) -> Dataset:
    """
    Draw a dataset from several sources, by shares.

    Args:
        sources (`Mapping[str, Dataset]`): Sources by name, with the same columns and types.
        shares (`Mapping[str, float]`): Share of each source, by name, with the sum 1; see [`read_shares`].
        size (`int`): Rows of the mixture, divided by [`divide_rows`]. No row is taken twice.
        seed (`int`, *optional*, defaults to `0`): Which rows of a source are taken, and the order of the mixture. A larger mixture takes
            the rows of a smaller one too, if no share changes.

    Returns:
        `Dataset`: The columns that all sources have, and `source`, the name of the row's source.

    Raises:
        `ValueError`: If the names of sources and shares differ, the rows do not suffice, or the columns have different types.
    """
    if set(shares) != set(sources):
        raise ValueError(
            f"There are sources {sorted(sources)}, but shares of {sorted(shares)}. Name the same ones in both."
        )
    taken = divide_rows([shares[name] for name in sources], size, [len(rows) for rows in sources.values()])
    parts = {
        name: rows.select(shuffled(len(rows), f"{seed} {name}")[:count])
        for (name, rows), count in zip(sources.items(), taken, strict=True)
    }
    mixture = join(parts, {name: name for name in parts}, SOURCE)
    return mixture.select(shuffled(len(mixture), f"{seed} mixture"))


def shuffled(count: int, seed: str) -> list[int]:
    """Return the numbers below `count` in random order, the same on every machine."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def join(parts: Mapping[str, Dataset], values: Mapping[str, Any], column: str) -> Dataset:
    """
    Concatenate datasets, with a column that says which one a row is from.

    Args:
        parts (`Mapping[str, Dataset]`): Datasets by name.
        values (`Mapping[str, Any]`): Value of the column for each name.
        column (`str`): Name of the column. It replaces one of that name.

    Raises:
        `ValueError`: If the datasets share no column, or their columns have different types.
    """
    shared = set.intersection(*(set(part.column_names) for part in parts.values())) - {column}
    listed = {name: sorted(part.column_names) for name, part in parts.items()}
    if not shared:
        raise ValueError(f"The sources share no column: {listed}. Give all of them the same format.")
    marked = []
    for name, part in parts.items():
        rows = part.select_columns([kept for kept in part.column_names if kept in shared])
        marked.append(rows.add_column(column, [values[name]] * len(rows)))
    try:
        return concatenate_datasets([part for part in marked if len(part)] or marked)
    except ValueError as error:
        raise ValueError(
            f"The sources have columns of different types. Give all of them the same format. ({error})"
        ) from error


def load_sources(paths: Sequence[str | Path]) -> dict[str, Dataset]:
    """
    Load sources from files or the Hub.

    Args:
        paths (`Sequence[str | Path]`): Files in JSON Lines, JSON or Parquet, or ids of datasets on the Hub. A source is named by the stem of its file.

    Returns:
        `dict[str, Dataset]`: Sources by name.

    Raises:
        `ValueError`: If two names are equal, or a file cannot be read.
    """
    names = [Path(path).stem for path in paths]
    if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"Several sources have the names {repeated}, the stems of their files. Rename the files.")
    return {name: load_rows(str(path), None, "train") for name, path in zip(names, paths, strict=True)}


def read_shares(path: str | Path) -> dict[str, float]:
    """
    Read the shares that a `ScaleBiOTrainer` has learned.

    Args:
        path (`str` or `Path`): `mixture.json`, or the folder with it.

    Returns:
        `dict[str, float]`: Share of each source, by name.

    Raises:
        `ValueError`: If the file is missing or is not a mixture.
    """
    path = Path(path)
    path = path / "mixture.json" if path.is_dir() else path
    try:
        return {row["name"]: row["share"] for row in json.loads(path.read_text(encoding="utf-8"))["sources"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a mixture.json of a ScaleBiOTrainer. Name its output folder. ({type(error).__name__}: {error})"
        ) from error


def check_sources(sources: Any, validation: Any) -> None:
    """
    Check the data of a `ScaleBiOTrainer`.

    Args:
        sources (`Mapping[str, Dataset]`): Training sources by name.
        validation (`Dataset`): The validation set.

    Raises:
        `TypeError`: If the sources are not a mapping of datasets.
        `ValueError`: If there are fewer than two sources, or one of the datasets is empty, or a validation row is a training row.
    """
    if not isinstance(sources, Mapping) or not all(isinstance(rows, Dataset) for rows in sources.values()):
        raise TypeError(
            "train_dataset must be a dict of sources, name to Dataset; streams are not supported, because rows are drawn by source. "
            f"Got {type(sources).__name__}."
        )
    if not isinstance(validation, Dataset):
        raise TypeError(f"validation_dataset must be a Dataset, got {type(validation).__name__}.")
    if len(sources) < 2:
        raise ValueError(f"Shares are learned for two sources or more, got {list(sources)}. Add a source.")
    if unnamed := [name for name in sources if not isinstance(name, str) or not name]:
        raise ValueError(f"The names of sources must be texts, got {unnamed}. Name each source.")
    if empty := [name for name, rows in sources.items() if not len(rows)]:
        raise ValueError(f"The sources {empty} have no rows. Remove them.")
    if not len(validation):
        raise ValueError("The validation set has no rows. Without it there is nothing to choose shares by.")
    columns = sorted(set.intersection(*(set(rows.column_names) for rows in (*sources.values(), validation))))
    if not columns:
        return  # `join` explains it
    known = {name: _digests(rows, columns) for name, rows in sources.items()}
    digests = _digests(validation, columns)
    if found := {name: len(digests & own) for name, own in known.items() if digests & own}:
        raise ValueError(
            f"{sum(found.values())} different rows of the validation set are training rows too, by source: {found}. Remove them from one of the two."
        )


def _digests(rows: Dataset, columns: list[str]) -> set[bytes]:
    texts = (json.dumps(row, sort_keys=True, default=str) for row in rows.select_columns(columns))
    return {hashlib.sha256(text.encode()).digest() for text in texts}
