"""A change leaves soon after it was written down, or not at all.

Whoever finds it in the journal later waits until it cannot arrive any more, and then says that it
never took effect. An executor that stood still between its last check and the wire does not know
that this has been said: neither lock nor epoch can tell it without another question, after which it
could stand still again. Its clock can.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from aegis.errors import Aborted

_MOST = timedelta(seconds=5)
_LEAST = timedelta(seconds=1)


class Departure:
    """When a change may still be sent, and when it cannot arrive any more.

    `settle_seconds` is how long after it was sent a write may still take effect.
    """

    def __init__(self, settle_seconds: float) -> None:
        self._settle = timedelta(seconds=settle_seconds)
        self._within = min(_MOST, max(_LEAST, self._settle))

    def check(self, written_at: datetime, now: datetime) -> None:
        """Raises `Aborted` (FENCED) once it is too late to send what was written down then.

        Nothing was sent; the INTENT stays open, and whoever sweeps it will find nothing.
        """
        if now - written_at > self._within:
            late = (now - written_at).total_seconds()
            raise Aborted("FENCED", f"{late:.1f} s after it was written down it must not be sent")

    def over(self, written_at: datetime, now: datetime) -> bool:
        """True once what was written down then cannot take effect any more."""
        return now - written_at >= self._within + self._settle
