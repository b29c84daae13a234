# SPDX-License-Identifier: Apache-2.0
"""
Peak memory and step time of the trainers on one GPU, with what `trl_concise.memory` predicts.

    python benchmarks/gpu/memory.py --output outputs/gpu.json

The model has the architecture of Qwen2-1.5B and random weights in bf16, with a LoRA adapter; the process may take 40 GiB.
Completions are synthetic: a rollout function returns random tokens of the wanted length, so that the time is that of the
training phase (rewards, loss, backward pass, optimizer). GRPO, DPO and SimPO (`CPOTrainer`) are TRL's; SimPO is not planned, since
its trainer holds the logits of whole sequences. What all online methods share, generation with transformers and the log-probabilities of a
reference (`beta` above 0), is measured once in a step of GRPO, with `--rollout_tokens`. Random completions diverge at the first token,
and T-SPMO is planned for that. Results are written after every measurement.

`--smoke` runs everything once on the CPU with a tiny model, and measures no memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoTokenizer,
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainerCallback,
    set_seed,
)
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

from trl_concise import (
    HAPOConfig,
    HAPOTrainer,
    REDIConfig,
    REDITrainer,
    SGRPOConfig,
    SGRPOTrainer,
    TSPMOConfig,
    TSPMOTrainer,
    demo,
)
from trl_concise.memory import Architecture, MemoryPlan, PlanSettings, plan
from trl_concise.state.checkpoint import write_atomically


GIB = 1024**3
ONLINE = {
    "grpo": (GRPOTrainer, GRPOConfig),
    "sgrpo": (SGRPOTrainer, SGRPOConfig),
    "tspmo": (TSPMOTrainer, TSPMOConfig),
    "hapo": (HAPOTrainer, HAPOConfig),
}


def simpo_config(**settings) -> CPOConfig:
    return CPOConfig(loss_type="simpo", cpo_alpha=0.0, **settings)


OFFLINE = {"redi": (REDITrainer, REDIConfig), "simpo": (CPOTrainer, simpo_config), "dpo": (DPOTrainer, DPOConfig)}

QWEN2_1_5B = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
TINY = QWEN2_1_5B | {
    "vocab_size": 512,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
}
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Meter(TrainerCallback):
    """
    Seconds of each optimizer step and of each phase, and the allocator's peak in each phase.

    A phase ends where [`metered`] calls `mark`. With `warmup`, the first step, which also builds states, is left out.
    """

    def __init__(self, warmup: bool = True):
        self.warmup = warmup
        self.steps: list[float] = []
        self.forget()

    def forget(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}

    def mark(self, phase: str) -> None:
        now = _synchronized_time()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now
        if torch.cuda.is_available():
            self.peaks[phase] = max(self.peaks.get(phase, 0), torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = self.last = _synchronized_time()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_end(self, args, state, control, **kwargs):
        self.mark("optimizer")
        self.steps.append(_synchronized_time() - self.start)
        if state.global_step == 1 and self.warmup:
            self.steps.clear()
            self.forget()


def metered(trainer_class, meter: Meter):
    """Return the trainer with a mark after each phase, named as in [`~trl_concise.memory.plan`]."""

    class Metered(trainer_class):
        def _compute_loss(self, *args, **kwargs):
            loss = super()._compute_loss(*args, **kwargs)
            meter.mark("loss")
            return loss

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            meter.mark("backward")
            return loss

    if not hasattr(trainer_class, "_generate"):
        return Metered

    class Online(Metered):
        def _generate(self, *args, **kwargs):
            generated = super()._generate(*args, **kwargs)
            meter.mark("generation")
            return generated

        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)
            meter.mark("log-probs")  # and rewards
            return batch

    return Online


def _synchronized_time() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def even_reward(completion_ids, **kwargs):
    """1 if most of the tokens have even ids: true of about half of the random completions."""
    return [float(sum(token % 2 == 0 for token in ids) > len(ids) / 2) for ids in completion_ids]


def synthetic_rollouts(prompt_tokens: int, completion_tokens: int, vocabulary: int):
    """A rollout function that returns random tokens: prompts of various lengths, so that rows are padded."""
    rng = random.Random(0)

    def rollout(prompts, trainer):
        lengths = [prompt_tokens - rng.randrange(prompt_tokens // 4) for _ in prompts]
        lengths[0] = prompt_tokens
        return {
            "prompt_ids": [rng.choices(range(vocabulary), k=length) for length in lengths],
            "completion_ids": [rng.choices(range(vocabulary), k=completion_tokens) for _ in prompts],
            "logprobs": None,
        }

    return rollout


def synthetic_pairs(tokenizer, rows: int, prompt_tokens: int, completion_tokens: int) -> Dataset:
    """Preference pairs of about the wanted numbers of tokens."""
    per_word = len(tokenizer("12 " * 100, add_special_tokens=False).input_ids) / 100
    prompt = "12 " * max(1, int(0.9 * prompt_tokens / per_word))
    words = max(1, int((completion_tokens - 2) / per_word))
    return Dataset.from_list(
        [{"prompt": prompt, "chosen": "34 " * words, "rejected": "56 " * words} for _ in range(rows)]
    )


def build(
    method: str, tokens: int, options: argparse.Namespace, meter: Meter, *, generate: bool = False
) -> tuple[Trainer, MemoryPlan | None]:
    """Return a trainer, and the memory that is planned for it, if the method can be planned."""
    set_seed(0)
    cuda = torch.cuda.is_available()
    config = Qwen2Config(**(TINY if options.smoke else QWEN2_1_5B))
    with torch.device("cuda" if cuda else "cpu"):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    online = method in ONLINE
    trainer_class, config_class = (ONLINE | OFFLINE)[method]
    rows = options.rows if online else max(1, options.rows // 2)  # a pair is two sequences
    if not online:
        lengths = {"max_length": options.prompt_tokens + tokens}
    else:
        lengths = {"num_generations": options.rows, "max_completion_length": tokens}
    # Measured with generation: a reference's log-probabilities, and completions that all have the longest length.
    shared = {"beta": 0.04, "generation_kwargs": {"min_new_tokens": tokens}} if generate else {}
    args = config_class(
        output_dir=options.folder,
        use_cpu=not cuda,
        bf16=True,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=options.accumulation,
        max_steps=1 if generate else options.steps + 1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        **lengths,
        **shared,
    )
    given = {
        "model": model,
        "args": args,
        "processing_class": tokenizer,
        "peft_config": LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=LORA_TARGETS),
        "callbacks": [meter],
    }
    if not online:
        given["train_dataset"] = synthetic_pairs(tokenizer, 64, options.prompt_tokens, tokens)
    elif generate:
        prompt = "12 " * max(1, int(0.9 * options.prompt_tokens / len(tokenizer("12 ").input_ids)))
        given |= {"train_dataset": Dataset.from_list([{"prompt": prompt}] * 64), "reward_funcs": even_reward}
    else:
        rollout = synthetic_rollouts(options.prompt_tokens, tokens, len(tokenizer))
        given |= {"train_dataset": demo.train_dataset(64), "reward_funcs": even_reward, "rollout_func": rollout}
    trainer = metered(trainer_class, meter)(**given)
    trainer.remove_callback(PrinterCallback)
    if method == "simpo":
        return trainer, None
    planned = plan(
        PlanSettings(
            method,
            max_prompt_length=options.prompt_tokens,
            max_completion_length=tokens,
            max_length=options.prompt_tokens + tokens,
            num_generations=options.rows,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=options.accumulation,
            dtype="bfloat16",
            use_peft=True,
            lora_target_modules=LORA_TARGETS,
            beta=shared.get("beta", 0.0),
            branch_tokens=1,
        ),
        Architecture.from_config(config),
    )
    return trainer, planned


def phases(meter: Meter, planned: MemoryPlan | None, names: tuple[str, ...]) -> dict[str, dict]:
    """Per phase that the trainer has: seconds, the measured peak and the predicted one (`None`: not planned), in GiB."""
    return {
        name: {
            "seconds": meter.seconds[name],
            "peak": meter.peaks[name] / GIB if name in meter.peaks else None,
            "predicted": planned and planned.allocated(name) / GIB,
        }
        for name in names
        if name in meter.seconds  # `CPOTrainer` computes its loss elsewhere
    }


def measure(method: str, tokens: int, options: argparse.Namespace) -> dict:
    """Train a few steps; return what was measured and what was predicted, in GiB and seconds."""
    meter = Meter()
    trainer, planned = build(method, tokens, options, meter)
    trainer.train()
    seconds = statistics.median(meter.steps)
    return {
        "method": method,
        "completion_tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": options.rows * options.accumulation * tokens / seconds,
        **training_peak(phases(meter, planned, ("loss", "backward"))),
    }


def measure_rollout(tokens: int, options: argparse.Namespace) -> dict:
    """One step of GRPO that generates with transformers and scores a reference: what online methods have in common."""
    meter = Meter(warmup=False)
    trainer, planned = build("grpo", tokens, options, meter, generate=True)
    trainer.train()
    return {"completion_tokens": tokens, "phases": phases(meter, planned, ("generation", "log-probs"))}


def training_peak(measured: dict[str, dict]) -> dict:
    peaks = [phase["peak"] for phase in measured.values()]
    return {
        "phases": measured,
        "peak": None if None in peaks else max(peaks),
        "predicted": max((phase["predicted"] or 0.0 for phase in measured.values()), default=0.0) or None,
    }


def table(results: list[dict]) -> str:
    """The results as a Markdown table, with ratios to GRPO at the same length."""
    lines = [
        "| method | completion | step | tokens/s | step / GRPO | peak | peak / GRPO | predicted | error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        name, length = result["method"], result["completion_tokens"]
        if "error" in result:
            lines.append(f"| {name} | {length:,} | {result['error']} | | | | | | |")
            continue
        base = next((r for r in results if r["method"] == "grpo" and r["completion_tokens"] == length), {})
        cells = [name, f"{length:,}", f"{result['seconds']:.2f} s", f"{result['tokens_per_second']:,.0f}"]
        cells.append(f"{result['seconds'] / base['seconds']:.2f}" if "seconds" in base else "")
        if result["peak"] is None:
            cells += ["not measured", ""]
        else:
            cells.append(f"{result['peak']:.2f} GiB")
            cells.append(f"{result['peak'] / base['peak']:.2f}" if base.get("peak") else "")
        cells += prediction(result)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def prediction(figures: dict) -> list[str]:
    """The predicted peak and its error, as cells of a table."""
    if figures["predicted"] is None:
        return ["not planned", ""]
    error = "" if figures["peak"] is None else f"{figures['predicted'] / figures['peak'] - 1:+.1%}"
    return [f"{figures['predicted']:.2f} GiB", error]


def phase_table(results: list[dict]) -> str:
    """Peaks phase by phase, as a Markdown table."""
    lines = ["| method | completion | phase | time | peak | predicted | error |", "|---|---|---|---|---|---|---|"]
    for result in results:
        for name, phase in result.get("phases", {}).items():
            cells = [result.get("method", "all online"), f"{result['completion_tokens']:,}", name]
            cells.append(f"{phase['seconds']:.2f} s" if name in ("generation", "log-probs") else "")
            cells.append("not measured" if phase["peak"] is None else f"{phase['peak']:.2f} GiB")
            cells += prediction(phase)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(options: argparse.Namespace, keep: Callable[[list[dict], list[dict]], None]) -> tuple[list[dict], list[dict]]:
    """Measure every method at every length, and what the online ones share; hand over what there is after each."""
    results, rollouts = [], []
    for tokens in options.completion_tokens:
        for method in options.methods:
            try:
                results.append(measure(method, tokens, options))
            except torch.OutOfMemoryError:
                results.append({"method": method, "completion_tokens": tokens, "error": "out of memory"})
            _free()
            keep(results, rollouts)
    if not set(options.methods).isdisjoint(ONLINE) and options.rollout_tokens:
        try:
            rollouts.append(measure_rollout(options.rollout_tokens, options))
        except torch.OutOfMemoryError:
            print(f"generation of {options.rollout_tokens:,} tokens: out of memory")
        _free()
        keep(results, rollouts)
    return results, rollouts


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=[*ONLINE, *OFFLINE], choices=[*ONLINE, *OFFLINE])
    parser.add_argument("--completion_tokens", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--rollout_tokens", type=int, default=384, help="of the generation that is measured; 0: none")
    parser.add_argument("--prompt_tokens", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4, help="sequences of a micro-batch, and completions of a group")
    parser.add_argument("--accumulation", type=int, default=2, help="micro-batches of a step")
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one that warms up")
    parser.add_argument("--card_gib", type=float, default=40.0, help="memory that the process may take")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, with a tiny model")
    options = parser.parse_args(argv)
    if options.smoke:
        options.completion_tokens, options.rollout_tokens = [16], 16
        options.prompt_tokens, options.steps = 8, 1
    elif not torch.cuda.is_available():
        parser.error("there is no GPU; --smoke runs on the CPU")
    machine = "CPU"
    if torch.cuda.is_available():
        machine, total = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, options.card_gib * GIB / total))

    def keep(results: list[dict], rollouts: list[dict]) -> None:
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"machine": machine, "results": results, "rollouts": rollouts}, indent=2)
            write_atomically(options.output, f"{text}\n".encode())

    with tempfile.TemporaryDirectory() as options.folder:
        results, rollouts = run(options, keep)
    print(f"{machine}, {options.card_gib:g} GiB; {options.rows * options.accumulation} synthetic completions a step")
    print(table(results), phase_table(rollouts + results), sep="\n\n")


if __name__ == "__main__":
    main()
