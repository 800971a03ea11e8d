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

    def default_of(self, score: float) -> Verdict:
        """Returns the verdict one of this score gets.

        What would have been rejected, had the round a quorum, is not accepted by waiting: a person
        has to do that.
        """
        return self.default if score < 1 else Verdict.REJECTED
