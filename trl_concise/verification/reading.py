# SPDX-License-Identifier: Apache-2.0
r"""The components of a normalized answer: its value, and what may be written next to it (a name, a unit, a condition)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .normalization import normalize


class Reading(NamedTuple):
    r"""
    The components of a bare answer. An empty string means that the answer lacks the component.

    Two answers can be equal if each component is the same in both, or missing in one: `5 \text{ cm}` and `5`, not
    `5 \text{ cm}` and `5 \text{ km}`.
    """

    text: str  # normalized, with all components
    value: str  # without name, unit and condition
    name: str = ""  # "x" of `x = 5`, "f(2)" of `f(2) = 5`
    unit: str = ""  # "cm^2"; units that are not in the table, as in `12 students`, are dropped
    condition: str = ""  # "k\in\mathbb{Z}"
    base: str = ""  # "2" of `101_2`
    choice: str = ""  # "C" of `(C) 12`; `value` is then the text of the choice


# Canonical name: other spellings. Singular; a plural s is ignored.
UNITS = {
    **{"mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre"},
    **{"in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile"},
    **{"mg": "milligram", "g": "gram gm", "kg": "kilogram", "lb": "lbs", "oz": "ounce", "t": "ton tonne", "pound": ""},
    **{"ml": "milliliter millilitre", "l": "liter litre", "gal": "gallon", "acre": "", "ha": "hectare", "cc": ""},
    **{"s": "sec second", "min": "minute", "h": "hr hour", "day": "", "week": "", "month": "", "yr": "year"},
    **{"mi/h": "mph", "km/h": "kph kmh kmph", "n": "newton", "j": "joule", "w": "watt", "v": "volt", "hz": "hertz", "pa": "pascal"},
    **{"k": "kelvin", "c": "celsius centigrade", "f": "fahrenheit", "°": "degree deg", "°c": "", "°f": "", "°k": "", "rad": "radian", "mol": "mole", "am": "a.m a.m.", "pm": "p.m p.m."},
    **{"$": "dollar usd us$", "cent": "¢", "€": "euro eur", "£": "gbp", "¥": "yen yuan cny rmb", "₹": "rupee inr rs", "₩": "won"},
}  # fmt: skip
_UNIT_NAMES = {spelling: unit for unit, spellings in UNITS.items() for spelling in (unit, *spellings.split())}

# Words that make text after a number more than a unit
_NOT_UNITS = frozenset(
    "and or more less fewer than least most not no none about around if when where for except plus minus only to from mod modulo "
    "hundred thousand million billion trillion dozen score half halves third thirds quarter quarters fourth fourths fifth fifths "
    "tenth tenths is are was be below above under over after before squared cubed factorial times base remainder pi i e undefined "
    "infinity between nor but with without each either neither both all any every unless power root".split()
)

_POWER = r"(?:\^\{?-?\d\}?)"
_UNIT_TEXT = rf"\\text\{{[^{{}}\\]*\}}{_POWER}?"
_LATEX_UNIT = re.compile(rf"(?P<value>.*?[^\s\\]) ?(?P<unit>°?(?:{_UNIT_TEXT}(?:[/ ]|\\cdot ?)?)+)")
_PLAIN_UNIT = re.compile(
    rf"(?P<value>[-+]?(?:\\frac|\\sqrt|\\pi ?|\\times ?|\\cdot ?|[\d.,/:{{}}^()])*[\d}})°])(?P<blank> ?)(?P<unit>[A-Za-z][A-Za-z./ ]*[A-Za-z.]{_POWER}?)"
)
_SIGN_UNIT = re.compile(r"(?P<value>.*(?:[\d}]|\\pi))(?P<unit>°[CFK]?|¢|€|£|¥|₹|₩|\\?\$)")
_CURRENCY = re.compile(r"(?P<sign>[-+]?)(?P<unit>(?:US)?\\?\$|€|£|¥|₹|₩|Rs\.?)(?P<value>-?[\d.].*)")

_VARIABLE = (
    r"(?:\\(?:angle|triangle|Delta|partial|overline|vec|hat|bar|overrightarrow) ?)*(?:\{?[A-Za-z]{1,4}\}?|\\[A-Za-z]+)"
)
_NAME = rf"\|?{_VARIABLE}(?:_(?:\w|\{{[^{{}}]*\}}|\\\w+))?'*(?:\([^()=<>]*\))?\|?|\\text\{{[^{{}}]*\}}|\([A-Za-z](?:,[A-Za-z])+\)|\\frac\{{d\w\}}\{{d\w\}}"
_NAMED = re.compile(rf"(?P<name>{_NAME})(?P<relation>=|\\approx ?|\\in ?(?=[(\[\\]))(?P<value>[^=<>]+)")
_NOT_NAMES = re.compile(r"\\(?:frac(?!\{d)|sqrt|pi|infty|sin|cos|tan|ln|log|begin|emptyset|pm)(?![A-Za-z])")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|approx|in|subset|equiv)(?![A-Za-z])")

_SET = r"(?:\\mathbb\{?[A-Z]\}?|\\?[ZNRQC])(?:\^?[+*]|_\{?[^{}]*\}?|\^\{?[^{}]*\}?)?"
_VARIABLES = r"[A-Za-z](?:,[A-Za-z])*"
_RANGE = rf"{_VARIABLES} ?(?:(?:\\in ?{_SET}|(?:\\(?:ge|le|ne) ?|[<>])-?\w+)(?:,? ?{_VARIABLES}?(?:\\(?:ge|le|ne) ?|[<>])-?\w+)?)"
_FOR_ALL = r"(?:\\text\{\s*,?\s*(?:for|where|with)\b[a-z ]*\}|(?:for|where) (?:all |any |every )?|\\forall) ?"
_CONDITION = re.compile(
    rf"(?P<value>.*?[^,\s])(?:,? ?{_FOR_ALL}\(?(?P<first>{_VARIABLES}|{_RANGE})\)?|[,(] ?\(?(?P<second>{_VARIABLES}\\in ?{_SET})\)?)"
)

_NOT_THE_NAME = re.compile(r"\band\b|[^\w-]")
_COUNT = r"(?P<number>\d+(?:\.\d+)?)"
_NOUN = r"(?:\\text\{(?P<text>[^{}\\\d]+)\}|(?P<plain>[A-Za-z]{2,}(?: [A-Za-z]+)*))"
_THINGS = (
    re.compile(rf"{_COUNT} ?{_NOUN},? ?"),
    re.compile(rf"{_NOUN}[ :=]*{_COUNT},? ?"),
)  # 3 cats, 4 dogs; Ann 3, Ben 4

_BASE = re.compile(
    r"\(?(?P<value>[0-9A-Fa-f]*\d[0-9A-Fa-f]*)\)?_(?:\{(?P<base>\d{1,2})\}|(?P<digit>\d))(?:\\text\{[^{}]*\})?"
)
_CHOICE = re.compile(r"(?:\((?P<a>[A-J])\)|(?P<b>[A-J])(?:[.)]|\Z))[.:]?\s*(?P<value>(?!,).*)")
_CONSTANT_EQUATION = re.compile(r"(?P<left>[^=<>]+)=(?P<value>-?[\d.,]+|-?\\frac\{\d+\}\{\d+\})")
_LETTERS = re.compile(r"\\(?:frac|sqrt|cdot|times|pi|sum|prod|binom)|[^A-Za-z]")


@lru_cache(maxsize=16_384)
def read(answer: str) -> Reading:
    r"""
    Take a bare answer apart.

    Examples:
        >>> read(r"x = 5 \text{ cm}")
        Reading(text='x=5\\text{cm}', value='5', name='x', unit='cm', condition='', base='', choice='')
    """
    text = value = normalize(answer)
    name = condition = ""
    choice = _CHOICE.fullmatch(text)
    if choice is not None:
        return Reading(text, choice["value"], choice=choice["a"] or choice["b"])
    match = _CONDITION.fullmatch(value)
    if match is not None:
        value, condition = match["value"], (match["first"] or match["second"]).replace(" ", "")
    match = _NAMED.fullmatch(value)
    if match is not None and not _NOT_NAMES.match(match["name"]) and not has_relation(match["value"]):
        value, name = match["value"].strip(), match["name"].replace(" ", "").replace("{", "").replace("}", "")
        if name.startswith(r"\text"):
            name = ""
    else:
        match = _CONSTANT_EQUATION.fullmatch(value)
        if match is not None and not _LETTERS.sub("", match["left"]):
            value = match["value"]  # 9/9 = 1
    match = _BASE.fullmatch(value)
    if match is not None and _is_written_in(match["value"], int(match["base"] or match["digit"])):
        return Reading(
            text, match["value"].lstrip("0") or "0", name, "", condition, base=match["base"] or match["digit"]
        )
    value, unit = _split_unit(value)
    return Reading(text, value, name, unit, condition)


def has_relation(text: str) -> bool:
    """Whether a normalized text is an equation, an inequality or a membership."""
    return _RELATION.search(text) is not None


def _is_written_in(digits: str, base: int) -> bool:
    try:
        int(digits, base)
    except ValueError:
        return False
    return True


def _split_unit(text: str) -> tuple[str, str]:
    r"""The value and the unit of a quantity; the text and no unit where it is anything else."""
    sign = ""
    match = _CURRENCY.fullmatch(text)
    if match is not None:
        currency = _UNIT_NAMES.get(match["unit"].lower().lstrip("\\").rstrip("."), "$")
        value, second = _split_unit(match["value"])
        if value.endswith("%"):
            second = "%"
        is_one = second.startswith("/") or are_same_unit(currency, second)  # $5 per hour, $5 dollars; not $5%
        return match["sign"] + value, currency if is_one else f"{currency} {second}"
    match = _SIGN_UNIT.fullmatch(text)
    if match is not None and (match["unit"].startswith("°") or not has_relation(text)):
        unit = match["unit"].lstrip("\\").lower()
        return match["value"], _UNIT_NAMES.get(unit, unit)
    match = _LATEX_UNIT.fullmatch(text)
    if match is not None and not match["value"].endswith(r"\text") and re.search(r"[\dA-Za-z]", match["value"]):
        unit = unit_name(re.sub(r"\\text\{([^{}]*)\}", r"\1", match["unit"]))
        if unit is not None and "," not in match["unit"]:
            return sign + match["value"].rstrip(), unit
    match = _PLAIN_UNIT.fullmatch(text)
    if match is not None:
        unit = unit_name(match["unit"])
        first = re.split("[^A-Za-z]", match["unit"])[0]
        is_known = unit not in (None, "") and len(first) >= 2
        is_word = match["blank"] and len(first) >= 4 and re.search("[aeiou]", first.lower())
        if unit is not None and (is_known or is_word):
            return match["value"], unit
    return text, ""


# Names that may mean several units
_SHORT_FOR = {"pound": {"lb", "£"}, "°": {"°c", "°f", "°k"}}


def are_same_unit(one: str, other: str) -> bool:
    r"""
    Say whether two canonical names may mean the same unit. A missing unit may mean any; "$ cent" contradicts itself and means none.

    Examples:
        >>> are_same_unit("cm", "cm"), are_same_unit("cm", ""), are_same_unit("pound", "£"), are_same_unit("lb", "£")
        (True, True, True, False)
    """
    if " " in one or " " in other:
        return False
    if not (one and other) or one == other:
        return True
    return other in _SHORT_FOR.get(one, ()) or one in _SHORT_FOR.get(other, ())


def count_things(text: str) -> list[tuple[str, str]]:
    r"""
    The numbers and the words of a list of at least two counted things; nothing if a text is anything else.

    Examples:
        >>> count_things(r"3\text{ blue},2\text{ red}"), count_things("3,2")
        ([('3', 'blue'), ('2', 'red')], [])
    """
    for pattern in _THINGS:
        things = list(pattern.finditer(text))
        if len(things) >= 2 and not pattern.sub("", text):
            return [
                (match["number"], _NOT_THE_NAME.sub("", (match["text"] or match["plain"]).lower())) for match in things
            ]
    return []


def unit_name(text: str) -> str | None:
    r"""
    The canonical name of a unit.

    Examples:
        >>> unit_name("square feet"), unit_name("ft^2"), unit_name("students"), unit_name("or more")
        ('ft^2', 'ft^2', '', None)
    """
    text = re.sub(r"\\cdot ?|\bper\b", lambda match: "/" if match[0] == "per" else " ", text.lower())
    tokens = re.findall(r"[a-z°$][a-z.$]*|\^\{?-?\d\}?|/", text)
    if not tokens or any(token.rstrip(".") in _NOT_UNITS for token in tokens):
        return None
    if re.sub(r"[a-z°$.\s/^{}\d-]", "", text):
        return None
    names: list[str] = []
    power = ""
    for token in tokens:
        if token in ("square", "sq", "sq.", "cubic", "cu", "cu."):
            power = "^3" if token.startswith("cu") else "^2"
        elif token.startswith("^"):
            if not names:
                return None
            names[-1] += token.replace("{", "").replace("}", "")
        elif token == "/":
            names.append(token)
        else:
            name = next(
                (
                    _UNIT_NAMES[form]
                    for form in (token, token.rstrip("."), token.removesuffix("s"), token.removesuffix("es"))
                    if form in _UNIT_NAMES
                ),
                None,
            )
            if name is None:
                return ""
            names.append(name + power)
            power = ""
    return "".join(names)
