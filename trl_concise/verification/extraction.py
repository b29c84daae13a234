# SPDX-License-Identifier: Apache-2.0
r"""Where in a text the final answer stands: what is marked as one, else the whole text, else math-verify's own search."""

from __future__ import annotations

import re
from typing import NamedTuple


class Answer(NamedTuple):
    """A final answer, or the prose that holds one."""

    text: str
    is_bare: bool  # True: `text` is the answer itself; False: math-verify has to find the answer in it


SEARCHED = 200_000  # characters from the end; more than any completion, so that megabytes of braces cost no time
PROSE_TAIL = 4_000  # characters of prose that are searched: the answer stands near the end, and searching is slow
BARE_LIMIT = 200  # characters; a longer text without a box is prose

_BOX = re.compile(r"\\f?(?:rame)?box(?:ed)?\s*\{")
_SEPARATOR = re.compile(r"\b(?:and|or)\b|[,;]")
_BARE_SEPARATOR = re.compile(r"\s*(?:[,;]|[,;]?\s*\b(?:and|or)\b)\s*(?:[A-Za-z](?:_\w+)?\s*=\s*)?")
_DELIMITER = re.compile(r"(?<![\\$])\$\$?(?!\$)|\\[()\[\]]")
_DELIMITED = re.compile(r"(?<!\\)\$[^$]+(?<!\\)\$|\\\(|\\\[")

