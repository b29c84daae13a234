# SPDX-License-Identifier: Apache-2.0
"""
The model card of a run: what was measured, how to use the model, how it was made.

Everything in it comes from the run's folder (`run.json`, figures, log), so it can be made again at any time. What was
not measured is not in it: a section without figures is absent.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment

from ..errors import Parser
from ..evaluation import plot_frontier
from ..evaluation.acceptance import read_acceptance
from ..evaluation.judges import judge_name
from ..evaluation.modes import has_modes, shows_modes
from ..evaluation.plots import can_plot
from ..evaluation.runs import FACTS_FILE, Measurement, read_facts
from ..state.checkpoint import write_atomically
from .metadata import EVAL_RESULTS, model_index, write_eval_results
from .results import Comparison, read_results


if TYPE_CHECKING:
    from transformers import TrainerState

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).with_name("model_card.md")
FRONTIER = Path("plots", "card.png")  # `frontier.png` is that of `trl-concise report`


def write_card(
    run: str | Path,
    repo_id: str | None = None,
    resume: str | None = None,
    *,
    folder: str | Path | None = None,
    state: TrainerState | None = None,
) -> Path:
    """
    Write the card of a run, `README.md`, and `.eval_results/*.yaml` for sets that are benchmarks on the Hub.

    Args:
        run (`str` or `Path`): The run's folder, with the `run.json` that a trainer of trl_concise leaves there.
        repo_id (`str`, *optional*): Repository that the card is for; defaults to the one that the run is pushed to.
        resume (`str`, *optional*): Folder of `repo_id` that holds a checkpoint to train on from.
        folder (`str` or `Path`, *optional*): Where to write; defaults to `run`.
        state ([`~transformers.TrainerState`], *optional*): Log and step of a run that is ahead of what its folder says.

    Returns:
        `Path`: The card.

    Raises:
        `FileNotFoundError`: If the folder holds no `run.json`.
    """
    run = Path(run)
    folder = Path(folder) if folder is not None else run
    facts = read_facts(run)
    results = read_results(run, state.log_history if state is not None else None)
    if repo_id is not None:
        facts |= {"repo_id": repo_id, "resume": resume}
    if state is not None:
        facts["steps"] = state.global_step
    draw_frontier(folder, facts["model_name"], results)
    # In training, the weights are others than those that were tested.
    own = {name for name in (run.resolve().name, facts.get("repo_id")) if name is not None}
    content = render_card(folder, facts, results, None if state else read_acceptance(run, own))
    write_atomically(folder / "README.md", content.encode())
    write_eval_results(folder, results)
    if folder != run:
        write_atomically(folder / FACTS_FILE, json.dumps(facts, indent=2).encode())
    return folder / "README.md"


def card_files(run: Path) -> dict[str, Path]:
    """Return the files of a run's folder that belong to its card, by their place in it."""
    found = [run / "README.md", run / FACTS_FILE, *sorted((run / EVAL_RESULTS).glob("*.yaml"))]
    found += sorted((run / "plots").glob("*.png"))
    return {path.relative_to(run).as_posix(): path for path in found if path.is_file()}


def copy_card(run: str | Path, folder: str | Path) -> None:
    """Put a run's card into another folder, in place of what is there."""
    run, folder = Path(run), Path(folder)
    if run.resolve() == folder.resolve():
        return
    for name, file in card_files(run).items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def draw_frontier(run: Path, name: str, results: list[Comparison]) -> None:
    """Draw the first set of problems that has something to compare, if matplotlib is installed."""
    drawn = next((set_ for set_ in results if len(set_.points(name)) > 1), None)
    if drawn is None:
        (run / FRONTIER).unlink(missing_ok=True)  # figures that no longer exist
    elif can_plot("The card's picture"):
        plot_frontier(drawn.points(name), run / FRONTIER, title=drawn.dataset if len(results) > 1 else None)


