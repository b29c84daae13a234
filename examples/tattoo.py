# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft]"]
# ///
"""
Check the steps of solutions with tools, as TaTToo labels them: as the score of a vote and of best-of-n, and as a reward.

Without arguments: the embedded model, on a CPU, in a few minutes. Majority vote, weighted vote, best-of-n and pass@n choose among the same
completions; then GRPO is run without and with the reward for the same number of steps, and both models are measured on held-out problems:

    python examples/tattoo.py

A real model on one GPU. Rows of the dataset may have a column `table`, for claims about cells and aggregates:

    python examples/tattoo.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k --dataset_config main \
        --test_sets gsm8k math500 --max_completion_length 1024 --use_vllm --output_dir outputs/tattoo

The results are printed, and written to `report.json`. The false claims are in `steps.jsonl` of each evaluation.

Time and memory: the run without arguments takes 4.4 minutes of one CPU core. A real model takes the memory of GRPO; not measured on a GPU yet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from trl import ModelConfig

from trl_concise import ConciseGRPOConfig, demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors


if TYPE_CHECKING:
    from datasets import Dataset

DEMO = {
    **demo.SETTINGS,
    "output_dir": "outputs/tattoo-demo",
    "max_steps": 50,
    "per_device_train_batch_size": 32,
    "max_completion_length": 192,
    "save_strategy": "no",
    "report_problems": 256,
}
BASELINE, STEPS = "correctness", "correctness and steps"
SETS = {"test": (2,), "harder": (3,)}  # operations of the generated problems; the training problems have two


@dataclass
class TaTTooArguments(RunArguments):
    """Which problems to train on and to measure on, and the weight of the reward."""

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
    samples: int = field(default=8, metadata={"help": "Completions per problem to choose among, at least 2."})
    alpha: float = field(default=1.0, metadata={"help": "Exponent of the score in the weighted vote."})
    step_weight: float = field(
        default=0.2, metadata={"help": "Weight of the reward for steps; that of correctness is 1."}
    )


def load_problems_to_train(source: TaTTooArguments, seed: int) -> Dataset:
    if source.dataset_name is None:
        return demo.train_dataset(seed=seed, operations=SETS["test"])
    from trl_concise.data import load_problems

    return load_problems(source.dataset_name, config_name=source.dataset_config, split=source.dataset_train_split)


def load_problems_to_measure(source: TaTTooArguments) -> dict[str, Dataset]:
    if not source.test_sets:
        return {name: demo.problem_dataset(source.report_problems, operations=count) for name, count in SETS.items()}
    from trl_concise.evaluation import load_problem_sets

    return dict(load_problem_sets(source.test_sets))


def print_selection(records: list[dict[str, Any]]) -> None:
    print(
        "\n| Set | n | Tokens | Majority vote | Weighted vote | Against majority, points | Best of n | Against majority, points | Any |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for record in records:
        cells = [record["dataset"], record["n"], f"{record['tokens_mean']:.0f}"]
        for name in ("majority", "steps, weighted", "steps"):
            found = record["selectors"][name]
            cells.append(f"{found['accuracy']:.1%} {interval(found['interval'])}")
            if name != "majority":
                cells.append(points(found))
        print(f"| {' | '.join(map(str, cells))} | {record['any']:.1%} |")
    for record in records:
        if record["n"] == 2 and record["auc"] is not None:
            print(
                f"AUC within problems, {record['dataset']}: {record['auc']:.3f} {interval(record['auc_interval'], 1, '.3f')}"
            )


def print_training(rows: list[dict[str, Any]]) -> None:
    print(
        "\n| Model | Set | Accuracy | Against correctness alone, points | Tokens | Claims | False | Tokens of training, with prompts |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['model']} | {row['dataset']} | {row['accuracy']:.1%} {interval(row['accuracy_interval'])} | "
            f"{points(row) if 'difference' in row else ''} | {row['tokens_mean']:.1f} | {row['claims_mean']:.2f} | "
            f"{share(row['false_fraction'])} | {row['training_tokens']:,} |"
        )


def by_problem(values: list[tuple[int, float]]) -> list[list[float]]:
    groups: dict[int, list[float]] = {}
    for problem, value in values:
        groups.setdefault(problem, []).append(value)
    return list(groups.values())


def interval(values: list[float], scale: float = 100, form: str = ".1f") -> str:
    return f"[{scale * values[0]:{form}}, {scale * values[1]:{form}}]"


def points(figures: dict[str, Any]) -> str:
    return f"{100 * figures['difference']:+.1f} {interval(figures['difference_interval'], 100, '+.1f')}"


def share(value: float | None) -> str:
    return f"{value:.2%}" if value is not None else "-"


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((TaTTooArguments, ConciseGRPOConfig, ModelConfig), arguments, DEMO)
    if source.samples < 2 or source.report_problems < 1:
        raise ValueError(
            f"--samples must be at least 2 and --report_problems at least 1; got {source.samples} and {source.report_problems}."
        )
    for name in ("alpha", "step_weight"):
        if not 0 <= getattr(source, name) < float("inf"):
            raise ValueError(f"--{name} must be a finite number of at least 0, got {getattr(source, name)}.")

    # After the command line: --help does not wait for them.
    from accelerate import PartialState

    from trl_concise import ConciseGRPOTrainer, math_accuracy_reward
    from trl_concise.callbacks import show_progress
    from trl_concise.evaluation import evaluate
    from trl_concise.evaluation.folder import read_sets
    from trl_concise.evaluation.metrics import bootstrap_interval
    from trl_concise.experimental.tattoo import step_tool_reward, verify_steps
    from trl_concise.state.checkpoint import write_atomically

    state, output = PartialState(), Path(args.output_dir)
    sets = load_problems_to_measure(source)
    is_demo = model_args.model_name_or_path == str(demo.model_path())
    sampling: dict[str, Any] = (
        demo.EVALUATION
        if is_demo
        else {
            "max_new_tokens": args.max_completion_length,
            "temperature": args.temperature,
            "top_p": args.top_p,
            "use_vllm": args.use_vllm,
        }
    )

    def measure(model: str, name: str, samples: int) -> list[dict[str, Any]]:
        """Sample and judge, check the steps, and add the rows of the model to the table of training."""
        folder = output / f"{name.replace(' ', '-')}-eval"
        records = evaluate(model, sets, folder, num_completions=samples, seed=args.seed, progress=False, **sampling)
        sizes = sorted({samples, *(2**power for power in range(1, samples.bit_length()))})
        checked = [record for n in sizes for record in verify_steps(folder, sets, folder, n=n, alpha=source.alpha)]
        correct[name] = {
            key: by_problem([(item.problem, float(bool(item.correct))) for item in items])
            for key, items in read_sets(folder, sets).items()
        }
        for record, claims in zip(records, checked[: len(records)], strict=True):
            key = record["dataset"]
            row = {"model": name, "dataset": key, "training_tokens": tokens}
            row |= {figure: record[figure] for figure in ("accuracy", "accuracy_interval", "tokens_mean")}
            row |= {figure: claims[figure] for figure in ("claims_mean", "false_fraction")}
            if name == STEPS:
                pairs = zip(correct[name][key], correct[BASELINE][key], strict=True)
                gains = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
                row["difference"] = fmean(gain for own in gains for gain in own)
                row["difference_interval"] = list(bootstrap_interval(gains))
            rows.append(row)
        return checked

    report: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    correct: dict[str, dict[str, list[list[float]]]] = {}
    tokens = 0
    if state.is_main_process:
        report["selection"] = measure(model_args.model_name_or_path, "before", source.samples)
        print_selection(report["selection"])
    state.wait_for_everyone()

    for name, functions in {BASELINE: [math_accuracy_reward], STEPS: [math_accuracy_reward, step_tool_reward]}.items():
        args.output_dir = str(output / name.replace(" ", "-"))
        args.reward_weights = [1.0, source.step_weight][: len(functions)]
        trainer = ConciseGRPOTrainer(
            reward_funcs=functions,
            args=args,
            train_dataset=load_problems_to_train(source, args.seed),
            **model_arguments(args, model_args, padding_side="left", truncation_side="left"),
        )
        show_progress(trainer)
        trainer.train()
        trainer.save_model()
        tokens = max((int(entry.get("num_tokens", 0)) for entry in trainer.state.log_history), default=0)
        state.wait_for_everyone()
        if state.is_main_process:
            measure(args.output_dir, name, 2)
    if state.is_main_process:
        report["training"] = rows
        print_training(rows)
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "report.json", json.dumps(report, indent=2).encode())
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
