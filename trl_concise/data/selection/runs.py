# SPDX-License-Identifier: Apache-2.0
"""The methods of `trl-concise select`, from the options of the command line to the files."""

from __future__ import annotations

import argparse
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..columns import RowError
from ..files import write_rows
from ..rows import read_column
from . import shape_of_thought, stat_sel
from .embeddings import check_packages
from .infialign import select_infialign
from .judging import judge_difficulty
from .report import SelectionReport, describe
from .select2reason import DifficultyJudge, joint_rank, select_jointly
from .source import Source
from .task import Run, length_function, model_path
from .texts import check_column, digest, find_fields, read_question, sft_example


PASS_RATE = "pass_rate"  # of `trl-concise filter`: low for difficult problems


def run_select2reason(options: argparse.Namespace) -> SelectionReport:
    """Keep hard questions with long traces. Two passes over the rows; two numbers per row are held in memory."""
    joint_rank([], [], weight=options.weight)
    if not 0 < options.share <= 1:
        raise ValueError(f"--share must lie in (0, 1], got {options.share}.")
    if options.weight == 0 and (options.judge or options.difficulty_column) is not None:
        raise ValueError(
            "--weight 0 ranks by length only, so --judge and --difficulty_column have no effect. Leave them out."
        )
    if options.weight == 1 and (options.tokenizer is not None or options.length_unit != "tokens"):
        raise ValueError(
            "--weight 1 ranks by difficulty only, so --tokenizer and --length_unit have no effect. Leave them out."
        )
    if options.weight > 0 and (options.judge is None) == (options.difficulty_column is None):
        raise ValueError(
            "Name either a model that judges the difficulty with --judge, or a column that holds it with --difficulty_column, or "
            "rank by length only with --weight 0."
        )
    run = Run(options)
    run.check("difficulty_column")
    needs_trace = options.weight < 1
    length = length_function(options, options.judge) if needs_trace else None
    places, lengths, difficulties = array("q"), array("d"), array("d")

    def questions() -> Iterator[str]:
        for place, row, question, traces in run.usable(needs_trace=needs_trace):
            if options.difficulty_column is not None and options.weight > 0:
                difficulty = _read_difficulty(row, options.difficulty_column)
                if difficulty is None:
                    run.report.dropped["no finite difficulty"] += 1
                    continue
                difficulties.append(difficulty)
            places.append(place)
            lengths.append(length(traces[0]) if length is not None else 0)
            yield question

    if options.judge is not None and options.weight > 0:
        judge = DifficultyJudge(model_path(options.judge), batch_size=options.batch_size)
        path = options.output.with_name(f"{options.output.stem}_difficulty.jsonl")
        difficulties.extend(judge_difficulty(judge, options.judge, questions(), path))
    else:
        for _ in questions():
            pass
    if not places:
        raise run.no_usable_rows()
    if options.weight == 0:
        difficulties.extend([0.0] * len(places))
    kept = sorted(select_jointly(difficulties, lengths, share=options.share, weight=options.weight))
    if options.weight > 0:
        run.report.compare("difficulty", difficulties, kept)
    if needs_trace:
        run.report.compare(f"length in {options.length_unit}", lengths, kept)
    run.report.compare("joint score", joint_rank(difficulties, lengths, weight=options.weight), kept)
    run.write([places[i] for i in kept], "joint score too low")
    return run.report


