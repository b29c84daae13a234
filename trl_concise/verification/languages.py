# SPDX-License-Identifier: Apache-2.0
"""Convert digits and punctuation of all scripts to ASCII, so that answers are found in every language."""

from __future__ import annotations

import re
import unicodedata


# Punctuation outside ASCII. Full-width characters (U+FF01 to U+FF5E) are converted by their code instead.
_PUNCTUATION = {
    **dict.fromkeys("。．｡।॥۔។።", ". "),  # full stops: Chinese, Japanese, Devanagari, Bengali, Urdu, Khmer, Amharic
    **dict.fromkeys("、､،፣", ", "),  # commas
    **dict.fromkeys("؛；", "; "),
    **dict.fromkeys("：︰﹕", ": "),
    "，": ", ",
    "؟": "?",
    "！": "! ",
    "？": "? ",
    "٪": "%",
    "＄": r"\$",
    **dict.fromkeys("「『【《〈", " ("),
    **dict.fromkeys("」』】》〉", ") "),
    "\u3000": " ",
}
_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in _PUNCTUATION}
_TABLE = {**_FULL_WIDTH, **{ord(sign): plain for sign, plain in _PUNCTUATION.items()}}

_SEPARATOR = re.compile(r"(?<=\d)([\u066b\u066c\uff0c\uff0e])(?=\d)")
_SEPARATORS = {"\u066b": ".", "\u066c": ",", "\uff0c": ",", "\uff0e": "."}  # decimal and thousands separators

# Letters of scripts that put no blank between a word and a number, or whose words can end in a number
_LETTER = "[\u0590-\u1fff\u2e80-\u2fdf\u3041-\ua4cf\uac00-\ud7af\uf900-\ufaff]"
_BORDER = re.compile(rf"(?<={_LETTER})(?=[\d$\\A-Za-z-])|(?<=[\d$%A-Za-z}}])(?={_LETTER})")

FOREIGN_LETTER = re.compile(r"(?![\u0370-\u03ff])[\u0400-\u1fff\u2e80-\u2fdf\u3041-\ua4cf\uac00-\ud7af\uf900-\ufaff]")

# 3,5 with one, two or more than three digits after the comma, 0,125, and 1.234,5. Not 1,000, and not a member of a list or a pair.
_DECIMAL_COMMA = re.compile(
    r"(?<![\w,.(\[{-])(?P<minus>[-\u2212]?)(?:(?P<whole>\d+|\d{1,3}(?:\.\d{3})+),(?P<some>\d{1,2}|\d{4,})|(?P<zero>0),(?P<three>\d{3}))"
    r"(?![\w]|[,.]\d|\s*,\s*\d)"
)


def plain_text(text: str) -> str:
    """
    Write digits of any script and the punctuation of other languages in ASCII.

    Args:
        text (`str`): A completion or a reference answer.

    Returns:
        `str`: The same text, with blanks between numbers and letters of scripts that have no case.

    Examples:
        >>> plain_text("答案是４２。"), plain_text("উত্তর: ৪২"), plain_text("٣٫٥")
        ('答案是 42. ', 'উত্তর: 42', '3.5')
    """
    if text.isascii():
        return text
    text = _SEPARATOR.sub(lambda match: _SEPARATORS[match[1]], text)
    text = text.translate(_TABLE)
    text = "".join(
        str(unicodedata.digit(character)) if not character.isascii() and character.isdecimal() else character
        for character in text
    )
    return _BORDER.sub(" ", text)


def with_decimal_points(text: str) -> str:
    """
    Read a comma between digits as a decimal comma where it cannot group thousands.

    The same rule holds in boxes and in prose. It applies where the reference answer has no comma of its own.

    Examples:
        >>> with_decimal_points("Die Antwort ist 3,5."), with_decimal_points("1.234,5"), with_decimal_points("0,125")
        ('Die Antwort ist 3.5.', '1234.5', '0.125')
        >>> with_decimal_points("1,000"), with_decimal_points("(3,5)"), with_decimal_points("3, 5"), with_decimal_points("1,2,3")
        ('1,000', '(3,5)', '3, 5', '1,2,3')
    """
    if "," not in text:
        return text
    return _DECIMAL_COMMA.sub(_with_point, text)


def _with_point(match: re.Match[str]) -> str:
    whole = (match["whole"] or match["zero"]).replace(".", "")
    return f"{match['minus']}{whole}.{match['some'] or match['three']}"
