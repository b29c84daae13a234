# SPDX-License-Identifier: Apache-2.0
"""
The facts about a run that its model card shows, written to `run.json` so that the card can be made again later.

The file is published with the model. `settings.py` decides which settings it contains. The command line and the environment
are not recorded.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..components import Component
from ..evaluation.runs import FACTS_FILE, LAST_CHECKPOINT
from ..state.checkpoint import write_atomically
from .settings import as_text, changed_settings, is_number, is_word


if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerState, TrainingArguments

    from ..state.history import PromptHistory

_FORMAT = 1
_PACKAGES = ["trl-concise", "trl", "transformers", "accelerate", "datasets", "tokenizers", "torch"]
_DATA_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt")
_TRL_PART = re.compile(r"^(?:## Citations)\n(.*)", flags=re.DOTALL | re.MULTILINE)


class Described(Protocol):
    """What the facts are read from: a trainer with [`WritesCard`]."""

    args: TrainingArguments
    state: TrainerState
    model: PreTrainedModel
    accelerator: Any
    hub_model_id: str | None
    components: Sequence[Component]
    _name: str
    _paper: Mapping[str, str]

    @property
    def history(self) -> PromptHistory | None:
        """Lengths and visits per prompt."""


def write_facts(trainer: Described) -> None:
    """
    Write `run.json` into the trainer's output folder. TRL must have written its card there, whose badges, metadata and
    citations are kept.
    """
    folder = Path(trainer.args.output_dir)
    write_atomically(folder / FACTS_FILE, json.dumps(run_facts(trainer), indent=2, allow_nan=False).encode())


def run_facts(trainer: Described) -> dict[str, Any]:
    """Return the facts about a run, as JSON values. A fact that is not known is absent."""
    args = trainer.args
    card = ModelCard.load(Path(args.output_dir, "README.md"), ignore_metadata_errors=True)
    metadata = card.data.to_dict()
    metadata.pop("licence", None)  # not a key of the Hub's
    adapters = adapter_types(trainer)
    ours = (name.replace("_", "-") for name in [*(part.name for part in trainer.components), *adapters])
    facts = {
        "format": _FORMAT,
        "model_name": metadata.get("model_name") or Path(trainer.hub_model_id or args.output_dir).resolve().name,
        "repo_id": trainer.hub_model_id,
        "base_model": hub_id(metadata.get("base_model")),
        "base_note": "the model that comes with `trl-concise`" if _is_embedded(trainer) else None,
        "datasets": [name for name in _listed(metadata.get("datasets")) if hub_id(name)],
        "adapter": bool(adapters),
        "reward_model": True if getattr(trainer.model.config, "num_labels", 2) == 1 else None,
        "process_reward": getattr(trainer.model.config, "process_reward", None),
        "tags": sorted({*metadata.get("tags", []), "trl", "trl-concise", *ours}),
        "trainer": trainer._name,
        "methods": _methods(trainer) or _own_paper(trainer),
        "settings": changed_settings(args) | _rewards(trainer) | _adapter_settings(trainer),
        "badges": [line.strip() for line in card.text.splitlines() if line.lstrip().startswith("[<img ")],
        "citations": _citations(card.text, trainer.components),
        "history": _history(trainer.history),
        "steps": trainer.state.global_step,
        "seconds": training_seconds(trainer.state.log_history, trainer.state.global_step),
        "hardware": _hardware(trainer.accelerator.device, trainer.accelerator.num_processes),
        "peak_memory": _peak_memory(trainer.accelerator.device),
        "versions": {name: version(name) for name in [*_PACKAGES, *(["peft"] if adapters else [])]}
        | {"Python": platform.python_version()},
        "max_completion_length": getattr(args, "max_completion_length", None),
        "resume": pushed_checkpoint(args),
    }
    return {name: value for name, value in facts.items() if value not in (None, [], {})}


def _is_embedded(trainer: Described) -> bool:
    return Path(trainer.model.config._name_or_path or "/").resolve().is_relative_to(Path(__file__).parents[1])


def training_seconds(log_history: list[dict[str, Any]], steps: int) -> float | None:
    """
    Return how long a run has trained: the whole time, or of a run that was resumed the time of its steps.

    Args:
        log_history (`list[dict]`): The run's log.
        steps (`int`): Optimizer steps done.

    Returns:
        `float` or `None`: Seconds; `None` before the end, or if it is not known.
    """
    ends = [log for log in log_history if "train_runtime" in log]
    if not ends:
        return None
    runtime = ends[-1]["train_runtime"]
    timed = [log for log in log_history if "step_time" in log]  # GRPO's trainers; the mean since the entry before
    in_steps = sum(
        log["step_time"] * (log["step"] - before)
        for before, log in zip([0, *(t["step"] for t in timed)], timed, strict=False)
    )
    most_steps = round(runtime * (ends[-1]["train_steps_per_second"] + 0.0005))  # logged with three decimals
    if most_steps >= steps and runtime >= in_steps:
        return runtime
    return in_steps if timed else None


def hub_id(name: str | None) -> str | None:
    """Return a name that can be an id on the Hub, `None` for a folder or file of this machine."""
    if not isinstance(name, str) or os.path.exists(name) or name.lower().endswith(_DATA_FILES):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def pushed_checkpoint(args: TrainingArguments) -> str | None:
    """Return the folder of the run's repository from which training can be resumed, if transformers pushes one."""
    # `trl-concise card` does not wait for these.
    from transformers.trainer_utils import HubStrategy, get_last_checkpoint

    if not args.push_to_hub or args.hub_strategy != HubStrategy.CHECKPOINT or args.save_only_model:
        return None
    return LAST_CHECKPOINT if get_last_checkpoint(args.output_dir) else None


