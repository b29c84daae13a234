# SPDX-License-Identifier: Apache-2.0
"""
CRISP on a model that follows an instruction, and on one that does not.

    python benchmarks/crisp.py

The embedded model was trained on plain problems only. First, it answers problems under several instructions. Then a copy of it is taught
one instruction, by supervised fine-tuning on generated traces: the plain problem has a trace of any verbosity, with the system message
`Be brief.` one terse pass. From this copy, CRISP (without rewards) and GRPO (with a correctness reward) generate the same number of tokens, and
the plain problems of two and of three operations are evaluated, of which training has only seen others of two. Each result is a file in the
output folder. A result whose file exists is not repeated, so the command can be interrupted, and given again for the tables alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pretrain import BATCH_SIZE, IGNORED, collate, training_problems
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, set_seed

from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.demo.problems import Problem
from trl_concise.demo.traces import END_OF_THINKING, write_pass, write_trace
from trl_concise.methods.crisp import CONCISE_INSTRUCTION, CRISP, teacher_prompt
from trl_concise.state.checkpoint import write_atomically


Prompt = list[dict[str, str]]
EXAMPLES = (
    Problem(27, (("+", 8), ("*", 2))),
    Problem(14, (("-", 5), ("*", 4), ("+", 6))),
    Problem(40, (("+", 3), ("-", 9))),
)
TEACHING_RATE = 5e-4


def terse_trace(problem: Problem) -> str:
    """Return one pass without a restatement and without checks."""
    lines = [*write_pass(problem, problem.results, verbose=False), END_OF_THINKING]
    return "\n".join(lines) + f"\\boxed{{{problem.results[-1]}}}"


def be_brief(prompt: Prompt) -> Prompt:
    return [{"role": "system", "content": "Be brief."}, *prompt]


def with_examples(count: int) -> Callable[[Prompt], Prompt]:
    """Return a function that places solved problems before the prompt."""
    solved = []
    for problem in EXAMPLES[:count]:
        answer = f"<think>\n{terse_trace(problem)}"
        solved += [{"role": "user", "content": problem.text}, {"role": "assistant", "content": answer}]
    return lambda prompt: [*solved, *prompt]


INSTRUCTIONS: dict[str, Callable[[Prompt], Prompt]] = {
    "none": lambda prompt: prompt,
    "the paper's, before the problem": lambda prompt: teacher_prompt(prompt, CONCISE_INSTRUCTION),
    "`Be brief. ` before the problem": lambda prompt: teacher_prompt(prompt, "Be brief. "),
    "the system message `Be brief.`": be_brief,
    "one solved problem": with_examples(1),
    "three solved problems": with_examples(3),
}


def measure(model, tokenizer, options, operations: int, change: Callable[[Prompt], Prompt] = INSTRUCTIONS["none"]):
    problems = demo.problem_dataset(options.problems, operations=[operations])
    problems = problems.map(lambda row: {"prompt": change(row["prompt"])})
    record = demo.evaluate_model(model, tokenizer, problems, seed=options.seed)
    return {"accuracy": record["accuracy"], "tokens": record["tokens_mean"]}


def teach(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the embedded model after it was taught to follow the system message, and its tokenizer."""
    set_seed(options.seed)
    model = AutoModelForCausalLM.from_pretrained(demo.model_path()).train()
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    optimizer = torch.optim.AdamW(model.parameters(), lr=TEACHING_RATE, weight_decay=0.01)
    rng, problems = random.Random(options.seed), training_problems(f"crisp {options.seed}")
    for step in range(options.teaching_steps):
        rows = []
        for row in range(BATCH_SIZE):
            problem, brief = next(problems), row % 2 == 0
            prompt = [{"role": "user", "content": problem.text}]
            text = tokenizer.apply_chat_template(
                be_brief(prompt) if brief else prompt, add_generation_prompt=True, tokenize=False
            )
            trace = terse_trace(problem) if brief else write_trace(problem, rng)
            given, wanted = tokenizer(text).input_ids, tokenizer(trace + tokenizer.eos_token).input_ids
            rows.append((given + wanted, [IGNORED] * len(given) + wanted))
        ids, labels = collate(tokenizer, rows)
        optimizer.param_groups[0]["lr"] = TEACHING_RATE * (1 - step / options.teaching_steps)
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), tokenizer


