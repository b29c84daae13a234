# SPDX-License-Identifier: Apache-2.0
"""Datasets in the shape the trainers take."""

from __future__ import annotations

from .problems import load_problems


__all__ = ["load_problems"]
