# SPDX-License-Identifier: Apache-2.0
"""
One row per feature of the trainer's slots, for `tests/test_contract_v2.py` and `tests/distributed/contract.py`.

A row returns arguments of [`ConciseGRPOTrainer`]. Its components change the loss, and depend on a state that they save, so that a
run that is resumed or shared by two processes shows whether the trainer keeps it. Completions are a function of the prompt's row and
the step. To add a slot, add a row.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback

from tests import tiny
from trl_concise import (
    Advantage,
    Component,
    ConciseGRPOTrainer,
    GroupFilter,
    GroupReward,
    PromptSelector,
    Rollout,
    TokenCredit,
)
from trl_concise.batch.generation import Generated, GeneratedRollouts
from trl_concise.components.slots import SLOTS
from trl_concise.methods.delethink import Delethink
from trl_concise.methods.gfpo import AdaptiveGFPO, KeptBaseline


PROBLEMS = [{"prompt": f"{i}?", "prompt_id": f"p{i}", "solution": f"{i}"} for i in range(6)]
BETA = 0.1  # of rows that need a reference


def problems() -> Dataset:
    return Dataset.from_list(PROBLEMS)


def token_ids(step: int, row: int) -> list[int]:
    """The completion of a row of the gathered batch: two to ten tokens, and EOS."""
    return [10 + (3 * row + step + i) % 40 for i in range(2 + (5 * row + 3 * step) % 9)] + [2]


def rollout(prompts, trainer) -> dict[str, Any]:
    """A TRL `rollout_func` with the same completions however many processes share them."""
    first = trainer.accelerator.process_index * len(prompts)
    return {
        "prompt_ids": [trainer.processing_class(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": [token_ids(trainer.state.global_step, first + i) for i in range(len(prompts))],
        "logprobs": None,
    }


class FollowsStart(ConciseGRPOTrainer):
    """Generates completions that depend on the step, the prompt and the prefix, and so not on the number of processes."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations):
        return [token_ids(self.state.global_step, sum(start) + len(start)) for start in prompt_ids], None


def correct_if_even(completion_ids, **kwargs):
    return [float(len(ids) % 2) for ids in completion_ids]  # with EOS: an even length without it


