# SPDX-License-Identifier: Apache-2.0
"""
The embedded model taught to write Python blocks, from traces with the prompt hint only or with computation and trust hints, and what it gains.

The traces are written by rules. With the prompt hint only, four of five compute by hand first, verify with Python, and often check again by hand; the
authors report 17.6 % of blocks that calculate for models of that kind.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..demo import EVALUATION, SETTINGS, TokenBudget, model_path, problem_dataset, train_dataset
from ..demo.problems import Problem, draw_problem, split_of
from ..demo.traces import END_OF_THINKING, write_trace
from ..demo.variants import IGNORED, Batch, make_variant
from ..evaluation.metrics import accuracy_interval, bootstrap_interval
from ..state.checkpoint import write_atomically
from .code_blocks import FENCE, output_text
from .code_sampling import JudgedCompletion, evaluate_with_code
from .code_traces import (
    COMPUTATION_HINT,
    PROMPT_HINT,
    TRUST_HINT,
    insert_hints,
    insert_prompt_hint,
    tokenize_code_trace,
)
from .equal_cost import paired_difference
from .execution import Calculator, Executor, Outcome


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("prompt hint", "both hints")
STEPS = 150
TRACES = 32  # per step
BATCHES_PER_POOL = 8  # traces are sorted by length within a pool, so that little is padded
LEARNING_RATE = 1.5e-3
OPERATIONS = (2, 3)
CALCULATION_SHARE = 0.2  # of the traces with the prompt hint only compute with Python at once
DISTRUST_SHARE = 0.5  # of the others check the output by hand


def write_code_trace(kind: str, problem: Problem, rng: random.Random) -> str:
    """
    Write a trace with a Python block.

    Args:
        kind (`str`): `"prompt hint"` or `"both hints"`.
        problem ([`Problem`]): Problem to solve.
        rng (`random.Random`): Source of the style, and of slips of the calculation by hand.

    Returns:
        `str`: Completion after `<think>\\n`, without the end-of-turn token. Its answer is correct.
    """
    if kind not in KINDS:
        raise ValueError(f"The kind of a trace must be one of {KINDS}, got {kind!r}.")
    trace = write_trace(problem, rng)
    if kind == "both hints":
        return insert_hints(trace, Calculator())
    if rng.random() < CALCULATION_SHARE:
        return insert_prompt_hint(insert_hints(trace, Calculator()).replace(f"{COMPUTATION_HINT}\n", ""))
    by_hand, _, rest = trace.partition(END_OF_THINKING)
    first, doubt, check = by_hand.partition("Wait, let me check.\n")
    answer = str(problem.results[-1])
    output = output_text(Outcome(answer, "ok"), starts_line=True, is_last=False)
    block = f"```python\nprint({problem.expression})\n{FENCE}\n{output}"
    distrust = doubt + check if rng.random() < DISTRUST_SHARE else ""
    return insert_prompt_hint(f"{first}{block}{distrust}{END_OF_THINKING}{rest}")


def code_model(folder: str | Path, kind: str, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on traces with Python blocks, and save it. A folder that has a model is returned as it is.

    The problems are of the split `train`, of two and three operations. Outputs are not learned. The fences, `print`, and the words of the
    hints become tokens, as they are in the vocabulary of any large model.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        kind (`str`): `"prompt hint"` or `"both hints"`, see [`write_code_trace`].
        steps (`int`, *optional*, defaults to `150`): Optimizer steps of 32 traces.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and traces.

    Raises:
        `ValueError`: If `steps` is less than 1 or the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"The kind of a model must be one of {KINDS}, got {kind!r}.")
    return make_variant(
        folder,
        steps,
        lambda tokenizer: _batches(tokenizer, kind, seed),
        change_tokenizer=add_code_tokens,
        learning_rate=LEARNING_RATE,
    )


def add_code_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the fences, `print` and the words of the hints to a tokenizer that lacks them."""
    words = {f" {word}" for hint in (PROMPT_HINT, COMPUTATION_HINT, TRUST_HINT) for word in hint.strip(".").split()}
    words = {word.rstrip(",:") for word in words if len(word) > 3}  # short ones are parts of other words
    new = sorted(word for word in words if len(tokenizer(word).input_ids) > 1)
    tokenizer.add_tokens(["```python", "```output", FENCE, "print", *new])


