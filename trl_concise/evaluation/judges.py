# SPDX-License-Identifier: Apache-2.0
"""Which judge scored an evaluation: its name, versions and options, and a fingerprint of its verdicts on a fixed list of hard inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..verification import verify_answers
from ..verification.extraction import Answer, AnswerFormat, final_answer, gold_answer, without_reasoning
from ..verification.judge import JUDGE


HARD_INPUTS = Path(__file__).parents[1] / "verification" / "hard_inputs.jsonl"
PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy")
DEFAULT_JUDGE = "trl-concise"
TIMEOUT = 5.0  # seconds per completion
SEARCHED = 4_000  # characters from the end of a completion that math-verify alone reads

Verdicts = list[bool | None]
JudgeFunction = Callable[[Sequence[str], Sequence[str]], Verdicts]  # reference answers, completions -> verdicts


def find_judge(name: str, answer_format: AnswerFormat = "auto", final_form: bool = True) -> JudgeFunction:
    """
    Return a judge by its name.

    Args:
        name (`str`): `"trl-concise"` judges as [`math_accuracy_reward`]; `"math-verify"` has math-verify search the whole text after the
            reasoning; `"exact"` compares the final answer with the reference answer as text, without white space around it.
        answer_format, final_form: Options of `"trl-concise"`, and the first also of `"exact"`: as `format` and `final_form` of
            [`math_accuracy_reward`].

    Returns:
        `Callable`: Reference answers and completions -> verdicts; `None` where the reference answer is unreadable.

    Raises:
        `ValueError`: If no judge has the name.
    """

    def own(golds: Sequence[str], completions: Sequence[str]) -> Verdicts:
        return verify_answers(golds, completions, timeout=TIMEOUT, format=answer_format, final_form=final_form)

    def exact(golds: Sequence[str], completions: Sequence[str]) -> Verdicts:
        references = [gold_answer(gold).text for gold in golds]
        answers = [final_answer(text, answer_format).text for text in completions]
        return [
            None if not reference else reference.strip() == answer.strip()
            for reference, answer in zip(references, answers, strict=True)
        ]

    judges: dict[str, JudgeFunction] = {DEFAULT_JUDGE: own, "math-verify": judge_with_math_verify, "exact": exact}
    if name not in judges:
        raise ValueError(f"judge {name!r} does not exist. Choose one of {', '.join(map(repr, judges))}.")
    return judges[name]


def judge_with_math_verify(golds: Sequence[str], completions: Sequence[str]) -> Verdicts:
    """Have math-verify find and compare the answers, in processes that can be ended: nothing is settled before it."""
    texts = [without_reasoning(text)[-SEARCHED:] for text in completions]
    references = [gold_answer(gold) for gold in golds]
    asked = [row for row, reference in enumerate(references) if reference.text]
    pairs = [(references[row], Answer(texts[row], False)) for row in asked]
    verdicts: Verdicts = [None] * len(texts)
    for row, judgment in zip(asked, JUDGE.judge(pairs, TIMEOUT), strict=True):
        verdicts[row] = judgment.verdict if judgment.end == "judged" else False
    return verdicts


def describe_judge(
    name: str = DEFAULT_JUDGE,
    answer_format: AnswerFormat = "auto",
    final_form: bool = True,
    judge: JudgeFunction | None = None,
) -> dict[str, Any]:
    """
    Describe a judge, for `settings.json`, each record of `summary.json` and the card.

    Args:
        name (`str`, *optional*, defaults to `"trl-concise"`): Of [`find_judge`], or the name of `judge`.
        answer_format, final_form: See [`find_judge`].
        judge (`Callable`, *optional*): A function of the user's, to which the options do not apply.

    Returns:
        `dict[str, Any]`: `name`, `version` of this package, `packages` with their versions, `options`, and `fingerprint`: 16
        hexadecimal digits of the verdicts on the fixed inputs. Results with different fingerprints cannot be compared; with the
        same one, they may still differ on other inputs.
    """
    options: dict[str, Any] = {}
    if judge is None:
        known: dict[str, dict[str, Any]] = {
            DEFAULT_JUDGE: {
                "answer_format": answer_format,
                "final_form": final_form,
                "timeout": TIMEOUT,
                "guards": True,
            },
            "math-verify": {"timeout": TIMEOUT},
        }
        options = known.get(name, {"answer_format": answer_format})
        print_of = _fingerprint(name, answer_format, final_form)
    else:
        # It reads completions without their reasoning, here as in `rescore`
        print_of = fingerprint_of(lambda golds, texts: judge(golds, [without_reasoning(text) for text in texts]))
    return {
        "name": name,
        "version": version("trl-concise"),
        "packages": {package: _version(package) for package in PACKAGES},
        "options": options,
        "fingerprint": print_of,
    }


def hard_inputs() -> list[tuple[str, str, str, bool]]:
    """Return the fixed inputs: family, reference answer, completion, and whether the completion is correct."""
    rows = [json.loads(line) for line in HARD_INPUTS.read_text(encoding="utf-8").splitlines()]
    return [(family, gold, completion, bool(expected)) for family, gold, completion, expected in rows]


def fingerprint_of(judge: JudgeFunction) -> str:
    """Return the fingerprint of a judge: the first 16 hexadecimal digits of the SHA-256 of the inputs' digest and its verdicts on them."""
    inputs = hard_inputs()
    verdicts = judge([gold for _, gold, _, _ in inputs], [completion for _, _, completion, _ in inputs])
    digest = hashlib.sha256(HARD_INPUTS.read_text(encoding="utf-8").rstrip("\n").encode()).hexdigest()
    return hashlib.sha256(f"{digest}\n{''.join('01'[bool(item)] for item in verdicts)}".encode()).hexdigest()[:16]


@lru_cache
def _fingerprint(name: str, answer_format: AnswerFormat, final_form: bool) -> str:
    return fingerprint_of(find_judge(name, answer_format, final_form))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def judge_name(judge: dict[str, Any]) -> str:
    """
    Return the description of a judge in a few words.

    Examples:
        >>> judge_name({"name": "exact", "version": "0.2.0", "packages": {"math-verify": "0.9.0"}, "fingerprint": "8a85c60d7e5032a3"})
        'exact of trl-concise 0.2.0 (math-verify 0.9.0), fingerprint 8a85c60d7e5032a3'
    """
    package = f"{DEFAULT_JUDGE} {judge['version']}"
    name = package if judge["name"] == DEFAULT_JUDGE else f"{judge['name']} of {package}"
    return f"{name} (math-verify {judge['packages'].get('math-verify')}), fingerprint {judge['fingerprint']}"
