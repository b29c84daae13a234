# SPDX-License-Identifier: Apache-2.0
"""
Changes to the wording of problems that keep their answer, or change it by a known rule.

Each change is exact (the reference answer stays by construction), mapped (it changes by a known rule), or checked (a problem is skipped unless a
test on its text passes). Changes after which an answer may silently differ are not offered.

Source: Zhao et al., "Large Language Models Badly Generalize across Option Length, Problem Types, and Irrelevant Noun Replacements" (arXiv
2502.12459): the idea, and longer options. The other changes are this package's.
"""

from __future__ import annotations

import difflib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .wording import (
    digits_to_words,
    dollars_to_words,
    irrelevant_number,
    irrelevant_sentence,
    lower_case,
    question_first,
    rename_persons,
    thousands_separator,
)


if TYPE_CHECKING:
    from datasets import Dataset

_QUESTION = re.compile(r"What is ([\d+\-*/() ]+)\?")
_OPTIONS = re.compile(r"\n\n(A\. .*(?:\n[B-Z]\. .*)+)\Z")
_COMBINED = re.compile(r"\b(all|none|both|neither) of\b|\bboth\b|\bneither\b|\b[A-J] (and|or) [A-J]\b", re.IGNORECASE)
SUFFIX = ", as described above"  # of lengthened options


class Changed(NamedTuple):
    """
    A changed problem.

    Attributes:
        text (`str`): The new problem.
        gold (`str`): The new reference answer.
        answers (`dict[str, str]`): New answer -> the answer to the original problem that it means. Empty: answers mean themselves.
    """

    text: str
    gold: str
    answers: dict[str, str] = {}


Change = Callable[
    [str, str, random.Random], Changed | None
]  # problem, reference answer -> `None` if the problem is skipped


class Perturbation(NamedTuple):
    """A change, its safety class, and what it does in words."""

    change: Change
    kind: Literal["exact", "mapped", "checked"]
    text: str


@dataclass(frozen=True)
class Variant:
    """
    A perturbed problem set.

    Attributes:
        parent (`str`): Name of the original set.
        perturbation (`str`): Name of the perturbation.
        problems (`Dataset`): The perturbed problems, with `perturbation`, `parent` (row of the original) and `gold_map` (JSON, the `answers` of [`Changed`]) in
            addition.
        unchanged (`list[bool]`): Whether each problem reads as its original.
        skipped (`int`): Problems of the original that were left out, because the change does not suit them.
        options (`list[tuple[int, int]]`): Number of options of each problem, before and after; 0 without options.
    """

    parent: str
    perturbation: str
    problems: Dataset
    unchanged: list[bool]
    skipped: int
    options: list[tuple[int, int]]

    @property
    def parents(self) -> list[int]:
        return list(self.problems["parent"])

    @property
    def gold_maps(self) -> list[dict[str, str]]:
        return [json.loads(text) for text in self.problems["gold_map"]]


def perturb(name: str, text: str, gold: str, seed: int = 0, parent: int = 0) -> Changed | None:
    r"""
    Change a problem.

    Args:
        name (`str`): One of [`PERTURBATIONS`].
        text (`str`): The problem; options on lines of their own below it, as [`load_problems`] writes them.
        gold (`str`): Its reference answer.
        seed, parent (`int`, *optional*, default to `0`): What random choices depend on, next to the name: the seed, and the row of the problem.

    Returns:
        [`Changed`], *optional*: The new problem, which may read as the old one; `None` if the change does not suit the problem.

    Raises:
        `ValueError`: If no perturbation has this name.

    Examples:
        >>> perturb("no_spaces", "What is 94 - 5 + 6 + 4?", "99").text
        'What is 94-5+6+4?'
        >>> perturb("shuffle_options", "2 + 2?\n\nA. 3\nB. 4", "B", seed=2)
        Changed(text='2 + 2?\n\nA. 4\nB. 3', gold='A', answers={'A': 'B', 'B': 'A'})
    """
    check_perturbations([name])
    return PERTURBATIONS[name].change(text, gold, random.Random(f"{seed} {parent} {name}"))


