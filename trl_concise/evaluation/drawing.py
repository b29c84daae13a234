# SPDX-License-Identifier: Apache-2.0
"""Draws and judges the missing completions of a problem set, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress

from ..verification.finished import has_thought, prompt_opens_reasoning
from .chunks import judged_ids
from .completions import Completion, judge, unreadable_reference_answers
from .folder import COMPLETIONS_FILE
from .progress import describe_status
from .sampling import Sampler, SamplingSettings, digest_prompt


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def find_unreadable(name: str, golds: Sequence[str]) -> set[int]:
    """Return the problems of a set whose reference answer cannot be read, after a warning; an error if that is all of them."""
    golds = list(golds)
    unreadable = unreadable_reference_answers(golds)
    if len(unreadable) == len(golds):
        raise ValueError(f"{name!r} has no problem with a readable reference answer: {golds[:3]}.")
    if unreadable:
        logger.warning("%s: left out %d problems whose reference answer is unreadable.", name, len(unreadable))
    return unreadable


def complete_set(
    sampler: Sampler,
    name: str,
    dataset: Dataset,
    prompts: Sequence[list[int]],
    unreadable: set[int],
    num_completions: int,
    settings: SamplingSettings,
    judging: Mapping[str, Any],
    batch_size: int,
    known: dict[tuple[int, int], Completion],
    folder: Path | None,
    bar: Progress,
) -> list[Completion]:
    """Generate and judge missing completions, and return the completions of one set in their order."""
    wanted = [(problem, k) for k in range(num_completions) for problem in range(len(dataset))]
    golds = list(dataset["solution"])
    digests = [digest_prompt(sampler.tokenizer, prompt) for prompt in dataset["prompt"]]
    known = {key: known[key] for key in wanted if key in known}
    for (problem, _), item in known.items():
        if item.gold != golds[problem] or item.prompt_sha256 not in (None, digests[problem]):
            raise ValueError(
                f"{folder} contains completions of other problems, or of the same ones with other wording or another chat "
                f"template, under the name {name!r} (first: row {problem}). Choose another output, or delete this folder."
            )
    known = {key: replace(item, correct=None) if key[0] in unreadable else item for key, item in known.items()}
    task = bar.add_task(name, total=len(wanted), completed=len(known), status="")
    for first in range(0, len(wanted), batch_size):
        batch = [key for key in wanted[first : first + batch_size] if key not in known]
        if not batch:
            continue
        # A seed per batch, that of its first completion, which no other batch begins with: one drawn to add completions
        # to the same problems must not repeat those on file.
        entropy = [settings.seed, *name.encode(), *batch[0]]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        drawn = sampler.sample([prompts[problem] for problem, _ in batch], replace(settings, seed=seed))
        texts = sampler.tokenizer.batch_decode(judged_ids(sampler, drawn), skip_special_tokens=True)
        # With special tokens, which the markers of some models are, but without the end of the turn
        own = [ids[:-1] if ids and ids[-1] in sampler.end_token_ids else ids for ids in drawn]
        marked = sampler.tokenizer.batch_decode(own, skip_special_tokens=False)
        opened = {
            problem
            for problem, _ in batch
            if prompt_opens_reasoning(sampler.tokenizer, prompts[problem], markers=judging["markers"])
        }
        items = judge(
            [
                Completion(
                    dataset=name,
                    problem=problem,
                    completion=k,
                    gold=golds[problem],
                    text=text,
                    completion_ids=ids,
                    truncated=not ids or ids[-1] not in sampler.end_token_ids,
                    prompt_sha256=digests[problem],
                    batch_size=len(batch),
                    thought=has_thought(full, reasoning_opened=problem in opened, markers=judging["markers"]),
                )
                for (problem, k), ids, text, full in zip(batch, drawn, texts, marked, strict=True)
            ],
            unreadable,
            # Where the end marker is a special token, the text lacks it, so only truncation is known.
            () if judging["markers"].end in sampler.tokenizer.all_special_tokens else opened,
            **judging,
        )
        if folder is not None:
            with open(folder / COMPLETIONS_FILE, "a", encoding="utf-8") as file:
                file.write("".join(item.line() for item in items))
        known |= zip(batch, items, strict=True)
        bar.update(task, completed=len(known), status=describe_status(known.values()))
    return [known[key] for key in sorted(known)]
