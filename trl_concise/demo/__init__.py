# SPDX-License-Identifier: Apache-2.0
"""
The embedded demo: a tiny reasoning model that ships with the package, and the arithmetic problems it solves.

The model was trained to be verbose (see [`trl_concise.demo.traces`]); `examples/hapo.py` makes it concise in a few minutes
on a CPU, and measures it on problems like those in training and on harder ones.
"""

from __future__ import annotations

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
