# SPDX-License-Identifier: Apache-2.0
"""
A tool, problems with and without need for it, and the embedded model taught to call it, for methods that train the use of tools.

Half of the problems have two operations with one-digit numbers, which the model solves in its head; the other half begin with a product of
two-digit numbers, which it does not. The transcripts that the model learns from use the calculator for either, often more than once.
"""

from __future__ import annotations

import ast
import itertools
import operator
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .problems import Problem, draw_problem, problem_digest, split_of
from .traces import slipped_results, write_pass
from .variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase
STEPS = 300
TRANSCRIPTS = 32  # per step
LEARNING_RATE = 1.5e-3
BATCHES_PER_POOL = 8  # transcripts are sorted by length within a pool, so that little is padded
KINDS = ("easy", "hard")
HARD_FACTORS = (12, 99)
# Shares of the transcripts: no call, a call per operation, one call for the whole expression.
STYLES = {"easy": {"none": 0.35, "steps": 0.4, "whole": 0.25}, "hard": {"none": 0.15, "steps": 0.5, "whole": 0.35}}
CHECKS = {0: 0.4, 1: 0.35, 2: 0.25}  # calls that repeat the last one, in a transcript with calls
SLIP_SHARE = 0.1  # of the easy transcripts without a call have a wrong result
LONGEST = 60  # characters of an expression

CHAT_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') }}\
{% for call in message['tool_calls'] or [] %}{{ '<tool_call>' + call['function']['name'] + ' ' }}\
{% for name, value in call['function']['arguments'].items() %}{{ name + '=' + value }}{% endfor %}\
{{ '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
RESPONSE_TEMPLATE: dict[str, Any] = {  # how TRL reads what the chat template writes
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open_pattern": r"<tool_call>(?P<name>\w+) ",
            "close": "</tool_call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"(?P<key>\w+)=(?P<value>.*)"},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def calculate(expression: str) -> str:
    """
    Calculate an arithmetic expression.

    Args:
        expression: Whole numbers, +, -, * and parentheses, for example (27+8)*2.

    Returns:
        The result, in digits.

    Raises:
        ValueError: If it is not such an expression, or longer than 60 characters. TRL tells the model, in its few words.
    """
    if len(expression) > LONGEST:
        raise ValueError("too long")
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError:
        raise ValueError("not an expression") from None
    return str(_value(tree.body))


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not allowed")


def draw_hard_problem(rng: random.Random) -> Problem:
    """Draw a product of two two-digit numbers, to which a third number is added, or from which it is subtracted."""
    return Problem(
        rng.randint(*HARD_FACTORS), (("*", rng.randint(*HARD_FACTORS)), (rng.choice("+-"), rng.randint(2, 99)))
    )


def tool_problems(seed: int | str, split: str = "train") -> Iterator[tuple[str, Problem]]:
    """Yield distinct problems of one split without end, easy and hard ones in turn, each with its kind, `"easy"` or `"hard"`."""
    rng = random.Random(f"tools {split} {seed}")
    seen: set[str] = set()
    for kind in itertools.cycle(KINDS):
        while True:
            problem = draw_problem(rng, (2,)) if kind == "easy" else draw_hard_problem(rng)
            if problem.text not in seen and split_of(problem.text) == split:
                break
        seen.add(problem.text)
        yield kind, problem


def tool_dataset(n: int, *, seed: int = 0, split: str = "train", kinds: tuple[str, ...] = KINDS) -> Dataset:
    """
    Generated problems for a model that can call [`calculate`].

    Args:
        n (`int`): Number of problems, at most 2,000 per kind.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems.
        split (`str`, *optional*, defaults to `"train"`): `"train"`, `"validation"` or `"test"`.
        kinds (`tuple[str, ...]`, *optional*): `"easy"`, `"hard"`, or both in turn (the default).

    Returns:
        `Dataset`: Columns `prompt` (one user message), `solution`, `prompt_id` and `kind`.
    """
    from datasets import Dataset

    chosen = ((kind, problem) for kind, problem in tool_problems(seed, split) if kind in kinds)
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": problem.text}],
                "solution": str(problem.results[-1]),
                "prompt_id": problem_digest(problem.text),
                "kind": kind,
            }
            for kind, problem in itertools.islice(chosen, n)
        ]
    )


