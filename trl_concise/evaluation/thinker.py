# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model in Thinker's dialogue: the fast answer alone, and with verification and slow thinking."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..data.thinker_turns import (
    FAST_INSTRUCTION,
    SLOW_INSTRUCTION,
    VERIFICATION_INSTRUCTION,
    next_turn,
    read_verdict,
    with_fast_instruction,
)
from ..state.checkpoint import write_atomically
from .completions import Completion, mean_or_none, summarize
from .evaluator import evaluate
from .folder import read_sets
from .sets import ProblemSets, add_to_prompts, load_problem_sets
from .summaries import SUMMARY_FILE, public_name


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

_OWN = {  # options of `evaluate` that the turns decide, or that one evaluation per turn cannot have
    *("max_new_tokens", "prompt_suffix", "budgets", "thinking_budgets", "effort", "effort_instruction", "base"),
    *("vote", "chunking"),
}
_SAMPLING = ("model", "seed", "temperature", "top_p", "answer_format", "final_form")


@dataclass(frozen=True)
class ThinkerTurns:
    """
    Budgets, in tokens, and instructions of the turns of a dialogue.

    Args:
        fast_tokens, verification_tokens, slow_tokens (`int`, *optional*, default to `1000`, `6000` and `6000`): At least 1.
        fast_instruction (`str`, *optional*): Text after the problem.
        verification_instruction, slow_instruction (`str`, *optional*): What the user says before these turns.
    """

    fast_tokens: int = 1000
    verification_tokens: int = 6000
    slow_tokens: int = 6000
    fast_instruction: str = FAST_INSTRUCTION
    verification_instruction: str = VERIFICATION_INSTRUCTION
    slow_instruction: str = SLOW_INSTRUCTION

    @property
    def tokens(self) -> int:
        """Tokens that a whole dialogue may have."""
        return self.fast_tokens + self.verification_tokens + self.slow_tokens


@dataclass(frozen=True)
class Dialogue:
    """
    The turns of one dialogue at inference, judged.

    Attributes:
        fast, verification ([`Completion`]): The first two turns.
        slow ([`Completion`], *optional*): The third turn; `None` if the verdict was Yes.
    """

    fast: Completion
    verification: Completion
    slow: Completion | None = None

    @property
    def verdict(self) -> bool | None:
        """Whether the verification says Yes; `None` if it says neither Yes nor No within its budget."""
        return None if self.verification.truncated else read_verdict(self.verification.text)

    def whole(self) -> Completion:
        """Return the answer of the dialogue, with the tokens of all turns."""
        last = self.slow or self.fast
        turns = [self.fast, self.verification, *([self.slow] if self.slow is not None else [])]
        ids = [token for turn in turns for token in turn.completion_ids]
        return replace(
            self.fast, text=last.text, completion_ids=ids, truncated=last.truncated, correct=last.correct, thought=None
        )


