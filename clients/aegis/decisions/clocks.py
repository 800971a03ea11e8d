"""Time, as a replica needs it: how old is what the server said, and what time is it there."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp


def since_boot() -> float:
    """Returns seconds that also pass while the machine sleeps, where it can tell."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def seconds_of(timestamp: Timestamp) -> float:
    """Returns seconds since 1970."""
    return timestamp.seconds + timestamp.nanos * 1e-9


@dataclass(slots=True)
class Bridge:
    """From the server's clock to ours, for one stream that we opened at `opened_at`.

    Its first message was made after that instant, so what comes later is at least as new as the
    server's clock has moved on since. That is sure however long a message was under way; the moment
    it came in would only say how new it can be at most.
    """

    opened_at: float
    # What to add to ours to get the server's, at most too small by the quickest way here.
    offset: float = -math.inf
    _first: float | None = None

    def made_at(self, time_there: float, received_at: float) -> float:
        """Returns when, by our clock, a message was made, at the earliest."""
        if self._first is None:
            self._first = time_there
        self.offset = max(self.offset, time_there - received_at)
        return min(received_at, self.opened_at + time_there - self._first)


class Backoff:
    """Longer and longer pauses, each a random part of what it could be, so that not all come back
    at the same moment.
    """

    def __init__(self, first_seconds: float, most_seconds: float) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._tries = 0

    def next(self) -> float:
        """Returns the next pause."""
        ceiling = min(self._most, self._first * 2.0 ** min(self._tries, 30))
        self._tries += 1
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311  # nothing secret

    def reset(self) -> None:
        """Starts anew: it went well."""
        self._tries = 0
