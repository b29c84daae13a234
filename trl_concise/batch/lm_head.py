# SPDX-License-Identifier: Apache-2.0
"""Copies a model that TRL has given a fused LM head."""

from __future__ import annotations

import copy
from typing import Any

from trl.trainer.utils import add_fused_lm_head


def copy_model(model: Any) -> Any:
    """Copy a model that TRL has given a fused LM head, whose `forward` would otherwise remain bound to the original."""
    other = copy.deepcopy(model)
    base = other.get_base_model() if hasattr(other, "get_base_model") else other  # of an adapter
    for module in (other, base):
        vars(module).pop("forward", None)
    add_fused_lm_head(base)
    return other
