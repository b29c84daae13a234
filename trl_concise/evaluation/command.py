# SPDX-License-Identifier: Apache-2.0
"""The command `trl-concise eval`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import Parser
from ..verification.extraction import ANSWER_FORMATS
from ..verification.finished import MARKERS, ThinkingMarkers
from .printing import print_records


if TYPE_CHECKING:
    from .chunks import Chunking
    from .quantization import Quantization
    from .thinking_budget import ThinkingBudgets
    from .voting import Vote

ENGINE_OPTIONS = {
    "max_model_len": (int, "vLLM's context in tokens; the longest prompt and max_new_tokens by default"),
    "gpu_memory_utilization": (float, "share of the GPU memory for vLLM"),
    "tensor_parallel_size": (int, "number of GPUs over which vLLM splits the model"),
}
NEEDED_OPTIONS = {  # option -> the one without which it has no effect
    "effort_instruction": "effort",
    **dict.fromkeys(("thinking_close", "answer_cue", "answer_tokens"), "thinking_budget"),
    "vote_alpha": "vote",
    "keep_head": "chunk_size",
    **dict.fromkeys(("bnb_4bit_quant_type", "use_bnb_nested_quant"), "load_in_4bit"),
    **dict.fromkeys(ENGINE_OPTIONS, "use_vllm"),
}
COLUMN_OPTIONS = {
    "problem_column": "the problem",
    "answer_column": "the final answer",
    "context_column": "the text before the problem; 'none' for no such text",
    "choices_column": "the options of multiple-choice problems; 'none' for no options",
}


def main(argv: Sequence[str]) -> int:
    """Evaluate a model on problem sets, print a table, write the results."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.show < 0:
        parser.error(f"argument --show: must be at least 0, got {options.show}")
    refuse_without_effect(parser, options)
    if not options.show and options.output_dir is None:
        parser.error("the following arguments are required: --output_dir")

    from ..data.perturbations import perturb_sets
    from ..data.problems import show_problems
    from .axes import report_axes
    from .calibration import report_records
    from .evaluator import evaluate
    from .sets import add_to_prompts, at_levels, load_problem_sets
    from .stress import report_stress, without_perturbed

    batch_size = options.batch_size
    if batch_size is None:
        batch_size = 10_000 if options.use_vllm else 64
    columns = dataset_options(options)
    try:
        if options.show:
            loaded = load_problem_sets(options.sets, system_prompt=options.system_prompt, **columns)
            perturbed = perturb_sets(loaded, options.perturb, limit=options.show)
            loaded.update({name: variant.problems for name, variant in perturbed.items()})
            shown = {name: add_to_prompts(problems, None, options.prompt_suffix) for name, problems in loaded.items()}
            for problems in at_levels(shown, options.effort, options.effort_instruction).values():
                show_problems(problems, options.show)
            return 0
        sets = load_problem_sets(options.sets, **columns)
        records = evaluate(
            options.model,
            sets,
            options.output_dir,
            num_completions=options.num_completions,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            budgets=options.budgets,
            base=options.base,
            system_prompt=options.system_prompt,
            prompt_suffix=options.prompt_suffix,
            effort=options.effort,
            effort_instruction=options.effort_instruction,
            perturb=options.perturb,
            answer_format=options.answer_format,
            final_form=options.final_form,
            thinking_markers=ThinkingMarkers(*options.thinking_markers),
            thinking_budgets=thinking_budgets(options),
            vote=read_vote(options),
            uncertainty=options.record == "uncertainty",
            chunking=chunking(options),
            limit=options.limit,
            batch_size=batch_size,
            dtype=options.dtype,
            quantization=read_quantization(options),
            use_vllm=options.use_vllm,
            engine_options={name: value for name in ENGINE_OPTIONS if (value := getattr(options, name)) is not None},
            model_name=options.model_name,
        )
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    print_records(without_perturbed(records))
    report_axes(records)
    report_stress(records)
    report_records(records, options.output_dir)
    print(f"Every completion and the summary are in {options.output_dir}.")
    return 0


