# SPDX-License-Identifier: Apache-2.0
"""
CAPO: credit assignment policy optimization (Xie et al., 2025, https://huggingface.co/papers/2508.02298).

A general language model, the critic, reads each completion and names its wrong steps, whose tokens lose a fixed amount of reward.
Rewards are normalized over all tokens of a group.

The authors' repository (andyclsr/CAPO @ 95b8f34) has no code yet. (Reconstructed.) The words of the request, how steps are found, which
tokens belong to them, what happens to unreadable critiques, and the vote `"average"`. docs/capo.md numbers the details.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batch.rollouts import LocalRollouts, Rollouts
from ..batch.token_credit import check_selection
from ..components import Advantage, Paper, TokenCredit, TrainerView
from ..components.base import tokenizer_of
from ..components.reward_functions import check_rewards_are_summed
from ..data.teachers import Conversation, Reply, Teacher
from .capo_critiques import VOTES, critic_request, problem_text, read_wrong_steps, split_steps, step_tokens, vote


logger = logging.getLogger(__name__)

CAPO_PAPER = Paper(
    title="CAPO: Towards Enhancing LLM Reasoning through Generative Credit Assignment",
    id="2508.02298",
    # docstyle-ignore
    citation="""\
@article{xie2025capo,
    title        = {{CAPO: Towards Enhancing LLM Reasoning through Generative Credit Assignment}},
    author       = {Guofu Xie and Yunsheng Shi and Hongtao Tian and Ting Yao and Xiao Zhang},
    year         = 2025,
    eprint       = {arXiv:2508.02298}
}""",
    reconstructed="The request to the critic, the tokens of a step, and what happens to unreadable critiques.",
)
EPSILON = 1e-6  # added to the standard deviation
SUMMED = ("requests", "failed", "unreadable", "input_tokens", "output_tokens")  # of a batch, and of the run


def token_statistics(
    outcomes: Tensor, tokens: Tensor, wrong: Tensor, squares: Tensor, process_weight: float, num_generations: int
) -> tuple[Tensor, Tensor]:
    r"""
    Return mean and standard deviation of the rewards of all tokens of a group.

    The token rewards are $r_i - W s_{i,t}$, with the shares $s$ of [`~trl_concise.methods.capo_critiques.vote`]. Sums per completion suffice, so no process needs the tokens of
    another one.

    Args:
        outcomes (`torch.Tensor`): `(B,)`, $r$, weighted; NaN where unknown: such a completion does not count.
        tokens (`torch.Tensor`): `(B,)`, tokens in the loss.
        wrong (`torch.Tensor`): `(B,)`, sum of $s_{i,t}$ over the tokens.
        squares (`torch.Tensor`): `(B,)`, sum of $s_{i,t}^2$.
        process_weight (`float`): $W$.
        num_generations (`int`): Completions per group.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Mean and standard deviation (with the divisor $N - 1$), `(B,)` float64 each, the same for all
        completions of a group; 0 for a group without tokens.

    Examples:
        >>> import torch
        >>> outcomes, tokens = torch.tensor([2.0, 2.0, 0.0]), torch.tensor([3, 3, 3])
        >>> wrong = torch.tensor([0.0, 2.0, 1.0])
        >>> mean, std = token_statistics(outcomes, tokens, wrong, wrong, process_weight=1.0, num_generations=3)
        >>> mean[0].item(), round(std[0].item(), 6)
        (1.0, 1.118034)
    """
    known = ~outcomes.isnan() & (tokens > 0)
    r, n, s, s2 = (
        torch.where(known, values, 0).double().view(-1, num_generations)
        for values in (outcomes, tokens, wrong, squares)
    )
    total = n.sum(dim=1, keepdim=True)
    mean = (n * r - process_weight * s).sum(dim=1, keepdim=True) / total.clamp(min=1)
    deviations = n * (r - mean) ** 2 - 2 * process_weight * (r - mean) * s + process_weight**2 * s2
    variance = deviations.sum(dim=1, keepdim=True).clamp(min=0) / (total - 1).clamp(min=1)
    return tuple(values.expand_as(r).flatten() for values in (mean, variance.sqrt()))  # type: ignore[return-value]


class CAPO(TokenCredit):
    r"""
    Takes reward from the tokens of the steps that a critic finds wrong, and normalizes rewards over all tokens of a group.

    $$ R_{i,t} = W_{\text{outcome}}\, r_i - W_{\text{process}}\, s_{i,t}, \qquad
       A_{i,t} = \frac{R_{i,t} - \operatorname{mean} R}{\operatorname{std} R + 10^{-6}} $$

    where $r_i$ is the weighted sum of the reward functions, 0 or 1 in the paper, and $s_{i,t}$ is 1 in a wrong step, by the vote of several
    critiques. TRL's advantages are replaced, so `scale_rewards` has no effect.

    Each process asks for critiques of its own completions, in training only. A critique that fails, is late, truncated or unreadable does
    not vote; a completion without a vote has its outcome reward alone. The metrics count all of these. After a batch in which every
    request failed, a single request is sent first, and the others if it is answered.

    Args:
        critic ([`APITeacher`], [`LocalTeacher`] or another [`Teacher`]):
            Who writes the critiques. The sampling settings are those of the critic: several critiques need a temperature above 0.
        critiques (`int`, *optional*, defaults to `4`):
            Critiques per completion, at least 1.
        vote (`str`, *optional*, defaults to `"majority"`):
            `"intersection"`, `"majority"`, `"union"` or `"average"`, see
            [`~trl_concise.methods.capo_critiques.vote`]. In the paper `"intersection"` is best for models of 1
            to 1.5 billion parameters, `"majority"` or `"union"` for 7 billion.
        outcome_weight (`float`, *optional*, defaults to `2.0`):
            $W_{\text{outcome}}$, above 0.
        process_weight (`float`, *optional*, defaults to `1.0`):
            $W_{\text{process}}$, at least 0. With 0 no critique is requested.
        separator (`str`, *optional*, defaults to `r"\n\s*\n"`):
            Regular expression between two steps of a completion: blank lines.
        answer_column (`str`, *optional*, defaults to `"solution"`):
            Dataset column of the reference answer, which the critic sees; `None` hides it.
        timeout (`float`, *optional*, defaults to `300.0`):
            Seconds after which training continues without the missing critiques, per round of generation: a group filter that replaces
            groups has several per batch. Processes wait for each other, so it must be below the timeout of their communication, 600
            seconds with NCCL.
        request (`Callable`, *optional*, defaults to [`~trl_concise.methods.capo_critiques.critic_request`]):
            Writes the conversation for a problem, its steps and the reference answer. The reply must end as
            [`~trl_concise.methods.capo_critiques.read_wrong_steps`] expects.

    Raises:
        `ValueError`: If a setting is out of range. When the trainer is built, if the loss has one ratio per completion, or another
            component computes advantages. In training, if the answer column is missing, or the endpoint refuses the key or the model
            before the first critique.

    Example:

    ```python
    >>> from trl_concise import APITeacher
    >>> from trl_concise.methods.capo import CAPO

    >>> critic = APITeacher(
    ...     "Qwen/Qwen3-32B",
    ...     base_url="http://localhost:8000/v1",
    ...     api_key="none",
    ...     max_retries=2,
    ... )
    >>> trainer = ConciseGRPOTrainer(..., token_credit=CAPO(critic))
    ```
    """

    name = "capo"
    paper = CAPO_PAPER
    needs_correctness = False
    card_settings = ("critic", "request", "separator", "answer_column")

    def __init__(
        self,
        critic: Teacher,
        critiques: int = 4,
        vote: str = "majority",
        outcome_weight: float = 2.0,
        process_weight: float = 1.0,
        separator: str = r"\n\s*\n",
        answer_column: str | None = "solution",
        timeout: float = 300.0,
        request: Callable[[str, Sequence[str], str | None], Conversation] = critic_request,
    ):
        if critiques < 1:
            raise ValueError(f"critiques must be at least 1, got {critiques}.")
        if vote not in VOTES:
            raise ValueError(f"vote must be one of {list(VOTES)}, got {vote!r}.")
        if not 0 < outcome_weight < math.inf or not 0 <= process_weight < math.inf:
            raise ValueError(
                "outcome_weight must be above 0 and process_weight at least 0, both finite, got "
                f"{outcome_weight} and {process_weight}."
            )
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout}.")
        if re.fullmatch(separator, ""):
            raise ValueError(
                f"separator must not match an empty text, got {separator!r}. The default is a blank line."
            )
        self.critic = critic
        self.critiques = critiques
        self.vote = vote
        self.outcome_weight = outcome_weight
        self.process_weight = process_weight
        self.separator = separator
        self.answer_column = answer_column
        self.timeout = timeout
        self.request = request
        self.totals = dict.fromkeys(SUMMED, 0)
        self._end_ids: set[int] = set()
        self._leaves_out_truncated = False
        self._has_answered = False  # since the start of this process
        self._is_down = False

    def attach(self, trainer: TrainerView) -> None:
        check_selection(self, trainer.args)
        others = [type(component).__name__ for component in trainer.components if isinstance(component, Advantage)]
        if others:
            raise ValueError(
                f"CAPO computes advantages from the rewards, so those of {', '.join(others)} would have no effect. Use one of them."
            )
        check_rewards_are_summed(self, trainer)
        self._tokenizer = tokenizer_of(trainer.processing_class)
        self._end_ids = trainer.end_token_ids
        self._leaves_out_truncated = trainer.mask_truncated_completions

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        count, started = len(local.completion_ids), time.monotonic()
        ids = [self._without_end(own) for own in local.completion_ids]
        texts = [self._decode(own) for own in ids]
        steps = [split_steps(text, self.separator) for text in texts]
        if self._leaves_out_truncated:  # not in the loss, so no critique could have an effect
            steps = [own if len(ids[row]) < len(local.completion_ids[row]) else [] for row, own in enumerate(steps)]
        asked = [row for row in range(count) if steps[row] and self.process_weight > 0]
        rows = [
            row for _ in range(self.critiques) for row in asked
        ]  # one critique of each completion, then the next ones
        requests = {row: self._request(local, row, texts[row], steps[row]) for row in asked}
        replies = self._ask([requests[row] for row in rows])

        wrong = torch.zeros(count, max(map(len, local.completion_ids)))
        sums = {name: torch.zeros(count) for name in (*SUMMED, "voted", "wrong_steps", "wrong", "squares")}
        votes: dict[int, list[set[int] | None]] = {row: [] for row in asked}
        for row, reply in zip(rows, replies, strict=True):
            named = read_wrong_steps(reply.text, len(steps[row])) if not reply.error and reply.complete else None
            votes[row].append(named)
            sums["requests"][row] += 1
            sums["failed"][row] += reply.error is not None
            sums["unreadable"][row] += not reply.error and named is None
            sums["input_tokens"][row] += reply.input_tokens
            sums["output_tokens"][row] += reply.output_tokens
        for row in asked:
            sums["voted"][row] = any(named is not None for named in votes[row])
            for (start, end), share in zip(steps[row], vote(votes[row], len(steps[row]), self.vote), strict=True):
                if share:
                    tokens = step_tokens(ids[row], self._decode, start, end)
                    wrong[row, tokens.start : tokens.stop] = share
                    sums["wrong_steps"][row] += share
            if local.tool_mask is not None:
                wrong[row, : len(local.tool_mask[row])] *= torch.tensor(local.tool_mask[row])
        sums["wrong"], sums["squares"] = wrong.sum(dim=1), wrong.square().sum(dim=1)
        seconds = torch.full((count,), time.monotonic() - started)
        return {"shares": wrong, "time": seconds, **sums}

    def _without_end(self, ids: list[int]) -> list[int]:
        end = len(ids)
        while end and ids[end - 1] in self._end_ids:
            end -= 1
        return ids[:end]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _request(self, local: LocalRollouts, row: int, text: str, steps: list[tuple[int, int]]) -> Conversation:
        answer = None
        if self.answer_column is not None:
            if self.answer_column not in local.columns:
                raise ValueError(
                    f"CAPO shows the critic the column {self.answer_column!r}, but the dataset has {sorted(local.columns)}. Set "
                    "answer_column to one of them, or to None."
                )
            answer = str(local.columns[self.answer_column][row])
        return self.request(problem_text(local.prompts[row]), [text[start:end] for start, end in steps], answer)

    def _ask(self, conversations: list[Conversation]) -> list[Reply]:
        """Return one reply per conversation, an error for those that are missing when the time is over."""
        if not conversations:
            return []
        deadline = time.monotonic() + self.timeout
        replies = [Reply(error=f"no reply after {self.timeout:g} seconds")] * len(conversations)

        def collect(first: int, last: int) -> None:
            left = deadline - time.monotonic()
            for position, reply in self.critic.replies(conversations[first:last], timeout=left) if left > 0 else ():
                replies[first + position] = reply

        try:
            if self._is_down:
                collect(0, 1)
            if not self._is_down or replies[0].error is None:
                collect(int(self._is_down), len(conversations))
        except Exception as error:
            if not self._has_answered:
                raise
            replies = [Reply(error=f"{type(error).__name__}: {error}") if reply.error else reply for reply in replies]
        errors = [reply.error for reply in replies if reply.error is not None]
        was_down, self._is_down = self._is_down, len(errors) == len(replies)
        self._has_answered |= len(errors) < len(replies)
        if self._is_down and not was_down:
            logger.warning(
                "The critic %s has answered none of %d requests: %s. Completions keep their outcome rewards until it answers again.",
                self.critic.name,
                len(replies),
                errors[0].rstrip("."),
            )
        elif was_down and not self._is_down:
            logger.warning("The critic %s answers again.", self.critic.name)
        return replies

    def observe(self, rollouts: Rollouts) -> None:
        measured = rollouts.measured[self.name]
        sums = {name: int(measured[name].sum()) for name in SUMMED}
        for name, value in sums.items():
            self.totals[name] += value
        is_correct = rollouts.correct == 1
        cost = self.critic.cost(sums["input_tokens"], sums["output_tokens"])
        metrics = {
            **{name: float(value) for name, value in sums.items()},
            "without_vote": 1 - measured["voted"].mean().item(),
            "wrong_steps": measured["wrong_steps"].mean().item(),
            "wrong_tokens": (measured["wrong"].sum() / rollouts.loss_lengths.sum().clamp(min=1)).item(),
            "correct_with_wrong_steps": (measured["wrong_steps"][is_correct] > 0).float().mean().item(),
            "time": measured["time"].max().item(),
            "cost": cost if cost is not None else math.nan,
        }
        self._metrics = {name: value for name, value in metrics.items() if not math.isnan(value)}

    def assign(
        self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor, selected: Tensor | None = None
    ) -> tuple[Tensor, None]:
        if advantages.ndim == 2:
            raise ValueError(
                "CAPO replaces advantages, so a token credit before it has no effect. Place CAPO first in token_credit."
            )
        measured, own = rollouts.measured[self.name], rollouts.local
        shares = rollouts.measured_tokens[self.name]["shares"].double()
        shares = F.pad(shares, (0, batch["completion_ids"].size(1) - shares.size(1)))
        outcomes = self.outcome_weight * rollouts.total_rewards().double()
        mean, std = token_statistics(
            outcomes,
            rollouts.loss_lengths,
            measured["wrong"],
            measured["squares"],
            self.process_weight,
            rollouts.num_generations,
        )
        rewards = outcomes[own, None] - self.process_weight * shares
        values = (rewards - mean[own, None]) / (std[own, None] + EPSILON)
        return values.nan_to_num(nan=0.0).to(advantages), None

    def report(self) -> str:
        """Return what the critiques have cost so far, in one line."""
        cost = self.critic.cost(self.totals["input_tokens"], self.totals["output_tokens"])
        price = f", price {cost:.4f}" if cost is not None else ""
        counts = "{requests:,} critiques requested, {failed:,} failed, {unreadable:,} unreadable".format(**self.totals)
        tokens = "{input_tokens:,} input and {output_tokens:,} output tokens".format(**self.totals)
        return f"{counts}; {tokens}{price}"

    def state_dict(self) -> dict[str, Any]:
        return {"totals": dict(self.totals)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.totals = dict(state["totals"])
