# SPDX-License-Identifier: Apache-2.0
"""`trl-concise plan`: the plan as text, as a status, and as a recipe for the example scripts."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig

from ..cli.recipe import RecipeParser
from ..state.adapters import adapter_config
from ..state.checkpoint import write_atomically
from .advice import largest, suggest
from .formulas import Architecture
from .plan import EXPECTED_BRANCH_TOKENS, GIB, PARTS, MemoryPlan, expected, plan
from .settings import CROPPED_METHODS, TRL_METHODS, PlanSettings
from .shapes import known_config


def report(made: MemoryPlan, shape: Architecture) -> str:
    """Return a plan as a table of components and phases in GiB, with the verdict, the limits and what to change."""
    s = made.settings
    columns = list(made.parts)
    rows = [[part, *(_gib(made.parts[phase].get(part, 0.0)) for phase in columns)] for part in PARTS]
    rows = [row for row in rows if any(cell != "-" for cell in row[1:])]
    rows += [["total", *(_gib(made.total(phase)) for phase in columns)]]
    lines = [f"{'GiB':<17}" + "".join(f"{phase:>12}" for phase in columns)]
    lines += [f"{row[0]:<17}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]
    fullest = max(made.parts, key=made.total)
    verdict = "fits" if made.peak <= s.card_gib * GIB else "does not fit"
    lines += [f"peak {_gib(made.peak)} GiB ({fullest}): {verdict} on a card of {s.card_gib:g} GiB"]
    if likely := expected(s, shape):
        lines += [
            f"expected where groups diverge within {EXPECTED_BRANCH_TOKENS} tokens (the table is the bound): "
            f"loss {_gib(likely.total('loss'))}, backward {_gib(likely.total('backward'))} GiB"
        ]
    if made.problem:
        lines += [f"cannot run like this: {made.problem}"]
    with_, without = (_gib(made.activations[kind]) for kind in (True, False))
    lines += [f"saved activations: {with_} GiB with gradient checkpointing, {without} GiB without"]
    limits = []
    for quantity in ("completion length", "group size", "micro-batch"):
        if quantity == "group size" and not s.online:
            continue
        value = largest(s, shape, quantity)
        limits.append(f"{quantity} {f'{value:,}' if value is not None else 'any'}")
    lines += [f"largest that fits, all else equal: {', '.join(limits)}"]
    if not made.fits:
        changes = suggest(s, shape)
        lines += ["change, in this order:"]
        lines += [f"  {text} -> {_gib(after.peak)} GiB{', fits' * after.fits}" for text, after in changes]
        if not changes or not changes[-1][1].fits:
            lines += ["  and it still does not fit: use a larger card or a smaller model"]
    return "\n".join(lines)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size else "-"


def recipe(made: MemoryPlan, text: str, base: dict[str, Any] | None = None) -> str:
    """
    Return a YAML recipe for the example script of the planned method, or TRL's command, with the plan in a comment.

    Args:
        made ([`MemoryPlan`]): The plan.
        text (`str`): Its report.
        base (`dict[str, Any]`, *optional*): The recipe that was planned; its other values are kept.
    """
    s = made.settings
    names = ["model_name_or_path", "dtype", "attn_implementation", "use_peft"]
    ours = {"bf16": True, "output_dir": f"outputs/{s.method}"}
    if s.use_peft:
        names += ["lora_r", "lora_target_modules", "load_in_4bit", "use_bnb_nested_quant"]
        ours |= {"lora_alpha": 2 * s.lora_r, "lora_dropout": 0.0}  # dropout would save masks; none are planned for
    names += ["per_device_train_batch_size", "gradient_accumulation_steps"]
    names += ["activation_checkpointing", "gradient_checkpointing"]
    if s.online:
        names += ["num_generations", "steps_per_generation", "num_iterations"]
        names += ["max_completion_length", "beta", "use_vllm"]
        if s.use_vllm:
            names += ["vllm_mode", "vllm_gpu_memory_utilization", "vllm_enable_sleep_mode"]
    else:
        names += ["max_completion_length" if s.limits_completions else "max_length"]
    if s.method == "redi":
        ours |= {"stage": "redi", "max_completion_length": s.completion_length}
        names += ["max_prompt_length"]
    if s.method in CROPPED_METHODS:
        names += ["cutoff", "max_tokens", "probability"]
    if s.method == "sgrpo":
        names += ["count_forced"]
    planned = {name: getattr(s, name) for name in names if getattr(s, name) is not None}
    if s.online and s.use_vllm:
        planned["vllm_max_model_length"] = s.vllm_max_model_length or s.length
    return f"{comment(text)}\n{yaml.safe_dump({**planned, **ours, **(base or {}), **planned}, sort_keys=False)}"


def comment(text: str) -> str:
    """Return a report as a comment of a recipe."""
    return "".join(
        f"#   {line}\n" for line in ["Planned memory (docs/memory.md: planned and measured):", *text.splitlines()]
    )


@dataclass
class _Output:
    write_config: str | None = field(
        default=None,
        metadata={"help": "Write a recipe here, for the command that is printed; refused if the run does not fit."},
    )


def main(argv: list[str]) -> int:
    """Run `trl-concise plan`. Exit status 1 if the run does not fit."""
    parser = RecipeParser(
        (PlanSettings, _Output),
        prog="trl-concise plan",
        description="Estimate the memory of a training run on one GPU, by component, before it starts.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    try:
        settings, output = parser.parse_args_and_config(list(argv), fail_with_unknown_args=False)
        settings = dataclasses.replace(settings, **adapter_settings(settings.model_name_or_path))
        shape = load_shape(settings.model_name_or_path)
        made = plan(settings, shape)
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(str(error))
    if output.write_config is not None and Path(output.write_config).is_dir():
        parser.error(f"argument --write_config: {output.write_config} is a folder. Name a file to write.")
    text = report(made, shape)
    print(text)
    if output.write_config is None:
        return 0 if made.fits else 1
    if not made.fits:
        parser.error(
            f"{output.write_config} is not written, because this run does not fit. Apply the changes listed above."
        )
    base = yaml.safe_load(Path(parser.recipe).read_text()) if parser.recipe is not None else None
    write_atomically(Path(output.write_config), recipe(made, text, base).encode())
    command = "trl {}" if settings.method in TRL_METHODS else "trl-concise {}"
    print(f"\n{command.format(settings.method)} --config {output.write_config}")
    return 0


def adapter_settings(model: str | None) -> dict[str, Any]:
    """Return the settings of a plan that follow from an adapter that is trained further; for a whole model, an empty dict."""
    config = None if model is None or known_config(model) is not None else adapter_config(model)
    if config is None or config["peft_type"] != "LORA":
        return {}
    targets = config["target_modules"]
    return {
        "use_peft": True,
        "lora_r": config["r"],
        "lora_target_modules": targets if isinstance(targets, list) else ["all-linear"],
    }


def load_shape(model: str | None) -> Architecture:
    """
    Read the shape of a model from the table of well-known models, or from its config. The table needs no network.

    Args:
        model (`str`): Id on the Hub, folder, or path of a config.json. An adapter's shape is that of its base model.

    Raises:
        `ValueError`: If the config does not exist, or the formulas do not describe the model.
    """
    if model is None:
        raise ValueError("--model_name_or_path is needed: a model id, a folder, or a config.json")
    known = known_config(model)
    if known is None:
        model = (adapter_config(model) or {}).get("base_model_name_or_path") or model
        known = known_config(model)
    try:
        config = known if known is not None else AutoConfig.from_pretrained(model)
    except OSError as error:
        raise ValueError(
            f"No config of {model!r} here, and the Hub did not answer. Without a network, name a downloaded "
            "config.json, or a model whose shape is known: Qwen2, Qwen2.5 and Qwen3 up to 8B, Llama 3.2, "
            "DeepSeek-R1-Distill-Qwen."
        ) from error
    return Architecture.from_config(config)
