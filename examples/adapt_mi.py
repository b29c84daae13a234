# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[experimental]"]
# ///
"""
Compare AdaptMI and AdaptMI+ with fixed, random and skill examples for all questions, an oracle, and a majority vote of as many tokens.

Without arguments: a variant of the embedded model that has learned to read worked examples, which is trained first, on generated problems of three
operations and on harder ones. On a CPU, in a few minutes:

    python examples/adapt_mi.py

A model that follows instructions. The bank has examples by subject and skill, and the fixed ones; `skills.json` maps the key of each question to its skills (see
docs/experimental/adapt_mi.md). Without a labeler of your own, AdaptMI+ is left out:

    python examples/adapt_mi.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name math500 --bank bank.json \
        --skills skills.json --max_new_tokens 2048 --k 5 --output_dir outputs/adapt-mi

Time and memory: the run without arguments takes some minutes of one CPU core. Not measured on a GPU: memory is that of an evaluation with five examples in each
prompt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from trl_concise import demo
from trl_concise.cli.recipe import RecipeParser
from trl_concise.errors import report_input_errors


REFERENCE = "AdaptMI, self scores, stricter"  # which the others are compared with, and whose tokens the vote has


@dataclass
class AdaptMIArguments:
    """Options of the script."""

    model_name_or_path: str = field(default="demo", metadata={"help": "Model; demo is a variant of the embedded one."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "Problems of another model, named as in trl-concise eval."}
    )
    bank: str | None = field(default=None, metadata={"help": "JSON file of examples for these problems."})
    skills: str | None = field(default=None, metadata={"help": "JSON file of skills by prompt key."})
    reward_model: str | None = field(
        default=None,
        metadata={"help": "Process reward model that also scores the steps. Default: arithmetic in the demo."},
    )
    output_dir: str = field(default="outputs/adapt-mi-demo", metadata={"help": "Folder of the results."})
    tau_1: float = field(default=0.85, metadata={"help": "Threshold of the answer and of the mean score."})
    tau_2: float = field(default=0.7, metadata={"help": "Threshold of each step but the first."})
    strict_tau_2: float = field(
        default=0.75,
        metadata={"help": "Second threshold of the stricter runs with self scores; in the demo for about a third."},
    )
    k: int = field(default=3, metadata={"help": "Examples of a prompt; the paper's is 5."})
    report_problems: int = field(default=128, metadata={"help": "Problems of each set to evaluate on."})
    votes: int = field(default=4, metadata={"help": "Largest number of completions of the vote."})
    max_new_tokens: int = field(default=256, metadata={"help": "Tokens of a completion."})
    demo_steps: int = field(
        default=300, metadata={"help": "Of the demo: steps that teach the model to read examples."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of problems and draws."})


def measure(args: AdaptMIArguments) -> dict[str, list[dict[str, Any]]]:
    """Run every procedure, and return the rows of results by problem set."""
    from trl_concise.evaluation import evaluate, load_problem_sets
    from trl_concise.evaluation.folder import read_sets
    from trl_concise.evaluation.sampling import load_sampler
    from trl_concise.experimental.adapt_mi import SelfScorer, SkillBank, adapt, adaptive_examples
    from trl_concise.experimental.adapt_mi.bank import NUM_EXAMPLES, few_shot_prompt, prompt_key, question_of
    from trl_concise.experimental.adapt_mi.demo import (
        PROMPT_OPTIONS,
        SPLIT_OPTIONS,
        example_bank,
        few_shot_model,
        missing_skills,
        skills_of,
    )
    from trl_concise.experimental.equal_cost import result_row, vote_at_tokens
    from trl_concise.experimental.step_scores import RewardModelScorer, RuleScorer

    folder, tau = Path(args.output_dir), (args.tau_1, args.tau_2)
    is_demo = args.dataset_name is None
    prompt_options: dict[str, Any] = PROMPT_OPTIONS if is_demo else {}
    split_options: dict[str, Any] = SPLIT_OPTIONS if is_demo else {}
    if is_demo:
        model = str(few_shot_model(folder / "few-shot-model", steps=args.demo_steps, seed=args.seed))
        sets = {
            f"{n} operations": demo.problem_dataset(args.report_problems, seed=args.seed, operations=(n,))
            for n in (3, 4)
        }
        bank = example_bank(seed=args.seed)
        skills = {prompt_key(row): skills_of(question_of(row["prompt"])) for rows in sets.values() for row in rows}
    else:
        model = args.model_name_or_path
        loaded = load_problem_sets([args.dataset_name])
        sets = {name: rows.select(range(min(args.report_problems, len(rows)))) for name, rows in loaded.items()}
        bank = SkillBank.load(args.bank)
        skills = json.loads(Path(args.skills).read_text(encoding="utf-8"))
    examples = {"k": args.k, "skill_examples": min(args.k, NUM_EXAMPLES), "seed": args.seed}
    sampling: dict[str, Any] = {"max_new_tokens": args.max_new_tokens, "seed": args.seed, "progress": False}
    sampling |= {"top_p": 1.0, "batch_size": 64}

    own_scorer = SelfScorer(
        load_sampler(model),
        lambda question: few_shot_prompt(
            [{"role": "user", "content": question}], bank.fixed[: args.k], **prompt_options
        ),
        split_options.get("separator", "\n\n"),
    )
    scorers: dict[str, Any] = {"self scores": own_scorer}
    if args.reward_model is not None:
        scorers["reward model"] = RewardModelScorer(args.reward_model)
    elif is_demo:
        scorers["rule"] = RuleScorer(first=1.0)
    common = {
        **{"scorer": own_scorer, "bank": bank, "skills": skills, "tau": tau, "stage1": folder / "stage1"},
        **{"prompt_options": prompt_options, "split_options": split_options, **examples, **sampling},
    }
    strict = {"tau": (args.tau_1, args.strict_tau_2)}
    runs: dict[str, dict[str, Any]] = {REFERENCE: strict}
    runs |= {f"AdaptMI, {name}": {"scorer": scorer} for name, scorer in scorers.items()}
    if is_demo:
        labeled = {"plus": True, "labeler": partial(missing_skills, tau=args.tau_2)}
        runs |= {f"AdaptMI+, {name}": {"scorer": scorer, **labeled} for name, scorer in scorers.items()}
        strict_labeler = partial(missing_skills, tau=args.strict_tau_2)
        runs[REFERENCE.replace("AdaptMI", "AdaptMI+")] = {**strict, **labeled, "labeler": strict_labeler}
    runs["oracle (uses reference answers)"] = {"oracle": True}
    runs["fixed examples"] = {"tau": (-1.0, -1.0)}
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sets}
    reference: dict[str, list[float]] = {}
    for label, changes in runs.items():
        own = folder / label.split(" (")[0].replace(", ", "-").replace(" ", "-")
        for record in adapt(model, sets, own, **{**common, **changes}):
            name = record["dataset"]
            items = read_sets(own, sets)[name]
            correct = [float(bool(item.correct)) for item in items]
            reference.setdefault(name, correct)
            figures = {
                key: value for key, value in record.items() if key not in ("dataset", "accuracy", "accuracy_interval")
            }
            other = reference[name] if label != REFERENCE else None
            results[name].append(result_row(label, correct, record["generated_tokens"], other, **figures))
    everywhere = {
        "skill examples": (bank, lambda row: skills.get(prompt_key(row))),
        "random examples": (random_bank(bank), lambda row: ["any"]),
    }
    for label, (own_bank, find_skills) in everywhere.items():
        prompted = {
            name: adaptive_examples(
                rows.remove_columns("subject")
                if label == "random examples" and "subject" in rows.column_names
                else rows,
                [find_skills(row) for row in rows],
                own_bank,
                **examples,
                **prompt_options,
            )
            for name, rows in sets.items()
        }
        evaluate(model, prompted, folder / label.replace(" ", "-"), temperature=0.0, **sampling)
        for name, items in read_sets(folder / label.replace(" ", "-"), sets).items():
            correct = [float(bool(item.correct)) for item in items]
            tokens = sum(item.tokens for item in items) / len(items)
            results[name].append(result_row(label, correct, tokens, reference[name]))
    fixed = {
        name: adaptive_examples(rows, [None] * len(rows), bank, **examples, **prompt_options)
        for name, rows in sets.items()
    }
    evaluate(model, fixed, folder / "vote", num_completions=args.votes, temperature=1.0, **sampling)
    for name, items in read_sets(folder / "vote", sets).items():
        correct, used = vote_at_tokens(items, results[name][0]["tokens"])
        results[name].append(result_row("majority vote", correct, sum(used) / len(used), reference[name]))
    return results


def random_bank(bank: Any) -> Any:
    """Return a bank with one skill, which has all examples."""
    from trl_concise.experimental.adapt_mi import SkillBank

    every = dict.fromkeys(example for own in bank.skills.values() for items in own.values() for example in items)
    return SkillBank(bank.fixed, {"any": {"any": tuple(every)}})


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print the results."""
    from trl_concise.experimental.equal_cost import describe_difference

    print(
        "| Problems | Procedure | Accuracy (95 %) | Generated tokens | Difficult | Precision | Recall | AdaptMI minus this |"
    )
    print("|---|---|---|---:|---:|---:|---:|---|")
    for name, rows in results.items():
        for row in rows:
            low, high = row["accuracy_interval"]
            shares = [row.get(key) for key in ("difficult_share", "precision", "recall")]
            cells = [f"{share:.0%}" if share is not None else "" for share in shares]
            print(
                f"| {name} | {row['name']} | {row['accuracy']:.1%} ({low:.1%} to {high:.1%}) | {row['tokens']:.1f} | "
                f"{' | '.join(cells)} | {describe_difference(row)} |"
            )


@report_input_errors()
def main(arguments: list[str] | None = None):
    (args,) = RecipeParser((AdaptMIArguments,)).parse_args_and_config(arguments)
    if (args.model_name_or_path == "demo") != (args.dataset_name is None):
        raise ValueError(
            "The embedded model solves generated problems only. Give both --model_name_or_path and --dataset_name, or neither."
        )
    if args.dataset_name is not None and None in (args.bank, args.skills):
        raise ValueError("--dataset_name needs examples and skills. Give --bank and --skills.")

    # After the command line: --help does not wait for them.
    from trl_concise.cli.quiet import hide_messages, hide_weight_bars
    from trl_concise.state.checkpoint import write_atomically

    hide_messages()
    hide_weight_bars()
    results = measure(args)
    write_atomically(Path(args.output_dir, "results.json"), (json.dumps(results, indent=2) + "\n").encode())
    show(results)


if __name__ == "__main__":
    main()
