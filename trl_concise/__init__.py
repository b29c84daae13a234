# SPDX-License-Identifier: Apache-2.0
"""
Drop-in TRL trainers that teach language models to reason correctly in fewer tokens.

Names are imported when they are first used: the list is in `__init__.pyi`, which type checkers and editors read too.
"""

from __future__ import annotations

import os
from importlib.metadata import version

import lazy_loader

from .cli import quiet


if os.environ.get(quiet.QUIET):  # a training command
    quiet.hide_messages()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("trl-concise")
