# SPDX-License-Identifier: Apache-2.0
"""`trl-concise filter`: keep the problems that a model solves sometimes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..errors import Parser
from .command import (
    ENGINE_OPTIONS,
    add_answer_options,
    add_column_options,
    dataset_options,
    refuse_without_effect,
)


def filter_problems(
    dataset: str,
    model: str,
    output: str | Path,
    *,
    keep: tuple[float, float] = (0.2, 0.8),
    num_completions: int = 8,
    limit: int | None = None,
    problem_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, int]:
    """
    Write the rows of a dataset whose pass rate lies in a band.

    The pass rate is the share of a problem's completions whose final answer is correct. The completions are drawn and
    judged by [`evaluate`], which keeps them in the folder `<output without suffix>_completions`: a filtering that was
    interrupted continues where it stopped, and another band needs no new completions.

    Args:
        dataset (`str`):
            Dataset id on the Hub, path of a file (see [`load_problems`]), or `demo` for generated problems.
        model (`str`):
            Path or Hub id of a model or of an adapter; `demo` is the embedded model.
        output (`str` or `Path`):
            File to write, `.jsonl` or `.parquet`: the rows of the dataset with all of their columns, and `pass_rate` (in
            [0, 1]) and `tokens_mean` (mean length of the completions in tokens). An existing file is replaced, and so are columns
            of these names.
        keep (`tuple[float, float]`, *optional*, defaults to `(0.2, 0.8)`):
            Lowest and highest pass rate to keep, both included.
        num_completions (`int`, *optional*, defaults to `8`):
            Completions per problem.
        limit (`int`, *optional*):
            At most this many problems, the first ones.
        problem_options (`Mapping[str, Any]`, *optional*):
            Arguments of [`load_problems`]: split, columns, system prompt.
        **options:
            Arguments of [`evaluate`]. Temperature and top-p default to 1, as in GRPO training.

    Returns:
        `dict[str, int]`: How many problems were `kept`, `too_hard` (below the band), `too_easy` (above it) and
        `unverifiable` (dropped, because math-verify cannot read the reference answer).

    Raises:
        `ValueError`: If an argument is out of range, the dataset cannot be read, or no problem lies in the band.
        `FileNotFoundError`: If a model or a dataset is found neither locally nor on the Hub.
    """
    from datasets import Dataset

    from ..data.files import write_rows
    from .completions import read_completions
    from .evaluator import evaluate
    from .folder import COMPLETIONS_FILE

    output = Path(output)
    _check(dataset, output, keep, limit)
    found = read_source(dataset, dict(problem_options or {}))
    unreadable = set(found.unreadable)
    readable = [index for index in range(len(found.problems)) if index not in unreadable][:limit]
    problems = Dataset.from_list([found.problems[index] for index in readable])
    name = Path(dataset).stem if Path(dataset).expanduser().is_file() else dataset
    folder = output.with_name(f"{output.stem}_completions")
    options = {"temperature": 1.0, "top_p": 1.0, **options}
    evaluate(model, {name: problems}, folder, num_completions=num_completions, **options)

    groups: dict[int, list[Any]] = {}
    for item in read_completions(folder / COMPLETIONS_FILE):
        if item.dataset == name and item.problem < len(readable) and item.completion < num_completions:
            groups.setdefault(item.problem, []).append(item)
    rows, counts = [], {"kept": 0, "too_hard": 0, "too_easy": 0, "unverifiable": len(unreadable)}
    for problem in sorted(groups):
        items = groups[problem]
        if any(item.correct is None for item in items):
            counts["unverifiable"] += 1
            continue
        pass_rate = fmean(item.correct for item in items)
        if not keep[0] <= pass_rate <= keep[1]:
            counts["too_hard" if pass_rate < keep[0] else "too_easy"] += 1
            continue
        row = found.source.rows[found.places[readable[problem]]]
        rows.append({**row, "pass_rate": pass_rate, "tokens_mean": fmean(item.tokens for item in items)})
    counts["kept"] = len(rows)
    if not rows:
        raise ValueError(
            f"No problem has a pass rate from {keep[0]:g} to {keep[1]:g}: {_describe_counts(counts)}. The completions are kept in "
            f"{folder}; another band (--keep) needs no new ones."
        )
    write_rows(rows, output)
    return counts


def _check(dataset: str, output: Path, keep: tuple[float, float], limit: int | None) -> None:
    from ..data.files import check_output

    check_output(output, dataset)
    if not 0 <= keep[0] <= keep[1] <= 1:
        raise ValueError(f"keep must be two pass rates with 0 <= LOW <= HIGH <= 1; got {keep[0]:g} and {keep[1]:g}.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit}.")


def read_source(dataset: str, options: dict[str, Any]) -> Any:
    """Return the problems of a dataset, or of the demo, as [`read_problems`] does."""
    from ..data.problems import read_problems
    from .sets import TRAINING_SETS

    return read_problems(TRAINING_SETS.get(dataset, dataset), **options)


def _describe_counts(counts: Mapping[str, int]) -> str:
    return (
        f"{counts['kept']:,} kept, {counts['too_hard']:,} below, {counts['too_easy']:,} above, "
        f"{counts['unverifiable']:,} dropped because their reference answer cannot be read"
    )


def shows_source(parser: Parser, options: argparse.Namespace, problem_options: dict[str, Any]) -> bool:
    """Print the first problems if `--show` asks for them, and return whether it does."""
    if options.show < 0:
        parser.error(f"argument --show: must be at least 0, got {options.show}")
    if options.show:
        from datasets import Dataset

        from ..data.problems import show_problems
        from .sets import add_to_prompts

        problems = Dataset.from_list(read_source(options.dataset, problem_options).problems)
        show_problems(add_to_prompts(problems, None, options.prompt_suffix), options.show)
    return bool(options.show)


def main(argv: Sequence[str]) -> int:
    """Filter a dataset by pass rate, and print how many problems were kept."""
    parser = _parser()
    options = parser.parse_args(argv)

    refuse_without_effect(parser, options)
    problem_options = {**dataset_options(options), "system_prompt": options.system_prompt}
    if shows_source(parser, options, problem_options):
        return 0
    missing = [f"--{name}" for name in ("model", "output") if getattr(options, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    counts = filter_problems(
        options.dataset,
        options.model,
        options.output,
        keep=tuple(options.keep),
        num_completions=options.num_completions,
        limit=options.limit,
        problem_options=problem_options,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
        batch_size=options.batch_size or (10_000 if options.use_vllm else 64),
        use_vllm=options.use_vllm,
        prompt_suffix=options.prompt_suffix,
        answer_format=options.answer_format,
        final_form=options.final_form,
        engine_options={name: value for name in ENGINE_OPTIONS if (value := getattr(options, name)) is not None},
    )
    print(
        f"Pass rate from {options.keep[0]:g} to {options.keep[1]:g}: {_describe_counts(counts)}. Written to {options.output}."
    )
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="trl-concise filter",
        description="Write the rows of a dataset whose pass rate lies in a band, with the columns pass_rate and "
        "tokens_mean. The same command continues an interrupted run.",
    )
    add = parser.add_argument
    add("dataset", help="a dataset id, a .jsonl, .json, .parquet or .csv file, or demo, generated problems")
    add("--model", help="path or Hub id of a model or of an adapter; `demo` is the embedded model")
    add("--output", help="file to write, .jsonl or .parquet; the completions are kept in OUTPUT_completions")
    add(
        "--keep",
        nargs=2,
        type=float,
        default=[0.2, 0.8],
        metavar=("LOW", "HIGH"),
        help="band, both included (0.2 0.8)",
    )
    add("--num_completions", "-n", type=int, default=8, help="completions per problem (%(default)s)")
    add("--max_new_tokens", type=int, default=4096, help="tokens after which a completion is truncated (%(default)s)")
    add("--temperature", type=float, default=1.0, help="sampling temperature, GRPO's by default (%(default)s)")
    add("--top_p", type=float, default=1.0, help="probability mass of nucleus sampling (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the sampling (%(default)s)")
    add("--limit", type=int, help="at most this many problems")
    add("--batch_size", type=int, help="completions generated at a time: 64, with vLLM 10,000")
    add("--use_vllm", action="store_true", help="generate with vLLM")
    for name, (kind, text) in ENGINE_OPTIONS.items():
        add(f"--{name}", type=kind, help=text)
    add("--system_prompt", help="system message before every problem")
    add_answer_options(parser)
    add("--dataset_split", default="train", help="split (%(default)s)")
    add("--dataset_config", help="configuration of a dataset on the Hub")
    add_column_options(parser)
    return parser
