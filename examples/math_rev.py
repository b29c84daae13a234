# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft]"]
# ///
"""
Train a verifier from correct and wrong solutions, as Math-Rev does, and choose among n solutions with it and with a check by a program (CoTnPoT).

Without arguments: the embedded model, on a CPU, in a few minutes. Majority vote, best-of-n, and best-of-n among the consistent solutions are compared on
held-out problems, with a reward model on the same pairs, the untrained model and the length as baselines:

    python examples/math_rev.py

A real model on one GPU. The solutions are sampled from it, and it is trained further as the verifier:

    python examples/math_rev.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k --dataset_config main \
        --test_sets gsm8k math500 --max_new_tokens 1024 --use_vllm --output_dir outputs/math-rev

The results are printed, and written to `report.json`.

Time and memory: the run without arguments takes 3.3 minutes of one CPU core. The memory is that of DPO without a reference model; not measured on a GPU yet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from trl import ModelConfig

from trl_concise import demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors
from trl_concise.experimental.math_rev.config import VerifierConfig


if TYPE_CHECKING:
    from datasets import Dataset

DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/math-rev-demo",
    "report_problems": 96,
    "temperature": 1.6,  # about half of the embedded model's completions are then correct
    "max_new_tokens": 192,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
SETS = {"test": (2,), "harder": (3,)}  # operations of the generated problems; the training problems have two


@dataclass
class MathRevArguments(RunArguments):
    """Which problems to sample, and how."""

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
    train_problems: int = field(default=192, metadata={"help": "Largest number of problems to train on."})
    train_samples: int = field(default=8, metadata={"help": "Completions of each, at least 2."})
    samples: int = field(
        default=8,
        metadata={"help": "Completions to choose among; twice as many are sampled, for the vote at equal tokens."},
    )
    max_pairs: int = field(default=4, metadata={"help": "Most pairs per problem."})
    max_new_tokens: int = field(default=1024, metadata={"help": "Limit of a completion, in tokens."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    reward_model: bool = field(
        default=True, metadata={"help": "Whether to train a reward model on the same pairs, as a baseline."}
    )
    use_vllm: bool = field(default=False, metadata={"help": "Whether to sample with vLLM."})


def load_problems_to_train(source: MathRevArguments, seed: int) -> Dataset:
    if source.dataset_name is None:
        return demo.train_dataset(source.train_problems, seed=seed, operations=SETS["test"])
    from trl_concise.data import load_problems

    problems = load_problems(source.dataset_name, config_name=source.dataset_config, split=source.dataset_train_split)
    return problems.shuffle(seed=seed).select(range(min(source.train_problems, len(problems))))


def load_problems_to_measure(source: MathRevArguments) -> dict[str, Dataset]:
    if not source.test_sets:
        return {name: demo.problem_dataset(source.report_problems, operations=count) for name, count in SETS.items()}
    from trl_concise.evaluation import load_problem_sets

    return dict(load_problem_sets(source.test_sets))


def train_reward_model(pairs: Dataset, args: VerifierConfig, model_args: ModelConfig, folder: Path) -> None:
    """Train TRL's reward model, a scalar head with the Bradley-Terry loss, on the same pairs with the same settings."""
    from trl import RewardConfig, RewardTrainer

    shared = """
        num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type warmup_steps logging_steps
        save_strategy report_to use_cpu bf16 fp16 gradient_checkpointing seed disable_tqdm
    """
    settings = {name: getattr(args, name) for name in shared.split()}
    config = RewardConfig(output_dir=str(folder), max_length=None, **settings)
    given = model_arguments(config, replace(model_args, lora_task_type="SEQ_CLS"))
    trainer = RewardTrainer(args=config, train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]), **given)
    trainer.train()
    trainer.save_model()


def gain(correct: list[list[float]], baseline: list[list[float]]) -> tuple[float, list[float]]:
    """Return the mean difference of two accuracies, and its interval, paired by problem."""
    from trl_concise.evaluation.metrics import bootstrap_interval

    gains = [[fmean(a) - fmean(b)] for a, b in zip(correct, baseline, strict=True)]
    return fmean(value for (value,) in gains), list(bootstrap_interval(gains))


