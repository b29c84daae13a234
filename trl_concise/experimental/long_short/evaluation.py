# SPDX-License-Identifier: Apache-2.0
"""Evaluation of two policies in their dialogue, with the tokens of both, and of the long policy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ...evaluation.completions import Completion, mean_or_none, summarize
from ...evaluation.sampling import Sampler, SamplingSettings, load_sampler, tokenize_prompts
from ...verification import verify_answers
from ...verification.extraction import AnswerFormat
from .rewards import long_short_accuracy
from .rollout import with_system_prompt
from .turns import (
    Dialogue,
    Turn,
    Writer,
    check_max_turns,
    check_same_tokenizer,
    check_tags,
    is_rethink,
    play_dialogue,
    read_turn,
)


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class DialogueSettings:
    """
    How dialogues are played in an evaluation.

    Args:
        max_turns (`int`, *optional*, defaults to `4`): Largest number of turns of each policy.
        long_tokens, short_tokens (`int`, *optional*, default to `2048`): Largest number of tokens of a turn.
        temperature (`float`, *optional*, defaults to `0.6`): 0 decodes greedily.
        top_p (`float`, *optional*, defaults to `0.95`): Nucleus.
        long_prompt, short_prompt (`str`, *optional*): System prompts, see [`LongShortRollout`].
        batch_size (`int`, *optional*, defaults to `128`): Dialogues that are played together.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.
    """

    max_turns: int = 4
    long_tokens: int = 2048
    short_tokens: int = 2048
    temperature: float = 0.6
    top_p: float = 0.95
    long_prompt: str | None = None
    short_prompt: str | None = None
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self):
        check_max_turns(self.max_turns)
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")
        for tokens in (self.long_tokens, self.short_tokens):
            SamplingSettings(tokens, self.temperature, self.top_p, self.seed)  # checks them


def evaluate_dialogues(
    long: str | Sampler,
    short: str | Sampler,
    problem_sets: Mapping[str, Dataset],
    settings: DialogueSettings | None = None,
    *,
    alone_format: AnswerFormat = "last_number",
) -> list[dict[str, Any]]:
    """
    Measure accuracy and tokens of the dialogues of two policies, and of the first long turn alone.

    Args:
        long, short (`str` or [`Sampler`]): Path or Hub id of each policy, or an object that samples from it.
        problem_sets (`Mapping[str, Dataset]`): Columns `prompt` and `solution`, by name of the set.
        settings ([`DialogueSettings`], *optional*): How dialogues are played.
        alone_format (`str`, *optional*, defaults to `"last_number"`): Where the answer of a long turn is (see [`math_accuracy_reward`]).

    Returns:
        `list[dict[str, Any]]`: Two records per set, `"<set>, dialogue"` and `"<set>, long alone"`, with the figures of [`summarize`] and
        `correct` and `tokens` of each judged problem, in order. Tokens are those that both policies generated, end-of-turn tokens included. The first
        record also has `long_tokens_mean`, `short_tokens_mean`, `turns_mean` (of each policy), `rethink_rate` (share of the short turns that
        return the problem), `unfinished_fraction` (share that did not end within `max_turns`), and `returned_wrong` and `returned_right`: share of
        the first long turns with a wrong, or a right, answer that the short policy returns (`None` without such turns).

    Raises:
        `ValueError`: If the tokenizers differ or do not reproduce the tags, or no reference answer of a set can be read.
    """
    settings = settings or DialogueSettings()
    policies = {
        role: load_sampler(policy) if isinstance(policy, str) else policy
        for role, policy in (("long", long), ("short", short))
    }
    check_same_tokenizer(policies["long"].tokenizer, policies["short"].tokenizer)
    check_tags(policies["long"].tokenizer)
    records = []
    for name, problems in problem_sets.items():
        dialogues = _play(policies, problems, settings)
        golds = [str(gold) for gold in problems["solution"]]
        verdicts = long_short_accuracy(
            [""] * len(golds),
            dialogue=[[turn.text for turn in dialogue.turns] for dialogue in dialogues],
            solution=golds,
        )
        whole = [
            _completion(name, row, gold, dialogue.turns, not dialogue.is_answered, verdict == 1)
            for row, (gold, dialogue, verdict) in enumerate(zip(golds, dialogues, verdicts, strict=True))
        ]
        # The final answer is what the last `</think>` is followed by, so the text within the tags is read.
        firsts = [dialogue.turns[0] for dialogue in dialogues]
        texts = [turn.text.partition("<think>")[2].partition("</think>")[0] or turn.text for turn in firsts]
        alone = [
            _completion(name, row, gold, [turn], not turn.text.endswith("</think>"), bool(verdict))
            for row, (gold, turn, verdict) in enumerate(
                zip(golds, firsts, verify_answers(golds, texts, format=alone_format, final_form=True), strict=True)
            )
        ]
        known = [row for row, verdict in enumerate(verdicts) if verdict is not None]
        records += [
            {
                "dataset": f"{name}, dialogue",
                **_summarize(whole, known),
                **summarize_dialogues(dialogues),
                **_returned(dialogues, [alone[row].correct if row in known else None for row in range(len(alone))]),
            },
            {"dataset": f"{name}, long alone", **_summarize(alone, known)},
        ]
    return records


def summarize_dialogues(dialogues: Sequence[Dialogue]) -> dict[str, float]:
    """Return the figures of dialogues that have no counterpart in a completion (see [`evaluate_dialogues`])."""
    short = [turn for dialogue in dialogues for turn in dialogue.of("short")]
    return {
        "long_tokens_mean": fmean(dialogue.tokens("long") for dialogue in dialogues),
        "short_tokens_mean": fmean(dialogue.tokens("short") for dialogue in dialogues),
        "turns_mean": len(short) / len(dialogues),
        "rethink_rate": fmean(is_rethink(turn.text) for turn in short),
        "unfinished_fraction": fmean(not dialogue.is_answered for dialogue in dialogues),
    }


def _returned(dialogues: Sequence[Dialogue], correct: Sequence[bool | None]) -> dict[str, float | None]:
    """Return how often the short policy returns the first long turn, by whether its answer is correct."""
    pairs = [(is_rethink(one.turns[1].text), verdict) for one, verdict in zip(dialogues, correct, strict=True)]
    return {
        f"returned_{name}": mean_or_none(returned for returned, verdict in pairs if verdict is wanted)
        for name, wanted in (("wrong", False), ("right", True))
    }


def _play(policies: Mapping[str, Sampler], problems: Dataset, settings: DialogueSettings) -> list[Dialogue]:
    found: list[Dialogue] = []
    for start in range(0, len(problems), settings.batch_size):
        prompts = problems[start : start + settings.batch_size]["prompt"]
        seeds = np.random.SeedSequence([settings.seed, start])
        writers = {role: _writer(role, policy, prompts, settings, seeds) for role, policy in policies.items()}
        found += play_dialogue(len(prompts), writers["long"], writers["short"], settings.max_turns)
    return found


def _writer(
    role: str, policy: Sampler, prompts: Sequence[Any], settings: DialogueSettings, seeds: np.random.SeedSequence
) -> Writer:
    system_prompt = settings.long_prompt if role == "long" else settings.short_prompt
    asked = tokenize_prompts(policy.tokenizer, [with_system_prompt(prompt, system_prompt) for prompt in prompts])
    tokens = settings.long_tokens if role == "long" else settings.short_tokens

    def write(places: list[int], dialogues: list[Dialogue]) -> list[Turn]:
        if not places:
            return []
        drawn = policy.sample(
            [[*asked[i], *dialogue.ids] for i, dialogue in zip(places, dialogues, strict=True)],
            SamplingSettings(
                tokens, settings.temperature, settings.top_p, seed=int(seeds.spawn(1)[0].generate_state(1)[0])
            ),
        )
        return [read_turn(policy.tokenizer, ids, role, policy.end_token_ids) for ids in drawn]

    return write


def _completion(
    dataset: str, problem: int, gold: str, turns: Sequence[Turn], truncated: bool, correct: bool
) -> Completion:
    ids = [0] * sum(turn.generated for turn in turns)  # only their number is read
    return Completion(dataset, problem, 0, gold, turns[-1].text, ids, truncated, correct)


def _summarize(completions: Sequence[Completion], known: Sequence[int]) -> dict[str, Any]:
    judged = [completions[row] for row in known]
    figures = summarize([replace(item, thought=None) for item in judged])
    return {
        **figures,
        "correct": [float(bool(item.correct)) for item in judged],
        "tokens": [item.tokens for item in judged],
    }
