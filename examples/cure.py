# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with CURE: completions are continued again from a token at which the model was uncertain.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/cure.py

A real model on one GPU, then stage 2, which is DAPO from the model of stage 1:

    accelerate launch examples/cure.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --per_device_train_batch_size 16 --output_dir outputs/cure-1
    accelerate launch examples/cure.py --stage 2 --model_name_or_path outputs/cure-1 --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --per_device_train_batch_size 16 --output_dir outputs/cure-2

The authors' settings: `--config examples/configs/cure_stage_1.yaml`, then `--config examples/configs/cure_stage_2.yaml`.

Time and memory: 56 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method cure --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm \
        --num_generations 16 --per_device_train_batch_size 16
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class CUREConfig(ConciseGRPOConfig):
    stage: int = field(default=1, metadata={"help": "1: CURE. 2: DAPO, from the model of stage 1.", "choices": [1, 2]})
    sources: int = field(default=4, metadata={"help": "Completions of a group that are sampled from the prompt."})
    forks: int = field(default=3, metadata={"help": "Completions that continue a prefix of each of them."})
    critical_top_k: int = field(
        default=20, metadata={"help": "Number of tokens of highest entropy from which the critical token is drawn."}
    )
    ordering: str = field(
        default="entropy", metadata={"help": "Order of the tokens.", "choices": ["entropy", "random"]}
    )
    min_characters: int = field(default=2, metadata={"help": "Smallest number of characters of a critical token."})
    max_prompt_length: int = field(
        default=1500, metadata={"help": "Largest length of prompt and prefix together, in tokens."}
    )
    max_refills: int = field(
        default=2, metadata={"help": "How often groups without a signal are replaced per generation batch. Paper: 9."}
    )
    overlong_buffer: int = field(
        default=0,
        metadata={"help": "Tokens before the limit in which a penalty grows from 0 to 1; 0: none. Paper: 512."},
    )


OF_STAGE_1 = {"sources", "forks", "critical_top_k", "ordering", "min_characters", "max_prompt_length"}


@report_input_errors()
def main():
    # No KL term, and the clips of DAPO; the demo's settings have others.
    script = TrainingScript(
        CUREConfig,
        output_dir="outputs/cure-demo",
        num_generations=16,
        beta=0.0,
        epsilon_high=0.28,
        delta=10.0,
    )
    args = script.training_args

    from trl.rewards import (
        get_soft_overlong_punishment,  # after the command line: --help does not wait
    )

    from trl_concise import ConciseGRPOTrainer, DynamicSampling
    from trl_concise.methods.cure import CURE

    rollout = None
    if args.stage == 1:
        settings = (args.critical_top_k, args.ordering, args.min_characters, args.max_prompt_length)
        rollout = CURE(args.sources, args.forks, *settings)
    elif unused := sorted(OF_STAGE_1 & set(script.given)):
        raise ValueError(f"--{unused[0]} has no effect with --stage 2, which is DAPO. Leave it out, or use --stage 1.")
    rewards = [script.accuracy_reward()]
    if args.overlong_buffer:
        rewards.append(get_soft_overlong_punishment(args.max_completion_length, args.overlong_buffer))
    trainer = ConciseGRPOTrainer(
        reward_funcs=rewards,
        rollout=rollout,
        group_filter=DynamicSampling(args.max_refills),
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
