# SPDX-License-Identifier: Apache-2.0
r"""
Whether an answer is in final form, or leaves arithmetic to be done.

math-verify evaluates what it compares: `\boxed{60 + 180 + 126}` equals 366. A policy that is rewarded for that learns to box the calculation
instead of the result. So if the reference answer is a number in final form, the answer has to be one, too. The rules, which
`tests/verification/test_final_form.py` repeats as a table:

| Form | Final | Not final |
|---|---|---|
| sum | `1 + \sqrt{2}`, `3 - 4i`: one rational number at most | `60 + 180`, `2^{10} - 1`, `\sqrt{2} + 3\sqrt{2}` |
| product | `2\sqrt{3}`, `4\pi`, `3 \times 10^8` | `403 \times 233`, `2(3)`, `\sqrt{2}\sqrt{3}` |
| fraction | `\frac{3}{4}`, `6/4`, `\frac{\sqrt{3}}{2}` | `\frac{12}{4}`, `\frac{1.5}{2}`, `\frac{60 + 3}{2}` |
| power | `2^{10}`, `2^{-1}`, `2^{1/2}` | `42^1`, `4^{1/2}`, `2^{3 + 4}` |
| root | `\sqrt{12}`, `\sqrt[3]{2}` | `\sqrt{1764}`, `\sqrt[3]{8}` |
| function | `\ln 2`, `\sin 40^\circ`, `\arctan 2` | `\log_2 8`, `\sin 30^\circ`, `\arctan 1`, `5!`, `\binom{9}{2}`, `\min(1, 2)`, `\|-3\|` |
| equation | `18 - 9 = 9` is read as `9` | `9 = 18 - 9` |

Mixed numbers, percent signs, degrees, units, currency signs and grouped digits do not matter. Other notations are left to
math-verify, unless an operator is between two digits.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .number_forms import VARIABLE, WORKED_OUT, Form, NotFinal, Reader, Unreadable


LONGEST_ANSWER = 200  # characters; a longer one is not a number in final form anyway

_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[\u2212\u2013\u2012]", "-"),
        ("[×·⋅∙✕✖]|\\\\(?:times|cdot|ast)(?![A-Za-z])|\\*", "*"),
        ("÷|\\\\div(?![A-Za-z])|⁄", "/"),
        (r"(?<=\d)[eE]([-+]?\d+)(?![\w.])", r"*10^{\1}"),
        (r"√\s*(\d+)", r"\\sqrt{\1}"),
        (r"√", r"\\sqrt "),
        (r"π", r"\\pi "),
        (
            r"\\(?:text|mbox|mathrm|textbf|mathbf|textit|operatorname)\s*\{\s*(?=(?:sin|cos|tan|ln|log|lcm|gcd|min|max)\s*\})",
            r"{\\",
        ),
        (r"\\(?:text|mbox|textbf|textit|textrm)\s*\{[^{}\d]*\}(?:\^\{?\d\}?)?", " "),
        (r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1 "),
        (r"\\mathrm\s*\{[^{}\d]*\}(?:\^\{?\d\}?)?", " "),
        (r"\\(?:boldsymbol|mathbf|mathit)\s*(?=\{)", ""),
        (r"\\!|\\displaystyle(?![A-Za-z])|\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
        (r"\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{,\}", ","),
        (r"(?<=\d)[, _](?=\d{3}(?!\d))", ""),
        (r"\^\s*\{?\s*(?:\\circ|°)\s*\}?|\\degree(?![A-Za-z])|°", "°"),
        (r"\\?[%$]|[€£¥]", ""),
        # Units and other words: not a name of a function or of a constant
        (
            r"(?<![\\A-Za-z])(?!(?:sqrt|pi|sin|cos|tan|ln|log|lcm|gcd|min|max|exp)\b)[A-Za-z]{2,}\.?(?:\^\{?\d\}?)?",
            " ",
        ),
        (r"(?<![\\A-Za-z])(sqrt|pi|sin|cos|tan|ln|log|lcm|gcd|min|max|exp)(?![A-Za-z])", r"\\\1 "),
        (r"[.,;:]\s*\Z", ""),
    )
)
_MIXED = re.compile(r"(?<![\d./])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_OPERATION = re.compile(r"\d[)}\s]*[-+*/][({\s]*-?\.?\d|\d\s*!")

_FUNCTION = re.compile(rf"\\(?:{'|'.join(WORKED_OUT)})(?![A-Za-z])")
_BINDS = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")  # a variable of their own
_SEVERAL = re.compile(r"[<>,;]|\\(?:pm|mp|le|ge|in|cup|cap|infty|begin)(?![A-Za-z])")


def is_number(text: str) -> bool:
    r"""
    Say whether a reference answer is one number in final form.

    Examples:
        >>> [is_number(text) for text in ("366", r"\frac{3}{4}", r"2\sqrt{3}", "x + 1", "2^6 3^5", "(1, 2)")]
        [True, True, True, False, False, False]
    """
    return _read_number(text) is not None


@lru_cache(maxsize=16_384)
def _read_number(text: str) -> Form | None:
    try:
        form = Reader(_prepare(text)).read()
    except (NotFinal, Unreadable, OverflowError, ZeroDivisionError, ValueError, RecursionError):
        return None
    return form if form.symbols <= {"e", "i"} else None


@lru_cache(maxsize=16_384)
def leaves_arithmetic(answer: str) -> bool:
    r"""
    Say whether an answer, which should be a number, leaves arithmetic to be done.

    Args:
        answer (`str`): A bare answer, without an equation (see [`result_of`]).

    Examples:
        >>> [leaves_arithmetic(text) for text in ("60 + 180 + 126", r"403 \times 233", r"\sqrt{1764}", "5!")]
        [True, True, True, True]
        >>> [leaves_arithmetic(text) for text in (r"\frac{3}{4}", r"2\sqrt{3}", "2^{10}", r"3 \times 10^8", "42 dollars")]
        [False, False, False, False, False]
    """
    if len(answer) > LONGEST_ANSWER:
        return False
    prepared = _prepare(_NAME.sub("", answer))
    try:
        Reader(prepared).read()
    except NotFinal:
        return True
    except (Unreadable, OverflowError, ZeroDivisionError, ValueError, RecursionError):
        if _FUNCTION.search(prepared):
            return _BINDS.search(prepared) is not None or not VARIABLE.search(prepared)
        return not _SEVERAL.search(prepared) and _OPERATION.search(prepared) is not None
    return False


_NAME = re.compile(r"\A\s*(?:\\?[A-Za-z]+)(?:_(?:\w|\{\w+\}))?'?(?:\([^()=]*\))?\s*=(?=[^=]*\Z)")  # x = 3 - 2i
_LIST = re.compile(
    r"(?<!\\)[,;](?!\d{3}(?!\d)|\}|\\!)|(?<![A-Za-z])(?:and|or)(?![A-Za-z])"
)  # several equations: x = 3 or x = 5


def result_of(answer: str) -> str:
    r"""
    The right-hand side of an equation between numbers; any other answer as it is.

    Examples:
        >>> result_of("18 - 9 = 9"), result_of("x = 3 + 4 = 7"), result_of("x = 7"), result_of("7")
        ('9', '7', 'x = 7', '7')
    """
    left, equals, right = answer.rpartition("=")
    if (
        not equals
        or not right.strip()
        or not re.search(r"\d", left)
        or re.search(r"[<>\\]\s*\Z", left)
        or _LIST.search(left)
    ):
        return answer
    return right.strip()


_LAST_MATH = re.compile(r"(?<!\\)\$\$?([^$]+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LAST_WORK = re.compile(r"(?:\b(?:is|be|get|equals|are)\b|[=:])\s*([-\d(\\$][^=:\n]*?)(?:\s+[A-Za-z]+){0,3}[\s.*]*\Z")


def stated_work(prose: str) -> str | None:
    """
    Return the answer that prose states at its very end; `None` if it is not clear.

    Examples:
        >>> stated_work("The answer is $60 + 180$."), stated_work("So it is 60 + 180 apples."), stated_work("Hardly any.")
        ('60 + 180', '60 + 180', None)
    """
    end = prose[-400:]
    math_spans = list(_LAST_MATH.finditer(end))
    if math_spans:
        last = math_spans[-1]
        if re.search(r"\d", end[last.end() :]) is None:
            return next(group for group in last.groups() if group is not None).rpartition("=")[2].strip()
        return None
    match = _LAST_WORK.search(end)
    return match[1].strip() if match else None


def _prepare(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _MIXED.sub(lambda m: f"({m[1]}m{m[2]}/{m[3]})", text.strip())
