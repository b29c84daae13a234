# SPDX-License-Identifier: Apache-2.0
"""
Blocks and ratings for the embedded model, which follows no instructions: its own lines are the steps.

All of them are reconstructions. A weaker copy of the model is the second model, because the model that ships solves almost all problems of up to three
operations.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ...demo.settings import model_path
from ...evaluation.sampling import tokenize_prompts
from .calls import Generate, Score, Turn
from .environment import Context
from .navigator import ACTIONS


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_THINKING = "</think>\n"
CHECKS = ("Wait, let me check.\n", "Let me check again.\n")
DRAFTS = 3  # of a debate
LINE_TOKENS, ANSWER_TOKENS = 48, 128
CERTAIN, LIKELY = -0.05, -0.5  # mean log-probability of results
DECIDED, NEARLY_DECIDED = 0.1, 0.5  # entropy of the next token, in nats

_OPERATION = re.compile(r"[-+*](?= \d)")
_EQUATION = re.compile(r"(?:(?:First|Then), )?-?\d+ ?([-+*]) ?\d+ ?= ?-?\d+\.?$")
_OTHER_LINE = re.compile(
    r"(?:We need [\d\s()+*-]+\.|Wait, let me check\.|Let me check again\.|That agrees\.|That differs: -?\d+, not -?\d+\.|</think>)$"
)


def operators_of(problem: str) -> list[str]:
    """
    Return the operators of a problem, in the order in which they are carried out.

    Examples:
        >>> operators_of("What is (27 + 8) * 2 - 6?")
        ['+', '*', '-']
    """
    return _OPERATION.findall(problem)


def last_pass(text: str) -> tuple[str, str]:
    """Return the reasoning before the last pass, with the line that begins a check, and the last pass."""
    start = max((text.rfind(line) + len(line) for line in CHECKS if line in text), default=0)
    return text[:start], text[start:]


def operators_in(text: str) -> list[str]:
    """Return the operators of the equations of a pass."""
    return [found[1] for line in text.splitlines() if (found := _EQUATION.match(line)) is not None]


class _Lines:
    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.line_ends = tuple(token for token in range(len(tokenizer)) if "\n" in tokenizer.decode([token]))

    def tokens(self, context: Context, more: str = "") -> list[int]:
        (prompt,) = tokenize_prompts(self.tokenizer, [context.prompt])
        return prompt + self.encode(context.text + more)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def next_line(self, context: Context, temperature: float = 0.0) -> Generate:
        return Generate(self.tokens(context), LINE_TOKENS, temperature, self.line_ends)


class LineBlocks(_Lines):
    """
    Blocks of the embedded model. R writes a line, D a pass, Db drafts three lines and keeps the likeliest, Rf writes a check, Ga ends the reasoning.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The embedded model's tokenizer.
    """

    def run(self, action: int, context: Context) -> Turn[list[str]]:
        """See [`Blocks`]."""
        name, begun = ACTIONS[action], context.text
        needed = len(operators_of(context.problem))
        steps = [] if not begun or begun.endswith("\n") else ["\n"]
        if name == "Ga":
            if END_OF_THINKING not in begun:
                steps.append(END_OF_THINKING)
            (reply,) = yield [Generate(self.tokens(context, "".join(steps)), ANSWER_TOKENS)]
            context.truncated = reply.truncated
            return [*steps, reply.text]
        if name == "Db":
            drafts = yield [self.next_line(context, temperature=1.0)] * DRAFTS
            prompt = self.tokens(context)
            scored = yield [Score(prompt, draft.ids) for draft in drafts]
            means = [fmean(reply.logprobs) for reply in scored]
            return [*steps, drafts[means.index(max(means))].text]
        if name == "Rf":
            steps.append(CHECKS[any(line in begun for line in CHECKS)])
        written: list[str] = []
        while True:
            (reply,) = yield [self.next_line(Context(context.prompt, [begun, *steps, *written]))]
            written.append(reply.text)
            is_whole = {
                "R": True,
                "D": len(operators_in("".join(written))) >= needed,
                "Rf": reply.text.startswith("That "),
            }[name]
            if is_whole or END_OF_THINKING.strip() in reply.text or len(written) > needed + 1 or not reply.text:
                return [*steps, *written]

    def has_answer(self, context: Context) -> Turn[bool]:
        """See [`Blocks`]: whether the model has ended its reasoning. No call is needed."""
        return END_OF_THINKING.strip() in context.text
        yield []  # makes this a generator


class LineReader(_Lines):
    """
    Ratings of the embedded model's reasoning, in one call that generates nothing. The reference answer is not used.

    | Aspect | Rating |
    |---|---|
    | A1 | 3 if the operators of the last pass are the first ones of the problem, otherwise 1 |
    | A2 | 3 if every line is one that the model was trained to write, otherwise 1 |
    | A3 | mean log-probability of the results of the last pass: 3 from -0.05, 2 from -0.5, otherwise 1; 0 without results |
    | B1, C1 | operations that the last pass lacks: none 1 and 3, one 2 and 2, more 3 and 1 |
    | B2 | entropy of the next token: 1 below 0.1, 2 below 0.5, otherwise 3 |
    | C2 | checks: none 1, one 2, more 3 |

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The embedded model's tokenizer.
    """

    def read(self, context: Context) -> Turn[tuple[list[int], int]]:
        """See [`StateReader`]."""
        text = context.text
        before, current = last_pass(text)
        expected, written = operators_of(context.problem), operators_in(current)
        missing = max(0, len(expected) - len(written))
        checks = sum(text.count(line) for line in CHECKS)
        completion = self.encode(current)
        (reply,) = yield [Score(self.tokens(Context(context.prompt, [before])), completion)]
        results = [
            logprob for logprob, is_result in zip(reply.logprobs, self._results(completion), strict=True) if is_result
        ]
        mean = fmean(results) if results else None
        return [
            3 if written == expected[: len(written)] else 1,
            3 if all(_EQUATION.match(line) or _OTHER_LINE.match(line) for line in text.splitlines() if line) else 1,
            _rate_certainty(mean),
            min(missing, 2) + 1,
            1 if reply.entropy < DECIDED else 2 if reply.entropy < NEARLY_DECIDED else 3,
            3 - min(missing, 2),
            min(checks, 2) + 1,
        ], 0

    def _results(self, ids: list[int]) -> list[bool]:
        """Return which tokens belong to results: those after an equals sign, up to the end of the line."""
        flags, after = [], False
        for token in ids:
            after = after and token not in self.line_ends
            flags.append(after)
            after = after or "=" in self.tokenizer.decode([token])
        return flags


def _rate_certainty(mean: float | None) -> int:
    if mean is not None:
        return 3 if mean >= CERTAIN else 2 if mean >= LIKELY else 1
    return 0


def weakened_model(folder: str | Path, noise: float = 0.25, seed: int = 0) -> Path:
    """
    Save the embedded model with noise on its weights. A folder that has a model is returned as it is.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        noise (`float`, *optional*, defaults to `0.25`): Standard deviation of the noise, as a share of that of each weight matrix; at least 0.
        seed (`int`, *optional*, defaults to `0`): Seed of the noise.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `noise` is negative.
    """
    if not noise >= 0:
        raise ValueError(f"noise must be at least 0, got {noise}.")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(folder)
    if (folder / "config.json").is_file():
        return folder
    model = AutoModelForCausalLM.from_pretrained(model_path())
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights += noise * weights.std() * torch.randn(weights.shape, generator=random)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:  # a run that is stopped leaves no model
        whole = Path(partial, folder.name)
        AutoTokenizer.from_pretrained(model_path()).save_pretrained(whole)
        model.save_pretrained(whole)
        whole.rename(folder)
    return folder