def render_card(
    run: Path, facts: dict[str, Any], results: list[Comparison], acceptance: Mapping[str, Any] | None = None
) -> str:
    """Return the card's text; `huggingface_hub` has parsed it."""
    name = facts["model_name"]
    data = ModelCardData(
        base_model=facts.get("base_model"),
        datasets=facts.get("datasets"),
        library_name="peft" if facts.get("adapter") else "transformers",
        pipeline_tag="text-classification" if facts.get("reward_model") else "text-generation",
        model_name=name,
        tags=facts["tags"],
        eval_results=model_index(results) or None,
    )
    limit = max_new_tokens(results, facts)
    values = {
        **{
            key: facts.get(key)
            for key in (
                *("base_model", "base_note", "datasets", "methods", "trainer", "adapter", "reward_model"),
                *("badges", "merged"),
            )
        },
        "card_data": data.to_yaml(),
        "model_name": name,
        "reward_arguments": reward_arguments(facts.get("process_reward", {})),
        "headline": headline(results),
        "results": tables(results),
        "results_note": results_note(results),
        "acceptance": acceptance["sentence"] if acceptance is not None else None,
        "frontier": FRONTIER.as_posix() if results and (run / FRONTIER).is_file() else None,
        "repo_id": facts.get("repo_id") or f"path/to/{name}",
        "max_new_tokens": limit[0] if limit else None,
        "max_new_tokens_reason": limit[1] if limit else None,
        "limits": known_failures(results),
        "settings": all_settings(facts),
        "history": history_sentence(facts.get("history")),
        "resume": facts.get("resume"),
        "run": run_table(facts),
        "versions": facts["versions"],
        "citations": facts.get("citations"),
    }
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # text, not HTML
    content = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(values)
    content = re.sub(r"\n{3,}", "\n\n", content).rstrip() + "\n"
    ModelCard(content)  # raises if the metadata is not what it should be
    return content


# The sections of the card, one function each


def headline(results: list[Comparison]) -> str | None:
    """Return the results in one sentence per problem set: of the first three that have a base."""
    compared = [set_ for set_ in results if set_.base is not None][:3]
    if not compared or results[0].base is None:
        return None
    return ". ".join(_change(set_, named=len(results) > 1) for set_ in compared)


def _change(set_: Comparison, *, named: bool) -> str:
    base, model = set_.base, set_.model
    assert base is not None
    change = f" ({_signed(model.tokens / base.tokens - 1)})" if base.tokens else ""
    on = f"On {set_.dataset}: " if named else ""
    return (
        f"{on}{model.tokens:.1f} tokens per completion instead of {base.tokens:.1f}{change}, "
        f"accuracy {model.accuracy:.1%} instead of {base.accuracy:.1%}"
    )


def tables(results: list[Comparison]) -> list[dict[str, Any]]:
    """Return the tables. A note that neighboring tables share is below the last of them only."""
    made = [table(set_) for set_ in results]
    for one, following in itertools.pairwise(made):
        if one["note"] == following["note"]:
            one["note"] = None
    return made


def table(set_: Comparison) -> dict[str, Any]:
    """Return the rows of one set of problems."""
    rows = [("base model", set_.base), ("**this model**", set_.model), *set_.controls.items()]
    rows += [(f"base model, truncated at {budget} tokens", figures) for budget, figures in set_.cuts.items()]
    cells = [_row(name, figures, set_) for name, figures in rows if figures]
    return {"title": _title(set_), "rows": cells, "modes": modes_note(set_), "note": set_.note}


