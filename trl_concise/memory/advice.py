# SPDX-License-Identifier: Apache-2.0
"""What is the most that fits, and what to change where a run does not: questions put to [`plan`]."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .formulas import Architecture
from .plan import MemoryPlan, PlanSettings, plan


def largest(settings: PlanSettings, shape: Architecture, quantity: str) -> int | None:
    """
    Return the largest value of a quantity that fits, everything else as set.

    Args:
        settings ([`PlanSettings`]), shape ([`Architecture`]): The run.
        quantity (`str`): `"completion length"` in tokens (a multiple of 128), `"group size"` (completions of one prompt,
            generated at once), or `"micro-batch"` (at the same number of rows per optimizer step).

    Returns:
        `int`, *optional*: 0 if nothing fits; `None` if memory sets no limit.
    """
    rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    if quantity == "completion length":
        prompt = settings.max_prompt_length
        candidates = [
            dataclasses.replace(settings, max_completion_length=128 * n, max_length=prompt + 128 * n)
            for n in range(1, 1025)
        ]
        found = _last_that_fits(candidates, shape)
        return 128 * found if found < len(candidates) else None
    if quantity == "group size":
        if settings.use_vllm or not settings.online:
            return None  # vLLM queues what its cache does not hold
        size = settings.per_device_train_batch_size
        candidates = [
            dataclasses.replace(settings, num_generations=n * size, steps_per_generation=n) for n in range(1, 1025)
        ]
        return size * _last_that_fits(candidates, shape)
    if quantity == "micro-batch":
        sizes = [n for n in range(1, rows + 1) if rows % n == 0 and settings.generated % n == 0]
        candidates = [_micro_batch(settings, n) for n in sizes]
        found = _last_that_fits(candidates, shape)
        return sizes[found - 1] if found else 0
    raise ValueError(f"quantity must be 'completion length', 'group size' or 'micro-batch', got {quantity!r}.")


def suggest(settings: PlanSettings, shape: Architecture) -> list[tuple[str, MemoryPlan]]:
    """
    Return what to change, cheapest for the training first, until the run fits: each change with the plan behind it.

    Empty if the run fits as it is. If the last plan does not fit either, nothing below a larger card helps.
    """
    current, steps = plan(settings, shape), []
    while not current.fits:
        for text, changed in _changes(current.settings):
            after = plan(changed, shape)
            if after.fits or after.peak < 0.99 * current.peak:
                steps.append((text, after))
                current = after
                break
        else:
            return steps
    return steps


def _changes(s: PlanSettings) -> Iterator[tuple[str, PlanSettings]]:
    """Yield single changes, those that leave the training as it is first."""
    if not s.recomputes:
        name = "gradient_checkpointing" if s.activation_checkpointing is None else "activation_checkpointing"
        yield f"{name}: true", dataclasses.replace(s, **{name: True})
    if s.use_vllm and s.vllm_mode == "colocate" and not s.vllm_enable_sleep_mode:
        yield "vllm_enable_sleep_mode: true", dataclasses.replace(s, vllm_enable_sleep_mode=True)
    if s.dtype == "float32" and s.use_peft:
        yield "dtype: bfloat16", dataclasses.replace(s, dtype="bfloat16")
    size = s.per_device_train_batch_size
    if size % 2 == 0:
        text = f"per_device_train_batch_size: {size // 2}, gradient_accumulation_steps: {2 * s.gradient_accumulation_steps}"
        yield text, _micro_batch(s, size // 2)
    if s.online and not s.use_vllm and s.generated % 2 == 0 and (s.generated // 2) % s.num_generations == 0:
        steps = s.steps_per_generation or s.gradient_accumulation_steps
        if steps % 2 == 0:
            yield f"steps_per_generation: {steps // 2}", dataclasses.replace(s, steps_per_generation=steps // 2)
    if not s.flash_attention:
        yield "attn_implementation: flash_attention_2", dataclasses.replace(s, attn_implementation="flash_attention_2")
    if not s.use_peft:
        yield "use_peft: true", dataclasses.replace(s, use_peft=True, dtype="bfloat16")
    elif not s.load_in_4bit:
        changed = dataclasses.replace(s, load_in_4bit=True, use_bnb_nested_quant=True)
        yield "load_in_4bit: true, use_bnb_nested_quant: true", changed
    half = s.max_completion_length // 2 if s.online else s.max_length // 2
    if half > (128 if s.online else s.max_prompt_length):
        name = "max_completion_length" if s.online else "max_length"
        yield f"{name}: {half}", dataclasses.replace(s, **{name: half})


def _micro_batch(settings: PlanSettings, size: int) -> PlanSettings:
    """Change the micro-batch at the same number of rows per step and per generation."""
    factor = settings.per_device_train_batch_size / size
    steps = settings.steps_per_generation
    return dataclasses.replace(
        settings,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=max(1, round(settings.gradient_accumulation_steps * factor)),
        steps_per_generation=None if steps is None else max(1, round(steps * factor)),
    )


def _last_that_fits(candidates: list[PlanSettings], shape: Architecture) -> int:
    """Return how many of the candidates, in the order of their memory, fit."""
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high + 1) // 2
        if plan(candidates[middle - 1], shape).fits:
            low = middle
        else:
            high = middle - 1
    return low
