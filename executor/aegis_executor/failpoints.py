"""Points at which the executor can be made to die, to prove that dying there does no harm.

`AEGIS_FAILPOINT` names one, in development only: `before-mutate`, `before-mutate:scale_deployment`
(only on the way of that action), `before-mutate:3` (only when it comes by for the third time). The
process kills itself as nothing could be caught or tidied up: SIGKILL. With `:stop` it only stops,
as a machine that is paused does, and whoever stopped it may let it go on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

POINTS = (
    "after-admission",
    "before-claim",
    "after-claim",
    "after-read",
    "after-dry-run",
    "after-baseline",
    "after-attempt",
    "before-mutate",
    # The cluster has changed and nobody has been told.
    "after-mutate",
    "before-ending",
    "after-ending",
)


@dataclass(slots=True)
class _Armed:
    point: str
    verb: str
    # Passes until it goes off.
    left: int
    signal: signal.Signals


def _suffer(sent: signal.Signals) -> None:
    os.kill(os.getpid(), sent)


class Failpoints:
    """Goes off once, at the point that was named; an empty text arms nothing.

    Raises ValueError for a point that there is not.
    """

    def __init__(
        self, text: str = "", *, suffer: Callable[[signal.Signals], None] = _suffer
    ) -> None:
        self._armed = _parsed(text) if text else None
        self._suffer = suffer

    def reach(self, point: str, verb: str = "") -> None:
        """Tells that execution has come by `point`, on the way of `verb`."""
        armed = self._armed
        if armed is None or point != armed.point or armed.verb not in ("", verb):
            return
        armed.left -= 1
        if armed.left == 0:
            self._suffer(armed.signal)


def _parsed(text: str) -> _Armed:
    point, *rest = text.split(":")
    armed = _Armed(point, "", 1, signal.SIGKILL)
    for part in rest:
        if part == "stop":
            armed.signal = signal.SIGSTOP
        elif part.isdecimal() and int(part) > 0:
            armed.left = int(part)
        else:
            armed.verb = part
    if point not in POINTS or len(rest) > 3:
        raise ValueError(f"{text} is no failpoint: there are {', '.join(POINTS)}")
    return armed
