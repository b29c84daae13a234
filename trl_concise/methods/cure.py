# SPDX-License-Identifier: Apache-2.0
"""
CURE: critical-token-guided re-concatenation (Li et al., 2025, https://huggingface.co/papers/2508.11016).

In stage 1, each group has a few completions of the prompt (sources), and further ones (forks) that continue the beginning of a source, up to a
token at which the policy was uncertain. Stage 2 is DAPO without forks. Compared with the authors' code
(https://github.com/bytedance/CURE @ a2a0217, recipe/CURE_First_Stage). The entropy at a position is that of the distribution from which its
token was drawn, as in verl, which they use.

Differences from the authors' code:
  1. A prefix that is too long is not used: its forks begin at the prompt. Theirs keeps the first 1,500 tokens of prompt and prefix, and so
     continues from another token.
  2. Rewards see the prefix and the fork together. Theirs see what follows the prefix.
  3. Prefix and fork together have at most `max_completion_length` tokens. Theirs gives every fork the whole limit.
  4. The choice of the critical token depends on the seed, the step, the prompt and the source only, so it is the same on any number
     of processes and in a resumed run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from ..batch.generation import Generated, GeneratedRollouts
from ..batch.rollouts import Rollouts, prompt_key
from ..components import Paper, Rollout, TrainerView
from ..components.base import tokenizer_of


logger = logging.getLogger(__name__)

CURE_PAPER = Paper(
    title="CURE: Critical-Token-Guided Re-Concatenation for Entropy-Collapse Prevention",
    id="2508.11016",
    # docstyle-ignore
    citation="""\
