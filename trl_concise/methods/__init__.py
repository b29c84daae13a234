# SPDX-License-Identifier: Apache-2.0
"""One module per paper: pure maths, then the component, its config and the drop-in trainer."""