def _batches(tokenizer: PreTrainedTokenizerBase, kind: str, seed: int) -> Iterator[Batch]:
    """Yield traces of similar length."""
    rows = _rows(tokenizer, kind, random.Random(f"code {seed}"))
    order = random.Random(f"order {seed}")
    while True:
        pool = sorted(itertools.islice(rows, TRACES * BATCHES_PER_POOL), key=lambda row: len(row[0]))
        firsts = list(range(0, len(pool), TRACES))
        order.shuffle(firsts)
        for first in firsts:
            yield pool[first : first + TRACES]


def _rows(
    tokenizer: PreTrainedTokenizerBase, kind: str, rng: random.Random, operations: Sequence[int] = OPERATIONS
) -> Iterator[tuple[list[int], list[int]]]:
    while True:
        problem = draw_problem(rng, operations)
        if split_of(problem.text) != "train":
            continue
        prompt = [{"role": "user", "content": problem.text}]
        row = tokenize_code_trace(tokenizer, prompt, write_code_trace(kind, problem, rng))
        labels = zip(row["input_ids"], row["completion_mask"], strict=True)
        yield row["input_ids"], [token if learned else IGNORED for token, learned in labels]


SETS = {"three operations": (3,), "four operations (harder)": (4,)}
RESULTS = "results.json"
BASE, CONTROL = "base", "plain HAPO"


