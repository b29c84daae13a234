# SPDX-License-Identifier: Apache-2.0
"""RLPR's equations, and what it reads in a completion: format, repetitions, and the place of the answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..verification.extraction import closing_brace


R1_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def answer_probability(logps: Tensor, mask: Tensor, aggregate: str = "mean") -> Tensor:
    r"""
    Aggregate the probabilities of an answer's tokens: by default, their mean $\frac{1}{|y^*|} \sum_t p(y^*_t)$.

    Args:
        logps (`torch.Tensor`): `(b, T)`, log-probabilities.
        mask (`torch.Tensor`): `(b, T)` bool, the tokens of the answer.
        aggregate (`str`, *optional*, defaults to `"mean"`): `"mean"`, `"product"` or `"geometric"` mean.

    Returns:
        `torch.Tensor`: `(b,)` float32 in `[0, 1]`, 0 without a token; without a gradient.

    Examples:
        >>> import torch
        >>> answer_probability(torch.tensor([[-0.1, -0.5, -2.0]]), torch.ones(1, 3, dtype=torch.bool))
        tensor([0.5489])
    """
    logps, count = logps.detach().float().masked_fill(~mask, 0.0), mask.sum(dim=1)
    if aggregate == "mean":
        probability = (logps.exp() * mask).sum(dim=1) / count.clamp(min=1)
    elif aggregate == "product":
        probability = logps.sum(dim=1).exp()
    else:
        probability = (logps.sum(dim=1) / count.clamp(min=1)).exp()
    return probability.masked_fill(count == 0, 0.0)


def rlpr_rewards(probability: Tensor, base: Tensor, well_formed: Tensor, format_weight: float = 0.1) -> Tensor:
    r"""
    Compute the rewards: $(1 - w)\, D + w\, f$ with $D = \max(0, p - p_\text{base})$.

    Args:
        probability (`torch.Tensor`): `(B,)`, of the reference answer after the reasoning.
        base (`torch.Tensor`): `(B,)`, of the reference answer without any reasoning; NaN if unknown.
        well_formed (`torch.Tensor`): `(B,)`, $f$: 1 if the completion has the required format, 0 otherwise.
        format_weight (`float`, *optional*, defaults to `0.1`): $w$ in `[0, 1]`; or -1: $D$ in the required format, -1 otherwise.

    Returns:
        `torch.Tensor`: `(B,)`, NaN where `base` is.

    Examples:
        >>> import torch
        >>> rlpr_rewards(torch.tensor([0.548901]), torch.tensor([0.35]), torch.tensor([1.0]))
        tensor([0.2790])
    """
    gain = (probability - base).clamp(min=0, max=1)
    if format_weight == -1:
        return torch.where((well_formed == 1) | gain.isnan(), gain, -1.0)
    return (1 - format_weight) * gain + format_weight * well_formed


def has_format(text: str, tags: Sequence[str]) -> bool:
    r"""
    Return whether each tag occurs exactly once, all in order. With four tags, the text must begin with the first.

    If the last two tags are braces, as in `\boxed{` and `}`, the last is the brace that closes the one before; others are ignored.

    Examples:
        >>> has_format("<think>2 + 3</think> <answer> 5 </answer>", R1_TAGS)
        True
        >>> has_format("2 + 3 <answer> 5 </answer>", R1_TAGS)
        False
        >>> has_format(r"\frac{2}{4} </think> \boxed{\frac{1}{2}}", ("</think>", r"\boxed{", "}"))
        True
    """
    is_braced = len(tags) > 1 and tags[-2].endswith("{") and tags[-1].startswith("}")
    once = tags[:-1] if is_braced else tags
    if any(text.count(tag) != 1 for tag in once):
        return False
    places = [text.index(tag) for tag in once]
    if is_braced:
        closing = closing_brace(text, places[-1] + len(tags[-2]), len(text))
        if closing is None or not text.startswith(tags[-1], closing):
            return False
    in_order = all(end >= place + len(tag) for place, tag, end in zip(places, once, places[1:], strict=False))
    return in_order and (len(tags) < 4 or places[0] == 0)


def find_answer(text: str, tags: Sequence[str]) -> int | None:
    """
    Return where the opening tag of the answer begins, the last but one. `None` if a tag up to it does not occur exactly once, they are out
    of order, or nothing follows. The answer need not be closed.

    Examples:
        >>> find_answer("<think>2 + 3</think> <answer> 5", R1_TAGS)
        21
    """
    *before, opening = tags[:-1]
    start = text.find(opening)
    in_order = has_format(text, [*before[-2:], opening])
    return start if in_order and text[start + len(opening) :].strip() else None


def repeats_itself(text: str, limit: int = 10, window: int = 10) -> bool:
    """
    Return whether the same words, `window` in a row, occur at least `limit` times. Words are separated by white space and `_`.

    Args:
        text (`str`): A completion.
        limit (`int`, *optional*, defaults to `10`): Occurrences.
        window (`int`, *optional*, defaults to `10`): Words.
    """
    words = [word for part in text.split() for word in part.split("_")]
    if len(words) <= window:
        return False
    counts = Counter(tuple(words[i : i + window]) for i in range(len(words) - window + 1))
    return max(counts.values()) >= limit


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, before: str, answer: str, after: str
) -> tuple[list[int], list[bool]]:
    """
    Tokenize a text that contains the reference answer.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): A fast tokenizer.
        before, answer, after (`str`): The text, in three pieces.

    Returns:
        `tuple[list[int], list[bool]]`: Token ids, and which of them contain a character of the answer.
    """
    encoded = tokenizer(before + answer + after, add_special_tokens=False, return_offsets_mapping=True)
    start, end = len(before), len(before) + len(answer)
    return encoded["input_ids"], [first < end and last > start for first, last in encoded["offset_mapping"]]


def tokens_before(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str, place: int) -> int:
    """
    Return how many tokens lie before a place in the text, whole.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The tokenizer.
        ids (`Sequence[int]`): Tokens.
        text (`str`): What [`decode`] makes of them.
        place (`int`): A position in `text`.
    """
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(decode(tokenizer, ids[:middle])) <= place else (low, middle - 1)
    while not text.startswith(decode(tokenizer, ids[:low])):  # in the middle of a character
        low -= 1
    return low


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode tokens as they are, special ones included."""
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def splice_answer(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], answer: str, tags: Sequence[str], pad_answer: bool = True
) -> tuple[int, list[int], list[bool]] | None:
    """
    Replace the answer in a completion by the reference answer.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): A fast tokenizer.
        ids (`Sequence[int]`): The completion, without EOS at its end.
        answer (`str`): The reference answer.
        tags (`Sequence[str]`): The last two surround the answer, see [`RLPRReward`].
        pad_answer (`bool`, *optional*, defaults to `True`): Whether a space is placed before an answer that the completion begins without
            one, and after every answer.

    Returns:
        `tuple[int, list[int], list[bool]]`: How many tokens of the completion are kept, the tokens that continue them, and which of those
        contain the reference answer; `None` if [`find_answer`] finds no place.
    """
    text = decode(tokenizer, ids)
    place = find_answer(text, tags)
    if place is None:
        return None
    opening, closing = tags[-2:]
    inside = text[place + len(opening) :]
    space = re.match(r"[ \n\t\r]*", inside).group()  # type: ignore[union-attr]  # it matches always
    if pad_answer:
        space = space or " "
    kept = tokens_before(tokenizer, ids, text, place)
    rest = text[len(decode(tokenizer, ids[:kept])) : place]
    return kept, *encode_answer(tokenizer, f"{rest}{opening}{space}", answer, f"{' ' * pad_answer}{closing}")
