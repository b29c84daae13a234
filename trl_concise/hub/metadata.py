# SPDX-License-Identifier: Apache-2.0
"""Metadata of a model card: the `model-index`, and the files from which the Hub shows benchmark results."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from huggingface_hub import EvalResult

from ..state.checkpoint import write_atomically
from .results import Comparison


EVAL_RESULTS = Path(".eval_results")
_MEASURED_BY = "measured by trl-concise eval"


def model_index(results: list[Comparison]) -> list[EvalResult]:
    """Return accuracy and mean tokens of each set, for the `model-index` in the card's metadata."""
    entries: dict[tuple, list[EvalResult]] = {}
    for set_ in sorted(results, key=lambda set_: set_.is_benchmark, reverse=True):
        model, source = set_.model, set_.source
        some = f", {model.details['problems']:,} problems" if source and not source.whole else ""
        about = {
            "task_type": "text-generation",
            "task_name": "Reasoning",
            "dataset_type": source.hub_id if source else re.sub(r"\W+", "-", set_.dataset.lower()),
            "dataset_name": set_.dataset + some,
            "dataset_config": source and source.config,
            "dataset_split": source and source.split,
        }
        accuracy, tokens = round(model.accuracy, 4), round(model.tokens, 2)
        both = [
            EvalResult(**about, metric_type="accuracy", metric_name="Accuracy", metric_value=accuracy),
            EvalResult(
                **about,
                metric_type="mean_response_tokens",
                metric_name="Mean response tokens",
                metric_value=tokens,
            ),
        ]
        entries.setdefault(both[0].unique_identifier, both)  # the Hub would take two of the same problems for one
    return [entry for both in entries.values() for entry in both]


def write_eval_results(run: Path, results: list[Comparison]) -> None:
    """
    Write `.eval_results/*.yaml`, which the Hub shows on the page of the model and of the benchmark.

    A set with only some of the benchmark's problems, or with other problems, is not a benchmark result and gets no file.
    """
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:  # an older huggingface_hub: the model-index says it all
        return
    for path in (run / EVAL_RESULTS).glob("*.yaml"):
        if _MEASURED_BY in path.read_text(encoding="utf-8"):  # of an earlier evaluation
            path.unlink()
    for set_ in results:
        source, model = set_.source, set_.model
        if source is None or not source.whole:
            continue
        figures, n = model.details, model.details.get("completions_per_problem") or 1
        entry = EvalResultEntry(
            dataset_id=source.hub_id,
            task_id="default",
            value=round(100 * model.accuracy, 2),
            notes=f"{model.tokens:.1f} tokens per completion; {_MEASURED_BY}, {figures['problems']:,} problems, "
            f"{n} completion{'s' * (n > 1)} per problem, truncated at {figures['max_new_tokens']:,} tokens",
        )
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, width=1000)
        write_atomically(run / EVAL_RESULTS / f"{source.hub_id.replace('/', '_')}.yaml", text.encode())
