# SPDX-License-Identifier: Apache-2.0
"""The command `trl-concise distill`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import Parser
from .command import ENGINE_OPTIONS, add_answer_options, add_column_options, dataset_options, refuse_without_effect
from .filter import shows_source


_ENDPOINT_OPTIONS = ("concurrency", "max_retries", "timeout")  # have no effect on a model on this machine
_MODEL_OPTIONS = ("seed", "batch_size", "use_vllm", *ENGINE_OPTIONS)  # have no effect on an endpoint


def main(argv: Sequence[str]) -> int:
    """Distill a teacher into a dataset, and print what was kept and what it cost."""
    parser = _parser()
    options = parser.parse_args(argv)

    from ..data.files import check_output
    from .distill import distill_problems

    refuse_without_effect(parser, options)
    _refuse_options_of_the_other(parser, options)
    problem_options = {**dataset_options(options), "system_prompt": options.system_prompt}
    if shows_source(parser, options, problem_options):
        return 0
    missing = [f"--{name}" for name in ("teacher", "output") if getattr(options, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    check_output(Path(options.output), options.dataset)  # before the client is made
    sampling = {"temperature": options.temperature, "top_p": options.top_p}
    teacher: Any = options.teacher
    if options.teacher_base_url is not None:
        from ..data.teachers import APITeacher

        given = {name: getattr(options, name) for name in _ENDPOINT_OPTIONS if getattr(options, name) is not None}
        teacher = APITeacher(
            options.teacher,
            base_url=options.teacher_base_url,
            max_tokens=options.max_new_tokens,
            **sampling,
            **given,
        )
        of_model = {}
    else:
        of_model = {
            "max_new_tokens": options.max_new_tokens,
            **sampling,
            "seed": options.seed or 0,
            "batch_size": options.batch_size or (10_000 if options.use_vllm else 64),
            "use_vllm": bool(options.use_vllm),
            "engine_options": {
                name: value for name in ENGINE_OPTIONS if (value := getattr(options, name)) is not None
            },
        }
    report = distill_problems(
        options.dataset,
        teacher,
        options.output,
        num_completions=options.num_completions,
        choose="shortest" if options.shortest else "all",
        limit=options.limit,
        prices=tuple(options.prices) if options.prices is not None else None,
        problem_options=problem_options,
        prompt_suffix=options.prompt_suffix,
        answer_format=options.answer_format,
        final_form=options.final_form,
        **of_model,
    )
    print(report)
    print(f"Written to {options.output}. All solutions are in {Path(options.output).with_suffix('')}_solutions.")
    return 0


def _refuse_options_of_the_other(parser: Parser, options: argparse.Namespace) -> None:
    """End the command if an option has no effect on this kind of teacher."""
    is_endpoint = options.teacher_base_url is not None
    for name in _MODEL_OPTIONS if is_endpoint else _ENDPOINT_OPTIONS:
        if getattr(options, name) not in (None, False):
            how = "with" if is_endpoint else "without"
            parser.error(f"--{name} has no effect {how} --teacher_base_url. Leave one of them out.")


def _parser() -> Parser:
    parser = Parser(
        prog="trl-concise distill",
        description="Ask a teacher for solutions of problems, and write those that are correct and finished, as a dataset for TRL's SFTTrainer, "
        "with a report of what they cost. The same command continues an interrupted run.",
    )
    add = parser.add_argument
    add("dataset", help="a dataset id, a .jsonl, .json, .parquet or .csv file, or demo, generated problems")
    add("--teacher", help="path or Hub id of a model, `demo` for the embedded one; or a model of --teacher_base_url")
    add("--output", help="file to write, .jsonl or .parquet; all solutions are kept in OUTPUT_solutions")
    add(
        "--teacher_base_url",
        help="OpenAI-compatible endpoint, such as http://localhost:8000/v1; its key is read from OPENAI_API_KEY",
    )
    add("--num_completions", "-n", type=int, default=4, help="solutions per problem (%(default)s)")
    add("--shortest", action="store_true", help="keep only the shortest correct solution of each problem")
    add("--max_new_tokens", type=int, default=4096, help="tokens after which a solution is truncated (%(default)s)")
    add("--temperature", type=float, default=0.6, help="sampling temperature (%(default)s)")
    add("--top_p", type=float, default=0.95, help="probability mass of nucleus sampling (%(default)s)")
    add("--limit", type=int, help="at most this many problems")
    add(
        "--prices",
        nargs=2,
        type=float,
        metavar=("INPUT", "OUTPUT"),
        help="price of a million input and of a million output tokens, for the report",
    )
    add("--concurrency", type=int, help="requests to the endpoint under way at a time (8)")
    add("--max_retries", type=int, help="how often a request to the endpoint is repeated (6)")
    add("--timeout", type=float, help="seconds that a request to the endpoint may take (600)")
    add("--seed", type=int, help="seed of the sampling of a model on this machine (0)")
    add("--batch_size", type=int, help="solutions generated at a time on this machine: 64, with vLLM 10,000")
    add("--use_vllm", action="store_true", help="generate with vLLM on this machine")
    for name, (kind, text) in ENGINE_OPTIONS.items():
        add(f"--{name}", type=kind, help=text)
    add("--system_prompt", help="system message before every problem")
    add_answer_options(parser)
    add("--dataset_split", default="train", help="split (%(default)s)")
    add("--dataset_config", help="configuration of a dataset on the Hub")
    add_column_options(parser)
    return parser
