# SPDX-License-Identifier: Apache-2.0
"""
T-SPMO: token-specific prefix matching optimization (Lee & Tong, "Token-Efficient RL for LLM Reasoning", 2025,
https://huggingface.co/papers/2504.20834).

The advantage of a token after a prefix is the mean reward of the group's completions with this token there, minus the mean
reward of all completions that reached the prefix: `prefix_advantages`, in `trl_concise/methods/tspmo_prefix_tree.py`. Only tokens at which
the completions of a group diverge have an advantage other than 0.

The paper's abstract names the method, and the authors have published no code. This algorithm is a reconstruction from the
abstract and secondary descriptions:
  1. The advantage is a difference of raw reward means, without a standard deviation.
  2. Each unique (prefix, token) pair counts once, however many completions share it, and the loss is divided by their number.
  3. A completion that stops without EOS at a prefix has made no choice there and is left out of that prefix's mean.
  4. The baseline is the mean over the completions that reach the prefix; `baseline="unweighted"` is the other reading, the
     mean over the choices made there.
  5. Replay restarts generation inside a completion. It is off by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather
from torch import Tensor
from torch.nn import functional as F

from ..batch.rollouts import CompletionTokens, LocalRollouts, Rollouts
from ..batch.rows import Rows
from ..batch.token_credit import check_selection
from ..components import Paper, TokenCredit, TrainerView
from ..components.reward_functions import check_rewards_are_summed
from ..trainer import ConciseGRPOTrainer
from .tspmo_config import TSPMOConfig
from .tspmo_prefix_tree import BASELINES, Edge, PrefixTable, prefix_advantages
from .tspmo_replay import check_replay, replay


TSPMO_PAPER = Paper(
    title="Token-Efficient RL for LLM Reasoning",
    id="2504.20834",
    # docstyle-ignore
    citation="""\
