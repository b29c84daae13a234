# SPDX-License-Identifier: Apache-2.0
r"""
One canonical spelling for answers that differ only in how they are written.

[`NORMALIZATIONS`] is the whole table. To add a spelling, add a line to it and a case to `tests/verification/test_normalization.py`.
Every replacement must keep the value: an answer that becomes another answer is worse than one that stays unreadable.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple


LONGEST_ANSWER = 1_000  # characters that are worth normalizing and keeping


class Normalization(NamedTuple):
    """One line of the table."""

    pattern: str
    replacement: str | Callable[[re.Match[str]], str]
    comment: str
    where: str = "answer"  # "answer": a bare answer; "prose": text that holds an answer; "both"


# An argument in braces or parentheses, with up to three levels of brackets inside
_BRACES = r"\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})*)\}"
_PARENTHESES = r"\(((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*)\)"
_END = r"(?![A-Za-z])"  # of a command's name

_GREEK = "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|chi|psi|omega"
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log"
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n")
_SYMBOLS = {
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∞": r"\infty ", "±": r"\pm ", "∓": r"\mp "},
    **{"≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap "},
    **{"∈": r"\in ", "∅": r"\emptyset ", "∖": r"\setminus ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}"},
    **{"ℚ": r"\mathbb{Q}", "…": r"\ldots ", "⋯": r"\ldots ", "π": r"\pi ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma "},
    **{"δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\phi "},
    **{"ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega ", "∠": r"\angle ", "∀": r"\forall ", "′": "'"},
}  # fmt: skip
_LABEL = r"(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|result|choice|option)"
_TEXT_UNIT = r"\\text\{[^{}]*\}(?:\^\{?\d\}?)?"
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def _plain_character(match: re.Match[str]) -> str:
    """A digit of any script, a full-width or a mathematical letter, as the plain character."""
    try:
        return str(unicodedata.digit(match[0]))
    except ValueError:
        return unicodedata.normalize("NFKC", match[0])


def _vulgar_fraction(match: re.Match[str]) -> str:
    numerator, _, denominator = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _mixed_number(match: re.Match[str]) -> str:
    whole, numerator, denominator = (int(match[name]) for name in ("whole", "numerator", "denominator"))
    if not 0 < numerator < denominator:
        return match[0]
    return rf"$\frac{{{whole * denominator + numerator}}}{{{denominator}}}$"


def _decimal_exponent(match: re.Match[str]) -> str:
    exponent = Fraction(f"{match[2] or 0}.{match[3]}")
    written = (
        str(exponent) if exponent.denominator == 1 else rf"\frac{{{exponent.numerator}}}{{{exponent.denominator}}}"
    )
    return f"^{{{match[1]}{written}}}"


def _magnitude(match: re.Match[str]) -> str:
    return rf"\times 10^{{{_MAGNITUDES[match[2].lower()]}}}" + (r"\text{" if match[1] else "")


def _radians(match: re.Match[str]) -> str:
    """Degrees in a formula with a trigonometric function: math-verify drops the sign. Alone they stay degrees."""
    if not _TRIGONOMETRIC.search(match.string):
        return match[0]
    return rf"(\frac{{{match[1]}\pi}}{{180}})"


def _modulus(match: re.Match[str]) -> str:
    return rf"\pmod{{{match[1] or match[2] or match[3]}}}"


def _ascending(match: re.Match[str]) -> str:
    signs = [{">": "<"}.get(sign, r"\le ") for sign in match.group(4, 2)]
    return f"{match[5]}{signs[0]}{match[3]}{signs[1]}{match[1]}"


def _ungrouped(match: re.Match[str]) -> str:
    return re.sub(r"\D", "", match[0])


NORMALIZATIONS: tuple[Normalization, ...] = tuple(
    Normalization(*line)
    for line in (
        # Typography
        ("[\u2212\u2012\u2013\ufe63\uff0d]", "-", "minus sign, and dashes of its width", "both"),
        ("[\u200b-\u200f\u2060\ufeff\u00ad]", "", "characters without width", "both"),
        ("[\u00a0\u2000-\u200a\u202f\u205f\u3000]", " ", "blanks of other widths", "both"),
        (r"[^\x00-\x7f](?<=\d)|[\uff01-\uff5e\U0001d400-\U0001d7ff]", _plain_character, "other digits, full width, 𝑥", "both"),
        ("[¼-¾⅐-⅞]", _vulgar_fraction, "½", "both"),
        ("\u2044", "/", "the slash of a fraction", "both"),
        ("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", "x²", "both"),
        ("[₀-₉₊₋ₙ]+", lambda match: f"_{{{match[0].translate(_SUBSCRIPTS)}}}", "x₂", "both"),
        (rf"√\s*(?:{_BRACES}|{_PARENTHESES}|(\d+|[A-Za-z]))", lambda m: rf"\sqrt{{{m[1] or m[2] or m[3]}}}", "√2", "both"),
        (f"[{''.join(_SYMBOLS)}]", lambda match: _SYMBOLS[match[0]], "signs that LaTeX writes as commands"),
        (r"(?<!\w)-\s*\\?\$(?=\d)", "-", "-$40", "prose"),
        (r"(?<![\d/.,])(?P<whole>\d+) (?P<numerator>\d+)/(?P<denominator>\d+)(?![\d/])", _mixed_number, "2 2/3", "prose"),
        # What LaTeX does not show
        (r"(?<!\\)\\\\(?=[A-Za-z])", lambda match: match[0] if r"\begin" in match.string else "\\", "escaped twice"),
        (rf"\\[hv]?phantom\s*{_BRACES}", "", "a phantom shows nothing"),
        (rf"\\(?:display|text|script)style{_END}|\\limits{_END}", " ", "style"),
        (rf"\\(?:[lL]arge|LARGE|[hH]uge|small|normalsize|bf|rm|it){_END}", " ", "size and font"),
        (rf"\\(?:left|right|middle|[bB]igg?[lrm]?){_END}\.?", "", "sizes of delimiters; the dot is an invisible one"),
        (r"\\(?:text)?color\s*\{[^{}]*\}", "", "color"),
        (r"\\!\s*", "", "negative space"),
        (rf"(?<!\\)\\[,;:> ]|\\q?quad{_END}|~|\\\Z|\\h(?:space|skip)\s*\{{[^{{}}]*\}}", " ", "blanks"),
        (r"\\%", "%", "the percent sign"),
        (r"(?<!\\)\\[()\[\]]", "", "math delimiters"),
        (r"(?<!\\)(\$\$?)([^$]+)(?<!\\)\1", r"\2", "math delimiters"),
        # Fonts and text
        (rf"\\(?:boldsymbol|bm|mathbf|mathit|mathsf|mathnormal|mathcal|pmb)\s*{_BRACES}", r"\1", "fonts of formulas"),
        (r"\\(?:mbox|hbox|text(?:bf|it|rm|sf|tt|normal)|emph|underline)\s*(?=\{)", r"\\text", "fonts of text"),
        (r"\\(?:mathrm|operatorname\*?)\s*\{\s*([ei])\s*\}", r"\1", "Euler's number and the imaginary unit"),
        (rf"\\(?:mathrm|operatorname\*?)\s*\{{\s*({_FUNCTIONS})\s*\}}", r"\\\1 ", "functions"),
        (r"(?<![\d}\s])\\mathrm\s*\{\s*([A-Za-z])\s*\}", r"\1", "an upright letter is a symbol; after a number it is a unit"),
        (r"\\(?:mathrm|operatorname\*?)\s*(?=\{)", r"\\text", "upright words"),
        (r"\\text\s*\{\s*([-+\d.,/%]*)\s*\}", r" \1 ", "a number in text, or nothing"),
        (r"\A\s*\\text\{\s*(\(?[A-J]\)?[.:)]?)\s*\}", r"\1 ", "a choice in text"),
        (rf"(?i)\A\s*\\text\{{\s*{_LABEL}(?:\s*is)?\s*:?\s*\}}\s*(?=\S)", "", r"a label: \text{The answer is } 7"),
        (rf"(?i)\A\s*\\text\{{\s*{_LABEL}(?:\s*is\b\s*:?|\s*[:=])\s*(?=[^\s}}])", r"\\text{", r"a label: \text{Answer: G}"),
        (rf"(?i)\A\s*{_LABEL}(?:\s+is\b\s*:?|\s*[:=])\s*(?=\S)", "", "a label: Answer: G"),
        (rf"(?i)\A\s*(?:\\text\{{\s*)?{_LABEL}\s+(?-i:(\(?[A-J]\)?))\s*\}}?[.\s]*\Z", r"\1", "Option C"),
        (rf"\\frac\s*\{{\s*({_TEXT_UNIT})\s*\}}\s*\{{\s*({_TEXT_UNIT})\s*\}}", r"\1/\2", "units"),
        (r"\\text\{\s*(Rs\.?|US\\?\$)\s*\}", r"\1", "a currency in text"),
        # Numbers
        (r"\{,\}", ",", "a comma that groups digits"),
        (r"\{:\}|\\colon(?![A-Za-z])", ":", "the colon of a time or a ratio"),
        (r"(?<![\w,.])\d{1,3}(?:[ '_]\d{3})+(?![\w,'])(?! \d)", _ungrouped, "digits in groups: 1 000, 1'000, 1_000"),
        (rf"(?i)(?<=\d)\s*(\\text\{{\s*)?({'|'.join(_MAGNITUDES)})s?\b", _magnitude, "5 million"),
        (r"\\text\s*\{\s*\}", "", "text that is empty by now"),
        (r"\s*(?:\\text\{\s*per ?cent(?:age)?\s*\}|\b(?:per ?cent(?:age)?|pct)\b)", "%", "percent in words"),
        (r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z]))", "°", "degrees"),
        (r"(?<![\w.}])(\d+(?:\.\d+)?)\s*(?:°|\\text\{\s*degrees?\s*\})", _radians, r"\sin 30^\circ"),
        (rf"\(\s*\\?[bp]?mod{_END}\s*(\w+)\s*\)|\\p?mod{_END}\s*(?:\{{\s*(\w+)\s*\}}|(\w))", _modulus, "modulus"),
        (r"(?i)\(?\s*\\text\{\s*\(?\s*mod\s*\}\s*(\w+)\s*\)?", r"\\pmod{\1}", "modulus"),
        # Commands with several names
        (rf"\\[dtc]frac{_END}", r"\\frac", "sizes of fractions"),
        (r"\\le(?:qslant|qq|q)?(?![A-Za-z]{2})", r"\\le ", r"less or equal, also in 1\leqqx"),
        (r"\\ge(?:qslant|qq|q)?(?![A-Za-z]{2})", r"\\ge ", "greater or equal"),
        (rf"\\lt{_END}", "<", "less"),
        (rf"\\gt{_END}", ">", "greater"),
        ("<=", r"\\le ", "less or equal"),
        (">=", r"\\ge ", "greater or equal"),
        (rf"\\neq{_END}|!=", r"\\ne ", "not equal"),
        (rf"\\[cdl]?dots[bcmio]?{_END}|(?<![.\d])\.\.\.(?![.\d])", r"\\ldots ", "dots"),
        (rf"\\varnothing{_END}|\A\s*\\\{{\s*\\\}}\s*\Z", r"\\emptyset ", "the empty set"),
        (rf"\\[lr]vert{_END}", "|", "absolute value"),
        (rf"\A\s*\\langle{_END}(.*,.*)\\rangle\s*\Z", r"(\1)", "a vector"),
        (rf"\\([lr])brace{_END}", lambda match: "\\{" if match[1] == "l" else "\\}", "braces"),
        (r"(?i)\A\s*(?:\\text\{)?\s*all (?:the )?real(?:s| numbers)\s*\}?\s*\Z", r"\\mathbb{R}", "the real numbers"),
        (r"(?i)\A\s*(?:\\text\{)?\s*all (?:the )?integers\s*\}?\s*\Z", r"\\mathbb{Z}", "the integers"),
        (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}", "sets of numbers"),
        (r"(?:\A|(?<=[(\[,]))\s*\+\s*\\infty", r"\\infty", "positive infinity"),
        (r"\A\{\s*([A-Za-z][^{}]*(?::|\||\\mid(?![A-Za-z]))[^{}]*)\}\s*\Z", r"\\{\1\\}", "{x : x > 1}"),
        (r"\\\{\s*((?:\([^(){}|]*\)|\{[^{}]*\}|[^{}()|:,])+?)\s*(?:\\mid(?![A-Za-z])|\||:)\s*", r"\\{\1:", r"\{x \mid x > 1\}"),
        # Formulas in ASCII
        (rf"(?<![\\A-Za-z])sqrt\s*{_PARENTHESES}", r"\\sqrt{\1}", "sqrt(3)"),
        (rf"\^\s*{_PARENTHESES}", r"^{\1}", "x^(n+1)"),
        (r"\*\*\s*(-?\d+)", r"^{\1}", "x**10"),
        (r"\*\*", "^", "x**n"),
        (r"\^\s*\{\s*(-?)(\d{0,3})\.(\d{1,6})\s*\}", _decimal_exponent, "x^{0.5}"),
        (rf"(?<![\\A-Za-z])(?<!\\text\{{)({_FUNCTIONS}|{_GREEK}|pi|infinity|infty){_END}", r"\\\1 ", "names without backslash"),
        (r"\\infinity", r"\\infty", "infinity"),
        (r"\s*\*\s*", r"\\cdot ", "a product"),
        # LaTeX without braces, and forms that math-verify takes apart
        (r"\\sqrt\s*(\[[^\]]*\])?\s*([0-9A-Za-z])", lambda match: rf"\sqrt{match[1] or ''}{{{match[2]}}}", r"\sqrt[3]2"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", r"\frac12"),
        (r"\\frac\s*([0-9A-Za-z])\s*(?=\{)", r"\\frac{\1}", r"\frac1{2}"),
        (rf"\\frac\s*{_BRACES}\s*([0-9A-Za-z])", r"\\frac{\1}{\2}", r"\frac{1}2"),
        (r"\\sqrt\{\s*([0-9A-Za-z]+)\s*/\s*([0-9A-Za-z]+)\s*\}", r"\\frac{\\sqrt{\1}}{\\sqrt{\2}}", "the root of a fraction"),
        (r"\A((?:(?!\\pm).)*)\\mp((?:(?!\\[pm][pm]).)*)\Z", r"\1\\pm \2", "minus or plus, alone in a formula"),
        # Lists
        (r"\s*,?\s*(?:\\text\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))\s*,?\s*", ", ", "and, or"),
        (r"(?<=,)\s*\([A-Za-z](?:\s*,\s*[A-Za-z])+\)\s*=\s*(?=\()", "", "(x,y)=(1,2) or (x,y)=(2,1)"),
        (r"\s*;\s*", ", ", "a semicolon separates as a comma does"),
        (r"\A([^,<>\\]+(?:<|\\le ))\s*([A-Za-z])\s*,\s*\2\s*(<|\\le )([^,<>\\]+)\Z", r"\1\2\3\4", "1<x and x<2"),
        (r"\A([^,<>=]+)(>|\\ge )([^,<>=]+)(>|\\ge )([^,<>=]+)\Z", _ascending, "5>x>2"),
        # Blanks, and the end of a sentence
        (r"(?:\s*[.,:])+\s*\Z", "", "the end of a sentence"),
        (r"\A\s+|\s+\Z", "", "blanks around the answer"),
        (r"\s+", " ", "runs of blanks"),
        (r" (?![A-Za-z0-9])|(?<![A-Za-z0-9])(?<!\d,) |(?<=\d,) (?!\d{3}(?!\d))", "", "blanks that separate nothing; 30, 150 is a list"),
        (r"(\\[A-Za-z]+) (?=\d)", r"\1", "a blank between a command and a digit"),
        (r"\A\{([^{}]*)\}\Z", r"\1", "braces around the answer"),
        (r"\A\\text\{\s*([^{}\\]*?)\s*\}\Z", r"\1", "nothing but text"),
    )
)  # fmt: skip

_COMPILED = {
    where: tuple(
        (re.compile(line.pattern), line.replacement) for line in NORMALIZATIONS if line.where in (where, "both")
    )
    for where in ("answer", "prose")
}


@lru_cache(maxsize=16_384)
def normalize(answer: str) -> str:
    r"""
    Write a bare answer in its canonical spelling.

    Args:
        answer (`str`): LaTeX or text. One of more than 1,000 characters is returned as it is.

    Returns:
        `str`: The canonical spelling. Equal spellings mean equal answers; different ones mean nothing.

    Examples:
        >>> normalize(r"\left( 3, \dfrac{\pi}{2} \right)."), normalize(r"11,\! 111"), normalize(r"\text{Evelyn}"), normalize("½")
        ('(3,\\frac{\\pi}{2})', '11,111', 'Evelyn', '\\frac{1}{2}')
    """
    return _apply("answer", answer.strip())


def normalize_prose(text: str) -> str:
    r"""
    Write the numbers of prose as math-verify's search reads them. What is not a number stays.

    Examples:
        >>> normalize_prose("a change of −$40, or 2 2/3 of it")
        'a change of -40, or $\\frac{8}{3}$ of it'
    """
    return _apply("prose", text)


def _apply(where: str, text: str) -> str:
    if where == "answer" and len(text) > LONGEST_ANSWER:
        return text
    for pattern, replacement in _COMPILED[where]:
        text = pattern.sub(replacement, text)
    return text
