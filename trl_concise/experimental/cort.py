# SPDX-License-Identifier: Apache-2.0
"""
CoRT: code-integrated reasoning within thinking (2025, https://huggingface.co/papers/2506.09820).

The model writes Python blocks in its reasoning, an executor runs each of them, and the reasoning continues after the output. Compared with the
authors' code (https://github.com/ChengpengLi1003/CoRT at 337dbb7); docs/experimental/cort.md numbers the differences. Rules for hints and filters
are in [`code_traces`].
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor

from ..batch.generation import Generated
from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import GroupReward, Paper, Rollout, TrainerView
from ..components.base import context_of, tokenizer_of
from .code_blocks import CODE_FENCE, OUTPUT_FENCE, CodeCompletion
from .execution import Calculator, Executor, Outcome


logger = logging.getLogger(__name__)

CORT_PAPER = Paper(
    title="CoRT: Code-integrated Reasoning within Thinking",
    id="2506.09820",
    # docstyle-ignore
    citation="""\
@article{li2025cort,
    title        = {{CoRT: Code-integrated Reasoning within Thinking}},
    author       = {Chengpeng Li and others},
    year         = 2025,
    eprint       = {arXiv:2506.09820}
}""",
    reconstructed="the executors, failures by status, the exact mask, and the rules for hints, verification and distrust",
)
MAX_CALLS = 15  # the paper's; the authors' script has 12
OMEGA = 0.1
NUMBERS = ("calls", "failures", "calculation", "verification", "failures_by_words", "limit_reached", "wasted_tokens")


def fails_by_words(output: str) -> bool:
    """
    Say whether the authors' code takes an output for a failure: it is empty, `Done` or `[]`, or has one of three words.

    Examples:
        >>> fails_by_words("the error is 0.01"), fails_by_words("4")
        (True, False)
    """
    text = output.strip().lower()
    return text in ("", "done", "[]") or any(word in text for word in ("error", "exception", "traceback"))


def all_failed(calls: Any, failures: Any, release: bool) -> Any:
    """Return whether all executions of completions failed, from numbers or tensors. Without an execution, only `release` says so."""
    return (failures >= calls) & ((calls > 0) | release)


def code_penalty(outcomes: Sequence[Outcome], *, release: bool = False) -> float:
    r"""
    Return $R_c$: -1 if all executions of a completion failed, else 0.

    Args:
        outcomes (`Sequence[Outcome]`): Of its blocks.
        release (`bool`, *optional*, defaults to `False`): Whether to judge as the authors' code: by words in the output, and a completion
            without code is penalized too.

    Examples:
        >>> code_penalty([]), code_penalty([], release=True), code_penalty([Outcome("", "timeout"), Outcome("3", "ok")])
        (0.0, -1.0, 0.0)
    """
    failed = [fails_by_words(outcome.output) if release else outcome.failed for outcome in outcomes]
    return -1.0 if all_failed(len(failed), sum(failed), release) else 0.0


class CodeReasoning(Rollout):
    """
    Generates completions whose Python blocks are executed, in training and in evaluation.

    A round ends at the end token, at the budget, or at the first complete block while calls are left. The output of the block is appended, and
    the completion continues. Output tokens carry no loss and do not count in the length of a completion or in `max_completion_length`. Each
    completion keeps its variables from block to block.

    Reward functions receive the columns `calls`, `failures`, `calculation` and `verification` (executed blocks, by kind),
    `failures_by_words`, `limit_reached` and `wasted_tokens`.

    Args:
        executor ([`Executor`], *optional*): Executes a block: a callable of the blocks so far that returns output and status. Default:
            [`Calculator`].
        max_calls (`int`, *optional*, defaults to `15`): $T$, blocks that are executed per completion. 0 leaves generation to TRL.

    Raises:
        `ValueError`: If `max_calls` is below 0. When a trainer is built: if the tokenizer cannot write the fences of a block, there is no
            `max_completion_length`, or tools, environments or a `rollout_func` are given too.
        `TypeError`: If the executor cannot be called or, in training, returns anything but two texts.
    """

    name = "cort"
    paper = CORT_PAPER
    card_settings = ("executor",)
    needs_correctness = False
    text_only = True

    def __init__(self, executor: Executor | None = None, max_calls: int = MAX_CALLS):
        if max_calls < 0:
            raise ValueError(f"max_calls must be at least 0, got {max_calls}. 0 executes no code.")
        if executor is not None and (not callable(executor) or isinstance(executor, type)):
            raise TypeError(
                f"executor must be an object such as Calculator() that can be called with blocks, got {executor!r}. Create an object of the class."
            )
        self.executor = executor if executor is not None else Calculator()
        self.max_calls = max_calls
        self.in_training = self.in_evaluation = max_calls > 0
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        if trainer.max_completion_length is None:
            raise ValueError("CodeReasoning needs max_completion_length, the tokens that the model may write. Set it.")
        if trainer.watch_losses is not None and self.max_calls:
            logger.warning(
                "watch_dataset is completed without executing code, so a model that writes blocks loses accuracy there. Pass it as eval_dataset, "
                "whose blocks are executed."
            )
        self._tokenizer = tokenizer_of(trainer.processing_class)
        check_fences(self._tokenizer)

    def generate(self, trainer: TrainerView, rows: list[dict[str, Any]]) -> Generated:
        limit = trainer.max_completion_length
        assert limit is not None  # see `attach`
        context = context_of(trainer)
        longest = [context - len(ids) for ids in trainer.tokenize_prompts([row["prompt"] for row in rows])]
        completions = [CodeCompletion() for _ in rows]
        open_rows = list(range(len(rows)))

        def room(row: int) -> int:
            own = completions[row]
            return int(max(1, min(limit - own.written, longest[row] - len(own.ids))))

        # As many rows on every process, until none is left on any: generation is collective.
        while count := self._most(trainer, len(open_rows)):
            fillers = count - len(open_rows)
            rooms = [room(row) for row in open_rows]
            drawn = trainer.generate_rollouts(
                [rows[row] for row in [*open_rows, *[0] * fillers]],
                1,
                prefix_ids=[*(completions[row].ids for row in open_rows), *[[]] * fillers],
                max_tokens=max(rooms, default=1),
            )
            for i, row in enumerate(open_rows):
                logps = drawn.logps[i] if drawn.logps is not None else None
                completions[row].continue_with(
                    drawn.completion_ids[i], logps, self._tokenizer, trainer.end_token_ids, rooms[i], self.max_calls
                )
            CodeCompletion.execute(completions, self.executor, self._tokenizer, self.max_calls, longest)
            open_rows = [row for row in open_rows if not completions[row].done]
            has_logps = drawn.logps is not None
        numbers = [self._numbers(own) for own in completions]
        return Generated(
            completion_ids=[own.ids for own in completions],
            logps=[own.logps for own in completions] if has_logps else None,
            mask=[own.mask for own in completions],
            numbers={name: [own[i] for own in numbers] for i, name in enumerate(NUMBERS)},
        )

    @staticmethod
    def _most(trainer: TrainerView, count: int) -> int:
        return int(gather(torch.tensor([count], device=trainer.accelerator.device)).max())

    def _numbers(self, own: CodeCompletion) -> tuple[float, ...]:
        """Return `NUMBERS` of a completion."""
        by_words = sum(fails_by_words(outcome.output) for outcome in own.outcomes)
        counts = (own.calls, own.failures, own.kinds.count("calculation"), own.kinds.count("verification"), by_words)
        return (*map(float, counts), float(own.calls == self.max_calls), float(own.wasted))

    def observe(self, rollouts: Rollouts) -> None:
        measured = rollouts.measured.get(self.name)
        if not measured:  # TRL has generated
            self._metrics = {}
            return
        calls = measured["calls"].sum().item()
        self._metrics = {
            "calls": measured["calls"].mean().item(),
            "failed_share": measured["failures"].sum().item() / calls if calls else math.nan,
            "used_share": (measured["calls"] > 0).float().mean().item(),
            "calculation_share": measured["calculation"].sum().item() / calls if calls else math.nan,
            "limit_reached": measured["limit_reached"].mean().item(),
            "wasted_tokens": measured["wasted_tokens"].mean().item(),
        }


def check_fences(tokenizer: Any) -> None:
    """
    Raises:
        `ValueError`: If the tokenizer cannot write the fences of a block.
    """
    for fence in (CODE_FENCE, OUTPUT_FENCE):
        ids = tokenizer(fence, add_special_tokens=False).input_ids
        if (read := tokenizer.decode(ids)) != fence:
            raise ValueError(
                f"The tokenizer reads {fence!r} as {read!r}, so a block cannot be found in what the model writes. Use a model whose tokenizer "
                "keeps backticks and line breaks."
            )


class CodeExecutionReward(GroupReward):
    r"""
    The reward $\omega R_c$: $-\omega$ for a completion of which all executed blocks failed, 0 otherwise. With a correctness reward of weight 1 it
    makes $R = R_a + \omega R_c$.

    It reads `calls` and `failures`, of [`CodeReasoning`] or of a `rollout_func` that returns them, and is 0 where there are none.

    Args:
        omega (`float`, *optional*, defaults to `0.1`): $\omega$, at least 0. The authors found 0.5 unstable.
        release (`bool`, *optional*, defaults to `False`): Whether to judge as the authors' code, see [`code_penalty`]. It reads
            `failures_by_words` in place of `failures`.

    Raises:
        `ValueError`: If `omega` is below 0 or not finite.
    """

    name = "code_execution"
    paper = CORT_PAPER
    needs_correctness = False

    def __init__(self, omega: float = OMEGA, release: bool = False):
        if not 0 <= omega < math.inf:
            raise ValueError(f"omega must be at least 0 and finite, got {omega}: it is the size of a penalty.")
        self.omega = omega
        self.release = release
        self._metrics: dict[str, float] = {}

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        failures = "failures_by_words" if self.release else "failures"
        none = [0.0] * len(local.lengths)  # TRL generates, and executes nothing
        numbers = {"calls": local.columns.get("calls", none), "failures": local.columns.get(failures, none)}
        return {name: torch.tensor(values, device=local.lengths.device) for name, values in numbers.items()}

    def score(self, rollouts: Rollouts) -> Tensor:
        return -self.omega * self._all_failed(rollouts).float()

    def observe(self, rollouts: Rollouts) -> None:
        self._metrics = {"penalized": self._all_failed(rollouts).float().mean().item()}

    def _all_failed(self, rollouts: Rollouts) -> Tensor:
        measured = rollouts.measured[self.name]
        return all_failed(measured["calls"], measured["failures"], self.release)
