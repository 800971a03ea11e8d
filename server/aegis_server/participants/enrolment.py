"""Enrolment: how a site that was invited becomes a participant, and stays one.

An invitation is a secret that its site shows once, with a key of its own. Showing it again with the
same key, because the answer was lost say, returns the same certificate for as long as the
invitation lasts; nothing else ever comes of it again. Each change is one transaction with its audit
record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Literal, Protocol

from aegis.errors import FailedPrecondition, PermissionDenied
from aegis.serving.auditlog import AuditLog, Entry
from aegis.serving.database import Connection, Database
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2
from aegis_server.participants import store
from aegis_server.participants.authority import Authority, SignedKey
from aegis_server.participants.participants import (
    RESOURCE,
    View,
    conflict,
    entry_of,
    named,
    path_of,
    required,
    take_notice,
    view_of,
)
from aegis_server.participants.registry import KIND, Registry
from aegis_server.participants.store import StoredCertificate, StoredParticipant

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


class Enrolment:
    """Gives certificates to who was invited. Without an `authority` nobody gets one."""

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        registry: Registry,
        *,
        authority: Authority | None,
        trust_domain: str,
        throttle: Throttle,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._audit = audit
        self._registry = registry
        self._authority = authority
        self._trust_domain = trust_domain
        self._throttle = throttle
        self._clock = clock

    async def enrol(
        self, secret: bytes, signing_request: bytes, *, address: str
    ) -> tuple[View, StoredCertificate]:
        """Redeems an invitation, from a caller at `address`.

        Raises `InvalidArgument` (FIELD_INVALID), `PermissionDenied` (INVITATION_INVALID, for every
        reason alike), `FailedPrecondition` (ENROLMENT_UNAVAILABLE) and what the throttle raises.
        """
        authority = required(self._authority)
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
        await take_notice(self._registry)
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
            return await view_of(connection, found.name), same[-1]
        certificate = authority.issue(found.name, key, trust_domain=self._trust_domain, now=now)
        await store.enrol(connection, found.name, key_sha256=key.sha256, now=now)
        await self._add(connection, certificate, "enrol", "enrolled")
        return await view_of(connection, found.name), certificate

    async def renew(self, caller: Caller, signing_request: bytes) -> StoredCertificate:
        """Issues the next certificate to a participant; those it has count until they end.

        The same key soon after returns the same certificate. Raises `InvalidArgument`
        (FIELD_INVALID), `FailedPrecondition` (ENROLMENT_UNAVAILABLE, STATE_CONFLICT), and what
        `named` raises.
        """
        name = named(caller)
        authority = required(self._authority)
        key = SignedKey.of(signing_request)
        now = self._clock()
        async with self._database.transaction() as connection:
            member = await store.lock(connection, name)
            if member is None or member.state != store.ENROLLED:
                raise conflict(name, member)
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
        await take_notice(self._registry)
        return certificate

    async def _add(
        self, connection: Connection, certificate: StoredCertificate, action: str, outcome: str
    ) -> None:
        await store.insert_certificate(connection, certificate)
        await store.tell_change(connection)
        # The log's lock is held from here to the commit: only a look may follow.
        entry = entry_of(
            KIND + certificate.participant,
            action,
            certificate.participant,
            outcome,
            certificate=certificate.certificate_id,
            ends_at=certificate.ends_at.isoformat(timespec="seconds"),
        )
        await self._audit.record_in(connection, entry)
