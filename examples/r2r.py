# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[experimental]"]
# ///
"""
Let a small model write, and a trained router hand single tokens to a large model (R2R): label, train, evaluate.

Without arguments: the embedded model is the large one, and a model of a quarter of its size is trained first; on a CPU, in some minutes. The
tables compare both models alone, the router, the entropy rule and the random rule, on generated problems that nothing was trained on:

    python examples/r2r.py

The stages run one by one, too, because each reads what the one before has written:

    python examples/r2r.py --stages label --problems 512
    python examples/r2r.py --stages train
    python examples/r2r.py --stages eval --thresholds router 0.9

Real models that share a tokenizer, on one GPU, with a third model as the judge of the labels:

    python examples/r2r.py --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --large_model Qwen/Qwen2.5-7B-Instruct \
        --judge Qwen/Qwen2.5-14B-Instruct --dataset_name openai/gsm8k --dataset_config main --eval_datasets gsm8k math500 \
        --max_new_tokens 2048 --problems 1024 --output_dir outputs/r2r

The router then has the sizes of the released ones, and their settings of the training.

Time and memory: the run without arguments takes about three minutes of one CPU core. Not measured on a GPU: both models and the judge are
loaded at the same time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import TrlParser

from trl_concise import demo
from trl_concise.cli.quiet import hide_messages, hide_weight_bars
from trl_concise.errors import check_folder, report_input_errors


if TYPE_CHECKING:
    from datasets import Dataset

    from trl_concise.evaluation.sampling import TransformersSampler
    from trl_concise.experimental.r2r.labels import LabeledResponse
    from trl_concise.experimental.r2r.router import TokenRouter

    Pair = tuple[TransformersSampler, TransformersSampler]

STAGES = ("label", "train", "eval")
# Sizes of the router and settings of its training for the embedded model; those of the authors for real models.
DEMO = {"top_k": 32, "width": 32, "blocks": 2, "expansion": 2, "learning_rate": 2e-3}
REAL = {"top_k": 100, "width": 1024, "blocks": 6, "expansion": 4, "learning_rate": 5e-5}
DEMO_TOKENS, REAL_TOKENS = 256, 4096  # of a response
DEMO_CONTINUATION, REAL_CONTINUATION = 24, 64  # tokens that the judge reads after a mismatch


@dataclass
class R2RArguments:
    """Options of the script."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Small model. Default: one that is trained for the demo."}
    )
    large_model: str | None = field(default=None, metadata={"help": "Large model. Default: the embedded model."})
    judge: str | None = field(
        default=None,
        metadata={"help": "Model that judges the labels. Default: a program that judges the problems of the demo."},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Problems to label: a dataset id on the Hub or a local file. Default: generated problems."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to label."})
    eval_datasets: list[str] = field(
        default_factory=list,
        metadata={"help": "Problem sets to evaluate on, as in trl-concise eval. Default: generated problems."},
    )
    stages: list[str] = field(
        default_factory=lambda: list(STAGES), metadata={"help": "Which of label, train and eval to run."}
    )
    output_dir: str = field(default="outputs/r2r-demo", metadata={"help": "Folder of labels, router and results."})
    problems: int = field(default=384, metadata={"help": "Problems to label."})
    eval_problems: int = field(
        default=256, metadata={"help": "Largest number of problems of each set to evaluate on."}
    )
    thresholds: list[str] = field(
        default_factory=lambda: ["router"],
        metadata={"help": "Thresholds to evaluate: numbers, or 'router' for the one that the training has found."},
    )
    min_recall: float = field(
        default=0.95, metadata={"help": "Recall of divergent tokens that the threshold must reach."}
    )
    top_k: int | None = field(default=None, metadata={"help": "Logits that the router sees."})
    width: int | None = field(default=None, metadata={"help": "Width of the router."})
    blocks: int | None = field(default=None, metadata={"help": "Blocks of the router."})
    expansion: int | None = field(
        default=None, metadata={"help": "Inner width of a block, as a multiple of the width."}
    )
    learning_rate: float | None = field(default=None, metadata={"help": "Of the router."})
    epochs: int = field(default=50, metadata={"help": "Largest number of epochs of the router."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Tokens after which a response is truncated."})
    continuation_tokens: int | None = field(
        default=None, metadata={"help": "Largest number of tokens after a mismatch that the judge reads."}
    )
    temperature: float = field(default=0.0, metadata={"help": "Of the evaluation; 0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus of the evaluation."})
    batch_size: int = field(default=128, metadata={"help": "Completions that are generated at a time."})
    seed: int = field(default=0, metadata={"help": "Seed of problems, router and draws."})
    use_vllm: bool = field(default=False, metadata={"help": "Refused: vLLM returns no hidden states during decoding."})
    demo_steps: int | None = field(
        default=None, metadata={"help": "Of the demo: steps in which the small model is trained."}
    )


def check(args: R2RArguments) -> None:
    """Report options that cannot work, before anything is loaded."""
    from trl_concise.evaluation.sampling import SamplingSettings

    check_folder("--output_dir", args.output_dir)
    if unknown := set(args.stages) - set(STAGES):
        raise ValueError(f"--stages must be some of {', '.join(STAGES)}, got {', '.join(sorted(unknown))}.")
    if min(args.problems, args.eval_problems, args.batch_size, args.epochs) < 1:
        raise ValueError(
            "--problems, --eval_problems, --batch_size and --epochs must be at least 1, got "
            f"{args.problems}, {args.eval_problems}, {args.batch_size} and {args.epochs}."
        )
    sizes = (
        "top_k",
        "width",
        "blocks",
        "expansion",
        "learning_rate",
        "max_new_tokens",
        "continuation_tokens",
        "demo_steps",
    )
    if wrong := [name for name in sizes if (value := getattr(args, name)) is not None and not value > 0]:
        raise ValueError(f"--{wrong[0]} must be positive, got {getattr(args, wrong[0])}. Raise it, or leave it out.")
    read_thresholds(args)
    if not 0 <= args.min_recall <= 1:
        raise ValueError(f"--min_recall must be between 0 and 1, got {args.min_recall}.")
    SamplingSettings(1, args.temperature, args.top_p)  # checks them
    needed = {"labels.parquet": "label"} | ({} if "train" in args.stages else {"router.json": "train"})
    for file, stage in needed.items():  # before the small model is trained
        path = Path(args.output_dir, file)
        if {"train", "eval"} & set(args.stages) and stage not in args.stages and not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. Run the stage {stage} first, or add it to --stages.")
    given = {"--model_name_or_path": args.model_name_or_path, "--large_model": args.large_model}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 1:
        raise ValueError(
            f"{missing[0]} is missing: the demo needs neither model, and real models are given as a pair."
        )
    if args.model_name_or_path is not None and "label" in args.stages and args.dataset_name and args.judge is None:
        raise ValueError(
            "--judge is missing: the program that judges the demo reads arithmetic only. Name a model that judges the labels."
        )


def read_thresholds(args: R2RArguments) -> list[float | None]:
    """Return the thresholds; `None` is that of the router."""
    thresholds: list[float | None] = []
    for text in args.thresholds:
        try:
            thresholds.append(None if text == "router" else float(text))
        except ValueError:
            raise ValueError(f"--thresholds must be numbers of at least 0, or 'router'; got {text!r}.") from None
        if thresholds[-1] is not None and not thresholds[-1] >= 0:
            raise ValueError(f"--thresholds must be at least 0, got {text}: 0 leaves every token to the large model.")
    return thresholds


def load_models(args: R2RArguments) -> Pair:
    """Load the pair; train the small model of the demo first."""
    from trl_concise.experimental.r2r import load_pair
    from trl_concise.experimental.r2r.demo import STEPS, small_model

    small, large = str(args.model_name_or_path), str(args.large_model)
    if not (args.model_name_or_path or args.use_vllm):
        folder = Path(args.output_dir, "small-model")
        small, large = str(small_model(folder, steps=args.demo_steps or STEPS)), str(demo.model_path())
    return load_pair(small, large, use_vllm=args.use_vllm)


def label(args: R2RArguments, pair: Pair) -> None:
    """Label responses of the large model, and write them."""
    from trl_concise.evaluation.sampling import load_sampler, tokenize_prompts
    from trl_concise.evaluation.sets import load_problem_sets
    from trl_concise.experimental.r2r import label_tokens
    from trl_concise.experimental.r2r.judges import ArithmeticJudge, ModelJudge
    from trl_concise.experimental.r2r.labels import LABELS, count_kinds, write_labels

    if args.dataset_name is None:
        rows = demo.problem_dataset(args.problems, seed=args.seed + 1, split="train", operations=demo.OPERATIONS)
    else:
        (rows,) = load_problem_sets(
            [args.dataset_name], config_name=args.dataset_config, split=args.dataset_train_split
        ).values()
        rows = rows.select(range(min(args.problems, len(rows))))
    responses = label_tokens(
        *pair,
        tokenize_prompts(pair[1].tokenizer, list(rows["prompt"])),
        ModelJudge(load_sampler(args.judge), args.batch_size) if args.judge else ArithmeticJudge(),
        max_new_tokens=args.max_new_tokens or (REAL_TOKENS if args.model_name_or_path else DEMO_TOKENS),
        continuation_tokens=args.continuation_tokens
        or (REAL_CONTINUATION if args.model_name_or_path else DEMO_CONTINUATION),
        batch_size=args.batch_size,
    )
    write_labels(Path(args.output_dir, LABELS), responses, pair[0].model)
    counts = count_kinds(responses)
    total = sum(counts.values())
    shares = ", ".join(f"{count / total:.1%} {kind}" for kind, count in counts.items())
    print(f"labels: {len(responses)} responses, {total:,} tokens: {shares}", flush=True)


def train(args: R2RArguments, pair: Pair, responses: list[LabeledResponse]) -> None:
    """Train the router, and write it."""
    from trl_concise.experimental.r2r import RouterConfig, RouterTraining, train_router

    settings: dict[str, Any] = REAL if args.model_name_or_path else DEMO
    settings = {name: getattr(args, name) or value for name, value in settings.items()}
    rate = settings.pop("learning_rate")
    training = RouterTraining(learning_rate=rate, epochs=args.epochs, min_recall=args.min_recall, seed=args.seed)
    router = train_router(pair[0].model, responses, RouterConfig(**settings), training)
    router.save(args.output_dir)
    print(
        f"router: {sum(p.numel() for p in router.parameters()):,} parameters, threshold {router.threshold:.4f}, recall "
        f"{router.recall:.1%}, {router.flagged_share:.1%} of the tokens flagged",
        flush=True,
    )


def evaluate(args: R2RArguments, pair: Pair, router: TokenRouter, responses: list[LabeledResponse]) -> None:
    """Measure accuracy against cost, print the tables, and write them."""
    from trl_concise.evaluation.sets import load_problem_sets
    from trl_concise.experimental.r2r.evaluation import LARGE, compare, table
    from trl_concise.state.checkpoint import write_atomically

    sets: dict[str, Dataset]
    if args.eval_datasets:
        sets = dict(load_problem_sets(args.eval_datasets))
    else:
        operations = {f"{n} operations": (n,) for n in demo.OPERATIONS}
        sets = {name: demo.problem_dataset(args.eval_problems, operations=n) for name, n in operations.items()}
    systems = compare(
        pair,
        router,
        responses,
        sets,
        read_thresholds(args),
        max_new_tokens=args.max_new_tokens or (REAL_TOKENS if args.model_name_or_path else DEMO_TOKENS),
        temperature=args.temperature,
        top_p=args.top_p,
        batch_size=args.batch_size,
        limit=args.eval_problems,
        seed=args.seed,
        progress=False,
    )
    records = [measured.record for name in systems for measured in systems[name].values()]
    folder = Path(args.output_dir)
    write_atomically(folder / "summary.json", (json.dumps(records, indent=2, allow_nan=False) + "\n").encode())
    for name in sets:
        print(f"\n{table(systems, name, LARGE)}", flush=True)


@report_input_errors()
def main(arguments: list[str] | None = None) -> None:
    (args,) = TrlParser((R2RArguments,)).parse_args_and_config(arguments)
    check(args)
    hide_messages()
    hide_weight_bars()

    # After the command line: --help does not wait for them.
    from trl_concise.experimental.r2r import TokenRouter
    from trl_concise.experimental.r2r.labels import LABELS, read_labels

    pair = load_models(args)
    if "label" in args.stages:
        label(args, pair)
    if {"train", "eval"} & set(args.stages):
        responses = read_labels(Path(args.output_dir, LABELS), pair[0].model)
    if "train" in args.stages:
        train(args, pair, responses)
    if "eval" in args.stages:
        evaluate(args, pair, TokenRouter.load(args.output_dir, pair[0].model), responses)


if __name__ == "__main__":
    main()
