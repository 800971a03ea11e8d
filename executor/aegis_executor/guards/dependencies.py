"""What we depend on and do not own: asked less and less while it does not answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

from aegis_executor.guards.breakers import Breaker

_SHARE_SURE = 0.5


class Dependency:
    """Backs off from one dependency, e.g. `kubernetes`; doubling, jittered, never for ever.

    The caller asks `ready`, and says `succeeded` or `failed`.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], datetime],
        first_seconds: float = 0.5,
        most_seconds: float = 30.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._clock = clock
        self._first = first_seconds
        self._most = most_seconds
        self._jitter = jitter
        self._failures = 0
        self._cause = ""
        self._since: datetime | None = None
        self._probe_at: datetime | None = None

    def ready(self) -> bool:
        """True when it may be asked."""
        if self._probe_at is None:
            return True
        wait = (self._probe_at - self._clock()).total_seconds()
        # Nobody is waited for longer than the longest: the clock went back.
        return not 0 < wait <= self._most

    def succeeded(self) -> None:
        """It answered."""
        self._failures, self._cause, self._since, self._probe_at = 0, "", None, None

    def failed(self, cause: str) -> None:
        """It did not; waits longer than after the last time, by a length nobody else has."""
        now = self._clock()
        longest = min(self._most, self._first * 2.0 ** min(self._failures, 16))
        seconds = longest * (_SHARE_SURE + (1 - _SHARE_SURE) * self._jitter())
        self._failures += 1
        self._cause = cause
        self._since = self._since or now
        self._probe_at = now + timedelta(seconds=seconds)

    def breaker(self) -> Breaker:
        """Returns it as a breaker, for people to see."""
        name = f"dependency {self.name}"
        if self._probe_at is None:
            return Breaker(name, "CLOSED")
        cause = f"{self._failures} times in a row: {self._cause}"
        state = "HALF_OPEN" if self.ready() else "OPEN"
        return Breaker(name, state, cause, self._since, self._probe_at)  # type: ignore[arg-type]