def modes_note(set_: Comparison) -> str | None:
    """Return how many completions thought, and accuracy and tokens of both modes; `None` if that is unknown or all of them thought."""
    if not shows_modes(one.details for one in (set_.model, set_.base) if one is not None):
        return None
    notes = []
    for name, one in (("This model", set_.model), ("The base model", set_.base)):
        if one is None or not has_modes(one.details):
            continue
        figures = one.details
        note = f"{name} thought in {figures['thinking_fraction']:.1%} of its completions"
        modes = [
            f"accuracy {figures[f'{mode}_accuracy']:.1%} in {figures[f'{mode}_tokens_mean']:.1f} tokens {how}"
            for mode, how in (("thinking", "with thinking"), ("direct", "without"))
            if figures.get(f"{mode}_accuracy") is not None and figures.get(f"{mode}_tokens_mean") is not None
        ]
        notes.append(f"{': '.join([note, ', '.join(modes)] if modes else [note])}.")
    return " ".join(notes)


def results_note(results: list[Comparison]) -> str:
    """Return the notes that explain the tables, and the comparisons that are missing."""
    figures = [one for set_ in results for one in (set_.model, set_.base) if one is not None]
    notes = []
    if any(one.point.accuracy_interval or one.point.tokens_interval for one in figures):
        notes.append("In brackets: 95 % interval, bootstrap over problems.")
    if any(set_.efficiency() is not None for set_ in results):
        notes.append(
            "AES: accuracy-efficiency score against the base model, "
            "[defined with O1-Pruner](https://huggingface.co/papers/2501.12570), weights 1 (tokens), 3 (accuracy gained) "
            "and 5 (accuracy lost)."
        )
    compared = [set_ for set_ in results if set_.base is not None]
    if compared and not any(set_.controls for set_ in compared):
        notes.append(
            "No control was evaluated: training with the correctness reward alone may explain a part of the change."
        )
    if judges := dict.fromkeys(judge_name(one.details["judge"]) for one in figures if one.details.get("judge")):
        notes.append(f"Answers judged by {', '.join(judges)}.")
    if len(compared) == 1:
        notes.append("One problem set was evaluated: a loss on harder problems would not show.")
    return " ".join(notes)


def max_new_tokens(results: list[Comparison], facts: dict[str, Any]) -> tuple[int, str] | None:
    """Return the limit under which the model was measured, and how many completions it truncated."""
    limits = [(limit, set_.model) for set_ in results if (limit := set_.model.details.get("max_new_tokens"))]
    if limits:
        largest, figures = max(limits, key=lambda limited: limited[0])
        return largest, f"The figures were measured with it; {_truncation(figures)}."
    limit = facts.get("max_completion_length")
    if limit is None:
        return None
    evaluated = next((set_.model for set_ in results if _fraction(set_.model, "truncated") is not None), None)
    truncation = f"; {_truncation(evaluated)}" if evaluated and not results[0].controls else ""
    return limit, f"The limit in training{truncation}."


def known_failures(results: list[Comparison]) -> list[str]:
    """Return the kinds of failures that were measured, and how often they occur."""
    failures = []
    for set_ in results:
        model, base = set_.model, set_.base
        on = f" on {set_.dataset}" if set_.source or len(results) > 1 else ""
        failures.append(f"Wrong answers: {1 - model.accuracy:.1%} of completions{on}{_before(base, 'wrong')}.")
        for what, title in (("truncated", "Truncated"), ("empty", "Empty")):
            if (fraction := _fraction(model, what)) is not None:
                failures.append(f"{title}: {fraction:.1%} of completions{on}{_before(base, what)}.")
    return failures


def history_sentence(history: dict[str, Any] | None) -> str | None:
    """Return a sentence about the history of the run's prompts."""
    if history is None:
        return None
    shortest = history.get("shortest_median")
    return (
        f"{history['prompts']:,} prompts were visited {history['visits'] / history['prompts']:.1f} times on average; "
        f"{history['solved']:,} were solved at least once"
        + (f", the median of their shortest correct completions is {shortest:g} tokens. " if shortest else ". ")
        + "`concise_state/` holds the record of each under a digest of the prompt, without its text."
    )


