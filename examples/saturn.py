# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train on generated Boolean formulas, from easy to hard, with SATURN. No dataset is needed.

Without arguments: the embedded model, on a CPU, in a few minutes, with a report before and after. At the start, the embedded model learns the form
of the answer for a minute:

    accelerate launch examples/saturn.py

A real model, with the levels and the other settings of the authors for 1.5B parameters, on one GPU:

    accelerate launch examples/saturn.py --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --levels 3,5,5 3,5,6 \
        --formulas 250 --num_generations 8 --per_device_train_batch_size 2 --gradient_accumulation_steps 8 --learning_rate 5e-7 --beta 0.001 --temperature 0.8 \
        --max_completion_length 10000 --use_vllm --output_dir outputs/saturn

Time and memory: 68 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method saturn --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --card_gib 80 --use_vllm \
        --per_device_train_batch_size 2 --gradient_accumulation_steps 8 --max_completion_length 10000 --beta 0.001
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from trl_concise import ConciseGRPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


@dataclass
class SATURNConfig(ConciseGRPOConfig):
    levels: list[str] = field(
        default_factory=lambda: [",".join(map(str, level)) for level in demo.FORMULA_LEVELS],
        metadata={
            "help": "Levels from easy to hard: literals per clause, variables and clauses, such as 3,5,5 3,5,6."
        },
    )
    formulas: int = field(default=500, metadata={"help": "Formulas per level to train on."})
    held_out: int = field(default=20, metadata={"help": "Formulas per level to validate on."})
    pass_threshold: float = field(
        default=0.5, metadata={"help": "Pass@1 on held-out formulas above which the next level begins, in [0, 1]."}
    )
    validate_every: int = field(default=250, metadata={"help": "Training formulas between two validations."})
    demo_steps: int = field(
        default=200, metadata={"help": "Of the demo: steps that teach the embedded model the form of the answer."}
    )


def read_level(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise ValueError(f"--levels takes levels such as 3,5,5, got {text!r}.") from None


@report_input_errors()
def main():
    script = TrainingScript(
        SATURNConfig,
        output_dir="outputs/saturn-demo",
        max_completion_length=16,
        num_generations_eval=1,
        per_device_eval_batch_size=64,
        report_problems=128,
    )
    args, model_args = script.training_args, script.model_args

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.data import saturn_dataset
    from trl_concise.methods.saturn import SATURNCurriculum, saturn_reward

    if (name := script.problem_args.dataset_name) is not None:
        raise ValueError(
            f"--dataset_name {name}: this script trains on generated formulas. Choose them with --levels."
        )
    levels = [read_level(text) for text in args.levels]
    is_demo = model_args.model_name_or_path == str(demo.model_path())
    make_dataset = demo.formula_dataset if is_demo else saturn_dataset
    selector = SATURNCurriculum(args.pass_threshold, args.validate_every)
    datasets = {
        "train_dataset": make_dataset(count=args.formulas, levels=levels, seed=args.seed),
        "eval_dataset": make_dataset(count=args.held_out, levels=levels, seed=args.seed, split="validation"),
    }
    if is_demo:
        start = demo.formula_model(Path(args.output_dir, "formula-model"), steps=args.demo_steps)
        model_args.model_name_or_path = str(start)
    trainer = ConciseGRPOTrainer(
        reward_funcs=saturn_reward, prompt_selector=selector, **script.trainer_arguments() | datasets
    )
    tests = {str(level): make_dataset(count=128, levels=[level], split="test") for level in levels}
    script.train(trainer, report=functools.partial(demo.FormulaReport, sets=tests))


if __name__ == "__main__":
    main()