class WritesCode(ConciseGRPOTrainer):
    """Writes a Python block or an answer: at first by the step and the row of the gathered batch, later by what is written so far."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations):
        written = []
        for i, start in enumerate(prompt_ids):
            begins = "```output" not in self.processing_class.decode(start)
            number = self.accelerator.process_index * len(prompt_ids) + i if begins else sum(start) % 7
            answer = token_ids(self.state.global_step, number)
            block = f"{number}\n```python\n{number}\n```\n"
            written.append([*self.processing_class(block).input_ids, *answer] if number % 3 else answer)
        return written, None


def run_code(blocks) -> tuple[str, str]:
    """An executor that fails on even numbers."""
    return (f"{len(blocks)}", "ok") if int(blocks[-1]) % 2 else ("error", "error")


class Counts(Component):
    """Counts the batches that it has observed."""

    def __init__(self):
        self.seen = 0

    def observe(self, rollouts):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class PromptShare(Counts, GroupReward):
    """Rewards by the share of tokens that the prompt has: a measure from `prompt_ids`, without a correctness function."""

    name = "prompt_share"
    needs_correctness = False

    def measure(self, local):
        tokens = [len(ids) for ids in local.prompt_ids]
        assert min(tokens) > 0 and len(tokens) == len(local.completions)
        return {"prompt": torch.tensor(tokens), "step": torch.full((len(tokens),), float(self.seen))}

    def score(self, rollouts):
        measured = rollouts.measured[self.name]
        assert rollouts.correct.isnan().all()
        return measured["prompt"] / (measured["prompt"] + rollouts.lengths) * (1 + measured["step"])


class Sampled(Counts, PromptSelector):
    """Takes the first candidates, and measures something for others."""

    name = "sampled"
    needs_correctness = False

    def choose(self, candidates, count, step):
        return list(range(count))

    def measure(self, local):
        return {"tokens": local.lengths}


class Weights(Counts, TokenCredit):
    """Weighs a token by a measure of its own, keeps what it selected, and checks the measures of another component."""

    name = "weights"
    needs_correctness = False
    needs_groups = True

    def select(self, tokens):
        longest = max(len(ids) for ids, _ in tokens.own())
        keep = torch.zeros(len(tokens.own()), longest, dtype=torch.bool)
        for group in tokens.groups():
            assert len(group.rows) == len(group.ids) == tokens.num_generations
            for row, ids in zip(group.rows, group.ids, strict=True):
                if row is not None:
                    keep[row, : len(ids) - 1] = True  # not EOS
        self.selected = keep
        return keep

    def measure(self, local):
        longest = max(map(len, local.completion_ids))
        rows = [[1 + self.seen + id % 3 for id in ids] + [0] * (longest - len(ids)) for ids in local.completion_ids]
        return {"weight": torch.tensor(rows, dtype=torch.float32)}

    def assign(self, rollouts, batch, advantages, selected):
        weight = rollouts.measured_tokens[self.name]["weight"]
        assert torch.equal(selected, self.selected)
        if "sampled" in rollouts.measured:
            assert torch.equal(rollouts.measured["sampled"]["tokens"], rollouts.lengths.float())
        return advantages[:, None] * weight, selected


def measures() -> dict[str, Any]:
    return {"reward_funcs": [PromptShare()], "prompt_selector": Sampled(), "token_credit": Weights()}


class FollowsPolicy(Counts, GroupReward):
    """Copies half of the policy into the reference after every second step, and rewards what the reference finds likely."""

    name = "follows_policy"
    needs_correctness = False
    moves_reference = True

    def attach(self, trainer):
        self.trainer = trainer
        self.moves = 0

    def callbacks(self):
        component = self

        class Move(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step % 2 == 0:
                    component.moves += 1
                    component.trainer.update_reference(0.5)

        return [Move()]

    def measure(self, local):
        logps = self.trainer.score_logps(local.prompt_ids, local.completion_ids, model="reference")
        return {"likely": logps.sum(dim=1)}

    def score(self, rollouts):
        return rollouts.measured[self.name]["likely"] / (1 + rollouts.lengths)

    def state_dict(self):
        return {"seen": self.seen, "moves": self.moves}

    def load_state_dict(self, state):
        self.seen, self.moves = state["seen"], state["moves"]


def reference() -> dict[str, Any]:
    return {"reward_funcs": [FollowsPolicy()], "args": {"beta": BETA}}


class ShortestHalf(Counts, Advantage):
    """Drops the longer half of each group, and takes as advantage the length against the rest, more with each batch."""

    name = "shortest_half"
    needs_correctness = False

    def __init__(self, divisor="kept"):
        super().__init__()
        self.divisor = divisor

    def compute(self, rollouts, advantages):
        lengths = rollouts.by_group(rollouts.lengths).float()
        kept = lengths.argsort(dim=1, stable=True).argsort(dim=1) < rollouts.num_generations // 2
        centered = torch.where(kept, lengths, torch.nan)
        return ((centered.nanmean(dim=1, keepdim=True) - centered) * (1 + self.seen)).flatten()


class Doubles(Counts, Advantage):
    """Doubles the advantages of the component before it."""

    name = "doubles"

    def compute(self, rollouts, advantages):
        assert rollouts.correct.isfinite().all() and advantages.isfinite().all()
        return 2 * advantages


def advantage() -> dict[str, Any]:
    return {"advantage": [ShortestHalf(), Doubles()]}


def advantage_by_rows() -> dict[str, Any]:
    return {"advantage": ShortestHalf(), "args": {"loss_type": "grpo", "beta": BETA}}


class Forced(Counts, Rollout):
    """
    Forces the first two tokens of every other completion, drawn with probability 1/2, and leaves another prefix without a loss.

    The rest is generated greedily, so that it does not depend on the number of processes.
    """

    name = "forced"
    needs_correctness = False

    def __init__(self, trains_prefix=True):
        super().__init__()
        self.trains_prefix = trains_prefix

    def generate(self, trainer, rows):
        assert len({row["prompt_id"] for row in rows}) > 1 or trainer.group_filter is not None
        assert "thinks" not in rows[0]
        first = trainer.accelerator.process_index * len(rows)
        thinks = [(first + i + self.seen) % 2 for i in range(len(rows))]
        prefixes = [[20 + (first + i) % 7, 30] if chosen else [] for i, chosen in enumerate(thinks)]
        rollouts = trainer.generate_rollouts(rows, 1, prefix_ids=prefixes, greedy=True)
        weights = [1.0 + (first + i) % 3 for i in range(len(rows))]
        return Generated.of(
            rollouts,
            [[math.log(0.5)] * len(prefix) for prefix in prefixes] if self.trains_prefix else None,
            numbers={"thinks": [float(chosen) for chosen in thinks]},
            tensors={"row_weight": torch.tensor(weights)},
        )


class DrawsChunks(ConciseGRPOTrainer):
    """
    Generates completions that do not depend on the number of processes: a first chunk by its row, and a later one by what was carried over.
    """

    def generate_rollouts(self, rows, n, *, prefix_ids, max_tokens):
        first, drawn = self.accelerator.process_index * len(rows), []
        for i, prefix in enumerate(prefix_ids):
            number = 7 * sum(prefix) if prefix else 5 * (first + i) + 3 * self.state.global_step
            ids = [10 + (number + 3 * place) % 40 for place in range(max_tokens)]
            drawn.append([*ids[: number % 9], 2][:max_tokens])
        return GeneratedRollouts(
            prompt_ids=self.tokenize_prompts([row["prompt"] for row in rows]),
            prefix_ids=[list(prefix) for prefix in prefix_ids],
            completion_ids=drawn,
            completions=[],
            lengths=torch.tensor([len(ids) for ids in drawn]),
            truncated=torch.tensor([ids[-1] != 2 for ids in drawn]),
        )


class DrawsTogether(ConciseGRPOTrainer):
    """Lets a rollout generate the rows of all processes on each of them, from the same seed, and keeps those of this process."""

    def _rollout_in_use(self):
        rollout = super()._rollout_in_use()
        return DrawnTogether(rollout) if rollout is not None else None


class DrawnTogether:
    """The rollout of [`DrawsTogether`]."""

    def __init__(self, rollout):
        self.rollout = rollout

    def generate(self, trainer, rows):
        torch.manual_seed(trainer.state.global_step)
        whole = self.rollout.generate(trainer, gather_object(list(rows)))
        first = trainer.accelerator.process_index * len(rows)
        own = slice(first, first + len(rows))
        return replace(
            whole,
            completion_ids=whole.completion_ids[own],
            prompt_ids=whole.prompt_ids[own],
            mask=whole.mask[own],
            numbers={name: values[own] for name, values in whole.numbers.items()},
            tensors={name: values[own] for name, values in whole.tensors.items()},
        )


class DrawnChunks(Counts, Delethink):
    """Generates in chunks as [`DrawsChunks`] does, in any trainer."""

    name = "drawn_chunks"

    def __init__(self):
        Delethink.__init__(self, 6, keep_head=2)
        self.seen = 0

    def generate(self, trainer, rows):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "generate_rollouts", partial(DrawsChunks.generate_rollouts, trainer))
            return super().generate(trainer, rows)


class PaysThinking(GroupReward):
    """Rewards a number of the rollout, and completions whose tokens are mostly even."""

    name = "pays_thinking"
    needs_correctness = False

    def measure(self, local):
        return {"column": torch.tensor(local.columns["thinks"])} if local.training else {}

    def score(self, rollouts):
        if not rollouts.training:
            return rollouts.lengths.float()
        assert torch.equal(rollouts.measured[self.name]["column"], rollouts.measured["forced"]["thinks"])
        return rollouts.measured["forced"]["thinks"] + 0.1 * rollouts.lengths


def reward_thinking(completion_ids, thinks=None, **kwargs):
    return [sum(ids[-4:]) % 5 + (0 if thinks is None else thinks[i]) for i, ids in enumerate(completion_ids)]


def rollout_forced() -> dict[str, Any]:
    return {"rollout": Forced(), "reward_funcs": [reward_thinking, PaysThinking()], "rollout_func": None}


def rollout_copied() -> dict[str, Any]:
    return {
        "rollout": Forced(trains_prefix=False),
        "reward_funcs": [reward_thinking, PaysThinking()],
        "rollout_func": None,
        "token_credit": Weights(),
    }


def reward_written(completion_ids, written=None, chunks=None, **kwargs):
    return [
        sum(ids) % 5 + tokens / chunks[i] for i, (ids, tokens) in enumerate(zip(completion_ids, written, strict=True))
    ]


def rollout_chunks() -> dict[str, Any]:
    return {
        "rollout": DrawnChunks(),
        "reward_funcs": [reward_written],
        "rollout_func": None,
        "group_filter": Sieve(),
        "prompt_selector": Sampled(),
        "advantage": ShortestHalf(),
        "args": {"loss_type": "grpo", "max_completion_length": 12},
    }


def reference_without_kl() -> dict[str, Any]:
    return {"reward_funcs": [FollowsPolicy()], "args": {"beta": 0.0}}


class Sieve(Counts, GroupFilter):
    """Keeps about half of the prompts, others with each batch, and checks that it sees the measures of other components."""

    name = "sieve"
    needs_correctness = False
    max_refills = 2

    def keep(self, rollouts):
        assert rollouts.kept is None
        if "sampled" in rollouts.measured:
            assert torch.equal(rollouts.measured["sampled"]["tokens"], rollouts.lengths.float())
        return torch.tensor([(int(key[:2], 16) + self.seen) % 2 == 0 for key in rollouts.prompt_keys])

    def observe(self, rollouts):
        super().observe(rollouts)
        kept = rollouts.by_group(rollouts.kept)
        batch = 12 // rollouts.num_generations
        assert len(kept) >= batch and not kept[batch:].any()  # the batch first, then what it does not contain


class Halves(Counts, GroupFilter):
    """Keeps the shorter half of each group, and leaves the rest out of the loss."""

    name = "halves"
    divisor = "kept"

    def keep(self, rollouts):
        lengths = rollouts.by_group(rollouts.lengths)
        order = lengths.argsort(dim=1, stable=True)
        half = rollouts.num_generations // 2
        return torch.zeros_like(lengths, dtype=torch.bool).scatter(1, order[:, :half], True).flatten()


def refill() -> dict[str, Any]:
    return {"group_filter": Sieve(), "prompt_selector": Sampled(), "token_credit": Weights(), "advantage": Doubles()}


def refill_rollout() -> dict[str, Any]:
    return {**rollout_forced(), "group_filter": Sieve()}


def refill_surplus() -> dict[str, Any]:
    """Groups of three: two processes cannot share one evenly."""
    return {"group_filter": Sieve(), "token_credit": Weights(), "args": {"num_generations": 3}}


def filter_completions() -> dict[str, Any]:
    return {"group_filter": Halves()}


def filter_and_baseline() -> dict[str, Any]:
    """A filter of completions with a state, and advantages relative to what it keeps."""
    return {
        "group_filter": AdaptiveGFPO(1, 2, 3, 3, min_groups=4),
        "advantage": KeptBaseline(),
        "reward_funcs": [reward_thinking],
    }


ROWS = {
    "reference_without_kl": reference_without_kl,
    "refill": refill,
    "refill_rollout": refill_rollout,
    "refill_surplus": refill_surplus,
    "filter_completions": filter_completions,
    "filter_and_baseline": filter_and_baseline,
    "rollout_forced": rollout_forced,
    "rollout_copied": rollout_copied,
    "rollout_chunks": rollout_chunks,
    "measures": measures,
    "reference": reference,
    "advantage": advantage,
    "advantage_by_rows": advantage_by_rows,
}


def slots() -> dict[str, bool]:
    """Return the trainer's slots, and whether each takes a list."""
    return {name: slot.several for name, slot in SLOTS.items()}


def build(trainer_class, config_class, model: str, folder, row: str, **changes: Any):
    """Return the trainer of a row: groups of four, two prompts per generation, which two optimizer steps train on."""
    given = ROWS[row]()
    settings = {"max_steps": 3, "learning_rate": 1e-2, **given.pop("args", {}), **changes}
    peft_config = settings.pop("peft_config", None)
    args = config_class(**tiny.settings(folder, **settings))
    reward_funcs = given.pop("reward_funcs", [correct_if_even])
    given = {"rollout_func": rollout, **given}
    return trainer_class(model, reward_funcs, args, problems(), peft_config=peft_config, **given)


def logged(trainer) -> list[dict[str, float]]:
    """Return what a run logged, without times."""
    volatile = ("time", "runtime", "per_second", "total_flos", "memory", "num_tokens")
    entries = [
        {key: value for key, value in entry.items() if not any(word in key for word in volatile)}
        for entry in trainer.state.log_history
    ]
    return [entry for entry in entries if "loss" in entry]
