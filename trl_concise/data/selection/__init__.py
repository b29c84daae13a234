# SPDX-License-Identifier: Apache-2.0
"""Select training data: Select2Reason, InfiAlign, Shape of Thought and STAT-Sel, as functions and as `trl-concise select`."""

from __future__ import annotations

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
