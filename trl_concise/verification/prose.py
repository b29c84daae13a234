# SPDX-License-Identifier: Apache-2.0
r"""
Find the answer that prose states.

math-verify searches prose for a number. It takes the 5 of "The point is (2, 5)." and the 10 of "It leaves at 10:30.", and reads no
formula. So an answer that a sentence states as a whole is taken from it here. Whatever is not clear is left to math-verify.
"""

from __future__ import annotations

import re

from .languages import FOREIGN_LETTER
from .numerals import numeral
from .reading import unit_name


NUMBER = r"[-+\u2212]?(?:(?:\\?[$€£][-+]?)?\.?\d[\d,./]*(?:\\?%)?|\\[dt]?frac\{\d+\}\{\d+\})"
LONGEST_SENTENCE = 400  # characters
LONGEST_RUN = 8
LONGEST_BEFORE, LONGEST_AFTER = 60, 200  # characters around a letter that decide whether it is the answer
MOST_REMARKS = 5  # sentences after the answer

_SPACES = re.compile(r"[^\S\n]+")
_RUN = re.compile(rf"([^\w\s])\1{{{LONGEST_RUN},}}")
_SENTENCE_END = re.compile(r"(?<!\\)[.;!?]\s|\n")

_PERIOD = re.compile(r"(?<!\\)[.!?]\$?\s|\n")  # without the semicolon

# A number that the text says is not the answer: `It is not 42.`, `42 is wrong.`
_IS_NOT = (
    r"\b(?:not|never|isn't|aren't|wasn't|cannot be|can't be|nicht|niet|doubt (?:that )?it(?:'s| is))|\bno es|\bn'est pas|\bnon è|\bnão é"
    r"|\bsi\b|\bне|不是|ไม่ใช่|ليست?"
)
_NEGATED = re.compile(
    rf"(?i)(?:{_IS_NOT})\s*(?:(?:be|equal to|exactly|really|the number|equals?)\s+)*\W{{0,3}}{NUMBER}[^\d]*"
)
_NEGATED_AFTER = re.compile(
    rf"(?i){NUMBER}[\s$*)]*(?:(?:is|are|was|would be|cannot be) (?:wrong|incorrect|false|impossible|not (?:correct|right|the answer))"
    r"|ist falsch|est faux|es incorrecto|ではありません|ではない|じゃない|নয|\u09a8\u09df|కాదు|नहीं|[이가]?\s*아[니닙])[^\d]*"
)
# Several numbers that may be the answer, or a bound of it
_HEDGED = re.compile(
    rf"(?i)\d[^.\n]*\bor (?:maybe|perhaps|possibly|probably|else)\b[^.\n]*\d|(?<![\w{{}}\\./^]){NUMBER}\W{{0,3}} or (?:\w+ )?\W{{0,2}}{NUMBER}"
    rf"|\bbetween {NUMBER} and {NUMBER}\W*\Z|{NUMBER} (?:in|out of) {NUMBER}\W*\Z|\d[^.\n]*\?\s*\Z"
    rf"|\banswer (?:is|must be) (?:\w+ )?(?:(?:less|more|greater|fewer|higher|lower|larger|smaller) than|at least|at most|up to) \W?{NUMBER}"
    rf"|\banswer is \W?{NUMBER}\W?\s*(?:to|through|,? or \w+|[;≈→&]|[-=]>|\\approx|\\to)\s*\W{{0,2}}{NUMBER}"
)
# `Answer: 5, not 6.`
_CONTRAST = re.compile(
    rf"(?i)(?<=\w)[)}}$*]*(?:,\s*(?:and |but )?not|\s*\(not|,?\s+(?:rather than|instead of|as opposed to))\s+(?:the number )?\W{{0,3}}{NUMBER}[^\d\n]*\Z"
)

