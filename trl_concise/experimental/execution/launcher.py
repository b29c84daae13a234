# SPDX-License-Identifier: Apache-2.0
"""
Script that sets the limits of a process and then replaces itself by the program.

Run as `python launcher.py '{"RLIMIT_CPU": [4, 5], ...}' python program.py`. It runs in a process of its own, because setting limits between
fork and exec of a trainer with threads is not safe. As the first process of a namespace it starts the program instead and waits for it: the
first process ignores the signal of the CPU limit.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Set the limits, soft and hard, and execute the command."""
    import resource  # not on Windows

    for name, (soft, hard) in json.loads(sys.argv[1]).items():
        kind = getattr(resource, name)
        _, allowed = resource.getrlimit(kind)
        if allowed != resource.RLIM_INFINITY:
            soft, hard = min(soft, allowed), min(hard, allowed)
        resource.setrlimit(kind, (soft, hard))
    if os.getpid() == 1 and (child := os.fork()):
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
