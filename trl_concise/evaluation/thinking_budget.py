# SPDX-License-Identifier: Apache-2.0
"""
Evaluation with a thinking budget: reasoning stops after a number of tokens, and the model answers with the reasoning so far.

As in s1 (2025, https://huggingface.co/papers/2501.19393) and with Qwen3: the end of the thinking and a cue for the answer are appended as
tokens. One completion serves all budgets, because its first tokens are a fair draw of that many; only the answers of stopped ones
are drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..state.checkpoint import write_atomically
from ..verification.finished import MARKERS, ThinkingMarkers, prompt_opens_reasoning
from .completions import Completion, judge, summarize


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .sampling import Sampler, SamplingSettings

FILE = "thinking_budgets.jsonl"
_ANSWERED = ("completion_ids", "text", "truncated", "correct")  # changed by the answer to a stopped completion
Outcome = Literal["closed", "ended", "stopped"]


@dataclass(frozen=True)
class ThinkingBudgets:
    """
    How thinking is stopped.

    Args:
        budgets (`tuple[int, ...]`): Largest numbers of thinking tokens, at least 0, in rising order.
        closing (`str`, *optional*, defaults to `"\\n</think>\\n\\n"`): Text after the stopped thinking, with the end marker.
        answer_cue (`str`, *optional*, defaults to `"\\boxed{"`): Beginning of the answer.
        answer_tokens (`int`, *optional*, defaults to `128`): Tokens that may follow, at least 1.

    Raises:
        `ValueError`: If a budget or the number of tokens is out of range.
    """

    budgets: tuple[int, ...]
    closing: str = "\n</think>\n\n"
    answer_cue: str = "\\boxed{"
    answer_tokens: int = 128

    def __post_init__(self):
        if not self.budgets or self.budgets[0] < 0 or list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"Thinking budgets are one or more rising numbers, at least 0; got {list(self.budgets)}.")
        if self.answer_tokens < 1:
            raise ValueError(f"answer_tokens must be at least 1, got {self.answer_tokens}.")

    def extra_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return how many tokens a stopped completion may have in addition to its thinking."""
        return len(tokenizer(self.closing + self.answer_cue)["input_ids"]) + self.answer_tokens

    def check(self, max_new_tokens: int, markers: ThinkingMarkers) -> None:
        """Raise a `ValueError` if completions are too short for the budgets, or the closing text does not close the thinking."""
        if self.budgets[-1] >= max_new_tokens:
            raise ValueError(
                f"A thinking budget of {self.budgets[-1]} tokens needs completions of more tokens, but max_new_tokens is "
                f"{max_new_tokens}. Raise max_new_tokens, or lower the budget."
            )
        if markers.end not in self.closing:
            raise ValueError(
                f"The closing text {self.closing!r} does not contain the end of the thinking, {markers.end!r}. Add it."
            )


def stop_thinking(
    ids: Sequence[int], budget: int, *, end_of_thinking: int, end_of_turn: Collection[int]
) -> tuple[Outcome, int]:
    """
    Say how a completion that begins inside the thinking goes on within a budget.

    Args:
        ids (`Sequence[int]`): Its token ids; more than `budget`, unless it has one of the ends.
        budget (`int`): Largest number of thinking tokens, at least 0.
        end_of_thinking (`int`): Token that closes the thinking.
        end_of_turn (`Collection[int]`): Tokens that end the completion.

    Returns:
        `tuple[str, int]`: `"closed"` if it closes the thinking after at most `budget` tokens, `"ended"` if it ends inside it, otherwise
        `"stopped"`; and the number of thinking tokens that it keeps.

    Examples:
        >>> [stop_thinking(ids, 2, end_of_thinking=9, end_of_turn={0}) for ids in ([5, 5, 9, 7], [5, 5, 5, 9], [5, 0])]
        [('closed', 2), ('stopped', 2), ('ended', 1)]
    """
    for place, token in enumerate(ids[: budget + 1]):
        if token == end_of_thinking:
            return "closed", place
        if token in end_of_turn:
            return "ended", place
    return "stopped", budget