def refuse_without_effect(parser: Parser, options: argparse.Namespace) -> None:
    """End the command if an option is given without the one that it needs."""
    for name, needed in NEEDED_OPTIONS.items():
        if getattr(options, name, None) is not None and not getattr(options, needed, None):
            parser.error(f"--{name} has no effect without --{needed}. Add --{needed}, or leave it out.")


def dataset_options(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of [`load_problems`] on the command line: configuration, split and columns."""
    columns = {name: getattr(options, name) for name in COLUMN_OPTIONS}
    return {"config_name": options.dataset_config, "split": options.dataset_split, **columns}


def thinking_budgets(options: argparse.Namespace) -> ThinkingBudgets | None:
    """Return the thinking budgets of the command line; `None` without any."""
    from .thinking_budget import ThinkingBudgets

    if not options.thinking_budget:
        return None
    given = {
        "closing": options.thinking_close,
        "answer_cue": options.answer_cue,
        "answer_tokens": options.answer_tokens,
    }
    return ThinkingBudgets(
        tuple(sorted(set(options.thinking_budget))),
        **{name: value for name, value in given.items() if value is not None},
    )


def read_vote(options: argparse.Namespace) -> Vote | None:
    """Return the vote of the command line; `None` without one."""
    from .voting import Vote

    if options.vote is None:
        return None
    if options.vote_alpha is None:
        return Vote(options.vote)
    if options.vote == "majority":
        raise ValueError("--vote_alpha has no effect with --vote majority. Set --vote verify, or leave it out.")
    return Vote(options.vote, options.vote_alpha)


def read_quantization(options: argparse.Namespace) -> Quantization:
    """Return the mode of the command line in which the model is loaded."""
    from .quantization import Quantization

    return Quantization(
        options.load_in_8bit,
        options.load_in_4bit,
        options.bnb_4bit_quant_type or "nf4",
        bool(options.use_bnb_nested_quant),
        options.gguf_file,
    )


def chunking(options: argparse.Namespace) -> Chunking | None:
    """Return how completions are divided into chunks; `None` if they are not."""
    from .chunks import Chunking

    if options.chunk_size is None:
        return None
    return Chunking(options.chunk_size, **({"keep_head": options.keep_head} if options.keep_head is not None else {}))


def _budgets(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def true_or_false(text: str) -> bool:
    """Parse true or false on the command line."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


def _parser() -> Parser:
    parser = Parser(
        prog="trl-concise eval",
        description="Measure accuracy against tokens on problem sets. The same command continues an interrupted run.",
    )
    add = parser.add_argument
    add("model", help="path or Hub id of a model or of an adapter; `demo` is the embedded model")
    add(
        "sets",
        nargs="+",
        metavar="set",
        help="gsm8k, math500, aime24, aime25, amc23, svamp, olympiadbench, minerva, demo, demo_harder, demo_hardest, demo_beyond, "
        "demo_omega, a dataset id, or a "
        ".jsonl, .json, .parquet or .csv file",
    )
    add("--output_dir", help="folder of completions.jsonl, summary.json and settings.json; needed without --show")
    add("--num_completions", "-n", type=int, default=1, help="completions per problem (%(default)s)")
    add("--max_new_tokens", type=int, default=4096, help="tokens after which a completion is truncated (%(default)s)")
    add("--temperature", type=float, default=0.6, help="0 decodes greedily (%(default)s)")
    add("--top_p", type=float, default=0.95, help="probability mass of nucleus sampling (%(default)s)")
    add("--seed", type=int, default=0, help="seed of the sampling (%(default)s)")
    add(
        "--budgets",
        type=_budgets,
        default=[],
        metavar="N,N,...",
        help="score the same completions truncated at each budget",
    )
    add(
        "--thinking_budget",
        type=_budgets,
        default=[],
        metavar="N,N,...",
        help="stop the thinking of the same completions after each of these numbers of tokens, and let the model answer",
    )
    add("--thinking_close", help=r"text after stopped thinking (a line break, </think> and an empty line)")
    add("--answer_cue", help=r"beginning of the answer after stopped thinking (\boxed{)")
    add("--answer_tokens", type=int, help="tokens of the answer after stopped thinking (128)")
    add(
        "--vote",
        choices=["majority", "verify"],
        help="let the completions of a problem vote: alike, or weighted by the model's own verdicts on them",
    )
    add("--vote_alpha", type=float, help='exponent of P("Yes") in --vote verify; 0 is majority vote (1)')
    add(
        "--record",
        choices=["uncertainty"],
        help="score every token in one more pass: entropy, and how well it predicts errors",
    )
    add(
        "--chunk_size",
        type=int,
        help="have completions written in chunks, of at most this many tokens with what is carried over (Delethink)",
    )
    add("--keep_head", type=int, help="carried tokens that are the first of the completion (100)")
    add("--base", help="summary.json, or its folder, of the model to compare with: adds accuracy-efficiency scores")
    add(
        "--effort",
        type=_names,
        default=[],
        metavar="LEVEL,LEVEL,...",
        help="evaluate each set at each of these levels of effort, which the prompt asks for",
    )
    add(
        "--effort_instruction",
        help="text that asks for a level of --effort, with {level} for its name; 'Reasoning effort: {level}.' by default",
    )
    add(
        "--perturb",
        type=_names,
        default=[],
        metavar="NAME,NAME,...",
        help="evaluate each set also under each of these perturbations, which keep the answer",
    )
    add("--limit", type=int, help="use at most this many problems of each set")
    add("--batch_size", type=int, help="completions generated at a time: 64, with vLLM 10,000")
    add(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="data type of the weights; the checkpoint's by default",
    )
    add("--load_in_8bit", action="store_true", help="quantize the model to 8 bits with bitsandbytes")
    add("--load_in_4bit", action="store_true", help="quantize the model to 4 bits with bitsandbytes")
    add("--bnb_4bit_quant_type", choices=("nf4", "fp4"), help="type of the 4 bits (nf4)")
    add(
        "--use_bnb_nested_quant",
        action="store_const",
        const=True,
        help="quantize the scales of the 4 bits, too",
    )
    add("--gguf_file", help="load this GGUF file of the model's folder or repository; transformers dequantizes it")
    add("--use_vllm", action="store_true", help="generate with vLLM")
    for name, (kind, text) in ENGINE_OPTIONS.items():
        add(f"--{name}", type=kind, help=text)
    add(
        "--thinking_markers",
        nargs=2,
        default=[MARKERS.start, MARKERS.end],
        metavar=("START", "END"),
        help="texts around the reasoning, which show whether a completion thought (<think> </think>)",
    )
    add("--model_name", help="name of the model in the results; its id or folder name by default")
    add("--system_prompt", help="system message before every problem")
    add_answer_options(parser)
    add("--dataset_split", help="split of a set without a short name; test by default")
    add("--dataset_config", help="configuration of a set without a short name")
    add_column_options(parser)
    return parser


def add_answer_options(parser: Parser) -> None:
    """Add the options that say how the final answer is asked for and read."""
    add = parser.add_argument
    add("--prompt_suffix", help="text after every problem, for example an instruction on the form of the answer")
    add(
        "--answer_format",
        default="auto",
        choices=ANSWER_FORMATS,
        help="where the final answer of a completion is looked for (%(default)s)",
    )
    add(
        "--final_form",
        type=true_or_false,
        default=True,
        metavar="BOOL",
        help="whether an answer that leaves arithmetic to be done, such as 6 * 7, is wrong (true)",
    )


def add_column_options(parser: Parser) -> None:
    """Add the options for the columns of a dataset, and `--show`."""
    add = parser.add_argument
    for name, content in COLUMN_OPTIONS.items():
        add(f"--{name}", help=f"column that holds {content}")
    add(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="print the first N problems as the model will see them, and stop",
    )
