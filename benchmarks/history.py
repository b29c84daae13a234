# SPDX-License-Identifier: Apache-2.0
"""
Memory and speed of `PromptHistory` for many prompts.

    python benchmarks/history.py --prompts 1000000

The history grows in batches, as a run grows it. Memory is what the history itself allocates; it is measured in a separate
pass, because the accounting slows down every allocation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch

from trl_concise import PromptHistory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000_000, help="prompts in the history")
    parser.add_argument("--batch_size", type=int, default=1024, help="completions per update, each of another prompt")
    parser.add_argument("--repeats", type=int, default=5, help="how often to save and load")
    options = parser.parse_args()

    batches = [
        [f"{prompt:032x}" for prompt in range(start, min(start + options.batch_size, options.prompts))]
        for start in range(0, options.prompts, options.batch_size)
    ]
    tracemalloc.start()
    history = grown(batches)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    seconds: dict[str, list[float]] = {"update, new prompts": []}
    history = grown(batches, seconds["update, new prompts"])
    batch = batches[len(batches) // 2]
    lengths, correct = torch.randint(1, 32768, (len(batch),)), torch.randint(0, 2, (len(batch),))
    seconds["update, known prompts"] = [timed(lambda: history.update(batch, lengths, correct)) for _ in range(100)]
    seconds["shortest"] = [timed(lambda: history.shortest(batch)) for _ in range(100)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "history.safetensors")
        seconds["save"] = [timed(lambda: history.save(path)) for _ in range(options.repeats)]
        seconds["load"] = [timed(lambda: PromptHistory.load(path)) for _ in range(options.repeats)]
        size = path.stat().st_size

    print(f"{len(history):,} prompts, {len(batch):,} per batch, PyTorch {torch.__version__}")
    print(f"{'memory':<24}{kept / 1e6:10.0f} MB")
    print(f"{'memory, peak':<24}{peak / 1e6:10.0f} MB")
    print(f"{'file':<24}{size / 1e6:10.0f} MB")
    for name, values in seconds.items():
        print(f"{name:<24}{1e3 * statistics.median(values):10.2f} ms (slowest {1e3 * max(values):.2f})")


def grown(batches: list[list[str]], seconds: list[float] | None = None) -> PromptHistory:
    """Return a history that has seen every batch once, about half of the completions correct."""
    history = PromptHistory()
    for keys in batches:
        lengths, correct = torch.randint(1, 32768, (len(keys),)), torch.randint(0, 2, (len(keys),))
        elapsed = timed(lambda: history.update(keys, lengths, correct))  # noqa: B023 (called at once)
        if seconds is not None:
            seconds.append(elapsed)
    return history


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
