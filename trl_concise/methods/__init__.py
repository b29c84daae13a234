# SPDX-License-Identifier: Apache-2.0
"""One module per paper: pure maths, then the component and the drop-in trainer, whose config has a module beside it."""
