"""All that must run around a program's log: cutting, delivering, witnessing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from aegis.serving.auditlog import AuditLog
from aegis.serving.checkpointing.cutting import Checkpoints
from aegis.serving.checkpointing.sinks import Delivery, sink_of
from aegis.serving.checkpointing.witnessing import Witnessing
from aegis.trust import TrustBundle, load_private_key

Part = Coroutine[Any, Any, None]


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a program keeps its checkpoints: the key that signs, the sinks, the witness if any.

    `trust` says whether that key counts still, and whose cosignature does.
    """

    key: Path
    sinks: Sequence[str]
    witness: grpc.aio.Channel | None
    trust: Callable[[], TrustBundle]

    def checkpoints(
        self, audit: AuditLog, *, clock: Callable[[], datetime], schema: str
    ) -> Checkpoints:
        """Returns the checkpoints of a log; raises ValueError for a key that is none."""
        key = load_private_key(self.key)
        return Checkpoints(audit, key, clock=clock, schema=schema, trust=self.trust)

    def parts(
        self,
        audit: AuditLog,
        kept: Checkpoints,
        *,
        clock: Callable[[], datetime],
        registry: CollectorRegistry,
    ) -> list[Part]:
        """Returns what must run; raises ValueError for a sink that is none."""
        sinks = [sink_of(url, audit.log_id) for url in self.sinks]
        parts = [kept.run(), Delivery(kept, sinks, registry).run()]
        if self.witness is not None:
            link = Witnessing(
                audit, kept, self.witness, trust=self.trust, clock=clock, registry=registry
            )
            parts.append(link.run())
        return parts
