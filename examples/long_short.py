# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with Long(x)Short: a long policy thinks about the important steps, a short policy completes the rest or returns the problem.

Without arguments: the embedded model on generated problems, on a CPU. It is taught both roles, then the long policy is trained with the short
one frozen, and the short policy with the long one frozen. A table compares their dialogues, the tokens of both included, with the long policy
alone, and with one policy that is trained with GRPO and a length reward for as many steps, on problems that training never saw:

    python examples/long_short.py

Real models, fine-tuned for their roles before (docs/experimental/long_short.md), one role at a time on one GPU:

    accelerate launch examples/long_short.py --role long --model_name_or_path outputs/sft-long --partner outputs/sft-short \
        --dataset_name openai/gsm8k --dataset_config main --output_dir outputs/long-1
    accelerate launch examples/long_short.py --role short --model_name_or_path outputs/sft-short --partner outputs/long-1 \
        --dataset_name openai/gsm8k --dataset_config main --output_dir outputs/short-1

Time and memory: without arguments 5.4 minutes of one CPU core, mostly for the cold start. Not measured on a GPU: `trl-concise plan` plans the policy, and the weights and the
cache of its partner come in addition.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_concise import ConciseGRPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


CONTROL = "GRPO + length reward"


@dataclass
class LongShortConfig(ConciseGRPOConfig):
    role: str = field(
        default="long",
        metadata={"help": "Role of the policy that is trained; the demo trains both.", "choices": ["long", "short"]},
    )
    partner: str | None = field(default=None, metadata={"help": "The frozen policy: path or Hub id."})
    max_turns: int = field(default=4, metadata={"help": "Largest number of turns of each policy."})
    partner_tokens: int = field(default=2048, metadata={"help": "Largest number of tokens of a turn of the partner."})
    partner_temperature: float = field(default=0.3, metadata={"help": "Sampling temperature of the partner."})
    length: str = field(
        default="own",
        metadata={"help": "Tokens that the length reward compares; of the demo joint.", "choices": ["own", "joint"]},
    )
    long_prompt: str | None = field(default=None, metadata={"help": "System prompt of the long policy."})
    short_prompt: str | None = field(default=None, metadata={"help": "System prompt of the short policy."})
    demo_steps: int = field(default=250, metadata={"help": "Of the demo: steps that teach each role."})


def train_role(script: TrainingScript, role: str, model: str, partner: str, limits: dict[str, int], folder: Path):
    """Train one role from a model while its partner is frozen, and return the trainer."""
    args = copy.copy(script.training_args)
    args.output_dir, args.max_completion_length = str(folder), limits[role]
    script.model_args.model_name_or_path = model
    other = "short" if role == "long" else "long"
    return run(make_trainer(script, args, role, partner, limits[other]))


def run(trainer):
    """Train, save the model, and return the trainer."""
    from trl_concise.callbacks import show_progress

    show_progress(trainer)
    trainer.train()
    trainer.save_model()
    return trainer


def make_trainer(script: TrainingScript, args: LongShortConfig, role: str, partner: str, partner_tokens: int):
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.experimental.long_short import (
        LongShortLengthReward,
        LongShortRollout,
        long_short_accuracy,
        long_short_format,
        with_readable_answers,
    )

    rollout = LongShortRollout(
        role,
        partner,
        max_turns=args.max_turns,
        partner_tokens=partner_tokens,
        partner_temperature=args.partner_temperature,
        long_prompt=args.long_prompt,
        short_prompt=args.short_prompt,
    )
    args.correctness = args.correctness or long_short_accuracy.__name__
    arguments = script.trainer_arguments() | {"args": args}
    if script.problem_args.dataset_name is not None:
        arguments["train_dataset"] = with_readable_answers(arguments["train_dataset"])
    return ConciseGRPOTrainer(
        reward_funcs=[long_short_accuracy, long_short_format, LongShortLengthReward(args.length)],
        rollout=rollout,
        **arguments,
    )


def train_single(script: TrainingScript, folder: Path):
    """Train the embedded model with GRPO and the length reward for as many steps as both roles together, and return the trainer."""
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.methods.kimi import KimiLengthReward

    args = copy.copy(script.training_args)
    args.output_dir, args.max_steps = str(folder), 2 * args.max_steps
    args.max_completion_length = demo.SETTINGS["max_completion_length"]
    script.model_args.model_name_or_path = str(demo.model_path())
    trainer = ConciseGRPOTrainer(
        reward_funcs=[script.accuracy_reward(), KimiLengthReward()], **script.trainer_arguments() | {"args": args}
    )
    return run(trainer)


def generated_tokens(trainer) -> float:
    """Return how many tokens a run generated, those of the partner included."""
    names = ("long_short/joint_tokens", "completions/mean_length")
    means = [
        next(entry[name] for name in names if name in entry) for entry in trainer.state.log_history if "loss" in entry
    ]
    return sum(means) * trainer.args.generation_batch_size


def run_demo(script: TrainingScript) -> None:
    """Teach the embedded model both roles, train one round of them and one policy, and report."""
    from trl_concise.experimental.long_short import LongShortRollout
    from trl_concise.experimental.long_short.demo import TURN_TOKENS, role_model

    args, root = script.training_args, Path(script.training_args.output_dir)
    # Settings are checked before the cold start.
    LongShortRollout("long", "short", max_turns=args.max_turns, partner_temperature=args.partner_temperature)
    limits = {**TURN_TOKENS, "long": args.max_completion_length}
    starts = {role: str(role_model(role, root / f"{role}-start", steps=args.demo_steps)) for role in limits}
    spent = {
        "long": generated_tokens(train_role(script, "long", starts["long"], starts["short"], limits, root / "long"))
    }
    spent["short"] = generated_tokens(
        train_role(script, "short", starts["short"], str(root / "long"), limits, root / "short")
    )
    spent["single"] = generated_tokens(train_single(script, root / "single"))
    if script.problem_args.report_problems:
        report(script, root, starts, limits, spent)