@dataclass(frozen=True)
class Budgeted:
    """
    A completion under a thinking budget: a line of `thinking_budgets.jsonl`.

    Attributes:
        completion ([`Completion`]): What was judged, forced tokens included.
        budget (`int`): Largest number of thinking tokens.
        outcome (`str`): See [`stop_thinking`]; `"closed"` also for a completion that does not think.
        thinking, forced, answer (`int`): Tokens of the thinking, forced tokens, and the tokens that the model wrote in addition.
    """

    completion: Completion
    budget: int
    outcome: Outcome
    thinking: int
    forced: int
    answer: int

    def continues(self, whole: Completion) -> bool:
        """Return whether this is a completion of the same prompt with the same first tokens, or, if it is not stopped, the same one."""
        if self.outcome != "stopped":
            return self.completion == whole
        kept = len(self.completion.completion_ids) - self.forced - self.answer
        begun = self.completion.completion_ids[:kept]
        same = replace(self.completion, **{name: getattr(whole, name) for name in _ANSWERED})
        return same == whole and whole.completion_ids[:kept] == begun

    def line(self) -> str:
        """The completion as a line of JSON."""
        own = {key: value for key, value in asdict(self).items() if key != "completion"}
        return json.dumps(asdict(self.completion) | own, ensure_ascii=False) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Budgeted:
        """Read a line that [`~Budgeted.line`] wrote."""
        record = json.loads(line)
        own = {name: record.pop(name) for name in ("budget", "outcome", "thinking", "forced", "answer")}
        return cls(Completion(**record), **own)


def answer_within(
    completions: Sequence[Completion],
    budget: int,
    how: ThinkingBudgets,
    sampler: Sampler,
    prompts: Sequence[list[int]],
    settings: SamplingSettings,
    *,
    markers: ThinkingMarkers,
    batch_size: int,
    unreadable: Collection[int] = (),
    **judging: Any,
) -> list[Budgeted]:
    """
    Stop the thinking of completions of one problem set at a budget, let the model answer, and judge the answers.

    Args:
        completions (`Sequence[Completion]`): Judged completions without a budget.
        budget (`int`): In tokens.
        how ([`ThinkingBudgets`]): Closing text, cue and length of the answer.
        sampler ([`Sampler`]): Draws the answers.
        prompts (`Sequence[list[int]]`): Token ids by problem.
        settings ([`SamplingSettings`]): How to draw.
        markers ([`ThinkingMarkers`]): The texts around the thinking, each one token.
        batch_size (`int`): Answers that are drawn at a time.
        unreadable (`Collection[int]`, *optional*): Problems that are not judged.
        **judging: As for [`judge`].

    Returns:
        `list[Budgeted]`: In the same order. Those that are not stopped keep their answer and verdict.

    Raises:
        `ValueError`: If the end marker is not one token, or no completion thinks.
    """
    tokenizer, ends = sampler.tokenizer, sampler.end_token_ids
    end = marker_token(tokenizer, markers.end)
    if not any(item.thought for item in completions):
        raise ValueError(
            f"No completion thinks between {markers.start!r} and {markers.end!r}, so a thinking budget changes nothing. Name the model's "
            "markers with thinking_markers, or use budgets, which truncates."
        )
    close = tokenizer(how.closing + how.answer_cue, add_special_tokens=False)["input_ids"]
    kept: list[tuple[int, Outcome, int]] = []  # first thinking token, outcome, thinking tokens
    for item in completions:
        start = thinking_start(tokenizer, prompts[item.problem], item.completion_ids, markers)
        if start is None:
            kept.append((0, "closed", 0))
        else:
            outcome, tokens = stop_thinking(item.completion_ids[start:], budget, end_of_thinking=end, end_of_turn=ends)
            kept.append((start, outcome, tokens))
    stopped = [row for row, (_, outcome, _) in enumerate(kept) if outcome == "stopped"]
    begun = {row: [*completions[row].completion_ids[: kept[row][0] + kept[row][2]], *close] for row in stopped}
    answers: dict[int, list[int]] = {}
    for first in range(0, len(stopped), batch_size):
        batch = stopped[first : first + batch_size]
        item = completions[batch[0]]
        entropy = [settings.seed, budget, *item.dataset.encode(), item.problem, item.completion]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        starts = [[*prompts[completions[row].problem], *begun[row]] for row in batch]
        drawn = sampler.sample(starts, replace(settings, seed=seed, max_new_tokens=how.answer_tokens))
        answers |= zip(batch, drawn, strict=True)
    ids = [[*begun[row], *answers[row]] for row in stopped]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True) if ids else []
    # Where the end marker is a special token, the text lacks it: its place is known anyway, before the answer.
    opened = {
        completions[row].problem
        for row in stopped
        if markers.end not in tokenizer.all_special_tokens
        and prompt_opens_reasoning(tokenizer, prompts[completions[row].problem], markers=markers)
    }
    rewritten = [
        replace(completions[row], completion_ids=own, text=text, truncated=answers[row][-1] not in ends)
        for row, own, text in zip(stopped, ids, texts, strict=True)
    ]
    judged = dict(zip(stopped, judge(rewritten, unreadable, opened, markers=markers, **judging), strict=True))
    return [
        Budgeted(judged[row], budget, outcome, tokens, len(close), len(answers[row]))
        if outcome == "stopped"
        else Budgeted(item, budget, outcome, tokens, 0, item.tokens - tokens)
        for row, (item, (_, outcome, tokens)) in enumerate(zip(completions, kept, strict=True))
    ]


