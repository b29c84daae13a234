# SPDX-License-Identifier: Apache-2.0
"""
Delethink: reasoning in chunks of a fixed size (Aghajohari et al., 2025, https://huggingface.co/papers/2510.06557).

After each chunk, the context is reset to the prompt and a short part of what was written, so that cost and memory grow linearly with the
length of the reasoning. It bounds the context; it does not shorten completions. Compared with the authors' code
(https://github.com/McGill-NLP/the-markovian-thinker).

Differences from the authors' code:
  1. What is carried over follows from the size of a chunk; theirs is 100 and 3,996 tokens, for chunks of 8,192.
  2. The budget is `max_completion_length`, which need not be a whole number of chunks; theirs is a number of chunks.
  3. `math_accuracy_reward` gives 0 to a completion that reaches the budget; theirs scores its text.
  4. The mean is over the completions of a generation batch, which optimizer steps divide by rows; theirs is over those of a step.
  5. With vLLM, the correction of TRL is per chunk where it is per sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather

from ..batch.chunks import check_chunks
from ..batch.generation import Chunk, Generated
from ..batch.rollouts import Rollouts
from ..components import Paper, Rollout, TrainerView
from ..evaluation.chunks import Chunking


DELETHINK_PAPER = Paper(
    title="The Markovian Thinker: Architecture-Agnostic Linear Scaling of Reasoning",
    id="2510.06557",
    # docstyle-ignore
    citation="""\
