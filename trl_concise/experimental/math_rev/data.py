# SPDX-License-Identifier: Apache-2.0
"""Pairs of a correct and a wrong solution of the same problem, from judged completions of one or several models."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from ...evaluation.completions import Completion
from ...evaluation.folder import read_sets
from ...methods.light_r1 import opened_by_generation_prompt


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_PAIRS = 4


def pair_places(
    correct: Sequence[bool], *, max_pairs: int = MAX_PAIRS, rng: random.Random | None = None
) -> list[tuple[int, int]]:
    """
    Pair correct with wrong completions of one problem. Each is used at most once.

    Args:
        correct (`Sequence[bool]`): Whether each completion is correct.
        max_pairs (`int`, *optional*, defaults to `4`): Most pairs.
        rng (`random.Random`, *optional*): Shuffles the correct and the wrong ones. Default: their order is kept.

    Returns:
        `list[tuple[int, int]]`: Places of the correct and of the wrong completion of each pair.

    Examples:
        >>> pair_places([True, False, True, False, False, True])
        [(0, 1), (2, 3), (5, 4)]
        >>> pair_places([True, True])
        []
    """
    right = [place for place, verdict in enumerate(correct) if verdict]
    wrong = [place for place, verdict in enumerate(correct) if not verdict]
    if rng is not None:
        rng.shuffle(right)
        rng.shuffle(wrong)
    return list(zip(right, wrong, strict=False))[:max_pairs]


def completion_rows(
    evaluation: str | Path, datasets: Mapping[str, Dataset], tokenizer: PreTrainedTokenizerBase
) -> Iterator[dict[str, Any]]:
    """
    Read the completions of an evaluation as rows for [`build_verifier_pairs`] and [`~trl_concise.experimental.math_rev.VerifierScore`].

    Args:
        evaluation (`str` or `Path`): Output folder of [`~trl_concise.evaluation.evaluate`], or of `trl-concise eval`.
        datasets (`Mapping[str, Dataset]`): The problem sets that it was given, by name, with the columns `prompt` and `solution`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Tokenizer of the model that wrote them. If its generation prompt opens `<think>`, the
            completions begin with it.

    Yields:
        `dict`: `prompt`, `completion` (text, or messages if the prompt is messages), `correct` (`None` if it was not judged), `truncated` and
        `prompt_sha256`, in the order of the problems, then of their completions.

    Raises:
        `FileNotFoundError`: If the folder has no completions.
        `ValueError`: If a set is missing or has other problems.
    """
    for name, items in read_sets(evaluation, datasets).items():
        prompts = list(datasets[name]["prompt"])
        for item in items:
            prompt = prompts[item.problem]
            completion: str | list[dict[str, str]] = item.text
            if not isinstance(prompt, str):
                text = opened_by_generation_prompt(tokenizer, prompt) + item.text
                completion = [{"role": "assistant", "content": text}]
            yield {
                "prompt": prompt,
                "completion": completion,
                "correct": item.correct,
                "truncated": item.truncated,
                "prompt_sha256": item.prompt_sha256,
            }


def build_verifier_pairs(rows: Iterable[Mapping[str, Any]], *, max_pairs: int = MAX_PAIRS, seed: int = 0) -> Dataset:
    """
    Pair correct with wrong completions of the same problem.

    Per problem, the correct completions in a random order are paired with the wrong ones in a random order, and each is used at most once. Problems with
    one kind give no pair. A completion without an answer is wrong. Truncated completions are left out, because they ended at the limit and not
    through an error.

    Args:
        rows (`Iterable[Mapping]`): Rows of [`completion_rows`], of one or several evaluations, or of your own: `prompt`, `completion`, `correct` and,
            optionally, `truncated` and `prompt_sha256`. `correct` may come from anything, such as tests of a program; rows in which it is `None` are left
            out.
        max_pairs (`int`, *optional*, defaults to `4`): Most pairs per problem, at least 1.
        seed (`int`, *optional*, defaults to `0`): Seed of the orders. The pairs of a problem do not depend on the other problems.

    Returns:
        `Dataset`: Columns `prompt`, `chosen`, `rejected` and `prompt_sha256` (`None` if a row does not have it).

    Raises:
        `ValueError`: If rows have no verdict, no problem has both kinds, or max_pairs is less than 1.

    Example:

    ```python
    >>> pairs = build_verifier_pairs(completion_rows("outputs/samples", problems, tokenizer))
    ```
    """
    if max_pairs < 1:
        raise ValueError(f"max_pairs must be at least 1, got {max_pairs}.")
    problems: dict[str, list[Mapping[str, Any]]] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        if missing := sorted({"prompt", "completion", "correct"} - row.keys()):
            raise ValueError(f"A row has no {', '.join(missing)}; it has {sorted(row)}. Judge the completions first.")
        counts["rows"] += 1
        kind = "truncated" if row.get("truncated") else "used"
        kind = kind if row["correct"] is not None else "without a verdict"
        counts[kind] += 1
        if kind == "used":
            problems.setdefault(json.dumps(row["prompt"], sort_keys=True), []).append(row)
    if counts["without a verdict"] == counts["rows"]:
        raise ValueError(
            f"None of the {counts['rows']} completions has a verdict. Give completions that trl-concise eval has judged, or rows with `correct`."
        )
    pairs = []
    for key, own in problems.items():
        correct = [bool(row["correct"]) for row in own]
        for right, wrong in pair_places(correct, max_pairs=max_pairs, rng=random.Random(f"{seed} {key}")):
            pairs.append(
                {
                    "prompt": own[right]["prompt"],
                    "chosen": own[right]["completion"],
                    "rejected": own[wrong]["completion"],
                    "prompt_sha256": own[right].get("prompt_sha256"),
                }
            )
    if not pairs:
        raise ValueError(
            f"None of {len(problems)} problems has correct and wrong completions ({dict(counts)}). Sample more completions per problem, at a higher "
            "temperature, or choose harder or easier problems."
        )
    logger.info("%d pairs of %d problems: %s.", len(pairs), len(problems), dict(counts))
    return Dataset.from_list(pairs)


def check_no_common_problems(pairs: Dataset, completions: Iterable[Completion]) -> None:
    """
    Check that no problem of the pairs is among those of a test.

    Args:
        pairs (`Dataset`): Pairs with the column `prompt_sha256`.
        completions (`Iterable[Completion]`): Completions of the test.

    Raises:
        `ValueError`: If they have problems in common.
    """
    trained = {digest for digest in pairs["prompt_sha256"] if digest is not None}
    if common := trained & {item.prompt_sha256 for item in completions}:
        raise ValueError(
            f"{len(common)} of {len(trained)} problems of the pairs are also in the test. Test the verifier on problems that it was not trained on."
        )
