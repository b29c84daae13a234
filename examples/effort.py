# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model whose prompt asks for a level of effort: completions of a low level should stay below a number of tokens.

Without arguments: the embedded model, which has never seen such a prompt, on generated problems, on a CPU, in a few minutes. Accuracy and
tokens of each level are measured before and after. docs/effort.md says what this shows, and why its levels hardly differ:

    accelerate launch examples/effort.py

On a real model and one GPU:

    accelerate launch examples/effort.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --max_completion_length 1024 --effort_levels low=128 medium=384 high

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class EffortConfig(ConciseGRPOConfig):
    effort_levels: list[str] = field(
        default_factory=lambda: ["low=32", "high"],
        metadata={"help": "Levels of effort, each NAME=TOKENS, or NAME for a level without a limit."},
    )
    effort_bonus: float = field(default=0.1, metadata={"help": "How fast the reward changes with length."})
    effort_penalty: float = field(default=1.0, metadata={"help": "Weight of the part above the tokens of the level."})


@report_input_errors()
def main():
    script = TrainingScript(EffortConfig, output_dir="outputs/effort-demo")
    args, problems = script.training_args, script.problem_args

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer, demo
    from trl_concise.data import with_effort
    from trl_concise.data.effort import read_levels
    from trl_concise.evaluation import evaluate
    from trl_concise.evaluation.printing import print_records
    from trl_concise.methods.effort import EffortReward

    levels = read_levels(args.effort_levels)
    rewards = [script.accuracy_reward(), EffortReward(args.effort_bonus, args.effort_penalty)]
    arguments = script.trainer_arguments()
    for name in ("train_dataset", "eval_dataset", "watch_dataset"):
        if arguments[name] is not None:
            arguments[name] = with_effort(arguments[name], levels)
    trainer = ConciseGRPOTrainer(reward_funcs=rewards, **arguments)

    def measure(name: str) -> None:
        if reported and trainer.accelerator.is_main_process and problems.dataset_name is None:
            records = evaluate(
                trainer.accelerator.unwrap_model(trainer.model),
                {"problems": demo.problem_dataset(reported)},
                tokenizer=trainer.processing_class,
                effort=list(levels),
                model_name=name,
                progress=False,
                **demo.EVALUATION,
            )
            print_records(records)

    reported, problems.report_problems = problems.report_problems, 0  # the report of a demo asks for no level
    measure("before training")
    script.train(trainer)
    measure("after training")


if __name__ == "__main__":
    main()
