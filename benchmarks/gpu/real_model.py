# SPDX-License-Identifier: Apache-2.0
"""
Length methods on a pretrained model, on one GPU: GRPO without a length reward as the control, and a harder problem set.

    python benchmarks/gpu/real_model.py run --model Qwen/Qwen2.5-0.5B-Instruct --train svamp_train.jsonl \\
        --test svamp_test.jsonl --harder gsm8k_test.jsonl --seconds 300 --output_dir outputs/real_model

Every arm trains a LoRA adapter on the same problems until its time or its tokens are spent, then answers both test sets greedily. Arms are
processes that share the card. Each has its own port, and one that fails is restarted once, from its latest checkpoint. The files
are JSON lines with `problem` and `answer`. The test set should come from the distribution of the training problems, and
`--harder` from a harder one; no arm is trained on either.

The output folder then contains `results.json`, `results.md`, a frontier plot per test set, and per arm the adapter, its model card and
all completions. `summarize` writes these files again. Options that this command does not know are passed to the trainers.
`--smoke` runs two steps per arm on the CPU, with the embedded model unless another one is given.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, TrainerCallback

import trl_concise
from trl_concise import TrainingScript, demo, math_accuracy_reward
from trl_concise.data import load_problems
from trl_concise.evaluation import (
    Completion,
    FrontierPoint,
    bootstrap_interval,
    evaluate,
    plot_frontier,
    read_completions,
    read_summary,
    summarize,
)
from trl_concise.evaluation.completions import truncate_at
from trl_concise.evaluation.plots import can_plot
from trl_concise.evaluation.runs import read_log_history
from trl_concise.hub.card import write_card
from trl_concise.methods.ddca import DDCA
from trl_concise.state.adapters import merge
from trl_concise.state.checkpoint import write_atomically


# Arm: name of its config and trainer in `trl_concise`; its own options, where {quarter} is a quarter of the generation limit; and
# its components by slot. The arm "base" is not trained.
ARMS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "grpo": ("ConciseGRPO", [], {}),
    "hapo": ("HAPO", [], {}),
    "sgrpo": ("SGRPO", [], {}),
    "tspmo": ("TSPMO", [], {}),
    "laser": ("LASER", ["--target_length", "{quarter}"], {}),
    "shorter_better": ("ShorterBetter", [], {}),
    "ddca": ("ConciseGRPO", [], {"advantage": DDCA}),
}
DEFAULT_ARMS = ["base", "grpo", "hapo", "sgrpo", "tspmo", "laser"]
SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
TRAINING = {
    "use_peft": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "lora_target_modules": "all-linear",
    "learning_rate": 2e-4,
    "lr_scheduler_type": "constant_with_warmup",  # the end of a run is a time, not a step
    "warmup_steps": 5,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 8,
    "num_generations": 8,
    "max_completion_length": 400,
    "temperature": 1.0,
    "max_steps": 1000,
    "logging_steps": 1,
    "save_steps": 10,
    "save_total_limit": 1,
    "report_to": "none",
    "seed": 7,
}
SMOKE = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "num_generations": 4,
    "max_completion_length": 16,
    "max_steps": 2,
    "warmup_steps": 0,
}
# A small share of the card and no compilation, so that several engines start quickly on one card. The size of the cache
# is given because vLLM cannot measure free memory while other processes use the card.
ENGINE = {
    "kv_cache_memory_bytes": 2 << 30,
    "compilation_config": {
        "mode": 0,
        "cudagraph_mode": "FULL_DECODE_ONLY",
        "cudagraph_capture_sizes": [1, 8, 16, 32, 48, 64, 96, 128, 192, 256],
    },
}
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TOKENIZERS_PARALLELISM": "false"}
EVALUATION, RESULTS, GENERATION = "evaluation", "results.json", "generation.json"
STARTED = "ARM_STARTED"  # environment variable, a Unix time


class Budget(TrainerCallback):
    """Ends a training when its time or its tokens are spent, and writes how many tokens it generated."""

    def __init__(self, deadline: float, max_tokens: int | None, path: Path):
        self.deadline, self.max_tokens, self.path = deadline, max_tokens, path

    def on_log(self, args, state, control, **kwargs):
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        lengths = [
            entry["completions/mean_length"] for entry in state.log_history if "completions/mean_length" in entry
        ]
        tokens = round(rows * sum(lengths))  # the log is part of a checkpoint, so a resumed run counts all of them
        spent = {"steps": state.global_step, "completions": rows * len(lengths), "generated_tokens": tokens}
        write_atomically(self.path, json.dumps(spent).encode())
        if time.time() > self.deadline or (self.max_tokens is not None and tokens >= self.max_tokens):
            control.should_training_stop = True


def train(arm: str, options: argparse.Namespace, more: Sequence[str]) -> None:
    """Train an arm, from its latest checkpoint if there is one, into its folder."""
    name, own, components = ARMS[arm]
    folder = options.output_dir / arm
    settings = {
        "model_name_or_path": options.model,
        "dataset_name": options.train,
        "system_prompt": SYSTEM_PROMPT,
        "output_dir": folder,
        "resume_from_checkpoint": "auto",
        **TRAINING,
        **(SMOKE if options.smoke else {}),
    }
    if options.smoke:
        settings |= {"use_cpu": True}
    else:
        settings |= {"dtype": "bfloat16", "bf16": True}
    if options.engine == "vllm":
        from trl.generation import vllm_generation

        # TRL passes vLLM neither the size of its cache nor a compilation mode.
        vllm_generation.LLM = functools.partial(vllm_generation.LLM, **ENGINE)
        settings |= {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": options.engine_share}
        settings |= {"vllm_max_model_length": options.context}
    own = [text.format(quarter=settings["max_completion_length"] // 4) for text in own]
    arguments = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    script = TrainingScript(getattr(trl_concise, f"{name}Config"), [*arguments, *own, *more])
    trainer_class = getattr(trl_concise, f"{name}Trainer")
    slots = {slot: component() for slot, component in components.items()}
    trainer = trainer_class(reward_funcs=math_accuracy_reward, **script.trainer_arguments(), **slots)
    trainer.add_callback(Budget(options.deadline, options.max_tokens, folder / GENERATION))
    script.train(trainer)
    trainer.save_state()


def measure(arm: str, options: argparse.Namespace) -> None:
    """Answer the test sets greedily, with the engine of the training; completions that are on file are not repeated."""
    folder = options.output_dir / arm
    model = options.model
    if arm != "base":
        model = str(folder / "merged")
        if not Path(model).is_dir():
            merge(str(folder), model)
    sets = {path.stem: load_problems(str(path), system_prompt=SYSTEM_PROMPT) for path in options.sets}
    if options.limit is not None:
        sets = {name: data.select(range(min(options.limit, len(data)))) for name, data in sets.items()}
    vllm = options.engine == "vllm"
    engine = {"gpu_memory_utilization": options.engine_share, "max_model_len": options.context, **ENGINE}
    evaluate(
        model,
        sets,
        folder / EVALUATION,
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=options.max_new_tokens,
        batch_size=4096 if vllm else 256,
        use_vllm=vllm,
        engine_options=engine if vllm else None,
        model_name=arm,
        progress=False,
    )


def supervise(stages: dict[str, list[list[str]]], logs: Path, *, at_once: int, restarts: int = 1) -> dict[str, int]:
    """
    Run several sequences of commands side by side. Every command has a `MASTER_PORT` of its own, and `ARM_STARTED` is the time at which
    the first command of its name was started first.

    Args:
        stages (`dict[str, list[list[str]]]`): Commands by name, each run when the one before it has succeeded.
        logs (`Path`): Folder for what they print.
        at_once (`int`): Most commands at a time, at least 1.
        restarts (`int`, *optional*, defaults to `1`): How often commands of one name are started again after a failure.

    Returns:
        `dict[str, int]`: Exit status of the last command, by name.
    """
    logs.mkdir(parents=True, exist_ok=True)
    left = {name: list(commands) for name, commands in stages.items()}
    waiting, failures, statuses = list(left), dict.fromkeys(left, 0), {}
    started: dict[str, str] = {}
    running: dict[str, subprocess.Popen] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            name = waiting.pop(0)
            own = {"MASTER_PORT": str(free_port()), STARTED: started.setdefault(name, str(time.time()))}
            environment = ENVIRONMENT | os.environ | own
            with open(logs / f"{name}.log", "ab") as log:
                running[name] = subprocess.Popen(
                    left[name][0], env=environment, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                )
        time.sleep(0.2)
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            statuses[name] = running.pop(name).returncode
            if statuses[name] == 0:
                left[name].pop(0)
            else:
                failures[name] += 1
            continues = bool(left[name]) and failures[name] <= restarts
            if statuses[name] != 0:
                print(f"{name}: exit status {statuses[name]}{', started again' if continues else ''}", flush=True)
            if continues:
                waiting.insert(0, name)
    return statuses


_GIVEN_PORTS: set[int] = set()


def free_port() -> int:
    """Return a port that is free now and that this process has not returned before."""
    with ExitStack() as sockets:  # held until one is found, so that the system does not offer the same port again
        while True:
            tried = sockets.enter_context(socket.socket())
            tried.bind(("127.0.0.1", 0))
            port = tried.getsockname()[1]
            if port not in _GIVEN_PORTS:
                _GIVEN_PORTS.add(port)
                return port


# Summary


def paired_interval(items: Sequence[Completion], others: Sequence[Completion], attribute: str) -> dict[str, Any]:
    """
    Mean difference of an attribute of two arms' completions of the same problems, with its 95 % interval over problems.

    Problems whose reference answer could not be read are left out.
    """
    known = {(item.problem, item.completion): item for item in others if item.correct is not None}
    differences: dict[int, list[float]] = {}
    for item in items:
        other = known.get((item.problem, item.completion))
        if other is not None and item.correct is not None:
            difference = float(getattr(item, attribute)) - float(getattr(other, attribute))
            differences.setdefault(item.problem, []).append(difference)
    values = list(differences.values())
    flat = [value for group in values for value in group]
    return {"mean": sum(flat) / len(flat), "interval": list(bootstrap_interval(values))}


def results_of(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Return per arm what its training generated, and per test set its figures, the differences and the control."""
    arms = [arm for arm in ("base", *ARMS) if (folder / arm / EVALUATION / "summary.json").is_file()]
    if "base" not in arms:
        raise FileNotFoundError(
            f"{folder / 'base'} contains no evaluation. Run the arm `base`: all others are compared with it."
        )
    completions = {arm: read_completions(folder / arm / EVALUATION / "completions.jsonl") for arm in arms}
    results: dict[str, Any] = {"arms": {}, "sets": {}}
    for arm in arms:
        path = folder / arm / GENERATION
        runtime = [entry["train_runtime"] for entry in read_log_history(folder / arm) if "train_runtime" in entry]
        training = json.loads(path.read_text()) if path.is_file() else {"generated_tokens": 0}
        results["arms"][arm] = training | {"train_seconds": runtime[-1] if runtime else None}
    for name in dict.fromkeys(item.dataset for item in completions["base"]):
        of_set = {arm: [item for item in items if item.dataset == name] for arm, items in completions.items()}
        figures = results["sets"][name] = {}
        for arm, items in of_set.items():
            figures[arm] = summarize(items)
            for other in ("base", "grpo"):
                if other in of_set and arm not in ("base", other):
                    figures[arm][f"difference_to_{other}"] = {
                        "accuracy": paired_interval(items, of_set[other], "correct"),
                        "tokens": paired_interval(items, of_set[other], "tokens"),
                    }
            if arm != "base":
                budget = max(1, round(figures[arm]["tokens_mean"]))
                figures[arm]["base_truncated"] = {"budget": budget} | summarize(
                    truncate_at(of_set["base"], budget, tokenizer)
                )
    return results