def add_rows(
    report: dict[str, Any],
    name: str,
    items: list[Any],
    scores: dict[str, list[float]],
    consistent: list[bool],
    read: float,
    n: int,
) -> None:
    """Add the figures of one problem set: selection among n, the vote over 2n, and the AUC of each score."""
    from trl_concise.experimental.selectors import compare_selectors, within_problem_auc

    of_n = compare_selectors(items, scores, n, kept=consistent)
    of_2n = compare_selectors(items, {}, 2 * n)
    shown = {"majority", "majority, filtered", "verifier, filtered", "untrained model, filtered", *scores}
    for label, selection in of_n["selectors"].items():
        if label not in shown:
            continue
        correct = of_n["correct"][label]
        row = {
            "dataset": name,
            "selector": label,
            "n": n,
            "tokens": of_n["tokens_mean"],
            "read": n * read if label.split(",")[0] in ("verifier", "reward model", "untrained model") else 0,
            "accuracy": selection.accuracy,
            "interval": selection.interval,
            "against_n": gain(correct, of_n["correct"]["majority"]) if label != "majority" else None,
            "against_2n": gain(correct, of_2n["correct"]["majority"]),
        }
        report["selection"].append(row)
    vote = of_2n["selectors"]["majority"]
    row = {"dataset": name, "selector": "majority", "n": 2 * n, "tokens": of_2n["tokens_mean"], "read": 0}
    report["selection"].append(row | {"accuracy": vote.accuracy, "interval": vote.interval})
    row = {"dataset": name, "selector": "any (oracle)", "n": n, "tokens": of_n["tokens_mean"], "read": 0}
    report["selection"].append(row | {"accuracy": of_n["any"], "interval": None})
    problems: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        if item.correct is not None and not item.truncated:
            problems.setdefault(item.problem, []).append(place)
    correct = [[items[place].correct for place in places] for places in problems.values()]
    grouped = {
        label: [[values[place] for place in places] for places in problems.values()]
        for label, values in scores.items()
    }
    for label, values in grouped.items():
        auc = within_problem_auc(values, correct)
        if auc is not None:
            row = {"dataset": name, "score": label, "auc": auc[0], "interval": auc[1]}
            row["difference"] = (
                within_problem_auc(grouped["verifier"], correct, values) if label != "verifier" else None
            )
            report["auc"].append(row)