def train(method: str, start: Path, options: argparse.Namespace) -> tuple[ConciseGRPOTrainer, demo.TokenBudget]:
    spending = demo.TokenBudget(options.tokens)
    defaults = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"}
    with tempfile.TemporaryDirectory() as output_dir:
        changes = {
            "output_dir": output_dir,
            "max_steps": 10**6,
            "lr_scheduler_type": "constant_with_warmup",  # the end of a run is not known as a step
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": options.seed,
            **({"beta": 0.0} if method == "CRISP" else {}),
        }
        trainer = ConciseGRPOTrainer(
            model=str(start),
            reward_funcs=spending.accuracy_reward,
            args=ConciseGRPOConfig(**{**defaults, **changes}),
            train_dataset=demo.train_dataset(seed=options.seed),
            callbacks=[spending],
            token_credit=CRISP(be_brief, options.refresh_every) if method == "CRISP" else None,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer, spending


def result(name: str, options: argparse.Namespace, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a result from its file, after making it if there is none."""
    path = options.output / f"{name}.json"
    if not path.exists():
        start = time.perf_counter()
        found = make()
        write_atomically(path, json.dumps({**found, "seconds": time.perf_counter() - start}).encode() + b"\n")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return json.loads(path.read_text())


def row(name: str, *figures: dict[str, float]) -> str:
    return f"| {name} | " + " | ".join(f"{own['accuracy']:.1%} | {own['tokens']:.1f}" for own in figures) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teaching_steps", type=int, default=300, help="steps of supervised fine-tuning")
    parser.add_argument("--tokens", type=int, default=120_000, help="tokens that a run may generate")
    parser.add_argument("--refresh_every", type=int, default=50)
    parser.add_argument("--problems", type=int, default=512, help="problems of each set in the evaluation")
    parser.add_argument("--output", type=Path, default=Path("outputs/crisp"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small
    taught = options.output / "taught"

    def under_instructions() -> dict[str, Any]:
        model = AutoModelForCausalLM.from_pretrained(demo.model_path())
        tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
        return {name: measure(model, tokenizer, options, 2, change) for name, change in INSTRUCTIONS.items()}

    def teaching() -> dict[str, Any]:
        model, tokenizer = teach(options)
        model.save_pretrained(taught)
        tokenizer.save_pretrained(taught)
        return {
            "plain": [measure(model, tokenizer, options, operations) for operations in (2, 3)],
            "instructed": [measure(model, tokenizer, options, operations, be_brief) for operations in (2, 3)],
        }

    def training(method: str) -> dict[str, Any]:
        trainer, spending = train(method, taught, options)
        return {
            "plain": [measure(trainer.model, trainer.processing_class, options, operations) for operations in (2, 3)],
            "generated": spending.tokens,
            "steps": trainer.state.global_step,
        }

    print("\n| Instruction to the embedded model | Accuracy | Tokens |\n|---|---|---|")
    for name, figures in result("instructions", options, under_instructions).items():
        if name != "seconds":
            print(row(name, figures))
    start = result("teaching", options, teaching)
    runs = {method: result(method, options, lambda method=method: training(method)) for method in ("GRPO", "CRISP")}
    print("\n| From the taught model | 2 operations | Tokens | 3 operations | Tokens |\n|---|---|---|---|---|")
    print(row("before training, plain prompt", *start["plain"]))
    print(row("before training, with the instruction", *start["instructed"]))
    for method, run in runs.items():
        print(row(f"{method}, plain prompt, {run['steps']} steps", *run["plain"]))


if __name__ == "__main__":
    main()