def table(results: dict[str, Any]) -> str:
    """The results as Markdown tables, one per test set."""

    def points(difference: dict[str, Any] | None) -> str:
        if difference is None:
            return ""
        low, high = difference["interval"]
        return f"{100 * difference['mean']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    def tokens(difference: dict[str, Any] | None, base: float) -> str:
        return (
            ""
            if difference is None
            else points(
                {"mean": difference["mean"] / base, "interval": [end / base for end in difference["interval"]]}
            )
        )

    lines = []
    for name, arms in results["sets"].items():
        base = arms["base"]["tokens_mean"]
        lines += [
            f"\n{name}: {arms['base']['problems']:,} problems\n",
            "| arm | accuracy | points against base | against grpo | tokens | % against base | base truncated there | generated tokens |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for arm, figures in arms.items():
            to_base, to_grpo = (figures.get(f"difference_to_{other}", {}) for other in ("base", "grpo"))
            low, high = figures["accuracy_interval"]
            cells = [
                arm,
                f"{figures['accuracy']:.1%} [{low:.1%}, {high:.1%}]",
                points(to_base.get("accuracy")),
                points(to_grpo.get("accuracy")),
                f"{figures['tokens_mean']:.1f} [{figures['tokens_interval'][0]:.1f}, {figures['tokens_interval'][1]:.1f}]",
                tokens(to_base.get("tokens"), base),
                f"{figures['base_truncated']['accuracy']:.1%}" if arm != "base" else "",
                f"{results['arms'][arm]['generated_tokens']:,}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).strip() + "\n"


def frontier(arms: dict[str, Any]) -> list[FrontierPoint]:
    """The points of a frontier plot: base, arms, and the base's completions truncated at the arms' lengths."""

    def point(figures: dict[str, Any], label: str, kind: str, series: str = "") -> FrontierPoint:
        intervals = (tuple(figures["accuracy_interval"]), tuple(figures["tokens_interval"])) if kind != "cut" else ()
        return FrontierPoint(label, figures["accuracy"], figures["tokens_mean"], kind, series, *intervals)

    trained = {arm: figures for arm, figures in arms.items() if arm != "base"}
    controls = sorted((figures["base_truncated"] for figures in trained.values()), key=lambda one: one["budget"])
    return [
        point(arms["base"], "base", "base"),
        *(point(one, "", "cut", "base, truncated") for one in controls),
        *(point(figures, arm, "model", arm) for arm, figures in trained.items()),
    ]


def write_results(options: argparse.Namespace) -> dict[str, Any]:
    """Write `results.json`, `results.md`, the plots and the cards of the arms; return the results."""
    folder = options.output_dir
    results = results_of(folder, AutoTokenizer.from_pretrained(options.model)) | {
        "machine": machine(),
        "model": Path(options.model).name,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "vllm", "trl_concise")},
    }
    write_atomically(folder / RESULTS, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    write_atomically(folder / "results.md", table(results).encode())
    if can_plot("The frontier plot"):
        for name, arms in results["sets"].items():
            if len(arms) > 1:
                plot_frontier(frontier(arms), folder / f"frontier_{name}.png", title=name)
    base = read_summary(folder / "base" / EVALUATION)
    for arm in results["arms"]:
        if arm != "base":
            truncated = [record | results["sets"][record["dataset"]][arm]["base_truncated"] for record in base]
            path = folder / arm / "base" / "summary.json"
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, json.dumps(base + truncated, indent=2).encode())
            write_card(folder / arm)
    return results


