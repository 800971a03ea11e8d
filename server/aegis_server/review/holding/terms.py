"""Terms: how long a HELD update waits for a person, and what is decided when none came."""

from __future__ import annotations

from dataclasses import dataclass

from aegis_server.review.case import Verdict

HOLD_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds a HELD update waits, and the verdict it then gets."""

    seconds: int = HOLD_SECONDS
    default: Verdict = Verdict.REJECTED
