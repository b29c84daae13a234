# SPDX-License-Identifier: Apache-2.0
"""Find the largest values that fit, and the changes that make a run fit, by calling [`plan`]."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import yaml

from .formulas import Architecture
from .plan import MemoryPlan, plan
from .settings import PlanSettings


def largest(settings: PlanSettings, shape: Architecture, quantity: str) -> int | None:
    """
    Return the largest value of a quantity that fits, everything else as set.

    Args:
        settings ([`PlanSettings`]), shape ([`Architecture`]): The run.
        quantity (`str`): `"completion length"` in tokens (a multiple of 128; vLLM's context grows with it), `"group size"`
            (completions of one prompt, generated at once for one optimizer step), or `"micro-batch"` (at the same number of
            rows per optimizer step).

    Returns:
        `int`, *optional*: 0 if nothing fits; `None` if memory sets no limit.
    """
    rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    if quantity == "completion length":
        prompt = settings.max_prompt_length
        candidates = [
            dataclasses.replace(
                settings, max_completion_length=128 * n, max_length=prompt + 128 * n, vllm_max_model_length=None
            )
            for n in range(1, 1025)
        ]
        found = _last_that_fits(candidates, shape)
        return 128 * found if found < len(candidates) else None
    if quantity == "group size":
        if settings.use_vllm or not settings.online:
            return None  # vLLM queues what its cache does not hold
        size = settings.per_device_train_batch_size
        candidates = [
            dataclasses.replace(
                settings, num_generations=n * size, steps_per_generation=n, gradient_accumulation_steps=n
            )
            for n in range(1, 1025)
        ]
        return size * _last_that_fits(candidates, shape)
    if quantity == "micro-batch":
        sizes = [n for n in range(1, rows + 1) if rows % n == 0 and settings.generated % n == 0]
        candidates = [dataclasses.replace(settings, **_micro_batch(settings, n)) for n in sizes]
        found = _last_that_fits(candidates, shape)
        return sizes[found - 1] if found else 0
    raise ValueError(f"quantity must be 'completion length', 'group size' or 'micro-batch', got {quantity!r}.")


def suggest(settings: PlanSettings, shape: Architecture) -> list[tuple[str, MemoryPlan]]:
    """
    Return what to change, cheapest for the training first, until the run fits: each change, as lines of a recipe, with the
    plan that it leads to. A change comes on top of those before it.

    Empty if the run fits as it is. If the last plan does not fit either, nothing below a larger card helps.
    """
    current, steps = plan(settings, shape), []
    while not current.fits:
        for change in _changes(current):
            change = {name: value for name, value in change.items() if value != getattr(current.settings, name)}
            after = plan(dataclasses.replace(current.settings, **change), shape)
            solved = current.problem is not None and after.problem is None
            if after.fits or solved or after.peak < 0.99 * current.peak:
                text = yaml.safe_dump(change, default_flow_style=True, sort_keys=False, width=math.inf)
                steps.append((text.strip("{}\n"), after))
                current = after
                break
        else:
            return steps
    return steps


def _changes(made: MemoryPlan) -> Iterator[dict[str, Any]]:
    """Yield single changes, what the run needs to start at all and those that leave the training as it is first."""
    s = made.settings
    if made.remedy:
        yield made.remedy
    if not s.recomputes:
        yield {
            "activation_checkpointing" if s.activation_checkpointing is not None else "gradient_checkpointing": True
        }
    if s.use_vllm and s.vllm_mode == "colocate" and not s.vllm_enable_sleep_mode:
        yield {"vllm_enable_sleep_mode": True}
    if s.dtype == "float32" and s.use_peft:
        yield {"dtype": "bfloat16"}
    for size in _proper_divisors(s.per_device_train_batch_size)[:1]:
        yield _micro_batch(s, size)
    if s.online and not s.use_vllm:
        steps = _proper_divisors(s.steps_per_generation or s.gradient_accumulation_steps)
        whole_groups = [n for n in steps if s.per_device_train_batch_size * n % s.num_generations == 0]
        for n in whole_groups[:1]:
            yield {"steps_per_generation": n}
    if not s.flash_attention:
        yield {"attn_implementation": "flash_attention_2"}
    if not s.use_peft:
        yield {"use_peft": True, "dtype": "bfloat16"}
    elif not s.load_in_4bit:
        yield {"load_in_4bit": True, "use_bnb_nested_quant": True}
    half = s.max_completion_length // 2 if s.limits_completions else s.max_length // 2
    if half > (128 if s.online else s.max_prompt_length):
        yield {"max_completion_length" if s.limits_completions else "max_length": half}


def _micro_batch(settings: PlanSettings, size: int) -> dict[str, Any]:
    """Change the micro-batch at the same number of rows per step and per generation."""
    rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    change = {"per_device_train_batch_size": size, "gradient_accumulation_steps": rows // size}
    if settings.steps_per_generation is not None:
        change["steps_per_generation"] = settings.generated // size
    return change


def _proper_divisors(number: int) -> list[int]:
    """Largest first."""
    return [divisor for divisor in range(number // 2, 0, -1) if number % divisor == 0]


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