def answer_within_all(
    completions: Sequence[Completion],
    how: ThinkingBudgets,
    sampler: Sampler,
    prompts: Sequence[list[int]],
    settings: SamplingSettings,
    folder: Path | None = None,
    evaluated: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[int, list[Budgeted]]:
    """
    Return [`answer_within`] for every budget. What is in the folder is not drawn again, and what is drawn is written to it.

    Args:
        completions, how, sampler, prompts, settings, **options: See [`answer_within`].
        folder (`Path`, *optional*): Folder of the evaluation.
        evaluated (`Mapping[str, Any]`, *optional*): Model and settings of the evaluation. Answers of others are not used.

    Returns:
        `dict[int, list[Budgeted]]`: By budget.
    """
    origin = describe_origin(how, evaluated)
    groups, name = read_budgeted(folder, origin), completions[0].dataset
    for budget in how.budgets:
        known = groups.get((name, budget), [])
        if len(known) != len(completions) or not all(map(Budgeted.continues, known, completions)):
            groups[name, budget] = answer_within(completions, budget, how, sampler, prompts, settings, **options)
            if folder is not None:
                write_budgeted(folder, origin, groups)
    return {budget: groups[name, budget] for budget in how.budgets}


def thinking_start(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], ids: Sequence[int], markers: ThinkingMarkers
) -> int | None:
    """Return the place of the first thinking token in a completion; `None` if it does not think between the markers."""
    if prompt_opens_reasoning(tokenizer, prompt, markers=markers):
        return 0
    start = marker_token(tokenizer, markers.start)
    return list(ids).index(start) + 1 if start in ids else None


def marker_token(tokenizer: PreTrainedTokenizerBase, marker: str) -> int:
    """Return the token id of a marker. Raises a `ValueError` if it is not one token."""
    ids = tokenizer(marker, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(
            f"{marker!r} is {len(ids)} tokens of this tokenizer. A thinking budget needs markers of one token."
        )
    return ids[0]


def summarize_budgeted(items: Sequence[Budgeted], markers: ThinkingMarkers = MARKERS) -> dict[str, Any]:
    """
    Summarize the completions of one problem set under a thinking budget. `markers` are the texts around the reasoning.

    Returns:
        `dict[str, Any]`: The figures of [`summarize`], of whole completions with their forced tokens; `stopped_fraction`, and
        `thinking_tokens`, `forced_tokens` and `answer_tokens`, means per completion.
    """
    known = [item for item in items if item.completion.correct is not None]
    return {
        **summarize([item.completion for item in items], markers),
        "stopped_fraction": fmean(item.outcome == "stopped" for item in known),
        "thinking_tokens": fmean(item.thinking for item in known),
        "forced_tokens": fmean(item.forced for item in known),
        "answer_tokens": fmean(item.answer for item in known),
    }


def describe_origin(how: ThinkingBudgets, evaluated: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return everything that answers depend on, apart from the budget: how thinking is stopped, the model and its settings."""
    own = {key: value for key, value in asdict(how).items() if key != "budgets"}
    return {**own, "evaluation": dict(evaluated or {})}


def read_budgeted(folder: Path | None, origin: Mapping[str, Any]) -> dict[tuple[str, int], list[Budgeted]]:
    """
    Return the completions of `thinking_budgets.jsonl` by problem set and budget, if they have this origin.

    Raises:
        `ValueError`: If the file is damaged.
    """
    path = folder / FILE if folder is not None else None
    if path is None or not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # not `splitlines`: a text may contain U+2028
    found: dict[tuple[str, int], list[Budgeted]] = {}
    try:
        if json.loads(lines[0]) != json.loads(json.dumps(origin)):
            return {}
        for item in map(Budgeted.of_line, lines[1:]):
            found.setdefault((item.completion.dataset, item.budget), []).append(item)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it; its answers are then drawn again.") from error
    return found


def write_budgeted(folder: Path, origin: Mapping[str, Any], groups: Mapping[Any, Iterable[Budgeted]]) -> None:
    """Write `thinking_budgets.jsonl`: the origin, then one completion per line."""
    lines = (item.line() for items in groups.values() for item in items)
    write_atomically(folder / FILE, (json.dumps(origin) + "\n" + "".join(lines)).encode())
