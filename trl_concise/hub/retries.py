# SPDX-License-Identifier: Apache-2.0
"""Repeats requests to the Hub: `huggingface_hub` repeats most of them five times, and commits only with Xet."""

from __future__ import annotations

import itertools
import json
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled


logger = logging.getLogger(__name__)

# Errors of the HTTP library that huggingface_hub is built on, of its storage client, of a response that is not JSON.
FAILURES = (*HfHubHTTPError.__bases__, OSError, RuntimeError, ValueError)
_LONGEST_PAUSE, _LONGEST_PAUSE_AT_THE_END = 300.0, 8.0  # seconds; training does not wait
_dice = random.Random()  # the run's own random state is part of its checkpoints


def retry_delay(error: Exception, failures: int) -> float | None:
    """
    Return the seconds after which to repeat a request that has failed `failures` times in a row: what the Hub asks for
    (`Retry-After`), else about 1, 2, 4, ... up to 300. `None` if it would fail the same way again: no permission, content that
    the Hub rejects, offline mode.
    """
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    # Timeout, concurrent commits, too many requests; a file to be deleted is gone, by a commit whose response was lost.
    passing = status in (408, 409, 412, 429) or (status == 404 and isinstance(error, EntryNotFoundError))
    invalid = isinstance(error, ValueError) and not isinstance(error, (json.JSONDecodeError, OSError))
    if (
        invalid
        or (400 <= status < 500 and not passing)
        or isinstance(error, (OfflineModeIsEnabled, FileNotFoundError))
    ):
        return None
    if response is not None and response.headers.get("Retry-After", "").isdigit():
        return float(response.headers["Retry-After"])
    return min(2.0 ** min(failures - 1, 20), _LONGEST_PAUSE) * _dice.uniform(0.75, 1.25)


class Retries:
    """
    Repeats a request until it succeeds, would fail the same way again, or has failed for too long.

    Args:
        patience (`float`): Seconds since the first failure after which to give up.
        check (`Callable`): Raises an error if no further request is to be made.
    """

    def __init__(self, patience: float, check: Callable[[], None]):
        self.patience = patience
        self.check = check
        self.endless = False  # training does not wait
        self.ending = threading.Event()
        self._failing_since: float | None = None

    def __call__(self, request: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a request and return the response."""
        for failures in itertools.count(1):
            self.check()
            try:
                response = request(*args, **kwargs)
            except FAILURES as error:
                delay, now = retry_delay(error, failures), time.monotonic()
                if self.endless or self._failing_since is None:
                    self._failing_since = now
                if delay is None or now - self._failing_since > self.patience:
                    raise
                if failures == 1:
                    logger.info("The Hub failed (%s); trying again.", first_line(error))
                if self.endless:
                    self.ending.wait(delay)  # at the end of training, try at once
                else:
                    time.sleep(min(delay, _LONGEST_PAUSE_AT_THE_END))
            else:
                self._failing_since = None
                return response

    def end(self) -> None:
        """Limit the patience from now on."""
        self.endless, self._failing_since = False, None
        self.ending.set()


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
