# SPDX-License-Identifier: Apache-2.0
"""The model card of a merged adapter: that of the run which trained the adapter, with the differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, snapshot_download

from ..evaluation.runs import FACTS_FILE, read_facts
from ..state.checkpoint import write_atomically
from .card import draw_frontier, render_card
from .facts import hub_id
from .results import read_results


def write_merged_card(adapter: str, config: dict[str, Any], output_dir: Path, revision: str | None = None) -> None:
    """
    Write the card of a merged model, and the `run.json` of the run if a trainer of this package trained the adapter.

    Args:
        adapter (`str`): Folder, or id on the Hub.
        config (`dict`): Its `adapter_config.json`.
        output_dir (`Path`): Folder of the merged model.
        revision (`str`, *optional*): Branch, tag or commit of the adapter's repository.
    """
    run = Path(adapter)
    if not run.is_dir():
        run = Path(snapshot_download(adapter, revision=revision, ignore_patterns=["*.safetensors", "*.bin", "*.pt"]))
    if not (run / FACTS_FILE).is_file():
        base = config["base_model_name_or_path"]
        name, base_id = output_dir.resolve().name, hub_id(base)
        data = ModelCardData(base_model=base_id, library_name="transformers", pipeline_tag="text-generation")
        sources = (
            f"`{hub_id(adapter) or run.resolve().name}`, merged into its base model `{base_id or Path(base).name}`"
        )
        text = f"---\n{data.to_yaml()}\n---\n\n# {name}\n\nThe adapter {sources} with `trl-concise merge`.\n"
        write_atomically(output_dir / "README.md", text.encode())
        return
    facts = read_facts(run)
    results = read_results(run)
    adapter_tags = {"peft", config["peft_type"].lower()}
    facts |= {
        "model_name": output_dir.resolve().name,
        "tags": [tag for tag in facts["tags"] if tag not in adapter_tags],
        "merged": True,
    }
    for name in ("adapter", "repo_id", "resume", "history"):  # of the adapter's folder
        facts.pop(name, None)
    draw_frontier(output_dir, facts["model_name"], results)
    write_atomically(output_dir / FACTS_FILE, json.dumps(facts, indent=2).encode())
    write_atomically(output_dir / "README.md", render_card(output_dir, facts, results).encode())
