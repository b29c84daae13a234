# SPDX-License-Identifier: Apache-2.0
"""
Thinker: fast thinking, verification, slow thinking and summary as turns of one dialogue (Chung, Du and Fu, 2025,
https://huggingface.co/papers/2505.21097).

The completions of the batch are fast answers. Each of them is verified by the model. A wrong one is followed by a slow attempt, and a correct
slow attempt by a summary. Every turn has a budget and a reward of its own, which credits the tokens of that turn only.

No code of the authors was found. What is reconstructed is numbered in docs/thinker.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..batch.rows import Rows
from ..components import Advantage, Paper, TrainerView
from ..components.base import context_of
from ..components.reward_functions import check_rewards_are_summed
from ..data.thinker_turns import (
    SLOW_INSTRUCTION,
    SUMMARY_INSTRUCTION,
    VERIFICATION_INSTRUCTION,
    next_turn,
    read_verdict,
)
from ..verification.reward import completion_text
from .thinker_generation import Turn, equal_rows, take_turn


THINKER_PAPER = Paper(
    title="Thinker: Learning to Think Fast and Slow",
    id="2505.21097",
    # docstyle-ignore
    citation="""\
@article{chung2025thinker,
    title        = {{Thinker: Learning to Think Fast and Slow}},
    author       = {Stephen Chung and Wenyu Du and Jie Fu},
    year         = 2025,
    eprint       = {arXiv:2505.21097}
}""",
    reconstructed="the instructions, budgets and reward of slow thinking and summary, the advantages, and the average behind p_fast",
)
INITIAL_P_FAST = 0.5


def fast_verdicts(rollouts: Rollouts) -> Tensor:
    """Return which fast answers are correct, a truncated one never: `(B,)` float32, 1 or 0, NaN unknown."""
    return torch.where(rollouts.truncated & ~rollouts.correct.isnan(), 0.0, rollouts.correct)


def verification_rewards(fast: Tensor, verdicts: Tensor, p_fast: float) -> Tensor:
    r"""
    Return the reward of the second turn, which is the same in expectation for a constant Yes and a constant No.

    $$ r = \begin{cases} (1 - p_\text{fast}) \, 1[\text{Yes}] & y_\text{fast} = y^* \\ p_\text{fast} \, 1[\text{No}] & y_\text{fast} \ne y^* \end{cases} $$

    Args:
        fast (`torch.Tensor`): `(n,)`, 1 where the fast answer is correct, 0 where it is wrong, NaN where that is unknown.
        verdicts (`torch.Tensor`): `(n,)`, 1 Yes, 0 No, NaN none.
        p_fast (`float`): Running accuracy of the fast turn, in `[0, 1]`.

    Returns:
        `torch.Tensor`: `(n,)`, NaN where `fast` is unknown.

    Examples:
        >>> fast, verdicts = torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 1.0])
        >>> verification_rewards(fast, verdicts, p_fast=0.4)
        tensor([0.6000, 0.0000, 0.4000, 0.0000])
    """
    rewards = torch.where(fast == 1, 1 - p_fast, p_fast) * (verdicts == fast)
    return rewards.masked_fill(fast.isnan(), torch.nan)


def summary_rewards(correct: Tensor, logps: Tensor, bonus: float) -> Tensor:
    r"""
    Return the reward of the fourth turn, $1[y_\text{sum} = y^*] + c \log p$, the second term for correct summaries only.

    Args:
        correct (`torch.Tensor`): `(n,)`, 1 where the summary's answer is correct, 0 where it is wrong, NaN where that is unknown.
        logps (`torch.Tensor`): `(n,)`, log-probability of the summary after the prompt of the fast turn.
        bonus (`float`): $c$.
    """
    return torch.where(correct == 1, 1 + bonus * logps, correct) if bonus else correct


def normalize_rewards(rewards: Tensor, group: Tensor, scale: str) -> Tensor:
    """
    Subtract the mean of the group, and divide by a standard deviation, as TRL does.

    Args:
        rewards (`torch.Tensor`): `(n,)`, NaN unknown.
        group (`torch.Tensor`): `(n,)` int64, which rewards are compared.
        scale (`str`): `"group"`, `"batch"` (the deviation of all n rewards) or `"none"`, as `scale_rewards`.

    Returns:
        `torch.Tensor`: `(n,)` float32, 0 where the reward is unknown.
    """
    advantages = torch.zeros_like(rewards, dtype=torch.float32)
    everything = rewards[~rewards.isnan()].float()
    for index in group.unique():
        members = (group == index) & ~rewards.isnan()
        known = rewards[members].float()
        deviations = known - known.mean()
        spread = everything if scale == "batch" else known
        if scale != "none":
            deviations = deviations / ((spread.std() if len(spread) > 1 else 0.0) + 1e-4)
        advantages[members] = deviations
    return advantages


_VERDICTS = {True: 1.0, False: 0.0, None: math.nan}
_COLUMNS = ("verdict", "verification", "slow", "summary_correct", "summary", "tokens")  # gathered, per fast answer


class Thinker(Advantage):
    r"""
    Thinker's turns after the fast one, as further rows, and the running accuracy of the fast turn.

    The prompts of the dataset ask for a fast answer (see [`with_fast_instruction`]), within `max_completion_length` tokens. The reward of the
    fast turn is that of the trainer's reward functions, 0 for a truncated completion; its advantage is TRL's. During training, whether the fast answer is
    correct decides whether a slow attempt follows. The advantage of a later turn is its reward minus the mean of that turn in the batch; of
    verification, minus the mean over correct or over wrong fast answers. It is divided by the standard deviation of the turn in the batch, unless `scale_rewards="none"`.

    Args:
        verification_tokens, slow_tokens, summary_tokens (`int`, *optional*, default to `6000`, `6000` and `1000`):
            Budget of each turn, at least 1. A turn that exceeds it has the reward 0.
        bonus (`float`, *optional*, defaults to `0.0`):
            $c$, weight of the log-probability of a correct summary after the prompt of the fast turn, at least 0. The paper's is 0.001.
        bonus_per_token (`bool`, *optional*, defaults to `True`):
            Whether that log-probability is divided by the number of tokens of the summary.
        decay (`float`, *optional*, defaults to `0.9`):
            Share of `p_fast` that a batch keeps, in `[0, 1)`; the rest is the accuracy of the batch.
        verification_instruction, slow_instruction, summary_instruction (`str`, *optional*):
            What the user says before each turn.

    Attributes:
        p_fast (`float`): Running accuracy of the fast turn, in `[0, 1]`; 0.5 at first. Saved with checkpoints.
    """

    name = "thinker"
    paper = THINKER_PAPER
    reads_tokens = True
    text_only = True

    def __init__(
        self,
        verification_tokens: int = 6000,
        slow_tokens: int = 6000,
        summary_tokens: int = 1000,
        bonus: float = 0.0,
        bonus_per_token: bool = True,
        decay: float = 0.9,
        verification_instruction: str = VERIFICATION_INSTRUCTION,
        slow_instruction: str = SLOW_INSTRUCTION,
        summary_instruction: str = SUMMARY_INSTRUCTION,
    ):
        budgets = {"verification_tokens": verification_tokens, "slow_tokens": slow_tokens}
        for setting, tokens in {**budgets, "summary_tokens": summary_tokens}.items():
            if tokens < 1:
                raise ValueError(f"{setting} must be at least 1, got {tokens}.")
        if not 0 <= bonus < math.inf:
            raise ValueError(f"bonus must be at least 0 and finite, got {bonus}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}. A larger value averages over more batches.")
        self.verification_tokens = verification_tokens
        self.slow_tokens = slow_tokens
        self.summary_tokens = summary_tokens
        self.bonus = bonus
        self.bonus_per_token = bonus_per_token
        self.decay = decay
        self.verification_instruction = verification_instruction
        self.slow_instruction = slow_instruction
        self.summary_instruction = summary_instruction
        self.p_fast = INITIAL_P_FAST
        self._scale = "group"
        self._turns: dict[str, Tensor] = {}  # `(B,)` each, of the batch that is being trained on
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        """
        Check that dialogues can be continued.

        Raises:
            `ValueError`: If the trainer has tools or environments, or the budgets exceed the context of the model.
        """
        check_rewards_are_summed(self, trainer)
        if trainer.tools or trainer.environment_factories:
            raise ValueError(
                "Thinker continues dialogues without tools, but the trainer has tools or an environment. Train without them."
            )
        budgets = (trainer.max_completion_length, self.verification_tokens, self.slow_tokens, self.summary_tokens)
        context = context_of(trainer)
        if sum(tokens or 0 for tokens in budgets) > context:
            raise ValueError(
                f"The four turns may have {', '.join(map(str, budgets))} tokens, more than the context of {context} tokens holds. Lower "
                "max_completion_length, verification_tokens, slow_tokens or summary_tokens, or raise vllm_max_model_length if that is the limit."
            )
        self._scale = trainer.args.scale_rewards

    def rows(self, trainer: TrainerView, rollouts: Rollouts, local: LocalRollouts) -> Rows:
        fast = fast_verdicts(rollouts)
        own = fast[rollouts.local].tolist()
        dataset_rows, device = [local.row(i) for i in range(len(own))], fast.device
        spare = dataset_rows[0]

        known = [i for i, verdict in enumerate(own) if not math.isnan(verdict)]
        asked = [
            {
                **dataset_rows[i],
                "prompt": next_turn(local.prompts[i], local.completions[i], self.verification_instruction),
            }
            for i in known
        ]
        verification = take_turn(trainer, known, asked, self.verification_tokens, spare=spare, is_judged=False)
        is_wrong = [own[i] == 0 for i in known]
        slow = take_turn(
            trainer, *verification.continued(is_wrong, self.slow_instruction), self.slow_tokens, spare=spare
        )
        is_solved = (slow.correct == 1).tolist()
        summary = take_turn(
            trainer, *slow.continued(is_solved, self.summary_instruction), self.summary_tokens, spare=spare
        )
        logps = self._summary_logps(trainer, summary, local) if self.bonus else torch.zeros_like(summary.correct)

        found = torch.full((len(own), len(_COLUMNS)), torch.nan, device=device)
        verdicts = [
            None if is_truncated else read_verdict(completion_text(completion))
            for completion, is_truncated in zip(verification.completions, verification.truncated, strict=True)
        ]
        found[known, 0] = torch.tensor([_VERDICTS[verdict] for verdict in verdicts], device=device)
        found[:, 1] = verification_rewards(fast[rollouts.local], found[:, 0], self.p_fast)
        found[slow.answers, 2] = slow.correct
        found[summary.answers, 3] = summary.correct
        found[summary.answers, 4] = summary_rewards(summary.correct, logps, self.bonus)
        found[:, 5] = 0
        for turn in (verification, slow, summary):
            found[turn.answers, 5] += torch.tensor(turn.lengths, dtype=torch.float32, device=device)
        self._turns = dict(zip(_COLUMNS, gather(found).unbind(dim=1), strict=True))

        scale = "none" if self._scale == "none" else "batch"
        together = torch.zeros_like(fast, dtype=torch.long)
        groups = {"verification": (fast == 1).long(), "slow": together, "summary": together}
        parts = []
        for turn, (name, group) in zip((verification, slow, summary), groups.items(), strict=True):
            rewards = self._turns[name]
            advantages = normalize_rewards(rewards, group, scale)[rollouts.local]
            parts.append(_rows_of(turn, advantages, ~rewards[rollouts.local].isnan()))
        return Rows.joined(parts)

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        fast, turns = fast_verdicts(rollouts), self._turns
        accuracy = fast.nanmean().item()
        if not math.isnan(accuracy):  # after the rewards of the batch, which have used the mean before it
            self.p_fast = self.decay * self.p_fast + (1 - self.decay) * accuracy
        self._metrics = {"p_fast": self.p_fast, "fast_accuracy": accuracy}
        if turns:
            known = ~fast.isnan()
            self._metrics |= {
                "verification_accuracy": (turns["verdict"] == fast)[known].float().mean().item(),
                "yes_fraction": (turns["verdict"] == 1)[known].float().mean().item(),
                "verification_reward": turns["verification"].nanmean().item(),
                "slow_fraction": (fast == 0)[known].float().mean().item(),
                "slow_accuracy": turns["slow"].nanmean().item(),
                "summary_accuracy": turns["summary_correct"].nanmean().item(),
                "later_tokens": turns["tokens"].mean().item(),
            }
        self._turns = {}
        rewards = rollouts.total_rewards()
        exceeding = rollouts.truncated & (rewards > 0)  # penalties of other reward functions stay
        if not exceeding.any():
            return advantages
        return normalize_rewards(rewards.masked_fill(exceeding, 0.0), rollouts.group_index, self._scale)

    def state_dict(self) -> dict[str, Any]:
        return {"p_fast": self.p_fast}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Restore the running accuracy.

        Raises:
            `ValueError`: If the state has no `p_fast` in `[0, 1]`.
        """
        p_fast = state.get("p_fast")
        if isinstance(p_fast, bool) or not isinstance(p_fast, (int, float)) or not 0 <= p_fast <= 1:
            raise ValueError(f"The state of Thinker is a number `p_fast` in [0, 1], got {state}.")
        self.p_fast = float(p_fast)

    def _summary_logps(self, trainer: TrainerView, summary: Turn, local: LocalRollouts) -> Tensor:
        """Return the log-probability of each summary after the prompt of its fast turn: `(n,)`. Every process calls this."""
        device, count = trainer.accelerator.device, len(summary.answers)
        prompts = [local.prompt_ids[i] for i in summary.answers]
        pairs = list(zip(prompts, summary.completion_ids, strict=True))
        pairs = equal_rows(pairs, (local.prompt_ids[0], local.completion_ids[0]), device)
        if not pairs:
            return torch.zeros(0, device=device)
        logps = trainer.score_logps([prompt for prompt, _ in pairs], [ids for _, ids in pairs])[:count].sum(dim=1)
        if self.bonus_per_token:
            logps = logps / torch.tensor([len(ids) for ids in summary.completion_ids], device=device)
        return logps


def _rows_of(turn: Turn, advantages: Tensor, is_known: Tensor) -> Rows:
    """Return the dialogues of a turn whose reward is known, as rows with the advantage of their fast answer, `(b,)`."""
    kept = [i for i, answer in enumerate(turn.answers) if is_known[answer]]
    return Rows(
        prompt_ids=[turn.prompt_ids[i] for i in kept],
        completion_ids=[turn.completion_ids[i] for i in kept],
        group=range(len(kept)),
        advantages=advantages[[turn.answers[i] for i in kept]],
        logps=[turn.logps[i] for i in kept] if turn.logps is not None else None,
    )
