# SPDX-License-Identifier: Apache-2.0
"""
Training data for code-integrated reasoning: hints in traces, filters for rejection fine-tuning, and tokens with outputs masked.

The wordings and the rules for places, verification and distrust are reconstructions: the authors placed hints by hand, and published none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..evaluation.sampling import tokenize_prompts
from .code_blocks import FENCE, encode_output, kind_of_block, output_text, split_outputs
from .code_sampling import JudgedCompletion, evaluate_with_code
from .execution import Executor, execute


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPT_HINT = "I solve this step by step, with several calls of Python."
COMPUTATION_HINT = "That is tedious: let Python compute it."
TRUST_HINT = "We need not check that number, Python calculated that."
END_OF_THINKING = "</think>"

_EQUATION = re.compile(
    r"^\s*(?:[A-Z][a-z]+, )?(?P<left>[\d\s.()]+(?:[-+*/][\d\s.()]+)+)=\s*(?P<right>-?\d+(?:\.\d+)?)\s*\.?\s*$"
)
_DOUBT = re.compile(r"^\s*(?:Wait\b|Let me check\b|Let me verify\b)|\bdouble-check\b", re.IGNORECASE)
_CONCLUSION = re.compile(r"^\s*(?:That|It) (?:agrees|differs|matches)\b")
_BLOCK_AND_OUTPUT = re.compile(
    r"^```python[ \t]*\n(?P<code>.*?)(?<=\n)```\n```output\n(?P<output>.*?)(?<=\n)```\n", re.DOTALL | re.MULTILINE
)


def insert_hints(text: str, executor: Executor) -> str:
    """
    Insert computation and trust hints into a trace, and execute the code that they lead to.

    A long manual calculation is two or more equations on consecutive lines, such as `27+8=35`. It is replaced by the computation hint, a block
    that prints what the equations calculate, and its output. Where doubt about a number begins after an output, the check is replaced by the
    trust hint. Equations that go on from the result of the line before become one expression. Neither the hints nor the code contains a result of the trace, unless the trace calculates with it.

    Args:
        text (`str`): Reasoning, which may end with `</think>` and an answer.
        executor ([`Executor`]): Executes the blocks. A calculation whose block fails stays as it is.

    Returns:
        `str`: The trace, unchanged where there is nothing to compute.

    Examples:
        >>> from trl_concise.experimental.execution import Calculator
        >>> print(insert_hints("27+8=35\\n35*2=70\\nWait, let me check.\\n27+8=35\\n35*2=70\\n</think>\\n70", Calculator()))
        That is tedious: let Python compute it.
        ```python
        print((27+8)*2)
        ```
        ```output
        70
        ```
        We need not check that number, Python calculated that.
        </think>
        70
    """
    thinking, marker, answer = text.partition(END_OF_THINKING)
    lines = thinking.splitlines(keepends=True)
    written: list[str] = []
    blocks: list[str] = []
    i = 0
    while i < len(lines):
        end = _end_of_equations(lines, i)
        if blocks and _DOUBT.search(lines[i]):
            written.append(f"{TRUST_HINT}\n")
            i += 1
            while i < len(lines) and any(rule.search(lines[i]) for rule in (_EQUATION, _DOUBT, _CONCLUSION)):
                i += 1
        elif end - i >= 2:
            code = "".join(f"print({expression})\n" for expression in _chained(lines[i:end]))
            outcome = execute(executor, [*blocks, code])
            if outcome.failed:
                written += lines[i:end]
            else:
                output = output_text(outcome, starts_line=True, is_last=False)
                written.append(f"{COMPUTATION_HINT}\n```python\n{code}{FENCE}\n{output}")
                blocks.append(code)
            i = end
        else:
            written.append(lines[i])
            i += 1
    return "".join(written) + marker + answer


def insert_prompt_hint(text: str) -> str:
    """Return a trace that begins with the prompt hint. The trace itself is unchanged."""
    return f"{PROMPT_HINT}\n{text}"


def _end_of_equations(lines: Sequence[str], start: int) -> int:
    end = start
    while end < len(lines) and _EQUATION.match(lines[end]):
        end += 1
    return end


def _chained(lines: Sequence[str]) -> list[str]:
    """Return the expressions that equations calculate, one for each chain in which a line begins with the result of the last one."""
    expressions: list[str] = []
    previous = None
    for line in lines:
        found = _EQUATION.match(line)
        assert found is not None
        left = found["left"].strip()
        first, rest = re.match(r"(\d+(?:\.\d+)?)?(.*)", left, re.DOTALL).groups()  # type: ignore[union-attr]
        if previous is not None and first == previous:
            before = expressions.pop()
            left = f"({before}){rest}" if _needs_brackets(before, rest) else f"{before}{rest}"
        expressions.append(left)
        previous = found["right"]
    return expressions


def _needs_brackets(before: str, rest: str) -> bool:
    """Whether `before` has to be bracketed in front of an operator that binds more strongly."""
    return rest.strip()[:1] in ("*", "/") and re.search(r"[-+]", re.sub(r"\(.*\)", "", before)) is not None


def executed_blocks(text: str) -> list[tuple[str, str, str]]:
    """
    Return the executed blocks of a trace.

    Returns:
        `list[tuple[str, str, str]]`: The text before each block, its code, and its output.
    """
    return [(text[: found.start()], found["code"], found["output"]) for found in _BLOCK_AND_OUTPUT.finditer(text)]


def delays_computation(text: str) -> bool:
    """Say whether more than half of the executed blocks of a trace only verify what was calculated before (see [`kind_of_block`])."""
    kinds = [kind_of_block(before, output) for before, _, output in executed_blocks(text)]
    return 2 * kinds.count("verification") > len(kinds)


def distrusts_output(text: str) -> bool:
    r"""
    Say whether a trace calculates again after an output: after it, and before the next block or `</think>`, a line opens a reflection ("Wait",
    "Let me check", "Let me verify", "double-check"), and it or a later line has `=` and a digit.

    Examples:
        >>> trace = "```python\nprint(35*2)\n```\n```output\n70\n```\nWait, is the code right?\n"
        >>> distrusts_output(trace + "It is.\n</think>"), distrusts_output(trace + "35*2=70\n</think>")
        (False, True)
    """
    for found in _BLOCK_AND_OUTPUT.finditer(text):
        after = re.split(r"^```python|</think>", text[found.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        lines = after.splitlines()
        opening = next((i for i, line in enumerate(lines) if _DOUBT.search(line)), len(lines))
        if any("=" in line and re.search(r"\d", line) for line in lines[opening:]):
            return True
    return False


def tokenize_code_trace(tokenizer: PreTrainedTokenizerBase, prompt: Any, text: str) -> dict[str, list[int]]:
    """
    Return a row for TRL's `SFTTrainer` in which outputs are not learned.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Of the model that is trained.
        prompt (`str` or `list[dict]`): The problem.
        text (`str`): The trace, without the end token.

    Returns:
        `dict[str, list[int]]`: `input_ids`, and `completion_mask`, which is 0 at the prompt and at outputs with their fences. With
        `SFTConfig(completion_only_loss=True)`, the loss skips those.
    """
    (ids,) = tokenize_prompts(tokenizer, [prompt])
    ids, mask = list(ids), [0] * len(ids)
    for piece, is_output in split_outputs(text):
        own = encode_output(tokenizer, piece) if is_output else tokenizer(piece, add_special_tokens=False).input_ids
        ids += own
        mask += [int(not is_output)] * len(own)
    return {"input_ids": [*ids, tokenizer.eos_token_id], "completion_mask": [*mask, 1]}


FILTERS: dict[str, Callable[[JudgedCompletion], bool]] = {
    "wrong": lambda item: not item.correct,
    "without code": lambda item: not item.completion.calls,
    "delayed computation": lambda item: delays_computation(item.text),
    "distrust": lambda item: distrusts_output(item.text),
}


def build_code_traces(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Dataset,
    executor: Executor,
    *,
    num_completions: int = 4,
    **options: Any,
) -> tuple[Dataset, dict[str, int]]:
    """
    Sample traces with executed code, and keep those to train on next (rejection fine-tuning).

    Dropped are, in this order, traces with a wrong answer, without code, with delayed computation, and with distrust.

    Args:
        model, tokenizer: A model that writes Python blocks, such as one fine-tuned on hinted traces.
        problems (`Dataset`): Columns `prompt` and `solution`.
        executor ([`Executor`]): Executes the blocks.
        num_completions (`int`, *optional*, defaults to `4`): Traces per problem.
        **options: Other arguments of [`evaluate_with_code`].

    Returns:
        `tuple[Dataset, dict[str, int]]`: Rows of [`tokenize_code_trace`] with `text`, and how many traces were kept (`"kept"`) or dropped, by
        reason.

    Raises:
        `ValueError`: If no trace is kept.
    """
    from datasets import Dataset

    found = evaluate_with_code(model, tokenizer, problems, executor, num_completions=num_completions, **options)
    prompts, counts, rows = list(problems["prompt"]), Counter(dict.fromkeys([*FILTERS, "kept"], 0)), []
    for item in found:
        reason = next((name for name, drops in FILTERS.items() if drops(item)), "kept")
        counts[reason] += 1
        if reason == "kept":
            rows.append({**tokenize_code_trace(tokenizer, prompts[item.problem], item.text), "text": item.text})
    if not rows:
        raise ValueError(
            f"None of {len(found)} traces can be kept: {dict(counts)}. Fine-tune the model on hinted traces first, or use easier problems."
        )
    return Dataset.from_list(rows), dict(counts)
