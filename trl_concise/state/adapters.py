# SPDX-License-Identifier: Apache-2.0
"""Load an adapter on its base model, to train it further, and merge it (`trl-concise merge`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    CONFIG_NAME,
    cached_file,
    find_adapter_config_file,
)

from ..errors import Parser


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = (  # each of them indicates a tokenizer
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json", "tiktoken.model"),
)


def adapter_config(model: str, revision: str | None = None) -> dict[str, Any] | None:
    """
    Return the `adapter_config.json` of an adapter.

    Args:
        model (`str`): Folder, or id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.

    Returns:
        `dict` or `None`: `None` if the file is missing, or if the folder also contains a whole model.

    Raises:
        `ValueError`: If the file is damaged.
    """
    if Path(model, CONFIG_NAME).is_file():
        return None
    try:
        path = find_adapter_config_file(model, revision=revision)
    except OSError:  # not an id, such as a path that does not exist: `check_model` reports it
        return None
    if path is None:
        return None
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}. Save or download the adapter again.") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise ValueError(
            f"{path} does not describe an adapter: it has no `peft_type`. Save or download the adapter again."
        )
    return config


def check_model(model: str, revision: str | None = None) -> None:
    """
    Look for a model that is not a local folder on the Hub.

    Args:
        model (`str`): Folder, or id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.

    Raises:
        `FileNotFoundError`: If the model or its revision does not exist.
    """
    if Path(model).is_dir():
        return
    try:
        cached_file(model, CONFIG_NAME, revision=revision)
    except OSError as error:
        at = f" at revision {revision!r}" if revision is not None else ""
        raise FileNotFoundError(
            f"The model {model!r} was not found: it is not a local folder, and it could not be loaded from the Hub{at}: {error}"
        ) from error


def check_base_model(adapter: str, base: str | None, revision: str | None = None) -> None:
    """
    Look for the base model of an adapter.

    Args:
        adapter (`str`): Folder, or id on the Hub.
        base (`str`, *optional*): The base model that its config names.
        revision (`str`, *optional*): Branch, tag or commit of the base model's repository.

    Raises:
        `ValueError`: If the config names none.
        `FileNotFoundError`: If the model does not exist.
    """
    from transformers import AutoConfig

    where = f"The adapter {adapter} needs its base model"
    change = "change base_model_name_or_path in its adapter_config.json"
    if not base:
        raise ValueError(f"{where}, but does not name it. Set it: {change}.")
    try:
        AutoConfig.from_pretrained(base, revision=revision)
    except (OSError, ValueError) as error:
        found = Path(base).is_dir()
        reason = str(error) if found else "it is not a local folder, and it was not found on the Hub"
        raise FileNotFoundError(f"{where} {base!r}: {reason}. Restore it, or {change}.") from error


def load_adapter(
    adapter: str, revision: str | None = None, *, trainable: bool = True, **base_options: Any
) -> PeftModel:
    """
    Load an adapter on its base model.

    Args:
        adapter (`str`): Folder, or id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the adapter's repository. That of the base model is in the
            adapter's config.
        trainable (`bool`, *optional*, defaults to `True`): Whether it is trained further or merged, and not only evaluated.
        **base_options: Arguments of `from_pretrained` for the base model.

    Raises:
        `ValueError`: If PEFT is missing, the adapter has no weights of its own, or they do not fit the base model.
        `FileNotFoundError`: If the base model or the adapter's weights are missing.
    """
    try:
        from peft import AutoPeftModelForCausalLM, PeftConfig
    except ImportError as error:
        raise ValueError(f"{adapter} is an adapter, which needs PEFT: pip install 'trl-concise[peft]'.") from error
    again = "Save or download the adapter again"
    try:
        config = PeftConfig.from_pretrained(adapter, revision=revision)
    except (KeyError, TypeError, ValueError) as error:  # what PEFT raises for a kind or a value that it does not know
        raise ValueError(
            f"The adapter_config.json of {adapter} cannot be read by the installed PEFT: {type(error).__name__}: {error}. "
            f"{again}, or update PEFT."
        ) from error
    if trainable and config.is_prompt_learning:
        raise ValueError(
            f"{adapter} is a {config.peft_type.value} adapter, which adds tokens instead of weights and can be neither trained "
            "further nor merged. Use it with PEFT as it is."
        )
    base = config.base_model_name_or_path
    check_base_model(adapter, base, config.revision)
    names = (ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME)
    if Path(adapter).is_dir() and not any(Path(adapter, name).is_file() for name in names):
        raise FileNotFoundError(
            f"The adapter {adapter} has no weights: {names[0]} is missing. Save or download it again."
        )
    try:
        return AutoPeftModelForCausalLM.from_pretrained(
            adapter, is_trainable=trainable, revision=revision, **base_options
        )
    except (RuntimeError, ValueError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "state_dict" not in str(error):
            raise
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(
            f"The adapter {adapter} does not fit its base model {base!r}, or the weights of one of them are damaged: {reason}. "
            f"{again}, or change base_model_name_or_path in its adapter_config.json."
        ) from error


def load_tokenizer(model: str, revision: str | None = None, **options: Any) -> PreTrainedTokenizerBase:
    """
    Load the tokenizer of a model or an adapter. An adapter without a tokenizer uses that of its base model.

    Args:
        model (`str`): Folder, or id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the repository.
        **options: Arguments of `AutoTokenizer.from_pretrained`.

    Raises:
        `FileNotFoundError`: If the tokenizer is found neither locally nor on the Hub.
        `ValueError`: If a local tokenizer is damaged, or an adapter does not name its base model.
    """
    from transformers import AutoTokenizer

    config, folder = adapter_config(model, revision), Path(model)
    # A local folder without a tokenizer fails in many ways, by architecture and version, some of them without a message.
    is_missing = folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES)
    if is_missing and config is None:
        raise FileNotFoundError(
            f"{folder} has no tokenizer: files such as {', '.join(TOKENIZER_FILES[:2])} are missing. Save it there with "
            "tokenizer.save_pretrained()."
        )
    if not is_missing:
        try:
            return AutoTokenizer.from_pretrained(model, revision=revision, **options)
        except Exception as error:  # the libraries raise many kinds of errors when they read a damaged file
            if folder.is_dir():
                raise ValueError(
                    f"The tokenizer in {model} cannot be read: {type(error).__name__}: {error}"
                ) from error
            if config is None:
                check_model(model, revision)
                raise FileNotFoundError(
                    f"The tokenizer of {model!r} could not be loaded from the Hub: {error}"
                ) from error
    of_base = config or {}
    base = of_base.get("base_model_name_or_path")
    check_base_model(model, base, of_base.get("revision"))
    return load_tokenizer(str(base), of_base.get("revision"), **options)


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
        `ValueError`: If the adapter is not found or cannot be merged, or `output_dir` is not empty.
        `FileNotFoundError`: If its base model or its weights are missing.
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
    model.merge_and_unload(safe_merge=True).save_pretrained(output_dir)
    load_tokenizer(adapter, revision).save_pretrained(output_dir)

    from ..hub.merged import write_merged_card

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
