# SPDX-License-Identifier: Apache-2.0
"""`SelfScorer`: the model that wrote a completion scores its steps by how likely they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...evaluation.sampling import Prompt, Sampler, tokenize_prompts
from ..rlot.calls import FrozenModel, Score
from .difficulty import self_scores


class SelfScorer:
    """
    Score of a step: the exponential of the mean log-probability of its tokens. transformers only.

    Args:
        sampler ([`~trl_concise.evaluation.sampling.Sampler`]): The model.
        make_prompt (`Callable[[str], Prompt]`): Returns the prompt of a question, with the examples of the first stage.
        separator (`str`, *optional*, defaults to an empty line): Text between steps, added before the step of the answer.

    Attributes:
        tokens (`int`): Tokens that the model has read so far.
    """

    def __init__(self, sampler: Sampler, make_prompt: Callable[[str], Prompt], separator: str = "\n\n"):
        self._model = FrozenModel(sampler)
        self.make_prompt, self.separator = make_prompt, separator
        self.tokens = 0

    def __call__(self, problem: str, steps: Sequence[str]) -> list[float]:
        """See [`StepScorer`]."""
        tokenizer = self._model.tokenizer
        (prompt,) = tokenize_prompts(tokenizer, [self.make_prompt(problem)])
        texts = [
            step if place == 0 or steps[place - 1].endswith("\n") else self.separator + step
            for place, step in enumerate(steps)
        ]
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        (reply,) = self._model.call([Score(prompt, [token for own in ids for token in own])], seed=0)
        self.tokens += len(prompt) + len(reply.logprobs)
        logprobs = iter(reply.logprobs)
        return [min(score, 1.0) for score in self_scores([[next(logprobs) for _ in own] for own in ids])]
