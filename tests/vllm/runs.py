# SPDX-License-Identifier: Apache-2.0
"""A short run with vLLM, and what must hold of every one."""

from __future__ import annotations

import math
from typing import Any

import torch

from trl_concise import demo, math_accuracy_reward


def settings(output_dir, mode: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_vllm": True,
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 96,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-3,
        "gradient_checkpointing": False,
        **mode,
        **changes,
    }


def train(
    trainer_class,
    config_class,
    model,
    mode,
    output_dir,
    *,
    peft_config=None,
    rows=16,
    resume=None,
    watch_dataset=None,
    train_dataset=None,
    slots=None,
    **changes,
):
    """Train, check the logs, and return the trainer and its logs."""
    trainer = trainer_class(
        model,
        [math_accuracy_reward],
        args=config_class(**settings(output_dir, mode, **changes)),
        train_dataset=demo.train_dataset(rows) if train_dataset is None else train_dataset,
        peft_config=peft_config,
        watch_dataset=watch_dataset,
        **(slots or {}),
    )
    trainer.train(resume_from_checkpoint=resume)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == trainer.args.max_steps
    assert all(math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"]) for entry in logs)
    if trainer.vllm_importance_sampling_correction:  # otherwise not logged
        name = "sampling/sampling_logp_difference/max"  # in the first step of each generation batch
        assert max(entry[name] for entry in logs if name in entry) < 1e-3
    return trainer, logs


def assert_engine_is_policy(trainer, rows: int = 4) -> None:
    """After training, the engine continues prompts greedily exactly as the policy does."""
    trainer.vllm_generation.sync_weights()
    trainer._last_loaded_step = trainer.state.global_step
    generated = trainer.generate_rollouts([trainer.train_dataset[row] for row in range(rows)], 1, greedy=True)
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    for prompt, completion in zip(generated.prompt_ids, generated.completion_ids, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == completion
