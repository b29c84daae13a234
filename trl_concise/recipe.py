# SPDX-License-Identifier: Apache-2.0
"""Deprecated module: names moved to `trl_concise.errors` and `trl_concise.cli.recipe`. Scripts that `trl-concise init` of 0.1.0 wrote import it."""

from __future__ import annotations

import warnings

from .cli.recipe import RecipeParser
from .errors import report_input_errors as tell_input_errors


__all__ = ["RecipeParser", "tell_input_errors"]

warnings.warn(
    "The module trl_concise.recipe is deprecated and will be removed in version 0.3. Import report_input_errors from "
    "trl_concise.errors instead of tell_input_errors.",
    FutureWarning,
    stacklevel=2,
)
