# SPDX-License-Identifier: Apache-2.0
"""
Repeats failed requests to the Hub.

`huggingface_hub` repeats uploads up to five times, but not the requests for repositories, branches and tags, nor most commits.
"""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled


logger = logging.getLogger(__name__)

# Errors of the HTTP library that huggingface_hub is built on, of its storage client, of a response that is not JSON.
FAILURES = (*HfHubHTTPError.__bases__, OSError, RuntimeError, ValueError)


def retry_delay(error: Exception, failures: int) -> float | None:
    """
    Return the seconds after which to repeat a request that has failed `failures` times in a row: what the Hub asks for
    (`Retry-After`), else 1, 2, 4 and then 8. `None` if it would fail the same way again.
    """
    if isinstance(error, (OfflineModeIsEnabled, FileNotFoundError)):
        return None
    if isinstance(error, ValueError) and not isinstance(error, (json.JSONDecodeError, OSError)):
        return None
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    # Timeout, concurrent commits, too many requests; a file to be deleted is gone, by a commit whose response was lost.
    if 400 <= status < 500 and status not in (408, 409, 412, 429) and not isinstance(error, EntryNotFoundError):
        return None
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return float(asked) if asked.isdigit() else 2.0 ** min(failures - 1, 3)


def repeat(patience: float, request: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Make a request until it succeeds, would fail the same way again, or has failed for `patience` seconds. Raises `FAILURES`."""
    failing_since = None
    for failures in itertools.count(1):
        try:
            return request(*args, **kwargs)
        except FAILURES as error:
            delay, now = retry_delay(error, failures), time.monotonic()
            failing_since = failing_since if failing_since is not None else now
            if delay is None or now + delay - failing_since > patience:
                raise
            if failures == 1:
                logger.info("The Hub failed (%s); trying again.", first_line(error))
            time.sleep(delay)


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
