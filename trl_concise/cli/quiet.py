# SPDX-License-Identifier: Apache-2.0
"""
Hides library messages that need no action by the user during a training command. `--verbose` shows them.

Only messages listed here are hidden, each by its text. This module imports no training library.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings


# Set by `trl-concise METHOD` for the script that it launches: some messages come while libraries are imported, before the
# script has read its command line.
QUIET = "TRL_CONCISE_QUIET"

# TRL still calls these by their older names.
_WARNINGS = (r"`(is_)?gradient_checkpointing(_enable|_disable|_kwargs)?` is deprecated and will be removed in v6",)
_LOG_LINES = {  # logger -> how its message begins
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",  # irrelevant on a GPU
    "transformers.trainer_utils": "The tokenizer has new PAD/BOS/EOS tokens that differ from the model config",
}


def hide_messages() -> None:
    """Hide the messages listed in this module, and the progress bars of datasets if the output is not a terminal."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message, category=FutureWarning)
    for name, beginning in _LOG_LINES.items():
        logging.getLogger(name).addFilter(_Beginning(beginning))
    if not sys.stderr.isatty():  # in a file, a progress bar is one line per update
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def hide_weight_bars() -> None:
    """Hide the progress bars of loading and saving weights, and keep those of downloads."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    hides_downloads = are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if not hides_downloads:
        enable_progress_bars()


class _Beginning(logging.Filter):
    """Drops messages that begin with a text."""

    def __init__(self, beginning: str):
        super().__init__()
        self.beginning = beginning

    def __eq__(self, other: object) -> bool:  # the same filter is added once
        return isinstance(other, _Beginning) and other.beginning == self.beginning

    def __hash__(self) -> int:
        return hash(self.beginning)

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginning)
