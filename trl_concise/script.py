# SPDX-License-Identifier: Apache-2.0
"""Deprecated module: names moved to `trl_concise.cli`. Scripts that `trl-concise init` of 0.1.0 wrote import it."""

from __future__ import annotations

import warnings

from .cli.arguments import ProblemArguments, RunArguments, parse_arguments
from .cli.script import TrainingScript


__all__ = ["ProblemArguments", "RunArguments", "TrainingScript", "parse_arguments"]

warnings.warn(
    "The module trl_concise.script is deprecated and will be removed in version 0.3. Import TrainingScript from trl_concise, "
    "and RunArguments and parse_arguments from trl_concise.cli.arguments.",
    FutureWarning,
    stacklevel=2,
)
