# SPDX-License-Identifier: Apache-2.0
"""
Tasks about the process of a solution, made from worked solutions: fill in what is missing, or restore the order of the steps.

MR-RLVR (https://huggingface.co/papers/2511.17473) trains on them before it trains on final answers. The texts, and what is left blank, are
a reconstruction.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

from datasets import Dataset, Features, IterableDataset, Value
from datasets import Sequence as Items

from ..verification.extraction import after_hashes, last_boxed
from .columns import PROBLEM_COLUMNS, RowError, read_answer, read_problem, unknown_column
from .problems import as_messages
from .rows import read_column
from .steps import split_steps


logger = logging.getLogger(__name__)

FILL, ORDER = TASKS = ("fill", "order")
FEWEST_STEPS = 3  # of two steps there is one wrong order
MAX_BLANKS = 3
BLANK = "[blank {number}]"  # in the prompt, and before each piece in the completion
FILL_PROMPT = (
    "{problem}\n\nThis is a solution in which some pieces are missing:\n{solution}\n\n"
    "Write each missing piece on a line of its own, after its mark, for example:\n[blank 1] 42"
)
ORDER_PROMPT = (
    "{problem}\n\nThese are the steps of a solution in the wrong order:\n{steps}\n\n"
    'Write their numbers in the right order, on a last line that begins with "Order:", for example:\nOrder: 3, 1, 2'
)
LONGEST_SIDE = 200  # characters of an equation before its last equals sign
SOLUTION_COLUMNS = ("solution", "answer")

AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?%?"
_CALCULATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's, which repeat the result
_EQUATION = re.compile(  # bounded, so that a long line without an equals sign costs little
    rf"(?<![\w.,])[(\d.$][\d\s.,$%()+\-*/×÷·]{{1,{LONGEST_SIDE}}}=\s*\$?-?{_NUMBER}(?![\w.]*\d)"
)
_CALCULATES = re.compile(r"[+\-*/×÷·].*=", re.DOTALL)
_RESULT = re.compile(rf"=\s*\$?(?P<inside>-?{_NUMBER})(?!\s*[-+*/×÷·^=(]|[.,]?\d|\w)")
_FORMULA = re.compile(  # not the amounts in "$5 and $10"
    r"(?<![\\$])\$(?![\s$])(?P<inside>[^$\n]*[^$\n\s\\])\$(?![\d$])|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]|\$\$(?P<display>[^$]+)\$\$",
    re.DOTALL,
)
_WORDS = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}")
_OPERATION = re.compile(r"[\d=+\-*/^\\<>]")  # a formula without any is only a letter
_NAME = re.compile(
    r"(?:[A-Z][\w'’\u2013-]+\s+){1,3}(?:[Tt]heorem|[Ll]emma|[Ff]ormula|[Ii]dentity|[Ii]nequality|[Rr]ule|[Ll]aw)\b"
)
_PLAIN_NUMBER = re.compile(rf"(?<![\w.,$\\{{^])(?P<inside>{_NUMBER})(?![\w}}]|[.,]\d)")
_LABEL = re.compile(  # it would give the order away; a sign or a delimiter after it belongs to the step
    r"[\s>*_#`([-]*step\s*\d+\b[*_`]*\s*(?:[.:,;)\]]|[-\u2013\u2014](?=\s))?[*_`]*\s*|\(?\d{1,2}[.)]\s+", re.IGNORECASE
)

_FEATURES = Features(
    {
        "prompt": [{"role": Value("string"), "content": Value("string")}],
        "task": Value("string"),
        "blanks": Items(Value("string")),
        "order": Items(Value("int64")),
        "left_out": Value("string"),
    }
)


class Span(NamedTuple):
    """A piece of a text that can be left blank."""

    start: int
    end: int
    text: str


def build_process_tasks(
    dataset: AnyDataset,
    *,
    tasks: Sequence[str] = TASKS,
    problem_column: str | None = None,
    solution_column: str | None = None,
    separator: str = "\n",
    max_blanks: int = MAX_BLANKS,
    blank_answer: bool = False,
    fill_prompt: str = FILL_PROMPT,
    order_prompt: str = ORDER_PROMPT,
    system_prompt: str | None = None,
    seed: int = 0,
) -> AnyDataset:
    r"""
    Make one task from each worked solution.

    - `"fill"`: one to `max_blanks` pieces of the solution are left blank, at most one of each step: an equation, its result, a formula, the name
      of a theorem, or a number that the problem does not contain. The final answer is never one of them, unless `blank_answer` is set.
    - `"order"`: the steps are shown in another order, which is never the right one. It needs at least three steps, all different.

    A task depends on its row and the seed only, not on the order of rows or on the number of processes. GSM8K's calculations in `<<...>>` are
    removed, and its `####` line is not a step.

    Args:
        dataset (`Dataset` or `IterableDataset`):
            Rows with a problem and a worked solution. A column `task` with `"fill"` or `"order"` chooses the task of its row.
        tasks (`Sequence[str]`, *optional*, defaults to `("fill", "order")`):
            The tasks from which one is drawn for each row, among those that its solution allows.
        problem_column (`str`, *optional*):
            Column of the problem, text or messages; known names are recognized, see [`load_problems`].
        solution_column (`str`, *optional*):
            Column of the worked solution; `solution` by default, and `answer` in a dataset without it.
        separator (`str`, *optional*, defaults to a line break):
            Text between steps (see [`split_steps`]), for example `". "` where solutions are one paragraph.
        max_blanks (`int`, *optional*, defaults to `3`):
            Largest number of blanks.
        blank_answer (`bool`, *optional*, defaults to `False`):
            Whether the final answer may be a blank. It is what `\boxed{}` or `####` marks, or the column `answer`; without either, nothing of
            the last step is left blank.
        fill_prompt, order_prompt (`str`, *optional*):
            Format strings with `{problem}`, and `{solution}` or `{steps}`; other braces are doubled. They must ask for the
            form that [`~trl_concise.methods.mr_rlvr.fill_reward`] and [`~trl_concise.methods.mr_rlvr.order_reward`] read.
        system_prompt (`str`, *optional*):
            System message before every problem.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the tasks.

    Returns:
        A dataset of the same kind with `prompt` (messages), `task`, `blanks` (`list[str]`: the missing pieces in order, or `None`) and `order`
        (`list[int]`: the numbers of the shown steps in their right order, or `None`). Rows without a usable solution are left out; of a
        `Dataset`, a warning counts them.

    Raises:
        `ValueError`: If an argument is invalid, a column is missing or does not hold text, or no row of a `Dataset` is usable. A stream is
            read, and such an error raised, when it is iterated over.

    Examples:
        >>> rows = [{"problem": "What is 2 * 3 + 4 - 1?", "solution": "2*3=6\n6+4=10\n10-1=9\n#### 9"}]
        >>> task = build_process_tasks(Dataset.from_list(rows), tasks=["order"], seed=1)[0]
        >>> print(task["prompt"][0]["content"].split("\n\n")[1])
        These are the steps of a solution in the wrong order:
        1. 6+4=10
        2. 2*3=6
        3. 10-1=9
        >>> task["order"]
        [2, 1, 3]
    """
    if isinstance(tasks, str) or not tasks or set(tasks) - set(TASKS):
        raise ValueError(f"tasks must be one or both of {list(TASKS)}, got {tasks!r}.")
    if isinstance(dataset, dict):
        raise ValueError(f"Tasks are made from one split, got {list(dataset)}. Give one of them.")
    if isinstance(dataset, Dataset) and not len(dataset):
        raise ValueError("The dataset has no rows. Give rows with a problem and a worked solution.")
    if not isinstance(max_blanks, int) or isinstance(max_blanks, bool) or max_blanks < 1:
        raise ValueError(f"max_blanks must be a whole number of at least 1, got {max_blanks!r}.")
    for name, text, places in (
        ("fill_prompt", fill_prompt, ("{problem}", "{solution}")),
        ("order_prompt", order_prompt, ("{problem}", "{steps}")),
    ):
        if not all(place in text for place in places):
            raise ValueError(f"{name} must contain {' and '.join(places)}, got {text!r}.")
    split_steps("", separator)  # checks the separator
    names = dataset.column_names or list(next(iter(dataset), {}))  # a stream may not know its columns
    options = {
        "tasks": tuple(tasks),
        "problem_column": _find("problem", problem_column, PROBLEM_COLUMNS, names),
        "solution_column": _find("solution", solution_column, SOLUTION_COLUMNS, names),
        "separator": separator,
        "max_blanks": max_blanks,
        "blank_answer": blank_answer,
        "prompts": {FILL: fill_prompt, ORDER: order_prompt},
        "system_prompt": system_prompt,
        "seed": seed,
    }
    made = dataset.map(
        _make_task, with_indices=True, fn_kwargs={"options": options}, remove_columns=names, features=_FEATURES
    )
    if isinstance(made, Dataset):
        left_out = Counter(reason for reason in made["left_out"] if reason is not None)
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        if left_out.total() == len(made):
            raise ValueError(
                f"None of the {len(made)} solutions in {options['solution_column']!r} is usable: {counts}. Give worked "
                "solutions, another separator of their steps, or other tasks."
            )
        if left_out:
            logger.warning("Left out %d of %d solutions: %s.", left_out.total(), len(made), counts)
    return made.filter(_is_task, input_columns="left_out").remove_columns("left_out")


def _is_task(left_out: str | None) -> bool:
    return left_out is None


def _find(kind: str, given: str | None, known: Sequence[str], names: Sequence[str]) -> str:
    """Return the column of the problems or of the solutions."""
    if given is not None and given.partition(".")[0] not in names:
        raise ValueError(f"The dataset has no column {given!r} for the {kind}. Its columns: {', '.join(names)}.")
    found = given or next((name for column in known for name in names if name.lower() == column), None)
    if found is None:
        raise unknown_column(kind, "the dataset", names, known)
    return found


def _make_task(row: Mapping[str, Any], index: int, options: Mapping[str, Any]) -> dict[str, Any]:
    task: dict[str, Any] = dict.fromkeys(_FEATURES)
    column = options["solution_column"]
    solution = read_column(row, column)
    if solution is not None and not isinstance(solution, str):
        raise ValueError(
            f"Row {index}: the column {column!r} must hold worked solutions as text, got a {type(solution).__name__}: "
            f"{str(solution):.60}. Name the column that holds them with solution_column."
        )
    try:
        problem, _ = read_problem(row, options["problem_column"])
    except RowError as error:
        raise ValueError(f"Row {index}: {error}. Name the column of the problems with problem_column.") from error
    chosen = read_column(row, "task")
    if chosen not in (*TASKS, None):
        raise ValueError(f"Row {index}: the column 'task' must hold one of {list(TASKS)}, got {chosen!r:.60}.")
    if not (problem and solution and solution.strip()):
        return task | {"left_out": "without a problem or a solution"}

    text = problem if isinstance(problem, str) else problem[-1]["content"]
    rng = random.Random(f"{options['seed']} {text} {solution}")
    lines = clean_solution(solution)
    steps = split_steps(lines, options["separator"])
    answer = _final_answer(row, solution, column)
    made: dict[str, tuple[str, Any]] = {}
    if (order := _make_order(steps, rng)) is not None:
        made[ORDER] = order
    if (blanks := _make_blanks(steps, text, answer, rng, options)) is not None:
        made[FILL] = blanks
    usable = [name for name in ([chosen] if chosen is not None else options["tasks"]) if name in made]
    if not usable:
        asked = {chosen} if chosen is not None else set(options["tasks"])
        reasons = {FILL: "without a piece to leave blank", ORDER: f"without {FEWEST_STEPS} different steps"}
        return task | {"left_out": " and ".join(reasons[name] for name in TASKS if name in asked)}
    name = rng.choice(usable)
    shown, expected = made[name]
    prompt = options["prompts"][name].format(problem=text, **{"solution" if name == FILL else "steps": shown})
    asked_as = prompt if isinstance(problem, str) else [*problem[:-1], {**problem[-1], "content": prompt}]
    key = "blanks" if name == FILL else "order"
    return task | {"prompt": as_messages(asked_as, options["system_prompt"]), "task": name, key: expected}


def clean_solution(solution: str) -> str:
    r"""
    Remove the calculations and the marked answer of GSM8K from a worked solution.

    Examples:
        >>> clean_solution("He sold 48/2 = <<48/2=24>>24 clips.\n#### 24")
        'He sold 48/2 = 24 clips.'
    """
    solution = _CALCULATION.sub("", solution).replace("\r\n", "\n").strip()
    return solution.rpartition("####")[0].strip() if after_hashes(solution) is not None else solution


def _final_answer(row: Mapping[str, Any], solution: str, column: str) -> str | None:
    """Return the final answer, as far as the row marks it."""
    if marked := last_boxed(solution) or after_hashes(solution):
        return marked
    try:
        return (read_answer(row, "answer").text if column != "answer" else "") or None
    except ValueError:
        return None


def _make_order(steps: Sequence[str], rng: random.Random) -> tuple[str, list[int]] | None:
    """Return the steps in another order, and the numbers of the shown steps in their right order."""
    own = [
        text
        for step in steps
        if (text := _LABEL.sub("", step.strip(), count=1) if _LABEL.match(step.strip()) else step.strip())
    ]
    if len(own) < FEWEST_STEPS or len(set(own)) < len(own):
        return None
    shown = list(range(len(own)))  # the place of each shown step in the solution
    while shown == sorted(shown):
        rng.shuffle(shown)
    text = "\n".join(f"{number}. {own[place]}" for number, place in enumerate(shown, start=1))
    return text, [shown.index(place) + 1 for place in range(len(own))]


def _make_blanks(
    steps: Sequence[str], problem: str, answer: str | None, rng: random.Random, options: Mapping[str, Any]
) -> tuple[str, list[str]] | None:
    """Return the solution with blanks, and what is missing."""
    if "[blank" in problem + "".join(steps):
        return None
    spans = {}
    for place, step in enumerate(steps):
        if place == len(steps) - 1 and not (answer or options["blank_answer"]):
            continue  # the final answer is somewhere in it
        found = find_pieces(step, problem)
        if not options["blank_answer"] and answer is not None:
            found = [span for span in found if not _holds(span.text, answer)]
        if found:
            spans[place] = found
    if not spans:
        return None
    chosen = sorted(rng.sample(sorted(spans), rng.randint(1, min(options["max_blanks"], len(spans)))))
    texts, blanks = list(steps), []
    for place in chosen:
        span = rng.choice(spans[place])
        blanks.append(span.text)
        mark = BLANK.format(number=len(blanks))
        texts[place] = f"{steps[place][: span.start]}{mark}{steps[place][span.end :]}"
    return "".join(texts).strip(), blanks


def find_pieces(step: str, problem: str = "") -> list[Span]:
    """
    Find what can be left blank in a step: equations, results, formulas, names of theorems, and numbers that the problem does not contain.

    Args:
        step (`str`): A step of a solution.
        problem (`str`, *optional*): The problem.

    Returns:
        `list[Span]`: In the order of the text; they may overlap. What occurs twice in the step is left out.

    Examples:
        >>> [piece.text for piece in find_pieces("So 48/2 = 24 clips are left.", problem="She sold half of 48 clips.")]
        ['48/2 = 24', '24']
    """
    known = {_value(number) for number in re.findall(_NUMBER, problem)}
    formulas = [
        span
        for match in _FORMULA.finditer(step)
        if (span := _span(match)) is not None and not _WORDS.search(span.text) and _OPERATION.search(span.text)
    ]
    spans = {
        *formulas,
        *(_span(match) for match in _EQUATION.finditer(step) if _CALCULATES.search(match[0])),
        *(_span(match) for pattern in (_NAME, _RESULT) for match in pattern.finditer(step)),
        *(_span(match) for match in _PLAIN_NUMBER.finditer(step) if _value(match["inside"]) not in known),
    }
    whole = {span for span in spans if span is not None and step.count(span.text) == 1}
    inside = {
        span for span in whole for formula in formulas if span != formula and formula.start <= span.start < formula.end
    }
    return sorted(whole - inside)


def _span(match: re.Match[str]) -> Span | None:
    name = next((name for name, text in match.groupdict().items() if text is not None), 0)
    text = match[name].rstrip(" \n.,;")  # a formula may include the punctuation of its sentence
    start = match.start(name) + len(text) - len(text.lstrip())
    return Span(start, match.start(name) + len(text), text.strip()) if text.strip() else None


def _value(text: str) -> Fraction | None:
    """The value of a plain numeral or of a fraction of two, such as `1.5/3`."""
    match = re.fullmatch(r"([-+]?\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?", re.sub(r"[\s,$%]|\\[$%!]", "", text))
    if match is None:
        return None
    divisor = Fraction(match[2] or 1)
    return Fraction(match[1]) / divisor if divisor else None


def _holds(piece: str, answer: str) -> bool:
    """Whether the final answer is in a piece."""
    value = _value(answer)
    if value is not None and any(
        _value(number) in (value, -value) for number in re.findall(rf"{_NUMBER}(?:/{_NUMBER})?", piece)
    ):
        return True
    one, other = ("".join(text.split()) for text in (piece, answer))
    return re.search(rf"(?<![\w.]){re.escape(other)}(?![\w.])", one) is not None or one == other
