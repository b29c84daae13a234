# SPDX-License-Identifier: Apache-2.0
"""
Train with self-verification on three groups of four completions a step, and scripted verdicts. With two processes, the second group straddles
both, and they share the verifications of three solutions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from tests import slot_rows, tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.generation import GeneratedRollouts
from trl_concise.methods.self_verify import SelfVerification
from trl_concise.verification.verdicts import CUE


REFERENCE = "the reference answer"
PROBLEMS = Dataset.from_list(
    [
        {"prompt": [{"role": "user", "content": f"Problem {i}"}], "prompt_id": f"p{i}", "solution": REFERENCE}
        for i in range(6)
    ]
)
VERDICTS = ("Yes", "No", "I cannot say")


class Recorded(SelfVerification):
    """Keeps what it returns, and what it asked about."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.returned: list[tuple[int, list[Any], Any]] = []

    def _verify(self, trainer, drawn, step):
        rows, metrics = super()._verify(trainer, drawn, step)
        self.returned.append((step, list(drawn), rows))
        return rows, metrics


class ScriptedTrainer(ConciseGRPOTrainer):
    """Writes verdicts that depend on the prompt and on the place in the group, in place of the model."""

    def generate_rollouts(self, rows, n, **options):
        assert not options
        tokenizer = self.processing_class
        self.__dict__.setdefault("generated", []).append(len(rows))
        prompts = [row["prompt"] for row in rows for _ in range(n)]
        prompt_ids = self.tokenize_prompts(prompts)
        texts = [f"{CUE} {VERDICTS[(sum(ids) + i % n) % 3]}" for i, ids in enumerate(prompt_ids)]
        completion_ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
        truncated = [sum(ids) % 5 == 0 for ids in prompt_ids]
        return GeneratedRollouts(
            prompt_ids=prompt_ids,
            prefix_ids=[[]] * len(prompt_ids),
            completion_ids=completion_ids,
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            lengths=torch.tensor([len(ids) - 1 for ids in completion_ids]),
            truncated=torch.tensor(truncated),
        )


def rollout(prompts, trainer) -> dict[str, Any]:
    """A TRL `rollout_func` that answers with digits, the same however many processes share the prompts."""
    first, step = trainer.accelerator.process_index * len(prompts), trainer.state.global_step
    texts = [str(10 + (7 * (first + i) + step) % 17) for i in range(len(prompts))]
    tokenizer = trainer.processing_class
    return {
        "prompt_ids": trainer.tokenize_prompts(prompts),
        "completion_ids": [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts],
        "logprobs": None,
    }


def correct_if_even(completions, solution, **kwargs):
    assert set(solution) == {REFERENCE}
    return [None if text == "23" else float(int(text) % 2 == 0) for text in (own[0]["content"] for own in completions)]


def build(model: str, folder: Path, component: SelfVerification | None = None, **changes: Any) -> ScriptedTrainer:
    settings = {
        "per_device_train_batch_size": 12,
        "max_steps": 6,
        "num_iterations": 2,
        "beta": 0.1,
        "mask_truncated_completions": True,
    }
    return ScriptedTrainer(
        model,
        correct_if_even,
        ConciseGRPOConfig(**tiny.settings(folder, **{**settings, **changes})),
        PROBLEMS,
        advantage=component or Recorded(buffer_size=20, max_age=4),
        rollout_func=rollout,
    )


def report(trainer: ScriptedTrainer) -> dict[str, Any]:
    (component,) = trainer.components
    return {
        "world_size": trainer.accelerator.num_processes,
        "state": {
            name: value.tolist() if isinstance(value, torch.Tensor) else value
            for name, value in component.state_dict().items()
        },
        "asked": [[item.text for item in drawn] for _, drawn, _ in component.returned],
        "generated": trainer.generated,
        "rows": [len(rows) if rows is not None else 0 for _, _, rows in component.returned],
        "logged": slot_rows.logged(trainer),
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = build(model, Path(folder), per_device_train_batch_size=6)
    trainer.train()
    Path(folder, f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(report(trainer)))
