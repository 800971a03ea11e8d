"""Participants: invited by somebody here, enrolled by themselves, and revoked for good.

An invitation is a secret of which only the hash is kept; `enrolment.py` redeems it. Each change is
one transaction with its audit record.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aegis.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from aegis.jointoken import SECRET_BYTES
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2
from aegis_server.participants import store
from aegis_server.participants.authority import Authority
from aegis_server.participants.holdings import store as holding
from aegis_server.participants.holdings.store import StoredHolding
from aegis_server.participants.registry import KIND, Registry
from aegis_server.participants.store import StoredParticipant

log = logging.getLogger(__name__)

RESOURCE = "/training/participants"


@dataclass(frozen=True, slots=True)
class View:
    """A participant with what it was invited for; `holdings` it has declared have rows."""

    participant: StoredParticipant
    holdings: tuple[StoredHolding, ...]


@dataclass(frozen=True, slots=True)
class Invitation:
    """What was written, and the secret that is kept nowhere."""

    view: View
    secret: bytes = field(repr=False)


class Participants:
    """The participants. Without an `authority` nobody can be invited or enrolled."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        registry: Registry,
        *,
        authority: Authority | None,
        known_dataset: Callable[[str], Awaitable[bool]],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._registry = registry
        self._authority = authority
        self._known_dataset = known_dataset
        self._clock = clock

    async def invite(
        self, name: str, bounds: Sequence[tuple[str, int]], *, lifetime: timedelta, actor: str
    ) -> Invitation:
        """Invites a site for data sets, each with the most rows that may ever count.

        A participant that has not used its invitation gets another; the first ends. Raises
        `InvalidArgument` (FIELD_INVALID) and `FailedPrecondition` (ENROLMENT_UNAVAILABLE,
        STATE_CONFLICT).
        """
        required(self._authority)
        await self._check_bounds(bounds)
        secret, now = secrets.token_bytes(SECRET_BYTES), self._clock()
        written: dict[str, Any] = {
            "invited_by": actor,
            "now": now,
            "secret_sha256": hashlib.sha256(secret).digest(),
            "invitation_ends_at": now + lifetime,
        }
        async with self._database.transaction() as connection:
            if not await store.insert(connection, name, **written):
                before = await store.lock(connection, name)
                if before is None or before.state != store.INVITED:
                    raise conflict(name, before)
                await store.invite_again(connection, name, **written)
            await holding.replace_holdings(connection, name, bounds)
            view = await view_of(connection, name)
            listed = " ".join(f"{dataset}={rows}" for dataset, rows in bounds)
            ends = (now + lifetime).isoformat(timespec="seconds")
            entry = entry_of(actor, "invite", name, "invited", datasets=listed, ends_at=ends)
            await self._audit.record_in(connection, entry)
        return Invitation(view, secret)

    async def revoke(self, name: str, *, reason: str, actor: str) -> View:
        """Ends a participation, or an invitation; one that has ended stays as it is.

        Open streams here end before this returns, those at other servers in a moment. Raises
        `NotFound`.
        """
        async with self._database.transaction() as connection:
            before = await store.lock(connection, name)
            if before is None:
                raise _unknown(name)
            if before.state != store.REVOKED:
                await store.revoke(connection, name, reason=reason, now=self._clock())
                await store.tell_change(connection)
                entry = entry_of(actor, "revoke", name, "revoked", reason=reason)
                await self._audit.record_in(connection, entry)
            # The log's lock is held: only this look follows.
            view = await view_of(connection, name)
        await take_notice(self._registry)
        return view

    async def get(self, name: str) -> View:
        """Returns one participant; raises `NotFound`."""
        async with self._database.transaction() as connection:
            return await view_of(connection, name)

    async def list(self, *, after: str, limit: int) -> list[View]:
        """Returns participants by name."""
        async with self._database.transaction() as connection:
            found = await store.page(connection, after=after, limit=limit)
            held = await holding.holdings_of(connection, [each.name for each in found])
        return [
            View(each, tuple(one for one in held if one.participant == each.name)) for each in found
        ]

    async def _check_bounds(self, bounds: Sequence[tuple[str, int]]) -> None:
        seen: set[str] = set()
        for position, (dataset, _) in enumerate(bounds):
            fault = "is named twice" if dataset in seen else ""
            if not fault and not await self._known_dataset(dataset):
                fault = f"no data set {dataset} was registered"
            if fault:
                field_ = f"datasets[{position}].dataset"
                raise InvalidArgument(
                    "FIELD_INVALID",
                    f"{field_}: {fault}",
                    violations=[FieldViolation(field_, fault)],
                )
            seen.add(dataset)


def required(authority: Authority | None) -> Authority:
    """Returns the authority; raises `FailedPrecondition` (ENROLMENT_UNAVAILABLE) without one."""
    if authority is None:
        raise FailedPrecondition(
            "ENROLMENT_UNAVAILABLE", "this server has no authority for participants"
        )
    return authority


async def take_notice(registry: Registry) -> None:
    """Has this server know what was committed just now, if anything can be known."""
    try:
        await registry.refresh()
    except Unavailable as error:
        # It is committed, and will be seen as soon as anything is.
        log.warning("a change of who takes part is not yet in use: %s", error)


def named(caller: Caller) -> str:
    """Returns the name of a participant that called with its certificate.

    Raises `PermissionDenied` (PARTICIPANT_UNKNOWN) for anybody else, whatever roles they hold.
    """
    if caller.method != "certificate" or not caller.subject.startswith(KIND):
        raise PermissionDenied(
            "PARTICIPANT_UNKNOWN",
            f"{caller.subject} is no participant",
            participant=caller.subject,
        )
    return caller.subject.removeprefix(KIND)


def path_of(name: str) -> str:
    """Returns the canonical path of a participant."""
    return f"{RESOURCE}/{name}"


async def view_of(connection: Connection, name: str) -> View:
    """Returns a participant with what it holds; raises `NotFound`."""
    found = await store.page(connection, name=name)
    if not found:
        raise _unknown(name)
    return View(found[0], tuple(await holding.holdings_of(connection, [name])))


def entry_of(
    actor: str, action: str, name: str, outcome: str, *, reason: str = "", **details: str
) -> Entry:
    """Returns the audit entry of something that happened to a participant."""
    return Entry(
        kind=audit_pb2.AUDIT_KIND_IDENTITY,
        actor=actor,
        action=action,
        resource=path_of(name),
        outcome=outcome,
        reason=reason,
        subject_id=name,
        details=details,
    )


def _unknown(name: str) -> NotFound:
    return NotFound("RESOURCE_NOT_FOUND", f"no participant {name}", resource=path_of(name))


def conflict(name: str, found: StoredParticipant | None) -> FailedPrecondition:
    """Returns the error that says the state a participant is in forbids this."""
    state = "enrolled" if found is not None and found.state == store.ENROLLED else "revoked"
    return FailedPrecondition(
        "STATE_CONFLICT",
        f"{name} was {state} already; a name stands for one participant for ever",
        resource=path_of(name),
        state=state,
    )
