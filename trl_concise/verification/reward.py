# SPDX-License-Identifier: Apache-2.0
"""Correctness as a TRL reward function."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any, overload

from .extraction import ANSWER_FORMATS, AnswerFormat, last_boxed
from .finished import MARKERS, REASONING_FIELDS, is_finished, opens_reasoning
from .verify import Tally, verify_and_count


logger = logging.getLogger(__name__)

WATCHED = 200  # completions of a run
MISSING_SHARE = 0.9


@overload
def math_accuracy_reward(
    completions: None = None, *, format: AnswerFormat = "auto", final_form: bool = True
) -> Callable[..., list[float | None]]: ...


@overload
def math_accuracy_reward(
    completions: list[Any],
    solution: list[Any] | None = None,
    answer: list[Any] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]: ...


def math_accuracy_reward(
    completions: list[Any] | None = None,
    solution: list[Any] | None = None,
    answer: list[Any] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    *,
    prompts: list[Any] | None = None,
    completion_finished: list[bool] | None = None,
    trainer_state: Any = None,
    format: AnswerFormat = "auto",
    final_form: bool = True,
    **kwargs: Any,
) -> list[float | None] | Callable[..., list[float | None]]:
    r"""
    Reward function that is 1 for a correct final answer and 0 for a wrong one.

    It replaces TRL's `accuracy_reward`, judges answers as [`verify_answers`] does, and cannot stall the run. A completion that
    is not finished (see docs/verification.md) earns 0.

    Called without completions, it returns a reward function with other options:
    `reward_funcs=math_accuracy_reward(format="boxed")`.

    It logs, for each batch, `verification/timeouts`, `verification/guarded`, `verification/unfinished`,
    `verification/unfinished_form` and `verification/no_answer` (completions), `verification/fast_fraction` (share settled
    without math-verify) and `verification/seconds`. It warns if more than 90 % of the first 200 completions of a run have no
    final answer.

    Args:
        completions (`list`, *optional*):
            Completions as text, or as lists of messages, of which the last is read. Without them, a function is returned.
        solution (`list[str]`, *optional*):
            Reference answers: the dataset's `solution` column.
        answer (`list[str]`, *optional*):
            Reference answers: the dataset's `answer` column. Where a dataset has both columns, `solution` holds a worked
            solution, and `answer` is read.
        log_metric (`callable`, *optional*):
            Logs a number under a name; the trainer provides it.
        prompts (`list`, *optional*):
            Prompts; the trainer provides them. Where one ends with `<think>`, its completion has to close the reasoning.
        completion_finished (`list[bool]`, *optional*):
            Whether each completion is finished. [`ConciseGRPOTrainer`] provides it; TRL's trainer does not, and a completion
            that reached the token limit is then known by its text only.
        trainer_state ([`~transformers.TrainerState`], *optional*):
            The trainer provides it.
        format (`str`, *optional*, defaults to `"auto"`):
            Where the final answer is:

            - `"auto"`: in `<answer>` tags, else in the last box, after `####`, after "the answer is", or at the end;
            - `"boxed"`: in the last `\boxed{}` only;
            - `"answer_tag"`: in the last `<answer>` tags only;
            - `"last_number"`: the last number.
        final_form (`bool`, *optional*, defaults to `True`):
            Whether an answer that leaves arithmetic to be done, such as `6 \times 7` for 42, earns 0. math-verify evaluates it.
        **kwargs:
            The dataset's other columns, which are not used.

    Returns:
        `list[float | None]`: 1.0, 0.0, or `None` where the reference answer is unreadable, which leaves the completion out of
        the correctness of its group.

    Raises:
        `ValueError`: If the dataset has neither column, or `format` is unknown.

    Examples:
        >>> math_accuracy_reward([r"It is \boxed{\frac{2}{4}}", "3"], solution=["0.5", "4"])
        [1.0, 0.0]
        >>> reward = math_accuracy_reward(format="answer_tag")
        >>> reward(["<answer>3</answer>", r"\boxed{3}"], solution=["3", "3"])
        [1.0, 0.0]
    """
    if completions is None:
        return _configured(format, final_form)
    if not isinstance(format, str):  # a column of the dataset
        format = "auto"
    if not isinstance(final_form, bool):
        final_form = True
    golds = answer if answer is not None else solution
    if golds is None:
        raise ValueError(
            "math_accuracy_reward compares with the reference answers in the dataset's column 'solution' or 'answer', and it "
            "has neither. trl_concise.load_problems makes a dataset that has one."
        )
    texts = [completion_text(completion) for completion in completions]
    if completion_finished is None:
        opened = map(opens_reasoning, prompts) if prompts is not None else [False] * len(texts)
        completion_finished = [
            is_finished(text, reasoning_opened=is_opened) for text, is_opened in zip(texts, opened, strict=True)
        ]
    verdicts, tally = verify_and_count(
        ["" if gold is None or gold != gold else str(gold) for gold in golds],  # a table has NaN for None
        texts,
        format=format,
        final_form=final_form,
        finished=completion_finished,
    )
    if log_metric is not None:
        for name, value in tally.metrics().items():
            log_metric(name, value)
    if trainer_state is not None:
        _WATCH.observe(trainer_state, texts, tally, format)
    return [float(verdict) if verdict is not None else None for verdict in verdicts]


# Looked for when a trainer is built, before anything is generated
setattr(math_accuracy_reward, "needs_one_of", ("solution", "answer"))  # noqa: B010 (a type checker knows no attributes of functions)


def _configured(format: AnswerFormat, final_form: bool) -> Callable[..., list[float | None]]:
    """[`math_accuracy_reward`] with options that no column of a dataset can replace."""
    if format not in ANSWER_FORMATS:
        raise ValueError(
            f"format={format!r} is not an answer format. Choose one of {', '.join(map(repr, ANSWER_FORMATS))}."
        )

    @functools.wraps(math_accuracy_reward)
    def reward(completions: list[Any], *args: Any, **kwargs: Any) -> list[float | None]:
        return math_accuracy_reward(completions, *args, **{**kwargs, "format": format, "final_form": final_form})

    return reward


class _FormatWatch:
    """Warns if hardly any of a run's first completions have a final answer: the format is usually the wrong one."""

    def __init__(self):
        self._run: weakref.ref | None = None
        self._restart()

    def _restart(self) -> None:
        self._seen = self._missing = self._unfinished = 0
        self._examples: list[str] = []

    def observe(self, run: Any, texts: list[str], tally: Tally, format: str) -> None:
        if self._run is None or self._run() is not run:  # another trainer
            self._restart()
            self._run = weakref.ref(run)
        if self._seen >= WATCHED:
            return
        room = WATCHED - self._seen
        missing = [index for index in tally.without_answer if index < room]
        self._seen += min(len(texts), room)
        self._missing += len(missing)
        self._unfinished += min(tally.unfinished, len(missing))
        self._examples += [texts[index] for index in missing[: 2 - len(self._examples)]]
        if self._seen == WATCHED and self._missing > MISSING_SHARE * WATCHED:
            logger.warning(
                "%d of the first %d completions have no final answer (%d are unfinished), for example %s. The reward looks for "
                "answers with format=%r: check that the prompt asks for it, choose another format, or raise "
                "max_completion_length.",
                self._missing,
                self._seen,
                self._unfinished,
                " and ".join(repr(shortened(text)) for text in self._examples),
                format,
            )