_MATHS = "and|or|in|sin|cos|tan|log|ln|exp|sqrt|pi|inf|infinity|mod|plus|minus|times|over|choose"  # words of formulas
_LATEX_WORDS = re.compile(r"\\(?:text\w*|mbox|mathrm|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(rf"(?<![A-Za-z])(?!(?:{_MATHS})\b)[A-Za-z]{{2,}}")
_PLAIN_WORD = rf"(?<![\w\\])(?!(?:{_MATHS})\b)(?:[A-Z][a-z]+|[A-Za-z]{{4,}}|is|are)\b"  # xy and ABC are products
_NUMBER = r"[-+\u2212]?(?:(?:\\?[$€£][-+]?)?\.?\d[\d,./]*(?:\\?%)?|\\[dt]?frac\{\d+\}\{\d+\})"

# A number beside a word. Whether it is the answer, math-verify's search says.
_REMARK = re.compile(
    rf"(?:.*\W)?{_PLAIN_WORD}\s+{_NUMBER}"  # x is 5
    rf"|(?:[A-Za-z]\s*=\s*)?{_NUMBER}\s+\(?{_PLAIN_WORD}\)?\.?"  # 5 dollars
)

_DELIMITERS = (
    re.compile(r"(\$\$?)(?P<inside>[^$]+)\1"),
    re.compile(r"\\\((?P<inside>(?:(?!\\\)).)+)\\\)", re.DOTALL),
    re.compile(r"\\\[(?P<inside>(?:(?!\\\]).)+)\\\]", re.DOTALL),
)
_DRESSES = (  # what may stand around a bare answer besides
    re.compile(r"#+\s+(?P<inside>.+)"),
    re.compile(r"(\*{1,3}|`)(?P<inside>[^*`\n]+)\1\.?"),  # **5**
    re.compile(rf"(?:\*\*)?(?:{_PLAIN_WORD}|A)(?:\*\*:|:\*\*|:)\s*(?P<inside>.+)"),  # Answer: 5, **Answer:** 5
    re.compile(r"(?:So|Then|Thus|Hence|Therefore|Finally),?\s+(?P<inside>.+)"),
)


def final_answer(completion: str) -> Answer:
    r"""
    Find the final answer of a completion.

    Args:
        completion (`str`): Text of the completion. What stands before the last `</think>` is ignored.

    Returns:
        `Answer`: The bare answer, or the end of the prose that has to be searched for one.

    Examples:
        >>> final_answer(r"<think>\boxed{1}?</think> So it is \boxed{\frac{1}{2}}.")
        Answer(text='\\frac{1}{2}', is_bare=True)
        >>> final_answer("x^2 + 1")
        Answer(text='x^2 + 1', is_bare=True)
        >>> final_answer("She has 3 + 4 = 7 apples.")
        Answer(text='She has 3 + 4 = 7 apples.', is_bare=False)
    """
    text = completion[-SEARCHED:].rpartition("</think>")[2].strip()
    boxed = last_boxed(text)
    if boxed is not None:
        return Answer(boxed, is_bare=True)
    tail = after_hashes(text)
    for part in (tail, text) if tail else (text,):  # a Markdown heading has the same mark
        plain = _inside(part, _DELIMITERS + _DRESSES)
        if not _DELIMITED.search(plain) and not _is_prose(plain):
            return Answer(plain, is_bare=True)
    return Answer(text[-PROSE_TAIL:], is_bare=False)


def gold_answer(gold: str) -> Answer:
    r"""
    Read a gold answer, which is expected to be bare LaTeX or text.

    A worked solution is read too, when it marks its answer with `\boxed{}`, `####` or math delimiters.

    Examples:
        >>> gold_answer("New York")
        Answer(text='New York', is_bare=True)
        >>> gold_answer("6 * 7 = <<6*7=42>>42\n#### 42")
        Answer(text='42', is_bare=True)
    """
    text = gold.strip()
    marked = last_boxed(text) or after_hashes(text)
    if marked:
        return Answer(marked, is_bare=True)
    text = _inside(text, _DELIMITERS)
    if _DELIMITED.search(text) and _WORD.search(_LATEX_WORDS.sub(" ", text)):  # $5$;$10$ is one answer
        return Answer(text[-PROSE_TAIL:], is_bare=False)
    return Answer(text, is_bare=True)


def last_boxed(text: str) -> str | None:
    r"""
    The content of the last closed `\boxed{}`, or of the last few, joined, where they give one answer in parts.

    Boxes belong together by math-verify's rule (`latex2sympy2_extended.math_normalization.extract_boxed_content`):
    fewer than 10 characters lie between them, or fewer than 70 with a comma, a semicolon, "and" or "or" among them. In math
    of its own, `$\boxed{1}$ or $\boxed{2}$`, a box belongs to another only where such a separator is all that lies between.
    """
    parts: list[str] = []
    end = len(text)  # a box is searched for its closing brace up to here
    next_start = None  # where the box to the right begins
    for match in reversed(list(_BOX.finditer(text))):
        close = _closing_brace(text, match.end(), end)
        end = match.start()
        if close is None:
            if parts:
                break
            continue
        content = text[match.end() : close].strip()
        if next_start is not None:
            between = text[close + 1 : next_start]
            if not _are_joined(between) or (content == parts[-1] and len(between) >= 10):
                break
        if not parts or content != parts[-1]:
            parts.append(content)
        next_start = match.start()
    return ",".join(reversed(parts)) if parts else None


def _are_joined(between: str) -> bool:
    """Whether two boxes with this text between them give one answer."""
    if len(_DELIMITER.findall(between)) >= 2:  # closed and opened again
        return _BARE_SEPARATOR.fullmatch(_DELIMITER.sub(" ", between)) is not None
    return len(between) < 10 or (len(between) < 70 and _SEPARATOR.search(between) is not None)


def _closing_brace(text: str, start: int, end: int) -> int | None:
    depth = 1
    for position in range(start, end):
        if text[position] == "{":
            depth += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
    return None


def after_hashes(text: str) -> str | None:
    """What follows the last `####`, GSM8K's mark of the final answer, where it ends the text."""
    _, mark, tail = text.rpartition("####")
    tail = tail.strip()
    return tail if mark and "\n" not in tail else None


def _inside(text: str, wrappings: tuple[re.Pattern[str], ...]) -> str:
    """What is left of a short text when all that is wrapped around it is taken off."""
    while len(text) <= BARE_LIMIT:
        matches = (wrapping.fullmatch(text) for wrapping in wrappings)
        match = next(filter(None, matches), None)
        if match is None:
            break
        text = match["inside"].strip()
    return text


def _is_prose(text: str) -> bool:
    """Whether a text says more than its answer: two ordinary words, a number and a word, more than one line, or great length."""
    if len(text) > BARE_LIMIT or "\n" in text:
        return True
    return len(_WORD.findall(_LATEX_WORDS.sub(" ", text))) >= 2 or _REMARK.fullmatch(text) is not None
