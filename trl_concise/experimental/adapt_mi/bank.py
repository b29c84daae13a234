# SPDX-License-Identifier: Apache-2.0
"""Worked examples by skill, which of them a prompt gets, and the prompts."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.sampling import Prompt
from ..templates import fill_template


if TYPE_CHECKING:
    from datasets import Dataset

NUM_EXAMPLES = 5
EXAMPLE_FORMAT = "Question: {question}\nResponse: {response}"
QUESTION_FORMAT = "Question: {question}"
SYSTEM_PROMPT = "Reason step by step, and write the final answer in \\boxed{}."


@dataclass(frozen=True)
class Example:
    """A question of the training split with its worked solution."""

    question: str
    response: str


@dataclass(frozen=True)
class SkillBank:
    """
    Examples by subject and skill, and the fixed examples.

    Args:
        fixed (`tuple[Example, ...]`): Examples for easy questions, and for places that no skill fills.
        skills (`dict[str, dict[str, tuple[Example, ...]]]`): Subject, then skill, then examples. All must be of the training split.

    Raises:
        `ValueError`: If a skill has no examples.
    """

    fixed: tuple[Example, ...]
    skills: Mapping[str, Mapping[str, tuple[Example, ...]]] = field(default_factory=dict)

    def __post_init__(self):
        for subject, skills in self.skills.items():
            for skill, examples in skills.items():
                if not examples:
                    raise ValueError(
                        f"The skill {skill!r} of the subject {subject!r} has 0 examples. Add some, or remove the skill."
                    )

    @classmethod
    def load(cls, path: str | Path) -> SkillBank:
        """
        Read a bank from a JSON file: `{"fixed": [example, ...], "skills": {subject: {skill: [example, ...]}}}`, with examples
        `{"question": ..., "response": ...}`.

        Raises:
            `FileNotFoundError`: If the file does not exist.
            `ValueError`: If it has another format, or a skill has no examples.
        """

        def examples(items: list[dict[str, str]]) -> tuple[Example, ...]:
            return tuple(Example(item["question"], item["response"]) for item in items)

        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            skills = {
                subject: {skill: examples(items) for skill, items in own.items()}
                for subject, own in values["skills"].items()
            }
            fixed = examples(values["fixed"])
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is not a bank of examples ({type(error).__name__}: {error}). It needs the keys `fixed` and `skills`, and examples with "
                "`question` and `response`."
            ) from error
        return cls(fixed, skills)

    def subject(self, name: str | None) -> Mapping[str, tuple[Example, ...]]:
        """Return the skills of a subject; without a name, those of the only subject; empty if it is unknown."""
        if len(self.skills) == 1 and name is None:
            return next(iter(self.skills.values()))
        return self.skills.get(name or "", {})


def select_examples(
    skills: Sequence[str],
    bank: Mapping[str, Sequence[Example]],
    fixed: Sequence[Example],
    rng: random.Random,
    *,
    k: int = NUM_EXAMPLES,
    skill_examples: int = NUM_EXAMPLES,
    question: str | None = None,
) -> list[Example]:
    """
    Choose the examples of one prompt.

    Of `skill_examples` places, the first skill fills those that are left by one place for each skill. Examples of a skill are drawn
    without replacement until all have been drawn. Skills that the bank lacks are skipped, and the first fixed examples fill the rest.

    Args:
        skills (`Sequence[str]`): Skills of the question, the most important one first.
        bank (`Mapping[str, Sequence[Example]]`): Examples by skill.
        fixed (`Sequence[Example]`): Fixed examples.
        rng (`random.Random`): Source of the draws.
        k (`int`, *optional*, defaults to `5`): Examples of the prompt.
        skill_examples (`int`, *optional*, defaults to `5`): Places for skills.
        question (`str`, *optional*): The question, which is never an example.

    Returns:
        `list[Example]`: Exactly `k` examples.

    Raises:
        `ValueError`: If there are fewer than `k` fixed examples other than the question, or a number is out of range.
    """
    own = [example for example in fixed if example.question != question]
    if k < 1 or skill_examples < 1:
        raise ValueError(f"k and skill_examples must be at least 1, got {k} and {skill_examples}.")
    if len(own) < k:
        raise ValueError(
            f"{k} examples per prompt need as many fixed ones, but there are {len(own)}. Add some, or lower k."
        )
    first = list(dict.fromkeys(skills))[:skill_examples]
    slots = [first[0]] * (skill_examples - len(first)) + first if first else []
    left: dict[str, list[Example]] = {}
    chosen: list[Example] = []
    for skill in slots:
        known = [example for example in bank.get(skill, ()) if example.question != question]
        if not known:
            continue
        if not left.get(skill):
            left[skill] = rng.sample(known, len(known))
        drawn = next((example for example in left[skill] if example not in chosen), left[skill][0])
        left[skill].remove(drawn)
        chosen.append(drawn)
    unused = [example for example in own if example not in chosen]
    return (chosen + unused + own)[:k]


def few_shot_prompt(
    prompt: Prompt,
    examples: Sequence[Example],
    *,
    system_prompt: str | None = SYSTEM_PROMPT,
    example_format: str = EXAMPLE_FORMAT,
    question_format: str = QUESTION_FORMAT,
    separator: str = "\n\n",
) -> Prompt:
    """
    Return a prompt with examples before its question, in one message.

    Args:
        prompt (`str` or `list[dict]`): The bare prompt; its last message is the question.
        examples (`Sequence[Example]`): The examples.
        system_prompt (`str`, *optional*): System message. One that the prompt has stays; text prompts get none.
        example_format (`str`, *optional*): Form of an example, with `{question}` and `{response}`.
        question_format (`str`, *optional*): Form of the question, with `{question}`.
        separator (`str`, *optional*, defaults to an empty line): Text between them.

    Returns:
        `str` or `list[dict]`: Text for a prompt that is text, otherwise messages.
    """
    *before, last = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    parts = [
        fill_template(example_format, question=example.question, response=example.response) for example in examples
    ]
    text = separator.join([*parts, fill_template(question_format, question=last["content"])])
    if isinstance(prompt, str):
        return text
    if system_prompt is not None and not any(message["role"] == "system" for message in before):
        before = [{"role": "system", "content": system_prompt}, *before]
    return [*before, {**last, "content": text}]


def question_of(prompt: Prompt) -> str:
    """Return the question of a bare prompt: its text, or that of its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def prompt_key(row: Mapping[str, Any]) -> str:
    """Return the key of a row: its `prompt_id`, or a digest of its question."""
    key = row.get("prompt_id")
    return str(key) if key is not None else hashlib.sha256(question_of(row["prompt"]).encode()).hexdigest()[:16]