def evaluate_thinker(
    model: str | PreTrainedModel,
    datasets: str | Sequence[str] | Mapping[str, Dataset],
    output_dir: str | Path | None = None,
    *,
    turns: ThinkerTurns | None = None,
    num_completions: int = 1,
    system_prompt: str | None = None,
    limit: int | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """
    Measure accuracy and tokens of fast answers, and of whole dialogues, in which the model's own verdict decides: after Yes, the fast answer is
    final; after No, or without a verdict, the slow one.

    Each turn is an evaluation of its own, in the folders `fast`, `verification` and `slow` of `output_dir`, so an interrupted call continues
    and other weights or settings are refused, as by [`evaluate`]. A model that is given by its name is loaded once per turn.

    Args:
        model, datasets, output_dir, num_completions, system_prompt, limit:
            As for [`evaluate`].
        turns ([`ThinkerTurns`], *optional*):
            Budgets and instructions. Default: those of the paper, and ours.
        **options:
            Other options of [`evaluate`], except `max_new_tokens`, `prompt_suffix`, `budgets`, `thinking_budgets`, `effort`, `effort_instruction`,
            `base`, `vote` and `chunking`.

    Returns:
        `list[dict[str, Any]]`: Two records per problem set, named `"<set>, fast"` and `"<set>, full"`, with the figures of [`summarize`], the
        settings of the sampling, and those of `turns` (of an instruction its SHA-256). Tokens of `full` are those of all turns. It also has
        `yes_fraction`, `verification_accuracy` (share of the verdicts that agree with the truth), `verification_tokens_mean`,
        `slow_fraction`, `slow_accuracy` and `slow_tokens_mean` (`None` without slow turns). With an `output_dir`, they are written to `summary.json`.

    Raises:
        `ValueError`: If an option is one of those above, or as by [`evaluate`].
    """
    turns = turns or ThinkerTurns()
    if refused := sorted(_OWN & options.keys()):
        raise ValueError(
            f"evaluate_thinker does not take {', '.join(refused)}: the turns have budgets and instructions of their own. Pass them as "
            "turns=ThinkerTurns(...), or leave them out."
        )
    if output_dir is None:
        with tempfile.TemporaryDirectory() as unkept:
            return evaluate_thinker(
                model,
                datasets,
                unkept,
                turns=turns,
                num_completions=num_completions,
                system_prompt=system_prompt,
                limit=limit,
                **options,
            )
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}.")
    folder = Path(output_dir)
    names = [datasets] if isinstance(datasets, str) else datasets
    loaded = names if isinstance(names, Mapping) else load_problem_sets(names)
    sources = loaded.sources if isinstance(loaded, ProblemSets) else {}
    loaded = {public_name(name): dataset for name, dataset in loaded.items()}
    problems = {}
    for name, dataset in loaded.items():
        dataset = dataset.select(range(min(limit or len(dataset), len(dataset))))
        dataset = add_to_prompts(dataset, system_prompt, None)
        problems[name] = with_fast_instruction(dataset, turns.fast_instruction)

    def take_turn(turn: str, sets: dict[str, Dataset], tokens: int, n: int = 1):
        if not sets:
            return [], {}
        records = evaluate(model, sets, folder / turn, max_new_tokens=tokens, num_completions=n, **options)
        return records, read_sets(folder / turn, sets)

    records, fast = take_turn("fast", problems, turns.fast_tokens, num_completions)
    started = {name: [item for item in _in_order(items) if item.correct is not None] for name, items in fast.items()}
    prompts = {
        name: [
            _continue(problems[name][item.problem]["prompt"], item, turns.verification_instruction) for item in items
        ]
        for name, items in started.items()
    }
    sets = {name: _as_dataset(prompts[name], items) for name, items in started.items()}
    _, verified = take_turn("verification", sets, turns.verification_tokens)
    dialogues = {
        name: [Dialogue(*pair) for pair in zip(items, verified[name], strict=True)] for name, items in started.items()
    }
    doubted = {
        name: [i for i, own in enumerate(items) if own.verdict is not True] for name, items in dialogues.items()
    }
    sets = {
        name: _as_dataset(
            [_continue(prompts[name][i], verified[name][i], turns.slow_instruction) for i in places],
            [started[name][i] for i in places],
        )
        for name, places in doubted.items()
        if places
    }
    _, tried = take_turn("slow", sets, turns.slow_tokens)
    for name, items in tried.items():
        for i, item in zip(doubted[name], items, strict=True):
            dialogues[name][i] = replace(dialogues[name][i], slow=item)

    settings = _describe(turns) | {"system_prompt_sha256": _digest(system_prompt)}
    found = []
    for record in records:
        name = record["dataset"]
        how = {key: record[key] for key in _SAMPLING} | settings | sources.get(name, {}) | {"budget": None}
        how["limit"] = limit if limit is not None and limit < len(loaded[name]) else None
        found += [
            {"dataset": f"{name}, fast", **summarize(started[name]), **how, "max_new_tokens": turns.fast_tokens},
            {
                "dataset": f"{name}, full",
                **summarize_dialogues(dialogues[name]),
                **how,
                "max_new_tokens": turns.tokens,
            },
        ]
    write_atomically(folder / SUMMARY_FILE, (json.dumps(found, indent=2, allow_nan=False) + "\n").encode())
    return found


def summarize_dialogues(dialogues: Sequence[Dialogue]) -> dict[str, Any]:
    """Summarize judged dialogues of one problem set: the figures of the record `"<set>, full"` of [`evaluate_thinker`]."""
    slow = [dialogue.slow for dialogue in dialogues if dialogue.slow is not None]
    return {
        **summarize([dialogue.whole() for dialogue in dialogues]),
        "yes_fraction": fmean(dialogue.verdict is True for dialogue in dialogues),
        "verification_accuracy": fmean(dialogue.verdict is dialogue.fast.correct for dialogue in dialogues),
        "verification_tokens_mean": fmean(dialogue.verification.tokens for dialogue in dialogues),
        "slow_fraction": len(slow) / len(dialogues),
        "slow_accuracy": mean_or_none(bool(item.correct) for item in slow),
        "slow_tokens_mean": mean_or_none(item.tokens for item in slow),
    }


def _in_order(completions: Sequence[Completion]) -> list[Completion]:
    """Return completions so that further ones of the same problems come last, and rows of the next turn keep their places."""
    return sorted(completions, key=lambda item: (item.completion, item.problem))


def _continue(prompt: Any, completion: Completion, instruction: str) -> Any:
    text = completion.text
    return next_turn(
        prompt, text if isinstance(prompt, str) else [{"role": "assistant", "content": text}], instruction
    )


def _as_dataset(prompts: Sequence[Any], items: Sequence[Completion]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict({"prompt": list(prompts), "solution": [item.gold for item in items]})


def _describe(turns: ThinkerTurns) -> dict[str, Any]:
    given = asdict(turns)
    return {
        f"{name}_sha256" if name.endswith("instruction") else name: _digest(value)
        if name.endswith("instruction")
        else value
        for name, value in given.items()
    }


def _digest(text: str | None) -> str | None:
    return hashlib.sha256(text.encode()).hexdigest() if text is not None else None
