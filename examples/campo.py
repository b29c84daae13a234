# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with CAMPO: a generation limit that grows in stages, and a penalty for completions that end in a loop.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/campo.py

A real model on one GPU:

    accelerate launch examples/campo.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --max_completion_length 1024 --stage_steps 100 --output_dir outputs/campo

The authors' settings for a model of 7B parameters: `--config examples/configs/campo_7b.yaml`.

Time and memory: 55 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method campo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm \
        --max_completion_length 1024
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class CAMPOConfig(ConciseGRPOConfig):
    epsilon_high: float | None = field(default=0.28, metadata={"help": "Upper clip. 0.28 is CAMPO's."})
    repetition: str = field(
        default="paper",
        metadata={
            "help": "Penalty for completions that end in a loop: its share of the tokens, or 0.1 if truncated.",
            "choices": ["paper", "released", "none"],
        },
    )
    stage_limits: list[int] | None = field(
        default=None,
        metadata={"help": "Generation limit of each stage. Default: half of max_completion_length, then all of it."},
    )
    stage_steps: list[int] = field(
        default_factory=lambda: [1200], metadata={"help": "Optimizer steps of each stage but the last."}
    )
    max_refills: int = field(
        default=9, metadata={"help": "How often groups without a signal are replaced per generation batch."}
    )


@report_input_errors()
def main():
    script = TrainingScript(CAMPOConfig, output_dir="outputs/campo-demo", stage_steps=[50])
    args = script.training_args

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer, DynamicSampling
    from trl_concise.methods.campo import RepetitionReward, StagedBudget

    limit = args.max_completion_length
    rewards = [script.accuracy_reward()]
    if args.repetition != "none":
        rewards.append(RepetitionReward(args.repetition))
    trainer = ConciseGRPOTrainer(
        reward_funcs=rewards,
        group_filter=DynamicSampling(args.max_refills),
        budget_schedule=StagedBudget(args.stage_limits or [max(limit // 2, 1), limit], args.stage_steps),
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
