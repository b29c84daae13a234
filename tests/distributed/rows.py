# SPDX-License-Identifier: Apache-2.0
"""
Train with a component that adds rows, of which each process has another number, and with T-SPMO's replay.

Groups straddle the processes. Every process writes what it logged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate.utils import gather_object
from datasets import Dataset

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, GroupReward, TSPMOConfig, TSPMOTrainer
from trl_concise.batch.rows import Rows


class Verify(GroupReward):
    """Ask for a judgment of every third completion of the whole batch: a row whose prompt is the completion."""

    name = "verify"

    def score(self, rollouts):
        return torch.zeros(len(rollouts))

    def rows(self, trainer, rollouts, local):
        chosen = [row for row in range(len(local.completion_ids)) if (rollouts.local.start + row) % 3 == 0]
        if not chosen:
            return None
        ids = [local.completion_ids[row] for row in chosen]
        return Rows(
            prompt_ids=[[5, *tokens] for tokens in ids for _ in range(2)],
            completion_ids=[[6 + answer] * (1 + answer) for _ in ids for answer in range(2)],
            group=[row for row in chosen for _ in range(2)],
            rewards=torch.tensor([float(sum(tokens) % 2 == answer) for tokens in ids for answer in range(2)]),
        )


def lengths(model: str, folder: Path, rows_per_process: int, **changes) -> dict:
    problems = Dataset.from_list([{"prompt": f"{row} + {row}?"} for row in range(8)])
    settings = tiny.settings(folder, per_device_train_batch_size=rows_per_process, max_steps=3, **changes)
    trainer = ConciseGRPOTrainer(
        model,
        [tiny.even_reward, Verify()],
        ConciseGRPOConfig(**settings),
        problems,
        rollout_func=_rollout,
    )
    trainer.train()
    return report(trainer)


def _rollout(prompts, trainer):
    """Answer a prompt with tokens that depend on the prompt and on the place in its group, not on the process."""
    start = trainer.accelerator.process_index * len(prompts)
    ids = [
        [10 + (7 * int(prompt.split()[0]) + 3 * ((start + i) % trainer.num_generations)) % 60] * (1 + (start + i) % 5)
        + [2]
        for i, prompt in enumerate(prompts)
    ]
    return {"prompt_ids": [[5, 6, 7]] * len(prompts), "completion_ids": ids, "logprobs": None}


def replay(model: str, folder: Path, rows_per_process: int) -> dict:
    problems = Dataset.from_list([{"prompt": f"{row}?"} for row in range(6)])
    args = TSPMOConfig(
        **tiny.settings(
            folder,
            per_device_train_batch_size=rows_per_process,
            num_generations=4,
            replay_per_prompt=1,
            replay_group_size=3,
            beta=0.05,
        )
    )
    trainer = TSPMOTrainer(model, tiny.even_reward, args, problems)
    trainer.train()
    return report(trainer)


class SharedEngine(ConciseGRPOTrainer):
    """Generates as TRL does with a vLLM server: all prompts together, and each process takes an equal share of what is returned."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations):
        together = gather_object(prompt_ids)
        completions = [[*prompt, 2] for prompt in together]
        start = self.accelerator.process_index * len(prompt_ids)
        own = completions[start : start + len(prompt_ids)]
        return own, [[-1.0] * len(ids) for ids in own]


def uneven(model: str, folder: Path) -> list:
    """Return prompts and completions of as many rows as the number of the process, from 1."""
    problems = Dataset.from_list([{"prompt": f"{row}?"} for row in range(6)])
    trainer = SharedEngine(model, tiny.even_reward, ConciseGRPOConfig(**tiny.settings(folder)), problems)
    trainer.use_vllm = True
    trainer.vllm_generation = SimpleNamespace(max_completion_length=8, generation_kwargs={})
    process = trainer.accelerator.process_index
    generated = trainer.generate_rollouts([{"prompt": f"{process} {i}?"} for i in range(process + 1)], 2)
    return [generated.prompt_ids, generated.completion_ids, generated.logps]


def report(trainer) -> dict:
    return {
        "world_size": trainer.accelerator.num_processes,
        "logged": [
            {name: log[name] for name in ("loss", "grad_norm")} for log in trainer.state.log_history if "loss" in log
        ],
    }


if __name__ == "__main__":
    import torch.distributed

    model, folder = sys.argv[1:]
    found = {
        "plain": lengths(model, Path(folder) / "plain", rows_per_process=6),
        "reference": lengths(model, Path(folder) / "reference", rows_per_process=6, beta=0.1, num_iterations=2),
        "uneven": uneven(model, Path(folder) / "uneven"),
        "replay": replay(model, Path(folder) / "replay", rows_per_process=6),
    }
    Path(folder, f"rank{torch.distributed.get_rank()}.json").write_text(json.dumps(found))
