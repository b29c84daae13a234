# SPDX-License-Identifier: Apache-2.0
"""
The facts about a run that its model card shows, written to `run.json` so that the card can be made again later.

The file is published with the model, so it contains only values that are known to be safe: numbers, switches and choices of fields
that TRL, transformers and this package define, and the settings of built-in components. A config or a component of the
user's own names in `card_settings` what else to publish. The command line and the environment are not recorded.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..state.checkpoint import write_atomically


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..components import Component
    from ..state.history import PromptHistory
    from .mixin import WritesCard

FACTS_FILE = "run.json"
LAST_CHECKPOINT = "last-checkpoint"  # transformers' name for the folder in the repository
_FORMAT = 1
_PACKAGES = ["trl-concise", "trl", "transformers", "accelerate", "datasets", "tokenizers", "torch"]
_PUBLISHERS = {"transformers", "trl", "trl_concise"}  # packages whose config fields are published
# Switches and numbers that have no effect on what the model learns.
_WITHOUT_EFFECT = re.compile(
    r"^(ddp|dataloader|disable_tqdm|hub|ignore|load_best|log|push|save|skip|use_cpu|vllm_group|vllm_server)"
    r"|checkpointing|eval|print|remove"
)
# Derived from other settings by their config when they are not given.
_DERIVED = {"steps_per_generation", "generation_batch_size", "num_generations_eval", "bf16", "warmup_steps"}
# The only fields whose value may be text, besides those that declare their `choices` and those that hold an enumeration:
# TRL and this package accept one of a few words here.
_WORDS = {
    *("correctness", "f_divergence_type", "importance_sampling_level", "loss_type", "lr_scheduler_type"),
    *("multi_objective_aggregation", "optim", "packing_strategy", "scale_rewards", "truncation_mode"),
    *("vllm_importance_sampling_mode", "vllm_mode"),
}
_DATA_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt")
_TRL_PART = re.compile(r"^(?:## Citations)\n(.*)", flags=re.DOTALL | re.MULTILINE)


def write_facts(trainer: WritesCard) -> None:
    """
    Write `run.json` into the trainer's output folder. TRL must have written its card there, whose badges, metadata and
    citations are kept.
    """
    folder = Path(trainer.args.output_dir)
    write_atomically(folder / FACTS_FILE, json.dumps(run_facts(trainer), indent=2, allow_nan=False).encode())


def read_facts(folder: str | Path) -> dict[str, Any]:
    """
    Read what [`write_facts`] wrote.

    Raises:
        `FileNotFoundError`: If the folder is not one of a run.
    """
    path = Path(folder, FACTS_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. A trainer of trl_concise writes it into its output folder at each checkpoint and in "
            "create_model_card()."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def run_facts(trainer: WritesCard) -> dict[str, Any]:
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
        "tags": sorted({*metadata.get("tags", []), "trl", "trl-concise", *ours}),
        "trainer": trainer._name,
        "methods": [_method(part, trainer) for part in trainer.components] or _own_paper(trainer),
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


def _is_embedded(trainer: WritesCard) -> bool:
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


def adapter_types(trainer: WritesCard) -> list[str]:
    """Return `"peft"` and the kinds of adapter of a trainer's model, e.g. `["peft", "lora"]`; empty for a full model."""
    configs = _adapters(trainer)
    return ["peft", *sorted({str(config.peft_type.value).lower() for config in configs})] if configs else []


def _adapters(trainer: WritesCard) -> list[Any]:
    return list(getattr(trainer.accelerator.unwrap_model(trainer.model), "peft_config", {}).values())


def _adapter_settings(trainer: WritesCard) -> dict[str, Any]:
    """Return rank, scale and target modules of LoRA adapters, under the names of the TRL flags."""
    settings = {}
    for config in _adapters(trainer):
        for flag, name in {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_target_modules": "target_modules"}.items():
            value = getattr(config, name, None)
            if isinstance(value, (set, list, tuple)):  # a pattern is text
                value = sorted(value)
            if _is_number(value) or isinstance(value, list) and all(map(_is_word, value)):
                settings[flag] = value
    return settings


def _rewards(trainer: WritesCard) -> dict[str, Any]:
    names = [name if _is_word(name.strip("<>")) else "..." for name in getattr(trainer, "reward_func_names", [])]
    return {"reward_funcs": names} if names else {}


def changed_settings(args: TrainingArguments) -> dict[str, Any]:
    """
    Return the settings of a config that may be published and differ from their defaults, the method's own first.

    A setting may be published if TRL, transformers or this package defines its field, and its value is a number, a switch,
    one of the field's choices, or a list of these. Fields that a subclass adds are published if its attribute
    `card_settings` names them.

    Args:
        args ([`~transformers.TrainingArguments`]): Any config.

    Returns:
        `dict[str, Any]`: JSON values.
    """
    changed = {}
    kinds = list(type(args).__mro__)
    owner = {name: kind for kind in reversed(kinds) for name in getattr(kind, "__annotations__", {})}
    known = own_fields(type(args))
    for item in sorted(dataclasses.fields(args), key=lambda item: kinds.index(owner.get(item.name, kinds[-1]))):
        value = getattr(args, item.name)
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if value is None or value == default:
            continue
        if item.name not in known:
            if item.name in getattr(args, "card_settings", ()):
                changed[item.name] = as_text(value)
            continue
        if _WITHOUT_EFFECT.search(item.name) or item.name in _DERIVED:
            continue
        if item.name == "reward_weights" and set(value) == {1.0}:
            continue  # TRL's default
        if isinstance(value, Enum):
            value = value.value
            if value != default and _is_word(value):
                changed[item.name] = value
            continue
        values = value if isinstance(value, list) else [value]
        if values and all(_is_number(one) or _is_choice(one, item) for one in values):
            changed[item.name] = as_text(value)
    return changed


def own_fields(config_class: type) -> set[str]:
    """Return the fields of a config that TRL, transformers or this package defines."""
    return {
        name
        for kind in config_class.__mro__
        if kind.__module__.split(".")[0] in _PUBLISHERS
        for name in getattr(kind, "__dataclass_fields__", ())
    }


def as_text(value: Any) -> Any:
    """
    Return a value as JSON that is safe to publish: of an object only its kind, of a function only its name.

    Args:
        value (`Any`): A value that the user chose to publish, or a number.

    Returns:
        `Any`: Numbers, switches and text as they are; lists, tuples, sets and dicts as JSON; infinite numbers and everything
        else as text, without addresses and folders.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return as_text(value.value)
    if isinstance(value, Mapping):
        return {str(name): as_text(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((as_text(item) for item in value), key=str)
    if isinstance(value, torch.Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, PurePath):
        return value.name
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    return type(value).__qualname__


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def _is_choice(value: Any, item: dataclasses.Field) -> bool:
    if not isinstance(value, str):
        return False
    choices = item.metadata.get("choices")
    return value in choices if choices else item.name in _WORDS and _is_word(value)


def _is_word(text: str) -> bool:
    return re.fullmatch(r"[\w.+-]{1,60}", text) is not None


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _method(component: Component, trainer: WritesCard) -> dict[str, Any]:
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


def _own_paper(trainer: WritesCard) -> list[dict[str, Any]]:
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
    if history is None or not len(history):
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