@article{lee2025token,
    title        = {{Token-Efficient RL for LLM Reasoning}},
    author       = {Alan Lee and Harry Tong},
    year         = 2025,
    eprint       = {arXiv:2504.20834}
}""",
    reconstructed="the whole algorithm: advantage, unique pairs, normalizer, replay, and all settings",
)


@dataclass(frozen=True)
class _Credited:
    """Advantages `(b, T)` before they are scaled, the tokens to keep `(b, T)`, and what the metrics count."""

    advantages: Tensor
    keep: Tensor
    counts: list[tuple[int, int, int]]  # per group: edges, those with an advantage, branching prefixes
    usable: int  # tokens that the loss could use


class PrefixMatching(TokenCredit):
    r"""
    Gives each token the advantage of having been chosen after its prefix: the token credit of T-SPMO.

    Replaces the group-normalized advantages, and those of token credit before it, by differences of raw rewards (the
    weighted sum of the reward functions). Of each (prefix, token) pair one completion's token is kept, and without a KL or entropy term only if its advantage is not
    0. The advantages are scaled so that the loss types that divide by all kept tokens (`dapo`, TRL's default, and `cispo`)
    give the mean over groups of

    $$ -\frac{1}{|U|} \sum_{(p, v) \in U} \frac{\pi(v \mid x, p)}{\operatorname{stopgrad} \pi(v \mid x, p)} A(v \mid p) $$

    Replay adds groups that start inside a completion: the tree of such a group is rooted at the prefix it started from, and
    has separate means.

    Args:
        replay_per_prompt (`int`, *optional*, defaults to `0`):
            Additional groups per prompt, each starting after a uniformly chosen token of the prompt's completions. They are
            additional rows of the batch: with 1, a micro-batch has twice as many. 0 disables replay.
        replay_group_size (`int`, *optional*):
            Completions per additional group, at least 2. Defaults to `num_generations`.
        baseline (`str`, *optional*, defaults to `"weighted"`):
            The mean that is subtracted at a prefix: over its completions (`"weighted"`) or over the tokens chosen there
            (`"unweighted"`). See [`prefix_advantages`].
    """

    name = "tspmo"
    paper = TSPMO_PAPER
    needs_correctness = False
    needs_groups = True

    def __init__(self, replay_per_prompt: int = 0, replay_group_size: int | None = None, baseline: str = "weighted"):
        if baseline not in BASELINES:
            raise ValueError(f"baseline must be one of {BASELINES}, got {baseline!r}.")
        if replay_per_prompt < 0:
            raise ValueError(f"replay_per_prompt must be at least 0, got {replay_per_prompt}.")
        if replay_group_size is not None and replay_group_size < 2:
            raise ValueError(f"replay_group_size must be at least 2, got {replay_group_size}.")
        self.replay_per_prompt = replay_per_prompt
        self.replay_group_size = replay_group_size
        self.baseline = baseline
        self._own: _Credited | None = None  # of the batch being scored
        self._replayed: _Credited | None = None
        self._replayed_groups = 0  # on all processes
        self._keeps_all = False  # whether tokens without advantage have a KL or entropy term
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        check_selection(self, trainer.args)
        check_rewards_are_summed(self, trainer)
        args = trainer.args
        self._keeps_all = args.beta != 0 or args.entropy_coef != 0 or args.use_adaptive_entropy
        if self.replay_per_prompt:
            self.replay_group_size = self.replay_group_size or trainer.num_generations
            check_replay(trainer)

    def rows(self, trainer: TrainerView, rollouts: Rollouts, local: LocalRollouts) -> Rows | None:
        if not self.replay_per_prompt or self.replay_group_size is None:  # set in `attach`
            return None
        assert rollouts.tokens is not None  # set by the trainer for a token credit
        groups = replay(
            trainer,
            local,
            rollouts.tokens,
            per_prompt=self.replay_per_prompt,
            size=self.replay_group_size,
            seed=trainer.args.seed,
        )
        counts = torch.tensor([len(groups)], device=rollouts.lengths.device)
        self._replayed = self._credit(
            [
                (
                    range(i * self.replay_group_size, (i + 1) * self.replay_group_size),
                    group.mask,
                    group.table(self.baseline),
                )
                for i, group in enumerate(groups)
            ],
            (
                len(groups) * self.replay_group_size,
                max((len(ids) for g in groups for ids in g.completion_ids), default=1),
            ),
        )
        self._own = self._credit_own(rollouts, rollouts.tokens)
        self._replayed_groups = int(gather(counts).sum())
        factor = self._factor(rollouts)
        return Rows(
            prompt_ids=[ids for group in groups for ids in group.prompt_ids],
            completion_ids=[ids for group in groups for ids in group.completion_ids],
            group=[i for i, group in enumerate(groups) for _ in group.completion_ids],
            advantages=self._replayed.advantages * factor,
            mask=[
                row[: len(ids)]
                for row, ids in zip(
                    self._replayed.keep.long().tolist(),
                    [ids for group in groups for ids in group.completion_ids],
                    strict=True,
                )
            ],
            logps=None
            if any(group.logps is None for group in groups)
            else [row for g in groups for row in g.logps or []],
        )

    def select(self, tokens: CompletionTokens) -> Tensor:
        own = tokens.own()
        keep = torch.zeros(len(own), max(len(ids) for ids, _ in own), dtype=torch.bool)
        for rows, masks, table in _tables(tokens, [0.0] * len(tokens.ids)):  # the branching positions are known here
            self._keep_group(keep, rows, masks, table, table.edges)
        return keep

    def assign(
        self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor, selected: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        tokens = CompletionTokens.of(rollouts, batch)
        own = self._own or self._credit_own(rollouts, tokens)
        self._own, (width, device) = own, (batch["completion_ids"].size(1), advantages.device)
        factor = self._factor(rollouts)
        credited = [own, self._replayed] if self._replayed is not None else [own]
        edges, informative, branching = np.mean([row for c in credited for row in c.counts], axis=0).tolist()
        kept = sum(int(c.keep.sum()) for c in credited)
        self._metrics = {
            "edges": edges,
            "informative_edges": informative,
            "branching_prefixes": branching,
            "kept_fraction": kept / max(1, sum(c.usable for c in credited)),
        }
        self._own, self._replayed, self._replayed_groups = None, None, 0
        keep, spread = (F.pad(block, (0, width - block.size(1))) for block in (own.keep, own.advantages))
        return (spread * factor).to(device, advantages.dtype), keep.to(device)

    def _factor(self, rollouts: Rollouts) -> float:
        """
        Return what each advantage is multiplied by: the loss divides by all kept tokens, and this cancels it, so that each
        group's mean over U has the same weight. Every process calls this.
        """
        assert self._own is not None
        kept = self._own.keep.sum() + (self._replayed.keep.sum() if self._replayed is not None else 0)
        groups = len(rollouts) // rollouts.num_generations + self._replayed_groups
        return float(gather(kept.to(rollouts.lengths.device)).sum()) / groups

    def _credit_own(self, rollouts: Rollouts, tokens: CompletionTokens) -> _Credited:
        """Return advantages and mask of this process's completions."""
        rewards = rollouts.total_rewards().double().tolist()[tokens.start : tokens.start + len(tokens.ids)]
        own = tokens.own()
        return self._credit(_tables(tokens, rewards, self.baseline), (len(own), max(len(ids) for ids, _ in own)))

    def _credit(self, tables: Iterable[_GroupTable], shape: tuple[int, int]) -> _Credited:
        keep, advantages = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
        counts, usable = [], 0
        for rows, masks, table in tables:
            informative = [edge for edge in table.edges if edge.advantage != 0]
            self._keep_group(keep, rows, masks, table, informative)
            for edge in informative:
                if (row := rows[edge.completion]) is not None:
                    advantages[row, edge.position] = edge.advantage / table.unique_edges
            counts.append((table.unique_edges, len(informative), table.branching_prefixes))
            usable += sum(sum(mask) for row, mask in zip(rows, masks, strict=True) if row is not None)
        return _Credited(advantages, keep, counts, usable)

    def _keep_group(self, keep: Tensor, rows, masks, table: PrefixTable, edges: Sequence[Edge]) -> None:
        """Mark the tokens of this process's rows that represent the given edges or, with a KL term, any edge."""
        if self._keeps_all:
            for row, mask, first in zip(rows, masks, table.first_new, strict=True):
                if row is not None:
                    keep[row, first : len(mask)] = torch.tensor(mask[first:], dtype=torch.bool)
        for edge in edges:
            if (row := rows[edge.completion]) is not None:
                keep[row, edge.position] = True


# Per group: its rows on this process (`None`: another process's), its masks, and its table.
_GroupTable = tuple[Sequence[int | None], Sequence[Sequence[int]], PrefixTable]


def _tables(tokens: CompletionTokens, rewards: list[float], baseline: str = "weighted") -> Iterator[_GroupTable]:
    for group in tokens.groups():
        own = rewards[group.gathered.start - tokens.start : group.gathered.stop - tokens.start]
        yield group.rows, group.mask, prefix_advantages(group.ids, own, group.mask, baseline=baseline)


class TSPMOTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] for T-SPMO, a reconstruction from the abstract of
    [Token-Efficient RL for LLM Reasoning](https://huggingface.co/papers/2504.20834).

    Takes the arguments of [`ConciseGRPOTrainer`] and adds a [`PrefixMatching`].

    Example:

    ```python
    >>> from trl_concise import TSPMOConfig, TSPMOTrainer, load_problems, math_accuracy_reward

    >>> trainer = TSPMOTrainer(
    ...     model="Qwen/Qwen2-1.5B-Instruct",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=TSPMOConfig(output_dir="tspmo"),
    ...     train_dataset=load_problems("openai/gsm8k", config_name="main"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = TSPMOConfig
    _tag_names = ["trl", "grpo", "trl-concise", "tspmo"]
    _name = "T-SPMO"
    _paper = TSPMO_PAPER.as_card()

    def _own_slots(self, args):
        return {"token_credit": PrefixMatching(args.replay_per_prompt, args.replay_group_size, args.baseline)}
