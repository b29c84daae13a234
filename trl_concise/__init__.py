# SPDX-License-Identifier: Apache-2.0
"""
Drop-in TRL trainers that teach language models to reason correctly in fewer tokens.

Names are imported when they are first used: the list is in `__init__.pyi`, which type checkers and editors read too. Equations
and helpers are imported from their modules, such as `trl_concise.methods.hapo`.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from importlib.metadata import version

import lazy_loader

from .cli import quiet


if os.environ.get(quiet.QUIET):  # a training command
    quiet.hide_messages()

_MODULES = {  # of the names that version 0.1.0 exported here
    "GeneratedRollouts": "batch.generation",
    "CompletionTokens": "batch.rollouts",
    "LocalRollouts": "batch.rollouts",
    "Rollouts": "batch.rollouts",
    "prompt_key": "batch.rollouts",
    "Paper": "components",
    "TeacherPrompt": "data",
    "accuracy_efficiency_score": "evaluation",
    "pass_at_k": "evaluation",
    "DataCollatorForCritique": "methods.cft",
    "critique_example": "methods.cft",
    "critique_verdict": "methods.cft",
    "whiten": "methods.dler",
    "efficient_reasoning_reward": "methods.efficient_reasoning",
    "greso_exploration": "methods.greso",
    "greso_filter_probability": "methods.greso",
    "greso_rollout_batch_size": "methods.greso",
    "difficulty_weight": "methods.grpo_lead",
    "grpo_lead_reward": "methods.grpo_lead",
    "hapo_length_reward": "methods.hapo",
    "hapo_repetition_penalty": "methods.hapo",
    "kimi_length_reward": "methods.kimi",
    "l1_exact_reward": "methods.l1",
    "l1_max_reward": "methods.l1",
    "with_target_length": "methods.l1",
    "laser_base_score": "methods.laser",
    "laser_reward": "methods.laser",
    "adaptive_target": "methods.laser_d",
    "is_repetitive": "methods.laser_d",
    "historical_variance": "methods.one_shot_rlvr",
    "rank_by_historical_variance": "methods.one_shot_rlvr",
    "repeat_example": "methods.one_shot_rlvr",
    "DataCollatorForREDI": "methods.redi_rows",
    "redi_loss": "methods.redi",
    "stochastic_token_mask": "methods.sgrpo",
    "shorter_better_reward": "methods.shorter_better",
    "siri_budget": "methods.siri",
    "Edge": "methods.tspmo_prefix_tree",
    "PrefixTable": "methods.tspmo_prefix_tree",
    "prefix_advantages": "methods.tspmo_prefix_tree",
    "AccuracyHistory": "state.accuracies",
}
_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str):
    if name not in _MODULES:
        return _lazy(name)
    module = f"{__name__}.{_MODULES[name]}"
    warnings.warn(f"Import {name} from {module}, not from {__name__}.", FutureWarning, stacklevel=2)
    return getattr(import_module(module), name)


__version__ = version("trl-concise")