def compare(
    output_dir: str | Path,
    *,
    executor: Executor | None = None,
    max_calls: int = 4,
    omega: float = 0.1,
    sft_steps: int = STEPS,
    max_steps: int = 15,
    problems: int = 256,
    completions: int = 64,
    seed: int = 0,
    **training: Any,
) -> dict[str, Any]:
    """
    Compare the embedded model, the two code models before and after GRPO with executed code, and HAPO without code.

    GRPO and HAPO train on the same problems of three operations, for as many steps with as many completions.

    Args:
        output_dir (`str` or `Path`): Where models and `results.json` are written.
        executor ([`Executor`], *optional*): Executes the blocks. Default: [`Calculator`].
        max_calls, omega: See [`CodeReasoning`] and [`CodeExecutionReward`].
        sft_steps, max_steps (`int`, *optional*): Steps of supervised fine-tuning, and of GRPO and HAPO.
        problems (`int`, *optional*): Problems of each set of the evaluation.
        completions (`int`, *optional*): Completions per step, a multiple of 8.
        seed (`int`, *optional*): Seed of training and evaluation.
        **training: Other settings of GRPO and HAPO, in the place of those of the demo.

    Returns:
        `dict[str, Any]`: `settings`, and `models`: for each, `training_tokens` and, by set, the figures of [`describe`].
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    executor = executor if executor is not None else Calculator()
    folder = Path(output_dir)
    starts: dict[str, Path | str] = {BASE: model_path()}
    starts |= {kind: code_model(folder / kind.replace(" ", "-"), kind, steps=sft_steps, seed=seed) for kind in KINDS}
    models: dict[str, tuple[Any, Any, int]] = {}
    for name, start in starts.items():
        plain = name == BASE
        label = name if plain else f"{name}, SFT"
        models[label] = AutoModelForCausalLM.from_pretrained(start), AutoTokenizer.from_pretrained(start), 0
        trained = CONTROL if plain else f"{name}, SFT and GRPO"
        models[trained] = _train(
            start, folder, None if plain else executor, max_calls, omega, max_steps, completions, seed, training
        )
    found: dict[str, dict[str, list[JudgedCompletion]]] = {}
    for name, (model, tokenizer, _) in models.items():
        runs = executor if name not in (BASE, CONTROL) else None
        found[name] = {
            label: evaluate_with_code(
                model,
                tokenizer,
                problem_dataset(problems, operations=operations),
                runs,
                max_calls=max_calls,
                seed=seed,
                **EVALUATION,
            )
            for label, operations in SETS.items()
        }
    results = {
        "settings": {
            "sft_steps": sft_steps,
            "max_steps": max_steps,
            "problems": problems,
            "completions": completions,
            "seed": seed,
            **training,
        },
        "models": {
            name: {
                "training_tokens": models[name][2],
                "sets": {label: describe(items, found[CONTROL][label]) for label, items in sets.items()},
            }
            for name, sets in found.items()
        },
    }
    write_atomically(folder / RESULTS, (json.dumps(results, indent=2) + "\n").encode())
    return results


def _train(
    start: Path | str,
    folder: Path,
    executor: Executor | None,
    max_calls: int,
    omega: float,
    max_steps: int,
    completions: int,
    seed: int,
    training: Mapping[str, Any],
) -> tuple[Any, Any, int]:
    """Train with executed code, or with HAPO without an executor; return model, tokenizer, and the number of tokens that it wrote."""
    from transformers import PrinterCallback

    from .. import ConciseGRPOConfig, ConciseGRPOTrainer, HAPOLengthReward
    from .cort import CodeExecutionReward, CodeReasoning

    spending = TokenBudget(10**12)
    own = CodeExecutionReward(omega) if executor is not None else HAPOLengthReward()
    settings = {name: value for name, value in SETTINGS.items() if name != "model_name_or_path"} | {
        "output_dir": str(folder / "training"),
        "max_steps": max_steps,
        "per_device_train_batch_size": completions,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": seed,
        **training,
    }
    trainer = ConciseGRPOTrainer(
        str(start),
        [spending.accuracy_reward, own],
        ConciseGRPOConfig(**settings),
        train_dataset(seed=seed, operations=(3,)),
        rollout=CodeReasoning(executor, max_calls) if executor is not None else None,
        callbacks=[spending],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.model, trainer.processing_class, spending.tokens


def describe(items: Sequence[JudgedCompletion], control: Sequence[JudgedCompletion]) -> dict[str, Any]:
    """
    Summarize an evaluation.

    Returns:
        `dict[str, Any]`: `accuracy` with `accuracy_interval`; `gain` against the control, in points, with `gain_interval` (paired; 95 %);
        `tokens` that the model wrote, with `tokens_interval`; `output_tokens`; `calls` and `failed_share`; `calculation_share` of the blocks.
    """
    correct = [float(item.correct) for item in items]
    gain, gain_interval = paired_difference(
        [100 * one for one in correct], [100.0 * other.correct for other in control]
    )
    kinds = [kind for item in items for kind in item.completion.kinds]
    calls = sum(item.completion.calls for item in items)
    return {
        "accuracy": fmean(correct),
        "accuracy_interval": accuracy_interval([[one] for one in correct]),
        "gain": gain,
        "gain_interval": gain_interval,
        "tokens": fmean(item.tokens for item in items),
        "tokens_interval": bootstrap_interval([[item.tokens] for item in items]),
        "output_tokens": fmean(len(item.completion.ids) - item.completion.written for item in items),
        "calls": calls / len(items),
        "failed_share": sum(item.completion.failures for item in items) / calls if calls else None,
        "calculation_share": kinds.count("calculation") / len(kinds) if kinds else None,
    }


def table(results: Mapping[str, Any]) -> str:
    """Return the results of [`compare`] as a table in Markdown for each set of problems."""
    lines = []
    for label in SETS:
        lines += [
            f"{label}\n",
            f"| Model | Accuracy [95 %] | Against {CONTROL}, points | Tokens [95 %] | Output tokens | Calls | Calculation share |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, model in results["models"].items():
            own = model["sets"][label]
            low, high = own["accuracy_interval"]
            least, most = own["gain_interval"]
            share = own["calculation_share"]
            cells = [
                name,
                f"{own['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]".replace("%", " %"),
                "" if name == CONTROL else f"{own['gain']:+.1f} [{least:+.1f}, {most:+.1f}]",
                f"{own['tokens']:.1f} [{own['tokens_interval'][0]:.1f}, {own['tokens_interval'][1]:.1f}]",
                f"{own['output_tokens']:.1f}",
                f"{own['calls']:.2f}",
                f"{share:.1%}".replace("%", " %") if share is not None else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