def print_report(report: dict[str, Any]) -> None:
    print(
        "\n| Set | Selector | n | Tokens | Tokens read by the verifier | Accuracy | Against majority of n, points | Against majority of 2n, points |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in report["selection"]:
        cells = [row["dataset"], row["selector"], row["n"], f"{row['tokens']:.0f}", f"{row['read']:.0f}"]
        cells.append(f"{row['accuracy']:.1%} {interval(row['interval']) if row['interval'] else ''}".rstrip())
        for name in ("against_n", "against_2n"):
            cells.append(f"{100 * row[name][0]:+.1f} {interval(row[name][1], 100, '+.1f')}" if row.get(name) else "")
        print(f"| {' | '.join(map(str, cells))} |")
    print("\n| Set | Score | AUC within problems | The verifier's, minus this one |")
    print("|---|---|---|---|")
    for row in report["auc"]:
        cells = [row["dataset"], row["score"], f"{row['auc']:.3f} {interval(row['interval'], 1, '.3f')}"]
        gained = row["difference"]
        cells.append(f"{gained[0]:+.3f} {interval(gained[1], 1, '+.3f')}" if gained is not None else "")
        print(f"| {' | '.join(cells)} |")
    for row in report["consistency"]:
        print(
            f"{row['dataset']}: {row['with_program']:.1%} of the solutions have a program, {row['consistent']:.1%} agree with it."
        )


def interval(values: list[float], scale: float = 100, form: str = ".1f") -> str:
    return f"[{scale * values[0]:{form}}, {scale * values[1]:{form}}]"


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((MathRevArguments, VerifierConfig, ModelConfig), arguments, DEMO)
    if min(source.train_samples, source.samples) < 2 or min(source.report_problems, source.train_problems) < 1:
        raise ValueError(
            f"--train_samples and --samples must be at least 2, --report_problems and --train_problems at least 1; got {source.train_samples}, "
            f"{source.samples}, {source.report_problems} and {source.train_problems}."
        )

    # After the command line: --help does not wait for them.
    from accelerate import PartialState

    from trl_concise.callbacks import show_progress
    from trl_concise.evaluation import evaluate
    from trl_concise.evaluation.folder import read_sets
    from trl_concise.experimental.math_rev import (
        VerifierScore,
        VerifierTrainer,
        build_verifier_pairs,
        check_consistency,
        check_no_common_problems,
        completion_rows,
    )
    from trl_concise.experimental.selectors import write_scores
    from trl_concise.methods.tdrm import ProcessReward
    from trl_concise.state.adapters import adapter_config, load_tokenizer
    from trl_concise.state.checkpoint import write_atomically

    if source.reward_model and adapter_config(model_args.model_name_or_path, model_args.model_revision) is not None:
        raise ValueError(
            f"{model_args.model_name_or_path} is an adapter, to which no value head can be added. Merge it first (trl-concise merge), or give "
            "--reward_model false."
        )
    policy, output = model_args.model_name_or_path, Path(args.output_dir)
    training, tests = {"train": load_problems_to_train(source, args.seed)}, load_problems_to_measure(source)
    sampling = {
        "max_new_tokens": source.max_new_tokens,
        "temperature": source.temperature,
        "top_p": 1.0,
        "batch_size": 128,
    }
    batch_size = 64 if policy == str(demo.model_path()) else 8
    sampling |= {"use_vllm": source.use_vllm, "seed": args.seed, "progress": False}
    with PartialState().main_process_first():  # the others find every completion in the folder
        evaluate(policy, training, output / "samples", num_completions=source.train_samples, **sampling)
        evaluate(policy, tests, output / "samples-test", num_completions=2 * source.samples, **sampling)

    tokenizer = load_tokenizer(policy, model_args.model_revision)
    pairs = build_verifier_pairs(
        completion_rows(output / "samples", training, tokenizer), max_pairs=source.max_pairs, seed=args.seed
    )
    found = read_sets(output / "samples-test", tests)
    check_no_common_problems(pairs, [item for items in found.values() for item in items])
    if PartialState().is_main_process:
        print(f"{len(pairs)} pairs of {len(set(pairs['prompt_sha256']))} problems")

    args.output_dir = str(output / "verifier")
    trainer = VerifierTrainer(args=args, train_dataset=pairs, **model_arguments(args, model_args))
    show_progress(trainer)
    trainer.train()
    trainer.save_model()
    if source.reward_model:
        train_reward_model(pairs, args, model_args, output / "reward-model")
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        report: dict[str, Any] = {"pairs": len(pairs), "selection": [], "auc": [], "consistency": []}
        scorers: dict[str, Any] = {
            "verifier": VerifierScore(args.output_dir, beta=args.beta, batch_size=batch_size),
            "untrained model": VerifierScore(policy, batch_size=batch_size),
        }
        if source.reward_model:
            scorers["reward model"] = ProcessReward(
                output / "reward-model", before_answer=False, batch_size=batch_size
            )
        written: list[float] = []
        for name, items in found.items():
            rows = list(completion_rows(output / "samples-test", {name: tests[name]}, tokenizer))
            asked = {"prompts": [row["prompt"] for row in rows], "completions": [row["completion"] for row in rows]}
            before = scorers["verifier"].tokens
            scores = {label: score(**asked) for label, score in scorers.items()}
            scores["minus the tokens"] = [-float(item.tokens) for item in items]
            written += scores["verifier"]
            read = (scorers["verifier"].tokens - before) / len(items)  # per completion
            consistent = check_consistency(items)
            report["consistency"].append(
                {
                    "dataset": name,
                    "with_program": fmean(verdict is not None for verdict in consistent),
                    "consistent": fmean(bool(verdict) for verdict in consistent),
                }
            )
            add_rows(report, name, items, scores, [bool(verdict) for verdict in consistent], read, source.samples)
        write_scores(output / "scores", [item for items in found.values() for item in items], written)
        print_report(report)
        write_atomically(output / "report.json", json.dumps(report, indent=2).encode())
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
