# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[experimental]"]
# ///
"""
Train the navigator of RLoT over a frozen model, and compare it with plain decoding and with fixed and random navigators.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes. Its greedy decoding and a majority vote of as many
tokens are compared, too, on problems of three operations and on harder ones. With --noise, the navigator is also evaluated on a second model that it
was not trained on, the embedded one with noise on its weights:

    python examples/rlot.py
    python examples/rlot.py --noise 0.25

A model that follows instructions, with a process reward model for the steps:

    python examples/rlot.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k --dataset_config main \
        --reward_model peiyi9979/math-shepherd-mistral-7b-prm --output_dir outputs/rlot

An interrupted training continues with the same command.

Time and memory: the run without arguments takes some minutes of one CPU core. Not measured on a GPU: memory is that of generating with both models, and an
episode takes 8 to 60 calls.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_concise import demo
from trl_concise.cli.recipe import RecipeParser
from trl_concise.errors import report_input_errors


if TYPE_CHECKING:
    from datasets import Dataset

    from trl_concise.experimental.rlot import ReasoningEnvironment

POLICIES = ("navigator", "always:R", "random")


@dataclass
class RLoTArguments:
    """Options of the script."""

    model_name_or_path: str = field(default="demo", metadata={"help": "The frozen model; demo is the embedded one."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "Problems of a model that is not the embedded one: Hub id or local file."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    reward_model: str | None = field(default=None, metadata={"help": "Process reward model of such a model's steps."})
    output_dir: str = field(default="outputs/rlot-demo", metadata={"help": "Folder of the results."})
    episodes: int = field(default=480, metadata={"help": "Episodes of the training."})
    parallel: int = field(default=32, metadata={"help": "Episodes of the training that advance together."})
    replay_size: int = field(default=500, metadata={"help": "Transitions before the first update."})
    problems: int = field(default=256, metadata={"help": "Problems to train on."})
    report_problems: int = field(default=96, metadata={"help": "Problems of each set to evaluate on."})
    votes: int = field(default=4, metadata={"help": "Largest number of completions of a vote."})
    max_new_tokens: int = field(default=256, metadata={"help": "Tokens of a completion, or of a call."})
    noise: float = field(
        default=0.0, metadata={"help": "Of the demo: noise of a second model to evaluate on; 0: no second model."}
    )
    seed: int = field(default=1, metadata={"help": "Seed of weights, exploration, problems and draws."})


def load_sets(args: RLoTArguments) -> tuple[Dataset, dict[str, Dataset]]:
    """Return the problems to train on, and the sets to evaluate on."""
    if args.dataset_name is None:
        sets = {
            f"{n} operations": demo.problem_dataset(args.report_problems, seed=args.seed, operations=(n,))
            for n in (3, 4)
        }
        return demo.train_dataset(args.problems, seed=args.seed, operations=(2, 3)), sets
    from trl_concise.evaluation import load_problem_sets

    loaded = [
        load_problem_sets([args.dataset_name], config_name=args.dataset_config, split=split)
        for split in ("train", "test")
    ]
    (train,), (test,) = (list(sets.values()) for sets in loaded)
    limits = (args.problems, args.report_problems)
    train, test = (rows.select(range(min(n, len(rows)))) for rows, n in zip((train, test), limits, strict=True))
    return train, {"test": test}


def make_environment(model: str, args: RLoTArguments) -> ReasoningEnvironment:
    """Return the environment of a model: with its lines as steps if it is the embedded one, otherwise with instructions."""
    from trl_concise.evaluation.sampling import load_sampler
    from trl_concise.experimental.rlot import FrozenModel, ReasoningEnvironment
    from trl_concise.experimental.rlot.demo import LineBlocks, LineReader
    from trl_concise.experimental.rlot.instructions import InstructionBlocks, RatingReader

    sampler = load_sampler(model)
    if args.dataset_name is None:
        blocks, reader = LineBlocks(sampler.tokenizer), LineReader(sampler.tokenizer)
    else:
        options = {"max_new_tokens": args.max_new_tokens}
        blocks, reader = InstructionBlocks(sampler.tokenizer, **options), RatingReader(sampler.tokenizer, **options)
    return ReasoningEnvironment(FrozenModel(sampler), blocks, reader)


def measure(model: str, name: str, rows: Dataset, navigator: Any, folder: Path, args: RLoTArguments) -> list[dict]:
    """Return the rows of results of one model on one set."""
    from trl_concise.evaluation import evaluate
    from trl_concise.evaluation.completions import read_completions
    from trl_concise.evaluation.sampling import load_sampler, tokenize_prompts
    from trl_concise.experimental.equal_cost import result_row, vote_at_tokens
    from trl_concise.experimental.rlot import make_policy, run_policy

    environment = make_environment(model, args)
    found = {}
    for policy in POLICIES:
        _, found[policy] = run_policy(
            environment,
            rows,
            make_policy(policy, navigator, args.seed),
            folder / policy.replace(":", "-"),
            seed=args.seed,
        )
    own = [float(record["correct"] is True) for record in found["navigator"]]

    def mean(records: list[dict[str, Any]], key: str) -> float:
        return sum(record[key] for record in records) / len(records)

    prompts = sum(map(len, tokenize_prompts(load_sampler(model).tokenizer, rows["prompt"]))) / len(rows)
    results = []
    for policy, records in found.items():
        correct = [float(record["correct"] is True) for record in records]
        costs = {"prompt_tokens": mean(records, "prompt_tokens"), "calls": mean(records, "calls")}
        other = None if policy == "navigator" else own
        results.append(result_row(policy, correct, mean(records, "generated_tokens"), other, **costs))
    for method, temperature, n in (("plain decoding", 0.0, 1), ("majority vote", 1.0, args.votes)):
        evaluate(
            model,
            {name: rows},
            folder / method.replace(" ", "-"),
            num_completions=n,
            max_new_tokens=args.max_new_tokens,
            temperature=temperature,
            top_p=1.0,
            seed=args.seed,
            batch_size=128,
            progress=False,
        )
        completions = sorted(
            read_completions(folder / method.replace(" ", "-") / "completions.jsonl"),
            key=lambda item: (item.problem, item.completion),
        )
        correct, tokens = vote_at_tokens(completions, results[0]["tokens"])
        costs = {"prompt_tokens": prompts, "calls": 1.0}  # the n completions of a vote can share the prompt
        results.append(result_row(method, correct, sum(tokens) / len(tokens), own, **costs))
    return results


def show(results: dict[str, list[dict]]) -> None:
    """Print the results."""
    from trl_concise.experimental.equal_cost import describe_difference

    print(
        "| Problems | Procedure | Accuracy (95 %) | Generated tokens | Prompt tokens | Calls | Navigator minus this |"
    )
    print("|---|---|---|---:|---:|---:|---|")
    for name, rows in results.items():
        for row in rows:
            low, high = row["accuracy_interval"]
            print(
                f"| {name} | {row['name']} | {row['accuracy']:.1%} ({low:.1%} to {high:.1%}) | {row['tokens']:.1f} | "
                f"{row['prompt_tokens']:.0f} | {row['calls']:.1f} | {describe_difference(row)} |"
            )


@report_input_errors()
def main(arguments: list[str] | None = None):
    (args,) = RecipeParser((RLoTArguments,)).parse_args_and_config(arguments)
    if (args.model_name_or_path == "demo") != (args.dataset_name is None):
        raise ValueError(
            "The embedded model solves generated problems only. Give both --model_name_or_path and --dataset_name, or neither."
        )
    if (args.dataset_name is None) != (args.reward_model is None):
        raise ValueError(
            "--reward_model scores the steps of a model that is not the embedded one. Give it with --dataset_name."
        )
    for name in ("episodes", "parallel", "replay_size", "problems", "report_problems", "votes", "max_new_tokens"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}.")

    # After the command line: --help does not wait for them.
    from trl_concise.cli.quiet import hide_messages, hide_weight_bars
    from trl_concise.experimental.rlot import NavigatorConfig, train_navigator
    from trl_concise.experimental.rlot.demo import weakened_model
    from trl_concise.experimental.step_scores import RewardModelScorer, RuleScorer
    from trl_concise.state.checkpoint import write_atomically

    hide_messages()
    hide_weight_bars()
    folder = Path(args.output_dir)
    train, sets = load_sets(args)
    navigator = train_navigator(
        make_environment(args.model_name_or_path, args),
        train,
        RewardModelScorer(args.reward_model) if args.reward_model is not None else RuleScorer(),
        folder,
        NavigatorConfig(seed=args.seed, replay_size=args.replay_size, batch_size=min(64, args.replay_size)),
        episodes=args.episodes,
        parallel=args.parallel,
    )
    models = {"": args.model_name_or_path}
    if args.noise and args.dataset_name is None:
        models[", second model"] = str(weakened_model(folder / "second-model", args.noise))
    results = {
        name + label: measure(model, name, rows, navigator, folder / f"{name}{label}".replace(" ", "-"), args)
        for label, model in models.items()
        for name, rows in sets.items()
    }
    write_atomically(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    show(results)


if __name__ == "__main__":
    main()
