"""The registry: whose certificates take part, in memory, on every server.

A certificate of a participant counts only while the registry has exactly that certificate for a
participant that is enrolled: a signature alone is not an enrolment, whoever's it is. And the
authority that signs for participants signs for nobody else: a certificate of it that names a
program or a person is refused before any rule is asked.

Every change in the database counts a version up and is told to every server, which then reads all
anew and swaps one reference; who hears nothing looks once a second. A server that cannot look for
30 seconds vouches for no participant any more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TypeAlias

from aegis.errors import AegisError, PermissionDenied, Unauthenticated
from aegis.serving.copies import POLL_SECONDS, Copy
from aegis.serving.database import Database
from aegis.serving.doors import Authenticate, Peer
from aegis.spiffe import Caller
from aegis_server.participants import store

log = logging.getLogger(__name__)

# Says why a caller does not count, or None.
Refusal: TypeAlias = Callable[[Caller], AegisError | None]

KIND = "participant:"
ROLE = "role:participant"

# Clocks differ, and TLS looks at the end of a certificate anyway.
_ENDED_KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Member:
    """A participant that has enrolled, and whether it still takes part."""

    name: str
    node_id: int
    revoked: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Who takes part at one version: members by name, and names by `certificate_id`."""

    version: int
    members: Mapping[str, Member]
    certificates: Mapping[str, str]


class Registry:
    """Vouches for participants. `open()` first; run `run()`, and have `refresh` called on news.

    `authorities` are the names (`aegis.spiffe.issuer_name`) of those who sign for participants.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], datetime],
        authorities: frozenset[str] = frozenset(),
        monotonic: Callable[[], float] = time.monotonic,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._authorities = authorities
        self._copy = Copy[Snapshot](
            "who takes part",
            self._read_if_changed,
            use=self._tell,
            monotonic=monotonic,
            poll_seconds=poll_seconds,
        )
        self._expel: list[Callable[[Refusal], object]] = []

    @property
    def snapshot(self) -> Snapshot:
        """The newest version this server knows.

        Raises `Unavailable` (DATABASE_UNAVAILABLE) when it may long be outdated.
        """
        return self._copy.value

    @property
    def problem(self) -> str:
        """Why no participant is vouched for; empty when all is well."""
        return self._copy.problem

    def held_roles(self, subject: str) -> tuple[str, ...]:
        """Returns ("role:participant",) for an enrolled participant's subject, else nothing.

        Raises `Unavailable` as `snapshot` does.
        """
        if not subject.startswith(KIND):
            return ()
        member = self.snapshot.members.get(subject.removeprefix(KIND))
        return (ROLE,) if member is not None and not member.revoked else ()

    def refusal(self, caller: Caller) -> AegisError | None:
        """Returns why a caller is no participant that counts, or None; others never concern it.

        PEER_UNIDENTIFIED for whom the authority of participants may not name, PARTICIPANT_UNKNOWN
        and PARTICIPANT_REVOKED.
        """
        claims = caller.subject.startswith(KIND)
        issuer = caller.credential.partition(":")[0] if caller.method == "certificate" else ""
        if not claims and issuer not in self._authorities:
            return None
        if not claims:
            return Unauthenticated(
                "PEER_UNIDENTIFIED", "the authority of this certificate names participants only"
            )
        name = caller.subject.removeprefix(KIND)
        snapshot = self.snapshot
        member = snapshot.members.get(name)
        if member is not None and member.revoked:
            return PermissionDenied(
                "PARTICIPANT_REVOKED", f"the participation of {name} was ended", participant=name
            )
        if not issuer or member is None or snapshot.certificates.get(caller.credential) != name:
            return PermissionDenied(
                "PARTICIPANT_UNKNOWN",
                f"{name} is not enrolled with this certificate",
                participant=name,
            )
        return None

    def enrolled(self) -> Mapping[str, str]:
        """Returns the name of each participant that takes part, by `certificate_id`.

        Raises `Unavailable` as `snapshot` does.
        """
        snapshot = self.snapshot
        return {
            credential: name
            for credential, name in snapshot.certificates.items()
            if name in snapshot.members and not snapshot.members[name].revoked
        }

    async def check(self, caller: Caller) -> None:
        """Raises `refusal`'s error, if there is one.

        Who is unknown may have enrolled at another server a moment ago: that is looked up first.
        """
        error = self.refusal(caller)
        if error is not None and error.reason == "PARTICIPANT_UNKNOWN":
            await self.refresh()
            error = self.refusal(caller)
        if error is not None:
            raise error

    def guard(self, authenticate: Authenticate) -> Authenticate:
        """Returns `authenticate`, refusing whoever is no participant but says so."""

        async def guarded(method: str, peer: Peer) -> Caller:
            caller = await authenticate(method, peer)
            await self.check(caller)
            return caller

        return guarded

    def on_change(self, expel: Callable[[Refusal], object]) -> None:
        """Has `expel` called behind each change, to end what is open for who was revoked."""
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

    def _tell(self, before: Snapshot | None, now: Snapshot) -> None:
        for expel in self._expel:
            expel(self.refusal)

    async def _read_if_changed(self, now: Snapshot | None) -> Snapshot | None:
        async with self._database.transaction() as connection:
            # First: what is committed meanwhile is at worst read twice.
            version = await store.version(connection)
            if now is not None and now.version == version:
                return None
            members = await store.read_standing(connection)
            certificates = await store.read_certificates(connection, self._clock() - _ENDED_KEPT)
        return Snapshot(
            version,
            MappingProxyType(
                {
                    each.name: Member(each.name, each.node_id, each.state == store.REVOKED)
                    for each in members
                }
            ),
            MappingProxyType({each.certificate_id: each.participant for each in certificates}),
        )