def adaptive_examples(
    rows: Dataset,
    skills: Sequence[Sequence[str] | str | None],
    bank: SkillBank,
    k: int = NUM_EXAMPLES,
    *,
    skill_examples: int = NUM_EXAMPLES,
    seed: int = 0,
    **prompt_options: Any,
) -> Dataset:
    """
    Return rows whose prompts contain examples.

    Draws depend on the seed and the key of each prompt only, not on the order of the rows or the number of processes. The key of the bare prompt stays
    in the column `prompt_id`, so a history of prompts continues when their examples change in training.

    Args:
        rows (`Dataset`): Column `prompt`, bare prompts; optionally `prompt_id` and `subject`.
        skills (`Sequence`): Per row, its skill or skills, the most important one first, for a difficult question; `None` or empty for fixed examples.
        bank ([`SkillBank`]): The examples.
        k, skill_examples (`int`, *optional*, default to `5`): See [`select_examples`].
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.
        **prompt_options: Options of [`few_shot_prompt`].

    Returns:
        `Dataset`: The rows, with other prompts and the column `prompt_id`.

    Raises:
        `ValueError`: If there are not as many entries in `skills` as rows, or fewer than `k` fixed examples.
    """
    if len(skills) != len(rows):
        raise ValueError(f"There are {len(skills)} lists of skills for {len(rows)} rows. Give one for each row.")
    prompts, keys = [], []
    for row, own in zip(rows, skills, strict=True):
        key, question = prompt_key(row), question_of(row["prompt"])
        chosen = select_examples(
            [own] if isinstance(own, str) else own or [],
            bank.subject(row.get("subject")),
            bank.fixed,
            random.Random(f"{seed} {key}"),
            k=k,
            skill_examples=skill_examples,
            question=question,
        )
        prompts.append(few_shot_prompt(row["prompt"], chosen, **prompt_options))
        keys.append(key)
    kept = rows.remove_columns([name for name in ("prompt", "prompt_id") if name in rows.column_names])
    return kept.add_column("prompt", prompts).add_column("prompt_id", keys)