def write_transcript(kind: str, problem: Problem, rng: random.Random) -> list[dict[str, Any]]:
    """
    Write a conversation that solves a problem, with or without the calculator.

    Args:
        kind (`str`): `"easy"` or `"hard"`: the shares of [`STYLES`].
        problem ([`Problem`]): Problem to solve.
        rng (`random.Random`): Source of the style and of slips.

    Returns:
        `list[dict]`: Messages: the problem, then those of the assistant and the tool. After a slip, the answer is wrong.
    """
    messages: list[dict[str, Any]] = [{"role": "user", "content": problem.text}]
    style = rng.choices(list(STYLES[kind]), weights=list(STYLES[kind].values()))[0]
    if style == "none":
        slips = kind == "easy" and rng.random() < SLIP_SHARE
        results = slipped_results(problem, rng) if slips else problem.results
        lines = [*write_pass(problem, results, verbose=False), f"\\boxed{{{results[-1]}}}"]
        return [*messages, {"role": "assistant", "content": "\n".join(lines)}]
    whole = problem.expression.replace(" ", "")
    calls = [whole]
    if style == "steps":
        lefts = [problem.start, *problem.results]
        calls = [f"{left}{sign}{right}" for left, (sign, right) in zip(lefts, problem.operations, strict=False)]
    calls += [whole] * rng.choices(list(CHECKS), weights=list(CHECKS.values()))[0]
    for expression in calls:
        function = {"name": calculate.__name__, "arguments": {"expression": expression}}
        messages.append(
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
        )
        messages.append({"role": "tool", "name": calculate.__name__, "content": calculate(expression)})
    return [*messages, {"role": "assistant", "content": f"\\boxed{{{problem.results[-1]}}}"}]


def tool_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model to call [`calculate`], and save it. A folder that has a model is returned as it is.

    Its chat template renders tool calls, and its tokenizer has the `response_template` with which TRL parses them. The problems are of the
    split `train`. With several processes, the first one trains, and the others wait. It runs on the CPU: the 300 steps took 114 s of processor
    time on one thread.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `300`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and transcripts.

    Returns:
        `Path`: The folder.

    Raises:
        `ImportError`: If transformers cannot read a `response_template`.
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(
        folder,
        steps,
        lambda tokenizer: _batches(tokenizer, seed),
        change_tokenizer=_add_tools,
        learning_rate=LEARNING_RATE,
    )


def _add_tools(tokenizer: PreTrainedTokenizerBase) -> None:
    if not hasattr(tokenizer, "response_template"):
        from transformers import __version__

        raise ImportError(
            f"The demo with tools needs transformers 5.13 or newer, which parses calls with a response_template; {__version__} is installed. "
            "Update transformers."
        )
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "calculate", "expression="])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.response_template = RESPONSE_TEMPLATE


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    """Yield transcripts of similar length."""
    rng, problems = random.Random(f"tools {seed}"), tool_problems(f"transcripts {seed}")
    while True:
        pool = [
            tokenize_transcript(tokenizer, write_transcript(kind, problem, rng))
            for kind, problem in itertools.islice(problems, TRANSCRIPTS * BATCHES_PER_POOL)
        ]
        pool.sort(key=lambda row: len(row[0]))
        firsts = list(range(0, len(pool), TRANSCRIPTS))
        rng.shuffle(firsts)
        for first in firsts:
            yield pool[first : first + TRANSCRIPTS]


def tokenize_transcript(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]
) -> tuple[list[int], list[int]]:
    """
    Return token ids and labels of a conversation: what the assistant writes, with the end of its turns, is learned, except messages with the
    `weight` 0.
    """
    ids: list[int] = []
    labels: list[int] = []
    for count, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        texts = [
            tokenizer.apply_chat_template(messages[:count], add_generation_prompt=True, tokenize=False),
            tokenizer.apply_chat_template(messages[: count + 1], tokenize=False).rstrip("\n"),
        ]
        prompt, whole = (tokenizer(text).input_ids for text in texts)
        given = prompt[len(ids) :]
        written = whole[len(prompt) :]
        learned = written if message.get("weight", 1) else [IGNORED] * len(written)
        ids, labels = whole, [*labels, *[IGNORED] * len(given), *learned]
    return ids, labels
