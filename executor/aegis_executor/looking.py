"""How a change whose answer was lost ended, told by the cluster itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from aegis_executor.catalogue.base import Remedy, Sent, Trace
from aegis_executor.departing import Departure
from aegis_executor.journal import Ending
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    ForbiddenRequest,
)
from aegis_executor.reading import ODD, Cluster, read_live

log = logging.getLogger(__name__)

# After this long a cluster that cannot be read leaves the question to a person.
_GIVE_UP = timedelta(minutes=10)


def told(remedy: Remedy) -> str:
    """Returns what was done, for people."""
    return f"{remedy.verb} {remedy.place}"


class Looking:
    """Looks, and never sends anything.

    `departure` knows how long a write whose answer was lost may still take effect.
    """

    def __init__(
        self, cluster: Cluster, *, clock: Callable[[], datetime], departure: Departure
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._departure = departure

    async def look(
        self, remedy: Remedy, action_id: str, sent: tuple[Sent, datetime] | None
    ) -> Ending | None:
        """Returns how it ended, by what was sent last and when; None when it is too early to tell.

        `sent` is None where nothing ever was.
        """
        if sent is None:
            return Ending("FAILED", "EXECUTOR_UNAVAILABLE", "interrupted before anything was sent")
        change, sent_at = sent
        age = self._clock() - sent_at
        trace = await self._trace(remedy, action_id, change)
        if trace is None:
            if age < _GIVE_UP:
                return None
            return Ending("UNKNOWN", "CLUSTER_UNAVAILABLE", "the cluster does not tell")
        seen = {"uid": change.uid, "reconciled": "yes"}
        match trace:
            case Trace.APPLIED:
                message = f"{told(remedy)}; the answer was lost"
                # As if it had been answered: what takes it back is found in there.
                seen = {**change.observations, **seen, "changed": "yes"}
                return Ending("APPLIED", message=message, observations=seen)
            case Trace.HIDDEN:
                return Ending("UNKNOWN", "TARGET_CHANGED", "the object moved on since", seen)
            case Trace.OPEN if not self._departure.over(sent_at, self._clock()):
                return None
            case _:
                message = "the change never took effect"
                return Ending("FAILED", "CLUSTER_UNAVAILABLE", message, seen)

    async def _trace(self, remedy: Remedy, action_id: str, change: Sent) -> Trace | None:
        """Returns what the object tells; None when it tells nothing, whatever the cause.

        The settings may have become narrower since, and one odd object must not keep the others
        from being looked at.
        """
        try:
            live = await read_live(self._cluster, remedy.place)
            return remedy.recognise(change, live, action_id)
        except (ClusterRefused, ClusterSilent, ClusterUnreachable, ForbiddenRequest) as error:
            log.warning("%s does not tell: %s", remedy.place, type(error).__name__)
        except ODD:
            log.exception("%s is not as expected", remedy.place)
        return None
