# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft]"]
# ///
"""
Train with Soft Tokens: chains of thought of soft, fuzzy or ordinary (hard) tokens, from the same start, for the same number of completions.

Without arguments: the embedded model on a CPU, in a few minutes. It first learns to think in one pass that slips now and then. Then it is trained
in each mode, and all models answer held-out problems with ordinary tokens: greedy, sampled, and pass@k:

    python examples/soft_tokens.py

A real model on one GPU, in one mode:

    python examples/soft_tokens.py --model_name_or_path Qwen/Qwen2.5-3B-Instruct --dataset_name openai/gsm8k --dataset_config main \
        --modes soft --test_sets gsm8k math500 --num_generations 32 --per_device_train_batch_size 64 --learning_rate 8e-6 \
        --prompt_suffix ' Please reason step by step, and write "The final answer is: " before your answer in \\boxed{}.' --output_dir outputs/soft

The results are printed, and written to `report.json`. The trained models are ordinary checkpoints.

Time and memory: the run without arguments takes 3.3 minutes of one CPU core. A real model takes the memory of GRPO, the embeddings that are
read (completions times max_cot_length times hidden size), and logits of 1,024 positions at a time; not measured on a GPU yet.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from trl import ModelConfig

from trl_concise import demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors
from trl_concise.experimental.soft_tokens_config import SoftTokensConfig


if TYPE_CHECKING:
    from datasets import Dataset

BEFORE, BASELINE = "before", "hard"
SETS = {"test": (3,), "harder": (4,)}  # operations of the generated problems; the training problems have three
SLIP_SHARE = 0.5  # of the passes that the embedded model learns have a slip, and a wrong answer
TRACES = 32  # per step
DEMO = {
    **demo.SETTINGS,
    "output_dir": "outputs/soft-tokens-demo",
    "cot_end": "</think>",
    "answer_prefix": "\n\\boxed{",
    "max_cot_length": 48,
    "max_answer_length": 8,
    "max_completion_length": 64,
    "max_steps": 40,
    "per_device_eval_batch_size": 256,
    "learning_rate": 1e-4,
    "beta": 0.0,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_problems": 48,
}


@dataclass
class SoftTokensArguments(RunArguments):
    """Which modes to train, and which problems to train on and to measure on."""

    modes: list[str] = field(
        default_factory=lambda: ["hard", "fuzzy", "soft"],
        metadata={"help": "Chains of thought to train with, one run each: hard, fuzzy, soft."},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Problems to train on: a dataset id on the Hub or a local file. Default: generated."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_sets: list[str] = field(
        default_factory=list,
        metadata={"help": "Problem sets to measure on, named as in trl-concise eval. Default: generated problems."},
    )
    prompt_suffix: str | None = field(
        default=None, metadata={"help": "Text after every problem of --dataset_name and --test_sets."}
    )
    samples: int = field(default=32, metadata={"help": "Sampled completions per problem: k of pass@k."})
    demo_problems: int = field(default=512, metadata={"help": "Of the demo: problems to train on."})
    demo_steps: int = field(
        default=100, metadata={"help": "Of the demo: steps that teach the embedded model to think in one pass."}
    )


def one_pass_model(folder: Path, steps: int) -> Path:
    """
    Train the embedded model to think in one short pass, with a slip in half of the passes, on problems of two to four operations.

    Its greedy answers are mostly correct, its sampled ones often wrong: there is something to learn, and something to lose.
    """
    from trl_concise.demo.variants import make_variant

    return make_variant(folder, steps, one_pass_batches)


def one_pass_batches(tokenizer: Any) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Yield batches of token ids and labels for [`make_variant`]."""
    from trl_concise.demo.problems import draw_problem, split_of
    from trl_concise.demo.tools import tokenize_transcript
    from trl_concise.demo.traces import END_OF_THINKING, slipped_results, write_pass

    rng = random.Random("one pass")
    drawn = (draw_problem(rng, (2, 3, 4)) for _ in itertools.count())
    problems = (problem for problem in drawn if split_of(problem.text) == "train")
    while True:
        rows = []
        for problem in itertools.islice(problems, TRACES):
            results = slipped_results(problem, rng) if rng.random() < SLIP_SHARE else problem.results
            lines = "\n".join(write_pass(problem, results, verbose=False))
            trace = f"<think>\n{lines}\n{END_OF_THINKING}\\boxed{{{results[-1]}}}"
            messages = [{"role": "user", "content": problem.text}, {"role": "assistant", "content": trace}]
            rows.append(tokenize_transcript(tokenizer, messages))
        yield rows


