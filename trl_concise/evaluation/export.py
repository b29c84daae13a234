# SPDX-License-Identifier: Apache-2.0
"""[`export_lighteval`] writes the completions of an evaluation as lighteval's details, which lighteval can score; the command `trl-concise export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import Parser
from .completions import Completion
from .folder import SETTINGS_FILE, read_problems
from .recorded import Evaluation
from .summaries import read_json


def export_lighteval(
    evaluation: str | Path,
    output_dir: str | Path,
    task: str,
    *,
    dataset: str | None = None,
    num_fewshot: int = 0,
    date: str | None = None,
) -> Path:
    """
    Write the completions of one problem set in the format of lighteval's details (version 0.13.0).

    One row per problem, in our order, with all its completions, so the set must have the problems of the task in the task's order. Reference
    answers go out unchanged; our verdicts are the metric `trl_concise_correct`, the share of correct completions.

    Args:
        evaluation (`str` or `Path`): Output folder of `trl-concise eval`.
        output_dir (`str` or `Path`): lighteval's output folder.
        task (`str`): lighteval's name of the task, such as `aime24`.
        dataset (`str`, *optional*): The problem set; not needed if the evaluation has only one.
        num_fewshot (`int`, *optional*, defaults to `0`): Examples in the prompt, part of lighteval's name.
        date (`str`, *optional*): Identifier of the run, an ISO date with `-` in place of `:`; now by default.

    Returns:
        `Path`: The file, `details/MODEL/DATE/details_TASK|N|N_DATE.parquet`. lighteval 0.13.0 drops the last `|` of a name before it compares it with
        the task, so the number of examples is there twice.

    Raises:
        `FileNotFoundError`: If the folder has no evaluation.
        `ValueError`: If the evaluation is incomplete or of an earlier version without its problems, or has several sets or not this one, or the name of
            the task is invalid.
    """
    if not task or "|" in task or "/" in task:
        raise ValueError(
            f"The task is {task!r}. Give its name only, such as 'aime24'; --num_fewshot has the number of examples."
        )
    folder = Path(evaluation)
    found = Evaluation.read(folder)
    if len(found.sets) > 1 and dataset is None:
        raise ValueError(f"{folder} has several problem sets: {', '.join(found.sets)}. Name one with --dataset.")
    name = dataset or next(iter(found.sets))
    if name not in found.sets:
        raise ValueError(f"{folder} has no problem set {name!r}, only {', '.join(found.sets)}.")
    prompts = read_problems(folder)
    rows = [
        _row(prompts[name, problem], items, task, num_fewshot, found.sets[name])
        for problem, items in sorted(found.completions[name].items())
        if (name, problem) in prompts
    ]
    if len(rows) < len(found.completions[name]):
        raise ValueError(
            f"{folder} does not have the problems of {name!r}, only the answers: it was written by an earlier version. Run the same `trl-concise "
            "eval` again, which adds them."
        )
    from datasets import Dataset

    date = date or datetime.now().isoformat().replace(":", "-")
    target = Path(output_dir, "details", found.sets[name]["model"], date)
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"details_{task}|{num_fewshot}|{num_fewshot}_{date}.parquet"
    Dataset.from_list(rows).to_parquet(path)
    return path


def _row(
    prompt: str, items: Sequence[Completion], task: str, num_fewshot: int, record: dict[str, Any]
) -> dict[str, Any]:
    doc: dict[str, Any] = {
        "query": prompt,
        "choices": [items[0].gold],
        "gold_index": 0,
        "instruction": None,
        "images": None,
        "specific": None,
        "unconditioned_query": None,
        "original_query": prompt,
        "id": str(items[0].problem),
        "task_name": f"{task}|{num_fewshot}",
        "fewshot_samples": [],
        "sampling_methods": ["GENERATIVE"],
        "fewshot_sorting_class": None,
        "generation_size": record["max_new_tokens"],
        "stop_sequences": [],
        "use_logits": False,
        "num_samples": len(items),
        "generation_grammar": None,
    }
    response: dict[str, Any] = {
        "input": prompt,
        "input_tokens": [],
        "text": [item.text for item in items],
        "output_tokens": [item.completion_ids for item in items],
        "text_post_processed": None,
        "reasonings": [],
        "logprobs": [],
        "argmax_logits_eq_gold": [],
        "logits": None,
        "unconditioned_logprobs": None,
        "truncated_tokens_count": 0,
        "padded_tokens_count": 0,
    }
    judged = [item.correct for item in items if item.correct is not None]
    metric = {"trl_concise_correct": sum(judged) / len(judged) if judged else None}
    return {"doc": doc, "metric": metric, "model_response": response}


def main(argv: Sequence[str]) -> int:
    """Write an evaluation in the format of another tool."""
    parser = Parser(
        prog="trl-concise export",
        description="Write the completions of an evaluation as lighteval's details, so that lighteval scores them. No model is loaded.",
        epilog="example:\n"
        "  trl-concise export outputs/base --task aime24 --output_dir outputs/lighteval\n"
        "then, with the date that it prints:\n"
        "  lighteval ... 'aime24|0' --output-dir outputs/lighteval --load-responses-from-details-date-id DATE",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("evaluation", help="output folder of `trl-concise eval`")
    add("--task", required=True, help="lighteval's name of the task")
    add("--output_dir", required=True, help="lighteval's output folder")
    add("--dataset", help="problem set, if the evaluation has several")
    add("--num_fewshot", type=int, default=0, help="examples in the prompt (%(default)s)")
    options = parser.parse_args(argv)
    try:
        path = export_lighteval(
            options.evaluation,
            options.output_dir,
            options.task,
            dataset=options.dataset,
            num_fewshot=options.num_fewshot,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    settings = read_json(Path(options.evaluation, SETTINGS_FILE)) or {}
    print(f"Date: {path.parent.name}. Model: {settings.get('model')}. Wrote {path}")
    return 0