# "The answer is (C)": a letter that is stated to be the answer
_ANSWER_WORD = r"(?:\b(?:answer|choice|option|respuesta|r[ée]ponse|antwort|jibu|ответ)\b|答案|选项|正确选项|答え|উত্তর|คำตอบ|సమాధానం)"
_LETTER = r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?(?:\((?P<inside>[A-J])\)|(?P<letter>[A-J]))\}?"
_CHOICE = re.compile(
    rf"(?i:{_ANSWER_WORD}\s*(?:choice|option)?)\W{{0,3}}\s*(?i:is|would be|must be|:|=|ist|es|est|ni|是|は|হল|คือ)?\s*(?i:option|choice)?"
    rf"[\s*:$]*{_LETTER}[*$]*(?=(?P<after>[^\n]{{0,{LONGEST_AFTER}}}))"
)
_AFTER_CHOICE = re.compile(r"\W*\Z|[.,;:!)]|\s+(?:because|since)\b|\s+is (?:the )?(?:correct|right)\b(?! or)")
_DENIES_FIRST = re.compile(r"(?i)(?:is|was|seems)?\s*(?:no|not|wrong|incorrect|false)\b")
_CHOICE_FIRST = re.compile(r"\(?(?P<letter>[A-J])[.):]\s+(?P<after>[^\n]*[a-z][^\n]*)")
_REASON = r"(?:,?\s+(?:because|since)\b.*)?[\s.!*]*"
_PICKED = re.compile(
    rf"(?:.*\W)?(?i:choose|pick|select|go with)\s+(?i:(?:option|choice|answer)\s+)?{_LETTER}{_REASON}"
)
_IS_RIGHT = re.compile(
    rf"(?:.*\W)?(?:(?i:so|thus|hence|therefore),?\s+)?{_LETTER}\s+is (?:the )?(?:correct|right)(?: (?:answer|choice|option|one))?{_REASON}"
)
_PICKS = re.compile(r"(?i:\b(?:choose|pick|select|go with)\s+(?:(?:option|choice|answer)\s+)?)\(?[A-J]\b")
_ANOTHER_LETTER = re.compile(
    r"\s*(?:[,;/&|]|[,;]?\s*(?:or maybe\b|or perhaps\b|or\b|and\b|oder\b|o\b|ou\b|или|и\b|或))\s*(?:option\s+)?\(?[A-J]\b"
)
_MARKED_LETTER = re.compile(r"(?<![\w'])\(?[A-J][.):](?=\s|\Z)")