def problems_to_train(source: SoftTokensArguments, seed: int) -> Dataset:
    if source.dataset_name is None:
        return demo.train_dataset(source.demo_problems, seed=seed, operations=SETS["test"])
    from trl_concise.data import load_problems
    from trl_concise.data.rows import add_prompt_suffix

    name, split = source.dataset_name, source.dataset_train_split
    problems = load_problems(name, config_name=source.dataset_config, split=split)
    return (
        problems.map(add_prompt_suffix, fn_kwargs={"suffix": source.prompt_suffix})
        if source.prompt_suffix
        else problems
    )


def problems_to_measure(source: SoftTokensArguments) -> dict[str, Dataset]:
    if not source.test_sets:
        return {name: demo.problem_dataset(source.report_problems, operations=count) for name, count in SETS.items()}
    from trl_concise.evaluation import load_problem_sets

    sets = load_problem_sets(source.test_sets)
    return {name: rows.select(range(min(source.report_problems, len(rows)))) for name, rows in sets.items()}


def measure(folder: Path, sets: dict[str, Dataset], samples: int, limit: int, **options: Any) -> dict[str, Any]:
    """Return, by set and way to answer, one value per problem: its accuracy, and its mean tokens."""
    from trl_concise.evaluation import evaluate, pass_at_k
    from trl_concise.evaluation.folder import read_sets

    measured: dict[str, Any] = {name: {} for name in sets}
    for way, count, temperature in (("greedy", 1, 0.0), ("sampled", samples, 1.0)):
        evaluate(
            datasets=sets,
            output_dir=folder / way,
            num_completions=count,
            temperature=temperature,
            top_p=1.0,
            max_new_tokens=limit,
            progress=False,
            **options,
        )
        for name, items in read_sets(folder / way, sets).items():
            problems: dict[int, list[Any]] = {}
            for item in items:
                problems.setdefault(item.problem, []).append(item)
            right = [sum(bool(item.correct) for item in own) for own in problems.values()]
            measured[name][way] = [count_right / count for count_right in right]
            measured[name][f"{way} tokens"] = [
                fmean(len(item.completion_ids) for item in own) for own in problems.values()
            ]
            if way == "sampled":
                measured[name][f"pass@{count}"] = [pass_at_k(count, count_right, count) for count_right in right]
    return measured


def figures(own: list[float], other: list[float] | None) -> dict[str, Any]:
    """Return the mean of an accuracy with its 95 % interval, and its paired difference from the baseline."""
    from trl_concise.evaluation.metrics import accuracy_interval
    from trl_concise.experimental.equal_cost import paired_difference

    found: dict[str, Any] = {"mean": fmean(own), "interval": list(accuracy_interval([[value] for value in own]))}
    if other is not None:
        found["difference"], found["difference_interval"] = paired_difference(own, other)
    return found


def training_figures(log: list[dict[str, Any]], completions: int) -> dict[str, Any]:
    """Return what training wrote, and the accuracy of its completions at its beginning and its end."""
    logged = [entry for entry in log if "completions/mean_length" in entry]
    steps = [entry["step"] - before for entry, before in zip(logged, [0, *(e["step"] for e in logged)], strict=False)]
    written = sum(entry["completions/mean_length"] * count for entry, count in zip(logged, steps, strict=True))
    accuracies = [entry["rewards/math_accuracy_reward/mean"] for entry in logged]
    return {
        "written": round(written * completions),
        "accuracies": [accuracies[0], accuracies[-1]],
        "metrics": {key: value for key, value in logged[-1].items() if key.startswith("soft_tokens/")},
    }


def print_table(rows: list[dict[str, Any]], samples: int) -> None:
    ways = ("greedy", "sampled", f"pass@{samples}")
    print(
        f"\n| Set | Trained | {' | '.join(f'{way} | Against {BASELINE}, points' for way in ways)} | Tokens, greedy | Tokens, sampled | Written in "
        "training | Accuracy in training, first and last steps |"
    )
    print("|---|---|" + "---|" * (2 * len(ways) + 4))
    for row in rows:
        cells = [row["set"], row["mode"]]
        for way in ways:
            found = row[way]
            cells.append(f"{found['mean']:.1%} {interval(found['interval'])}")
            cells.append(
                f"{100 * found['difference']:+.1f} {interval(found['difference_interval'], '+.1f')}"
                if "difference" in found
                else ""
            )
        training = row["training"]
        cells += [f"{row[f'{way} tokens']:.1f}" for way in ("greedy", "sampled")]
        cells += [f"{training['written']:,}", ", ".join(f"{value:.1%}" for value in training["accuracies"])]
        print(f"| {' | '.join(cells)} |")


