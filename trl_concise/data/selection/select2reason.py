# SPDX-License-Identifier: Apache-2.0
"""
Select2Reason: rank long reasoning traces jointly by difficulty and length (https://huggingface.co/papers/2505.17266).

Difficulty, length and the number of rows kept are those of the authors' code (IDEA-FinAI/Select2Reason @ f4b3108). That there is a
joint weighted ranking is in the abstract; its formula and its weight are a reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARE = 0.1  # of the authors' 2, 5 and 10 %
WEIGHT = 0.5
INSTRUCTION = "Please judge the difficulty of this instruction and return 1 if difficult or 0 if not."  # selection.py


def judged_difficulty(logp_one: float, logp_zero: float) -> float:
    r"""
    Difficulty of a question, from the log-probabilities of a judge's answers "1" (difficult) and "0".

    $$ d = \frac{p(1)}{p(1) + p(0)} $$

    Args:
        logp_one, logp_zero (`float`): Log-probabilities of the two tokens, at most 0; `-inf` for an impossible one.

    Returns:
        `float`: In [0, 1].

    Raises:
        `ValueError`: If a log-probability is NaN, or both are `-inf`.

    Examples:
        >>> round(judged_difficulty(-0.2, -1.8), 6)
        0.832018
    """
    largest = max(logp_one, logp_zero)
    if math.isnan(logp_one) or math.isnan(logp_zero) or math.isinf(largest):
        raise ValueError(
            f"The log-probabilities of the judge's answers must be numbers, one of them finite; got {logp_one} and {logp_zero}. "
            "Choose a judge that can answer 1 or 0."
        )
    one, zero = math.exp(logp_one - largest), math.exp(logp_zero - largest)
    return one / (one + zero)


def joint_rank(difficulty: Sequence[float], length: Sequence[float], *, weight: float = WEIGHT) -> list[float]:
    r"""
    Joint score of each row.

    $$ J_i = w \left(1 - \frac{r^d_i}{N}\right) + (1 - w) \left(1 - \frac{r^l_i}{N}\right) $$

    where $r^d_i$ is the rank by difficulty and $r^l_i$ that by length; the hardest and the longest row have rank 0, and ties
    keep their order. The formula is a reconstruction.

    Args:
        difficulty (`Sequence[float]`): Difficulty of each of N rows, in any unit: only the order counts.
        length (`Sequence[float]`): Length of each row's trace, in tokens or characters.
        weight (`float`, *optional*, defaults to `0.5`): Weight w of the difficulty, in [0, 1]. The default is ours.

    Returns:
        `list[float]`: In (0, 1].

    Raises:
        `ValueError`: If the lists differ in length, a value is not finite, or the weight is out of range.

    Examples:
        >>> joint_rank([0.9, 0.2, 0.6, 0.4], [100, 400, 300, 200])
        [0.625, 0.625, 0.75, 0.5]
    """
    if len(difficulty) != len(length):
        raise ValueError(
            f"There are {len(difficulty)} difficulties and {len(length)} lengths. Give one of each per row."
        )
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1], got {weight}.")
    for name, values in (("difficulty", difficulty), ("length", length)):
        wrong = next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
        if wrong is not None:
            raise ValueError(f"The {name} of row {wrong} is {values[wrong]}. Leave out rows without a finite {name}.")
    count = len(difficulty)
    by_difficulty, by_length = _ranks(difficulty), _ranks(length)
    return [weight * (1 - by_difficulty[i] / count) + (1 - weight) * (1 - by_length[i] / count) for i in range(count)]


def select_jointly(
    difficulty: Sequence[float], length: Sequence[float], *, share: float = SHARE, weight: float = WEIGHT
) -> list[int]:
    """
    Return the rows with the highest joint score.

    Args:
        difficulty, length, weight: See [`joint_rank`].
        share (`float`, *optional*, defaults to `0.1`): Share of the rows to keep, in (0, 1]: `max(1, int(N * share))` rows, as in
            the authors' code.

    Returns:
        `list[int]`: Places of the rows, the highest score first; ties keep their order.

    Raises:
        `ValueError`: If there are 0 rows, or an argument is out of range.

    Examples:
        >>> select_jointly([0.9, 0.2, 0.6, 0.4], [100, 400, 300, 200], share=0.5)
        [2, 0]
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}.")
    scores = joint_rank(difficulty, length, weight=weight)
    if not scores:
        raise ValueError("There are 0 rows to select from. Give at least one.")
    order = sorted(range(len(scores)), key=lambda place: -scores[place])  # stable
    return order[: max(1, int(len(scores) * share))]


def _ranks(values: Sequence[float]) -> list[int]:
    ranks = [0] * len(values)
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: -values[place])):
        ranks[place] = rank
    return ranks


class DifficultyJudge:
    """
    A chat model that judges whether questions are difficult, in one forward pass each.

    The instruction is the authors'. Instead of sampling a token, the log-probabilities of "1" and "0" as the next token are
    read, without a repetition penalty.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]): Model, or its name on the Hub or folder. The authors'
            default is Qwen2.5-1.5B-Instruct.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Its tokenizer, with a chat template. Defaults to
            the one that belongs to the model.
        batch_size (`int`, *optional*, defaults to `16`): Questions in a forward pass.
        instruction (`str`, *optional*): System message.

    Raises:
        `ValueError`: If `batch_size` is below 1, or the tokenizer has no chat template, or no single tokens for "1" and "0".
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        batch_size: int = 16,
        instruction: str = INSTRUCTION,
    ):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ...evaluation.sampling import with_padding_token

        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if isinstance(model, str):
            model = AutoModelForCausalLM.from_pretrained(model, dtype="auto", device_map="auto")
        self.name = model.config._name_or_path
        self.model = model.eval()
        self.tokenizer: Any = with_padding_token(
            tokenizer if tokenizer is not None else AutoTokenizer.from_pretrained(self.name)
        )
        if self.tokenizer.chat_template is None:
            raise ValueError(f"The tokenizer of the judge {self.name!r} has no chat template. Choose a chat model.")
        self.batch_size = batch_size
        self.instruction = instruction
        # The last id, because some tokenizers put a space before the digit.
        self.answers = [self.tokenizer.encode(digit, add_special_tokens=False)[-1] for digit in ("1", "0")]
        if self.answers[0] == self.answers[1]:
            raise ValueError(
                f"The tokenizer of the judge {self.name!r} has no tokens for 1 and 0. Choose another judge."
            )

    def __call__(self, questions: Sequence[str]) -> list[float]:
        """
        Judge questions.

        Args:
            questions (`Sequence[str]`): The questions.

        Returns:
            `list[float]`: Difficulty of each, in [0, 1].
        """
        return [d for first in range(0, len(questions), self.batch_size) for d in self._judge(questions, first)]

    def _judge(self, questions: Sequence[str], first: int) -> list[float]:
        import torch
        from jinja2 import TemplateError

        messages = [
            [{"role": "system", "content": self.instruction}, {"role": "user", "content": question}]
            for question in questions[first : first + self.batch_size]
        ]
        try:
            prompts = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise ValueError(
                f"The chat template of the judge {self.name!r} does not take a system message: {error}. Choose another judge."
            ) from error
        inputs = self.tokenizer(
            prompts,
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
            return_tensors="pt",
        ).to(self.model.device)
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.inference_mode():
            logits = self.model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, -1]
        logps = logits.float().log_softmax(-1)[:, self.answers].tolist()
        return [judged_difficulty(one, zero) for one, zero in logps]
