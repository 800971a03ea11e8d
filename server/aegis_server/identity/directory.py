"""The directory: who is who, in memory, on every server.

A snapshot is what the identity tables said at one version; it never changes. A newer one is read
whole and one reference is swapped. Every change in the database counts the version up, each server
compares it once a second, and the one that made the change calls `refresh` itself: so a change
counts at once where it was made and within two seconds everywhere. A server that cannot compare
for 30 seconds no longer vouches for anybody.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TypeAlias

from aegis.errors import AegisError, Unauthenticated
from aegis.serving.copies import POLL_SECONDS, Copy
from aegis.serving.database import Connection, Database
from aegis.spiffe import Caller
from aegis_server.identity import store
from aegis_server.identity.machines import store as machines
from aegis_server.identity.machines.store import StandingKey
from aegis_server.identity.people import store as people
from aegis_server.identity.people.tokens import store as sessions
from aegis_server.identity.tokens import ACCESS_LIFETIME, SKEW

__all__ = ["Account", "Directory", "Refusal", "Snapshot"]

log = logging.getLogger(__name__)

# Says why a caller no longer counts, or None.
Refusal: TypeAlias = Callable[[Caller], AegisError | None]

_EXTERNAL_MAX = 10_000
# Whoever issued a token may have another clock, and tokens tell times in whole seconds.
_CLOCKS_APART = timedelta(seconds=5)
# How long it is told that a key has ended, and not merely that it does not count.
_ENDED_KEYS_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Account:
    """What the directory knows of a subject: its roles as policies write them."""

    roles: tuple[str, ...]
    disabled: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Who is who at one version. `accounts` has people and service accounts by subject."""

    version: int
    read_at: datetime
    accounts: Mapping[str, Account]
    # Sessions that were ended while an access token of theirs may still be around.
    revoked_sessions: frozenset[str]
    # By the public part of the key.
    api_keys: Mapping[str, StandingKey] = field(default_factory=lambda: MappingProxyType({}))


