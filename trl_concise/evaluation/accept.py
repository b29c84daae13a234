# SPDX-License-Identifier: Apache-2.0
"""The command `trl-concise accept`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import Parser


if TYPE_CHECKING:
    from .acceptance import Acceptance, Test


def main(argv: Sequence[str]) -> int:
    """Test finished models against limits, print one row per limit and problem set; status 0 if one is accepted, 1 if not."""
    parser = _parser()
    options = parser.parse_args(argv)

    from .acceptance import Limits, accept
    from .bounds import problems_needed

    _refuse_options_without_effect(parser, options)
    try:
        if options.plan:
            missing = [name for name in ("std", "margin") if getattr(options, name) is None]
            if missing:
                parser.error(f"--plan needs {' and '.join(f'--{name}' for name in missing)}")
            if options.earlier_candidates < 0:
                parser.error(f"earlier_candidates must be at least 0, got {options.earlier_candidates}.")
            delta = options.delta / (1 + options.earlier_candidates)
            n = problems_needed(options.std, options.margin, delta)
            print(
                f"{n:,} problems: with a standard deviation of {options.std:g} between problems, a model whose true mean is "
                f"{options.margin:g} below the limit is then accepted about every second time, or more often, at delta = {delta:g}, with "
                "the bound t. The bound exact, the default for the accuracy, needs two to four times as many."
            )
            return 0
        if not options.evaluations:
            parser.error("name the folder of at least one evaluation, or use --plan")
        limits = Limits(options.max_tokens, options.max_token_share, options.max_accuracy_loss, options.min_accuracy)
        results = accept(
            options.evaluations,
            limits,
            base=options.base,
            datasets=options.dataset,
            delta=options.delta,
            token_bound=options.token_bound,
            accuracy_bound=options.accuracy_bound,
            earlier_candidates=options.earlier_candidates,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0 if print_acceptance(results) else 1


def print_acceptance(results: Sequence[Acceptance]) -> bool:
    """Print the tests of each candidate and the decision; return whether one is accepted."""
    for result in results:
        _print(result)
    accepted = next((result for result in results if result.accepted), None)
    print("Overlap with training data: not checked.")
    if accepted is None:
        print("rejected: no model meets the constraints")
        return False
    print(f"accepted: {accepted.model}" + (f" ({accepted.folder})" if len(results) > 1 else ""))
    print(accepted.sentence())
    return True


def _refuse_options_without_effect(parser: Parser, options: argparse.Namespace) -> None:
    given = [name for name, value in vars(options).items() if value not in (None, [], parser.get_default(name))]
    tokens, accuracy = ("max_tokens", "max_token_share"), ("max_accuracy_loss", "min_accuracy")
    if options.plan:
        if "evaluations" in given:
            parser.error("evaluations have no effect with --plan. Leave them out, or leave --plan out.")
        unused = [name for name in given if name not in ("plan", "std", "margin", "delta", "earlier_candidates")]
        reason = "with --plan"
    elif unused := [name for name in ("std", "margin") if name in given]:
        reason = "without --plan"
    elif "token_bound" in given and not set(given) & set(tokens):
        unused, reason = ["token_bound"], "without a limit on the tokens"
    elif "accuracy_bound" in given and not set(given) & set(accuracy):
        unused, reason = ["accuracy_bound"], "without a limit on the accuracy"
    elif "base" in given and not set(given) & {"max_token_share", "max_accuracy_loss"}:
        unused, reason = ["base"], "without --max_token_share or --max_accuracy_loss, which compare with it"
    if unused:
        parser.error(f"--{unused[0]} has no effect {reason}. Leave it out.")


def _print(result: Acceptance) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for dataset, settings in result.settings.items():
        title = f"{result.model} on {dataset}, {settings['problems']:,} problems"
        table = Table(title=escape(title), title_justify="left")
        table.add_column("Cost", no_wrap=True)
        for heading in ("Mean", "Std", "U", "Limit", "Bound", ""):
            table.add_column(heading, justify="right", no_wrap=True)
        for test in result.tests:
            if test.dataset == dataset:
                numbers = (_number(test, value) for value in (test.mean, test.deviation, test.upper, test.limit))
                verdict = "pass" if test.passed else "[bold]FAIL[/bold]"
                table.add_row(_cost(test, result), *numbers, test.bound, verdict)
        Console().print(table)
    each = result.delta / result.candidates
    print(f"U: upper bound, which the true mean exceeds with probability at most {each:.3g}.\n")


def _cost(test: Test, result: Acceptance) -> str:
    return {
        "max_tokens": "tokens",
        "max_token_share": f"tokens - {result.limits.max_token_share} base",
        "max_accuracy_loss": "accuracy lost, points",
        "min_accuracy": "wrong answers, %",
    }[test.limit_name]


def _number(test: Test, value: float) -> str:
    return f"{100 * value:.2f}" if "accuracy" in test.limit_name else f"{value:,.2f}"


def _parser() -> Parser:
    parser = Parser(
        prog="trl-concise accept",
        description="Decide whether a finished model keeps limits on tokens and accuracy, so that a model that breaks one is accepted "
        "with probability at most delta. Reads evaluations, loads no model. Exit status: 0 accepted, 1 rejected, 2 invalid input.",
        epilog="examples:\n"
        "  trl-concise accept outputs/new/eval --base outputs/base/eval --max_token_share 0.6 --max_accuracy_loss 0.02\n"
        "  trl-concise accept outputs/a/eval outputs/b/eval --max_tokens 60 --min_accuracy 0.9   # two candidates\n"
        "  trl-concise accept --plan --std 0.25 --margin 0.02                                    # problems needed",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "evaluations",
        nargs="*",
        metavar="evaluation",
        help="output folder of `trl-concise eval`; several are candidates",
    )
    add("--base", help="output folder of the base model's evaluation")
    add("--dataset", nargs="+", default=[], help="problem sets to test on; all of the first evaluation by default")
    add("--max_tokens", type=float, help="largest mean number of tokens per completion")
    add(
        "--max_token_share", type=float, help="largest mean number of tokens as a share of the base's, for example 0.6"
    )
    add("--max_accuracy_loss", type=float, help="largest loss of accuracy against the base; 0.02 are 2 points")
    add("--min_accuracy", type=float, help="smallest accuracy, between 0 and 1")
    add("--delta", type=float, default=0.05, help="largest probability of a wrong acceptance (%(default)s)")
    add(
        "--token_bound", default="t", choices=("t", "bernstein", "hoeffding"), help="bound of the tokens (%(default)s)"
    )
    add(
        "--accuracy_bound",
        choices=("exact", "t", "bernstein", "hoeffding"),
        help="bound of the accuracy: exact with one completion per problem, bernstein with several",
    )
    add(
        "--earlier_candidates",
        type=int,
        default=0,
        help="models that were tested on the same problems before; each makes the test stricter (%(default)s)",
    )
    add("--plan", action="store_true", help="print how many problems a test needs")
    add("--std", type=float, help="with --plan: standard deviation of the cost between problems")
    add("--margin", type=float, help="with --plan: limit minus true mean, in the same unit")
    return parser