# A formula without delimiters: no words but those of formulas
_WORDS = "and|or|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|sqrt|pi|inf|infinity|mod"
_TOKEN = (
    r"(?:\\(?:begin|end)\{[a-z]+\}|\\text(?:bf|it|rm)?\{[^{}$\\]*\}|\\\\|\\[{}%,;:!|$ ]|\\(?!text|mbox|math(?!bb)|operatorname|f?box)[A-Za-z]+|\$(?=\d)"
    rf"|(?<![A-Za-z])(?:{_WORDS}|[A-Za-z])(?![A-Za-z])|[-\d+*/^=<>(){{}}\[\]|,.:!%°_&~ \u2212\u2013π√∞±×·÷≤≥≠∪∩½⅓⅔¼¾²³€£¥])"
)
_COPULA = (
    r"(?:\b(?:is|are|equals?|be|was|were|becomes|gets?|have|has|gives?|obtain|find|yields?|ist|sind|lautet|beträgt|est|sont|vaut|es|son|sono"
    r"|são|ni)\b|(?<!\w)[èé](?!\w)|(?<!\d)(?<!\d\s):(?=\s))"
)
_FORMULA = rf"(?:\$\$?(?P<dollars>[^$]+)\$\$?|\\\((?P<round>.+?)\\\)|\\\[(?P<square>.+?)\\\]|(?P<plain>{_TOKEN}+))"
_STATEMENT = re.compile(
    rf"(?P<subject>.*){_COPULA}\s*:?\s*[*`]*(?i:equal to\s+|(?:das|die|the)\s+\w+\s+)?{_FORMULA}[*`]*[.\s]*", re.DOTALL
)
_QUANTITY = re.compile(
    rf"(?P<subject>.*(?<![A-Za-z])(?!(?:or|and|to|than|of|not|by|per)\b)[A-Za-z]{{2,}}:?)\s+\**(?P<value>{NUMBER})(?P<blank>\s?)"
    r"(?P<unit>[A-Za-z°][A-Za-z./ ]*(?:\^\{?\d\}?)?)\**[.\s]*",
    re.DOTALL,
)
# Words that deny, doubt or bound the value of their clause
_DENIAL = re.compile(
    r"(?i)\b(?:not|cannot|never|neither|nor|nobody|no one|hardly|few|unlikely|doubt\w*|false|wrong(?:ly)?|incorrect(?:ly)?|mistaken?(?:ly)?"
    r"|refuse|avoid|eliminate|rule out|tempting|kidding)\b|n['\u2019]t\b"
)
_BOUND = re.compile(
    r"(?i)\b(?:(?:less|more|greater|fewer|higher|lower|larger|smaller|other|earlier|later) than|at (?:most|least)|up to|below|above|under|exceeds?"
    r"|half(?: of)?|twice|double|triple|before|after|until|till)\s+\W{0,3}\Z"
)
_DENIED_AFTER = re.compile(
    r"(?i)[\s$*)]*(?:(?:is|are|was) (?:wrong|incorrect|false|extraneous|impossible|not\b)|or (?:more|less|fewer|above|below|greater|higher)\b)"
)
_CLAUSE = re.compile(
    r"(?i)[,;:]\s+(?=[a-z]{2}|[a-z] (?:is|=)|\$?[a-z]\s*=)|\b(?:so|thus|hence|therefore|but|because|since|instead)\b"
)
_WITHDRAWN = re.compile(
    r"(?i)\W*(?:(?:oh|hmm|no),? )?(?:wait|no\b|oops|sorry|just kidding|scratch that|(?:that|this|it)(?:'s| is| was) (?:wrong|incorrect|not|a mistake))"
)
_VALUE = re.compile(rf"\$[^$]+\$|\\\(.+?\\\)|\d{{1,2}}:[0-5]\d|{NUMBER}")
_MULTIPLES = {"hundred", "thousand", "million", "billion", "trillion", "dozen", "score"}
_TAKES_BACK = re.compile(r"(?i)\b(?:not?|wait|wrong|incorrect|mistake|error|instead|actually|but|however)\b|n't\b")
_UNCLEAR = re.compile(
    r"!\Z|=.*\d\s+[A-Za-z]\Z|\A(?!.*\\begin).*&"
)  # an exclamation or a factorial, a letter or a unit, an "and"
_TIME = re.compile(r"(?<![\d:])(?P<time>\d{1,2}:[0-5]\d)(?![\d:])(?:\s*(?P<half>[ap]\.?m\b\.?))?", re.IGNORECASE)
_ANSWER = re.compile(rf"(?i){_ANSWER_WORD}")
_WORDS_STATED = re.compile(
    r".*\b(?:answer|it) is:?\s+[*\"]*(?!(?:a|an|the|not|that|as|in|to|of|at|on|for)\b)(?P<words>[A-Za-z]{2,}(?: [A-Za-z]+){0,2})[*\"]*[.!\s]*"
)
_FOREIGN = re.compile(rf"(?:{FOREIGN_LETTER.pattern})+")
_PLAIN = re.compile(rf"{_TOKEN}+")


def without_contrast(text: str) -> str:
    """
    A text without the number that its end rules out.

    Examples:
        >>> without_contrast("Answer: 5, not 6."), without_contrast("It is not 6.")
        ('Answer: 5', 'It is not 6.')
    """
    end = text[-LONGEST_SENTENCE:]
    match = _CONTRAST.search(end)
    if match is None or not re.search(r"\d", _last_sentence(end[: match.start()])):
        return text
    return text[: len(text) - len(end) + match.start()] + re.match(r"[)}$*]*", match[0])[0]  # type: ignore[index]


