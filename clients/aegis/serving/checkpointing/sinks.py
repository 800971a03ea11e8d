"""Where checkpoints go, so that whoever owns the database cannot take them back.

A sink is given every checkpoint in order. One that fails is tried again, later and later, and gets
what it missed; it never holds up the log.

    file:///var/lib/aegis/checkpoints    one file a checkpoint, and `latest`
    log:                                 one line on standard error, for the log stream
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge

from aegis.durable import replace_text
from aegis.errors import AegisError
from aegis.serving.checkpointing.cutting import Checkpoints
from aegis.serving.checkpointing.store import KeptNote

log = logging.getLogger(__name__)

_BATCH = 100
_POLL_SECONDS = 5.0
_BACK_OFF_SECONDS_MAX = 300.0
_NOTE = re.compile(r"(\d{1,18})-\d+-[0-9a-f]{8}\.note")


class Sink(Protocol):
    """A place outside the database."""

    name: str

    def behind(self) -> int | None:
        """Returns the number of the last checkpoint it has; None: begin with the newest."""

    def put(self, kept: KeptNote) -> None:
        """Takes one; blocks until it is safe there. Raises OSError when it is not."""


class LogSink:
    """The program's own log stream, which something else collects."""

    name = "log"

    def behind(self) -> int | None:
        """Begins with the newest: what was told was told."""
        return None

    def put(self, kept: KeptNote) -> None:
        """Writes one line; line breaks of the note become `|`."""
        log.info("checkpoint %s", kept.note.replace("\n", "|"))


class FileSink:
    """A folder, maybe on another machine's disk: NUMBER-SIZE-DIGEST.note below the log's name."""

    def __init__(self, folder: Path, log_id: str) -> None:
        self.name = folder.as_uri()
        self._folder = folder / log_id

    def behind(self) -> int | None:
        """Returns the highest number there."""
        names = (_NOTE.fullmatch(path.name) for path in self._folder.glob("*.note"))
        return max((int(name[1]) for name in names if name is not None), default=0)

    def put(self, kept: KeptNote) -> None:
        """Writes the file and `latest`, each whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A log that was put back would number again from there: nothing is written over.
        digest = hashlib.sha256(kept.note.encode()).hexdigest()[:8]
        name = f"{kept.number:010d}-{kept.tree_size}-{digest}.note"
        replace_text(self._folder / name, kept.note)
        replace_text(self._folder / "latest", kept.note)


def sink_of(url: str, log_id: str) -> Sink:
    """Returns the sink a URL of AEGIS_AUDIT_SINKS names; ValueError for what is none."""
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FileSink(Path(unquote(parts.path)), log_id)
    if url == "log:":
        return LogSink()
    raise ValueError(f"{url!r} is no sink: use file:///FOLDER or log:")


class Delivery:
    """Brings every checkpoint to every sink. Run `run()` as a part."""

    def __init__(
        self, checkpoints: Checkpoints, sinks: Sequence[Sink], registry: CollectorRegistry
    ) -> None:
        self._checkpoints = checkpoints
        self._sinks = sinks
        self._failed = Counter(
            "aegis_audit_sink_failures_total",
            "Checkpoints that a sink did not take; they are tried again.",
            ["sink"],
            registry=registry,
        )
        self._delivered = Gauge(
            "aegis_audit_sink_tree_size",
            "Size of the log in the last checkpoint that a sink has.",
            ["sink"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    async def run(self) -> None:
        """Delivers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for sink in self._sinks:
                group.create_task(self._serve(sink))

    async def _serve(self, sink: Sink) -> None:
        last: int | None = None
        failures = 0
        while True:
            try:
                if last is None:
                    last = await self._begin(sink)
                last = await self._deliver(sink, last)
                failures = 0
            except (OSError, AegisError) as error:
                failures += 1
                self._failed.labels(sink.name).inc()
                log.warning("checkpoints do not reach the sink %s: %s", sink.name, error)
                await asyncio.sleep(min(2.0**failures, _BACK_OFF_SECONDS_MAX))
            else:
                await self._checkpoints.growth.wait(_POLL_SECONDS)

    async def _begin(self, sink: Sink) -> int:
        behind = await asyncio.to_thread(sink.behind)
        newest = await self._checkpoints.newest()
        number = newest.number if newest is not None else 0
        if behind is None:
            return max(number - 1, 0)
        if behind > number:
            log.critical(
                "the sink %s has checkpoint %d, the log only %d", sink.name, behind, number
            )
            return 0
        return behind

    async def _deliver(self, sink: Sink, last: int) -> int:
        while batch := await self._checkpoints.since(0, last, _BATCH):
            for kept in batch:
                await asyncio.to_thread(sink.put, kept)
                last = kept.number
                self._delivered.labels(sink.name).set(kept.tree_size)
        return last
