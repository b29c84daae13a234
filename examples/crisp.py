# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with CRISP: the model with a concise instruction teaches the model without it. No reference answers are used in training.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after. It shows the
mechanics only: the embedded model follows no instruction, so do not expect shorter completions (docs/crisp.md):

    accelerate launch examples/crisp.py

A real model on one GPU:

    accelerate launch examples/crisp.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --num_generations 2 --output_dir outputs/crisp

Time and memory: 60 GiB planned for full fine-tuning on a card of 80 GiB with the teacher as a second copy of the model, not measured on a
GPU yet.

    trl-concise plan --method crisp --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class CRISPConfig(ConciseGRPOConfig):
    instruction: str | None = field(
        default=None, metadata={"help": "Text before the problem, for the teacher only. Default: the paper's."}
    )
    refresh_every: int = field(
        default=50, metadata={"help": "Steps after which the teacher becomes a copy of the policy; 0: never."}
    )


@report_input_errors()
def main():
    # No KL term, as in the paper; the demo's settings have one.
    script = TrainingScript(CRISPConfig, output_dir="outputs/crisp-demo", beta=0.0)
    args = script.training_args

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.crisp import CONCISE_INSTRUCTION, CRISP

    instruction = f"{args.instruction.rstrip()} " if args.instruction is not None else CONCISE_INSTRUCTION
    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(),  # only logged
        token_credit=CRISP(instruction, args.refresh_every),
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
