# SPDX-License-Identifier: Apache-2.0
"""Configuration of critique fine-tuning. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import SFTConfig

from ..config import ConfigMixin
from ..data.critique_tokens import OVERLONG
from ..data.critiques import CRITIQUE_TEMPLATES


@dataclass
class CFTConfig(ConfigMixin, SFTConfig):
    r"""
    Configuration of [`CFTTrainer`]: [`~trl.SFTConfig`] and the settings for critiques.

    Everything else keeps TRL's defaults, `max_length=1024` among them. The authors' settings are
    `examples/configs/cft_7b.yaml` and `examples/configs/cft_one_shot_7b.yaml`.

    > Parameters in addition to those of [`~trl.SFTConfig`]

    Args:
        critique_template (`str`, *optional*, defaults to `"cft"`):
            Template of question and solution: `"cft"`, `"cft_released"` or `"one_shot"`, see
            [`critique_example`]. Rows with a `prompt` keep it.
        critique_system_prompt (`str`, *optional*):
            System message before every question. `None` adds none; the chat template may add a default.
        overlong (`str`, *optional*, defaults to `"drop"`):
            What happens with rows of more than `max_length` tokens: `"drop"` leaves them out and counts them, `"error"`
            raises an error. No row is truncated.
    """

    critique_template: str = field(
        default="cft",  # the format of 2501.17703
        metadata={
            "help": "Template of question and solution.",
            "choices": list(CRITIQUE_TEMPLATES),
        },
    )
    critique_system_prompt: str | None = field(
        default=None, metadata={"help": "System message before every question."}
    )
    overlong: str = field(
        default="drop",  # "over-long rows deleted", as in the one-problem runs
        metadata={
            "help": "Rows with more than `max_length` tokens are dropped and counted ('drop') or refused ('error').",
            "choices": list(OVERLONG),
        },
    )
