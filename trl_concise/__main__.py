# SPDX-License-Identifier: Apache-2.0
"""`python -m trl_concise`: the `trl-concise` command."""

from __future__ import annotations

import sys

from .cli.commands import main


if __name__ == "__main__":
    sys.exit(main())
