# SPDX-License-Identifier: Apache-2.0
"""
Overhead of `HAPOTrainer` over `GRPOTrainer` (step and import time), and of `trl-concise hapo --help` over `trl grpo --help`.

    python benchmarks/overhead.py

Two trainers with the same model, data, seed and reward function run in one process and take turns, one whole step of
the training loop each: data, generation, rewards, loss, optimizer, logging. Every completion is as long as the limit, so
both do the same work. The ratio of two neighboring steps removes slow drift of the machine; the median over the pairs
removes outliers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from trl_concise import HAPOConfig, HAPOTrainer, demo


IMPORTS = """
import time
start = time.perf_counter()
import trl
from trl import GRPOTrainer
middle = time.perf_counter()
import trl_concise
from trl_concise import HAPOTrainer
print(middle - start, time.perf_counter() - middle)
"""


class Turns(TrainerCallback):
    """
    Lets trainers in several threads run one step each in turn, and takes the time of each step.

    A step reaches from the end of the step before to its own end, so nothing of the loop is left out.
    """

    def __init__(self, mine: threading.Semaphore, next_one: threading.Semaphore):
        self.mine = mine
        self.next_one = next_one
        self.seconds: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.mine.acquire()
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.start)
        self.next_one.release()
        self.mine.acquire()
        self.start = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        self.next_one.release()


def even_reward(completion_ids, **kwargs):
    """1 if most of the tokens have even ids: cheap, and true of about half of the completions."""
    return [float(sum(token % 2 == 0 for token in ids) > len(ids) / 2) for ids in completion_ids]


def build(trainer_class, config_class, options, output_dir: str, turns: Turns):
    set_seed(0)
    args = config_class(
        output_dir=output_dir,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        per_device_train_batch_size=options.completions,
        num_generations=8,
        max_completion_length=options.tokens,
        generation_kwargs={"min_new_tokens": options.tokens},
        beta=0.04,
        max_steps=options.warmup + options.steps,
        logging_steps=1,
        save_strategy="no",
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=0,
    )
    trainer = trainer_class(
        model=options.model_name_or_path,
        reward_funcs=even_reward,
        args=args,
        train_dataset=demo.train_dataset(options.prompts),
        callbacks=[turns],
    )
    trainer.remove_callback(PrinterCallback)  # prints every log entry
    return trainer


def step_times(options) -> tuple[list[float], list[float]]:
    """Return the seconds of each step of `GRPOTrainer` and of `HAPOTrainer`, pair by pair."""
    first, second = threading.Semaphore(1), threading.Semaphore(0)
    grpo, hapo = Turns(first, second), Turns(second, first)
    with tempfile.TemporaryDirectory() as folder:
        trainers = [
            build(GRPOTrainer, GRPOConfig, options, folder, grpo),
            build(HAPOTrainer, HAPOConfig, options, folder, hapo),
        ]
        threads = [threading.Thread(target=trainer.train) for trainer in trainers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return grpo.seconds[options.warmup :], hapo.seconds[options.warmup :]


def interval_of_median(values: list[float], level: float = 0.95, resamples: int = 2000) -> tuple[float, float]:
    """Return the bootstrap interval of a median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(resamples))
    tail = int((1 - level) / 2 * resamples)
    return medians[tail], medians[-tail - 1]


def import_times(repeats: int) -> tuple[list[float], list[float]]:
    """Return, per fresh process, the seconds of importing `GRPOTrainer`, and of `HAPOTrainer` after it."""
    outputs = [
        subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True).stdout
        for _ in range(repeats)
    ]
    pairs = [tuple(map(float, output.split()[-2:])) for output in outputs]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def help_times(repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds of `trl grpo --help` and of `trl-concise hapo --help`, which take turns."""
    times: dict[tuple[str, str], list[float]] = {("trl", "grpo"): [], ("trl-concise", "hapo"): []}
    for _ in range(repeats):
        for (program, method), seconds in times.items():
            start = time.perf_counter()
            command = [Path(sys.executable).with_name(program), method, "--help"]
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    trl, ours = times.values()
    return trl, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default=str(demo.model_path()), help="default: the embedded model")
    parser.add_argument("--steps", type=int, default=60, help="measured steps of each trainer")
    parser.add_argument("--warmup", type=int, default=5, help="steps of each trainer before them")
    parser.add_argument("--completions", type=int, default=64, help="completions per step, in groups of 8")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of every completion")
    parser.add_argument("--prompts", type=int, default=64, help="prompts in the dataset; few, so that HAPO knows them")
    parser.add_argument("--import_repeats", type=int, default=7, help="fresh processes that time the import")
    parser.add_argument("--help_repeats", type=int, default=15, help="how often each --help is timed")
    options = parser.parse_args()

    base_import, added_import = import_times(options.import_repeats)
    trl_help, our_help = help_times(options.help_repeats)
    grpo, hapo = step_times(options)
    ratios = [ours / theirs for ours, theirs in zip(hapo, grpo, strict=True)]
    low, high = interval_of_median(ratios)
    added = statistics.median(ours - theirs for ours, theirs in zip(hapo, grpo, strict=True))
    print(f"{options.steps} pairs of steps, {options.completions} completions of {options.tokens} tokens each")
    print(f"{'GRPOTrainer step':<34}{statistics.median(grpo):8.3f} s (median)")
    print(f"{'HAPOTrainer step':<34}{statistics.median(hapo):8.3f} s (median)")
    print(f"{'ratio':<34}{statistics.median(ratios):8.4f}   (median of pairs; 95 % interval {low:.4f} to {high:.4f})")
    print(f"{'difference':<34}{1e3 * added:8.1f} ms (median of pairs)")
    print(f"{'import trl and GRPOTrainer':<34}{statistics.median(base_import):8.3f} s (median)")
    print(f"{'trl_concise and HAPOTrainer add':<34}{statistics.median(added_import):8.3f} s (median)")
    ratios = [ours / theirs for ours, theirs in zip(our_help, trl_help, strict=True)]
    low, high = interval_of_median(ratios)
    print(f"{'trl grpo --help':<34}{statistics.median(trl_help):8.3f} s (median)")
    print(
        f"{'ratio of trl-concise hapo --help':<34}{statistics.median(ratios):8.4f}   (95 % interval {low:.4f} to {high:.4f})"
    )


if __name__ == "__main__":
    main()
