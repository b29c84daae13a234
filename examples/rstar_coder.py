# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
rStar-Coder: tests of code problems from the agreement of candidate solutions, and a reward that runs programs on such tests.

Without arguments: six hand-written problems with candidates, on a CPU. verified.jsonl, rejected.jsonl and summary.json are written, and how often
the agreement rule accepts a problem, and is right, is compared with other rules over the same runs. The embedded model writes no programs, so
nothing is trained:

    python examples/rstar_coder.py

Problems of your own, with the columns prompt, generator, validator and candidates:

    python examples/rstar_coder.py --problems problems.jsonl --output_dir outputs/code

A real model on one GPU, in a container, with the verified problems. Its programs run on the machine, with limits that are not a security boundary:

    accelerate launch examples/rstar_coder.py --model_name_or_path Qwen/Qwen2.5-Coder-1.5B-Instruct --tests outputs/code/verified.jsonl \
        --max_completion_length 2048 --output_dir outputs/rstar-coder

Time and memory: about 2 minutes of one CPU core without arguments. Not measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import ModelConfig

from trl_concise import ConciseGRPOConfig, demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors


DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/rstar-coder-demo",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
}


@dataclass
class RStarCoderArguments(RunArguments):
    """Problems and limits."""

    problems: str | None = field(
        default=None, metadata={"help": "File of problems to verify, .jsonl. Default: six hand-written ones."}
    )
    tests: str | None = field(
        default=None, metadata={"help": "verified.jsonl to train --model_name_or_path on, with its column tests."}
    )
    inputs: int = field(default=50, metadata={"help": "Inputs per problem: as many are generated and needed."})
    candidates: int = field(default=16, metadata={"help": "Candidates per set, in the comparison of rules."})
    draws: int = field(default=500, metadata={"help": "Sets of candidates per problem, in the comparison of rules."})
    code_seconds: float = field(default=4.0, metadata={"help": "Seconds of a run."})
    code_memory: int = field(default=512, metadata={"help": "Address space of a run in MiB."})
    partial: bool = field(default=False, metadata={"help": "Reward the share of the tests that pass."})


@report_input_errors()
def main(arguments: list[str] | None = None):
    own, args, model_args = parse_arguments((RStarCoderArguments, ConciseGRPOConfig, ModelConfig), arguments, DEMO)
    if not own.tests and model_args.model_name_or_path != str(demo.model_path()):
        raise ValueError(
            "--model_name_or_path is trained on the problems of --tests, which is missing. Name a verified.jsonl, or leave the model out."
        )

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.data.files import load_rows
    from trl_concise.experimental.code_problems import build_code_problems
    from trl_concise.experimental.execution import Limits
    from trl_concise.experimental.rstar_coder import CodeReward
    from trl_concise.experimental.rstar_demo import PROBLEMS, measure, table

    if own.tests is not None:
        trainer = ConciseGRPOTrainer(
            reward_funcs=CodeReward(own.code_seconds, own.code_memory, partial=own.partial),
            args=args,
            train_dataset=load_rows(own.tests),
            **model_arguments(args, model_args),
        )
        trainer.train()
        trainer.save_model()
        return
    rows = load_rows(own.problems).to_list() if own.problems else [one.row() for one in PROBLEMS]
    *_, summary = build_code_problems(
        rows,
        args.output_dir,
        least_inputs=own.inputs,
        most=own.inputs,
        limits=Limits(wall=own.code_seconds, memory_mb=own.code_memory),
    )
    print(f"{summary['verified']} of {summary['problems']} problems verified, rejected: {summary['rejected']}")
    if own.problems is None:
        results = measure(
            args.output_dir,
            inputs=own.inputs,
            candidates=own.candidates,
            draws=own.draws,
            timeout=own.code_seconds,
            seed=args.seed,
        )
        print(table(results))


if __name__ == "__main__":
    main()