def check_perturbations(names: Sequence[str]) -> None:
    """Check that there are perturbations of these names, each named once."""
    for name in names:
        if name not in PERTURBATIONS:
            close = difflib.get_close_matches(name, PERTURBATIONS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Choose among {', '.join(PERTURBATIONS)}."
            raise ValueError(f"Unknown perturbation {name!r}. {hint}")
    if len(set(names)) < len(names):
        raise ValueError(f"A perturbation was named twice: {', '.join(names)}. Name each once.")


def perturb_sets(
    sets: Mapping[str, Dataset], names: Sequence[str], *, seed: int = 0, limit: int | None = None
) -> dict[str, Variant]:
    """
    Perturb problem sets.

    Args:
        sets (`Mapping[str, Dataset]`): Problem sets by name, with `prompt` and `solution`.
        names (`Sequence[str]`): Perturbations.
        seed (`int`, *optional*, defaults to `0`): Seed. A text depends on the seed, its row and the perturbation only.
        limit (`int`, *optional*): Perturb at most this many problems of each set, the first ones.

    Returns:
        `dict[str, Variant]`: By name, such as `"gsm8k, rename_persons"`.

    Raises:
        `ValueError`: If a name is unknown, or a perturbation suits no problem of a set.
    """
    check_perturbations(names)
    return {
        f"{key}, {name}": _perturb_set(
            key, dataset.select(range(min(limit or len(dataset), len(dataset)))), name, seed
        )
        for key, dataset in sets.items()
        for name in names
    }


def _perturb_set(key: str, dataset: Dataset, name: str, seed: int) -> Variant:
    from datasets import Dataset

    rows: list[dict[str, Any]] = []
    unchanged, options = [], []
    for parent, row in enumerate(dataset):
        text = _problem(row["prompt"])
        changed = perturb(name, text, row["solution"], seed, parent) if text is not None else None
        if changed is None or text is None:
            continue
        prompt = row["prompt"] if isinstance(row["prompt"], str) else [dict(message) for message in row["prompt"]]
        if isinstance(prompt, str):
            prompt = changed.text
        else:
            prompt[_last(prompt)]["content"] = changed.text
        found = {"perturbation": name, "parent": parent, "gold_map": json.dumps(changed.answers)}
        rows.append({**row, "prompt": prompt, "solution": changed.gold, **found})
        unchanged.append(changed.text == text)
        options.append((len(_options(text)[1]), len(_options(changed.text, any_label=True)[1])))
    if not rows:
        raise ValueError(
            f"The perturbation {name!r} suits no problem of {key!r}: it {PERTURBATIONS[name].text}. Leave it out, or choose another."
        )
    return Variant(key, name, Dataset.from_list(rows), unchanged, len(dataset) - len(rows), options)


def _last(prompt: Sequence[Mapping[str, Any]]) -> int:
    return max((place for place, message in enumerate(prompt) if message["role"] == "user"), default=-1)


def _problem(prompt: Any) -> str | None:
    """Return the problem of a prompt: its text, or its last user message, if that is text."""
    if isinstance(prompt, str):
        return prompt
    place = _last(prompt)
    content = prompt[place]["content"] if place >= 0 else None
    return content if isinstance(content, str) else None


def _of_expression(write: Callable[[str], str]) -> Change:
    """Return a change of `What is EXPRESSION?`; other problems are skipped."""

    def change(text: str, gold: str, rng: random.Random) -> Changed | None:
        match = _QUESTION.fullmatch(text)
        return Changed(write(match[1]), gold) if match is not None else None

    return change


def _of_text(write: Callable[[str, str, random.Random], str | None]) -> Change:
    """Return a change of the text above the options, which keeps the reference answer."""

    def change(text: str, gold: str, rng: random.Random) -> Changed | None:
        problem, options = _options(text)
        written = write(problem, gold, rng)
        return Changed(written + text[len(problem) :], gold) if written is not None else None

    return change


def _of_whole(write: Callable[[str, str, random.Random], str]) -> Change:
    """Return a change of the whole text, options included, which keeps the reference answer."""
    return lambda text, gold, rng: Changed(write(text, gold, rng), gold)


def _options(text: str, *, any_label: bool = False) -> tuple[str, list[str]]:
    """Return a problem without its options, and the texts of the options."""
    if any_label:
        text = re.sub(r"(?<=\n)(\d\d?)(?=\. )", lambda match: chr(64 + int(match[1])), text)
    match = _OPTIONS.search(text)
    if match is None:
        return text, []
    lines = match[1].split("\n")
    if [line[0] for line in lines] != [chr(65 + place) for place in range(len(lines))]:
        return text, []
    return text[: match.start()], [line[3:] for line in lines]


def _with_options(
    change: Callable[[list[str], int, random.Random], tuple[list[int], list[str]] | None], *, numbers: bool = False
) -> Change:
    """
    Return a change of the options; problems without options are skipped.

    `change` gets their texts and the place of the right one, and returns the places of those that stay, in their new order, and the texts of these.
    """

    def changed(text: str, gold: str, rng: random.Random) -> Changed | None:
        problem, options = _options(text)
        if len(gold) != 1 or not 0 <= ord(gold) - 65 < len(options):
            return None
        found = change(options, ord(gold) - 65, rng)
        if found is None:
            return None
        order, texts = found
        labels = [str(place + 1) if numbers else chr(65 + place) for place in range(len(order))]
        answers = {label: chr(65 + old) for label, old in zip(labels, order, strict=True)}
        listed = "\n".join(f"{label}. {option}" for label, option in zip(labels, texts, strict=True))
        return Changed(
            f"{problem}\n\n{listed}", labels[order.index(ord(gold) - 65)], {} if _is_same(answers) else answers
        )

    return changed


def _is_same(answers: Mapping[str, str]) -> bool:
    return all(new == old for new, old in answers.items())


def _shuffle(options: list[str], right: int, rng: random.Random) -> tuple[list[int], list[str]] | None:
    if any(map(_COMBINED.search, options)):
        return None
    order = list(range(len(options)))
    rng.shuffle(order)
    return order, [options[place] for place in order]


def _number(options: list[str], right: int, rng: random.Random) -> tuple[list[int], list[str]] | None:
    if any(re.fullmatch(r"\W*(\d+|[A-Za-z])\W*", option) or _COMBINED.search(option) for option in options):
        return None
    return list(range(len(options))), options


def _two(options: list[str], right: int, rng: random.Random) -> tuple[list[int], list[str]] | None:
    from ..verification import verify_answers

    others = [place for place, option in enumerate(options) if place != right]
    if any(map(_COMBINED.search, options)):
        return None
    same = verify_answers([options[right]] * len(others), [rf"\boxed{{{options[place]}}}" for place in others])
    others = [place for place, verdict in zip(others, same, strict=True) if not verdict]
    if not others:
        return None
    order = sorted((right, rng.choice(others)))
    return order, [options[place] for place in order]


def _lengthen(right_ones: bool, wrong_ones: bool) -> Change:
    def change(options: list[str], right: int, rng: random.Random) -> tuple[list[int], list[str]]:
        longer = [right_ones if place == right else wrong_ones for place in range(len(options))]
        texts = [option + SUFFIX * more for option, more in zip(options, longer, strict=True)]
        return list(range(len(options))), texts

    return _with_options(change)


PERTURBATIONS: dict[str, Perturbation] = {
    "identity": Perturbation(
        _of_text(lambda text, *_: text), "exact", "changes nothing; measures the noise of sampling"
    ),
    "no_spaces": Perturbation(
        _of_expression(lambda x: f"What is {x.replace(' ', '')}?"),
        "exact",
        "writes the expression of `What is ...?` without spaces",
    ),
    "compute": Perturbation(
        _of_expression(lambda x: f"Compute {x}."), "exact", "asks `Compute ...` instead of `What is ...?`"
    ),
    "equation": Perturbation(
        _of_expression(lambda x: f"{x} = ?"), "exact", "asks `... = ?` instead of `What is ...?`"
    ),
    "times_sign": Perturbation(
        _of_expression(lambda x: f"What is {x.replace('*', '×')}?"), "exact", "writes × for * in `What is ...?`"
    ),
    "parentheses": Perturbation(
        _of_expression(lambda x: f"What is ({x})?"), "exact", "puts the expression of `What is ...?` into parentheses"
    ),
    "lower_case": Perturbation(_of_text(lower_case), "checked", "writes in lower case; not with variables or options"),
    "trailing_space": Perturbation(_of_text(lambda text, *_: f"{text} "), "exact", "adds a space after the problem"),
    "no_punctuation": Perturbation(_of_text(lambda text, *_: text.rstrip("?.!")), "exact", "removes the last mark"),
    "digits_to_words": Perturbation(_of_text(digits_to_words), "checked", "writes whole numbers in words"),
    "thousands_separator": Perturbation(_of_text(thousands_separator), "exact", "writes 1,000 for 1000; not years"),
    "dollars_to_words": Perturbation(_of_text(dollars_to_words), "exact", "writes 5 dollars for $5"),
    "rename_persons": Perturbation(_of_whole(rename_persons), "exact", "replaces first names that it knows"),
    "irrelevant_sentence": Perturbation(
        _of_text(irrelevant_sentence), "exact", "begins with a sentence without a number"
    ),
    "irrelevant_number": Perturbation(
        _of_text(irrelevant_number),
        "checked",
        "begins with the age of a new person; not where a total or an age is asked for",
    ),
    "question_first": Perturbation(
        _of_text(question_first), "checked", "puts the question before the facts; not if it points back to them"
    ),
    "shuffle_options": Perturbation(_with_options(_shuffle), "mapped", "shuffles the options"),
    "number_labels": Perturbation(_with_options(_number, numbers=True), "mapped", "labels the options 1, 2, ..."),
    "two_options": Perturbation(_with_options(_two), "mapped", "keeps the right option and one other"),
    "longer_right": Perturbation(_lengthen(True, False), "exact", "lengthens the right option"),
    "longer_wrong": Perturbation(_lengthen(False, True), "exact", "lengthens the wrong options"),
    "longer_all": Perturbation(_lengthen(True, True), "exact", "lengthens all options"),
}
