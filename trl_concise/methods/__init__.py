# SPDX-License-Identifier: Apache-2.0
"""One module per paper: equations as pure functions, the component and the drop-in trainer. Its config is in `<method>_config.py`."""
