# SPDX-License-Identifier: Apache-2.0
"""
The turns of a dialogue between a long and a short policy: their format, where they end, and the loop that lets both write.

Nothing here needs a model.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("long", "short")  # in the order in which they write
CLOSING_TAGS = {"long": ("</think>",), "short": ("</answer>", "</rethink>")}
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "</rethink>")
_CONTENT = r"(?=[^<]*[^<\s])[^<]*"  # not blank, without another tag
_FORMATS = {
    "long": re.compile(rf"<think>{_CONTENT}</think>"),
    "short": re.compile(rf"<answer>{_CONTENT}</(?:answer|rethink)>"),
}


def is_well_formed(text: str, role: str) -> bool:
    r"""
    Return whether a turn has the format of its role.

    | role | the whole text is |
    |---|---|
    | `"long"` | `<think>X</think>` |
    | `"short"` | `<answer>X</answer>`, or `<answer>X</rethink>` |

    X has no `<` and is not blank.

    Args:
        text (`str`): The turn.
        role (`str`): `"long"` or `"short"`.

    Examples:
        >>> is_well_formed("<think>23+7=30</think>", "long"), is_well_formed("<answer> </answer>", "short")
        (True, False)
    """
    return _FORMATS[role].fullmatch(text) is not None


def is_answer(text: str) -> bool:
    """Return whether a short turn ends the dialogue: it opens with `<answer>`, and the first tag that closes it is `</answer>`."""
    return text.lstrip().startswith("<answer>") and _first_tag(text, "short") == "</answer>"


def is_rethink(text: str) -> bool:
    """Return whether a short turn returns the problem to the long policy: the first tag that closes it is `</rethink>`."""
    return _first_tag(text, "short") == "</rethink>"


def _first_tag(text: str, role: str) -> str | None:
    found = [(text.find(tag), tag) for tag in CLOSING_TAGS[role] if tag in text]
    return min(found)[1] if found else None


@dataclass(frozen=True)
class Turn:
    """
    One turn of a dialogue.

    Attributes:
        text (`str`): The turn up to its first closing tag.
        ids (`list[int]`): Its token ids, without the token that ends the turn.
        generated (`int`): Tokens that the model wrote: `ids`, the end token, and what follows the closing tag.
        end (`list[int]`): The token that ends the turn, if nothing between it and the closing tag was left out.
        logps (`list[float]`, *optional*): Log-probabilities under the sampler, one for each token of `ids` and `end`.
    """

    text: str
    ids: list[int] = field(default_factory=list)
    generated: int = 0
    end: list[int] = field(default_factory=list)
    logps: list[float] | None = None

    @property
    def is_cut(self) -> bool:
        """Whether tokens after the closing tag were left out."""
        return self.generated > len(self.ids) + len(self.end)


def read_turn(
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    role: str,
    end_ids: Collection[int],
    logps: Sequence[float] | None = None,
) -> Turn:
    """
    Read a turn from what a model wrote. What follows the first closing tag of the role is left out, but counted.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Decodes the tokens.
        ids (`Sequence[int]`): Generated token ids.
        role (`str`): `"long"` or `"short"`.
        end_ids (`Collection[int]`): Tokens that end a completion, and padding.
        logps (`Sequence[float]`, *optional*): See [`Turn`].
    """
    last = len(ids)
    while last and ids[last - 1] in end_ids:
        last -= 1
    own, end = list(ids[:last]), list(ids[last : last + 1])

    def is_closed(count: int) -> bool:
        text = tokenizer.decode(own[:count], skip_special_tokens=True)
        return any(tag in text for tag in CLOSING_TAGS[role])

    kept = bisect.bisect_left(range(last), True, key=is_closed)
    if kept < last:
        own, end = own[:kept], []
    text = tokenizer.decode(own, skip_special_tokens=True)
    used = len(own) + len(end)
    return Turn(text, own, last + (len(ids) > last), end, list(logps[:used]) if logps is not None else None)


@dataclass(frozen=True)
class Dialogue:
    """
    A dialogue: turns of the long and of the short policy in alternation, the long policy first.

    Attributes:
        turns (`list[Turn]`): In order.
    """

    turns: list[Turn] = field(default_factory=list)

    def of(self, role: str) -> list[Turn]:
        """Return the turns of a role."""
        return self.turns[ROLES.index(role) :: 2]

    def tokens(self, role: str | None = None) -> int:
        """Return how many tokens a role wrote, or both, end-of-turn tokens included."""
        return sum(turn.generated for turn in (self.of(role) if role is not None else self.turns))

    @property
    def ids(self) -> list[int]:
        """Token ids of the joint text, `L_1 S_1 L_2 S_2 ...`."""
        return [token for turn in self.turns for token in turn.ids]

    @property
    def is_answered(self) -> bool:
        """Whether the last turn is a short one that ends the dialogue."""
        return final_turn([turn.text for turn in self.turns]) is not None


def final_turn(texts: Sequence[str]) -> str | None:
    r"""
    Return the short turn that ends a dialogue; `None` if the dialogue has not ended.

    Args:
        texts (`Sequence[str]`): The turns in order, the first a long one.

    Examples:
        >>> final_turn(["<think>3+4=7</think>", r"<answer>\boxed{7}</answer>"])
        '<answer>\\boxed{7}</answer>'
        >>> final_turn(["<think>3+4=8</think>", "<answer>That differs.</rethink>"])
    """
    return texts[-1] if texts and len(texts) % 2 == 0 and is_answer(texts[-1]) else None


# Writes the next turn of some dialogues: their positions, and the dialogues so far. It is also called with none.
Writer = Callable[[list[int], list[Dialogue]], Iterable[Turn]]


def play_dialogue(count: int, long: Writer, short: Writer, max_turns: int) -> list[Dialogue]:
    r"""
    Let two policies write dialogues, until the short policy ends them or both have written `max_turns` turns.

    Both writers are called `max_turns` times, with the dialogues that are still open; with none, if there are none. So processes that
    generate together stay together.

    Args:
        count (`int`): Number of dialogues.
        long, short (`Callable[[list[int], list[Dialogue]], Iterable[Turn]]`): Write one turn for each open dialogue, given its position in
            `range(count)` and its turns so far.
        max_turns (`int`): Largest number of turns of each policy, at least 1.

    Returns:
        `list[Dialogue]`: In order.

    Raises:
        `ValueError`: If `max_turns` is less than 1, or a writer returns another number of turns.

    Examples:
        >>> short = iter(["<answer>That differs.</rethink>", r"<answer>\boxed{7}</answer>"])
        >>> (dialogue,) = play_dialogue(
        ...     1,
        ...     lambda places, dialogues: [Turn("<think>3+4=7</think>") for _ in places],
        ...     lambda places, dialogues: [Turn(next(short)) for _ in places],
        ...     max_turns=4,
        ... )
        >>> len(dialogue.of("long")), dialogue.is_answered
        (2, True)
    """
    check_max_turns(max_turns)
    dialogues = [Dialogue() for _ in range(count)]
    for _ in range(max_turns):
        places = [i for i, dialogue in enumerate(dialogues) if not dialogue.is_answered]
        for role, write in zip(ROLES, (long, short), strict=True):
            written = list(write(places, [dialogues[i] for i in places]))
            if len(written) != len(places):
                raise ValueError(
                    f"The {role} writer returned {len(written)} turns for {len(places)} dialogues. Return one turn for each."
                )
            for i, turn in zip(places, written, strict=True):
                dialogues[i] = Dialogue([*dialogues[i].turns, turn])
    return dialogues


def check_max_turns(max_turns: int) -> None:
    """
    Raises:
        `ValueError`: If `max_turns` is less than 1.
    """
    if max_turns < 1:
        raise ValueError(f"max_turns must be at least 1, got {max_turns}: each policy writes at least one turn.")


def check_role(role: str) -> None:
    """
    Raises:
        `ValueError`: If the role is unknown.
    """
    if role not in ROLES:
        raise ValueError(f"role must be 'long' or 'short', got {role!r}.")


def check_tags(tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Check that a tokenizer reproduces the tags, so that the turns of a model can be read.

    Raises:
        `ValueError`: If it does not.
    """
    for tag in TAGS:
        read = tokenizer.decode(tokenizer(tag, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
        if read != tag:
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path} turns the tag {tag!r} into {read!r}, so turns cannot be read. Use a tokenizer "
                "in which the tags are text, or added tokens that are not special."
            )


def check_same_tokenizer(own: PreTrainedTokenizerBase, partner: PreTrainedTokenizerBase) -> None:
    """
    Check that two policies have the same tokens, because each continues the token ids of the other.

    Raises:
        `ValueError`: If they have not.
    """
    if own.get_vocab() != partner.get_vocab():
        raise ValueError(
            f"The tokenizers of the two policies differ: {own.name_or_path} has {len(own)} tokens, {partner.name_or_path} has {len(partner)}, "
            "and not all are the same. Fine-tune both policies from models with one tokenizer."
        )