def run_infialign(options: argparse.Namespace) -> SelectionReport:
    """Keep diverse questions with long traces. Questions are held in memory for clustering; traces are not."""
    if options.judge_base_url is not None and options.judge_model is None:
        raise ValueError("--judge_base_url has no effect without --judge_model. Add --judge_model, or leave it out.")
    names = [name for name, _ in options.quotas or ()]
    if len(set(names)) < len(names):
        raise ValueError(f"--quotas names a domain twice: {' '.join(names)}. Give one quota per domain.")
    run = Run(options)
    run.check("domain_column")
    run.check_judge()
    length = length_function(options)
    if options.clusters != 1:
        check_packages(options.embeddings)
    drop = run.report.dropped
    places, questions, lengths, domains = array("q"), [], array("d"), []
    keys: dict[str, None] = {}
    for place, row, question, traces in run.usable(needs_trace=True):
        key = digest(question, traces[0])
        if key in keys:
            drop["the same question and trace as an earlier row"] += 1
            continue
        tokens = length(traces[0])
        if options.max_length is not None and tokens > options.max_length:
            drop["trace longer than --max_length"] += 1
            continue
        domain = "all"
        if options.domain_column is not None:
            value = read_column(row, options.domain_column)
            domain = str(value).strip() if isinstance(value, (str, int, float)) else ""
            if not domain:
                drop["no domain"] += 1
                continue
        keys[key] = None
        places.append(place)
        questions.append(question)
        lengths.append(tokens)
        domains.append(domain)
    if not places:
        raise run.no_usable_rows()

    def judge(chosen: Sequence[int]) -> list[bool]:
        return [bool(traces) for traces in run.accepted_traces([places[i] for i in chosen], first_only=True)]

    results = select_infialign(
        questions,
        lengths,
        size=options.size,
        share=options.share,
        domains=domains,
        quotas=dict(options.quotas) if options.quotas is not None else None,
        clusters=options.clusters,
        embeddings=options.embeddings,
        judge=judge if run.has_judge else None,
        keys=list(keys),
        seed=options.seed,
    )
    kept = sorted(i for result in results.values() for i in result.kept)
    for name, result in results.items():
        more = {"clusters": result.clusters, "rejected": len(result.rejected)}
        run.report.add_group(name, result.available, result.quota, len(result.kept), **more)
        if result.rejected:
            drop["rejected by the judge"] += len(result.rejected)
    run.report.compare(f"length in {options.length_unit}", lengths, kept)
    run.write([places[i] for i in kept], "not drawn")
    return run.report


