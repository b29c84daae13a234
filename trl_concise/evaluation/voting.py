# SPDX-License-Identifier: Apache-2.0
"""
Evaluation by vote: the n completions of a problem vote for its answer, alike or weighted by the model's own verdicts.

As in "Incentivizing LLMs to Self-Verify Their Answers" (2025, https://huggingface.co/papers/2506.01369): the model verifies each solution
greedily, and the weight of its vote is P("Yes")^alpha, the probability of the token after `Is the answer correct (Yes/No)? `. The exponent is a
reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..verification.extraction import AnswerFormat, without_reasoning
from ..verification.finished import MARKERS, ThinkingMarkers, prompt_opens_reasoning
from ..verification.verdicts import (
    INSTRUCTION,
    find_verdict,
    read_verdict,
    solution_after_reasoning,
    verification_prompt,
)
from .chunks import judged_ids
from .completions import Completion, mean_or_none
from .folder import append_lines, read_lines
from .metrics import accuracy_interval, bootstrap_interval
from .sampling import Prompt, digest_prompt, tokenize_prompts
from .selection import choose_majority, find_votes


if TYPE_CHECKING:
    from rich.progress import Progress
    from transformers import PreTrainedTokenizerBase

    from .sampling import Sampler, SamplingSettings

FILE = "verifications.jsonl"
METHODS = ("majority", "verify")
_TEMPLATE_TOKENS = 64  # of a chat template, around the two further turns of a verification prompt


@dataclass(frozen=True)
class Vote:
    """
    How the completions of a problem vote.

    Args:
        method (`str`, *optional*, defaults to `"verify"`): `"majority"`: every completion has the same weight; `"verify"`: the weight is
            P("Yes")^alpha of the model's own verification.
        alpha (`float`, *optional*, defaults to `1.0`): Exponent, at least 0. 0 is majority vote; the larger it is, the more the highest
            score decides. The paper: 1.0 for 7 billion parameters, 0.1 for 1.5 billion.

    Raises:
        `ValueError`: If an argument is out of range.
    """

    method: str = "verify"
    alpha: float = 1.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"The vote must be one of {', '.join(METHODS)}; got {self.method!r}.")
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"vote_alpha must be a finite number of at least 0, got {self.alpha}.")

    def check(self, num_completions: int) -> None:
        """Raise a `ValueError` if there is nothing to choose from."""
        if num_completions < 2:
            raise ValueError(
                f"A vote needs several completions per problem, but num_completions is {num_completions}. Set num_completions to 2 or more, or "
                "leave the vote out."
            )

    def extra_tokens(self, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> int:
        """Return how many tokens the longest verification has in addition to a problem and its completion."""
        if self.method == "majority":
            return 0
        return len(tokenizer(INSTRUCTION)["input_ids"]) + _TEMPLATE_TOKENS + max_new_tokens

    def settings(self) -> dict[str, Any]:
        """Return what `settings.json` and `summary.json` record."""
        return {"method": self.method, "alpha": self.alpha if self.method == "verify" else None}


@dataclass(frozen=True)
class Verification:
    """
    The model's verification of one completion: a line of `verifications.jsonl`.

    Attributes:
        dataset, problem, completion: As in [`Completion`].
        prompt_sha256 (`str`): Digest of the verification prompt.
        text (`str`): The verification.
        tokens (`int`): Its length.
        verdict (`bool`, *optional*): `True` for Yes, `False` for No, `None` if there is none.
        score (`float`): P("Yes") as the token after the cue; 0 without a verdict.
    """

    dataset: str
    problem: int
    completion: int
    prompt_sha256: str
    text: str
    tokens: int
    verdict: bool | None
    score: float


def vote_weights(votes: Sequence[int | None], scores: Sequence[float], alpha: float) -> dict[int, float]:
    r"""
    Return the weight of each answer, $\sum_{i : \text{answer}_i = a} s_i^\alpha$, in the order in which the answers occur.

    Args:
        votes (`Sequence[int | None]`): Answer of each completion, as a number; `None` without one.
        scores (`Sequence[float]`): $s_i$, at least 0.
        alpha (`float`): Exponent, at least 0.

    Examples:
        >>> {answer: round(weight, 6) for answer, weight in vote_weights([0, 0, 1, 1, 1], [0.9, 0.8, 0.2, 0.3, 0.25], 0.1).items()}
        {0: 1.967452, 1: 2.608459}
    """
    pairs = [(vote, score) for vote, score in zip(votes, scores, strict=True) if vote is not None]
    return {
        answer: math.fsum(score**alpha for vote, score in pairs if vote == answer)
        for answer in dict.fromkeys(vote for vote, _ in pairs)
    }


def choose_weighted(votes: Sequence[int | None], scores: Sequence[float], alpha: float) -> int | None:
    """
    Return the place of the first completion with the answer of the largest weight; `None` without an answer. Ties go to the answer with more
    votes, then to the one that occurs first.

    Args:
        votes, scores, alpha: See [`vote_weights`].
    """
    highest = max((score for vote, score in zip(votes, scores, strict=True) if vote is not None), default=0.0) or 1.0
    weights = vote_weights(
        votes, [score / highest for score in scores], alpha
    )  # so that a large exponent leaves one of them
    best = max(weights, key=lambda answer: (weights[answer], votes.count(answer)), default=None)
    return votes.index(best) if best is not None else None


def yes_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens with which `Yes` begins, after a space or without one."""
    found = set()
    for text in ("Yes", " Yes"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        found.add(next(token for token in ids if tokenizer.decode([token]).strip()))
    return sorted(found)


def find_verdict_token(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int | None:
    """Return the place of the token with which the verdict of a verification begins; `None` without a verdict."""

    def decode(end: int) -> str:
        return str(tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    found = find_verdict(decode(len(ids)))
    if found is None:
        return None
    end = len(ids)
    while len(decode(end)) > found.start("word"):
        end -= 1
    return end


def count_votes(
    completions: Sequence[Completion],
    vote: Vote,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    folder: Path | None = None,
    *,
    answer_format: AnswerFormat = "auto",
    markers: ThinkingMarkers = MARKERS,
    batch_size: int = 64,
    bar: Progress | None = None,
) -> dict[str, Any]:
    """
    Let the completions of one problem set vote, and measure how often the chosen answer is correct.

    A completion that is truncated, or whose reasoning does not end, has no vote and is not verified.

    Args:
        completions (`Sequence[Completion]`): Judged completions, the same number for each problem.
        vote ([`Vote`]): How they vote.
        sampler ([`Sampler`]): Writes the verifications, greedily.
        prompts (`Sequence`): The prompts by problem.
        settings ([`SamplingSettings`]): Its `max_new_tokens` limits the verifications too.
        folder (`Path`, *optional*): Folder of the evaluation. A verification that it contains is not written again.
        answer_format (`str`, *optional*, defaults to `"auto"`): Where the final answers are.
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning.
        batch_size (`int`, *optional*, defaults to `64`): Verifications that are generated at a time.
        bar (`Progress`, *optional*): Shows the progress.

    Returns:
        `dict[str, Any]`: `method`, `alpha` (`None` for majority vote), `accuracy` and `accuracy_interval` (95 %) of the chosen answers, and `tokens_mean`,
        the tokens per problem of all its completions and verifications. With verifications, also `majority_accuracy`, `majority_interval`,
        and `difference_interval` of the two votes on the same completions, `verification_tokens_mean` per problem,
        `verdict_fraction` (verifications with a verdict) and `verdict_accuracy` (verifications whose verdict is right).
    """
    problems: dict[int, list[Completion]] = {}
    for item in completions:
        if item.correct is not None:
            problems.setdefault(item.problem, []).append(item)
    solutions = _find_solutions([item for items in problems.values() for item in items], sampler, prompts, markers)
    verified: dict[tuple[int, int], Verification] = {}
    if vote.method == "verify":
        verified = _verify(
            completions[0].dataset, solutions, sampler, prompts, settings, folder, markers, batch_size, bar
        )
    chosen: list[float] = []
    majority: list[float] = []
    tokens: list[int] = []
    of_verifications: list[int] = []
    for items in problems.values():
        keys = [(item.problem, item.completion) for item in items]
        votes = [
            found if key in solutions else None
            for key, found in zip(keys, find_votes_after_reasoning(items, answer_format, markers), strict=True)
        ]
        scores = [verified[key].score if key in verified else 0.0 for key in keys]
        places = [choose_majority(votes)]
        if vote.method == "verify":
            places.append(choose_weighted(votes, scores, vote.alpha))
        right = [float(place is not None and bool(items[place].correct)) for place in places]
        majority.append(right[0])
        chosen.append(right[-1])
        of_verifications.append(sum(verified[key].tokens for key in keys if key in verified))
        tokens.append(sum(item.tokens for item in items) + of_verifications[-1])
    figures = {
        **vote.settings(),
        "accuracy": fmean(chosen),
        "accuracy_interval": list(accuracy_interval([[value] for value in chosen])),
        "tokens_mean": fmean(tokens),
    }
    if vote.method == "majority":
        return figures
    correct = {(item.problem, item.completion): item.correct for items in problems.values() for item in items}
    difference = [[own - other] for own, other in zip(chosen, majority, strict=True)]
    return figures | {
        "majority_accuracy": fmean(majority),
        "majority_interval": list(accuracy_interval([[value] for value in majority])),
        "difference_interval": list(bootstrap_interval(difference)),
        "verification_tokens_mean": fmean(of_verifications),
        "verdict_fraction": mean_or_none(item.verdict is not None for item in verified.values()),
        "verdict_accuracy": mean_or_none(item.verdict is correct[key] for key, item in verified.items()),
    }


def find_votes_after_reasoning(
    items: Sequence[Completion], answer_format: AnswerFormat, markers: ThinkingMarkers
) -> list[int | None]:
    """[`find_votes`], with the answers after the last end marker."""
    if markers.end != MARKERS.end:  # which the verification of answers knows
        items = [replace(item, text=without_reasoning(item.text, markers.end)) for item in items]
    return find_votes(items, answer_format)


def _find_solutions(
    completions: Sequence[Completion], sampler: Sampler, prompts: Sequence[Prompt], markers: ThinkingMarkers
) -> dict[tuple[int, int], str]:
    """Return the solutions of completions, without reasoning, by problem and completion."""
    tokenizer = sampler.tokenizer
    asked = sorted({item.problem for item in completions})
    rendered = tokenize_prompts(tokenizer, [prompts[problem] for problem in asked])
    opened = {
        problem
        for problem, ids in zip(asked, rendered, strict=True)
        if prompt_opens_reasoning(tokenizer, ids, markers=markers)
    }
    keeps_markers = markers.end in tokenizer.all_special_tokens  # which the text lacks
    solutions = {}
    for item in completions:
        text = item.text
        if keeps_markers:
            own = [token for token in item.completion_ids if token not in sampler.end_token_ids]
            text = tokenizer.decode(own, skip_special_tokens=False)
        solution = solution_after_reasoning(text, reasoning_opened=item.problem in opened, markers=markers)
        if solution is not None and not item.truncated:
            solutions[item.problem, item.completion] = solution
    return solutions


def _verify(
    name: str,
    solutions: Mapping[tuple[int, int], str],
    sampler: Sampler,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    folder: Path | None,
    markers: ThinkingMarkers,
    batch_size: int,
    bar: Progress | None,
) -> dict[tuple[int, int], Verification]:
    """Write the missing verifications of one problem set, and return all."""
    tokenizer = sampler.tokenizer
    asked = {key: verification_prompt(prompts[key[0]], solution) for key, solution in solutions.items()}
    digests = {key: digest_prompt(tokenizer, prompt) for key, prompt in asked.items()}
    known = {
        (item.problem, item.completion): item
        for item in (read_verifications(folder) if folder is not None else [])
        if item.dataset == name and digests.get((item.problem, item.completion)) == item.prompt_sha256
    }
    missing = [key for key in asked if key not in known]
    task = bar.add_task(f"{name}, verification", total=len(asked), completed=len(known), status="") if bar else None
    yes = yes_tokens(tokenizer)
    for first in range(0, len(missing), batch_size):
        keys = missing[first : first + batch_size]
        rendered = tokenize_prompts(tokenizer, [asked[key] for key in keys])
        drawn = sampler.sample(rendered, replace(settings, temperature=0.0))
        keeps_markers = markers.end in tokenizer.all_special_tokens
        texts = tokenizer.batch_decode(drawn, skip_special_tokens=not keeps_markers)
        verdicts = [
            read_verdict(
                text,
                truncated=not ids or ids[-1] not in sampler.end_token_ids,
                reasoning_opened=prompt_opens_reasoning(tokenizer, prompt, markers=markers),
                markers=markers,
            )
            for text, ids, prompt in zip(texts, drawn, rendered, strict=True)
        ]
        places = [
            find_verdict_token(tokenizer, ids) if verdict is not None else None
            for ids, verdict in zip(drawn, verdicts, strict=True)
        ]
        found_at = [(i, place) for i, place in enumerate(places) if place is not None]
        contexts = judged_ids(
            sampler, [drawn[i][:place] for i, place in found_at]
        )  # of the last chunk, if there are any
        begun = [[*rendered[i], *ids] for (i, _), ids in zip(found_at, contexts, strict=True)]
        found = iter(sampler.next_token_probabilities(begun, yes) if begun else [])
        items = [
            Verification(
                *(name, *key, digests[key], text, len(ids), verdict), score=next(found) if place is not None else 0.0
            )
            for key, text, ids, verdict, place in zip(keys, texts, drawn, verdicts, places, strict=True)
        ]
        if folder is not None:
            append_lines(folder / FILE, items)
        known |= zip(keys, items, strict=True)
        if bar is not None and task is not None:
            bar.update(task, completed=len(known))
    return {key: known[key] for key in asked}


def read_verifications(folder: Path) -> list[Verification]:
    """Read `verifications.jsonl` (see [`read_lines`])."""
    return read_lines(folder / FILE, Verification)
