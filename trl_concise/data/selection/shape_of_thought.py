# SPDX-License-Identifier: Apache-2.0
"""
Training sets for Shape of Thought (https://huggingface.co/papers/2512.22255): correct, incorrect and human traces.

The three sets and the claims are the paper's. Taking the first correct and the first incorrect trace, matching the sets,
and the diagnostic by negative log-likelihood are a reconstruction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..columns import RowError
from .texts import Fields, digest, read_cells, read_question, read_reference, read_traces, sft_example
from .verdicts import has_final_answer, read_verdicts, verify_traces


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CORRECT, INCORRECT, HUMAN = "correct", "incorrect", "human"
MATCHES = ("problems", "size", "none")
ROWS_AT_ONCE = 64  # verified together; the most that is held in memory


@dataclass
class ThoughtSets:
    """
    Which trace of which row is in which set.

    Attributes:
        sets (`dict[str, list[tuple[int, int]]]`): Name of a set -> the place of a row and of its trace (0 in the human set), in the order of
            the rows.
        rows (`int`): Rows read.
        dropped (`Counter[str]`): How many rows each reason left out of all sets.
    """

    sets: dict[str, list[tuple[int, int]]]
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def first_of_each(verdicts: Sequence[bool | None]) -> dict[str, int]:
    """
    Places of the first correct and of the first incorrect trace.

    Args:
        verdicts (`Sequence[bool | None]`): Whether each trace is correct; `None` for a trace that is neither.

    Examples:
        >>> first_of_each([False, True, False, True])
        {'correct': 1, 'incorrect': 0}
        >>> first_of_each([True, True])
        {'correct': 0}
    """
    verdicts = list(verdicts)
    return {name: verdicts.index(value) for name, value in ((CORRECT, True), (INCORRECT, False)) if value in verdicts}


def build_thought_sets(
    rows: Iterable[Mapping[str, Any]],
    fields: Fields,
    *,
    human_column: str | None = None,
    verdict_column: str | None = None,
    match: str = "problems",
    seed: int = 0,
    timeout: float = 5.0,
) -> ThoughtSets:
    """
    Build the sets of correct, incorrect and human traces.

    Rows are read once, in order, 64 at a time; only places are kept in memory.

    Args:
        rows (`Iterable[Mapping[str, Any]]`):
            With a problem, several traces by a stronger model, and a reference answer or verdicts.
        fields ([`~trl_concise.data.selection.texts.Fields`]):
            The columns that hold them.
        human_column (`str`, *optional*):
            Column of a trace written by a human. It is verified where the row has a reference answer, and an incorrect one is left out.
        verdict_column (`str`, *optional*):
            Column with one verdict per trace. Without it, traces are verified against the reference answer, and one that states
            no final answer, for example because it was truncated, is neither correct nor incorrect.
        match (`str`, *optional*, defaults to `"problems"`):
            `"problems"`: only problems that are in every set. `"size"`: of each set, as many rows as the smallest has. `"none"`: all;
            sets of different sizes should not be compared.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the rows that `match="size"` keeps.
        timeout (`float`, *optional*, defaults to `5.0`):
            Seconds that the verification of one trace may take.

    Returns:
        `ThoughtSets`: The sets `"correct"`, `"incorrect"` and, with `human_column`, `"human"`.

    Raises:
        `ValueError`: If `match` is unknown, or there are neither verdicts nor a column of reference answers.
    """
    if match not in MATCHES:
        raise ValueError(f"match must be one of {MATCHES}, got {match!r}.")
    if (verdict_column, fields.answer) == (None, None):
        raise ValueError(
            "Traces are verified against a reference answer, and no column is known to hold one. Name it with answer_column "
            "(--answer_column), or give verdicts with verdict_column (--verdict_column)."
        )
    names = (CORRECT, INCORRECT, HUMAN) if human_column is not None else (CORRECT, INCORRECT)
    result = ThoughtSets({name: [] for name in names})
    keys: dict[str, list[str]] = {name: [] for name in names}
    for place, question, found, reason in _find(rows, fields, human_column, verdict_column, timeout):
        result.rows += 1
        if match == "problems" and len(found) < len(names) and reason is None:
            missing = [name for name in names if name not in found]
            reason = f"no {' and no '.join(missing)} trace"
        if not found and reason is None:
            reason = "no trace for any set"
        if reason is not None:
            result.dropped[reason] += 1
            continue
        for name, index in found.items():
            result.sets[name].append((place, index))
            keys[name].append(digest(str(seed), question))
    if match == "size":
        smallest = min(map(len, result.sets.values()))
        for name, members in result.sets.items():
            order = sorted(range(len(members)), key=keys[name].__getitem__)
            result.sets[name] = [members[i] for i in sorted(order[:smallest])]
        used = {place for members in result.sets.values() for place, _ in members}
        before = result.rows - sum(result.dropped.values())
        if before > len(used):
            result.dropped["not needed for sets of equal size"] = before - len(used)
    return result


Found = tuple[int, str, dict[str, int], str | None]  # place, question, set -> trace, reason to leave the row out


def _find(
    rows: Iterable[Mapping[str, Any]],
    fields: Fields,
    human_column: str | None,
    verdict_column: str | None,
    timeout: float,
) -> Iterator[Found]:
    """Find the traces of each row for the sets, in the order of the rows."""
    numbered = enumerate(rows)
    while chunk := list(islice(numbered, ROWS_AT_ONCE)):
        read = [_read(place, row, fields, human_column, verdict_column) for place, row in chunk]
        to_verify = [item for item in read if item.reference and item.reason is None]
        traces = [[*([] if item.verdicts is not None else item.traces), *item.human] for item in to_verify]
        judged = verify_traces([item.reference for item in to_verify], traces, timeout=timeout)
        for item, verdicts in zip(to_verify, judged, strict=True):
            item.take(verdicts)
        for item in read:
            found = {}
            if item.reason is None:
                found = first_of_each(item.verdicts or [])
                if item.human:
                    found[HUMAN] = 0
            yield item.place, item.question, found, item.reason


@dataclass
class _Row:
    place: int
    question: str = ""
    traces: list[str] = field(default_factory=list)
    human: list[str] = field(default_factory=list)  # at most one
    verdicts: Sequence[bool | None] | None = None
    reference: str = ""
    reason: str | None = None

    def take(self, verdicts: list[bool | None]) -> None:
        """Take verdicts on the traces, unless the row has its own, and on the human trace."""
        if None in verdicts:
            self.reason = "the reference answer cannot be read"
            return
        if self.human and not verdicts.pop():
            self.human = []
        if self.verdicts is None:
            self.verdicts = [
                None if not correct and not has_final_answer(trace) else correct
                for trace, correct in zip(self.traces, verdicts, strict=True)
            ]


def _read(
    place: int, row: Mapping[str, Any], fields: Fields, human_column: str | None, verdict_column: str | None
) -> _Row:
    item = _Row(place)
    try:
        item.question = read_question(row, fields)
        cells = read_cells(row, fields)
        item.traces = [text for text in cells if text.strip()]
        if human_column is not None:
            item.human = read_traces(row, fields._replace(trace=human_column))[:1]
        if not item.question or not item.traces:
            item.reason = "no problem or no trace"
            return item
        item.reference = read_reference(row, fields)
        if verdict_column is not None:
            verdicts = read_verdicts(row, verdict_column, len(cells))
            if verdicts is None:
                item.reason = "not one verdict per trace"
            else:
                item.verdicts = [verdict for verdict, text in zip(verdicts, cells, strict=True) if text.strip()]
        elif not item.reference:
            item.reason = "no reference answer"
    except RowError as error:
        item.reason = str(error)
    return item


def example(
    row: Mapping[str, Any],
    fields: Fields,
    name: str,
    index: int,
    human_column: str | None = None,
    system_prompt: str | None = None,
) -> dict[str, Any]:
    """
    `prompt` and `completion` of a member of a set.

    Args:
        row (`Mapping[str, Any]`): The row.
        fields ([`~trl_concise.data.selection.texts.Fields`]): The columns.
        name (`str`): The set.
        index (`int`): The trace.
        human_column (`str`, *optional*): Column of the human trace.
        system_prompt (`str`, *optional*): System message before the problem.
    """
    from_column = fields._replace(trace=human_column) if name == HUMAN else fields
    return sft_example(row, fields, read_traces(row, from_column)[index], system_prompt)


def mean_nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Iterable[Mapping[str, Any]],
    *,
    batch_size: int = 8,
    max_length: int | None = None,
) -> float:
    """
    Mean negative log-likelihood per completion token, in nats: lower means closer to the model's own distribution.

    Args:
        model ([`~transformers.PreTrainedModel`]): The student before training.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer, with a chat template.
        examples (`Iterable[Mapping[str, Any]]`): With `prompt` and `completion` as messages.
        batch_size (`int`, *optional*, defaults to `8`): Examples in a forward pass.
        max_length (`int`, *optional*): Examples are truncated to this number of tokens, prompt included.

    Returns:
        `float`: Mean over all tokens of all completions; the end of the turn is not counted.

    Raises:
        `ValueError`: If no completion has a token within `max_length`.
    """
    import torch

    from ...evaluation.sampling import with_padding_token

    tokenizer = with_padding_token(tokenizer)
    device = model.device
    total, count = 0.0, 0
    iterator = iter(examples)
    was_training = model.training
    model.eval()
    while chunk := list(islice(iterator, batch_size)):
        pairs = []
        for row in chunk:
            prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
            completion = "".join(message["content"] for message in row["completion"])
            # A template may open the reasoning that the trace opens too.
            opening = next((tag for tag in ("<think>\n", "<think>") if prompt.endswith(tag)), "")
            completion = completion.removeprefix(opening)
            ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, completion)]
            pairs.append((ids[0], (ids[0] + ids[1])[:max_length]))
        width = max(len(ids) for _, ids in pairs)
        filled = [ids + [tokenizer.pad_token_id] * (width - len(ids)) for _, ids in pairs]
        mask = [[1] * len(ids) + [0] * (width - len(ids)) for _, ids in pairs]
        inputs = torch.tensor(filled, device=device)
        before = max(min(len(prompt_ids) for prompt_ids, _ in pairs) - 1, 0)  # positions without a completion token
        with torch.inference_mode():
            logits = model(
                input_ids=inputs,
                attention_mask=torch.tensor(mask, device=device),
                logits_to_keep=max(width - before, 1),
            ).logits
            for place, (prompt_ids, ids) in enumerate(pairs):
                first = max(len(prompt_ids), 1)
                targets = inputs[place, first : len(ids), None]
                if len(targets):
                    own = logits[place, first - 1 - before : len(ids) - 1 - before].float().log_softmax(-1)
                    total -= own.gather(1, targets).sum().item()
                    count += len(targets)
    model.train(was_training)
    if not count:
        raise ValueError(
            "No completion has a token to measure. Give examples whose completions begin before max_length."
        )
    return total / count
