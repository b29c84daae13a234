# SPDX-License-Identifier: Apache-2.0
"""The rows that REDI trains on: checks of labels, weights and the chat template, and the collator of pairs and single traces."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging
from trl import extract_prompt
from trl.trainer.dpo_trainer import DataCollatorForPreference


logger = logging.get_logger(__name__)


@dataclass
class DataCollatorForREDI(DataCollatorForPreference):
    """
    Data collator for pairs of traces, and for traces without a counterpart.

    A batch of pairs (`prompt_ids`, `chosen_ids`, `rejected_ids`) is the batch of
    [`~trl.trainer.dpo_trainer.DataCollatorForPreference`]. Rows may also be single (`prompt_ids`, `completion_ids` and
    `label`, true for a correct completion) and carry a `weight` (`float` of at least 0; 1 if absent or `None`). The batch then has one row per
    completion, the correct ones first, and two more keys:
    - `"sign"`: `(rows,)`, 1 for a correct completion, -1 for an incorrect one.
    - `"weight"`: `(rows,)`.

    Takes the arguments of [`~trl.trainer.dpo_trainer.DataCollatorForPreference`].

    Example:

    ```python
    >>> collator = DataCollatorForREDI(pad_token_id=0)
    >>> collator(
    ...     [
    ...         {"prompt_ids": [1, 2], "completion_ids": [3], "label": False, "weight": 0.5},
    ...         {"prompt_ids": [4], "completion_ids": [5, 6, 7], "label": True},
    ...     ]
    ... )
    {'input_ids': tensor([[4, 5, 6, 7],
                          [1, 2, 3, 0]]),
     'attention_mask': tensor([[1, 1, 1, 1],
                               [1, 1, 1, 0]]),
     'completion_mask': tensor([[0, 1, 1, 1],
                                [0, 0, 1, 0]]),
     'sign': tensor([ 1., -1.]),
     'weight': tensor([1.0000, 0.5000])}
    ```
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        if any("completion_ids" in example or "weight" in example for example in examples):
            batch = self._collate_rows([row for example in examples for row in _rows(example)])
        else:
            batch = super().torch_call(examples)
        if not batch["completion_mask"].any(dim=1).all():
            logger.warning_once(
                "A completion has no tokens (left). Its length counts as 1, and it has no effect. Remove empty "
                "completions from the dataset, or raise max_length."
            )
        return batch

    def _collate_rows(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows.sort(key=lambda row: -row["sign"])
        # TRL truncates and pads; the second completion that it needs of each row stays empty and is removed.
        batch = super().torch_call(
            [
                {"prompt_ids": row["prompt_ids"], "chosen_ids": row["completion_ids"], "rejected_ids": []}
                for row in rows
            ]
        )
        batch = {key: value[: len(rows)] for key, value in batch.items()}
        return batch | {key: torch.tensor([row[key] for row in rows]) for key in ("sign", "weight")}


def check_template_keeps_traces(tokenizer: Any, row: dict[str, Any], index: int | None = None) -> None:
    """
    Check that a chat template keeps the reasoning of a reply; DeepSeek-R1-Distill's drops it up to `</think>`.

    Each assistant message of the replies is checked: its `content`, and its `reasoning_content`.

    Args:
        tokenizer: The model's tokenizer or processor.
        row (`dict[str, Any]`): A row with `chosen` and `rejected`, or with `completion`; and a `prompt`, which TRL takes from
            the pair if it is missing.
        index (`int`, *optional*): Place of the row in the dataset, for the message.

    Raises:
        `ValueError`: If the template drops text of a reply. The message says where to find one that does not.
    """
    if "prompt" not in row and "chosen" in row and "rejected" in row:
        row = {**row, **extract_prompt(row)}
    prompt = row.get("prompt") or []
    tools = row.get("tools")
    kwargs = {
        "tools": json.loads(tools) if isinstance(tools, str) else tools,
        **(row.get("chat_template_kwargs") or {}),
    }
    for side in ("chosen", "rejected", "completion"):
        reply = row.get(side)
        if not (isinstance(prompt, list) and isinstance(reply, list)):
            continue
        rendered = "".join(tokenizer.apply_chat_template([*prompt, *reply], tokenize=False, **kwargs).split())
        end = 0  # end of the text found so far, so that text of the prompt is not mistaken for text of the reply
        for number, message in enumerate([*prompt, *reply]):
            for key, text in _texts(message):
                start = rendered.find(text, end)
                if start >= 0:
                    end = start + len(text)
                elif number >= len(prompt) and message.get("role") == "assistant":
                    where = f" of row {index}" if index is not None else ""
                    raise ValueError(
                        f"The chat template does not render the whole reply: it drops text of `{key}` in `{side}`{where}, so "
                        "the model would not learn it. Pass a processing_class whose chat_template keeps it; for "
                        "DeepSeek-R1-Distill, Qwen3 and others TRL has one: tokenizer.chat_template = "
                        "trl.chat_template_utils.get_training_chat_template(tokenizer)."
                    )


def _texts(message: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the texts of a message, without white space, in the order in which templates render them."""
    for key in ("reasoning_content", "content"):
        value = message.get(key)
        for text in value if isinstance(value, list) else [value]:
            text = text.get("text") if isinstance(text, dict) else text
            if isinstance(text, str):
                yield key, "".join(text.split())


def check_label_and_weight(row: dict[str, Any], index: int | None = None) -> None:
    """
    Check the `label` and the `weight` of a row, where it has them.

    Args:
        row (`dict[str, Any]`): A row of a dataset.
        index (`int`, *optional*): Place of the row in the dataset, for the message.

    Raises:
        `ValueError`: If the label is not a bool, 0 or 1, or the weight is not a finite number of at least 0. A weight of
            `None` is allowed and counts as 1.
    """
    where = f"Row {index}" if index is not None else "A row"
    if "label" in row and not (isinstance(row["label"], Real) and row["label"] in (0, 1)):
        raise ValueError(
            f"{where} has the label {row['label']!r}. A label is True (or 1) for a correct completion, False (or 0) for an "
            "incorrect one. Convert the column, and remove rows without a label."
        )
    weight = row.get("weight")
    is_number = isinstance(weight, Real) and not isinstance(weight, bool)
    if weight is not None and not (is_number and 0 <= weight < math.inf):
        raise ValueError(
            f"{where} has the weight {weight!r}. A weight is a finite number of at least 0, or None, which counts as 1. "
            "Correct the column, or remove the row."
        )


def _rows(example: dict[str, Any]) -> list[dict[str, Any]]:
    """The completions of an example, one row each."""
    check_label_and_weight(
        example
    )  # checked again, because a collator may receive datasets that no trainer has prepared
    if "completion_ids" in example:
        completions = [(example["completion_ids"], 1.0 if example["label"] else -1.0)]
    else:
        completions = [(example["chosen_ids"], 1.0), (example["rejected_ids"], -1.0)]
    weight = example.get("weight")
    weight = float(weight) if weight is not None else 1.0
    return [
        {"prompt_ids": example["prompt_ids"], "completion_ids": ids, "sign": sign, "weight": weight}
        for ids, sign in completions
    ]
