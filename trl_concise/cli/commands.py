# SPDX-License-Identifier: Apache-2.0
"""
The `trl-concise` command.

A training command launches a script of the examples folder, or a script of the user's. Any other command is a function
`main(argv: list[str]) -> int | None` in the module of its subject. It is listed in `COMMANDS` and imported only when it is
called, so that `trl-concise --help` needs neither torch nor TRL.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from ..errors import Parser, report_input_errors
from .quiet import hide_messages, hide_weight_bars


TRAINING: dict[str, str] = {  # script in the examples folder -> description in --help
    "adapt_think": "answer without thinking where that costs no accuracy (GRPO)",
    "auto_think": "balance thinking and direct answers, then correctness, then length (GRPO)",
    "campo": "raise the generation limit in stages, and penalize loops (GRPO)",
    "capo": "take reward from the steps that a critic finds wrong (GRPO)",
    "cft": "learn to critique solutions (SFT)",
    "combined": "combine HAPO, GRESO and S-GRPO in one trainer (GRPO)",
    "cost_constraints": "keep limits on mean length and accuracy while training (GRPO)",
    "crisp": "distill the model with a concise instruction into itself, without answers (GRPO)",
    "cure": "continue completions again from tokens at which the model was uncertain (GRPO)",
    "curriculum": "train on prompts that are solved sometimes (GRPO)",
    "delethink": "think in chunks, each in a context of a fixed size (GRPO)",
    "dler": "truncate at a length limit, and normalize advantages over the batch (GRPO)",
    "dynamic_sampling": "replace groups without a learning signal (GRPO)",
    "effort": "keep to the effort that the prompt asks for (GRPO)",
    "gfpo": "learn from the shortest completions of a larger group (GRPO)",
    "greso": "skip prompts whose groups gave no gradient (GRPO)",
    "hapo": "reward completions shorter than the shortest correct one so far (GRPO)",
    "ktae": "give more advantage to the tokens of correct completions (GRPO)",
    "laser": "reward correct completions within a target length (GRPO)",
    "laser_d": "the same, with targets that adapt to difficulty and policy (GRPO)",
    "length_rewards": "train with L1, Kimi k1.5, GRPO-LEAD, DDCA, DRPO, JET and other length methods (GRPO)",
    "light_r1": "distill a teacher: all problems, hard ones, the model's own mistakes, and a merge (SFT, DPO)",
    "mgpo": "weight groups by how close their success rate is to one half (GRPO)",
    "mr_rlvr": "fill in and reorder worked solutions first, then train on final answers (GRPO)",
    "noisy_rewards": "train with partly wrong rewards, or reward phrases of reasoning (GRPO)",
    "on_policy_sft": "supervised fine-tuning on correct completions within the limit (GRPO)",
    "one_shot_rlvr": "train on a single problem (GRPO)",
    "otc": "answer with as few tool calls as possible, with a calculator (GRPO)",
    "pcl": "train on the prompts whose predicted success rate is closest to one half (GRPO)",
    "redi": "distill correct and incorrect traces of a teacher (DPO)",
    "prorl": "reset the reference of the KL penalty now and then, for long runs (GRPO)",
    "realignment": "distill towards a mix of the model and a shorter-thinking one (distillation)",
    "rlpr": "reward the probability of the reference answer, without a verifier (GRPO)",
    "saturn": "solve Boolean formulas of rising difficulty (GRPO)",
    "self_verify": "train on verdicts about the model's own solutions, which then weight a vote (GRPO)",
    "sgrpo": "compute the loss on a random subset of the tokens (GRPO)",
    "shorter_better": "match the shortest correct completion of the group (GRPO)",
    "siri": "oscillate the generation limit between two lengths (GRPO)",
    "tdrm": "process reward model for best-of-n and as a reward (reward modeling)",
    "thinker": "answer fast, verify, think slowly where that was wrong, and summarize (GRPO)",
    "t1": "let the reference of a KL term follow the policy (GRPO, a reconstruction)",
    "tspmo": "credit the tokens at which the completions of a group diverge (GRPO)",
}
LAUNCHER_FLAGS = (  # of `accelerate launch`, which a training command takes as well as the options of its script
    "--num_processes",
    "--num_machines",
    "--machine_rank",
    "--main_process_ip",
    "--main_process_port",
    "--gpu_ids",
    "--accelerate_config",
)
COMMANDS: dict[str, tuple[str, str]] = {  # name -> (module:function, description in --help)
    "accept": ("trl_concise.evaluation.accept:main", "decide whether a model keeps limits on tokens and accuracy"),
    "compare": ("trl_concise.evaluation.comparison:main", "compare two evaluations of the same problems"),
    "distill": ("trl_concise.evaluation.distill_command:main", "write a teacher's correct solutions, to train on"),
    "env": ("trl_concise.cli.launch:env", "print versions for a bug report"),
    "init": ("trl_concise.cli.launch:init", "write a method's training script and recipe, to edit"),
    "eval": ("trl_concise.evaluation.command:main", "measure accuracy against tokens on problem sets"),
    "export": ("trl_concise.evaluation.export:main", "write completions in the format of lighteval"),
    "filter": ("trl_concise.evaluation.filter:main", "keep the problems that a model solves sometimes"),
    "report": ("trl_concise.evaluation.report:main", "plot and tabulate the results of runs and evaluations"),
    "card": ("trl_concise.hub.card:main", "write the model card of a run"),
    "merge": ("trl_concise.state.adapters:main", "merge an adapter into its base model"),
    "methods": ("trl_concise.methods.table:main", "list the methods: slot, paper, provenance and evidence"),
    "plan": ("trl_concise.memory.report:main", "estimate whether a run fits on a GPU, and what to change if not"),
    "push": ("trl_concise.hub.push:main", "push a run to the Hub, or continue an interrupted push"),
    "rescore": ("trl_concise.evaluation.rescore:main", "judge the completions of an evaluation again"),
    "testtime": ("trl_concise.evaluation.testtime:main", "compare votes, best-of-n and early exit on an evaluation"),
    "select": ("trl_concise.data.selection.command:main", "select training data by one of four published methods"),
}

_LOAD_MODELS = ("distill", "eval", "filter", "merge", "select")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a subcommand.

    Args:
        argv (`Sequence[str]`, *optional*): Name of the subcommand and its arguments; those of the process if `None`.

    Returns:
        `int`: Exit status.

    Raises:
        `SystemExit`: With status 2, after one line on stderr, if the input is invalid.
    """
    argv = list(argv if argv is not None else sys.argv[1:])
    if argv and (argv[0] in {*TRAINING, *COMMANDS} or argv[0].endswith(".py")):
        with report_input_errors(f"trl-concise {argv[0]}"):
            if argv[0] not in COMMANDS:
                return import_module("trl_concise.cli.launch").train(argv[0], argv[1:])
            hide_messages()
            if argv[0] in _LOAD_MODELS and not {"-h", "--help"} & set(argv):
                hide_weight_bars()
            module, function = COMMANDS[argv[0]][0].split(":")
            return getattr(import_module(module), function)(argv[1:]) or 0
    parser = _parser()
    options = parser.parse_args(argv[:1])  # answers --help and --version
    if options.command is None:
        parser.print_help()
        return 0
    names = [*TRAINING, *COMMANDS]
    close = difflib.get_close_matches(options.command, names, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(names)}."
    parser.error(f"no command {options.command!r}. {hint}")


def _parser() -> Parser:
    width = max(map(len, [*TRAINING, *COMMANDS]))
    training = "\n".join(f"  {name:<{width}}  {text}" for name, text in TRAINING.items())
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in sorted(COMMANDS.items()))
    parser = Parser(
        prog="trl-concise",
        description="Train language models to reason correctly in fewer tokens.",
        epilog=f"training, with accelerate:\n{training}\n\nother commands:\n{commands}\n\n`trl-concise COMMAND --help` lists the options of a command. `trl-concise SCRIPT.py` launches a script that `init` has written.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="trl-concise COMMAND [OPTIONS]",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('trl-concise')}")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    return parser