def has_no_answer(text: str) -> bool:
    """Whether the last sentence denies, bounds or withdraws its value, or names several that may be the answer."""
    text = _without_runs(text)
    sentence = _last_sentence(text)[-LONGEST_SENTENCE:]
    period = _PERIOD.split(text.rstrip())[-1][-LONGEST_SENTENCE:]
    stated = _STATEMENT.fullmatch(sentence) if len(sentence) == len(period) else None
    if _HEDGED.search(period) and (stated is None or "&" in (stated["plain"] or "")):
        return True
    values = list(_VALUE.finditer(sentence))
    if values and _is_denied(sentence, values[-1].start(), values[-1].end()):
        return True
    if not values and _WITHDRAWN.match(sentence):
        return True
    for pattern in (_NEGATED, _NEGATED_AFTER):
        matches = list(pattern.finditer(sentence))
        if matches and matches[-1].end() == len(sentence):
            return True
    return False


def _is_denied(text: str, start: int, end: int) -> bool:
    """Whether the clause around a value denies or bounds it: `x cannot be 5`, `less than 5`, `5 is wrong`; not `x cannot be 6, so x = 5`."""
    before = _CLAUSE.split(text[max(0, start - LONGEST_SENTENCE) : start])[-1]
    denials = list(_DENIAL.finditer(before))
    is_own = bool(denials) and not re.search(r"\d", before[denials[-1].end() :])  # not that of a number between them
    return is_own or bool(_BOUND.search(before) or _DENIED_AFTER.match(text, end))


def picks_choice(text: str) -> bool:
    """Whether a text chooses a letter: `I choose option B.`, not `5 choose 2`."""
    return _PICKS.search(text) is not None


def stated_choice(text: str) -> str | None:
    """The letter of "The answer is (C)" or of "C. It cannot be A"; `None` if there is none, or several at once."""
    stated, text = None, _without_runs(text)
    for match in _CHOICE.finditer(text):
        after = match["after"]
        before = _last_sentence(text[max(0, match.start() - LONGEST_BEFORE) : match.start()] + "|")
        rest = _SENTENCE_END.split(after, maxsplit=1)
        is_withdrawn = len(rest) > 1 and _WITHDRAWN.match(rest[1])
        if _ANOTHER_LETTER.match(after) or is_withdrawn or _DENIAL.search(_CLAUSE.split(before + match[0])[-1]):
            stated = None
        elif match["inside"] or _AFTER_CHOICE.match(after):
            stated = match["inside"] or match["letter"]
    if stated is not None:
        return stated
    first = _CHOICE_FIRST.fullmatch(text)
    if first is not None and not (_MARKED_LETTER.search(first["after"]) or _DENIES_FIRST.match(first["after"])):
        return first["letter"]
    sentence = _last_sentence(text)
    if (
        len(sentence) > LONGEST_SENTENCE
        or _DENIAL.search(_CLAUSE.split(sentence)[0])
        or re.search(r"(?i)\bor\b", sentence)
    ):
        return None
    picked = _PICKED.fullmatch(sentence) or _IS_RIGHT.fullmatch(sentence)
    return picked["inside"] or picked["letter"] if picked is not None else None