@article{aghajohari2025markovian,
    title        = {{The Markovian Thinker: Architecture-Agnostic Linear Scaling of Reasoning}},
    author       = {Milad Aghajohari and Kamran Chitsaz and Amirhossein Kazemnejad and Sarath Chandar and Alessandro Sordoni and Aaron Courville and Siva Reddy},
    year         = 2025,
    eprint       = {arXiv:2510.06557}
}""",
)


def context_costs(prompt: int, chunks: Sequence[tuple[int, int]]) -> tuple[int, int]:
    r"""
    Return what a completion costs in context.

    Args:
        prompt (`int`): Tokens of the prompt.
        chunks (`Sequence[tuple[int, int]]`): Carried and written tokens of each chunk.

    Returns:
        `tuple[int, int]`: The tokens before each written token, summed over all of them, to which the cost of attention is proportional;
        and the tokens of the longest context, to which the memory of the cache is proportional.

    Examples:
        >>> context_costs(10, [(0, 8)]), context_costs(10, [(0, 4), (2, 2), (2, 2)])
        ((108, 18), (96, 14))
    """
    read = sum(own * (prompt + carried) + own * (own - 1) // 2 for carried, own in chunks)
    return read, prompt + max(carried + own for carried, own in chunks)


class Delethink(Rollout):
    """
    Generates completions in chunks, in training and in evaluation.

    `max_completion_length` is the limit of the whole completion: for at most $I$ chunks, `Chunking(chunk_size).budget(I)`. No forward pass
    sees more than the prompt and `chunk_size` tokens. Reward functions see the carried tokens and the last chunk as the completion, whose
    tokens carry no loss where they are carried; the chunks before are further rows with the same advantage. Lengths are those of the whole
    completion, for group rewards and in the metrics. Reward functions receive the columns `chunks` and `written`, the number of
    chunks and of tokens that the model wrote.

    Args:
        chunk_size (`int`): See [`Chunking`]. The authors' is 8,192.
        keep_head (`int`, *optional*, defaults to `100`): See [`Chunking`].

    Raises:
        `ValueError`: If a number is out of range. When a trainer is built: if `max_completion_length` is not larger than a chunk, a
            setting of the loss weighs tokens by row (see the documentation), or a component reads token ids, or measures completions that are
            not generated in chunks.
    """

    name = "delethink"
    paper = DELETHINK_PAPER
    needs_correctness = False
    text_only = True
    in_evaluation = True
    bounds_context = True

    def __init__(self, chunk_size: int, keep_head: int = 100):
        self.chunking = Chunking(chunk_size, keep_head)
        self.chunk_size = chunk_size
        self.keep_head = keep_head
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        limit = trainer.max_completion_length
        if (limit or 0) <= self.chunk_size:
            raise ValueError(
                f"max_completion_length = {limit} is the limit of a whole completion and must be larger than chunk_size = {self.chunk_size}: "
                f"for two chunks it is {self.chunking.budget(2)}. Raise it, or lower chunk_size."
            )
        check_chunks(trainer, type(self).__name__)
        if reading := [type(one).__name__ for one in trainer.components if one.reads_tokens]:
            raise ValueError(
                f"{', '.join(reading)} reads the tokens of completions, or generates others, but with Delethink it would see the last chunk "
                "only. Leave one of them out."
            )
        if trainer.watch_losses is not None:
            raise ValueError(
                "watch_dataset is completed without chunks, in contexts of max_completion_length tokens. Pass it as eval_dataset, which "
                "Delethink generates in chunks."
            )

    def generate(self, trainer: TrainerView, rows: list[dict[str, Any]]) -> Generated:
        limit = trainer.max_completion_length
        assert limit is not None  # see `attach`
        done: list[list[Chunk]] = [[] for _ in rows]
        contexts: list[int] = []
        open_rows, written = list(range(len(rows))), 0
        # As many rows on every process, until none is left on any: generation is collective.
        while count := self._most(trainer, len(open_rows)):
            drawn_rows = [*open_rows, *[0] * (count - len(open_rows))]
            tokens = min(self.chunking.limit(written), limit - written)
            carried = [self.chunking.trim(done[row][-1].completion_ids) if written else [] for row in open_rows]
            rollouts = trainer.generate_rollouts(
                [rows[row] for row in drawn_rows],
                1,
                prefix_ids=[*carried, *[[]] * (count - len(open_rows))],
                max_tokens=tokens,
            )
            written += tokens
            if not contexts:
                contexts = [len(ids) for ids in rollouts.prompt_ids]
            still_open = []
            for i, (row, cut) in enumerate(zip(open_rows, carried, strict=True)):
                own = rollouts.completion_ids[i]
                logps = [math.nan] * len(cut) + rollouts.logps[i] if rollouts.logps is not None else None
                done[row].append(Chunk([*cut, *own], [0] * len(cut) + [1] * len(own), logps))
                if len(own) == tokens and own[-1] not in trainer.end_token_ids and written < limit:
                    still_open.append(row)
            open_rows = still_open
        return self._join(done, contexts)

    @staticmethod
    def _most(trainer: TrainerView, count: int) -> int:
        return int(gather(torch.tensor([count], device=trainer.accelerator.device)).max())

    @staticmethod
    def _join(done: list[list[Chunk]], prompts: list[int]) -> Generated:
        last = [chunks[-1] for chunks in done]
        costs = [
            context_costs(prompt, [(len(chunk.mask) - sum(chunk.mask), sum(chunk.mask)) for chunk in chunks])
            for prompt, chunks in zip(prompts, done, strict=True)
        ]
        has_logps = last[0].logps is not None
        return Generated(
            completion_ids=[chunk.completion_ids for chunk in last],
            logps=[chunk.logps or [] for chunk in last] if has_logps else None,
            mask=[chunk.mask for chunk in last],
            numbers={
                "chunks": [float(len(chunks)) for chunks in done],
                "written": [float(sum(sum(chunk.mask) for chunk in chunks)) for chunks in done],
                "context_read": [float(read) for read, _ in costs],
                "peak_context": [float(peak) for _, peak in costs],
            },
            chunks=[chunks[:-1] for chunks in done],
        )

    def observe(self, rollouts: Rollouts) -> None:
        measured = rollouts.measured[self.name]
        self._metrics = {
            "chunks": measured["chunks"].mean().item(),
            "continued_fraction": (measured["chunks"] > 1).float().mean().item(),
            "context_read": measured["context_read"].mean().item(),
            "peak_context": measured["peak_context"].max().item(),
        }
