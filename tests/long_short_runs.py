# SPDX-License-Identifier: Apache-2.0
"""Runs of Long(x)Short in which the turns are a function of the dialogue, and everything else is real."""

from __future__ import annotations

import zlib
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset
from transformers import Qwen2Tokenizer

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.experimental.long_short import (
    LongShortLengthReward,
    LongShortRollout,
    long_short_accuracy,
    long_short_format,
)


END = "<|im_end|>"  # the tiny model's EOS
LIMIT = 40  # tokens of every turn, which are bytes
# Turns of the policy: well formed, wrong, without an end, with text after the tag, without the opening tag, with a box, blank.
LONG = (
    f"<think>1+2=3</think>{END}",
    f"<think>1+2=4</think>{END}",
    "<think>1+2=3, so 1+2=3, so 1+2=3, so 1+2=3",
    f"<think>=3</think> and more{END}",
    f"=3</think>{END}",
    f"<think>\\boxed{{3}}</think>{END}",
    f"<think> </think>{END}",
)
SHORT = (
    f"<answer>\\boxed{{3}}</answer>{END}",
    f"<answer>That differs.</rethink>{END}",
    f"<answer>\\boxed{{4}}</answer>{END}",
    f"<answer>\\boxed{{3}}</answer></answer>{END}",
    f"\\boxed{{3}}</answer>{END}",
    f"<answer>a<b \\boxed{{3}}</answer>{END}",
    "<answer>1+2=3, so 1+2=3, so 1+2=3, so 1+2=3",
)


def problems(count: int = 6) -> Dataset:
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"{i}?"}], "prompt_id": f"p{i}", "solution": "3"}
            for i in range(count)
        ]
    )


def later_text(dialogue: str, texts: tuple[str, ...]) -> str:
    """Return the turn that follows a dialogue."""
    return texts[zlib.crc32(dialogue.encode()) // 7 % len(texts)]


class ScriptedPartner:
    """A sampler that writes [`later_text`], or always the same; keeps what it was asked in `asked`."""

    end_token_ids = frozenset({0, 2})

    def __init__(self, texts: tuple[str, ...] = (f"<answer>\\boxed{{3}}</answer>{END}",)):
        self.texts = texts
        self.asked: list[list[list[int]]] = []

    @cached_property
    def tokenizer(self):
        with TemporaryDirectory() as folder:  # as that of a saved tiny model, with the token that its class adds
            tiny.make_tokenizer().save_pretrained(folder)
            return Qwen2Tokenizer.from_pretrained(folder)

    def sample(self, prompts, settings):
        self.asked.append([list(prompt) for prompt in prompts])
        texts = [later_text(self.tokenizer.decode(prompt), self.texts) for prompt in prompts]
        return [self.tokenizer(text)["input_ids"][: settings.max_new_tokens] for text in texts]


class Noted(LongShortRollout):
    """Keeps what it has generated, and the rows."""

    def generate(self, trainer, rows):
        generated = super().generate(trainer, rows)
        self.__dict__.setdefault("seen", []).append(([dict(row) for row in rows], generated))
        return generated


class Scripted(ConciseGRPOTrainer):
    """Writes the turn that is trained by its row, and later ones by the dialogue."""

    def _generate(self, prompts):
        self.is_first = True
        return super()._generate(prompts)

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        texts = LONG if self.rollout.role == "long" else SHORT
        written = [later_text(self.processing_class.decode(ids), texts) for ids in prompt_ids]
        if self.__dict__.pop("is_first", False):
            first = self.accelerator.process_index * len(prompt_ids)
            written = [texts[(first + i + self.state.global_step) % len(texts)] for i in range(len(prompt_ids))]
        ids = [self.processing_class(text)["input_ids"][: self.max_completion_length] for text in written]
        return ids, [[-1.0 - place for place in range(len(row))] for row in ids]


def build(
    model: str,
    folder,
    role: str,
    partner: Any = None,
    *,
    rollout: dict[str, Any] | None = None,
    length: str = "own",
    trainer_class=Scripted,
    dataset: Dataset | None = None,
    slots: dict[str, Any] | None = None,
    rewards: list | None = None,
    peft_config=None,
    **changes: Any,
):
    """Return a trainer of one role: two groups of four a step."""
    settings = {"max_completion_length": LIMIT, "max_steps": 2, "learning_rate": 1e-2, **changes}
    partner = ScriptedPartner(SHORT if role == "long" else LONG) if partner is None else partner
    own = Noted(role, partner, **{"max_turns": 3, "partner_tokens": LIMIT, **(rollout or {})})
    default = [long_short_accuracy, long_short_format, LongShortLengthReward(length)]
    return trainer_class(
        model,
        rewards if rewards is not None else default,
        ConciseGRPOConfig(**tiny.settings(folder, **{"correctness": "long_short_accuracy", **settings})),
        problems() if dataset is None else dataset,
        rollout=own,
        peft_config=peft_config,
        **(slots or {}),
    )
