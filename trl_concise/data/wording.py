# SPDX-License-Identifier: Apache-2.0
"""Rewordings of a problem that keep its answer. LaTeX and code are never edited, and a rewording that finds nothing returns the text as it is."""

from __future__ import annotations

import random
import re
from collections.abc import Callable


# $...$ as in Markdown: no space inside the marks, and no digit after them, so that `$5 and $6` are amounts
_PROTECTED = re.compile(
    r"\[asy\].*?\[/asy\]|```.*?```|`[^`\n]*`|\\\(.*?\\\)|\\\[.*?\\\]|\$\$.*?\$\$|\$(?=\S)(?:\\.|[^$\\\n])+?(?<=\S)\$(?!\d)|\\begin\{.*?\\end\{\w+\*?\}"
    r"|\\[A-Za-z]+(?:\{[^{}]*\})*",
    re.DOTALL,
)
_FEMALE = "Alice Anna Betty Carla Clara Diana Ellen Emily Emma Fiona Hannah Helen Jane Janet Jenny Jessica Julia Karen Kate Laura Linda Lisa Lucy Maria Martha Mary Mia Monica Nancy Natalia Nina Olivia Rachel Sandra Sarah Sofia Susan Tina Wendy".split()
_MALE = "Adam Alan Albert Andrew Anthony Ben Bob Brian Carlos Charles Daniel David Eric Fred George Greg Harry Henry Jacob James Jason Jeff Jerry Jim Joe John Josh Kevin Leo Liam Matt Michael Mike Nathan Noah Oliver Paul Peter Randy Robert Roger Ryan Samuel Steve Steven Thomas Tim Toby Tom Tony Victor".split()
_NAME = re.compile(rf"\b({'|'.join((*_FEMALE, *_MALE))})\b")
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBER = re.compile(r"(?<![\w.,$#%/:'’\\^{}\-])\d+(?![\w%/:'’\\^{}\-]|[.,]\d)")
_LIST = re.compile(r"\d, ?\d+,? (?:and )?\d")
_NOT_COUNTED = re.compile(rf"\s*(?:[ap]\.?m\b|o'clock|{_MONTHS})", re.IGNORECASE)
_AMOUNT = re.compile(
    r"(?<![\w$\\\-])\$(\d+(?:,\d{3})*(?:\.\d+)?)(?![\w,.]*\d|\w|-)(?! (?:million|billion|thousand|hundred|bills?|coins?|notes?)\b)"
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_POINTS_BACK = re.compile(
    r"\b(this|that|these|those|then|there|remaining|remainder|rest|left|now|after|it|its|he|him|his|she|her|hers|they|them|their|such|each|other|another|same)\b",
    re.IGNORECASE,
)
_TOTAL = re.compile(
    r"\b(total|altogether|in all|combined|together|sum|how many people|age|ages|aged|old|older|years?)\b",
    re.IGNORECASE,
)
_IRRELEVANT = ("It rains today.", "The sky is clear.", "The window is open.", "A bird sings outside.")


def outside_math(text: str, write: Callable[[str], str]) -> str:
    """Apply a function to the text outside of LaTeX and code."""
    pieces, end = [], 0
    for match in _PROTECTED.finditer(text):
        pieces += [write(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*pieces, write(text[end:])])


def number_in_words(number: int) -> str:
    """
    Write a whole number below one million in English words.

    Examples:
        >>> number_in_words(94), number_in_words(1203)
        ('ninety-four', 'one thousand two hundred three')
    """
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10 - 2] + (f"-{_SMALL[number % 10]}" if number % 10 else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = f" {number_in_words(number % size)}" if number % size else ""
    return f"{number_in_words(number // size)} {name}{rest}"


def _is_year(number: str) -> bool:
    return len(number) == 4 and number[:2] in ("18", "19", "20")


def digits_to_words(text: str, gold: str, rng: random.Random) -> str | None:
    """Write whole numbers in words, but not years, dates, times, amounts of money, fractions, and numbers of seven digits; `None` in lists of numbers."""
    if _LIST.search(text):
        return None

    def write(piece: str) -> str:
        def word(match: re.Match[str]) -> str:
            before, after = piece[: match.start()], piece[match.end() :]
            kept = _is_year(match[0]) or len(match[0]) > 6 or (len(match[0]) > 1 and match[0][0] == "0")
            if kept or _NOT_COUNTED.match(after) or re.search(rf"(?:{_MONTHS}) $", before):
                return match[0]
            return number_in_words(int(match[0]))

        return _NUMBER.sub(word, piece)

    return outside_math(text, write)


def thousands_separator(text: str, gold: str, rng: random.Random) -> str:
    """Write 1,000 for 1000; years and lists of numbers stay."""
    if _LIST.search(text):
        return text

    def write(piece: str) -> str:
        def separate(match: re.Match[str]) -> str:
            number = match[0]
            in_list = re.match(r",? (?:and )?\d", piece[match.end() :]) or re.search(r"\d, ?$", piece[: match.start()])
            return number if len(number) < 4 or number[0] == "0" or _is_year(number) or in_list else f"{int(number):,}"

        return _NUMBER.sub(separate, re.sub(r"(?<=\$)\d{4,}(?![\w,.]*\d)", lambda match: f"{int(match[0]):,}", piece))

    return outside_math(text, write)


def dollars_to_words(text: str, gold: str, rng: random.Random) -> str:
    """Write 5 dollars for $5."""
    return outside_math(
        text,
        lambda piece: _AMOUNT.sub(lambda match: f"{match[1]} dollar{'s' * (match[1] != '1')}", piece),
    )


def rename_persons(text: str, gold: str, rng: random.Random) -> str:
    """Replace the first names that are known by others of the same gender that do not occur in the problem; not those in the answer."""
    found = dict.fromkeys(match[1] for match in _NAME.finditer(text) if match[1] not in gold)
    names: dict[str, str] = {}
    for name in found:
        free = [
            other for other in (_FEMALE if name in _FEMALE else _MALE) if not re.search(rf"\b{other}", text + gold)
        ]
        free = [other for other in free if other not in names.values()]
        names[name] = rng.choice(free) if free else name
    return outside_math(text, lambda piece: _NAME.sub(lambda match: names.get(match[1], match[1]), piece))


def irrelevant_sentence(text: str, gold: str, rng: random.Random) -> str | None:
    """Begin with a sentence about something that does not occur in the problem; `None` without one."""
    free = [
        sentence for sentence in _IRRELEVANT if not re.search(rf"\b{sentence.split()[1][:4]}", text, re.IGNORECASE)
    ]
    return f"{free[0]} {text}" if free else None


def irrelevant_number(text: str, gold: str, rng: random.Random) -> str | None:
    """Begin with the age of a person who does not occur in the problem; `None` where the problem asks for a total, or is about ages."""
    free = [name for name in ("Tom", *_MALE, *_FEMALE) if not re.search(rf"\b{name}", text)]
    if _TOTAL.search(text) or not free:
        return None
    return f"{free[0]} is 9 years old. {text}"


def lower_case(text: str, gold: str, rng: random.Random) -> str | None:
    """Write in lower case; `None` if there are variables, LaTeX, code or an answer of letters."""
    if (
        _PROTECTED.search(text)
        or re.search("[A-Za-z]", gold)
        or re.search(r"\b(?![aAI]\b)[A-Za-z]\b(?!')", re.sub(r"['’]\w", "", text))
    ):
        return None
    return text.lower()


def question_first(text: str, gold: str, rng: random.Random) -> str | None:
    """Put the last sentence, the question, before the others; `None` if it is not the only question, or points back to the facts."""
    if any(_SENTENCE_END.search(match[0]) for match in _PROTECTED.finditer(text)):
        return None
    sentences = _SENTENCE_END.split(text.strip())
    if len(sentences) == 1:
        return text
    question = sentences[-1]
    if text.count("?") != 1 or not question.endswith("?") or _POINTS_BACK.search(question):
        return None
    return " ".join([question, *sentences[:-1]])