def all_settings(facts: dict[str, Any]) -> dict[str, str]:
    """Return the methods' settings and the trainer's, those that are not the defaults."""
    settings = {
        f"{method['name']}({name})": value
        for method in facts.get("methods", [])
        for name, value in method.get("settings", {}).items()
    }
    return {name: _setting(value) for name, value in (settings | facts.get("settings", {})).items()}


def reward_arguments(settings: Mapping[str, Any]) -> str:
    """Return the arguments of `ProcessReward` that differ from its defaults for other models, as code."""
    defaults = {"separator": "\n\n", "max_length": 1024}
    return "".join(
        f", {name}={value!r}" for name, value in settings.items() if value is not None and value != defaults.get(name)
    )


def run_table(facts: dict[str, Any]) -> dict[str, str]:
    """Return the hardware, the duration and the peak memory of the run."""
    rows = {"Hardware": facts["hardware"], "Optimizer steps": f"{facts.get('steps', 0):,}"}
    if "seconds" in facts:
        seconds = facts["seconds"]
        rows["Wall time"] = (
            f"{seconds:.0f} s"
            if seconds < 120
            else f"{seconds / 60:.0f} min"
            if seconds < 7200
            else (f"{seconds / 3600:.1f} h")
        )
    if "peak_memory" in facts:
        peak = facts["peak_memory"]
        rows["Peak memory"] = f"{peak['bytes'] / 2**30:.1f} GiB of {peak['of']} in one process"
    return rows


def main(argv: list[str]) -> int:
    """Run `trl-concise card`."""
    parser = Parser(prog="trl-concise card", description="Write the model card of a run from the files in its folder.")
    parser.add_argument("run", type=Path, help="output folder of a run")
    try:
        path = write_card(parser.parse_args(argv).run)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(f"Wrote {path}.")
    return 0


# How numbers are written


def _row(name: str, figures: Measurement, set_: Comparison) -> dict[str, str]:
    saved = score = ""
    base, point = set_.base, figures.point
    if base is not None and figures is not base:
        saved = f"{1 - figures.tokens / base.tokens:.0%}".replace("-", "−") if base.tokens else ""
        one = set_.efficiency(figures)
        score = f"{one:+.2f}".replace("-", "−") if one is not None else ""
    strong = "**" if name.startswith("**") else ""
    return {
        "name": name,
        "accuracy": f"{strong}{figures.accuracy:.1%}{strong}{_interval(point.accuracy_interval, 100)}",
        "tokens": f"{strong}{figures.tokens:.1f}{strong}{_interval(point.tokens_interval)}",
        "saved": saved,
        "score": score,
    }


def _title(set_: Comparison) -> str:
    problems, completions = map(set_.model.details.get, ("problems", "completions_per_problem"))
    if problems is None:
        return f"**{set_.dataset}**"
    each = f", {completions} completions each" if (completions or 1) > 1 else ""
    return f"**{set_.dataset}** ({problems:,} problems{each})"


def _interval(interval: Sequence[float] | None, scale: float = 1) -> str:
    return f" [{scale * interval[0]:.1f}–{scale * interval[1]:.1f}]" if interval else ""


def _signed(share: float) -> str:
    return f"{share:+.0%}".replace("-", "−")


def _truncation(figures: Measurement) -> str:
    fraction = _fraction(figures, "truncated")
    return f"{fraction:.1%} of completions were truncated" if fraction else "no completion was truncated"


def _before(base: Measurement | None, what: str) -> str:
    fraction = _fraction(base, what) if base is not None else None
    return f" (base model: {fraction:.1%})" if fraction is not None else ""


def _fraction(figures: Measurement, what: str) -> float | None:
    return 1 - figures.accuracy if what == "wrong" else figures.details.get(f"{what}_fraction")


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    text = f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())
    if re.fullmatch(r"[\w .,+-]*", text):
        return text
    return f"`{text}`".replace("|", r"\|")  # a bar would end the table's cell, even here
