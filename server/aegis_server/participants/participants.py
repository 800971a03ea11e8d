"""Participants: invited by somebody here, enrolled by themselves, and revoked for good.

An invitation is a secret that its site shows once, with a key of its own; only the secret's hash is
kept. Showing it again with the same key, because the answer was lost say, returns the same
certificate for as long as the invitation lasts; nothing else ever comes of it again. Each change is
one transaction with its audit record.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

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
from aegis_server.participants.authority import Authority, SignedKey
from aegis_server.participants.registry import KIND, Registry
from aegis_server.participants.store import StoredCertificate, StoredHolding, StoredParticipant

log = logging.getLogger(__name__)

RESOURCE = "/training/participants"

# Of one participant at the same time: a site that renews without end is ill.
_CERTIFICATES_MAX = 16


class Throttle(Protocol):
    """Slows guessing at secrets down; see `aegis_server.identity.throttle`."""

    async def before(
        self, kind: Literal["enrol"], account_key: str, caller_address: str, device_token: str
    ) -> None:
        """Raises `ResourceExhausted` (RATE_LIMITED) or `Unavailable` (LIMITER_UNAVAILABLE)."""

    async def succeeded(
        self, kind: Literal["enrol"], account_key: str, caller_address: str, device_token: str
    ) -> str:
        """Gives back what was paid."""


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
        trust_domain: str,
        throttle: Throttle,
        known_dataset: Callable[[str], Awaitable[bool]],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._registry = registry
        self._authority = authority
        self._trust_domain = trust_domain
        self._throttle = throttle
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
        self._need_authority()
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
                    raise _conflict(name, before)
                await store.invite_again(connection, name, **written)
            await store.replace_holdings(connection, name, bounds)
            view = await _view(connection, name)
            listed = " ".join(f"{dataset}={rows}" for dataset, rows in bounds)
            ends = (now + lifetime).isoformat(timespec="seconds")
            entry = _entry(actor, "invite", name, "invited", datasets=listed, ends_at=ends)
            await self._audit.record_in(connection, entry)
        return Invitation(view, secret)

    async def enrol(
        self, secret: bytes, signing_request: bytes, *, address: str
    ) -> tuple[View, StoredCertificate]:
        """Redeems an invitation, from a caller at `address`.

        Raises `InvalidArgument` (FIELD_INVALID), `PermissionDenied` (INVITATION_INVALID, for every
        reason alike), `FailedPrecondition` (ENROLMENT_UNAVAILABLE) and what the throttle raises.
        """
        authority = self._need_authority()
        key = SignedKey.of(signing_request)
        secret_sha256 = hashlib.sha256(secret).digest()
        attempt = secret_sha256.hex()[:32]
        await self._throttle.before("enrol", attempt, address, "")
        async with self._database.transaction() as connection:
            found = await store.lock_by_secret(connection, secret_sha256)
            redeemed = await self._redeem(connection, found, key, authority)
        if redeemed is None:
            await self._audit.record(
                Entry(
                    kind=audit_pb2.AUDIT_KIND_IDENTITY,
                    actor="anonymous:unknown",
                    action="enrol",
                    resource=RESOURCE,
                    outcome="refused",
                    reason="INVITATION_INVALID",
                )
            )
            raise PermissionDenied(
                "INVITATION_INVALID", "this invitation is unknown, used or too old"
            )
        await self._throttle.succeeded("enrol", attempt, address, "")
        await self._look()
        return redeemed

    async def _redeem(
        self,
        connection: Connection,
        found: StoredParticipant | None,
        key: SignedKey,
        authority: Authority,
    ) -> tuple[View, StoredCertificate] | None:
        now = self._clock()
        if found is None or found.state == store.REVOKED or now >= found.invitation_ends_at:
            return None
        if found.redeemed_key_sha256 is not None:
            given = await store.certificates_of(connection, found.name, now)
            same = [each for each in given if each.key_sha256 == key.sha256]
            if not same or found.redeemed_key_sha256 != key.sha256:
                return None
            return await _view(connection, found.name), same[-1]
        certificate = authority.issue(found.name, key, trust_domain=self._trust_domain, now=now)
        await store.enrol(connection, found.name, key_sha256=key.sha256, now=now)
        await self._add(connection, certificate, "enrol", "enrolled")
        return await _view(connection, found.name), certificate

    async def renew(self, caller: Caller, signing_request: bytes) -> StoredCertificate:
        """Issues the next certificate to a participant; those it has count until they end.

        The same key soon after returns the same certificate. Raises `InvalidArgument`
        (FIELD_INVALID), `FailedPrecondition` (ENROLMENT_UNAVAILABLE, STATE_CONFLICT), and what
        `named` raises.
        """
        name = named(caller)
        authority = self._need_authority()
        key = SignedKey.of(signing_request)
        now = self._clock()
        async with self._database.transaction() as connection:
            member = await store.lock(connection, name)
            if member is None or member.state != store.ENROLLED:
                raise _conflict(name, member)
            given = await store.certificates_of(connection, name, now)
            for each in given:
                lasts = each.ends_at - now > (each.ends_at - each.issued_at) * 2 / 3
                if each.key_sha256 == key.sha256 and lasts:
                    return each
            if len(given) >= _CERTIFICATES_MAX:
                raise FailedPrecondition(
                    "STATE_CONFLICT",
                    f"{name} has {len(given)} certificates that count already",
                    resource=path_of(name),
                    state="full",
                )
            certificate = authority.issue(name, key, trust_domain=self._trust_domain, now=now)
            await self._add(connection, certificate, "renew", "renewed")
        await self._look()
        return certificate

    async def _add(
        self, connection: Connection, certificate: StoredCertificate, action: str, outcome: str
    ) -> None:
        await store.insert_certificate(connection, certificate)
        await store.tell_change(connection)
        # The log's lock is held from here to the commit: only a look may follow.
        entry = _entry(
            KIND + certificate.participant,
            action,
            certificate.participant,
            outcome,
            certificate=certificate.certificate_id,
            ends_at=certificate.ends_at.isoformat(timespec="seconds"),
        )
        await self._audit.record_in(connection, entry)

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
                entry = _entry(actor, "revoke", name, "revoked", reason=reason)
                await self._audit.record_in(connection, entry)
            # The log's lock is held: only this look follows.
            view = await _view(connection, name)
        await self._look()
        return view

    async def get(self, name: str) -> View:
        """Returns one participant; raises `NotFound`."""
        async with self._database.transaction() as connection:
            return await _view(connection, name)

    async def list(self, *, after: str, limit: int) -> list[View]:
        """Returns participants by name."""
        async with self._database.transaction() as connection:
            found = await store.page(connection, after=after, limit=limit)
            held = await store.holdings_of(connection, [each.name for each in found])
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

    def _need_authority(self) -> Authority:
        if self._authority is None:
            raise FailedPrecondition(
                "ENROLMENT_UNAVAILABLE", "this server has no authority for participants"
            )
        return self._authority

    async def _look(self) -> None:
        try:
            await self._registry.refresh()
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


async def _view(connection: Connection, name: str) -> View:
    found = await store.page(connection, name=name)
    if not found:
        raise _unknown(name)
    return View(found[0], tuple(await store.holdings_of(connection, [name])))


def _entry(
    actor: str, action: str, name: str, outcome: str, *, reason: str = "", **details: str
) -> Entry:
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


def _conflict(name: str, found: StoredParticipant | None) -> FailedPrecondition:
    state = "enrolled" if found is not None and found.state == store.ENROLLED else "revoked"
    return FailedPrecondition(
        "STATE_CONFLICT",
        f"{name} was {state} already; a name stands for one participant for ever",
        resource=path_of(name),
        state=state,
    )
