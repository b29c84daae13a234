# SPDX-License-Identifier: Apache-2.0
"""
Where the completions of a group diverge last: the number of tokens that T-SPMO computes, and `--branch_tokens` of `trl-concise plan`.

    python benchmarks/branches.py --model HuggingFaceTB/SmolLM2-135M-Instruct --sets svamp gsm8k

A model answers the first problems of each set, with a group of completions per problem at temperature 1. Printed is the position, from 1,
of the last token that follows a prefix after which the group continues with more than one token.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from trl_concise import demo
from trl_concise.evaluation import evaluate, load_problem_sets, read_completions
from trl_concise.methods.tspmo_prefix_tree import prefix_advantages


def last_branch(group: list[list[int]]) -> int:
    """Position, from 1, of the last token at which a group diverges; 0 if all completions are equal."""
    edges = prefix_advantages(group, [0.0] * len(group)).edges
    return max((edge.position + 1 for edge in edges), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(demo.model_path()))
    parser.add_argument("--sets", nargs="+", default=["demo"], help="as of `trl-concise eval`")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    options = parser.parse_args()
    system_prompt = "Please reason step by step, and put your final answer within \\boxed{}."
    sets = load_problem_sets(options.sets, system_prompt=None if options.sets == ["demo"] else system_prompt)
    with tempfile.TemporaryDirectory() as folder:
        evaluate(
            options.model,
            sets,
            folder,
            num_completions=options.generations,
            max_new_tokens=options.max_new_tokens,
            temperature=1.0,
            top_p=1.0,
            limit=options.problems,
            progress=False,
        )
        completions = read_completions(Path(folder) / "completions.jsonl")
    for name in sets:
        groups: dict[int, list[list[int]]] = {}
        for item in completions:
            if item.dataset == name:
                groups.setdefault(item.problem, []).append(item.completion_ids)
        last = [last_branch(group) for group in groups.values()]
        print(
            f"{name}: {len(last)} groups of {options.generations}, last divergence at token "
            f"{statistics.median(last):g} (median), {max(last)} (largest)"
        )


if __name__ == "__main__":
    main()
