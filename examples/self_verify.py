# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with self-verification: the model solves problems, and judges solutions that it has written before.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after. At the start, the
embedded model is trained for a minute or two to write verdicts:

    accelerate launch examples/self_verify.py
    trl-concise eval outputs/self-verify-demo demo --num_completions 8 --vote verify --max_new_tokens 128 --temperature 1 \
        --output_dir outputs/self-verify-demo/eval

A real model on one GPU. vLLM's context must hold a solution and its verification:

    accelerate launch examples/self_verify.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --vllm_max_model_length 2048 --output_dir outputs/self-verify

Time and memory: 58 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet. The plan is made for twice the rows, because
the verifications are in the micro-batch too, and for prompts that contain a solution:

    trl-concise plan --method self_verify --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm \
        --per_device_train_batch_size 16 --max_prompt_length 1024
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl_concise import ConciseGRPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


@dataclass
class SelfVerifyConfig(ConciseGRPOConfig):
    verification_ratio: float = field(default=1.0, metadata={"help": "Verification prompts per problem of a batch."})
    verdict_reward: str = field(
        default="dynamic",
        metadata={
            "help": "Reward of right verdicts: larger for the rarer class of a group (dynamic), or 1 (binary).",
            "choices": ["dynamic", "binary"],
        },
    )
    buffer_size: int = field(default=5000, metadata={"help": "Solutions that the buffer holds."})
    max_age: int = field(default=60, metadata={"help": "Steps after which a solution leaves the buffer."})
    demo_steps: int = field(
        default=400, metadata={"help": "Of the demo: steps that teach the embedded model to write verdicts."}
    )


@report_input_errors()
def main():
    script = TrainingScript(SelfVerifyConfig, output_dir="outputs/self-verify-demo")
    args, model_args = script.training_args, script.model_args

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.methods.self_verify import SelfVerification

    component = SelfVerification(args.verification_ratio, args.verdict_reward, args.buffer_size, args.max_age)
    if model_args.model_name_or_path == str(demo.model_path()):
        start = demo.verifier_model(Path(args.output_dir, "verifier-model"), steps=args.demo_steps)
        model_args.model_name_or_path = str(start)
    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(), advantage=component, **script.trainer_arguments()
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