def shortened(text: str, length: int = 160) -> str:
    """The beginning and the end of a long text."""
    text = " ".join(text.split())
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


_WATCH = _FormatWatch()


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """
    Return the text of a completion as TRL hands it to reward functions: a string, or messages, of which the last is read.

    The text is empty if the last message calls a tool, or is the output of one: the model has not answered yet. Reasoning that
    TRL has parsed out of the message, as it does with tools, is between `<think>` and `</think>` again.

    Examples:
        >>> completion_text([{"role": "assistant", "content": "42", "reasoning_content": "6 * 7"}])
        '<think>6 * 7</think>42'
        >>> completion_text([{"role": "assistant", "content": ""}, {"role": "tool", "content": "42"}])
        ''
    """
    if isinstance(completion, str):
        return completion
    last = completion[-1] if completion else {}
    if last.get("role") == "tool" or last.get("tool_calls"):
        return ""
    content = last.get("content") or ""
    if isinstance(content, list):  # parts of a multimodal message
        content = "".join(part.get("text", "") for part in content)
    reasoning = next((last[name] for name in REASONING_FIELDS if isinstance(last.get(name), str)), None)
    if reasoning is not None:  # without text after it, it has not ended
        return f"{MARKERS.start}{reasoning}{MARKERS.end}{content}" if content else f"{MARKERS.start}{reasoning}"
    return content


def has_boxed_answer(completion: str | list[dict[str, Any]]) -> bool:
    r"""Whether a completion holds a closed `\boxed{}`, after the last `</think>` where it has one."""
    return last_boxed(completion_text(completion).rpartition("</think>")[2]) is not None
