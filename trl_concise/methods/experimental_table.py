# SPDX-License-Identifier: Apache-2.0
"""The rows of the table of methods for `trl_concise.experimental`: systems whose interfaces may still change."""

from __future__ import annotations

from .method import Method


EXPERIMENTAL_METHODS: tuple[Method, ...] = ()