def adapter_types(trainer: Described) -> list[str]:
    """Return `"peft"` and the kinds of adapter of a trainer's model, e.g. `["peft", "lora"]`; empty for a full model."""
    configs = _adapters(trainer)
    return ["peft", *sorted({str(config.peft_type.value).lower() for config in configs})] if configs else []


def _adapters(trainer: Described) -> list[Any]:
    return list(getattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config", {}).values())


def _adapter_settings(trainer: Described) -> dict[str, Any]:
    """Return rank, scale and target modules of LoRA adapters, under the names of the TRL flags."""
    settings = {}
    for config in _adapters(trainer):
        for flag, name in {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_target_modules": "target_modules"}.items():
            value = getattr(config, name, None)
            if isinstance(value, (set, list, tuple)):  # a pattern is text
                value = sorted(value)
            if is_number(value) or isinstance(value, list) and all(map(is_word, value)):
                settings[flag] = value
    return settings


def _rewards(trainer: Described) -> dict[str, Any]:
    names = [name if is_word(name.strip("<>")) else "..." for name in getattr(trainer, "reward_func_names", [])]
    return {"reward_funcs": names} if names else {}


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [value] if value is not None else []


def _methods(trainer: Described) -> list[dict[str, Any]]:
    """Describe the components. Those of different kinds that a drop-in trainer adds for its paper are one method."""
    methods: list[dict[str, Any]] = []
    kinds: set[type] = set()  # in the first method of the trainer's paper
    for component in trainer.components:
        own = _method(component, trainer)
        kind = next(kind for kind in type(component).__mro__ if Component in kind.__bases__)
        first = next((method for method in methods if method["name"] == trainer._name), None)
        if own["name"] != trainer._name or first is None or kind in kinds:
            methods.append(own)
        elif settings := first.get("settings", {}) | own.get("settings", {}):
            first["settings"] = settings
        if own["name"] == trainer._name:
            kinds.add(kind)
    return methods


def _method(component: Component, trainer: Described) -> dict[str, Any]:
    defaults = {
        name: as_text(parameter.default)
        for kind in reversed(type(component).__mro__)
        if hasattr(kind, "state_dict")  # a component
        for name, parameter in inspect.signature(kind).parameters.items()
    }
    settings = {
        name: value
        for name, value in as_text(component.config()).items()
        if name not in defaults or defaults[name] != value
    }
    method: dict[str, Any] = {"name": type(component).__name__}
    paper = component.paper
    if paper is not None:
        if paper.id == trainer._paper.get("id"):
            method["name"] = trainer._name  # the component that the drop-in trainer adds
        method |= {"title": paper.title, "id": paper.id}
        method |= {"reconstructed": paper.reconstructed} if paper.reconstructed else {}
    return method | ({"settings": settings} if settings else {})


def _own_paper(trainer: Described) -> list[dict[str, Any]]:
    paper = trainer._paper
    about = {key: paper[key] for key in ("title", "id", "reconstructed") if paper.get(key)}
    return [{"name": trainer._name, **about}] if about else []


def _citations(card: str, components: Sequence[Component]) -> list[str]:
    """Return the BibTeX entries of the TRL card, with those of the methods first."""
    found = _TRL_PART.search(card)
    entries = re.findall(r"```bibtex\n(.*?)```", found[1] if found else "", flags=re.DOTALL)
    own = [part.paper.citation for part in components if part.paper is not None]
    return list(dict.fromkeys(entry.strip() for entry in [*own, *entries]))


def _history(history: PromptHistory | None) -> dict[str, Any] | None:
    if not history:
        return None
    table = history.to_pandas()
    shortest = table["shortest"].median()  # of the solved prompts
    return {
        "prompts": len(table),
        "solved": int((table["correct"] > 0).sum()),
        "visits": int(table["visits"].sum()),
        "shortest_median": None if shortest != shortest else float(shortest),
    }


def _hardware(device: torch.device, processes: int) -> str:
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{processes} x CPU ({platform.machine()}, {threads} thread{'s' * (threads > 1)})"


def _peak_memory(device: torch.device) -> dict[str, Any] | None:
    """Return the largest amount of memory that one process has held, in bytes; `None` where that is not known."""
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "GPU"}
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of": "main memory"}
