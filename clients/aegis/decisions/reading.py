"""What one stream of `WatchPolicy` says, message by message."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from aegis.decisions.clocks import Bridge, seconds_of
from aegis.decisions.snapshots import Assembly, Snapshot
from aegis.v1 import policy_pb2


@dataclass(frozen=True, slots=True)
class Known:
    """All that one decision looks at.

    At `made_at`, by our clock, there were no other rules and no other roles than these. `offset`
    makes the server's time of ours.
    """

    snapshot: Snapshot | None = None
    roles: Mapping[str, tuple[str, ...]] | None = None
    made_at: float = -math.inf
    offset: float = 0.0

    @property
    def revision(self) -> int:
        """The revision held; zero when there is none."""
        return self.snapshot.revision if self.snapshot else 0


class Reader:
    """Reads a stream that was opened just now by who knows `known`."""

    def __init__(self, known: Known, clock: Callable[[], float]) -> None:
        self._known = known
        self._clock = clock
        self._bridge = Bridge(opened_at=clock())
        self._assembly = Assembly()
        self._has_roles = False
        self._late_seconds = 0.0

    def request(self) -> policy_pb2.WatchPolicyRequest:
        """Returns what asks for all that is not known yet."""
        snapshot = self._known.snapshot
        if snapshot is None:
            return policy_pb2.WatchPolicyRequest()
        return policy_pb2.WatchPolicyRequest(revision=snapshot.revision, digest=snapshot.digest)

    async def take(self, message: policy_pb2.WatchPolicyResponse) -> Known:
        """Returns what is known now; raises `BrokenStep` and `UnusableRules`."""
        received_at = self._clock()
        made_at = self._bridge.made_at(seconds_of(message.time), received_at)
        self._late_seconds = received_at - made_at
        known = replace(self._known, offset=self._bridge.offset)
        match message.WhichOneof("news"):
            case "step":
                step = self._assembly.add(message.step)
                if step is not None:
                    # Many lines take seconds: the loop goes on, and so do decisions by the old.
                    snapshot = await asyncio.to_thread(step.apply, known.snapshot)
                    known = replace(known, snapshot=snapshot)
            case "directory":
                held = message.directory.held.items()
                known = replace(known, roles={name: tuple(has.roles) for name, has in held})
                self._has_roles = True
        # Being told that there is something newer is no sign of life for what is held.
        if self._has_roles and known.snapshot and known.revision >= message.current_revision:
            known = replace(known, made_at=max(known.made_at, made_at))
        self._known = known
        return known

    def lags(self, message: policy_pb2.WatchPolicyResponse, bound_seconds: float) -> bool:
        """Says whether a sign of life came too late to be one.

        Then the stream is slower than what it tells, or the server's clock was set back: another
        stream starts afresh. Within a step that would only make it longer.
        """
        return message.WhichOneof("news") is None and self._late_seconds > bound_seconds
