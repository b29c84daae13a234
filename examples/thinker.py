# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with Thinker: a fast answer, its verification, a slow attempt if it is wrong, and a summary, each with a budget and a reward of its own.

Without arguments: the embedded model on generated problems, on a CPU, in some minutes, with a report of fast answers and whole dialogues
before and after. At the start, the embedded model is trained for a few minutes to know the four turns:

    accelerate launch examples/thinker.py

A real model on one GPU. `--max_completion_length` is the budget of the fast turn:

    accelerate launch examples/thinker.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k --dataset_config main \
        --max_completion_length 1000 --verification_tokens 2000 --slow_tokens 2000 --summary_tokens 1000 --use_vllm --output_dir outputs/thinker

Time and memory: not measured on a GPU. `trl-concise plan` counts the fast answers only. A micro-batch has up to four times as many rows, and
the prompts of later turns contain the dialogue so far, so begin with a quarter of the `per_device_train_batch_size` that it plans:

    trl-concise plan --method thinker --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm \
        --max_completion_length 2000 --max_prompt_length 4096
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl_concise import ConciseGRPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


TURNS = ("verification", "slow", "summary")


@dataclass
class ThinkerConfig(ConciseGRPOConfig):
    verification_tokens: int | None = field(
        default=None, metadata={"help": "Budget of the verification, 6000 by default; of the demo 64."}
    )
    slow_tokens: int | None = field(
        default=None, metadata={"help": "Budget of slow thinking, 6000 by default; of the demo 160."}
    )
    summary_tokens: int | None = field(
        default=None, metadata={"help": "Budget of the summary, 1000 by default; of the demo 48."}
    )
    bonus: float = field(
        default=0.0, metadata={"help": "Weight of the log-probability of a correct summary after the fast prompt."}
    )
    decay: float = field(default=0.9, metadata={"help": "Share of the running accuracy that a batch keeps."})
    fast_instruction: str | None = field(default=None, metadata={"help": "Text after each problem."})
    demo_steps: int = field(
        default=250, metadata={"help": "Of the demo: steps that teach the embedded model the four turns."}
    )
    demo_problems: int = field(default=256, metadata={"help": "Of the demo: problems to train on."})


@report_input_errors()
def main():
    script = TrainingScript(
        ThinkerConfig,
        output_dir="outputs/thinker-demo",
        max_completion_length=48,
        max_steps=30,
        report_problems=128,
    )
    args, model_args = script.training_args, script.model_args

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.data.thinker_turns import FAST_INSTRUCTION, with_fast_instruction
    from trl_concise.demo.thinker import INSTRUCTIONS, turn_settings
    from trl_concise.demo.thinker_report import ThinkerReport
    from trl_concise.methods.thinker import Thinker

    given = {f"{turn}_tokens": getattr(args, f"{turn}_tokens") for turn in TURNS}
    settings = {name: tokens for name, tokens in given.items() if tokens is not None}
    fast_instruction = args.fast_instruction or FAST_INSTRUCTION
    if model_args.model_name_or_path == str(demo.model_path()):
        start = demo.thinker_model(Path(args.output_dir, "thinker-model"), steps=args.demo_steps)
        model_args.model_name_or_path = str(start)
        fast_instruction = args.fast_instruction or INSTRUCTIONS["fast"]
        settings = turn_settings(*TURNS) | settings
    arguments = script.trainer_arguments()
    if script.problem_args.dataset_name is None:
        arguments["train_dataset"] = demo.train_dataset(args.demo_problems, seed=args.seed)
    for name in ("train_dataset", "eval_dataset", "watch_dataset"):
        if arguments[name] is not None:
            arguments[name] = with_fast_instruction(arguments[name], fast_instruction)
    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(),
        advantage=Thinker(bonus=args.bonus, decay=args.decay, **settings),
        **arguments,
    )
    script.train(trainer, report=ThinkerReport)


if __name__ == "__main__":
    main()
