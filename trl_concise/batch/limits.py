# SPDX-License-Identifier: Apache-2.0
"""Change TRL's generation settings within a `with` statement, at every place where TRL reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from trl import GRPOTrainer


@contextmanager
def generation_limit(trainer: GRPOTrainer, tokens: int) -> Iterator[None]:
    """
    Limit completions to a number of tokens.

    `trainer.max_completion_length`, which bounds turns with tools, is restored before the `dr_grpo` loss divides by it.
    """
    places: list[dict[str, Any]] = [vars(trainer)]
    if trainer.use_vllm:
        places.append(vars(trainer.vllm_generation))
    changes = [(place, {"max_completion_length": tokens}) for place in places]
    if not trainer.use_vllm:
        changes += [(place, {"max_new_tokens": tokens}) for place in _transformers_settings(trainer)]
    elif "max_tokens" in trainer.vllm_generation.generation_kwargs:  # set by the user, read last
        changes.append((trainer.vllm_generation.generation_kwargs, {"max_tokens": tokens}))
    with changed(changes):
        yield


@contextmanager
def greedy(trainer: GRPOTrainer) -> Iterator[None]:
    """Generate the most likely token at each position, in evaluation mode. No random number is drawn."""
    if trainer.use_vllm:
        settings: dict[str, Any] = {"temperature": 0.0, "repetition_penalty": 1.0}  # vLLM then ignores the others
        user = trainer.vllm_generation.generation_kwargs  # read last
        changes = [
            (vars(trainer.vllm_generation), settings),
            (user, {name: value for name, value in settings.items() if name in user}),
        ]
    else:
        settings = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}
        changes = [(place, settings | {"repetition_penalty": 1.0}) for place in _transformers_settings(trainer)]
    training = trainer.model.training
    trainer.model.eval()
    try:
        with changed(changes):
            yield
    finally:
        trainer.model.train(training)


def _transformers_settings(trainer: GRPOTrainer) -> list[dict[str, Any]]:
    """Return where TRL keeps the settings of transformers' `generate`."""
    return [vars(trainer.generation_config), trainer.generation_kwargs]


@contextmanager
def changed(changes: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[None]:
    """Change values of dicts, and restore them afterwards. Keys that were missing are removed again."""
    before = [(place, {key: place[key] for key in values if key in place}, values) for place, values in changes]
    try:
        for place, values in changes:
            place.update(values)
        yield
    finally:
        for place, found, values in before:
            for key in values:
                place.pop(key)
            place.update(found)
