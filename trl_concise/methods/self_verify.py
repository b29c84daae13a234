# SPDX-License-Identifier: Apache-2.0
"""
Self-verification: one run that trains a model to solve problems and to judge its own solutions (Zhang et al., "Incentivizing LLMs to
Self-Verify Their Answers", 2025, https://huggingface.co/papers/2506.01369).

Recent solutions are kept in a buffer. Each batch is extended by verification prompts, each a problem with a solution from the buffer, with
groups and rewards of their own. At test time the model's verdicts weight a vote: `trl-concise eval --vote verify`.

We have not read the authors' code. These details are reconstructed:
  1. The dynamic reward (Eq. 5) has the inverse-frequency form; a group without both classes gives 1/2.
  2. The number of verification prompts in a batch: the paper draws from problems and buffer together, without a fixed share.
  3. Solutions are drawn uniformly, without replacement within a batch, and stay in the buffer.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from torch import Tensor

from ..batch.generation import GeneratedRollouts
from ..batch.rollouts import LocalRollouts, Rollouts
from ..batch.rows import Rows
from ..components import Advantage, Paper, TrainerView
from ..components.base import context_of, tokenizer_of
from ..verification.finished import completions_open_reasoning
from ..verification.reward import completion_text
from ..verification.verdicts import read_verdict, solution_after_reasoning, verification_prompt


logger = logging.getLogger(__name__)

SELF_VERIFY_PAPER = Paper(
    title="Incentivizing LLMs to Self-Verify Their Answers",
    id="2506.01369",
    # docstyle-ignore
    citation="""\
