# SPDX-License-Identifier: Apache-2.0
"""The environment of RLoT: a frozen model reasons in blocks, and rates the state after each. It knows neither reference answers nor scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...evaluation.sampling import Prompt
from .calls import Cost, FrozenModel, Turn, run_together
from .navigator import ACTIONS, ANSWER, ASPECTS, REASON, REFINE, State, check_state


@dataclass
class Context:
    """
    A problem and the reasoning so far.

    Attributes:
        prompt (`str` or `list[dict]`): The problem's prompt, text or messages.
        steps (`list[str]`): Text of the reasoning, in steps.
        truncated (`bool`): Whether the answer reached its limit of tokens. It is then wrong.
    """

    prompt: Prompt
    steps: list[str] = field(default_factory=list)
    truncated: bool = False

    @property
    def problem(self) -> str:
        """Text of the problem: that of the last message."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]

    @property
    def text(self) -> str:
        """The reasoning so far."""
        return "".join(self.steps)


class Blocks(Protocol):
    """The five blocks of reasoning, and the check for a final answer."""

    def run(self, action: int, context: Context) -> Turn[list[str]]:
        """Return the steps that a block appends: 0 R, 1 D, 2 Db, 3 Rf, 4 Ga (see `ACTIONS`). Ga sets `context.truncated`."""

    def has_answer(self, context: Context) -> Turn[bool]:
        """Return whether the reasoning contains a final answer. It must not use the reference answer."""


class StateReader(Protocol):
    """A reader of the state."""

    def read(self, context: Context) -> Turn[tuple[Sequence[int], int]]:
        """Return the seven ratings, each 0 to 3, and how many aspects could not be read. It must not use the reference answer."""


@dataclass
class Episode:
    """
    One problem, from its first rating to its answer.

    Attributes:
        context ([`Context`]): Problem and reasoning.
        states (`list[tuple[int, ...]]`): Ratings before each block.
        actions (`list[int]`): The stored action of each block (see `store_forced`).
        blocks (`list[str]`): Names of the executed blocks. The last one is `Ga`.
        cost ([`Cost`]): Cost of all calls, ratings and checks included.
        unreadable (`int`): Ratings that could not be read.
        done (`bool`): Whether the answer has been given.
    """

    context: Context
    states: list[State] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    unreadable: int = 0
    done: bool = False

    def record(self) -> dict[str, Any]:
        """Return the episode as values of JSON: a line of `episodes.jsonl`, without rewards."""
        return {
            "problem": self.context.problem,
            "states": [list(state) for state in self.states],
            "actions": self.actions,
            "blocks": self.blocks,
            "text": self.context.text,
            "unreadable": self.unreadable,
            **vars(self.cost),
        }


class ReasoningEnvironment:
    """
    Episodes of a frozen model. Several advance together, one block at a time.

    Args:
        model ([`FrozenModel`]): The model.
        blocks ([`Blocks`]): Blocks of reasoning.
        reader ([`StateReader`]): Rates the state.
        max_depth (`int`, *optional*, defaults to `5`): Blocks of an episode before its answer.
        store_forced (`str`, *optional*, defaults to `"answer"`): See [`NavigatorConfig`].

    Raises:
        `ValueError`: If `max_depth` is less than 1.
    """

    def __init__(
        self,
        model: FrozenModel,
        blocks: Blocks,
        reader: StateReader,
        *,
        max_depth: int = 5,
        store_forced: str = "answer",
    ):
        if max_depth < 1:
            raise ValueError(f"max_depth must be at least 1, got {max_depth}.")
        self.model, self.blocks, self.reader = model, blocks, reader
        self.max_depth, self.store_forced = max_depth, store_forced
        self._seeds = _seeds("")

    def start(self, prompts: Sequence[Prompt], seed: object = 0) -> list[Episode]:
        """
        Begin episodes, and rate their first states.

        Args:
            prompts (`Sequence`): Prompts of the problems, text or messages.
            seed (`object`, *optional*, defaults to `0`): Seed of all draws until the next `start`; its `str` counts.

        Returns:
            `list[Episode]`: The episodes.
        """
        self._seeds = _seeds(seed)
        episodes = [Episode(Context(prompt)) for prompt in prompts]
        self._rate(episodes)
        return episodes

    def step(self, episodes: Sequence[Episode], actions: Sequence[int]) -> None:
        """
        Execute one block in each episode, in place.

        A first `Rf` becomes `R`, and at `max_depth` any block becomes the answer. If the reasoning then contains a final answer, the answer is
        given at once, and the episode is done.

        Args:
            episodes (`Sequence[Episode]`): Episodes that are not done.
            actions (`Sequence[int]`): A block for each, 0 to 4.

        Raises:
            `ValueError`: If an episode is done, or a block is unknown.
        """
        if any(episode.done for episode in episodes):
            raise ValueError("An episode that is done takes no further block. Pass the others only.")
        executed = []
        for episode, action in zip(episodes, actions, strict=True):
            if action not in range(len(ACTIONS)):
                raise ValueError(f"Unknown block {action}: blocks are 0 to {len(ACTIONS) - 1}, {', '.join(ACTIONS)}.")
            is_forced = len(episode.blocks) >= self.max_depth
            if action == REFINE and not episode.blocks:
                action = REASON
            executed.append(ANSWER if is_forced else action)
            episode.actions.append(action if self.store_forced == "chosen" else executed[-1])
        self._execute(episodes, executed)
        begun = [episode for episode, action in zip(episodes, executed, strict=True) if action != ANSWER]
        found = self._run([self.blocks.has_answer(episode.context) for episode in begun], begun)
        answering = [episode for episode, has_answer in zip(begun, found, strict=True) if has_answer]
        self._execute(answering, [ANSWER] * len(answering))
        self._rate([episode for episode in episodes if not episode.done])

    def _execute(self, episodes: Sequence[Episode], actions: Sequence[int]) -> None:
        turns = [self.blocks.run(action, episode.context) for episode, action in zip(episodes, actions, strict=True)]
        for episode, action, steps in zip(episodes, actions, self._run(turns, episodes), strict=True):
            episode.context.steps += steps
            episode.blocks.append(ACTIONS[action])
            episode.done = action == ANSWER

    def _rate(self, episodes: Sequence[Episode]) -> None:
        turns = [self.reader.read(episode.context) for episode in episodes]
        for episode, (ratings, unreadable) in zip(episodes, self._run(turns, episodes), strict=True):
            episode.states.append(check_state(ratings, len(ASPECTS)))
            episode.unreadable += unreadable

    def _run(self, turns: Sequence[Turn[Any]], episodes: Sequence[Episode]) -> list[Any]:
        return run_together(turns, [episode.cost for episode in episodes], self.model, self._seeds)


def _seeds(seed: object) -> Iterator[int]:
    """Yield a seed for each round of calls."""
    number = 0
    while True:
        yield int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "big")
        number += 1