@article{li2025cure,
    title        = {{CURE: Critical-Token-Guided Re-Concatenation for Entropy-Collapse Prevention}},
    author       = {Qingbin Li and Rongkun Xue and Jie Wang and Ming Zhou and Zhi Li and Xiaofeng Ji and Yongqi Wang and Miao Liu and Zheming Yang and Minghui Qiu and Jing Yang},
    year         = 2025,
    eprint       = {arXiv:2508.11016}
}""",  # noqa: E501
)
ORDERINGS = ("entropy", "random")


def rank_critical_tokens(scores: Sequence[float], is_valid: Sequence[bool], top_k: int = 20) -> list[int]:
    """
    Return the positions that may be the critical token of a completion, the highest score first.

    Args:
        scores (`Sequence[float]`): One per token: the entropy of the distribution from which it was drawn.
        is_valid (`Sequence[bool]`): Whether the token may be chosen. Position 0 never is.
        top_k (`int`, *optional*, defaults to `20`): Largest number of positions.

    Returns:
        `list[int]`: At most `top_k` positions, at least 1 each. Of equal scores, the earlier position comes first.

    Examples:
        >>> texts = ["So", " ", "Wait", ",", "let"]
        >>> rank_critical_tokens([2.0, 0.1, 1.5, 1.4, 0.2], [has_text(text) for text in texts])
        [2, 4]
    """
    valid = [t for t in range(1, len(scores)) if is_valid[t]]
    return sorted(valid, key=lambda t: -scores[t])[:top_k]


def has_text(text: str, min_characters: int = 2) -> bool:
    """Return whether a decoded token has at least `min_characters` characters, without the white space around them."""
    return len(text.strip()) >= min_characters


@dataclass(frozen=True)
class Prefix:
    """
    The beginning of a source that its forks continue.

    Attributes:
        token_ids (`list[int]`): Token ids before the critical token; empty if the forks begin at the prompt.
        entropy (`float`): Entropy at the critical token, in nats; NaN without one.
        has_no_token (`bool`): Whether no token of the source may be chosen.
        is_too_long (`bool`): Whether prompt and prefix together would be too long.
    """

    token_ids: list[int]
    entropy: float = math.nan
    has_no_token: bool = False
    is_too_long: bool = False


def source_of(row: int, sources: int, forks: int) -> int:
    """
    Return the row of the source of a fork, or the row itself if it is a source.

    A group has its sources first, then the forks of the first source, of the second, and so on.

    Args:
        row (`int`): Row of the gathered batch.
        sources, forks (`int`): Settings of [`CURE`].

    Examples:
        >>> [source_of(row, sources=2, forks=2) for row in range(8)]
        [0, 1, 0, 0, 1, 1, 6, 7]
    """
    member = row % (sources * (1 + forks))
    return row if member < sources else row - member + (member - sources) // forks


class CURE(Rollout):
    """
    Generates each group in two rounds: completions of the prompt (sources), then completions that continue a prefix of a source (forks).

    The prefix of a source ends before its critical token, which is drawn uniformly from the `top_k` valid tokens of highest entropy. The
    critical token is not copied: each fork samples it again. Copied tokens have no loss. All completions of a group share one baseline, and
    rewards see a prefix and its fork as one completion.

    A token is valid if it is not the first of the source, is not a special token, and has at least `min_characters` characters. If there is
    none, or the prefix would be too long, the forks begin at the prompt.

    Needs `num_generations = sources * (1 + forks)`. Evaluation samples from the prompts. Reward functions receive `is_fork`,
    `prefix_tokens`, `critical_entropy`, `has_no_critical_token` and `prefix_is_too_long` as columns.

    Args:
        sources (`int`, *optional*, defaults to `4`): Sources per prompt, $n_1$.
        forks (`int`, *optional*, defaults to `3`): Forks per source, $n_2$. 0 leaves generation to TRL.
        top_k (`int`, *optional*, defaults to `20`): Number of tokens from which the critical token is drawn.
        ordering (`str`, *optional*, defaults to `"entropy"`): Order of the valid tokens: `"entropy"`, or `"random"`, the paper's ablation.
        min_characters (`int`, *optional*, defaults to `2`): Smallest number of characters of a critical token, without the white space
            around them. 1 is for languages in which one character can be a word.
        max_prompt_length (`int`, *optional*, defaults to `1500`): Largest length of prompt and prefix together, in tokens; `None` for no
            limit.

    Raises:
        `ValueError`: If a setting is out of range. When a trainer is built: if `num_generations` is another number.
    """

    name = "cure"
    paper = CURE_PAPER
    needs_correctness = False
    text_only = True

    def __init__(
        self,
        sources: int = 4,
        forks: int = 3,
        top_k: int = 20,
        ordering: str = "entropy",
        min_characters: int = 2,
        max_prompt_length: int | None = 1500,
    ):
        smallest = {
            "sources": (sources, 1),
            "forks": (forks, 0),
            "top_k": (top_k, 1),
            "min_characters": (min_characters, 0),
            "max_prompt_length": (max_prompt_length, 1),
        }
        for setting, (value, least) in smallest.items():
            if value is not None and not value >= least:
                raise ValueError(f"{setting} must be at least {least}, got {value}.")
        if ordering not in ORDERINGS:
            raise ValueError(f"ordering must be one of {ORDERINGS}, got {ordering!r}.")
        self.sources = sources
        self.forks = forks
        self.top_k = top_k
        self.ordering = ordering
        self.min_characters = min_characters
        self.max_prompt_length = max_prompt_length
        self.in_training = forks > 0
        self._is_valid: dict[int, bool] = {}  # token id -> whether it may be a critical token
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        size = self.sources * (1 + self.forks)
        if trainer.num_generations != size:
            raise ValueError(
                f"CURE(sources={self.sources}, forks={self.forks}) makes groups of {self.sources} * (1 + {self.forks}) = {size} "
                f"completions, but num_generations = {trainer.num_generations}. Set num_generations={size}, or change sources or forks."
            )
        if trainer.group_rewards and self.forks:
            logger.warning(
                "The length of a fork does not count its prefix, so a reward that compares lengths prefers forks. If one of %s compares "
                "lengths, train without it or without CURE.",
                [component.name for component in trainer.group_rewards.values()],
            )
        self._tokenizer = tokenizer_of(trainer.processing_class)
        self._special = {*self._tokenizer.all_special_ids, *trainer.end_token_ids}

    def generate(self, trainer: TrainerView, rows: list[dict[str, Any]]) -> Generated:
        first = trainer.accelerator.process_index * len(rows)
        total = trainer.accelerator.num_processes * len(rows)
        origins = [source_of(row, self.sources, self.forks) for row in range(total)]  # of the gathered batch
        own = range(first, first + len(rows))
        own_sources = [row for row in own if origins[row] == row]
        own_forks = [row for row in own if origins[row] != row]
        # All processes generate together, so each generates as many completions as the one that has the most.
        shares = [range(start, start + len(rows)) for start in range(0, total, len(rows))]
        counts = [sum(origins[row] == row for row in share) for share in shares]

        started = _filled([rows[row - first] for row in own_sources], max(counts), rows[0])
        sources = trainer.generate_rollouts(started, 1)
        entropies = trainer.score_entropies(sources.prompt_ids, sources.completion_ids).tolist()
        prefixes = {}
        for place, row in enumerate(own_sources):
            key = int(prompt_key(started[place]), 16)
            rng = np.random.default_rng(
                [trainer.args.seed, trainer.state.global_step, key, row % trainer.num_generations]
            )
            ids = sources.completion_ids[place]
            prefixes[row] = self.choose_prefix(sources.prompt_ids[place], ids, entropies[place][: len(ids)], rng)
        if len(rows) % trainer.num_generations:  # groups straddle processes
            prefixes = dict(gather_object(list(prefixes.items())))

        continued = _filled([rows[row - first] for row in own_forks], len(rows) - min(counts), rows[0])
        prefix_ids = _filled([prefixes[origins[row]].token_ids for row in own_forks], len(continued), [])
        forks = trainer.generate_rollouts(continued, 1, prefix_ids=prefix_ids)
        is_fork = [origins[row] != row for row in own]
        of_row = [prefixes[origins[row]] if origins[row] != row else Prefix([]) for row in own]
        return _joined(
            sources,
            forks,
            is_fork,
            numbers={
                "is_fork": [float(fork) for fork in is_fork],
                "prefix_tokens": [float(len(prefix.token_ids)) for prefix in of_row],
                "critical_entropy": [prefix.entropy for prefix in of_row],
                "has_no_critical_token": [float(prefix.has_no_token) for prefix in of_row],
                "prefix_is_too_long": [float(prefix.is_too_long) for prefix in of_row],
            },
        )

    def choose_prefix(
        self,
        prompt_ids: Sequence[int],
        completion_ids: list[int],
        entropies: Sequence[float],
        rng: np.random.Generator,
    ) -> Prefix:
        """
        Choose the critical token of a source, and return what precedes it.

        Args:
            prompt_ids (`Sequence[int]`): Token ids of the prompt.
            completion_ids (`list[int]`): Token ids of the source.
            entropies (`Sequence[float]`): One per token of the source.
            rng (`numpy.random.Generator`): For the choice.

        Returns:
            [`Prefix`]: Empty, with the reason, if no token is valid or the prefix would be too long.
        """
        scores = rng.permutation(len(entropies)).tolist() if self.ordering == "random" else entropies
        positions = rank_critical_tokens(scores, [self._may_be_critical(id) for id in completion_ids], self.top_k)
        if not positions:
            return Prefix([], has_no_token=True)
        chosen = int(rng.choice(positions))
        if self.max_prompt_length is not None and len(prompt_ids) + chosen > self.max_prompt_length:
            return Prefix([], is_too_long=True)
        return Prefix(completion_ids[:chosen], entropies[chosen])

    def _may_be_critical(self, token_id: int) -> bool:
        if token_id not in self._is_valid:
            text = self._tokenizer.decode([token_id])
            self._is_valid[token_id] = token_id not in self._special and has_text(text, self.min_characters)
        return self._is_valid[token_id]

    def observe(self, rollouts: Rollouts) -> None:
        measured = rollouts.measured.get(self.name)
        if not measured:  # TRL has generated
            self._metrics = {}
            return
        is_fork = measured["is_fork"] == 1
        has_prefix = measured["prefix_tokens"] > 0
        self._metrics = {
            "prefix_tokens": measured["prefix_tokens"][has_prefix].mean().item(),
            "critical_entropy": measured["critical_entropy"][has_prefix].mean().item(),
            "no_critical_token_fraction": measured["has_no_critical_token"][is_fork].mean().item(),
            "prefix_too_long_fraction": measured["prefix_is_too_long"][is_fork].mean().item(),
            "source_accuracy": rollouts.correct[~is_fork].nanmean().item(),
            "fork_accuracy": rollouts.correct[is_fork].nanmean().item(),
        }


def _filled(values: list[Any], count: int, filler: Any) -> list[Any]:
    return values + [filler] * (count - len(values))


def _joined(
    sources: GeneratedRollouts, forks: GeneratedRollouts, is_fork: Sequence[bool], numbers: dict[str, list[float]]
) -> Generated:
    """
    Return the completions of two rounds in the order of the rows.

    Args:
        sources, forks (`GeneratedRollouts`): The rounds, each in the order of its rows, with fillers at the end.
        is_fork (`Sequence[bool]`): The round of each row.
        numbers (`dict[str, list[float]]`): See [`Generated`].
    """
    parts = (Generated.of(sources), Generated.of(forks))
    places = (iter(range(len(sources))), iter(range(len(forks))))
    order = [(int(fork), next(places[fork])) for fork in is_fork]
    ids = [parts[part].completion_ids[place] for part, place in order]
    prefixes = [len(forks.prefix_ids[place]) if part else 0 for part, place in order]
    logps = None
    if parts[0].logps is not None and parts[1].logps is not None:  # with vLLM
        of_parts = (parts[0].logps, parts[1].logps)
        logps = [of_parts[part][place] for part, place in order]
    return Generated(
        ids,
        logps=logps,
        mask=[[0] * length + [1] * (len(own) - length) for own, length in zip(ids, prefixes, strict=True)],
        numbers=numbers,
    )
