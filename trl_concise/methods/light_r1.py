# SPDX-License-Identifier: Apache-2.0
"""
Light-R1: two stages of supervised fine-tuning, the second on hard problems, then preference tuning and a merge of the checkpoints
(Wen et al., 2025, https://huggingface.co/papers/2503.10460).

The preference loss is TRL's `DPOTrainer` with `loss_type="nca_pair"`. Here are the pairs, whose rejected side the current model wrote, and the
merge. `examples/light_r1.py` runs all stages.

Differences from the authors' code (Qihoo360/Light-R1 @ 48c9083):
  1. Their pairs are not public. That the chosen side is a verified response of the teacher is read from their README.
  2. Truncated completions are not used as rejected ones; what they do is not known.
  3. The weights of their merge are not public. The default is the mean.
  4. They merge a second preference model, trained without special tokens in the rejected side. It is left out.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset

from ..data.rows import read_generations
from ..evaluation.folder import read_sets
from ..verification import verify_answers


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_teacher_pairs(
    evaluation: str | Path,
    datasets: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_column: str = "generations",
) -> tuple[Dataset, Counter[str]]:
    """
    Pair a verified solution of a teacher with a wrong completion of the current model.

    The model's completions are those of an evaluation: [`~trl_concise.evaluation.evaluate`] samples and judges them. Each problem gives at most
    one pair: the first solution of the teacher that is right, and the first completion of the model that is finished and wrong.

    Args:
        evaluation (`str` or `Path`):
            Output folder of `evaluate`, or of `trl-concise eval`, with the completions of the current model.
        datasets (`Mapping[str, Dataset]`):
            The problem sets that it was given, by name, with the columns `prompt` (messages), `solution` and the teacher's.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the model. If its generation prompt opens `<think>`, the rejected side begins with it, as the teacher's does.
        teacher_column (`str`, *optional*, defaults to `"generations"`):
            Column with the teacher's solutions, a list of whole replies per problem, with the reasoning between `<think>` and `</think>`.

    Returns:
        `tuple[Dataset, Counter]`: Rows of `prompt`, `chosen` and `rejected`, as TRL's `DPOTrainer` takes them; and how many problems gave none,
        by the reason.

    Raises:
        `FileNotFoundError`: If the folder has no completions.
        `ValueError`: If a set is missing or has other problems, lacks the teacher's column, or if no problem gives a pair.
    """
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for name, items in read_sets(evaluation, datasets).items():
        problems = datasets[name]
        if teacher_column not in problems.column_names:
            raise ValueError(
                f"The problem set {name!r} has no column {teacher_column!r} with solutions of a teacher; it has "
                f"{problems.column_names}. Name the column with teacher_column."
            )
        wrong: dict[int, str] = {}
        for item in items:
            if item.correct is False and not item.truncated:
                wrong.setdefault(item.problem, item.text)
        for index, row in enumerate(problems):
            if index not in wrong:
                dropped["no finished wrong completion"] += 1
                continue
            solutions = [text for text in read_generations(row, teacher_column) if text is not None]
            verdicts = verify_answers([row["solution"]] * len(solutions), solutions)
            if True not in verdicts:
                dropped["no correct solution of the teacher"] += 1
                continue
            opened = opened_by_generation_prompt(tokenizer, row["prompt"])
            sides = {"chosen": solutions[verdicts.index(True)], "rejected": opened + wrong[index]}
            replies = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
            rows.append({"prompt": row["prompt"], **replies})
    if not rows:
        raise ValueError(
            f"No pair can be built from {evaluation}: {dict(dropped)}. A pair takes a problem that the model got wrong and the "
            "teacher got right: sample more completions, or choose harder problems."
        )
    return Dataset.from_list(rows), dropped


def opened_by_generation_prompt(tokenizer: PreTrainedTokenizerBase, prompt: list[dict[str, Any]]) -> str:
    """Return the `<think>` and the white space with which the generation prompt of messages ends; an empty text without it."""
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    found = re.search(r"<think>\s*$", str(text))
    return found[0] if found is not None else ""


def average_checkpoints(
    checkpoints: Sequence[str | Path], output_dir: str | Path, *, weights: Sequence[float] | None = None
) -> Path:
    r"""
    Average the weights of models that were trained from the same start, and save the result with the tokenizer of the last one.

    $$ \theta = \sum_i w_i \theta_i \Big/ \sum_i w_i $$

    The sum is in float32, and one model is in memory at a time. The result has the data type of the last model.

    Args:
        checkpoints (`Sequence[str | Path]`):
            Two or more folders with models, not adapters.
        output_dir (`str` or `Path`):
            Folder to write; must be empty, or not exist.
        weights (`Sequence[float]`, *optional*):
            $w_i$, one per model, with a positive finite sum. Default: all equal, a reconstruction.

    Returns:
        `Path`: `output_dir`.

    Raises:
        `ValueError`: If there are fewer than two models, the weights do not fit, a folder has an adapter, the models differ in their parameters, or
            `output_dir` is not empty.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders, output_dir = [Path(folder) for folder in checkpoints], Path(output_dir)
    shares = [float(weight) for weight in weights] if weights is not None else [1.0] * len(folders)
    if len(folders) < 2:
        raise ValueError(f"A merge takes at least two checkpoints, got {len(folders)}.")
    if len(shares) != len(folders) or not 0 < sum(shares) < math.inf:  # NaN too
        raise ValueError(
            f"weights must be one number for each of {len(folders)} checkpoints, with a positive finite sum; got {weights}."
        )
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} already exists and is not an empty folder. Name another one.")
    for folder in folders:
        if (folder / "adapter_config.json").is_file():
            raise ValueError(f"{folder} has an adapter. Merge it into its base model first: trl-concise merge.")
    average: dict[str, torch.Tensor] = {}
    for folder, share in zip(folders, shares, strict=True):
        model = AutoModelForCausalLM.from_pretrained(folder)
        state = model.state_dict()
        shapes = {name: value.shape for name, value in state.items()}
        if average and shapes != {name: value.shape for name, value in average.items()}:
            raise ValueError(
                f"{folder} and {folders[0]} have different parameters. Merge models that were trained from the same start."
            )
        for name, value in state.items():
            scaled = value.float() * (share / sum(shares))
            average[name] = scaled if name not in average else average[name] + scaled
    model.load_state_dict(average)
    whole = output_dir.with_name(f".{output_dir.name}.tmp")  # a killed merge leaves no half of a model in output_dir
    shutil.rmtree(whole, ignore_errors=True)
    model.save_pretrained(whole)
    AutoTokenizer.from_pretrained(folders[-1]).save_pretrained(whole)
    os.replace(whole, output_dir)
    return output_dir
