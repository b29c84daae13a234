# SPDX-License-Identifier: Apache-2.0
"""`StepScorer`: what a function must return that scores the steps of a completion, and the exact scorer of the demo."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Protocol


class StepScorer(Protocol):
    """A function that scores the steps of a completion, each in the context of the earlier ones."""

    def __call__(self, problem: str, steps: Sequence[str]) -> list[float]:
        """
        Score steps.

        Args:
            problem (`str`): Text of the problem.
            steps (`Sequence[str]`): The steps in order, at least one.

        Returns:
            `list[float]`: One score in `[0, 1]` per step; higher is better.
        """


def score_steps(scorer: StepScorer, problem: str, steps: Sequence[str]) -> list[float]:
    """
    Call a scorer, and check what it returns.

    Args:
        scorer ([`StepScorer`]): The scorer.
        problem (`str`): Text of the problem.
        steps (`Sequence[str]`): The steps, at least one.

    Returns:
        `list[float]`: One score in `[0, 1]` per step.

    Raises:
        `ValueError`: If the number of scores is not that of the steps, or a score is NaN or outside `[0, 1]`.
    """
    scores = [float(score) for score in scorer(problem, steps)]
    if len(scores) != len(steps):
        raise ValueError(
            f"The step scorer returned {len(scores)} scores for {len(steps)} steps. Return one score per step."
        )
    for place, score in enumerate(scores):
        if not 0 <= score <= 1:
            raise ValueError(
                f"The step scorer returned {score} for step {place} of {problem!r}. Scores must be between 0 and 1."
            )
    return scores


def step_probability(plus: float, minus: float) -> float:
    r"""
    Return the score of a step from the logits of a process reward model at the step tag, $\text{softmax}([z_+, z_-])_+$.

    Args:
        plus, minus (`float`): $z_+$ and $z_-$, the logits of the tokens for a right and for a wrong step.

    Examples:
        >>> round(step_probability(2, -1), 7)
        0.9525741
    """
    difference = minus - plus
    return 1 / (1 + math.exp(difference)) if difference < 0 else math.exp(-difference) / (1 + math.exp(-difference))


_EQUATION = re.compile(r"(-?\d+) ?([-+*]) ?(\d+) ?= ?(-?\d+)(?!\d)")
_ANSWER = re.compile(r"\\boxed\{(-?\d+)\}")


class RuleScorer:
    r"""
    Exact scorer of the demo's completions: whether the arithmetic of a step is right. It does not compare with the problem.

    A step with equations, such as `27+8=35`, has the score 1 if its last equation is right, otherwise 0. A step that states the answer as
    `\boxed{35}` has the score 1 if the answer is the result of the last equation, and that equation is right. Any other step has the score of the step
    before it.

    Args:
        first (`float`, *optional*, defaults to `0.0`): Score of the steps before the first equation.

    Raises:
        `ValueError`: If `first` is outside `[0, 1]`.

    Examples:
        >>> RuleScorer()("What is 27 + 8 - 6?", ["27+8=35", "35-6=28", "That agrees.", "35-6=29", r"\boxed{29}"])
        [1.0, 0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, first: float = 0.0):
        if not 0 <= first <= 1:
            raise ValueError(f"first must be between 0 and 1, got {first}.")
        self.first = first

    def __call__(self, problem: str, steps: Sequence[str]) -> list[float]:
        """See [`StepScorer`]."""
        scores: list[float] = []
        score, result = self.first, None
        for step in steps:
            answer = _ANSWER.search(step)
            for left, sign, right, stated in _EQUATION.findall(step):
                one, other, result = int(left), int(right), int(stated)
                score = float({"+": one + other, "-": one - other, "*": one * other}[sign] == result)
            if answer is not None:
                scores.append(score if result is not None and int(answer[1]) == result else 0.0)
            else:
                scores.append(score)
        return scores


class RewardModelScorer:
    """
    Process reward model that predicts, at a tag after each step, whether the step is right, as Math-Shepherd and its successors do.

    Args:
        model (`str`): Path or Hub id of a causal language model.
        tag (`str`, *optional*, defaults to `"ки"`): Text after each step, a single token, at which the prediction is read.
        plus, minus (`str`, *optional*, defaults to `"+"` and `"-"`): Predictions for a right and for a wrong step, each a single token.

    Attributes:
        tokens (`int`): Tokens that the model has read so far.

    Raises:
        `FileNotFoundError`: If the model is not found.
        `ValueError`: If a text is not a single token.
    """

    def __init__(self, model: str, *, tag: str = "ки", plus: str = "+", minus: str = "-"):
        from ..evaluation.sampling import load_sampler

        self._sampler: Any = load_sampler(model)
        self.tag = tag
        self.tokens = 0
        tokenizer = self._sampler.tokenizer
        found = []
        for text in (tag, plus, minus):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            ids = [token for token in ids if tokenizer.decode([token]).strip()]  # without a space before the text
            if len(ids) != 1:
                raise ValueError(
                    f"{text!r} has {len(ids)} tokens in the vocabulary of {model}, and a single one is needed. Give the tag and the "
                    "predictions that the model was trained with."
                )
            found += ids
        self._tag, self._plus, self._minus = found

    def __call__(self, problem: str, steps: Sequence[str]) -> list[float]:
        """See [`StepScorer`]."""
        import torch

        tokenizer, model = self._sampler.tokenizer, self._sampler.model
        ids, places = list(tokenizer(problem + "\n").input_ids), []
        for step in steps:
            ids += [*tokenizer(step.rstrip() + " ", add_special_tokens=False).input_ids, self._tag]
            places.append(len(ids) - 1)
            ids += tokenizer("\n", add_special_tokens=False).input_ids
        with torch.inference_mode():
            logits = model.eval()(input_ids=torch.tensor([ids], device=model.device)).logits[0, places].float()
        self.tokens += len(ids)
        return [step_probability(row[self._plus].item(), row[self._minus].item()) for row in logits]
