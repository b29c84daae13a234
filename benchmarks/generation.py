# SPDX-License-Identifier: Apache-2.0
"""
Time of generation with transformers and a LoRA adapter, per setting.

    python benchmarks/generation.py --model .models/smollm2-135m-instruct

Each repetition generates once with every setting, in turn, so that a busy machine slows all of them. The table shows the median
time per token position and the median ratio to `plain` within a repetition, with its range. The last lines compare the
log-probabilities of the merged and the unmerged policy on the completions of `plain`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.batch.merging import merged_adapter


# `num_blocks` and the rest bound the cache, which otherwise takes half of the free memory.
CONTINUOUS = {
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"num_blocks": 64, "max_batch_tokens": 512, "page_size": 64},
}
MERGED = {"merge_adapter_for_generation": True}
STATIC = {"cache_implementation": "static"}
SETTINGS = {
    "plain": {},
    "merged": MERGED,
    "static": STATIC,
    "static, merged": STATIC | MERGED,
    "continuous": CONTINUOUS,
    "continuous, merged": CONTINUOUS | MERGED,
}


def no_reward(completions, **kwargs):
    return [0.0] * len(completions)


def build(name: str, options: argparse.Namespace, folder: str) -> ConciseGRPOTrainer:
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, options.dtype)
    )
    torch.manual_seed(0)
    trainer = ConciseGRPOTrainer(
        options.model,
        no_reward,
        ConciseGRPOConfig(
            output_dir=folder,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            report_to="none",
            per_device_train_batch_size=options.completions,
            num_generations=options.completions,
            max_completion_length=options.tokens,
            model_init_kwargs={"dtype": options.dtype},
            **SETTINGS[name],
        ),
        demo.train_dataset(8),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0),
        **({"quantization_config": four_bits} if options.load_in_4bit else {}),
    )
    for parameter_name, parameter in trainer.model.named_parameters():
        if "lora_B" in parameter_name:  # zero at the start
            torch.nn.init.normal_(parameter, std=0.01)
    return trainer


def differences(trainer: ConciseGRPOTrainer, row: dict) -> torch.Tensor:
    """Return the differences of the log-probabilities of the merged and the unmerged policy, one per token."""
    rollouts = trainer.generate_rollouts([row], 8)
    prompts = rollouts.prompt_ids
    apart = trainer.score_logps(prompts, rollouts.completion_ids)
    with merged_adapter(trainer.model):
        merged = trainer.score_logps(prompts, rollouts.completion_ids)
    return (merged - apart)[apart != 0].abs()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--load_in_4bit", action="store_true")
    options = parser.parse_args()
    row = {"prompt": [{"role": "user", "content": "Tell me a long story about a river and its fish."}]}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: build(name, options, folder) for name in options.settings}
        times: dict[str, list[float]] = {name: [] for name in trainers}
        for repetition in range(options.repetitions + 1):
            for name, trainer in trainers.items():
                start = time.perf_counter()
                rollouts = trainer.generate_rollouts([row], options.completions)
                if repetition:  # the first is a warm-up
                    times[name].append((time.perf_counter() - start) / max(map(len, rollouts.completion_ids)))
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{device}, {options.dtype}{', 4-bit weights' if options.load_in_4bit else ''}, {options}")
        print("| Setting | ms per token | ratio to plain | range |\n|---|---:|---:|---|")
        for name, values in times.items():
            ratios = [value / other for value, other in zip(values, times[options.settings[0]], strict=True)]
            cells = [name, f"{1000 * statistics.median(values):.1f}", f"{statistics.median(ratios):.2f}"]
            print("| " + " | ".join([*cells, f"{min(ratios):.2f} to {max(ratios):.2f}"]) + " |")
        apart = differences(next(iter(trainers.values())), row)
        print(f"merged and unmerged log-probabilities: mean difference {apart.mean():.1e}, largest {apart.max():.1e}")


if __name__ == "__main__":
    main()
