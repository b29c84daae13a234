# SPDX-License-Identifier: Apache-2.0
"""Both stages of AdaptMI as evaluations: fixed examples for every question, then examples of skills for the difficult ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...evaluation import evaluate
from ...evaluation.completions import Completion, mean_or_none
from ...evaluation.folder import read_sets
from ...evaluation.loading import context_length, find_model
from ...evaluation.metrics import accuracy_interval
from ...evaluation.sampling import Prompt, tokenize_prompts
from ...state.adapters import load_tokenizer
from ...state.checkpoint import write_atomically
from ..step_scores import StepScorer
from .bank import NUM_EXAMPLES, SkillBank, adaptive_examples, prompt_key, question_of
from .difficulty import TAU, Decision, check_tau, decide


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Labeler = Callable[
    [str, str, Decision], Sequence[str] | str
]  # question, first completion, decision: the missing skills


def check_context(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], max_new_tokens: int, context: int | None
) -> list[int]:
    """
    Check that prompts leave room for their completions, and return their lengths in tokens.

    Raises:
        `ValueError`: If a prompt with `max_new_tokens` is longer than the `context`.
    """
    lengths = [len(ids) for ids in tokenize_prompts(tokenizer, prompts)]
    for prompt, length in zip(prompts, lengths, strict=True):
        if context is not None and length + max_new_tokens > context:
            raise ValueError(
                f"The prompt that ends with {question_of(prompt)[-80:]!r} has {length} tokens, and with max_new_tokens {max_new_tokens} it exceeds "
                f"the context of {context}. Use fewer or shorter examples, or lower max_new_tokens."
            )
    return lengths


def adapt(
    model: str,
    datasets: Mapping[str, Dataset],
    output_dir: str | Path,
    *,
    scorer: StepScorer,
    bank: SkillBank,
    skills: Mapping[str, Sequence[str] | str] | None = None,
    tau: Sequence[float] = TAU,
    plus: bool = False,
    labeler: Labeler | None = None,
    oracle: bool = False,
    stage1: str | Path | None = None,
    k: int = NUM_EXAMPLES,
    skill_examples: int = NUM_EXAMPLES,
    num_completions: int = 1,
    max_new_tokens: int = 2048,
    temperature: float = 0.0,
    seed: int = 0,
    prompt_options: Mapping[str, Any] | None = None,
    split_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """
    Answer questions with fixed examples, and the difficult ones again with examples of their skills.

    Both stages are evaluations in folders of their own, so an interrupted call continues. Easy questions keep their first completion.

    Args:
        model (`str`):
            Path or Hub id of a model, or `demo`.
        datasets (`Mapping[str, Dataset]`):
            Problem sets with bare prompts: columns `prompt` and `solution`, optionally `prompt_id` and `subject`.
        output_dir (`str` or `Path`):
            Folder of `difficulty.jsonl`, `prompts.jsonl`, `completions.jsonl` and `summary.json`.
        scorer ([`StepScorer`]):
            Scores the steps of the first completions. Its attribute `tokens`, if it has one, counts what it has read.
        bank ([`SkillBank`]):
            Examples of the training split.
        skills (`Mapping[str, Sequence[str] | str]`, *optional*):
            Skill or skills by prompt key: `prompt_id`, or as `prompt_key` computes it. A difficult question without an entry gets the fixed examples, and is counted.
        tau (`Sequence[float]`, *optional*, defaults to `(0.85, 0.7)`):
            Thresholds (see [`find_rule`]). Both below 0: the result is the first stage.
        plus (`bool`, *optional*, defaults to `False`):
            AdaptMI+: the `labeler` lists the skills that the first completion lacks.
        labeler (`Callable`, *optional*):
            Called with the question, its first completion and the [`Decision`]; returns skills, the most important one first.
        oracle (`bool`, *optional*, defaults to `False`):
            Call the questions difficult whose first completion is wrong. It uses the reference answers: an upper bound, not a method.
        stage1 (`str` or `Path`, *optional*):
            Folder of the first stage, which several calls can share. Default: `stage1` in `output_dir`.
        k, skill_examples (`int`, *optional*, default to `5`):
            Examples of a prompt, and places for skills among them.
        num_completions (`int`, *optional*, defaults to `1`):
            First completions per question. The one with the highest mean score decides, and is the answer to an easy question.
        max_new_tokens, temperature, seed:
            See [`evaluate`]. They default to `2048`, `0.0` and `0`.
        prompt_options, split_options (`Mapping`, *optional*):
            Options of [`few_shot_prompt`] and of [`steps_of`].
        **options:
            Other options of [`evaluate`], for both stages.

    Returns:
        `list[dict[str, Any]]`: One record per set (see [`summarize_stages`]).

    Raises:
        `ValueError`: If thresholds, bank or scores are invalid, `plus` has no labeler, or a prompt exceeds the context of the model.
    """
    check_tau(tau)
    if plus and labeler is None:
        raise ValueError(
            "AdaptMI+ (plus=True) needs a labeler, which lists the missing skills. Pass labeler=, or leave plus out."
        )
    folder = Path(output_dir)
    first_folder = Path(stage1) if stage1 is not None else folder / "stage1"
    name, base = find_model(model)
    tokenizer, context = load_tokenizer(name), context_length(base or name)
    prompts = dict(prompt_options or {})
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, **options}
    example_options = {"k": k, "skill_examples": skill_examples, "seed": seed, **prompts}

    fixed = {
        name: adaptive_examples(rows, [None] * len(rows), bank, **example_options) for name, rows in datasets.items()
    }
    lengths = {name: check_context(tokenizer, rows["prompt"], max_new_tokens, context) for name, rows in fixed.items()}
    evaluate(model, fixed, first_folder, num_completions=num_completions, **settings)
    first = {name: _by_problem(items) for name, items in read_sets(first_folder, fixed).items()}

    read_before = getattr(scorer, "tokens", 0)
    scorer_tokens: dict[str, int] = {}
    decisions: dict[str, dict[int, Decision]] = {}
    for name, problems in first.items():
        questions = [question_of(prompt) for prompt in datasets[name]["prompt"]]
        decisions[name] = {
            problem: decide(
                name,
                problem,
                questions[problem],
                ["" if item.truncated else item.text for item in items],
                scorer,
                tau,
                **(split_options or {}),
            )
            for problem, items in problems.items()
        }
        scorer_tokens[name] = getattr(scorer, "tokens", 0) - read_before
        read_before += scorer_tokens[name]
        if oracle:
            for problem, own in decisions[name].items():
                is_wrong = not problems[problem][own.completion].correct
                decisions[name][problem] = replace(own, difficult=is_wrong, rule="oracle" if is_wrong else None)

    places, sets, without_skills = {}, {}, {}
    for name, rows in datasets.items():
        places[name] = sorted(problem for problem, own in decisions[name].items() if own.difficult)
        wanted: list[Sequence[str] | str] = []
        for problem in places[name]:
            own = decisions[name][problem]
            if plus and labeler is not None:
                text = first[name][problem][own.completion].text
                wanted.append(labeler(question_of(rows[problem]["prompt"]), text, own))
            else:
                wanted.append((skills or {}).get(prompt_key(rows[problem]), ()))
        without_skills[name] = sum(not own for own in wanted)
        if places[name]:
            sets[name] = adaptive_examples(rows.select(places[name]), wanted, bank, **example_options)
    second_lengths = {
        name: check_context(tokenizer, rows["prompt"], max_new_tokens, context) for name, rows in sets.items()
    }
    second: dict[str, dict[int, Completion]] = {name: {} for name in datasets}
    if sets:
        evaluate(model, sets, folder / "stage2", **settings)
        for name, items in read_sets(folder / "stage2", sets).items():
            second[name] = {
                places[name][item.problem]: replace(item, problem=places[name][item.problem]) for item in items
            }

    records = []
    for name in datasets:
        records.append(
            {
                "dataset": name,
                **summarize_stages(list(decisions[name].values()), first[name], second[name]),
                "prompt_tokens": (sum(lengths[name]) + sum(second_lengths.get(name, []))) / len(lengths[name]),
                "scorer_tokens": scorer_tokens[name] / len(lengths[name]),
                "without_skills": without_skills[name],
                "tau": list(tau),
                "plus": plus,
                "uses_reference_answers": oracle,
            }
        )
    _write(folder / "difficulty.jsonl", [asdict(own) for group in decisions.values() for own in group.values()])
    _write(
        folder / "prompts.jsonl",
        [
            {
                "dataset": name,
                "stage": stage,
                "problem": problem,
                "prompt_id": row["prompt_id"],
                "prompt": row["prompt"],
            }
            for stage, group in ((1, fixed), (2, sets))
            for name, rows in group.items()
            for problem, row in zip(places[name] if stage == 2 else range(len(rows)), rows, strict=True)
        ],
    )
    final = [
        second[name].get(problem, first[name][problem][own.completion])
        for name, group in decisions.items()
        for problem, own in group.items()
    ]
    write_atomically(folder / "completions.jsonl", "".join(item.line() for item in final).encode())
    write_atomically(folder / "summary.json", (json.dumps(records, indent=2, allow_nan=False) + "\n").encode())
    return records


def summarize_stages(
    decisions: Sequence[Decision],
    first: Mapping[int, Sequence[Completion]],
    second: Mapping[int, Completion],
) -> dict[str, Any]:
    """
    Summarize both stages of one problem set.

    Args:
        decisions (`Sequence[Decision]`): Decisions of all questions.
        first (`Mapping[int, Sequence[Completion]]`): First completions by question.
        second (`Mapping[int, Completion]`): Second completions of the difficult ones.

    Returns:
        `dict[str, Any]`: `problems`, `accuracy` and `accuracy_interval` (95 %), `easy_accuracy`, `difficult_accuracy` and `difficult_accuracy_before` (`None` without such
        questions), `difficult_share`, `precision` and `recall` of "difficult" for wrong first completions (`None` if undefined), `rules` (how often each decided),
        `stage1_tokens`, `stage2_tokens` and `generated_tokens`, per question. Questions whose reference answer cannot be read count in the tokens only.
    """
    before: dict[int, bool] = {}
    after: dict[int, bool] = {}
    for own in decisions:
        start = first[own.problem][own.completion]
        end = second[own.problem] if own.difficult else start
        if start.correct is not None and end.correct is not None:
            before[own.problem], after[own.problem] = start.correct, end.correct
    difficult = {own.problem for own in decisions if own.difficult}
    judged_difficult = [problem for problem in after if problem in difficult]
    wrong = [problem for problem, correct in before.items() if not correct]
    found = len(difficult.intersection(wrong))
    counts = [sum(item.tokens for item in first[own.problem]) for own in decisions]
    again = [second[problem].tokens for problem in difficult]
    return {
        "problems": len(after),
        "accuracy": fmean(after.values()),
        "accuracy_interval": list(accuracy_interval([[float(value)] for value in after.values()])),
        "easy_accuracy": mean_or_none(value for problem, value in after.items() if problem not in difficult),
        "difficult_accuracy": mean_or_none(after[problem] for problem in judged_difficult),
        "difficult_accuracy_before": mean_or_none(before[problem] for problem in judged_difficult),
        "difficult_share": len(difficult) / len(decisions),
        "precision": found / len(judged_difficult) if judged_difficult else None,
        "recall": found / len(wrong) if wrong else None,
        "rules": dict(Counter(own.rule for own in decisions if own.rule is not None)),
        "stage1_tokens": fmean(counts),
        "stage2_tokens": sum(again) / len(decisions),
        "generated_tokens": (sum(counts) + sum(again)) / len(decisions),
    }


def _by_problem(items: Sequence[Completion]) -> dict[int, list[Completion]]:
    problems: dict[int, list[Completion]] = {}
    for item in items:
        problems.setdefault(item.problem, []).append(item)
    return problems


def _write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())
