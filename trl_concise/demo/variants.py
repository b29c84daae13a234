# SPDX-License-Identifier: Apache-2.0
"""Variants of the embedded model that are trained where they are needed, within a minute, so that no second model has to ship."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .settings import model_path


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LEARNING_RATE = 5e-4  # at the first step after the warm-up; it falls linearly to 0
WARMUP_STEPS = 10
IGNORED = -100  # label that the loss skips

Batch = list[tuple[list[int], list[int]]]  # token ids and labels of each row


def make_variant(
    folder: str | Path,
    steps: int,
    batches: Callable[[PreTrainedTokenizerBase], Iterator[Batch]],
    *,
    change_tokenizer: Callable[[PreTrainedTokenizerBase], None] | None = None,
    learning_rate: float = LEARNING_RATE,
    make_model: Callable[[PreTrainedTokenizerBase], PreTrainedModel] | None = None,
) -> Path:
    """
    Train the embedded model further, on the CPU, and save it. A folder that has a model is returned as it is.

    With several processes, the first one trains, and the others wait.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`): Optimizer steps.
        batches (`Callable`): Returns the batches, without end, for a tokenizer.
        change_tokenizer (`Callable`, *optional*): Changes the tokenizer; the model gets embeddings for tokens that it adds.
        learning_rate (`float`, *optional*, defaults to `5e-4`): Largest learning rate of AdamW.
        make_model (`Callable`, *optional*): Builds another model to start from, for a tokenizer.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    from accelerate import PartialState

    folder = Path(folder)
    with PartialState().main_process_first():
        if not (folder / "config.json").is_file():
            _train(folder, steps, batches, change_tokenizer, learning_rate, make_model)
    return folder


def _train(folder: Path, steps: int, batches, change_tokenizer, learning_rate: float, make_model) -> None:
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    model = make_model(tokenizer) if make_model is not None else AutoModelForCausalLM.from_pretrained(model_path())
    if change_tokenizer is not None:
        change_tokenizer(tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # new embeddings are drawn at random
            model.resize_token_embeddings(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1) * (1 - step / steps)
    )
    model.train()
    for rows in itertools.islice(batches(tokenizer), steps):
        ids, labels = ([torch.tensor(column) for column in columns] for columns in zip(*rows, strict=True))
        model(
            input_ids=pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
            labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        ).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:  # a run that is stopped leaves no model
        whole = Path(partial, folder.name)
        tokenizer.save_pretrained(whole)
        model.save_pretrained(whole)
        whole.rename(folder)