def interval(values: list[float], form: str = ".1f") -> str:
    return f"[{100 * values[0]:{form}}, {100 * values[1]:{form}}]"


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((SoftTokensArguments, SoftTokensConfig, ModelConfig), arguments, DEMO)
    if source.samples < 1 or source.report_problems < 1:
        raise ValueError(
            f"--samples and --report_problems must be at least 1; got {source.samples} and {source.report_problems}."
        )
    if not source.modes or set(source.modes) - {"hard", "fuzzy", "soft"} or len(set(source.modes)) < len(source.modes):
        raise ValueError(f"--modes takes hard, fuzzy and soft, each at most once; got {' '.join(source.modes)!r}.")
    if "cot" in source.given:
        raise ValueError(f"--cot {args.cot} has no effect here, because --modes names the runs: --modes {args.cot}.")

    longest = args.max_cot_length + args.max_answer_length
    if args.max_completion_length < longest:
        raise ValueError(
            f"--max_completion_length {args.max_completion_length} is less than --max_cot_length and --max_answer_length together "
            f"({longest}). Raise it, or lower them."
        )

    # After the command line: --help does not wait for them.
    from accelerate import PartialState

    from trl_concise import math_accuracy_reward
    from trl_concise.callbacks import show_progress
    from trl_concise.experimental.soft_tokens import SoftTokensTrainer, boxed_answer_reward
    from trl_concise.state.checkpoint import write_atomically

    state, output = PartialState(), Path(args.output_dir)
    if model_args.model_name_or_path == str(demo.model_path()):
        model_args.model_name_or_path = str(one_pass_model(output / "one-pass-model", source.demo_steps))
    args.reward_weights = args.reward_weights or [90.0, 10.0]
    train_dataset, sets = problems_to_train(source, args.seed), problems_to_measure(source)
    rows: list[dict[str, Any]] = []
    baseline: dict[str, Any] | None = None

    def add(mode: str, model: str, training: dict[str, Any]) -> dict[str, Any]:
        measured = measure(
            output / f"{mode}-eval",
            sets,
            source.samples,
            args.max_completion_length,
            model=model,
            seed=args.seed,
            batch_size=args.per_device_eval_batch_size,
            model_name=mode,
            prompt_suffix=source.prompt_suffix,
        )
        for name, found in measured.items():
            row: dict[str, Any] = {"set": name, "mode": mode, "training": training}
            for key, values in found.items():
                other = baseline[name][key] if baseline is not None and mode != BEFORE else None
                row[key] = fmean(values) if key.endswith("tokens") else figures(values, other)
            rows.append(row)
        return measured

    if state.is_main_process:
        add(BEFORE, model_args.model_name_or_path, {"written": 0, "accuracies": []})
    state.wait_for_everyone()
    for mode in sorted(source.modes, key=lambda name: name != BASELINE):
        own = copy.copy(args)
        own.cot, own.output_dir = mode, str(output / mode)
        trainer = SoftTokensTrainer(
            reward_funcs=[math_accuracy_reward, boxed_answer_reward],
            args=own,
            train_dataset=train_dataset,
            **model_arguments(own, model_args, padding_side="left", truncation_side="left"),
        )
        show_progress(trainer)
        trainer.train()
        trainer.save_model()
        trainer.create_model_card(dataset_name=source.dataset_name)
        state.wait_for_everyone()
        if state.is_main_process:
            per_step = own.per_device_train_batch_size * state.num_processes * own.gradient_accumulation_steps
            measured = add(mode, own.output_dir, training_figures(trainer.state.log_history, per_step))
            baseline = measured if mode == BASELINE else baseline
    if state.is_main_process:
        rows.sort(key=lambda row: list(sets).index(row["set"]))
        print_table(rows, source.samples)
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "report.json", json.dumps(rows, indent=2).encode())
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
