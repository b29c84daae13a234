# SPDX-License-Identifier: Apache-2.0
"""
[`measure_test_time`] compares procedures that trade tokens for accuracy with a fixed model; the command `trl-concise testtime`.

It works on saved completions, so no model is loaded, and each procedure is charged for all tokens that it would have generated.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import Parser
from ..state.checkpoint import write_atomically
from ..verification.finished import MARKERS, ThinkingMarkers
from .completions import Completion
from .early_exit import TrimRules, stop_early
from .expansion import powers_of_two
from .folder import SETTINGS_FILE
from .judges import DEFAULT_JUDGE, JudgeFunction, find_judge
from .metrics import accuracy_interval, on_frontier, pass_at_k
from .recorded import Evaluation
from .selection import choose_majority, longest_of, share_of_majority
from .summaries import read_json
from .uncertainty import FILE as UNCERTAINTY_FILE
from .uncertainty import read_uncertainty
from .voting import FILE as VERIFICATIONS_FILE
from .voting import choose_weighted, find_votes_after_reasoning, read_verifications


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TESTTIME_FILE = "testtime.json"


def votes_until_decided(votes: Sequence[int | None]) -> int:
    """
    Return after how many completions the answer with the most votes can no longer be overtaken: it leads by more votes than are left.

    Examples:
        >>> votes_until_decided([0] * 16), votes_until_decided([0, 1, 0, 0, 0, 0, 0, 0]), votes_until_decided([0, 1] * 4)
        (9, 6, 8)
    """
    counts: dict[int, int] = {}
    for tries, vote in enumerate(votes, 1):
        if vote is not None:
            counts[vote] = counts.get(vote, 0) + 1
        first, second, *_ = [*sorted(counts.values(), reverse=True), 0, 0]
        if first - second > len(votes) - tries:
            return tries
    return len(votes)


def measure_test_time(
    evaluation: str | Path,
    output_dir: str | Path | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    trim: TrimRules | None = None,
    alpha: float = 1.0,
) -> list[dict[str, Any]]:
    """
    Measure accuracy against all tokens of the procedures that saved completions allow.

    - `majority`: the most frequent of k answers; ties go to the one seen first. For k of n completions, the mean over subsets, at most 2,000 of a problem.
    - `leader`: majority vote that stops when the leader cannot be overtaken: the same answer in fewer tokens.
    - `verified`: votes weighted by the model's own verdicts, if the evaluation has them (`--vote verify`); verifications are charged.
    - `best_of_n` and `weighted`: the completion that the model finds most likely, and votes with that weight, exp(-mean negative log-likelihood), if the
      evaluation has it (`--record uncertainty`).
    - `early_exit`: one completion, whose reasoning stops by [`TrimRules`] and answers with the last answer so far, if a tokenizer is given. The answer costs nothing here; generated,
      it would cost some tokens.
    - `any`: whether one of k is correct (pass@k), which needs the reference answer: a bound, not a procedure.

    Args:
        evaluation (`str` or `Path`): Output folder of `trl-concise eval`.
        output_dir (`str` or `Path`, *optional*): Where to write `testtime.json`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Of the model, to count the tokens of stopped reasoning.
        trim ([`TrimRules`], *optional*): When reasoning stops.
        alpha (`float`, *optional*, defaults to `1.0`): Exponent of the weights; 0 is majority vote.

    Returns:
        `list[dict[str, Any]]`: Per problem set, procedure and k: `dataset`, `method`, `k`, `accuracy` and `interval` (95 %, bootstrap over problems),
        `tokens` per problem, of them `tokens_model` and `tokens_verifier`, `tokens_per_correct` (`None` without a correct answer), `latency_tokens`
        (the longest sequence of tokens that must be waited for), and of early exit `stopped`: the share stopped for each reason.

    Raises:
        `FileNotFoundError`: If the folder has no evaluation.
        `ValueError`: If the evaluation is incomplete, a score is missing, `alpha` is negative, or the judge of the evaluation cannot judge the answers
            of early exit.
    """
    folder = Path(evaluation)
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha must be a finite number of at least 0; got {alpha}.")
    found = Evaluation.read(folder)
    settings = read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    markers = ThinkingMarkers(*(settings or {}).get("thinking_markers", [MARKERS.start, MARKERS.end]))
    verifications = read_verifications(folder)
    records: list[dict[str, Any]] = []
    for name in found.sets:
        groups = [
            items
            for _, items in sorted(found.completions[name].items())
            if all(item.correct is not None for item in items)
        ]
        answer_format = found.sets[name].get("answer_format", "auto")
        votes = [_votes(items, answer_format, markers) for items in groups]
        uncertainty = read_uncertainty(folder, [item for items in groups for item in items])
        likely = _scores(
            *(name, groups, {key: math.exp(-line.nll_mean) for key, line in uncertainty.items()}, UNCERTAINTY_FILE),
            needed=[[bool(item.completion_ids) for item in items] for items in groups],
        )
        own = [item for item in verifications if item.dataset == name]
        verified = _scores(
            *(name, groups, {(item.problem, item.completion): item.score for item in own}, VERIFICATIONS_FILE),
            needed=[[vote is not None for vote in cast] for cast in votes],
        )
        checked = {(item.problem, item.completion): item.tokens for item in own}
        n = len(groups[0])
        for k in powers_of_two(n):
            records += [
                _measure(name, "majority", k, groups, votes),
                _measure(name, "any", k, groups, None),
            ]
        if n > 1:
            decided = [votes_until_decided(own) for own in votes]
            records.append(
                _of_problems(
                    name,
                    "leader",
                    n,
                    [_is_correct(items, choose_majority(own)) for items, own in zip(groups, votes, strict=True)],
                    [sum(item.tokens for item in items[:tries]) for items, tries in zip(groups, decided, strict=True)],
                    [sum(item.tokens for item in items[:tries]) for items, tries in zip(groups, decided, strict=True)],
                )
            )
        if likely is not None and n > 1:
            records.append(
                _chosen(name, "best_of_n", groups, [_best(*pair) for pair in zip(votes, likely, strict=True)])
            )
            places = [choose_weighted(own, scores, alpha) for own, scores in zip(votes, likely, strict=True)]
            records.append(_chosen(name, "weighted", groups, places))
        if verified is not None and n > 1:
            places = [choose_weighted(own, scores, alpha) for own, scores in zip(votes, verified, strict=True)]
            cost = [sum(checked.get((item.problem, item.completion), 0) for item in items) for items in groups]
            records.append(_chosen(name, "verified", groups, places, cost))
        if tokenizer is not None:
            limit = found.sets[name]["max_new_tokens"]
            judge = _judge(found.sets[name])
            records.append(_early_exit(name, groups, tokenizer, trim or TrimRules(), limit, judge, markers))
    if output_dir is not None:
        path = Path(output_dir)
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / TESTTIME_FILE, (json.dumps(records, indent=2, allow_nan=False) + "\n").encode())
    return records


def _votes(items: Sequence[Completion], answer_format: Any, markers: ThinkingMarkers) -> list[int | None]:
    """Return the votes as `eval --vote` counts them: an unfinished completion has none."""
    votes = find_votes_after_reasoning(items, answer_format, markers)
    return [None if item.finished is False else vote for item, vote in zip(items, votes, strict=True)]


def _judge(record: Mapping[str, Any]) -> JudgeFunction:
    """Return the judge of an evaluation, for answers that it did not judge."""
    name = (record.get("judge") or {}).get("name", DEFAULT_JUDGE)
    try:
        return find_judge(name, "auto", record.get("final_form", True))
    except ValueError as error:
        raise ValueError(
            f"The completions were judged by {name!r}, which cannot be found by its name to judge the answers of early exit. Leave out the "
            "tokenizer, or give the evaluation itself, not its rescored copy."
        ) from error


def _best(votes: Sequence[int | None], scores: Sequence[float]) -> int | None:
    """Return the place of the highest score among completions with an answer; ties go to the first."""
    places = [place for place, vote in enumerate(votes) if vote is not None]
    return max(places, key=lambda place: scores[place], default=None)


def _is_correct(items: Sequence[Completion], place: int | None) -> float:
    return float(place is not None and bool(items[place].correct))


def _measure(
    name: str,
    method: str,
    k: int,
    groups: Sequence[Sequence[Completion]],
    votes: Sequence[Sequence[int | None]] | None,
) -> dict[str, Any]:
    right = [[bool(item.correct) for item in items] for items in groups]
    if votes is None:
        correct = [pass_at_k(len(own), sum(own), k) for own in right]
    else:
        correct = [share_of_majority(cast, own, k) for cast, own in zip(votes, right, strict=True)]
    lengths = [[item.tokens for item in items] for items in groups]
    return _of_problems(
        *(name, method, k, correct, [k * fmean(own) for own in lengths], [longest_of(own, k) for own in lengths])
    )


def _chosen(
    name: str,
    method: str,
    groups: Sequence[Sequence[Completion]],
    places: Sequence[int | None],
    verifier: Sequence[int] | None = None,
) -> dict[str, Any]:
    correct = [_is_correct(items, place) for items, place in zip(groups, places, strict=True)]
    tokens = [sum(item.tokens for item in items) for items in groups]
    longest = [max(item.tokens for item in items) for items in groups]
    return _of_problems(name, method, len(groups[0]), correct, tokens, longest, verifier)


def _of_problems(
    name: str,
    method: str,
    k: int,
    correct: Sequence[float],
    tokens: Sequence[float],
    longest: Sequence[float],
    verifier: Sequence[int] | None = None,
) -> dict[str, Any]:
    accuracy, of_model = fmean(correct), fmean(tokens)
    of_verifier = fmean(verifier) if verifier is not None else 0.0
    return {
        "dataset": name,
        "method": method,
        "k": k,
        "accuracy": accuracy,
        "interval": list(accuracy_interval([[value] for value in correct])),
        "tokens": of_model + of_verifier,
        "tokens_model": of_model,
        "tokens_verifier": of_verifier,
        "tokens_per_correct": (of_model + of_verifier) / accuracy if accuracy else None,
        "latency_tokens": fmean(longest),
    }


def _scores(
    name: str,
    groups: Sequence[Sequence[Completion]],
    found: Mapping[tuple[int, int], float],
    file: str,
    *,
    needed: Sequence[Sequence[bool]],
) -> list[list[float]] | None:
    """Return a score per completion; `None` if the evaluation has none. One that needs none, because it has no vote, scores 0."""
    if not found:
        return None
    missing = sum(
        needs and (item.problem, item.completion) not in found
        for items, own in zip(groups, needed, strict=True)
        for item, needs in zip(items, own, strict=True)
    )
    if missing:
        raise ValueError(
            f"{file} lacks {missing} completions of {name!r}. Run the same `trl-concise eval` again to add them."
        )
    return [[found.get((item.problem, item.completion), 0.0) for item in items] for items in groups]


def _early_exit(
    name: str,
    groups: Sequence[Sequence[Completion]],
    tokenizer: PreTrainedTokenizerBase,
    rules: TrimRules,
    limit: int,
    judge: JudgeFunction,
    markers: ThinkingMarkers,
) -> dict[str, Any]:
    correct, tokens = [], []
    reasons = dict.fromkeys(("agreement", "no agreement"), 0)
    for items in groups:
        outcomes = [stop_early(item, tokenizer, rules, limit, judge, markers) for item in items]
        for reason, _, _ in outcomes:
            if reason is not None:
                reasons[reason] += 1
        correct.append(fmean(float(is_right) for _, is_right, _ in outcomes))
        tokens.append(fmean(used for _, _, used in outcomes))
    count = sum(map(len, groups))
    record = _of_problems(name, "early_exit", 1, correct, tokens, tokens)
    return record | {"stopped": {reason: times / count for reason, times in reasons.items()}}


def main(argv: Sequence[str]) -> int:
    """Compare procedures at test time, and print a table."""
    parser = _parser()
    options = parser.parse_args(argv)
    given = {name: getattr(options, name) for name in ("agreements", "budget_share", "segments")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and options.tokenizer is None:
        parser.error(f"--{next(iter(given))} has no effect without --tokenizer. Add --tokenizer, or leave it out.")
    try:
        tokenizer = None
        if options.tokenizer is not None:
            from .loading import find_model, load_tokenizer

            tokenizer = load_tokenizer(find_model(options.tokenizer)[0])
        records = measure_test_time(
            options.evaluation, options.output_dir, tokenizer=tokenizer, trim=TrimRules(**given), alpha=options.alpha
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print_test_time(records)
    return 0


def print_test_time(records: Sequence[Mapping[str, Any]]) -> None:
    """Print accuracy against all tokens, and which procedures no other one beats in both."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for name in dict.fromkeys(record["dataset"] for record in records):
        own = [record for record in records if record["dataset"] == name]
        real = [record for record in own if record["method"] != "any"]
        best = on_frontier([record["accuracy"] for record in real], [record["tokens"] for record in real])
        on = {id(record) for record, is_best in zip(real, best, strict=True) if is_best}
        table = Table(
            title=escape(name),
            caption=escape(
                "Tokens: all that are generated per problem, discarded completions and verifications included. *: no other procedure is as accurate in as "
                "few tokens. any: needs the reference answer. leader: the majority vote, stopped once it is decided. [ ]: 95 % interval, bootstrap over problems."
            ),
        )
        table.add_column("Procedure", no_wrap=True)
        for heading in ("k", "Accuracy", "Tokens", "Per correct"):
            table.add_column(heading, justify="right", no_wrap=True)
        for record in own:
            low, high = record["interval"]
            each = record["tokens_per_correct"]
            table.add_row(
                record["method"] + " *" * (id(record) in on),
                str(record["k"]),
                escape(f"{record['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]"),
                f"{record['tokens']:,.1f}",
                f"{each:,.1f}" if each is not None else "-",
            )
        Console().print(table)


def _parser() -> Parser:
    parser = Parser(
        prog="trl-concise testtime",
        description="Compare procedures that trade tokens for accuracy, on the completions of an evaluation: votes, best-of-n, early exit. "
        "No model is loaded.",
        epilog="example:\n"
        "  trl-concise eval MODEL math500 -n 16 --record uncertainty --output_dir outputs/base\n"
        "  trl-concise testtime outputs/base --tokenizer MODEL --output_dir outputs/testtime",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("evaluation", help="output folder of `trl-concise eval`, with several completions per problem")
    add("--output_dir", help=f"where to write {TESTTIME_FILE}")
    add(
        "--alpha",
        type=float,
        default=1.0,
        help="exponent of the weights in a weighted vote; 0 is majority vote (%(default)s)",
    )
    add("--tokenizer", help="path or Hub id of the model, for early exit; `demo` is the embedded model")
    add("--agreements", type=int, help="equal answers in a row after the first, at which the reasoning stops (2)")
    add("--budget_share", type=float, help="share of max_new_tokens after which it stops without agreement (0.5)")
    add("--segments", type=int, help="segments after which it stops without agreement (20)")
    return parser
