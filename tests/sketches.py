# SPDX-License-Identifier: Apache-2.0
"""
Methods as components of a few lines: evidence that the slots suffice, not the methods themselves.

Each row returns arguments of [`ConciseGRPOTrainer`]; `tests/test_contract_v2.py` trains two steps with each.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback

from tests.slot_rows import correct_if_even
from trl_concise import Advantage, ConciseGRPOTrainer, GroupReward, Rollout, TokenCredit
from trl_concise.batch.generation import Generated
from trl_concise.batch.rollouts import weighted_sum
from trl_concise.batch.rows import Rows


def normalized(values: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Center and scale each group, `(groups, G)`, by the mean and deviation of some of its completions."""
    chosen = torch.where(among, values, torch.nan)
    mean = chosen.nanmean(dim=1, keepdim=True)
    std = (chosen - mean).square().nanmean(dim=1, keepdim=True).sqrt()
    return torch.where(among & (std > 0), (values - mean) / (std + 1e-8), 0.0)


# AdaptThink: half of each group is forced to skip the thinking; no group statistics


class ForcedModes(Rollout):
    name = "forced_modes"
    needs_correctness = False

    def generate(self, trainer, rows):
        group, first = trainer.num_generations, trainer.accelerator.process_index * len(rows)
        skips = [(first + i) % group < group // 2 for i in range(len(rows))]
        rollouts = trainer.generate_rollouts(rows, 1, prefix_ids=[[5 if skip else 6] for skip in skips])
        return Generated.of(
            rollouts, [[math.log(0.5)]] * len(rows), numbers={"skips": [float(skip) for skip in skips]}
        )


class AdaptThink(Advantage):
    name = "adapt_think"

    def compute(self, rollouts, advantages):
        reference_accuracy = 0.25  # a table by prompt
        return rollouts.correct - reference_accuracy + 0.05 * rollouts.measured["forced_modes"]["skips"]


def always_correct(completions, **kwargs):
    return [1.0] * len(completions)


def adapt_think() -> dict[str, Any]:
    # The model would not write the forced tokens yet: only a positive advantage is not clipped.
    return {
        "rollout": ForcedModes(),
        "advantage": AdaptThink(),
        "reward_funcs": [always_correct],
        "args": {"importance_sampling_level": "sequence", "loss_type": "grpo"},
    }


# MGPO: groups weigh by how close their success rate is to one half


class MGPO(Advantage):
    name = "mgpo"

    def compute(self, rollouts, advantages):
        p = rollouts.by_group(rollouts.correct).nanmean(dim=1)
        divergence = torch.xlogy(p, 2 * p) + torch.xlogy(1 - p, 2 * (1 - p))
        return advantages * (-divergence).exp().repeat_interleave(rollouts.num_generations)


# DDCA: length is compared among the correct completions only


class DDCA(Advantage):
    name = "ddca"

    def compute(self, rollouts, advantages):
        correct, lengths = rollouts.by_group(rollouts.correct), rollouts.by_group(rollouts.lengths).float()
        solved = correct == 1
        score = normalized(lengths, solved).sigmoid()
        centered = score - torch.where(solved, score, torch.nan).nanmean(dim=1, keepdim=True)
        length = torch.where(solved, -centered * correct.mean(dim=1, keepdim=True), 0.0)
        return (normalized(correct, torch.ones_like(solved)) + 0.2 * length).flatten()


# DRPO: weights by the scores of the policy, in place of normalized rewards


class DRPO(Advantage):
    name = "drpo"

    def attach(self, trainer):
        self.trainer = trainer

    def measure(self, local):
        logps = self.trainer.score_logps(local.prompt_ids, local.completion_ids)
        return {"score": logps.sum(dim=1) / torch.tensor([len(ids) for ids in local.completion_ids])}

    def compute(self, rollouts, advantages):
        scores = rollouts.by_group(rollouts.measured[self.name]["score"])
        correct, lengths = rollouts.by_group(rollouts.correct) == 1, rollouts.by_group(rollouts.lengths).float()
        has_both = correct.any(dim=1, keepdim=True) & ~correct.all(dim=1, keepdim=True)
        up = (-lengths / 8 / 0.1).masked_fill(~correct, -torch.inf).softmax(dim=1)
        down = (scores / 10).masked_fill(correct, -torch.inf).softmax(dim=1)
        return (rollouts.num_generations * torch.where(has_both, up - down, 0.0)).flatten()


# GFPO: the shortest half of each group, normalized among themselves, divided by all tokens


class GFPO(Advantage):
    name = "gfpo"
    divisor = "all"

    def compute(self, rollouts, advantages):
        rank = rollouts.by_group(rollouts.lengths).argsort(dim=1, stable=True).argsort(dim=1)
        kept = rank < rollouts.num_generations // 2
        return normalized(rollouts.by_group(rollouts.correct), kept).masked_fill(~kept, torch.nan).flatten()


# On-Policy SFT: advantage 1 for correct completions, the others are dropped


class OnPolicySFT(Advantage):
    name = "on_policy_sft"

    def compute(self, rollouts, advantages):
        return torch.where(rollouts.correct == 1, 1.0, torch.nan)


# RLPR: the probability of the reference answer after the reasoning, without a judge


class RLPR(GroupReward):
    name = "rlpr"
    needs_correctness = False
    needs_reference = True

    def attach(self, trainer):
        self.trainer = trainer

    def measure(self, local):
        tokenizer = self.trainer.processing_class
        answers = [tokenizer(answer)["input_ids"] for answer in local.columns["solution"]]
        reasoned = [prompt + ids for prompt, ids in zip(local.prompt_ids, local.completion_ids, strict=True)]
        after = self.trainer.score_logps(reasoned, answers).exp().mean(dim=1)
        before = self.trainer.score_logps(local.prompt_ids, answers, model="reference").exp().mean(dim=1)
        return {"gain": (after - before).clamp(min=0)}

    def score(self, rollouts):
        return rollouts.measured[self.name]["gain"]


# CAPO: tokens of steps that a critic rejects lose reward; statistics over all tokens of a group


class CAPO(TokenCredit):
    name = "capo"

    def measure(self, local):
        longest = max(map(len, local.completion_ids))
        rejected = torch.zeros(len(local.completion_ids), longest)
        for row, ids in enumerate(local.completion_ids):
            rejected[row, : len(ids)] = torch.tensor([float(token % 5 == 0) for token in ids])  # the critic
        return {"rejected": rejected, "count": rejected.sum(dim=1)}

    def assign(self, rollouts, batch, advantages):
        tokens, wrong = (rollouts.by_group(x) for x in (rollouts.loss_lengths, rollouts.measured[self.name]["count"]))
        reward = 2 * rollouts.by_group(rollouts.correct)
        total = tokens.sum(dim=1, keepdim=True)
        mean = (reward * tokens - wrong).sum(dim=1, keepdim=True) / total
        spread = (reward - mean).square() * (tokens - wrong) + (reward - 1 - mean).square() * wrong
        std = (spread.sum(dim=1, keepdim=True) / total).sqrt().clamp(min=1e-6)
        base, std = (((reward - mean) / std).flatten(), std.expand_as(reward).flatten())
        rejected = rollouts.measured_tokens[self.name]["rejected"]
        return base[rollouts.local, None] - rejected / std[rollouts.local, None], None


# TDRM: a process reward per step for the reward, and its differences per token


class TDRM(GroupReward):
    name = "tdrm"
    needs_correctness = False

    def measure(self, local):
        longest = max(map(len, local.completion_ids))
        values = torch.zeros(len(local.completion_ids), longest)
        for row, ids in enumerate(local.completion_ids):  # the value of each state, a running mean here
            values[row, : len(ids)] = (torch.tensor(ids) % 7).float().cumsum(0) / torch.arange(1, len(ids) + 1)
        return {
            "values": values,
            "last": torch.stack([row[len(ids) - 1] for row, ids in zip(values, local.completion_ids, strict=True)]),
        }

    def score(self, rollouts):
        return 0.2 * rollouts.measured[self.name]["last"]


class TDErrors(TokenCredit):
    name = "td_errors"
    needs_correctness = False

    def assign(self, rollouts, batch, advantages):
        values = rollouts.measured_tokens["tdrm"]["values"]
        errors = torch.diff(values, dim=1, prepend=values[:, :1])
        return advantages[:, None] + 0.1 * errors, None


# ProRL and T1: the reference is reset to the policy, or follows it


class MovingReference(GroupReward):
    name = "moving_reference"
    needs_correctness = False
    moves_reference = True

    def __init__(self, every, weight):
        self.every, self.weight = every, weight

    def attach(self, trainer):
        self.trainer = trainer

    def callbacks(self):
        component = self

        class Move(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step % component.every == 0:
                    component.trainer.update_reference(component.weight)

        return [Move()]

    def score(self, rollouts):
        return torch.zeros(len(rollouts))


# CRISP: the teacher sees an instruction that the student does not; rewards are only logged


class CRISP(TokenCredit):
    name = "crisp"
    needs_correctness = False
    needs_reference = True

    def attach(self, trainer):
        self.trainer = trainer

    def measure(self, local):
        instruction = self.trainer.processing_class("Be brief. ")["input_ids"]
        teacher = self.trainer.score_logps(
            [instruction + ids for ids in local.prompt_ids], local.completion_ids, model="reference"
        )
        return {"gap": teacher - self.trainer.score_logps(local.prompt_ids, local.completion_ids)}

    def assign(self, rollouts, batch, advantages):
        return rollouts.measured_tokens[self.name]["gap"], None


# Soft tokens: a tensor of the rollout, read by the loss of a subclass


class Mixtures(Rollout):
    name = "mixtures"
    needs_correctness = False

    def generate(self, trainer, rows):
        rollouts = trainer.generate_rollouts(rows, 1)
        return Generated.of(rollouts, tensors={"mixtures": torch.rand(len(rows), 3, 64)})


class SoftTokensTrainer(ConciseGRPOTrainer):
    def _compute_loss(self, model, inputs):
        if not model.training:
            return super()._compute_loss(model, inputs)
        outputs = model(inputs_embeds=inputs["mixtures"])
        return super()._compute_loss(model, inputs) + 0.01 * outputs.logits.square().mean()


# Self-verification, CURE, Delethink, Thinker: further rows


def generated_rows(trainer, rows, prefixes, rewards=None, n=2) -> Rows:
    """Generate `n` completions of each row after its prefix; each row is a group. Rewards are the trainer's, or given."""
    generated = trainer.generate_rollouts(rows, n, prefix_ids=prefixes, max_tokens=6)
    if rewards is None:
        rewards = weighted_sum(trainer.reward_rollouts(rows, generated), trainer.reward_weights)
    prompts = [[*one, *two] for one, two in zip(generated.prompt_ids, generated.prefix_ids, strict=True)]
    group = [i // n for i in range(len(prompts))]
    return Rows(prompts, generated.completion_ids, group, rewards(generated) if callable(rewards) else rewards)


def verdicts(trainer, rollouts, local) -> Rows:
    """Ask whether each completion is correct. The reward is whether the verdict, an even first token for yes, is right."""
    rows = [{"prompt": f"{local.prompts[i]} {local.completions[i]} Right?"} for i in range(len(local.prompts))]
    correct = rollouts.correct[rollouts.local].repeat_interleave(2)

    def agrees(generated):
        yes = torch.tensor([ids[0] % 2 == 0 for ids in generated.completion_ids])
        return (yes == (correct.cpu() == 1)).float().to(correct.device)

    return generated_rows(trainer, rows, None, agrees)


class SelfVerification(GroupReward):
    name = "self_verification"

    def score(self, rollouts):
        return torch.zeros(len(rollouts))

    def rows(self, trainer, rollouts, local):
        return verdicts(trainer, rollouts, local)


class CURE(SelfVerification):
    """The second half of each completion again: the paper branches where the entropy is largest."""

    name = "cure"

    def rows(self, trainer, rollouts, local):
        rows = [local.row(i) for i in range(len(local.prompts))]
        return generated_rows(trainer, rows, [ids[: len(ids) // 2] for ids in local.completion_ids])


class Delethink(SelfVerification):
    """The next chunk sees the prompt and the end of the chunk before it, nothing in between."""

    name = "delethink"

    def rows(self, trainer, rollouts, local):
        rows = [local.row(i) for i in range(len(local.prompts))]
        return generated_rows(trainer, rows, [ids[-2:] for ids in local.completion_ids])


class Thinker(SelfVerification):
    """Fast thinking is the batch itself. Then it is verified, and solved again with more tokens."""

    name = "thinker"

    def rows(self, trainer, rollouts, local):
        check = verdicts(trainer, rollouts, local)
        slow = generated_rows(trainer, [local.row(i) for i in range(len(local.prompts))], None)
        return Rows(
            [*check.prompt_ids, *slow.prompt_ids],
            [*check.completion_ids, *slow.completion_ids],
            [*check.group, *(len(local.prompts) + i for i in slow.group)],
            torch.cat([check.rewards, slow.rewards]),
        )


ROWS = (SelfVerification, CURE, Delethink, Thinker)
SKETCHES: dict[str, Any] = {
    "AdaptThink": adapt_think,
    "MGPO": lambda: {"advantage": MGPO()},
    "DDCA": lambda: {"advantage": DDCA()},
    "DRPO": lambda: {"advantage": DRPO(), "args": {"loss_type": "grpo"}},
    "GFPO": lambda: {"advantage": GFPO()},
    "On-Policy SFT": lambda: {"advantage": OnPolicySFT()},
    "RLPR": lambda: {"reward_funcs": [RLPR()]},
    "CAPO": lambda: {"token_credit": CAPO()},
    "TDRM": lambda: {"reward_funcs": [correct_if_even, TDRM()], "token_credit": TDErrors()},
    "ProRL": lambda: {"reward_funcs": [correct_if_even, MovingReference(1, 1.0)], "args": {"beta": 0.01}},
    "T1": lambda: {"reward_funcs": [correct_if_even, MovingReference(1, 0.005)], "args": {"beta": 0.01}},
    "CRISP": lambda: {"token_credit": CRISP()},
    **{kind.__name__: lambda kind=kind: {"reward_funcs": [correct_if_even, kind()]} for kind in ROWS},
    "Soft tokens": lambda: {"rollout": Mixtures(), "trainer": SoftTokensTrainer, "reward_funcs": [always_correct]},
}
