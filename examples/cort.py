# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with CoRT: the model writes Python blocks in its reasoning, and continues after their output.

Without arguments: the embedded model is fine-tuned on traces with the prompt hint only, and on traces with computation and trust hints; both are
trained with GRPO and a calculator, and compared with HAPO without code, on a CPU. Accuracy, tokens and calls on problems that training never
saw are printed, and written to results.json:

    python examples/cort.py

A real model on one GPU, in a container. It has to write Python blocks already (see `insert_hints` and `build_code_traces`). Its code runs on the
machine, with limits that are not a security boundary:

    accelerate launch examples/cort.py --model_name_or_path outputs/cort-sft --dataset_name openai/gsm8k --dataset_config main \
        --code python --max_completion_length 4096 --output_dir outputs/cort

Time and memory: about 6 minutes of one CPU core without arguments. Not measured on a GPU. `trl-concise plan` does not count outputs, of up to 800
characters per call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


@dataclass
class CoRTConfig(ConciseGRPOConfig):
    code: str = field(
        default="calculator",
        metadata={
            "help": "What executes blocks: exact arithmetic without Python (calculator), or a Python process with limits that are not a "
            "security boundary (python).",
            "choices": ["calculator", "python"],
        },
    )
    max_calls: int = field(default=15, metadata={"help": "Blocks that are executed per completion; 0: none."})
    omega: float = field(default=0.1, metadata={"help": "Penalty if all blocks of a completion failed, at least 0."})
    code_seconds: float = field(default=5.0, metadata={"help": "Of --code python: seconds of a call."})
    code_memory: int = field(default=1024, metadata={"help": "Of --code python: address space in MiB."})
    demo_steps: int = field(default=150, metadata={"help": "Of the demo: steps of fine-tuning on hinted traces."})


# Settings of GRPO that the demo takes from the command line, next to those above
TRAINING = {
    "beta",
    "epsilon",
    "learning_rate",
    "loss_type",
    "lr_scheduler_type",
    "max_completion_length",
    "num_generations",
    "num_iterations",
    "temperature",
}


@report_input_errors()
def main():
    script = TrainingScript(
        CoRTConfig,
        output_dir="outputs/cort-demo",
        max_completion_length=128,
        max_steps=15,
        report_problems=256,
    )
    args, model_args = script.training_args, script.model_args

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.experimental.cort import CodeExecutionReward, CodeReasoning
    from trl_concise.experimental.cort_demo import compare, table
    from trl_concise.experimental.execution import Calculator, PythonProcess

    # Asked for by --code python
    executor = Calculator() if args.code == "calculator" else PythonProcess(True, args.code_seconds, args.code_memory)
    rollout, penalty = CodeReasoning(executor, args.max_calls), CodeExecutionReward(args.omega)
    if model_args.model_name_or_path == str(demo.model_path()):
        results = compare(
            args.output_dir,
            executor=executor,
            max_calls=args.max_calls,
            omega=args.omega,
            sft_steps=args.demo_steps,
            max_steps=args.max_steps,
            problems=script.problem_args.report_problems,
            completions=args.per_device_train_batch_size,
            seed=args.seed,
            **{name: getattr(args, name) for name in script.given & TRAINING},
        )
        print(table(results))
        return
    trainer = ConciseGRPOTrainer(
        reward_funcs=[script.accuracy_reward(), penalty], rollout=rollout, **script.trainer_arguments()
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
