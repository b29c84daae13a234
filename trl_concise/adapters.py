# SPDX-License-Identifier: Apache-2.0
"""Adapters as models: to train one further, and `trl-concise merge`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import CONFIG_NAME, find_adapter_config_file

from .errors import Parser


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


def adapter_config(model: str, revision: str | None = None) -> dict[str, Any] | None:
    """
    Return the `adapter_config.json` of an adapter.

    Args:
        model (`str`): Folder, or id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.

    Returns:
        `dict` or `None`: `None` if there is none, or if the folder holds a whole model too.
    """
    if Path(model, CONFIG_NAME).is_file():
        return None
    path = find_adapter_config_file(model, revision=revision)
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def load_adapter(adapter: str, revision: str | None = None, **base_options: Any) -> PeftModel:
    """
    Load an adapter on its base model, to be trained further.

    Args:
        adapter (`str`): Folder, or id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the adapter's repository. That of the base model is in the
            adapter's config.
        **base_options: Arguments of `from_pretrained` for the base model.

    Raises:
        `ValueError`: If PEFT is missing, or the base model is not found.
    """
    try:
        from peft import AutoPeftModelForCausalLM
    except ImportError as error:
        raise ValueError(f"{adapter} is an adapter, which needs PEFT: pip install 'trl-concise[peft]'.") from error
    try:
        return AutoPeftModelForCausalLM.from_pretrained(adapter, is_trainable=True, revision=revision, **base_options)
    except OSError as error:
        base = adapter_config(adapter, revision)["base_model_name_or_path"]
        raise ValueError(
            f"The adapter {adapter} could not be loaded on its base model {base!r}: {error} If the base model has moved, "
            "change base_model_name_or_path in the adapter's adapter_config.json."
        ) from error


def load_tokenizer(model: str, revision: str | None = None, **options: Any) -> PreTrainedTokenizerBase:
    """
    Load the tokenizer of a model, or of an adapter: that of its base model if the adapter brings none.

    Args:
        model (`str`): Folder, or id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        **options: Arguments of `AutoTokenizer.from_pretrained`.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, revision=revision, **options)
    except (OSError, ValueError):
        config = adapter_config(model, revision)
        if config is None:
            raise
        return AutoTokenizer.from_pretrained(
            config["base_model_name_or_path"], revision=config.get("revision"), **options
        )


def merge(adapter: str, output_dir: str | Path, *, revision: str | None = None, dtype: str = "auto") -> Path:
    """
    Merge an adapter into its base model, and save the model with its tokenizer and model card.

    Args:
        adapter (`str`): Folder, or id on the Hub.
        output_dir (`str` or `Path`): Where to write; must be empty, or not exist.
        revision (`str`, *optional*): Branch, tag or commit of the adapter's repository.
        dtype (`str`, *optional*, defaults to `"auto"`): Data type of the merged weights; `"auto"` is that of the base model.

    Returns:
        `Path`: `output_dir`.

    Raises:
        `ValueError`: If there is no such adapter, it cannot be merged, or `output_dir` is not empty.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} already exists and is not an empty folder. Name another one.")
    config = adapter_config(adapter, revision)
    if config is None:
        raise ValueError(
            f"{adapter} is not an adapter: no adapter_config.json was found there. Name the folder, or the id on the Hub, of "
            "an adapter."
        )
    model = load_adapter(adapter, revision, dtype=dtype)
    if model.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"{adapter} is a {config['peft_type']} adapter, which adds tokens instead of weights and cannot be merged. Use it "
            "with PEFT as it is."
        )
    model.merge_and_unload(safe_merge=True).save_pretrained(output_dir)
    load_tokenizer(adapter, revision).save_pretrained(output_dir)

    from .hub.merged import write_merged_card

    write_merged_card(adapter, config, output_dir, revision)
    return output_dir


def main(argv: Sequence[str]) -> int:
    """`trl-concise merge ADAPTER OUTPUT_DIR`."""
    parser = Parser(
        prog="trl-concise merge",
        description="Merge an adapter into its base model, and save the model with its tokenizer and model card.",
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="folder or Hub id of an adapter")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", type=Path, help="folder to write to")
    parser.add_argument("--revision", help="branch, tag or commit of the adapter's repository")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="data type of the weights; auto: that of the base model (default)",
    )
    options = parser.parse_args(argv)
    try:
        merge(options.adapter, options.output_dir, revision=options.revision, dtype=options.dtype)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"Wrote the merged model to {options.output_dir}.")
    return 0
