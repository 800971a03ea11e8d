"""What there is to tell replicas: the revision in use here and the roles of the directory.

Replicas share its looks at Postgres: who asks while one is under way waits for the next, and all
who wait share that. Have `look` called when something was heard of; without, it is noticed within
a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from aegis.errors import FailedPrecondition, Unavailable
from aegis.serving.database import Connection, Database
from aegis_server.policy import store
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.snapshot import Snapshot
from aegis_server.policy.store import Revision
from aegis_server.policy.watching import Held, State, Step

_FRESH_SECONDS = 0.5


class Account(Protocol):
    """Somebody the directory knows."""

    @property
    def roles(self) -> tuple[str, ...]:
        """As policies write them."""

    @property
    def disabled(self) -> bool:
        """Has no roles, then."""


class Accounts(Protocol):
    """The directory at one version."""

    @property
    def version(self) -> int:
        """Another one where anything differs."""

    @property
    def accounts(self) -> Mapping[str, Account]:
        """By subject."""


class Directory(Protocol):
    """The identity room's directory, as far as it is told to replicas."""

    @property
    def snapshot(self) -> Accounts:
        """What is known; raises `Unavailable` when it may long be outdated."""

    async def refresh(self) -> None:
        """Makes sure that what is committed now is known; raises `Unavailable`."""


class News:
    """The `Source` of `watch`."""

    def __init__(
        self,
        database: Database,
        decisions: Decisions,
        directory: Directory,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._decisions = decisions
        self._directory = directory
        self._clock = clock
        self._monotonic = monotonic
        self._looking = asyncio.Lock()
        self._began = -float("inf")
        self._looked_at = clock()
        self._held = Held(-1, {})
        self._told: tuple[bytes, int] | None = None
        self._changed = asyncio.Event()

    async def look(self) -> State:
        """See `Source`; returns by a look that began after it was asked for."""
        asked = self._monotonic()
        async with self._looking:
            if self._began < asked:
                began, at = self._monotonic(), self._clock()
                await self._decisions.refresh()
                await self._directory.refresh()
                self._began, self._looked_at = began, at
        self.tell()
        return self.state()

    def state(self) -> State:
        """See `Source`."""
        snapshot = self._decisions.snapshot
        return State(snapshot.revision, snapshot.digest, self._looked_at)

    def held(self) -> Held:
        """See `Source`. Roles that somebody else's token gives are known where it was seen only."""
        known = self._directory.snapshot
        if known.version != self._held.version:
            accounts = known.accounts.items()
            self._held = Held(known.version, {n: a.roles for n, a in accounts if not a.disabled})
        return self._held

    async def full(self) -> Step:
        """See `Source`."""
        snapshot = self._decisions.snapshot
        async with self._database.transaction() as connection:
            to = await _in_use(connection, snapshot)
        return Step(0, to, (), tuple(snapshot.engine.lines()))

    async def delta(self, number: int, digest: bytes) -> Step | None:
        """See `Source`."""
        snapshot = self._decisions.snapshot
        async with self._database.transaction() as connection:
            to = await _in_use(connection, snapshot)
            before = await store.read_revision(connection, number)
            if before is None or before.digest != digest or not number < to.number:
                return None
            step = await store.delta(connection, number, to.number)
        return Step(number, to, step.removed, step.added)

    async def wait(self, seconds: float) -> None:
        """See `Source`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        if self._monotonic() - self._began > _FRESH_SECONDS:
            # Without Postgres the time that is told stands still, and says so.
            with contextlib.suppress(Unavailable):
                await self.look()

    def tell(self) -> None:
        """Wakes the replicas' streams if there is something new, without looking for it."""
        known = (self._decisions.snapshot.digest, self._directory.snapshot.version)
        if known != self._told:
            self._told = known
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()


async def _in_use(connection: Connection, snapshot: Snapshot) -> Revision:
    revision = await store.read_revision(connection, snapshot.revision)
    if revision is None or revision.digest != snapshot.digest:
        raise Unavailable("POLICY_UNUSABLE", "the rules in use are not those that are stored")
    if revision.model_conf:
        raise FailedPrecondition(
            "POLICY_NOT_COMPILED", "the policy has a model of its own: ask the server instead"
        )
    return revision