def stated_answer(text: str) -> str | None:
    r"""
    The formula, quantity or time that the last sentence states; `None` where it is not clear.

    If an earlier sentence speaks of "the answer" and the last one does not, nothing is clear.

    Examples:
        >>> stated_answer("We add them. The answer is 6+9i."), stated_answer("They walk 12 cm."), stated_answer("It leaves at 10:30.")
        ('6+9i', '12\\text{ cm}', '10:30')
        >>> stated_answer("She has 3 + 4 = 7 apples.") is None
        True
    """
    text = _without_remarks(_without_runs(text))
    sentence = _last_sentence(text)
    if len(sentence) > LONGEST_SENTENCE:
        return None
    if _DENIAL.search(_CLAUSE.split(sentence)[-1]):
        return None
    before = text.rstrip()[: -len(sentence)] if sentence else ""
    if not _ANSWER.search(sentence) and _states_answer(before):
        return None
    match = _QUANTITY.fullmatch(sentence)
    if match is not None and not _speaks_of_answer(match["subject"]):
        unit = match["unit"].rstrip(". ")
        if unit.split()[0].lower() in _MULTIPLES:
            return f"{match['value']} {unit}"
        if unit_name(unit) and (match["blank"] or len(unit) > 1):
            return rf"{match['value']}\text{{ {unit}}}"
    match = _STATEMENT.fullmatch(sentence)
    if match is not None:
        stated = next(
            group for group in match.group("dollars", "round", "square", "plain") if group is not None
        ).strip()
        stated = _one_of_equals(stated)
        is_clear = re.search(r"[\dA-Za-z]", stated) and not (match["plain"] and _UNCLEAR.search(stated))
        return stated.rstrip(" .*`") if is_clear and not _speaks_of_answer(match["subject"]) else None
    times = list(_TIME.finditer(sentence))
    if len(times) == 1 and not re.search(r"\d", _TIME.sub("", sentence)):
        return times[0]["time"] + (rf"\text{{ {times[0]['half']}}}" if times[0]["half"] else "")
    words = _WORDS_STATED.fullmatch(sentence)
    return words["words"] if words is not None else _stated_in_another_script(sentence)


def _without_remarks(text: str) -> str:
    """A text without the sentences after the answer that contain no number and do not withdraw it."""
    kept = text.rstrip()
    for _ in range(MOST_REMARKS):
        sentence = _last_sentence(kept)
        if not sentence or re.search(r"[\d$\\=]", sentence) or _TAKES_BACK.search(sentence):
            break
        if _ANSWER.search(sentence):
            return kept
        kept = kept[: len(kept) - len(sentence)].rstrip()
    return kept if _ANSWER.search(_last_sentence(kept)) and not _TAKES_BACK.search(text[len(kept) :]) else text


def _one_of_equals(stated: str) -> str:
    """`1/2` of `1/2 or 0.5`."""
    numbers = [numeral(member.strip()) for member in stated.rstrip(" .").split(" or ")]
    if len(numbers) > 1 and None not in numbers and len({number.value for number in numbers if number}) == 1:
        return stated.split(" or ")[0]
    return stated


def _states_answer(text: str) -> bool:
    """Whether a text says what the answer is, and not what it is not."""
    mentions = list(_ANSWER.finditer(text))
    return bool(mentions) and not re.search(f"(?i){_IS_NOT}", text[mentions[-1].end() :])


def _speaks_of_answer(subject: str) -> bool:
    """Whether the answer is stated earlier in the sentence: `The answer is 5, and the rest is 2.`"""
    match = _ANSWER.search(subject)
    return match is not None and re.search(r"\d", subject[match.end() :]) is not None


def _stated_in_another_script(sentence: str) -> str | None:
    """The only formula between words of a script that formulas do not use."""
    if not FOREIGN_LETTER.search(sentence):
        return None
    pieces = [piece for piece in (part.strip(" .,;:*`\u2014") for part in _FOREIGN.split(sentence)) if piece]
    if len(pieces) != 1 or not _PLAIN.fullmatch(pieces[0]) or not re.search(r"[\dA-Za-z]", pieces[0]):
        return None
    return pieces[0]


def _last_sentence(text: str) -> str:
    return _SENTENCE_END.split(text.rstrip())[-1]


def _without_runs(text: str) -> str:
    """
    A text with single spaces and at most `LONGEST_RUN` of the same punctuation mark in a row. The time that the patterns of this module take grows with a
    power of the length of such runs.
    """
    return _RUN.sub(lambda match: match[0][:LONGEST_RUN], _SPACES.sub(" ", text))
