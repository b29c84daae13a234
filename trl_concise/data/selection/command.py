# SPDX-License-Identifier: Apache-2.0
"""The command `trl-concise select`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...errors import Parser


METHODS = {
    "select2reason": "hard questions with long traces (Select2Reason)",
    "infialign": "quotas per domain, diverse questions, long traces (InfiAlign)",
    "shape_of_thought": "sets of correct, incorrect and human traces (Shape of Thought)",
    "stat_sel": "training questions for the skills that a student is missing (STAT-Sel)",
}


def main(argv: Sequence[str]) -> int:
    """Select training data, write it and a report, and print the report."""
    options = _parser().parse_args(argv)

    from . import runs
    from .report import SelectionReport

    report: SelectionReport = getattr(runs, f"run_{options.method}")(options)
    path = options.output.with_name(f"{options.output.stem}_report.json")
    report.write(path)
    report.print()
    print(f"The report is {path}.")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="trl-concise select",
        description="Select training data: write a part of a dataset, and a report of what was kept and why.",
        epilog="`trl-concise select METHOD --help` lists the options of a method.",
    )
    methods = parser.add_subparsers(dest="method", required=True, metavar="METHOD", parser_class=Parser)
    for name, text in METHODS.items():
        usage = f"trl-concise select {name} DATASET --output FILE [--OPTION VALUE ...]"
        method = methods.add_parser(name, help=text, description=f"Selection: {text}.", prog=parser.prog, usage=usage)
        _add_shared_options(method)
        globals()[f"_add_{name}_options"](method)
    return parser


def _add_shared_options(parser: Parser) -> None:
    add = parser.add_argument
    add("dataset", help="a dataset id, or a .jsonl, .json, .parquet or .csv file")
    add(
        "--output",
        required=True,
        type=Path,
        help="file to write, .jsonl or .parquet; the report is OUTPUT_report.json",
    )
    add("--problem_column", help="column that holds the problem; recognized by its name by default")
    add(
        "--trace_column",
        help="column that holds one trace or a list of traces; recognized by its name by default, or the last message of the problem",
    )
    add("--answer_column", help="column that holds the final answer; recognized by its name by default")
    add("--dataset_split", default="train", help="split, or a slice of one (%(default)s)")
    add("--dataset_config", help="configuration of a dataset on the Hub")
    add("--system_prompt", help="system message before every problem of examples for training")
    add("--seed", type=int, default=0, help="seed of everything that is drawn (%(default)s)")


def _add_form(parser: Parser) -> None:
    parser.add_argument(
        "--to",
        choices=["rows", "sft", "grpo"],
        default="rows",
        help="what to write: the rows as they are, `prompt` and `completion` for SFTTrainer, or `prompt` and `solution` for "
        "GRPOTrainer (%(default)s)",
    )


def _add_lengths(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--tokenizer",
        help="tokenizer that counts the tokens of traces: path or Hub id of a model; `demo` is the embedded one",
    )
    add(
        "--length_unit",
        choices=["tokens", "characters"],
        default="tokens",
        help="unit of the length of a trace (%(default)s)",
    )


def _add_judge(parser: Parser) -> None:
    add = parser.add_argument
    add("--verify", action="store_true", help="keep only traces whose final answer equals the reference answer")
    add("--verdict_column", help="keep only traces that this column, of booleans or numbers, calls correct")


def _add_select2reason_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--share", type=float, default=0.1, help="share of the rows to keep (%(default)s)")
    add(
        "--weight",
        type=float,
        default=0.5,
        help="weight of the difficulty against the length, in [0, 1] (%(default)s)",
    )
    add(
        "--judge",
        help="chat model that judges the difficulty: path or Hub id; judgments are kept in OUTPUT_difficulty.jsonl",
    )
    add("--difficulty_column", help="column of the difficulty, instead of a judge; pass_rate is read as 1 - pass_rate")
    add("--batch_size", type=int, default=16, help="questions that the judge reads at a time (%(default)s)")
    _add_lengths(parser)
    _add_form(parser)


def _add_infialign_options(parser: Parser) -> None:
    add = parser.add_argument
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--share", type=float, default=0.12, help="share of the rows to keep (%(default)s)")
    size.add_argument("--size", type=int, help="number of rows to keep, divided among the domains")
    size.add_argument(
        "--quotas", nargs="+", type=_quota, metavar="DOMAIN=N", help="number of rows to keep of each domain"
    )
    add("--domain_column", help="column of the domain; without it, all rows are one domain")
    add("--clusters", type=int, help="clusters of questions per domain (20, or the number of rows if that is smaller)")
    add(
        "--embeddings",
        default="tfidf",
        help="tfidf, or the path or Hub id of a sentence-transformers model (%(default)s)",
    )
    add("--max_length", type=int, help="leave out longer traces")
    _add_judge(parser)
    add(
        "--judge_model",
        help="keep only traces that this model at an OpenAI-compatible endpoint calls correct; its replies are kept in OUTPUT_judgments.jsonl",
    )
    add("--judge_base_url", help="address of the endpoint; OpenAI's by default")
    _add_lengths(parser)
    _add_form(parser)


def _add_shape_of_thought_options(parser: Parser) -> None:
    add = parser.add_argument
    add("--human_column", help="column of a trace written by a human, for a third set")
    add("--verdict_column", help="column with one verdict per trace; without it, traces are verified")
    add(
        "--match",
        choices=["problems", "size", "none"],
        default="problems",
        help="sets of the same problems, of the same size, or as they are (%(default)s)",
    )
    add("--student", help="model whose mean negative log-likelihood of each set is reported: path or Hub id")
    add("--batch_size", type=int, default=8, help="traces that the student reads at a time (%(default)s)")
    _add_lengths(parser)


def _add_stat_sel_options(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--profile",
        required=True,
        help="file or dataset of the student's responses, with `missing_skills` and optionally a `score`",
    )
    add("--skills_column", default="skills", help="column of the skills that a question needs, a list (%(default)s)")
    add("--hard_questions", type=int, default=500, help="responses to use, those with the lowest scores (%(default)s)")
    add(
        "--questions_per_skill",
        type=int,
        default=5,
        help="questions for each missing skill of a response (%(default)s)",
    )
    add("--answers", type=int, help="with --to sft: answers per question (3)")
    add("--pairs", type=int, help="with --to sft: pairs of a question and an answer to keep at most (9500)")
    _add_judge(parser)
    _add_form(parser)


def _quota(text: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    if not equals or not name or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"must be DOMAIN=N with a whole number N, got {text!r}")
    return name, int(number)