def run_shape_of_thought(options: argparse.Namespace) -> SelectionReport:
    """Write the sets of correct, incorrect and human traces. Two passes over the rows; only their places are held in memory."""
    run = Run(options)
    run.check("human_column")
    run.check("verdict_column")
    length = length_function(options, options.student)
    found = shape_of_thought.build_thought_sets(
        run.source,
        run.fields,
        human_column=options.human_column,
        verdict_column=options.verdict_column,
        match=options.match,
        seed=options.seed,
    )
    report = run.report
    report.dropped = found.dropped
    report.kept = report.rows - sum(found.dropped.values())
    empty = [name for name, members in found.sets.items() if not members]
    if empty:
        if report.kept:
            report.dropped[f"the set of {empty[0]} traces is empty"] = report.kept
        raise run.no_usable_rows()
    sizes = {name: len(members) for name, members in found.sets.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        report.notes.append(f"The sets differ in size ({listed}). Do not compare models trained on them.")

    def examples(name: str) -> Iterator[dict[str, Any]]:
        for place, index in found.sets[name]:
            row = run.source[place]
            yield shape_of_thought.example(row, run.fields, name, index, options.human_column, options.system_prompt)

    score = _student(options) if options.student is not None else None
    for name in found.sets:
        output: Path = options.output.with_name(f"{options.output.stem}_{name}{options.output.suffix}")
        write_rows(examples(name), output)
        report.written[str(output)] = sizes[name]
        lengths = [length(row["completion"][0]["content"]) for row in examples(name)]
        report.statistics[f"length in {options.length_unit}, {name}"] = {"after": describe(lengths)}
        if score is not None:
            report.groups.append(
                {"set": name, "rows": sizes[name], "student_nll_per_token": round(score(examples(name)), 4)}
            )
    return report


def run_stat_sel(options: argparse.Namespace) -> SelectionReport:
    """Keep questions for missing skills. Two passes over the rows; questions and skills are held in memory."""
    for name in ("answers", "pairs"):
        if getattr(options, name) is not None and options.to != "sft":
            raise ValueError(f"--{name} has no effect without --to sft. Add --to sft, or leave it out.")
    run = Run(options, options.profile)
    check_column(run.source.columns, options.skills_column, "skills", options.dataset)
    run.check_judge()
    places, questions, skills = array("q"), [], []
    for place, row, question, _ in run.usable(needs_trace=False):
        needed = read_column(row, options.skills_column)
        if not _is_list_of_texts(needed):
            run.report.dropped["no list of skills"] += 1
            continue
        places.append(place)
        questions.append(question)
        skills.append(needed)
    if not places:
        raise run.no_usable_rows()
    result = stat_sel.select_for_skills(
        questions,
        skills,
        _read_profile(options.profile),
        hard_questions=options.hard_questions,
        questions_per_skill=options.questions_per_skill,
        seed=options.seed,
    )
    kept = result.kept
    answers: list[list[str]] = []
    if run.has_judge or options.to == "sft":
        answers = run.accepted_traces([places[i] for i in kept])
        kept = [i for i, texts in zip(kept, answers, strict=True) if texts]
        answers = [texts for texts in answers if texts]
    if len(kept) < len(result.kept):
        run.report.dropped["no correct trace"] += len(result.kept) - len(kept)
    for name, demand in result.demand.items():
        quota = demand * options.questions_per_skill
        more = {"missing_in": demand, "different": result.kept_for[name]}
        run.report.add_group(name, result.questions[name], quota, result.drawn[name], **more)
    run.report.settings["difficult_responses"] = len(result.difficult)
    needed_skills = list(map(len, skills))
    if options.to != "sft":
        run.report.compare("skills per question", needed_skills, kept)
        run.write([places[i] for i in kept], "not drawn for a missing skill")
        return run.report
    limit = options.answers if options.answers is not None else stat_sel.ANSWERS
    if limit < 1:
        raise ValueError(f"--answers must be at least 1, got {limit}.")
    pairs = stat_sel.choose_pairs(
        [min(len(texts), limit) for texts in answers],
        [questions[i] for i in kept],
        pairs=options.pairs if options.pairs is not None else stat_sel.PAIRS,
        seed=options.seed,
    )
    used = sorted({question for question, _ in pairs})
    run.report.kept = len(used)
    run.report.compare("skills per question", needed_skills, [kept[i] for i in used])
    run.report.dropped["not among the pairs drawn"] += len(kept) - len(used)
    run.report.dropped["not drawn for a missing skill"] += (
        run.report.rows - run.report.kept - sum(run.report.dropped.values())
    )
    run.report.dropped = +run.report.dropped  # without zeros
    if not pairs:
        raise run.no_usable_rows()
    write_rows(
        (
            sft_example(run.source[places[kept[i]]], run.fields, answers[i][answer], options.system_prompt)
            for i, answer in pairs
        ),
        options.output,
    )
    run.report.written[str(options.output)] = len(pairs)
    return run.report


def _read_difficulty(row: Mapping[str, Any], column: str) -> float | None:
    """The difficulty in a column of a row; `None` if it is missing or not finite."""
    value = read_column(row, column)
    if isinstance(value, str):
        try:
            value = float(value)  # .csv
        except ValueError:
            return None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return 1 - value if column == PASS_RATE else float(value)


def _student(options: argparse.Namespace) -> Callable[[Iterable[Mapping[str, Any]]], float]:
    from transformers import AutoModelForCausalLM

    from ...state.adapters import load_tokenizer

    name = model_path(options.student)
    model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map="auto")
    tokenizer = load_tokenizer(name)
    return lambda examples: shape_of_thought.mean_nll(model, tokenizer, examples, batch_size=options.batch_size)


def _read_profile(name: str) -> list[dict[str, Any]]:
    """Question, missing skills and score of the student's responses."""
    source = Source(name)
    fields = find_fields(source.columns, name)
    check_column(source.columns, "missing_skills", "missing skills", name)
    profile = []
    for number, row in zip(source.numbers, source, strict=True):
        skills = read_column(row, "missing_skills")
        if not _is_list_of_texts(skills):
            raise ValueError(
                f"Row {number} of {name} has no list of texts in 'missing_skills'. Give the skills that the response lacks, such as "
                '["addition"].'
            )
        try:
            question = read_question(row, fields)
        except RowError as error:
            raise ValueError(f"Row {number} of {name}: {error}.") from error
        profile.append({"question": question, "missing_skills": skills, "score": read_column(row, "score")})
    return profile


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
