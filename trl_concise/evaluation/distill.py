# SPDX-License-Identifier: Apache-2.0
"""Verified distillation: ask a teacher for solutions, and keep those that are correct and finished."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..verification.finished import MARKERS, is_finished
from ..verification.verify import verify_and_count
from .completions import has_no_answer, read_completions
from .filter import read_source
from .summaries import public_name


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.teachers import Reply, Teacher

CHOICES = ("all", "shortest")
REPLIES_FILE, REPORT_FILE = "replies.jsonl", "report.json"


@dataclass(frozen=True)
class Solution:
    """
    What a teacher wrote.

    Attributes:
        problem (`int`): Row of the problem.
        text (`str`): The solution, with its reasoning between `<think>` and `</think>` if it has any.
        tokens (`int`): Its length in tokens; 0 if the teacher does not say.
        fault (`str`, *optional*): Why it is not used.
    """

    problem: int
    text: str
    tokens: int
    fault: str | None = None


@dataclass
class DistillReport:
    """
    What became of the problems, and what the solutions cost.

    Attributes:
        problems (`int`): Problems that were asked.
        solutions (`int`): Solutions that were asked for, over all problems.
        solved (`int`): Problems with a solution that was kept.
        kept (`int`): Solutions that were kept.
        dropped (`dict[str, int]`): The other solutions, by the reason: `"failed"`, `"truncated"`, `"empty"`, `"unfinished"`, `"wrong"`,
            `"unverifiable"`, `"duplicate"`, `"longer"`.
        unreadable (`int`): Problems that were not asked, because their reference answer cannot be read.
        requests, resumed (`int`): Solutions that were written in this run, and those of earlier runs.
        retries (`int`): How often requests were repeated before they were answered.
        errors (`dict[str, int]`): Messages of the requests that failed for good.
        input_tokens, output_tokens (`int`): Tokens of all solutions, those of earlier runs included.
        kept_tokens (`int`): Output tokens of the solutions that were kept.
        cost (`float`, *optional*): Price of all tokens, if prices are given.
        seconds (`float`): Time this run took.
    """

    problems: int
    solutions: int
    solved: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0
    requests: int = 0
    resumed: int = 0
    retries: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    kept_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        from ..data.replies import describe_counts, describe_requests

        lines = [
            f"{self.kept:,} of {self.solutions:,} solutions kept ({_share(self.kept, self.solutions)}), of {self.solved:,} of "
            f"{self.problems:,} problems ({_share(self.solved, self.problems)})",
            f"dropped: {describe_counts(self.dropped)}",
            *(
                [f"not asked: {self.unreadable:,} problems without a readable reference answer"]
                if self.unreadable
                else []
            ),
            *describe_requests(self),
        ]
        if self.kept:
            price = f", price per solution kept {self.cost / self.kept:.6f}" if self.cost is not None else ""
            lines.append(f"{self.kept_tokens / self.kept:,.1f} tokens per solution kept{price}")
        return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def distill_problems(
    dataset: str,
    teacher: str | Teacher,
    output: str | Path,
    *,
    num_completions: int = 4,
    choose: str = "all",
    limit: int | None = None,
    prices: tuple[float, float] | None = None,
    problem_options: Mapping[str, Any] | None = None,
    prompt_suffix: str | None = None,
    answer_format: str = "auto",
    final_form: bool = True,
    progress: bool = True,
    **options: Any,
) -> DistillReport:
    r"""
    Ask a teacher for solutions of problems, and write those that are correct and finished, for [`~trl.SFTTrainer`].

    Everything that the teacher writes is kept in the folder `<output without suffix>_solutions`: the same call continues an interrupted
    run and asks for nothing twice, and another choice, or a larger number of solutions, asks only for what is missing. The output is
    written at the end, as a whole.

    Args:
        dataset (`str`):
            Dataset id on the Hub, path of a file (see [`load_problems`]), or `demo` for generated problems. Problems whose reference answer
            cannot be read are not asked.
        teacher (`str` or [`Teacher`]):
            Path or Hub id of a model, `demo` for the embedded model; or an [`APITeacher`] for an endpoint. The first is asked by [`evaluate`].
        output (`str` or `Path`):
            File to write, `.jsonl` or `.parquet`, one row per solution kept: `prompt` and `completion` (lists of messages), `solution` (the
            reference answer), `tokens`, and `prompt_id` where the dataset has one. An existing file is replaced.
        num_completions (`int`, *optional*, defaults to `4`):
            Solutions per problem.
        choose (`str`, *optional*, defaults to `"all"`):
            `"all"`: every correct solution that differs from the earlier ones of its problem. `"shortest"`: the shortest of each problem, in
            tokens, or in characters if an endpoint does not count them.
        limit (`int`, *optional*):
            At most this many problems, the first ones.
        prices (`tuple[float, float]`, *optional*):
            Price of a million input and of a million output tokens, for the report.
        problem_options (`Mapping[str, Any]`, *optional*):
            Arguments of [`load_problems`]: split, columns, system prompt.
        prompt_suffix (`str`, *optional*):
            Text after every problem, for example an instruction on the form or the language of the answer.
        answer_format, final_form:
            How answers are judged, see [`math_accuracy_reward`].
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.
        **options:
            For a model: arguments of [`evaluate`], such as `max_new_tokens`, `temperature` and `use_vllm`.

    Returns:
        [`DistillReport`]: Also written to `report.json` in the folder.

    Raises:
        `ValueError`: If an argument is out of range, the dataset cannot be read, an endpoint refuses its key or model, or no solution can be kept.
        `FileNotFoundError`: If a model or a dataset is found neither locally nor on the Hub.
        `ConnectionError`: If 20 requests in a row fail for good.

    Example:

    ```python
    >>> report = distill_problems("train.jsonl", "Qwen/Qwen3-8B", "solutions.jsonl", num_completions=8, choose="shortest")
    >>> SFTTrainer("Qwen/Qwen3-0.6B", train_dataset=load_dataset("json", data_files="solutions.jsonl", split="train"))
    ```
    """
    from datasets import Dataset

    from ..data.files import check_output, write_rows
    from .sets import add_to_prompts

    started, output = time.perf_counter(), Path(output)
    check_output(output, dataset)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1; got {limit}.")
    if choose not in CHOICES:
        raise ValueError(f"choose must be one of {', '.join(map(repr, CHOICES))}; got {choose!r}.")
    if num_completions < 1:
        raise ValueError(f"num_completions must be at least 1; got {num_completions}.")
    if prices is not None and not all(0 <= price < float("inf") for price in prices):
        raise ValueError(f"prices must be two finite numbers of at least 0; got {prices[0]:g} and {prices[1]:g}.")
    temperature = options.get("temperature") if isinstance(teacher, str) else teacher.config().get("temperature")
    if temperature == 0 and num_completions > 1:
        raise ValueError(
            f"At temperature 0, the {num_completions} solutions of a problem would be the same. Set num_completions to 1, or a higher "
            "temperature."
        )
    found = read_source(dataset, dict(problem_options or {}))
    unreadable = set(found.unreadable)
    places = [place for place in range(len(found.problems)) if place not in unreadable][:limit]
    bare = Dataset.from_list([found.problems[place] for place in places])
    problems = add_to_prompts(bare, None, prompt_suffix)
    report = DistillReport(len(places), len(places) * num_completions, unreadable=len(unreadable))
    folder = output.with_name(f"{output.stem}_solutions")
    judging = {"answer_format": answer_format, "final_form": final_form}
    if isinstance(teacher, str):
        name = Path(dataset).stem if Path(dataset).expanduser().is_file() else public_name(dataset)
        solutions = _ask_model(
            teacher, name, problems, folder, num_completions, report, progress, {**judging, **options}
        )
    else:
        if options:
            raise ValueError(
                f"{', '.join(options)} are options of a model, not of {type(teacher).__name__}. Leave them out."
            )
        solutions = _ask_endpoint(teacher, problems, folder, num_completions, report, progress, judging)

    chosen = choose_solutions(solutions, choose)
    kept = [solution for solution in chosen if solution.fault is None]
    report.kept, report.solved = len(kept), len({solution.problem for solution in kept})
    report.kept_tokens = sum(solution.tokens for solution in kept)
    report.dropped = dict(Counter(solution.fault for solution in chosen if solution.fault is not None))
    if prices is not None:
        report.cost = (report.input_tokens * prices[0] + report.output_tokens * prices[1]) / 1e6
    report.seconds = time.perf_counter() - started
    folder.mkdir(parents=True, exist_ok=True)
    _write_report(report, folder)
    if not kept:
        raise ValueError(
            f"None of the {report.solutions} solutions can be kept: {' '.join(str(report).splitlines()[1:2])}. They are in {folder}. Choose another "
            "teacher, another answer format or more tokens."
        )
    write_rows([_as_row(solution, problems[solution.problem]) for solution in kept], output)
    return report


def choose_solutions(solutions: Sequence[Solution], choose: str) -> list[Solution]:
    """
    Choose among the solutions that have no fault.

    Args:
        solutions (`Sequence[Solution]`): Solutions of all problems.
        choose (`str`): `"all"` or `"shortest"`.

    Returns:
        `list[Solution]`: The same ones in the same order; those that are not chosen have the fault `"duplicate"` or `"longer"`.
    """
    chosen = list(solutions)
    usable: dict[int, list[int]] = {}
    for place, solution in enumerate(solutions):
        if solution.fault is None:
            usable.setdefault(solution.problem, []).append(place)
    for own in usable.values():
        first: dict[str, int] = {}
        for place in own:
            if first.setdefault(solutions[place].text.strip(), place) != place:
                chosen[place] = replace(solutions[place], fault="duplicate")
        if choose == "shortest":
            counts = all(solutions[place].tokens for place in own)
            best = min(
                first.values(), key=lambda place: solutions[place].tokens if counts else len(solutions[place].text)
            )
            for place in first.values():
                if place != best:
                    chosen[place] = replace(solutions[place], fault="longer")
    return chosen


def _ask_model(
    model: str,
    name: str,
    problems: Dataset,
    folder: Path,
    num_completions: int,
    report: DistillReport,
    progress: bool,
    options: dict[str, Any],
) -> list[Solution]:
    """Have a model solve the problems, as an evaluation does, and fill the report."""
    from ..state.adapters import load_tokenizer
    from .evaluator import evaluate
    from .folder import COMPLETIONS_FILE
    from .sampling import find_model, tokenize_prompts

    path = folder / COMPLETIONS_FILE
    report.resumed = len(_of_set(path, name, len(problems), num_completions)) if path.is_file() else 0
    evaluate(model, {name: problems}, folder, num_completions=num_completions, progress=progress, **options)
    items = _of_set(path, name, len(problems), num_completions)
    prompt_ids = tokenize_prompts(load_tokenizer(find_model(model)[0]), list(problems["prompt"]))
    report.requests = len(items) - report.resumed
    report.input_tokens = num_completions * sum(map(len, prompt_ids))
    report.output_tokens = sum(item.tokens for item in items)
    solutions = []
    for item in items:
        text, fault = _with_opened_reasoning(item.text), None
        if item.truncated:
            fault = "truncated"
        elif has_no_answer(text):
            fault = "empty"
        elif not is_finished(text):
            fault = "unfinished"
        elif not item.correct:
            fault = "wrong" if item.correct is not None else "unverifiable"
        solutions.append(Solution(item.problem, text, item.tokens, fault))
    return solutions


def _of_set(path: Path, name: str, problems: int, num_completions: int) -> list[Any]:
    """Return the completions of the problems, in order."""
    items = [
        item
        for item in read_completions(path)
        if item.dataset == name and item.problem < problems and item.completion < num_completions
    ]
    return sorted(items, key=lambda item: (item.problem, item.completion))


def _ask_endpoint(
    teacher: Teacher,
    problems: Dataset,
    folder: Path,
    num_completions: int,
    report: DistillReport,
    progress: bool,
    judging: dict[str, Any],
) -> list[Solution]:
    """Have an endpoint solve the problems, and fill the report."""
    from ..data.replies import collect_replies, request_key

    prompts = list(problems["prompt"])
    # Problem by problem: a run that is stopped has all solutions of the first ones.
    asked = [(problem, sample) for problem in range(len(prompts)) for sample in range(num_completions)]
    conversations = [prompts[problem] for problem, _ in asked]
    keys = [request_key(prompts[problem], teacher, sample) for problem, sample in asked]
    replies, requests = collect_replies(conversations, keys, teacher, folder / REPLIES_FILE, "Solutions", progress)
    for field_name, value in asdict(requests).items():
        setattr(report, field_name, value)
    texts = list(map(_whole_text, replies))
    faults = [_find_fault(reply, text) for reply, text in zip(replies, texts, strict=True)]
    verdicts, _ = verify_and_count(
        [problems[problem]["solution"] for problem, _ in asked],
        texts,
        finished=[not fault for fault in faults],
        format=judging["answer_format"],
        final_form=judging["final_form"],
    )
    return [
        Solution(
            problem, text, reply.output_tokens, fault or {True: None, False: "wrong", None: "unverifiable"}[verdict]
        )
        for (problem, _), text, reply, fault, verdict in zip(asked, texts, replies, faults, verdicts, strict=True)
    ]


def _whole_text(reply: Reply) -> str:
    """Return the reasoning and the answer as one text."""
    if reply.reasoning.strip():
        return f"{MARKERS.start}\n{reply.reasoning.strip()}\n{MARKERS.end}\n\n{reply.text.lstrip()}"
    return _with_opened_reasoning(reply.text)


def _with_opened_reasoning(text: str) -> str:
    """Return a solution with the `<think>` that a chat template put at the end of the prompt."""
    if MARKERS.end in text and MARKERS.start not in text.partition(MARKERS.end)[0]:
        return f"{MARKERS.start}\n{text}"
    return text


def _find_fault(reply: Reply, text: str) -> str | None:
    """Return why a reply is not used, whatever its answer is."""
    if reply.error is not None:
        return "failed"
    if not reply.complete:
        return "truncated"
    if has_no_answer(text):
        return "empty"
    return None if is_finished(text) else "unfinished"


def _as_row(solution: Solution, problem: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row in TRL's conversational prompt-completion format."""
    own = {"prompt_id": problem["prompt_id"]} if problem.get("prompt_id") is not None else {}
    return {
        "prompt": problem["prompt"],
        "completion": [{"role": "assistant", "content": solution.text}],
        "solution": problem["solution"],
        "tokens": solution.tokens,
        **own,
    }


def _write_report(report: DistillReport, folder: Path) -> None:
    from ..state.checkpoint import write_atomically

    write_atomically(folder / REPORT_FILE, (json.dumps(asdict(report), indent=2) + "\n").encode())
