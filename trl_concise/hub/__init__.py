# SPDX-License-Identifier: Apache-2.0
"""The model card of a run, and uploading checkpoints to the Hub."""

from __future__ import annotations
