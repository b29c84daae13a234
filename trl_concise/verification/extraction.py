# SPDX-License-Identifier: Apache-2.0
r"""Find the final answer of a text: a marked answer, otherwise the whole text, otherwise the end of the prose."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from .languages import FOREIGN_LETTER, plain_text
from .prose import NUMBER, has_no_answer, picks_choice, stated_answer, stated_choice, without_contrast


AnswerFormat = Literal["auto", "boxed", "answer_tag", "last_number"]
ANSWER_FORMATS: tuple[str, ...] = get_args(AnswerFormat)


class Answer(NamedTuple):
    """A final answer, or the prose that holds one."""

    text: str
    is_bare: bool  # True: `text` is the answer itself; False: math-verify has to find the answer in it


SEARCHED = 200_000  # characters from the end; more than any completion, so that megabytes of braces cost no time
PROSE_TAIL = 4_000  # characters of prose that are searched: the answer is near the end, and searching is slow
BARE_LIMIT = 200  # characters; a longer text without a box is prose

_BOX = re.compile(r"\\(?:f?box(?:ed)?|framebox)\s*\{")
_BOX_WITHOUT_BRACES = re.compile(r"\\boxed\s*(?P<inside>[-+]?(?:\d[\d.,/]*\d|\d)|[A-J](?![A-Za-z]))")
_OR = re.compile(r"\bor\b")
_AND = re.compile(r"\band\b")
_BARE_SEPARATOR = re.compile(r"\s*(?:[,;/&]|[,;]?\s*\b(?:and|or|and/or)\b)?\s*(?:[A-Za-z](?:_\w+)?\s*=\s*)?")
# Words after which a second box is a later answer, not another member of the first one
_NEW_ANSWER = re.compile(
    r"(?i)\b(?:no|not|wait|actually|correct\w*|wrong|mistake|instead|rather|sorry|oops|so|thus|hence|therefore|then|final\w*)\b"
    r"|[.!?](?:\s|$)|\.\.|\u2026"
)
_DELIMITER = re.compile(r"(?<![\\$])\$\$?(?!\$)|\\[()\[\]]")
_DELIMITED = re.compile(r"(?<!\\)\$[^$]+(?<!\\)\$|\\\(|\\\[")

_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)

_MATHS = "and|or|in|sin|cos|tan|log|ln|exp|sqrt|pi|inf|infinity|mod|plus|minus|times|over|choose"  # words of formulas
_LATEX_WORDS = re.compile(r"\\(?:text\w*|mbox|mathrm|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(rf"(?<![A-Za-z])(?!(?:{_MATHS})\b)[A-Za-z]{{2,}}|(?<!\w)[éè](?!\w)")
_PLAIN_WORD = rf"(?<![\w\\])(?!(?:{_MATHS})\b)(?:[A-Z][a-z]+|[A-Za-z]{{4,}}|is|are)\b"  # xy and ABC are products

# A number next to a word. math-verify's search decides whether it is the answer.
_REMARK = re.compile(
    rf"(?:.*\W)?{_PLAIN_WORD}\s+{NUMBER}"  # x is 5
    rf"|(?:[^=]*=\s*)*{NUMBER}\s+\(?{_PLAIN_WORD}\)?\.?"  # 5 dollars, 2 + 3 = 5 dollars
)

_PLAIN_NUMBER = re.compile(
    r"(?:(?<![\w.)\]}])-(?=\d))?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:[.,]\d+)?(?:\s?/\s?\d+)?(?:\s?\\?%)?"
)

_DELIMITERS = (
    re.compile(r"(\$\$?)(?P<inside>[^$]+)\1"),
    re.compile(r"\\\((?P<inside>(?:(?!\\\)).)+)\\\)", re.DOTALL),
    re.compile(r"\\\[(?P<inside>(?:(?!\\\]).)+)\\\]", re.DOTALL),
)
_DRESSES = (  # what may be around a bare answer as well
    re.compile(r"#+\s+(?P<inside>.+)"),
    re.compile(r"(\*{1,3}|`)(?P<inside>[^*`\n]+)\1\.?"),  # **5**
    re.compile(  # Answer: 5, **Answer:** 5, Réponse : 5, 答案: 5
        rf"(?:\*\*)?(?:{_PLAIN_WORD}|A|[^\W\d_]*[^\W\d_\x00-\x7f\u0370-\u03ff][^\W\d_]*)\s?(?:\*\*:|:\*\*|:)\s*(?P<inside>.+)"
    ),
    re.compile(r"(?:So|Then|Thus|Hence|Therefore|Finally),?\s+(?P<inside>.+)"),
)


def final_answer(completion: str, format: AnswerFormat = "auto") -> Answer:
    r"""
    Find the final answer of a completion.

    Args:
        completion (`str`): Text of the completion. What precedes the last `</think>` is ignored.
        format (`str`, *optional*, defaults to `"auto"`): Where to look:

            - `"auto"`: in `<answer>` tags, in the last box, after `####` at the end, the whole text if it is nothing but an
              answer, a choice or what the last sentence states; else the prose;
            - `"boxed"`: in the last box only;
            - `"answer_tag"`: in the last pair of `<answer>` tags only;
            - `"last_number"`: the last number of the text.

    Returns:
        `Answer`: The bare answer, or the end of the prose that has to be searched for one. Without an answer, its text is
        empty.

    Examples:
        >>> final_answer(r"<think>\boxed{1}?</think> So it is \boxed{\frac{1}{2}}.")
        Answer(text='\\frac{1}{2}', is_bare=True)
        >>> final_answer("x^2 + 1")
        Answer(text='x^2 + 1', is_bare=True)
        >>> final_answer("She has 3 + 4 = 7 apples.")
        Answer(text='She has 3 + 4 = 7 apples.', is_bare=False)
        >>> final_answer("She has 3 + 4 = 7 apples.", format="last_number")
        Answer(text='7', is_bare=True)
    """
    if format not in ANSWER_FORMATS:
        raise ValueError(
            f"format={format!r} is not an answer format. Choose one of {', '.join(map(repr, ANSWER_FORMATS))}."
        )
    text = plain_text(without_reasoning(completion))
    if format == "boxed":
        return Answer(last_boxed(text) or "", is_bare=True)
    if format == "last_number":
        numbers = _PLAIN_NUMBER.findall(text[-PROSE_TAIL:])
        return Answer(numbers[-1] if numbers else "", is_bare=True)
    tagged = answer_tag(text)
    if format == "answer_tag" and tagged is None:
        return Answer("", is_bare=True)
    return _find(tagged if tagged is not None else text)


def _find(text: str) -> Answer:
    boxed = last_boxed(text)
    if boxed is not None:
        return Answer(boxed, is_bare=True)
    text = without_contrast(text)
    tail = after_hashes(text)
    for part in (tail, text) if tail else (text,):  # a Markdown heading has the same mark
        plain = _inside(part, _DELIMITERS + _DRESSES)
        if not _DELIMITED.search(plain) and not _is_prose(plain):
            return Answer(plain, is_bare=True)
    text = text[-PROSE_TAIL:]
    choice = stated_choice(text)
    if choice is not None:
        return Answer(choice, is_bare=True)
    if has_no_answer(text):
        return Answer("", is_bare=True)
    stated = stated_answer(text)
    return Answer(stated, is_bare=True) if stated is not None else Answer(text, is_bare=False)


def without_reasoning(completion: str, end: str = "</think>") -> str:
    """The text after the last `</think>`, or after another marker of its end, without blanks around it."""
    return completion[-SEARCHED:].rpartition(end)[2].strip()


def answer_tag(text: str) -> str | None:
    """
    The content of the last closed pair of `<answer>` tags; of the last few, joined, where nothing separates them.

    Examples:
        >>> answer_tag("<answer> 5 </answer>"), answer_tag("<answer>4</answer> or <answer>5</answer>"), answer_tag("<answer>5")
        ('5', '4,5', None)
    """
    parts: list[str] = []
    next_start = None
    for match in reversed(list(_TAG.finditer(text))):
        if next_start is not None and not _BARE_SEPARATOR.fullmatch(text[match.end() : next_start]):
            break
        content = match[1].strip()
        if not parts or content != parts[-1]:
            parts.append(content)
        next_start = match.start()
    return ",".join(reversed(parts)) if parts else None


def gold_answer(gold: str) -> Answer:
    r"""
    Read a reference answer, which is expected to be bare LaTeX or text.

    A worked solution is read too, when it marks its answer with `\boxed{}`, `####` or math delimiters.

    Examples:
        >>> gold_answer("New York")
        Answer(text='New York', is_bare=True)
        >>> gold_answer("6 * 7 = <<6*7=42>>42\n#### 42")
        Answer(text='42', is_bare=True)
    """
    text = plain_text(gold.strip())
    marked = last_boxed(text) or after_hashes(text)
    if marked:
        return Answer(marked, is_bare=True)
    text = _inside(text, _DELIMITERS)
    if _DELIMITED.search(text) and _WORD.search(_LATEX_WORDS.sub(" ", text)):  # $5$;$10$ is one answer
        return Answer(text[-PROSE_TAIL:], is_bare=False)
    return Answer(text, is_bare=True)


def last_boxed(text: str) -> str | None:
    r"""
    The content of the last closed `\boxed{}`, or of the last few, joined, where they give one answer in components.

    Boxes belong together where nothing but a separator ("and", "or", a comma, a name with an equals sign) is between them, or a
    short text with an "or". A box after a full stop or after a word such as "so", "wait" or "actually" is a later answer, and
    replaces the earlier one.

    Examples:
        >>> last_boxed(r"\boxed{1} or \boxed{2}"), last_boxed(r"\boxed{1}. Wait, it is \boxed{2}"), last_boxed(r"\boxed7")
        ('1,2', '2', '7')
    """
    text = _BOX_WITHOUT_BRACES.sub(r"\\boxed{\g<inside>}", text)
    parts: list[str] = []
    end = len(text)  # a box is searched for its closing brace up to here
    next_start = None  # where the box to the right begins
    is_empty = False
    for match in reversed(list(_BOX.finditer(text))):
        close = closing_brace(text, match.end(), end)
        end = match.start()
        if close is None:
            if parts:
                break
            continue
        content = text[match.end() : close].strip()
        if not content:
            is_empty = True
            continue
        if next_start is not None:
            between = text[close + 1 : next_start]
            if not _are_joined(between) or (content == parts[-1] and len(between) >= 10):
                break
        if not parts or content != parts[-1]:
            parts.append(content)
        next_start = match.start()
    return ",".join(reversed(parts)) if parts else ("" if is_empty else None)


def has_open_box(text: str) -> bool:
    r"""Whether the last `\boxed{` has no closing brace."""
    boxes = list(_BOX.finditer(text))
    return bool(boxes) and closing_brace(text, boxes[-1].end(), len(text)) is None


def _are_joined(between: str) -> bool:
    """Whether two boxes with this text between them give one answer."""
    plain = _DELIMITER.sub(" ", between)
    if _BARE_SEPARATOR.fullmatch(plain):
        return True
    if _NEW_ANSWER.search(plain) or len(between) >= 70:
        return False
    is_one_formula = len(_DELIMITER.findall(between)) < 2  # not closed and opened again
    return _OR.search(plain) is not None or (is_one_formula and (_AND.search(plain) is not None or len(between) < 10))


def closing_brace(text: str, start: int, end: int) -> int | None:
    """Return where the brace is closed that was opened before `start`, searched up to `end`; `None` if it is not."""
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
    """Return the text after the last `####`, GSM8K's mark of the final answer, if it ends the completion."""
    _, mark, tail = text.rpartition("####")
    tail = tail.strip()
    return tail if mark and "\n" not in tail else None


def _inside(text: str, wrappings: tuple[re.Pattern[str], ...]) -> str:
    """Remove the markup around a short text."""
    while len(text) <= BARE_LIMIT:
        matches = (wrapping.fullmatch(text) for wrapping in wrappings)
        match = next(filter(None, matches), None)
        if match is None:
            break
        text = match["inside"].strip()
    return text


def _is_prose(text: str) -> bool:
    """Whether a text contains more than its answer: two ordinary words, a number and a word, more than one line, or great length."""
    if len(text) > BARE_LIMIT or "\n" in text or picks_choice(text):
        return True
    if FOREIGN_LETTER.search(text) and re.search(r"[\dA-Za-z]", text):
        return True
    return len(_WORD.findall(_LATEX_WORDS.sub(" ", text))) >= 2 or _REMARK.fullmatch(text) is not None
