# SPDX-License-Identifier: Apache-2.0
"""Load and build datasets in the formats that the trainers take."""

from __future__ import annotations

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
