# SPDX-License-Identifier: Apache-2.0
"""Python blocks in a completion: where the first one ends in the tokens, and a completion in progress, with outputs that it did not write."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

from .execution import Executor, Outcome, execute_all, shorten


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CODE_FENCE, OUTPUT_FENCE, FENCE = "```python\n", "```output\n", "```"
LIMIT_MESSAGE = "The code executions are used up. Continue without code."
_BLOCK = re.compile(r"^```python[ \t]*\n(.*?)(?<=\n)```", re.DOTALL | re.MULTILINE)
_OUTPUT = re.compile(r"\n```output\n.*?(?<=\n)```\n", re.DOTALL)
_NUMBER = re.compile(r"(?:(?<![\w)\].])-)?\d+(?:\.\d+)?")


def find_block(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[int, str, str] | None:
    """
    Find the first complete Python block.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Decodes the tokens.
        ids (`Sequence[int]`): What the model has written since the last output.

    Returns:
        `tuple[int, str, str]`, *optional*: The smallest number of first tokens that contain the block, the text before the block, and its
        code; `None` without a complete block.
    """

    def match(count: int) -> re.Match[str] | None:
        return _BLOCK.search(tokenizer.decode(list(ids[:count]), skip_special_tokens=False))

    if (whole := match(len(ids))) is None:
        return None
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if match(middle) else (middle + 1, high)
    return high, whole.string[: whole.start()], whole[1]


def output_text(outcome: Outcome, *, starts_line: bool, is_last: bool) -> str:
    """
    Return the block that the runtime appends after a Python block.

    Args:
        outcome ([`Outcome`]): Of the Python block.
        starts_line (`bool`): Whether the text before it ends with a line break.
        is_last (`bool`): Whether no further block will be executed, which the text then says.

    Examples:
        >>> output_text(Outcome("64", "ok"), starts_line=False, is_last=False)
        '\\n```output\\n64\\n```\\n'
    """
    lines = [shorten(outcome.output)] if outcome.output else []
    lines += [LIMIT_MESSAGE] if is_last else []
    return f"{'' if starts_line else chr(10)}{OUTPUT_FENCE}{''.join(f'{line}{chr(10)}' for line in lines)}{FENCE}\n"


def split_outputs(text: str) -> list[tuple[str, bool]]:
    r"""
    Split a text with executed blocks.

    Args:
        text (`str`): A completion.

    Returns:
        `list[tuple[str, bool]]`: Pieces that are the text together, and whether each is an output with its fences.

    Examples:
        >>> split_outputs("```python\nprint(1)\n```\n```output\n1\n```\nSo 1.")
        [('```python\nprint(1)\n```', False), ('\n```output\n1\n```\n', True), ('So 1.', False)]
    """
    pieces, start = [], 0
    for found in _OUTPUT.finditer(text):
        pieces += [(text[start : found.start()], False), (found[0], True)]
        start = found.end()
    return [(piece, is_output) for piece, is_output in [*pieces, (text[start:], False)] if piece]


def encode_output(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of an output. A text such as `<|im_end|>` in it does not become a special token."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def numbers_in(text: str) -> set[Fraction]:
    """
    Return the numbers of a text as exact rationals: integers and decimals, with the sign if it is not a minus between two terms.

    Examples:
        >>> numbers_in("70-6 = 64, or -0.50") == {Fraction(70), Fraction(6), Fraction(64), Fraction(-1, 2)}
        True
    """
    return {Fraction(number) for number in _NUMBER.findall(text)}


def kind_of_block(before: str, output: str) -> str:
    """
    Say whether a block calculated something or only verified it.

    Args:
        before (`str`): The text before the block.
        output (`str`): Output of the block.

    Returns:
        `str`: `"verification"` if the output has a number and all of its numbers occur before; `"calculation"` if some number is new;
        `"none"` without a number.

    Examples:
        >>> kind_of_block("27+8=35, 35*2=70", "70"), kind_of_block("We need (27 + 8) * 2.", "70"), kind_of_block("", "Done")
        ('verification', 'calculation', 'none')
    """
    found = numbers_in(output)
    if not found:
        return "none"
    return "verification" if found <= numbers_in(before) else "calculation"


@dataclass
class CodeCompletion:
    """
    A completion in progress, or a finished one.

    Attributes:
        ids (`list[int]`): Token ids: what the model wrote, and outputs.
        mask (`list[int]`): 1 where the model wrote the token, 0 in an output.
        logps (`list[float]`): Log-probabilities under the sampler; NaN in outputs, and where they are unknown.
        outcomes (`list[Outcome]`): Of the executed blocks.
        kinds (`list[str]`): [`kind_of_block`] of each.
        blocks (`list[str]`): Code of the executed blocks that did not fail.
        wasted (`int`): Tokens that were generated after a complete block and dropped.
        done (`bool`): Whether nothing is to be generated any more.
    """

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    wasted: int = 0
    done: bool = False
    _start: int = 0  # of what the model has written since the last output
    _text: str = ""  # before that
    _found: tuple[str, str] | None = None  # a block that is to be executed: the text before it, and its code

    @property
    def written(self) -> int:
        """Tokens that the model wrote, terminating EOS included."""
        return sum(self.mask)

    @property
    def calls(self) -> int:
        """Executed blocks."""
        return len(self.outcomes)

    @property
    def failures(self) -> int:
        """Executed blocks that failed."""
        return sum(outcome.failed for outcome in self.outcomes)

    def add_written(self, ids: Sequence[int], logps: Sequence[float] | None = None) -> None:
        """Append tokens of the model."""
        self.ids += ids
        self.mask += [1] * len(ids)
        self.logps += logps if logps is not None else [math.nan] * len(ids)

    def add_output(self, ids: Sequence[int]) -> None:
        """Append tokens of an output."""
        self.ids += ids
        self.mask += [0] * len(ids)
        self.logps += [math.nan] * len(ids)
        self._start = len(self.ids)

    def continue_with(
        self,
        ids: Sequence[int],
        logps: Sequence[float] | None,
        tokenizer: PreTrainedTokenizerBase,
        ends: Collection[int],
        room: int,
        max_calls: int,
    ) -> None:
        """
        Append what was generated, up to the first complete block if it is to be executed.

        Args:
            ids (`Sequence[int]`): Generated tokens.
            logps (`Sequence[float]`, *optional*): Their log-probabilities.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Decodes them.
            ends (`Collection[int]`): Tokens that end a completion.
            room (`int`): Tokens that may be appended.
            max_calls (`int`): Blocks that are executed at most.
        """
        self.wasted += max(0, len(ids) - room)
        ids, logps = list(ids[:room]), list(logps[:room]) if logps is not None else None
        before, has_ended = len(self.ids), not ids or ids[-1] in ends
        self.add_written(ids, logps)
        self.done = has_ended or len(ids) >= room
        found = find_block(tokenizer, self.ids[self._start :]) if self.calls < max_calls else None
        if found is None:
            return
        count, text, code = found
        if (end := self._start + count) - before >= room:  # no room is left for anything after the output
            return
        self.wasted += len(self.ids) - end
        del self.ids[end:], self.mask[end:], self.logps[end:]
        self._found, self.done = (self._text + text, code), False

    def add_outcome(
        self, outcome: Outcome, tokenizer: PreTrainedTokenizerBase, max_calls: int, longest: float = math.inf
    ) -> None:
        """
        Append the output of the block that was found. The completion ends if it does not fit into the context.

        Args:
            outcome ([`Outcome`]): Of the block.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Encodes the output.
            max_calls (`int`): Blocks that are executed at most.
            longest (`float`, *optional*): Tokens that the completion may have, with outputs.
        """
        assert self._found is not None
        before, code = self._found
        self._found = None
        self.outcomes.append(outcome)
        self.kinds.append(kind_of_block(before, outcome.output))
        if not outcome.failed:
            self.blocks.append(code)
        written = tokenizer.decode(self.ids[self._start :], skip_special_tokens=False)
        output = output_text(outcome, starts_line=written.endswith("\n"), is_last=self.calls == max_calls)
        ids = encode_output(tokenizer, output)
        if len(self.ids) + len(ids) >= longest:
            self.done = True
            return
        self._text += written + output
        self.add_output(ids)

    @staticmethod
    def execute(
        completions: Sequence[CodeCompletion],
        executor: Executor,
        tokenizer: PreTrainedTokenizerBase,
        max_calls: int,
        longest: Sequence[float],
    ) -> None:
        """Execute the blocks that were found, and append their outputs. See [`~CodeCompletion.add_outcome`]."""
        waiting = [i for i, completion in enumerate(completions) if completion._found is not None]
        jobs = []
        for i in waiting:
            found = completions[i]._found
            assert found is not None
            jobs.append([*completions[i].blocks, found[1]])
        for i, outcome in zip(waiting, execute_all(executor, jobs), strict=True):
            completions[i].add_outcome(outcome, tokenizer, max_calls, longest[i])
