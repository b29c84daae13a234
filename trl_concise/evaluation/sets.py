# SPDX-License-Identifier: Apache-2.0
"""Problem sets: those with a short name, loading of any other, and additions to their prompts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import load_problems
from ..data.effort import EFFORT_INSTRUCTION, with_effort
from ..data.problems import as_messages
from ..data.rows import add_prompt_suffix
from .summaries import public_name


if TYPE_CHECKING:
    from datasets import Dataset

EMBEDDED = Path(__file__).parents[1] / "demo"  # the embedded model and its problems

# Name -> arguments of `load_problems`. The columns are those that it recognizes.
KNOWN_SETS: dict[str, dict[str, str]] = {
    "gsm8k": {"name_or_path": "openai/gsm8k", "config_name": "main", "split": "test"},
    "math500": {"name_or_path": "HuggingFaceH4/MATH-500", "split": "test"},
    "aime24": {"name_or_path": "HuggingFaceH4/aime_2024", "split": "train"},
    "aime25": {"name_or_path": "math-ai/aime25", "split": "test"},
    "amc23": {"name_or_path": "math-ai/amc23", "split": "test"},
    "svamp": {"name_or_path": "ChilleD/SVAMP", "split": "test"},
    "olympiadbench": {"name_or_path": "knoveleng/OlympiadBench", "split": "train"},
    "minerva": {"name_or_path": "math-ai/minervamath", "split": "test"},
    "demo": {"name_or_path": str(EMBEDDED / "sets" / "test.jsonl")},
    "demo_harder": {"name_or_path": str(EMBEDDED / "sets" / "harder.jsonl")},
    "demo_hardest": {"name_or_path": str(EMBEDDED / "sets" / "hardest.jsonl")},
    "demo_beyond": {"name_or_path": str(EMBEDDED / "sets" / "beyond.jsonl")},
    "demo_omega": {"name_or_path": str(EMBEDDED / "sets" / "omega.jsonl")},
}
TRAINING_SETS = {"demo": str(EMBEDDED / "sets" / "train.jsonl")}  # short names of problems to filter and train on
KNOWN_MODELS = {"demo": str(EMBEDDED / "model")}


class ProblemSets(dict[str, "Dataset"]):
    """
    Problem sets by the name that is used in the results.

    Attributes:
        sources (`dict[str, dict]`): For each set that was loaded from the Hub, its `dataset_id`, `dataset_config` and
            `dataset_split`.
    """

    def __init__(self):
        super().__init__()
        self.sources: dict[str, dict[str, str | None]] = {}

    def __setitem__(self, name: str, problems: Dataset) -> None:
        self.sources.pop(name, None)  # not the sets that were loaded
        super().__setitem__(name, problems)


def load_problem_sets(names: Sequence[str], *, system_prompt: str | None = None, **options: Any) -> ProblemSets:
    """
    Load problem sets to evaluate on.

    Args:
        names (`Sequence[str]`):
            Each one of `gsm8k`, `math500`, `aime24`, `aime25`, `amc23`, `svamp`, `olympiadbench`, `minerva`; `demo`,
            `demo_harder` or `demo_hardest`, generated problems of two, three and four operations that the embedded model
            never saw; `demo_beyond` or `demo_omega`; or a dataset id or a file, as for [`load_problems`].
        system_prompt (`str`, *optional*):
            System message before every problem.
        **options:
            For sets without a short name: the other arguments of [`load_problems`]. `None` means the default, and
            the default split is `"test"`.

    Returns:
        `ProblemSets`: A `dict[str, datasets.Dataset]` from the name in the results (for a file, its name without folder
        and suffix) to the problems, as [`load_problems`] returns them. Its `sources` has the origin of sets from the Hub.

    Raises:
        `ValueError`: If a set cannot be read (see [`load_problems`]), two have the same name, or options are given for sets with a
            short name only.
        `FileNotFoundError`: If the file does not exist, or the set could not be loaded from the Hub.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if given and names and all(name in KNOWN_SETS for name in names):
        raise ValueError(
            f"{', '.join(f'{name} = {value!r}' for name, value in given.items())} has no effect on {', '.join(names)}: the "
            "configuration, split and columns of a set with a short name are fixed. Leave it out, or give the dataset's id or a file."
        )
    options = {"split": "test"} | given
    sets = ProblemSets()
    for name in names:
        arguments = KNOWN_SETS.get(name, {"name_or_path": name, **options})
        place = Path(arguments["name_or_path"]).expanduser()
        title = name
        if name not in KNOWN_SETS and place.exists():  # the folder stays private
            title = place.stem if place.is_file() else place.resolve().name
        if title in sets:
            raise ValueError(f"Two problem sets have the name {title!r}, and their results would too. Rename a file.")
        try:
            sets[title] = load_problems(system_prompt=system_prompt, check_answers=False, **arguments)
        except OSError as error:  # the file does not exist, or the Hub did not answer
            close = difflib.get_close_matches(name, KNOWN_SETS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close and name not in KNOWN_SETS else ""
            raise FileNotFoundError(f"{str(error).rstrip('.')}.{hint}") from error
        if not place.exists():
            keys = {"dataset_id": "name_or_path", "dataset_config": "config_name", "dataset_split": "split"}
            sets.sources[title] = {key: arguments.get(argument) for key, argument in keys.items()}
    return sets


def is_benchmark(dataset_id: str, dataset_config: str | None, dataset_split: str | None) -> bool:
    """
    Return whether the problems are the benchmark of a dataset on the Hub: for a set with a short name, the split and
    configuration of that name; for any other, the whole test split.
    """
    known = [arguments for arguments in KNOWN_SETS.values() if arguments["name_or_path"] == dataset_id]
    wanted = known[0] if known else {"split": "test"}
    return (dataset_config, dataset_split) == (wanted.get("config_name"), wanted["split"])


def add_to_prompts(dataset: Dataset, system_prompt: str | None, prompt_suffix: str | None) -> Dataset:
    """Put a system message before every problem, and a text after it; `None` adds nothing."""
    if system_prompt is not None:
        dataset = dataset.map(lambda row: {"prompt": as_messages(row["prompt"], system_prompt)})
    if prompt_suffix is not None:
        dataset = dataset.map(add_prompt_suffix, fn_kwargs={"suffix": prompt_suffix})
    return dataset


def at_levels(sets: dict[str, Dataset], effort: Sequence[str], instruction: str | None) -> dict[str, Dataset]:
    """Ask for each level of effort in each set: as many sets as there are pairs, named after both; `sets` without levels."""
    if not effort:
        if instruction is not None:
            raise ValueError(
                "effort_instruction has no effect without effort. Name levels of effort, or leave it out."
            )
        return sets
    instruction = instruction if instruction is not None else EFFORT_INSTRUCTION
    return {
        f"{name}, {level} effort": with_effort(dataset, [level], instruction=instruction)
        for name, dataset in sets.items()
        for level in dict.fromkeys(effort)
    }


def load_sets(datasets: str | Sequence[str] | Mapping[str, Dataset]) -> Mapping[str, Dataset]:
    """
    Return problem sets by the names that the results have.

    Args:
        datasets (`str`, `Sequence[str]` or `Mapping[str, Dataset]`): Names for [`load_problem_sets`], or datasets.

    Raises:
        `ValueError`: If there is none, or two have the same name.
    """
    if isinstance(datasets, str):
        datasets = [datasets]
    if not isinstance(datasets, Mapping):
        datasets = load_problem_sets(datasets)
    if not datasets:
        raise ValueError("Name at least one problem set.")
    names = {name: public_name(name) for name in datasets}
    if names == {name: name for name in datasets}:
        return datasets
    renamed = ProblemSets()
    for name, short in names.items():
        if short in renamed:
            raise ValueError(
                f"Two problem sets have the name {short!r} in the results. Choose another name for one of them."
            )
        renamed[short] = datasets[name]
    if isinstance(datasets, ProblemSets):
        renamed.sources = {names[name]: source for name, source in datasets.sources.items()}
    return renamed
