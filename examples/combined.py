# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Three methods in one trainer: HAPO rewards short completions, GRESO skips prompts without a gradient, and S-GRPO computes the loss on
a subset of the tokens.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/combined.py

A real model with LoRA on one GPU, for several epochs, because HAPO and GRESO have an effect from a prompt's second visit:

    accelerate launch examples/combined.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dtype bfloat16 \
        --dataset_name openai/gsm8k --dataset_config main --num_train_epochs 5 --use_peft --lora_target_modules all-linear \
        --max_completion_length 4096 --use_vllm --learning_rate 1e-5 --output_dir outputs/combined

Time and memory: 19.3 GiB planned, not measured on a GPU yet.

    trl-concise plan --method combined --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dtype bfloat16 \
        --use_peft --lora_target_modules all-linear --max_completion_length 4096 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class CombinedConfig(ConciseGRPOConfig):
    exploration: float = field(
        default=0.5,
        metadata={"help": "GRESO: probability, to the power of the streak, of rolling a prompt out at first."},
    )
    cutoff: int = field(default=50, metadata={"help": "S-GRPO: tokens at the beginning that are always in the loss."})
    max_tokens: int = field(default=100, metadata={"help": "S-GRPO: most tokens of a completion in the loss."})
    probability: float = field(default=0.5, metadata={"help": "S-GRPO: probability of a token after the first ones."})


@report_input_errors()
def main():
    # The demo's completions have some 80 tokens: with the default cutoff of 50 most of them would be in the loss.
    script = TrainingScript(CombinedConfig, output_dir="outputs/combined-demo", cutoff=16, max_tokens=32)
    args = script.training_args

    # After the command line: --help does not wait for them.
    from trl_concise import GRESO, ConciseGRPOTrainer, HAPOLengthReward, StochasticTokens

    trainer = ConciseGRPOTrainer(
        reward_funcs=[script.accuracy_reward(), HAPOLengthReward()],  # --reward_weights 1.0 0.5 weighs them
        prompt_selector=GRESO(args.exploration),
        token_credit=StochasticTokens(args.cutoff, args.max_tokens, args.probability),
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