def report(
    script: TrainingScript, root: Path, starts: dict[str, str], limits: dict[str, int], spent: dict[str, float]
) -> None:
    """Evaluate all systems on the same problems, print a table for each set, and write `results.json`."""
    from trl_concise.experimental.long_short import DialogueSettings, evaluate_dialogues
    from trl_concise.state.checkpoint import write_atomically

    args, problems = script.training_args, min(script.problem_args.report_problems, 1024)
    sets = {f"{n} operations": demo.problem_dataset(problems, operations=(n,)) for n in (2, 3)}
    settings = DialogueSettings(
        args.max_turns, limits["long"], limits["short"], temperature=1.0, top_p=1.0, seed=args.seed
    )
    pairs = {
        "cold start": (starts["long"], starts["short"]),
        "long trained": (str(root / "long"), starts["short"]),
        "both trained": (str(root / "long"), str(root / "short")),
    }
    results: list[dict[str, Any]] = []
    for name, (long, short) in pairs.items():
        for record in evaluate_dialogues(long, short, sets, settings):
            dataset, system = record["dataset"].rsplit(", ", 1)
            if system == "dialogue" or name != "both trained":  # the long policy is the same as before
                results.append({**record, "dataset": dataset, "system": f"{system}, {name}"})
    for name, model in {"embedded model": demo.model_path(), CONTROL: root / "single"}.items():
        results += [{**record, "system": name} for record in evaluate_single(str(model), sets, args.seed)]
    for dataset in sets:
        print(f"\n{dataset}, {problems} problems\n\n{table([one for one in results if one['dataset'] == dataset])}")
    print("\nTokens generated in training: " + ", ".join(f"{name} {tokens:,.0f}" for name, tokens in spent.items()))
    content = json.dumps({"results": results, "generated_tokens": spent}, indent=2, allow_nan=False) + "\n"
    write_atomically(root / "results.json", content.encode())


def table(records: list[dict[str, Any]]) -> str:
    """Return the results on one set in Markdown, with the paired difference in accuracy to [`CONTROL`], which is added to the records."""
    from trl_concise.experimental.equal_cost import paired_difference

    (control,) = [record for record in records if record["system"] == CONTROL]
    lines = [
        "| System | Accuracy | Against GRPO, points | Tokens | Long, short | Turns | Returned if wrong, right | Unfinished |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        ours, theirs = ([100 * value for value in one["correct"]] for one in (record, control))
        points, (low, high) = paired_difference(ours, theirs)
        record["against_control"] = {"points": points, "interval": [low, high]}
        cells = [
            record["system"],
            "{:.1%} [{:.1%}, {:.1%}]".format(record["accuracy"], *record["accuracy_interval"]),
            f"{points:+.1f} [{low:+.1f}, {high:+.1f}]" if record is not control else "",
            "{:.1f} [{:.1f}, {:.1f}]".format(record["tokens_mean"], *record["tokens_interval"]),
            *([""] * 4),
        ]
        if "turns_mean" in record:
            cells[4:] = [
                f"{record['long_tokens_mean']:.1f}, {record['short_tokens_mean']:.1f}",
                f"{record['turns_mean']:.2f}",
                ", ".join(percent(record[f"returned_{name}"]) for name in ("wrong", "right")),
                f"{record['unfinished_fraction']:.1%}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """Return a share as a percentage, a dash if it is unknown."""
    return f"{share:.1%}" if share is not None else "-"


def evaluate_single(model: str, sets: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Return the records of one policy, with `correct` and `tokens` of each problem."""
    from tempfile import TemporaryDirectory

    from trl_concise.evaluation import evaluate
    from trl_concise.evaluation.folder import read_sets

    with TemporaryDirectory() as folder:
        records = evaluate(model, sets, folder, seed=seed, progress=False, **demo.EVALUATION)
        items = read_sets(Path(folder), sets)
    return [
        {
            **record,
            "correct": [float(bool(item.correct)) for item in items[record["dataset"]]],
            "tokens": [item.tokens for item in items[record["dataset"]]],
        }
        for record in records
    ]


@report_input_errors()
def main():
    script = TrainingScript(
        LongShortConfig,
        output_dir="outputs/long_short-demo",
        max_steps=24,
        max_completion_length=64,
        save_strategy="no",
        report_problems=256,
        length="joint",  # with its own tokens alone, the short policy learns to return every problem
    )
    args = script.training_args
    if script.model_args.model_name_or_path == str(demo.model_path()):
        if unused := sorted(script.given & {"partner", "role"}):
            raise ValueError(
                f"--{unused[0]} has no effect without --model_name_or_path, because the demo makes and trains both policies. Leave it out."
            )
        run_demo(script)
        return
    if args.partner is None:
        raise ValueError("Name the frozen policy with --partner: the path or Hub id of the other role's model.")
    script.train(make_trainer(script, args, args.role, args.partner, args.partner_tokens))


if __name__ == "__main__":
    main()