def machine() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(package)
    except PackageNotFoundError:
        return None


def main(argv: list[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("verb", choices=["run", "train", "measure", "summarize"])
    parser.add_argument("--model", help="folder or id on the Hub; needed without --smoke")
    parser.add_argument("--train", help="training problems: a file, or a dataset id on the Hub")
    parser.add_argument("--test", type=Path, help="held-out problems of the same kind")
    parser.add_argument("--harder", type=Path, help="harder problems, never trained on")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/real_model"))
    parser.add_argument("--arms", nargs="+", choices=["base", *ARMS], default=DEFAULT_ARMS)
    parser.add_argument("--arm", choices=["base", *ARMS], help="of `train` and `measure`")
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="from the start of an arm to the end of its training"
    )
    parser.add_argument("--deadline", type=float, help="the same as a Unix time; takes precedence")
    parser.add_argument("--max_tokens", type=int, help="generated tokens after which an arm's training ends")
    parser.add_argument("--at_once", type=int, default=len(DEFAULT_ARMS), help="most arms at a time")
    parser.add_argument("--limit", type=int, help="first problems of each test set; default: all")
    parser.add_argument("--max_new_tokens", type=int, default=1024, help="of a test completion")
    parser.add_argument("--context", type=int, default=1536, help="vLLM's context, in tokens")
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--engine_share", type=float, default=0.06, help="vLLM's gpu_memory_utilization")
    parser.add_argument("--smoke", action="store_true", help="two steps per arm on the CPU")
    options, more = parser.parse_known_args(argv)
    if options.smoke:
        options.model, options.engine = options.model or str(demo.model_path()), "transformers"
        options.limit, options.max_new_tokens = options.limit or 4, 32
    needed = ["model", "test", "harder"] if options.verb != "summarize" else ["model"]
    needed += ["train"] if options.verb in ("run", "train") else []
    needed += ["arm"] if options.verb in ("train", "measure") else []
    missing = [name for name in needed if getattr(options, name) is None]
    if missing:
        parser.error(f"{options.verb} needs {', '.join(f'--{name}' for name in missing)}")
    options.sets = [options.test, options.harder]
    # A restarted arm has what is left of its own time; one that waited for its turn has all of it.
    options.deadline = options.deadline or float(os.environ.get(STARTED, time.time())) + options.seconds

    if options.verb == "train":
        train(options.arm, options, more)
    elif options.verb == "measure":
        measure(options.arm, options)
    else:
        statuses = {}
        if options.verb == "run":
            stages = {
                # Two processes, because an engine frees its memory only with its process.
                arm: [
                    [sys.executable, __file__, verb, *argv[1:], "--arm", arm]
                    for verb in ("train", "measure")
                    if (verb, arm) != ("train", "base")
                ]
                for arm in options.arms
            }
            statuses = supervise(stages, options.output_dir / "logs", at_once=options.at_once)
        print(table(write_results(options)))
        failed = [arm for arm, status in statuses.items() if status]
        if failed:
            print(f"Failed twice: {', '.join(failed)}. See {options.output_dir / 'logs'}.")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