class Directory:
    """Vouches for callers. `open()` first; run `run()` as a task to follow other servers."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._copy = Copy[Snapshot](
            "who is who",
            self._read_if_changed,
            use=self._use,
            monotonic=monotonic,
            poll_seconds=poll_seconds,
        )
        self._external: OrderedDict[str, tuple[tuple[str, ...], datetime]] = OrderedDict()
        self._expel: list[Callable[[Refusal], object]] = []

    @property
    def snapshot(self) -> Snapshot:
        """The newest version this server knows.

        Raises `Unavailable` (DATABASE_UNAVAILABLE) when it may long be outdated.
        """
        return self._copy.value

    @property
    def problem(self) -> str:
        """Why nobody is vouched for; empty when all is well."""
        return self._copy.problem

    def held_roles(self, subject: str) -> tuple[str, ...]:
        """Returns the roles a subject holds beside the rules, e.g. ("role:viewer",).

        Raises `Unavailable` as `snapshot` does: a role may also be what a deny is bound to.
        """
        account = self.snapshot.accounts.get(subject)
        if account is not None:
            return () if account.disabled else account.roles
        roles, until = self._external.get(subject, ((), None))
        return roles if until is not None and self._clock() < until else ()

    def standing(self) -> dict[str, tuple[str, ...] | None]:
        """Returns the roles of everybody known now, None for a disabled account.

        Whom somebody else's token names is known while that lasts. Raises as `snapshot` does.
        """
        now = self._clock()
        everybody: dict[str, tuple[str, ...] | None] = {
            subject: roles for subject, (roles, until) in self._external.items() if now < until
        }
        for subject, account in self.snapshot.accounts.items():
            everybody[subject] = None if account.disabled else account.roles
        return everybody

    def note_external(self, subject: str, roles: tuple[str, ...], until: datetime) -> None:
        """Remembers the roles that somebody else's token gives a subject, while it lasts."""
        self._external[subject] = (roles, until)
        self._external.move_to_end(subject)
        if len(self._external) > _EXTERNAL_MAX:
            self._external.popitem(last=False)

    def refusal(self, caller: Caller) -> AegisError | None:
        """Returns why a caller that proved itself does not count any more, or None."""
        snapshot = self.snapshot
        account = snapshot.accounts.get(caller.subject)
        if account is not None and account.disabled:
            return _revoked("account", "this account is disabled")
        if caller.method == "session":
            if account is None:
                return _revoked("account", "this account is gone")
            if caller.credential in snapshot.revoked_sessions:
                return _revoked("session", "this session has ended")
        if caller.method == "api-key":
            key = snapshot.api_keys.get(caller.credential)
            if key is None or key.revoked:
                return _revoked("api_key", "this API key was revoked")
        return None

    async def check(self, caller: Caller, *, issued_at: datetime | None = None) -> None:
        """Raises `refusal`'s error, if there is one.

        What was issued after the snapshot was read may belong to an account it cannot know yet:
        then it is read anew before anybody is turned away.
        """
        error = self.refusal(caller)
        if (
            error is not None
            and issued_at is not None
            and issued_at + _CLOCKS_APART >= self.snapshot.read_at
        ):
            await self.refresh()
            error = self.refusal(caller)
        if error is not None:
            raise error

    def on_change(self, expel: Callable[[Refusal], object]) -> None:
        """Has `expel` called behind each change, to end what is open for who lost something."""
        self._expel.append(expel)

    async def open(self) -> None:
        """Reads the first snapshot; raises `Unavailable` when that does not work."""
        await self.refresh()

    async def run(self) -> None:
        """Follows the version until cancelled."""
        await self._copy.run()

    async def refresh(self) -> None:
        """Makes sure that what is committed now is known; raises `Unavailable` when it is not."""
        await self._copy.refresh()

    async def _read_if_changed(self, now: Snapshot | None) -> Snapshot | None:
        async with self._database.transaction() as connection:
            version = await store.version(connection)
            if now is not None and now.version == version:
                return None
            return await self._read(connection, version)

    async def _read(self, connection: Connection, version: int) -> Snapshot:
        # The version was read first: what is committed meanwhile is at worst read twice.
        now = self._clock()
        accounts = {
            person.subject: Account(tuple(f"role:{role}" for role in person.roles), person.disabled)
            for person in await people.read_standing(connection)
        }
        for service in await machines.read_standing_accounts(connection):
            roles = tuple(f"role:{role}" for role in service.roles)
            accounts[service.subject] = Account(roles, service.disabled)
        keys = await machines.read_standing_keys(connection, now - _ENDED_KEYS_KEPT)
        revoked = await sessions.revoked_since(connection, now - ACCESS_LIFETIME - SKEW)
        return Snapshot(
            version,
            now,
            MappingProxyType(accounts),
            frozenset(revoked),
            MappingProxyType({key.key_id: key for key in keys}),
        )

    def _use(self, before: Snapshot | None, fresh: Snapshot) -> None:
        demoted = _demoted(before, fresh) if before is not None else frozenset()

        def refusal(caller: Caller) -> AegisError | None:
            if caller.subject in demoted:
                return _revoked("account", "the roles of this account were changed; call again")
            if _ends_sooner(caller, fresh):
                return _revoked("api_key", "this API key was rotated; call again")
            return self.refusal(caller)

        for expel in self._expel:
            expel(refusal)


def _demoted(before: Snapshot, after: Snapshot) -> frozenset[str]:
    """Returns the subjects that lost a role: what is open for them was allowed by it, maybe."""
    nothing = Account((), disabled=False)
    return frozenset(
        subject
        for subject, account in before.accounts.items()
        if not set(account.roles) <= set(after.accounts.get(subject, nothing).roles)
    )


def _ends_sooner(caller: Caller, snapshot: Snapshot) -> bool:
    """Says whether a key now ends before the moment that what it opened would end by itself."""
    key = snapshot.api_keys.get(caller.credential) if caller.method == "api-key" else None
    return key is not None and caller.expires_at is not None and key.ends_at < caller.expires_at


def _revoked(credential: str, message: str) -> Unauthenticated:
    return Unauthenticated("CREDENTIAL_REVOKED", message, credential=credential)