@article{zhang2025incentivizing,
    title        = {{Incentivizing LLMs to Self-Verify Their Answers}},
    author       = {Fuxiang Zhang and Jiacheng Xu and Chaojie Wang and Ce Cui and Yang Liu and Bo An},
    year         = 2025,
    eprint       = {arXiv:2506.01369}
}""",
    reconstructed="the dynamic reward (Eq. 5), the share of verification prompts in a batch, and how solutions are drawn",
)
REWARDS = ("dynamic", "binary")


def binary_reward(verdict: bool | None, correct: bool) -> float:
    """
    Reward a verdict (Eq. 4 of the paper): 1 if it is right, 0 if it is wrong or missing.

    Args:
        verdict (`bool`, *optional*): `True` for Yes, `False` for No, `None` if there is none.
        correct (`bool`): Whether the solution is correct.

    Examples:
        >>> binary_reward(True, correct=True), binary_reward(True, correct=False), binary_reward(None, correct=False)
        (1.0, 0.0, 0.0)
    """
    return float(verdict is correct)


def dynamic_reward(verdict: bool | None, correct: bool, num_correct: int, num_incorrect: int) -> float:
    r"""
    Reward a right verdict more if the solution's class is rare in its group (Eq. 5 of the paper, reconstructed).

    $$ r_v = \frac{G_c + G_i}{2 G_c} \text{ for a correct solution}, \qquad
       r_v = \frac{G_c + G_i}{2 G_i} \text{ for an incorrect one} $$

    If every verdict is right, the mean over a group with both classes is 1.

    Args:
        verdict (`bool`, *optional*): `True` for Yes, `False` for No, `None` if there is none.
        correct (`bool`): Whether the solution is correct.
        num_correct, num_incorrect (`int`): $G_c$ and $G_i$, the correct and incorrect solutions of the group that the solution is from,
            itself included.

    Returns:
        `float`: At least 0; 0 for a wrong or missing verdict.

    Examples:
        >>> round(dynamic_reward(True, True, 6, 2), 6), dynamic_reward(False, False, 6, 2), dynamic_reward(True, True, 8, 0)
        (0.666667, 2.0, 0.5)
    """
    own = num_correct if correct else num_incorrect
    return binary_reward(verdict, correct) * (num_correct + num_incorrect) / (2 * own)


@dataclass(frozen=True)
class Solution:
    """
    A solution in the buffer.

    Attributes:
        prompt (`str` or `list[dict]`): The problem's prompt.
        text (`str`): The solution, without its reasoning.
        correct (`bool`): Whether it is correct.
        num_correct, num_incorrect (`int`): $G_c$ and $G_i$: the correct and incorrect solutions of its group.
        step (`int`): Optimizer steps that were done when it was generated.
    """

    prompt: Any
    text: str
    correct: bool
    num_correct: int
    num_incorrect: int
    step: int


class SolutionBuffer:
    """
    Recent solutions, oldest first.

    Args:
        size (`int`): Largest number of solutions; a new one then replaces the oldest.
        max_age (`int`): Optimizer steps after which a solution leaves the buffer.
    """

    def __init__(self, size: int, max_age: int):
        self.size = size
        self.max_age = max_age
        self.solutions: list[Solution] = []

    def add(self, solutions: Iterable[Solution]) -> None:
        """Append solutions."""
        self.solutions = [*self.solutions, *solutions][-self.size :]

    def draw(self, count: int, step: int, rng: np.random.Generator) -> list[Solution]:
        """
        Remove what is older than `max_age`, and draw distinct solutions uniformly.

        Args:
            count (`int`): Largest number of solutions.
            step (`int`): Optimizer steps done so far.
            rng (`numpy.random.Generator`): Source of the draw.
        """
        self.solutions = [item for item in self.solutions if step - item.step <= self.max_age]
        count = min(count, len(self.solutions))
        return (
            [self.solutions[place] for place in rng.choice(len(self.solutions), count, replace=False)] if count else []
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return prompts and texts as JSON in UTF-8, `(bytes,)` uint8, where each ends, `(n,)`, and the numbers, `(n, 4)` int64."""
        records = [json.dumps([item.prompt, item.text]).encode() for item in self.solutions]
        numbers = [[item.correct, item.num_correct, item.num_incorrect, item.step] for item in self.solutions]
        data = bytearray(b"".join(records))
        return {
            "texts": torch.frombuffer(data, dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8),
            "ends": torch.tensor([len(record) for record in records], dtype=torch.int64).cumsum(0),
            "numbers": torch.tensor(numbers, dtype=torch.int64).view(-1, 4),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned. Of more solutions than `size`, the newest stay."""
        data, ends = state["texts"].numpy().tobytes(), [0, *state["ends"].tolist()]
        self.solutions = []
        self.add(
            Solution(prompt, text, bool(correct), num_correct, num_incorrect, step)
            for (prompt, text), (correct, num_correct, num_incorrect, step) in zip(
                (json.loads(data[start:end]) for start, end in itertools.pairwise(ends)),
                state["numbers"].tolist(),
                strict=True,
            )
        )


class SelfVerification(Advantage):
    """
    Adds verification prompts to each batch: the model judges solutions that it has written before, and is rewarded for right verdicts.

    The advantages of the batch stay as they are; combine it with others in a list. The added rows have groups of `num_generations`
    verifications of one solution. Every process has the same buffer and draws the same solutions; each generates the verifications of
    some of them.

    Args:
        ratio (`float`, *optional*, defaults to `1.0`):
            Verification prompts per problem of the batch, at least 0; 0 adds none. The paper gives no number.
        verdict_reward (`str`, *optional*, defaults to `"dynamic"`):
            `"dynamic"` ([`dynamic_reward`]) or `"binary"` ([`binary_reward`]). With `scale_rewards="group"` they train alike, because the
            standard deviation of a verification group cancels the factor between them.
        buffer_size (`int`, *optional*, defaults to `5000`):
            Solutions that the buffer holds, at least 1. The paper: 5,000 for 7 billion parameters, 40,000 for 1.5 billion.
        max_age (`int`, *optional*, defaults to `60`):
            Optimizer steps after which a solution leaves the buffer, at least 0. The paper's T_b.

    Attributes:
        buffer ([`SolutionBuffer`]): The recent solutions.

    Raises:
        `ValueError`: If an argument is out of range. When the trainer is built, if it has tools or environments, no generation limit, or too few
            problems in a batch for `ratio`.
    """

    name = "self_verify"
    paper = SELF_VERIFY_PAPER
    reads_tokens = True  # it generates verifications, in one context
    text_only = True

    def __init__(
        self, ratio: float = 1.0, verdict_reward: str = "dynamic", buffer_size: int = 5000, max_age: int = 60
    ):
        if not 0 <= ratio < math.inf:
            raise ValueError(
                f"ratio must be a finite number of at least 0, got {ratio}. Give 1 for a verification prompt per problem."
            )
        if verdict_reward not in REWARDS:
            raise ValueError(f"verdict_reward must be one of {REWARDS}, got {verdict_reward!r}.")
        if buffer_size < 1:
            raise ValueError(
                f"buffer_size must be at least 1, got {buffer_size}. To add no verification prompts, set ratio=0."
            )
        if max_age < 0:
            raise ValueError(f"max_age must be at least 0, got {max_age}.")
        self.ratio = ratio
        self.verdict_reward = verdict_reward
        self.buffer_size = buffer_size
        self.max_age = max_age
        self.buffer = SolutionBuffer(buffer_size, max_age)
        self._batches = 0  # generation batches so far: the seed of the draws depends on it
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        """
        Check the settings of the trainer, and warn if the context may be too small for a verification.

        Raises:
            `ValueError`: If the trainer has tools or environments, or no generation limit, or if a batch has too few problems for `ratio`.
        """
        if trainer.tools or trainer.environment_factories is not None:
            raise ValueError(
                "SelfVerification asks about solutions of one text, but the trainer has tools or environments. Remove them, or remove "
                "SelfVerification."
            )
        if trainer.max_completion_length is None:
            raise ValueError(
                "SelfVerification generates verifications of at most max_completion_length tokens, but max_completion_length is None. Set it."
            )
        problems = trainer.args.generation_batch_size // trainer.num_generations
        if self.ratio and not self._prompts(problems):
            raise ValueError(
                f"ratio={self.ratio:g} gives no verification prompt for the {problems} problems of a generation batch. Set ratio to at least "
                f"{0.5 / problems:g}, or to 0."
            )
        limit, context = trainer.max_completion_length, context_of(trainer)
        if self.ratio and 2 * limit > context:
            logger.warning(
                "A verification and the solution before it may have %d tokens each, more than the context of %d tokens holds. Lower "
                "max_completion_length, or raise vllm_max_model_length if that is the limit.",
                limit,
                context,
            )

    def _prompts(self, problems: int) -> int:
        """Return the number of verification prompts for a number of problems, rounded half up."""
        return math.floor(self.ratio * problems + 0.5)

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        return advantages

    def rows(self, trainer: TrainerView, rollouts: Rollouts, local: LocalRollouts) -> Rows | None:
        """Return verifications of solutions from earlier batches, and add the solutions of this one to the buffer."""
        rng = np.random.default_rng([trainer.args.seed, self._batches])
        self._batches += 1
        problems = len(rollouts) // rollouts.num_generations
        drawn = self.buffer.draw(self._prompts(problems), rollouts.step, rng)
        rows, measured = self._verify(trainer, drawn, rollouts.step) if drawn else (None, {})
        self.buffer.add(self._solutions(trainer, rollouts, local))
        added = len(drawn) * trainer.num_generations
        self._metrics = {
            "buffer": len(self.buffer.solutions),
            "prompts": len(drawn),
            "share": added / (added + len(rollouts)),
            **measured,
        }
        return rows

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._batches, **self.buffer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._batches = state["batches"]
        self.buffer.load_state_dict(state)

    def _verify(
        self, trainer: TrainerView, drawn: Sequence[Solution], step: int
    ) -> tuple[Rows | None, dict[str, float]]:
        """Generate and reward the verifications of this process's share. Every process calls this with the same solutions."""
        size, accelerator = trainer.num_generations, trainer.accelerator
        own = drawn[accelerator.process_index :: accelerator.num_processes]
        # As many on every process, because processes that share a vLLM engine divide what it returns equally; the surplus is not used.
        share = math.ceil(len(drawn) / accelerator.num_processes)
        asked = [
            {"prompt": verification_prompt(item.prompt, item.text)} for item in [*own, *drawn[:1] * (share - len(own))]
        ]
        generated = trainer.generate_rollouts(asked, size)
        count = len(own) * size
        verdicts = self._verdicts(trainer, asked, generated)[:count]
        solutions = [item for item in own for _ in range(size)]
        rewards = [self._reward(verdict, item) for verdict, item in zip(verdicts, solutions, strict=True)]
        right = [verdict is item.correct for verdict, item in zip(verdicts, solutions, strict=True)]
        lengths = generated.lengths[:count].tolist()
        sums = [sum(right), verdicts.count(None), sum(rewards), sum(lengths)]
        total = gather(torch.tensor([sums], dtype=torch.float64, device=generated.lengths.device)).sum(dim=0)
        accuracy, missing, reward, tokens = (total / (len(drawn) * size)).tolist()
        metrics = {
            "accuracy": accuracy,
            "no_verdict": missing,
            "reward": reward,
            "tokens": tokens,
            "correct_solutions": sum(item.correct for item in drawn) / len(drawn),
            "age": sum(step - item.step for item in drawn) / len(drawn),
        }
        if not own:
            return None, metrics
        left_out = (generated.truncated & trainer.mask_truncated_completions).tolist()[:count]
        completion_ids = generated.completion_ids[:count]
        return Rows(
            prompt_ids=generated.prompt_ids[:count],
            completion_ids=completion_ids,
            group=[place for place in range(len(own)) for _ in range(size)],
            rewards=torch.tensor(rewards, device=generated.lengths.device),
            mask=[[int(not out)] * len(ids) for out, ids in zip(left_out, completion_ids, strict=True)],
            logps=generated.logps[:count] if generated.logps is not None else None,
        ), metrics

    def _reward(self, verdict: bool | None, item: Solution) -> float:
        if self.verdict_reward == "binary":
            return binary_reward(verdict, item.correct)
        return dynamic_reward(verdict, item.correct, item.num_correct, item.num_incorrect)

    def _verdicts(
        self, trainer: TrainerView, asked: Sequence[dict[str, Any]], generated: GeneratedRollouts
    ) -> list[bool | None]:
        prompts = [row["prompt"] for row in asked for _ in range(len(generated) // len(asked))]
        opened = completions_open_reasoning(tokenizer_of(trainer.processing_class), prompts, generated.prompt_ids)
        return [
            read_verdict(completion_text(completion), truncated=is_truncated, reasoning_opened=is_opened)
            for completion, is_truncated, is_opened in zip(
                generated.completions, generated.truncated.tolist(), opened, strict=True
            )
        ]

    def _solutions(self, trainer: TrainerView, rollouts: Rollouts, local: LocalRollouts) -> list[Solution]:
        """Return the batch's solutions of known correctness, the same on every process. The dataset's other columns are not read."""
        tokenizer = tokenizer_of(trainer.processing_class)
        opened = completions_open_reasoning(tokenizer, local.prompts, local.prompt_ids)
        texts = [
            solution_after_reasoning(completion_text(completion), reasoning_opened=is_opened)
            for completion, is_opened in zip(local.completions, opened, strict=True)
        ]
        pairs = gather_object(list(zip(local.prompts, texts, strict=True)))
        correct = rollouts.by_group(rollouts.correct)
        counts = torch.stack([(correct == 1).sum(dim=1), (correct == 0).sum(dim=1)], dim=1)  # (groups, 2)
        counts = counts.repeat_interleave(rollouts.num_generations, dim=0)
        return [
            Solution(prompt, text, bool(verdict), num_correct, num_incorrect, rollouts.step)
            for (prompt, text), verdict, (num_correct, num_incorrect) in zip(
                pairs, rollouts.correct.tolist(), counts.tolist(), strict=True
            )
            if text is not None and verdict == verdict  # not NaN
        ]
