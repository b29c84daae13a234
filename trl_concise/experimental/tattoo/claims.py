# SPDX-License-Identifier: Apache-2.0
r"""
Claims of a text that a tool can check: arithmetic, cells of a table, and aggregates of its columns.

Text is parsed, never executed. What cannot be read without doubt, such as `x + 3 = 7` or `2\sqrt{3} = 3.46`, is not a claim.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from ...verification.arithmetic import evaluate
from .table import Table, is_lookup


logger = logging.getLogger(__name__)

MOST_CLAIMS = 10_000  # of one completion; the rest is not read
LARGEST_NUMBER = Fraction(10) ** 300
_CONTEXT = 16  # characters before a claim that may belong to it

_NUMBER = r"(?:(?<![\w.])|(?<=\\times)|(?<=\\cdot)|(?<=\\div))(?<!\d[,:])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w%°]|[.,:]\d|\.\.|…)"
_TOKEN = re.compile(
    rf"""
    (?P<lookup>(?<!\w)(?:cell[ ]?\[[^\]\n=]{{1,200}}\]|(?:sum|mean|min|max|count)[ ]?\([^()\n]{{1,200}}\)))
    |(?P<fraction>\\[dt]?frac\s*\{{\s*\d+\s*\}}\s*\{{\s*\d+\s*\}})
    |(?P<power>(?:\^[ ]*|(?<=\S)\*\*(?=\S)|(?<=[ ])\*\*[ ])(?:\{{\s*(?P<braces>-?\d+)\s*\}}|\((?P<round>-?\d+)\)|(?P<plain>\d+)(?![\w.])))
    |(?P<number>{_NUMBER})
    |(?P<times>\\(?:times|cdot)(?![A-Za-z])|[×·]|(?<!\*)\*(?!\*))
    |(?P<over>\\div(?![A-Za-z])|÷|(?<!/)/(?!/))
    |(?P<sign>[-+−])
    |(?P<bracket>[()])
    |(?P<equals>(?<![!<>:=~])=(?![=>]))
    |(?P<space>[ \t]+)
    """,
    re.VERBOSE,
)
_MARKUP = re.compile(
    r"(?<![\w)}])\*\*(?=\S)|(?<=\S)\*\*(?!\s*[\d({]|-)|\\[()\[\],]|\\(?:left|right)(?![A-Za-z])|\\boxed\s*\{|\$|&"
)  # around formulas; says nothing
_BULLET = re.compile(r"[ \t]*[-*+•][ \t]+")
# A side that goes on, or begins, in a way that is not read
_SPOILS_AFTER = re.compile(
    r"[ \t]*(?:[\^{\[(]|\\(?!\\|text|mbox|mathrm|quad)|(?:x|X|r|R|times|plus|minus|mod|modulo|remainder|percent|dozen|hundred|thousand|"
    r"million|billion|squared|cubed)\b)|[!?_%]"
)
_SPOILS_BEFORE = re.compile(r"(?:[\^_}\]]|\b(?:[A-Za-z]|times|plus|minus|by|over|of|mod|modulo|per)\s*)$")
_TEXT = re.compile(r"[ \t]*(?:\"(?P<quoted>[^\"\n]*)\"|(?P<word>[^\W\d_][\w-]*))")
_SENTENCE_END = re.compile(r"[.!?;]\s|\n")
# Words before an equation that the text does not claim
_EXCLUDED = re.compile(
    r"(?i)\b(?:not|never|no|cannot|\w+n't|differs?|different|wrong|incorrect\w*|false|mistaken\w*|mistakes?|instead|rather|unless|if|"
    r"suppose\w*|assum\w+)(?!\w)"
)


@dataclass(frozen=True)
class Claim:
    """
    Two sides that a text calls equal.

    Attributes:
        kind (`str`): `"arithmetic"`, `"cell"` or `"aggregate"`.
        left, right (`str`): The sides, without blanks and markup. Claims with the same sides are the same claim.
        start, end (`int`): Place in the text.
    """

    kind: str
    left: str
    right: str
    start: int
    end: int

    @property
    def key(self) -> tuple[str, str]:
        """What identifies the claim within a completion."""
        return self.left, self.right


@dataclass(frozen=True)
class _Side:
    text: str  # normalized; empty if it cannot be read
    kind: str  # "number", "cell" or "aggregate"; "text" on the right of a cell
    calculates: bool
    start: int
    end: int


def find_claims(text: str) -> list[Claim]:
    """
    Find the claims of a text, in order. The same claim may occur several times.

    A chain `a = b = c` is two claims. A claim has an operation, a cell or an aggregate; `5 = 5` is none. A claim in a sentence is left out if
    a word such as "not", "differs" or "if" precedes it there.

    Args:
        text (`str`): Any text. A claim does not extend over lines.

    Returns:
        `list[Claim]`: At most 10,000; with more, there is a warning.

    Examples:
        >>> [(claim.left, claim.right) for claim in find_claims("First, 27 + 8 = 35. That is not 27 + 8 = 36. So 35*2 = 70 = 7*10.")]
        [('27+8', '35'), ('35*2', '70'), ('70', '7*10')]
        >>> [claim.kind for claim in find_claims("cell[pen, price] = 3, sum(qty where price > 3) = 3, x + 3 = 7")]
        ['cell', 'aggregate']
    """
    claims: list[Claim] = []
    start = 0
    for line in text.splitlines(keepends=True):
        for claim in _claims_of_line(line, start):
            if len(claims) == MOST_CLAIMS:
                logger.warning("A completion has more than %d claims; the rest is not checked.", MOST_CLAIMS)
                return claims
            claims.append(claim)
        start += len(line)
    return claims


def check_claim(claim: Claim, table: Table | None = None) -> bool | None:
    """
    Check a claim.

    Numbers are compared as exact fractions, so `1/3 = 0.33` is false. A cell is compared as text too.

    Args:
        claim ([`Claim`]): A claim of [`find_claims`].
        table ([`Table`], *optional*): The table of the problem.

    Returns:
        `bool`, *optional*: Whether it is true. It is false if it names an unknown row or column. `None` for a cell or an aggregate without a
        table.

    Examples:
        >>> claims = find_claims("1/3 + 1/6 = 1/2. 0.1 + 0.2 = 0.3. 2**3 = 8. 10/4 = 2.")
        >>> [check_claim(claim) for claim in claims]
        [True, True, True, False]
    """
    if claim.kind != "arithmetic" and table is None:
        return None
    left, right = _value(claim.left, table), _value(claim.right, table)
    if None in (left, right):
        return False
    return left == right or claim.right == left or claim.left == right  # a cell may be 3-4, which is also a difference


def _value(side: str, table: Table | None) -> Fraction | str | None:
    if is_lookup(side):
        return table.look_up(side) if table is not None else None
    number = _evaluate(side)
    return number if number is not None else side


def _claims_of_line(line: str, offset: int) -> Iterator[Claim]:
    line = _MARKUP.sub(lambda found: " " * len(found[0]), line)
    bullet = _BULLET.match(line)
    position = bullet.end() if bullet else 0
    ends = [found.end() for found in _SENTENCE_END.finditer(line)]
    excluded = [found.start() for found in _EXCLUDED.finditer(line)]
    while position < len(line):
        run: list[re.Match[str]] = []
        begin = position
        while token := _TOKEN.match(line, position):
            run.append(token)
            position = token.end()
        if any(token.lastgroup == "equals" for token in run):
            for claim in _claims_of_run(line, run, begin):
                sentence = bisect_right(ends, claim.start)
                word = bisect_left(excluded, claim.start)
                if not word or (sentence and excluded[word - 1] < ends[sentence - 1]):
                    yield Claim(claim.kind, claim.left, claim.right, claim.start + offset, claim.end + offset)
        position = position + 1 if position == begin else position


def _claims_of_run(line: str, run: list[re.Match[str]], begin: int) -> Iterator[Claim]:
    parts: list[list[re.Match[str]]] = [[]]
    for token in run:
        if token.lastgroup == "equals":
            parts.append([])
        else:
            parts[-1].append(token)
    last = len(parts) - 1
    sides = [_read_side(line, part, is_first=i == 0, is_last=i == last) for i, part in enumerate(parts)]
    if not sides[-1].text and last and sides[-2].kind == "cell":
        found = _TEXT.match(line, run[-1].end())
        if found:
            value = found["quoted"] if found["quoted"] is not None else found["word"]
            sides[-1] = _Side(value.strip(), "text", False, found.start(), found.end())
    for left, right in zip(sides, sides[1:], strict=False):
        kinds = {left.kind, right.kind} - {"number", "text"}
        if left.text and right.text and (kinds or left.calculates or right.calculates):
            yield Claim(min(kinds, default="arithmetic"), left.text, right.text, left.start, right.end)


def _read_side(line: str, tokens: list[re.Match[str]], *, is_first: bool, is_last: bool) -> _Side:
    tokens = [token for token in tokens if token.lastgroup != "space"]
    nothing = _Side("", "number", False, 0, 0)
    # A bracket around the whole equation
    brackets = [token[0] for token in tokens]
    if is_first and brackets.count("(") > brackets.count(")") and brackets[0] == "(":
        tokens = tokens[1:]
    elif is_last and brackets.count(")") > brackets.count("(") and brackets[-1] == ")":
        tokens = tokens[:-1]
        is_last = False
    if not tokens:
        return nothing
    start, end = tokens[0].start(), tokens[-1].end()
    before = line[max(0, start - _CONTEXT) : start]
    if is_last and _SPOILS_AFTER.match(line, end):
        return nothing
    if is_first:
        spoilt = bool(_SPOILS_BEFORE.search(before) or (tokens[0][0] == "(" and re.search(r"\w$", before)))
        if tokens[0].lastgroup in ("sign", "times", "over", "power"):
            is_sign = tokens[0][0] in "-−" and end > start + 1 and not line[start + 1].isspace()
            spoilt = spoilt or not is_sign or bool(re.search(r"[\w)\]}]\s*$", before))
        if spoilt:
            return nothing
    if tokens[0].lastgroup == "lookup":
        text = re.sub(r"\s+", " ", tokens[0][0].strip())
        kind = "cell" if text.startswith("cell") else "aggregate"
        return _Side(text, kind, True, start, end) if len(tokens) == 1 else nothing
    if any(token.lastgroup == "lookup" for token in tokens):
        return nothing
    kinds = [token.lastgroup for token in tokens]
    operands = [kind in ("number", "fraction") for kind in kinds]
    if any(one and two for one, two in zip(operands, operands[1:], strict=False)):
        return nothing  # 3 4
    text = "".join(map(_normalize, tokens))
    if _evaluate(text) is None:
        return nothing
    calculates = "fraction" in kinds or not {"sign", "times", "over", "power"}.isdisjoint(kinds[1:])
    return _Side(text, "number", calculates, start, end)


def _normalize(token: re.Match[str]) -> str:
    kind = token.lastgroup
    if kind in ("times", "over"):
        return "*" if kind == "times" else "/"
    if kind == "sign":
        return token[0].replace("−", "-")
    if kind == "power" or token["power"]:
        return f"^{{{token['braces'] or token['round'] or token['plain']}}}"
    if kind == "fraction":
        return r"\frac" + "".join(f"{{{number}}}" for number in re.findall(r"\d+", token[0]))
    return token[0].replace(",", "")


def _evaluate(text: str) -> Fraction | None:
    """Return the value of a side; `None` if it has none, or too large a number."""
    value = evaluate(text.replace("*", r"\cdot "), 0)
    return value if isinstance(value, Fraction) and abs(value) <= LARGEST_NUMBER else None
