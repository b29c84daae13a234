# SPDX-License-Identifier: Apache-2.0
"""
Delethink beside GRPO with the same limit of a completion, from the same model, on the same problems, for the same number of steps; and what
both read of their contexts.

    python benchmarks/delethink.py --seeds 0
    python benchmarks/delethink.py --cost

Every run starts from the embedded model that has learned to continue after a reset of its context (`demo.carry_over_model`, which is trained
first). It trains on problems of three operations, and is evaluated on such problems and on harder ones of four, none of which training
saw, in one context and in chunks. A finished run is not repeated. The settings are those of the demo, without a KL term, as the
authors' are; none was tuned.

`--cost` generates completions of a fixed length without training, and counts the tokens that the contexts have.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from comparison import BASE, Run, finished_runs, load, one_decimal, percent, train
from methods import CONTROL

from trl_concise import demo
from trl_concise.demo.carry_over import HEAD
from trl_concise.evaluation import evaluate
from trl_concise.evaluation.chunks import ChunkedSampler, Chunking
from trl_concise.evaluation.completions import read_completions
from trl_concise.evaluation.folder import COMPLETIONS_FILE
from trl_concise.evaluation.sampling import SamplingSettings, TransformersSampler, tokenize_prompts
from trl_concise.methods.delethink import Delethink, context_costs


CHUNKS = Chunking(64, HEAD)
LIMIT = CHUNKS.budget(5)  # 192 tokens
SETS = {"three operations": (3,), "four operations": (4,)}
ENVIRONMENTS = {"one context": None, "chunks": CHUNKS}
CONFIG: dict[str, Any] = {
    "max_completion_length": LIMIT,
    "loss_type": "grpo",
    "beta": 0.0,
    "per_device_train_batch_size": 32,
}
COST_CHUNKS = Chunking(256, HEAD)
COST_LIMITS = (256, 512, 1024, 1920)  # the embedded model has 2,048 positions


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of one table have in common."""
    return {"steps": options.steps, "problems": options.problems, "steps_before": options.steps_before}


def carry_out(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless the method is `BASE`, and evaluate in both environments."""
    start = demo.carry_over_model(options.output_dir / "carry-over-model", steps=options.steps_before)
    facts: dict[str, Any] = {}
    if run.method == BASE:
        model, tokenizer = load(start)
    else:
        rollout = {"rollout": Delethink(CHUNKS.chunk_size, CHUNKS.keep_head)} if run.method == "Delethink" else {}
        trainer, _ = train(
            10**9,
            demo.train_dataset(256, seed=run.seed, operations=SETS["three operations"]),
            run.seed,
            model=start,
            config={**CONFIG, "max_steps": options.steps},
            slots=rollout,
        )
        model, tokenizer = trainer.model, trainer.processing_class
        log = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
        facts["written"] = fmean(entry["completions/mean_length"] for entry in log)
        facts["seconds_per_step"] = fmean(entry["step_time"] for entry in log)
    for environment, chunking in ENVIRONMENTS.items():
        evaluate(
            model,
            {name: demo.problem_dataset(options.problems, operations=lengths) for name, lengths in SETS.items()},
            run.folder / environment.replace(" ", "-"),
            tokenizer=tokenizer,
            seed=run.seed,
            model_name=run.method,
            progress=False,
            chunking=chunking,
            **{**demo.EVALUATION, "max_new_tokens": LIMIT},
        )
    return facts


def costs(prompt: int, tokens: int, chunking: Chunking | None) -> tuple[int, int]:
    """Return the tokens that a completion reads, and the longest context."""
    parts = chunking.split([0] * tokens) if chunking is not None else [([], [0] * tokens)]
    return context_costs(prompt, [(len(carried), len(own)) for carried, own in parts])


def rows(runs: Sequence[Run], name: str, environment: str) -> list[str]:
    """Return the lines of one problem set in one environment, in Markdown."""
    _, tokenizer = load(demo.model_path())
    lines = []
    for method in dict.fromkeys(run.method for run in runs):
        items = [
            item
            for run in runs
            if run.method == method
            for item in read_completions(run.folder / environment.replace(" ", "-") / COMPLETIONS_FILE)
            if item.dataset == name
        ]
        problems = list(demo.problem_dataset(max(item.problem for item in items) + 1, operations=SETS[name])["prompt"])
        prompts = tokenize_prompts(tokenizer, problems)
        spent = [costs(len(prompts[item.problem]), item.tokens, ENVIRONMENTS[environment]) for item in items]
        cells = [
            name,
            environment,
            method,
            f"{percent(fmean(bool(item.correct) for item in items))} %",
            one_decimal(fmean(item.tokens for item in items)),
            f"{percent(fmean(item.truncated for item in items))} %",
            f"{fmean(read for read, _ in spent):,.0f}",
            str(max(peak for _, peak in spent)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def cost_table() -> str:
    """Generate completions of fixed lengths in both environments, and return what they cost, in Markdown."""
    model, tokenizer = load(demo.model_path())
    sampler = TransformersSampler(model, tokenizer)
    sampler.end_token_ids = {10**6}  # no token: completions have the whole length
    prompts = tokenize_prompts(tokenizer, list(demo.problem_dataset(8)["prompt"]))
    lines = [
        "| Tokens written | Tokens read, one context | Tokens read, chunks | Longest context | With chunks | Seconds | With chunks |",
        "|---|---|---|---|---|---|---|",
    ]
    for limit in COST_LIMITS:
        cells, seconds = [], []
        for drawing, chunking in ((sampler, None), (ChunkedSampler(sampler, COST_CHUNKS), COST_CHUNKS)):
            start = time.process_time()
            drawn = drawing.sample(prompts, SamplingSettings(limit, 1.0, 1.0))
            seconds.append(time.process_time() - start)
            assert {len(ids) for ids in drawn} == {limit}
            cells.append([costs(len(prompt), limit, chunking) for prompt in prompts])
        reads = [f"{fmean(read for read, _ in own):,.0f}" for own in cells]
        peaks = [str(max(peak for _, peak in own)) for own in cells]
        lines.append(f"| {' | '.join([f'{limit:,}', *reads, *peaks, *map(one_decimal, seconds)])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true", help="measure the cost of fixed lengths, without training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps")
    parser.add_argument("--problems", type=int, default=192, help="problems of each set in the evaluation")
    parser.add_argument(
        "--steps_before", type=int, default=300, help="steps that teach the model to continue after a reset"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/delethink"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    if options.cost:
        print(cost_table())
        return
    methods = [BASE, CONTROL, "Delethink"]
    runs = list(
        finished_runs(
            options.output_dir, methods, options.seeds, settings(options), lambda run: carry_out(run, options)
        )
    )
    print("| Problems | Evaluated in | Model | Accuracy | Tokens | Truncated | Tokens read | Longest context |")
    print("|---|---|---|---|---|---|---|---|")
    for name in SETS:
        for environment in ENVIRONMENTS:
            print("\n".join(rows(runs, name, environment)))
    for run in runs:
        facts = run.facts()
        if run.method != BASE:
            print(
                f"{run.method}, seed {run.seed}: {facts['written']:.1f} tokens per completion in training, {facts['seconds_per_step']:.1f} s "
                "per step"
            )


if __name__ == "__main__":
    main()
