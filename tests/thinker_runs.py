# SPDX-License-Identifier: Apache-2.0
"""Runs of Thinker in which the model's turns are a function of the dialogue, and everything else is real."""

from __future__ import annotations

import zlib
from typing import Any

from datasets import Dataset

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, math_accuracy_reward
from trl_concise.methods.thinker import Thinker


END = "<|im_end|>"  # the tiny model's EOS
SAYS = {"verification": "Sure?", "slow": "Think again.", "summary": "Sum up."}
LIMIT = 24  # tokens of every turn, which are bytes


def problems(count: int = 6) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"{i}? Be brief."}], "prompt_id": f"p{i}", "solution": "3"}
            for i in range(count)
        ]
    )


def component(**changes: Any) -> Thinker:
    budgets = {f"{turn}_tokens": LIMIT for turn in SAYS}
    return Thinker(**budgets, **{f"{turn}_instruction": text for turn, text in SAYS.items()} | changes)


def fast_text(step: int, row: int) -> str:
    """Return the fast answer of a row of the gathered batch: correct in about half of the rows, too long in every seventh."""
    tail = "." * LIMIT if row % 7 == 6 else ""
    return f"{step} {row}: \\boxed{{{3 + (row // 2 + step) % 2}}}{tail}{END}"


def later_text(dialogue: str) -> str:
    """Return what the model writes after a dialogue: a verdict, an answer that may be wrong, or something too long."""
    said = [turn for turn, text in SAYS.items() if text in dialogue]
    number = zlib.crc32(dialogue.encode()) // 7
    if number % 11 == 0:
        return "." * 2 * LIMIT
    if said == ["verification"]:
        return ["\\boxed{Yes}", "\\boxed{No}", "Hm."][number % 3] + END
    return f"\\boxed{{{3 + number % 2}}}{END}"


class Scripted(ConciseGRPOTrainer):
    """Writes [`fast_text`] for the batch, and [`later_text`] for whatever else is generated; keeps those dialogues in `asked`."""

    def _generate(self, prompts):
        self.is_batch = True
        return super()._generate(prompts)

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        if self.__dict__.pop("is_batch", False):
            first = self.accelerator.process_index * len(prompt_ids)
            texts = [fast_text(self.state.global_step, first + i) for i in range(len(prompt_ids))]
        else:
            dialogues = [self.processing_class.decode(ids) for ids in prompt_ids]
            texts = list(map(later_text, dialogues))
            self.__dict__.setdefault("asked", []).append(list(zip(dialogues, texts, strict=True)))
        ids = [self.processing_class(text)["input_ids"][: self.max_completion_length] for text in texts]
        return ids, None


def train(
    model: str,
    folder,
    *,
    thinker: Thinker | None = None,
    reward=math_accuracy_reward,
    trainer_class=Scripted,
    resume: str | None = None,
    dataset: Dataset | None = None,
    more: dict[str, Any] | None = None,
    **changes: Any,
):
    """Train for some steps, two groups of four a step, and return the trainer."""
    settings = {"max_completion_length": LIMIT, "max_steps": 4, "learning_rate": 1e-2, **changes}
    trainer = trainer_class(
        model,
        [reward],
        ConciseGRPOConfig(**tiny.settings(folder, **settings)),
        dataset or problems(),
        advantage=thinker or component(),
        **(more or {}),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer
