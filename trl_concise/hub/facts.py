# SPDX-License-Identifier: Apache-2.0
"""
What a trainer knows about its run, for the model card: written to `run.json`, so that the card can be made again later.

The file is published with the model. It holds no local path, no token and no prompt: only settings that are numbers,
switches and plain words are taken over, and the command line is shown without what names a place on this machine.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import platform
import re
import resource
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..checkpoint import write_atomically


if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ..components import Component
    from ..history import PromptHistory
    from .mixin import WritesCard

FACTS_FILE = "run.json"
LAST_CHECKPOINT = "last-checkpoint"  # transformers' name for the folder in the repository
_FORMAT = 1
_PACKAGES = ["trl-concise", "trl", "transformers", "accelerate", "datasets", "tokenizers", "torch"]
# Settings that say nothing about what was learnt: where things go, what is logged, and how often.
_ASIDE = re.compile(
    r"dir|path|file|token$|hub|host|server|port$|url|name|project|trackio|log|report|save|eval|push|tqdm|print|"
    r"dataloader|resume|ignore|remove|skip|deepspeed|fsdp|ddp|accelerator|include|load_best|use_cpu|system_prompt|"
    r"checkpointing"
)
# Derived from other settings by their config when they are not given.
_DERIVED = {"steps_per_generation", "generation_batch_size", "num_generations_eval", "bf16", "warmup_steps"}
_DATA_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt")
# Options whose value is nobody else's business, and values that are secret whatever their option; `max_tokens` is none.
_SECRET = re.compile(r"(?<!eos_)(?<!pad_)token(?!s|iz)|key|secret|password|(?<!per_)prompt$")
_TOKEN = re.compile(r"\b(?:hf_|sk-|gh[po]_)\w|://")
_HIDDEN = "..."
_TRL_PART = re.compile(r"^(?:## Citations)\n(.*)", flags=re.DOTALL | re.MULTILINE)


def write_facts(trainer: WritesCard) -> None:
    """
    Write `run.json` into the trainer's output folder. TRL must have written its card there, whose badges, metadata and
    citations are kept.
    """
    folder = Path(trainer.args.output_dir)
    write_atomically(folder / FACTS_FILE, json.dumps(run_facts(trainer), indent=2).encode())


def read_facts(folder: str | Path) -> dict[str, Any]:
    """
    Read what [`write_facts`] wrote.

    Raises:
        `FileNotFoundError`: If the folder is not one of a run.
    """
    path = Path(folder, FACTS_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: a trainer of trl_concise writes it into its output folder beside each checkpoint "
            "and in create_model_card()."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def run_facts(trainer: WritesCard) -> dict[str, Any]:
    """Return what the card says about a run, as JSON. Absent is what is not known."""
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
        "base_note": "the model that comes with `trl-concise`" if _comes_with_us(trainer) else None,
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
        "command": command_line(sys.orig_argv, trainer.accelerator.num_processes),
        "max_completion_length": getattr(args, "max_completion_length", None),
        "resume": pushed_checkpoint(args),
    }
    return {name: value for name, value in facts.items() if value not in (None, [], {})}


def _comes_with_us(trainer: WritesCard) -> bool:
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
    """Return the folder of the run's repository from which training can go on, if transformers pushes one."""
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
    """Return rank, scale and place of LoRA adapters, under the names of TRL's flags."""
    settings = {}
    for config in _adapters(trainer):
        for flag, name in {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_target_modules": "target_modules"}.items():
            value = getattr(config, name, None)
            if value is not None:
                settings[flag] = sorted(value) if isinstance(value, (set, list, tuple)) else value
    return settings


def _rewards(trainer: WritesCard) -> dict[str, Any]:
    names = getattr(trainer, "reward_func_names", None)
    return {"reward_funcs": names} if names else {}


def changed_settings(args: Any) -> dict[str, Any]:
    """
    Return the settings that differ from their defaults, the method's own first.

    Args:
        args ([`~transformers.TrainingArguments`]): Any config.

    Returns:
        `dict[str, Any]`: Numbers, switches and plain words only.
    """
    changed = {}
    kinds = list(type(args).__mro__)
    owner = {name: kind for kind in reversed(kinds) for name in getattr(kind, "__annotations__", {})}
    for item in sorted(dataclasses.fields(args), key=lambda item: kinds.index(owner.get(item.name, kinds[-1]))):
        value = getattr(args, item.name)
        value = getattr(value, "value", value)  # enumerations
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if _ASIDE.search(item.name) or item.name in _DERIVED or value is None or value == default:
            continue
        if item.name == "reward_weights" and set(value) == {1.0}:
            continue  # what TRL takes where there are none
        plain = value if isinstance(value, list) else [value]
        if all(isinstance(one, (bool, int, float)) or (isinstance(one, str) and _is_word(one)) for one in plain):
            if plain:
                changed[item.name] = value
    return changed


def command_line(arguments: list[str], processes: int = 1) -> str | None:
    """
    Return a command as others can run it: paths relative to the working folder, or their last part; no secrets, no text.

    Args:
        arguments (`list[str]`): The interpreter, its options, the script and its arguments (`sys.orig_argv`).
        processes (`int`, *optional*, defaults to `1`): Number of processes of the run.

    Returns:
        `str` or `None`: The command; `None` where there is no script, as in a notebook.

    Examples:
        >>> command_line(["/usr/bin/python", "/no/such/place/train.py", "--learning_rate", "1e-6", "--hub_token", "hf_x"])
        'python train.py --learning_rate 1e-6 --hub_token ...'
    """
    arguments = arguments[1:]
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-m", "-c"):
        arguments = arguments[1:]  # options of the interpreter
    if arguments[:1] == ["-m"] and len(arguments) > 1 and "." in arguments[1]:
        shown, rest = [f"-m {arguments[1]}"], arguments[2:]
    elif arguments and arguments[0].endswith(".py") and not arguments[0].endswith(("__main__.py", "launcher.py")):
        shown, rest = [shlex.quote(_public_path(arguments[0]))], arguments[1:]
    else:
        return None
    option = ""
    for argument in rest:
        if argument.startswith("--") and "=" not in argument:
            option = argument
            shown.append(argument)
        elif not argument.startswith("-") and _SECRET.search(option):
            shown.append(_HIDDEN)
        elif found := re.fullmatch(r"([-+]*\w[\w.@/-]*)=(.*)", argument, flags=re.DOTALL):  # an option, or Hydra's
            shown.append(f"{found[1]}={_quoted(_public_value(found[1], found[2]))}")
        else:
            shown.append(_quoted(_public_value(option, argument)))
    launcher = "python" if processes == 1 else f"accelerate launch --num_processes {processes}"
    return " ".join([launcher, *shown])


def _quoted(value: str) -> str:
    return value if value == _HIDDEN else shlex.quote(value)


def _public_value(option: str, value: str) -> str:
    if _SECRET.search(option) or _TOKEN.search(value):
        return _HIDDEN
    if value.startswith(("{", "[")):
        try:
            return json.dumps(_public_json(option, json.loads(value)))
        except json.JSONDecodeError:
            return _HIDDEN
    if os.path.exists(value) or value.startswith("~"):
        return _public_path(value)
    if os.sep in value and re.search(r"[\s:=]", value):  # a text, which may name a place
        return _HIDDEN
    return ",".join(_public_path(part) if os.sep in part else part for part in value.split(","))


def _public_json(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _public_json(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public_json(name, item) for item in value]
    return _public_value(name, value) if isinstance(value, str) or _SECRET.search(name) else value


def _public_path(path: str) -> str:
    if not os.path.isabs(path) and ".." not in Path(path).parts and not path.startswith("~"):
        return path
    absolute = Path(path).expanduser().resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else absolute.name


def _is_word(text: str) -> bool:
    return re.fullmatch(r"[\w.+-]{1,40}", text) is not None


def _listed(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _method(component: Component, trainer: WritesCard) -> dict[str, Any]:
    parameters = inspect.signature(type(component)).parameters
    settings = {
        name: value
        for name, value in component.config().items()
        if name not in parameters or parameters[name].default != value
    }
    method: dict[str, Any] = {"name": type(component).__name__}
    paper = component.paper
    if paper is not None:
        if paper.id == trainer._paper.get("id"):
            method["name"] = trainer._name  # the part that the drop-in trainer adds by itself
        method |= {"title": paper.title, "id": paper.id}
        method |= {"reconstructed": paper.reconstructed} if paper.reconstructed else {}
    return method | ({"settings": settings} if settings else {})


def _own_paper(trainer: WritesCard) -> list[dict[str, Any]]:
    paper = trainer._paper
    about = {key: paper[key] for key in ("title", "id", "reconstructed") if paper.get(key)}
    return [{"name": trainer._name, **about}] if about else []


def _citations(card: str, components: Sequence[Component]) -> list[str]:
    """Return the BibTeX entries of TRL's card, the methods' first."""
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


def _peak_memory(device: torch.device) -> dict[str, Any]:
    """Return the most memory that one process has held, in bytes."""
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "GPU"}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of": "main memory"}
