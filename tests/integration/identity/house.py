"""A server of the identity room as app.py wires it, on a port of its own, for tests."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from argon2 import Parameters, Type
from joserfc.jwk import ECKey
from prometheus_client import CollectorRegistry

from aegis.errors import AegisError, Unauthenticated, from_rpc_error
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Doors, Peer
from aegis.serving.metrics import CallMetrics
from aegis.spiffe import Caller
from aegis.v1 import (
    audit_pb2,
    identity_pb2_grpc,
    policy_pb2_grpc,
    service_account_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    user_pb2_grpc,
)
from aegis_server.access import DOMAIN, Access
from aegis_server.identity import store
from aegis_server.identity.authentication import Authentication, Verify
from aegis_server.identity.directory import Directory
from aegis_server.identity.machines.accounts import ServiceAccounts
from aegis_server.identity.machines.keys import ApiKeys
from aegis_server.identity.machines.rights import Rights
from aegis_server.identity.machines.service import ServiceAccountService
from aegis_server.identity.machines.verification import KeyVerification, Uses
from aegis_server.identity.people.accounts import Accounts
from aegis_server.identity.people.bootstrap import Bootstrap
from aegis_server.identity.people.mail import Mail, Outbox
from aegis_server.identity.people.passwords import Passwords
from aegis_server.identity.people.resets import Resets
from aegis_server.identity.people.service import SessionService, UserService
from aegis_server.identity.people.sessions import Attempt, Sessions
from aegis_server.identity.register import Register
from aegis_server.identity.service import IdentityService
from aegis_server.identity.tokens import AccessTokens, TokenKeys
from aegis_server.policy.decisionlog import DecisionLog
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.news import News
from aegis_server.policy.revisions import Revisions
from aegis_server.policy.service import PolicyService

# As cheap as argon2 gets: what it costs is not what these tests are about.
CHEAP = Parameters(
    type=Type.ID,
    version=19,
    salt_len=16,
    hash_len=32,
    time_cost=1,
    memory_cost=8,
    parallelism=1,
)
EMAIL = "ada@example.org"
PASSWORD = "seven purple otters"


class Clock:
    """A clock that tests put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Letterbox:
    """Keeps every mail."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []

    async def send(self, mail: Mail) -> None:
        self.mails.append(mail)


class Counter:
    """A throttle that counts, and refuses what it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Attempt, str, str, str]] = []
        self.refusal: AegisError | None = None

    async def before(self, kind: Attempt, key: str, address: str, device: str) -> None:
        self.calls.append(("before", kind, key, address, device))
        if self.refusal is not None:
            raise self.refusal

    async def failed(self, kind: Attempt, key: str, address: str, device: str) -> None:
        self.calls.append(("failed", kind, key, address, device))

    async def succeeded(self, kind: Attempt, key: str, address: str, device: str) -> str:
        self.calls.append(("succeeded", kind, key, address, device))
        return "device-token"


class House:
    """One server: its parts, and stubs to call it as anybody."""

    def __init__(self, database: Database, folder: Path, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.audit = AuditLog(database, log_id="test", clock=clock)
        self.directory = Directory(database, clock=clock, poll_seconds=0.05)
        self.decisions = Decisions(
            database,
            cache=None,
            clock=clock,
            registry=CollectorRegistry(),
            held_roles=self.directory.held_roles,
        )
        self.register = Register(
            database, self.audit, self.directory, clock=clock, address_key=b"k" * 32
        )
        self.keys_file = folder / "token-keys.json"
        write_keys(self.keys_file, ECKey.generate_key("P-256"))
        self.access_tokens = AccessTokens(
            TokenKeys(self.keys_file), issuer="aegis://test", audience="aegis", clock=clock
        )
        self.letterbox = Letterbox()
        self.outbox = Outbox(self.letterbox)
        self.throttle = Counter()
        self.passwords = Passwords(CHEAP)
        self.rights = Rights(self.decisions)
        self.accounts = Accounts(self.register, self.rights, self.outbox)
        self.sessions = Sessions(self.register, self.passwords, self.access_tokens, self.throttle)
        self.resets = Resets(self.register, self.passwords, self.throttle, self.outbox)
        self.bootstrap_file = folder / "data" / "bootstrap-token"
        self.bootstrap = Bootstrap(
            self.register,
            self.passwords,
            self.sessions,
            self.throttle,
            file=self.bootstrap_file,
        )
        self.log = DecisionLog(
            database,
            audit=self.audit,
            replica="test",
            clock=clock,
            registry=CollectorRegistry(),
        )
        self.openid: Verify | None = None
        self.uses = Uses(database)
        self.address = ""
        self.doors = Doors(
            admit=Access(self.decisions, self.audit).admit,
            metrics=CallMetrics(CollectorRegistry()),
            authenticate=Authentication(
                self.directory,
                certificates=_by_certificate,
                access_tokens=self.access_tokens,
                api_keys=KeyVerification(self.directory, self.uses, clock=clock),
                openid=self._by_openid,
            ),
        )
        self.directory.on_change(self.doors.leashes.expel)

    async def _by_openid(self, token: str, address: str) -> Caller:
        assert self.openid is not None
        return await self.openid(token, address)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serves on a port of this machine."""
        revisions = Revisions(
            self.database, audit=self.audit, decisions=self.decisions, clock=self.clock
        )
        await revisions.ensure_first()
        await self.decisions.open()
        await self.directory.open()
        await self.bootstrap.prepare()
        deeds = Deeds()
        server = grpc.aio.server(interceptors=[self.doors])
        session_pb2_grpc.add_SessionServiceServicer_to_server(
            SessionService(
                bootstrap=self.bootstrap,
                sessions=self.sessions,
                resets=self.resets,
                deeds=deeds,
                identity_provider=session_pb2.IdentityProvider(issuer="https://idp.example.org"),
            ),
            server,
        )
        users = UserService(self.accounts, self.resets, deeds)
        user_pb2_grpc.add_UserServiceServicer_to_server(users, server)
        machines = ServiceAccountService(
            ServiceAccounts(self.register, self.rights),
            ApiKeys(self.register, self.rights),
            deeds,
        )
        service_account_pb2_grpc.add_ServiceAccountServiceServicer_to_server(machines, server)
        policy = PolicyService(
            decisions=self.decisions,
            revisions=revisions,
            log=self.log,
            news=News(self.database, self.decisions, self.directory, clock=self.clock),
            deeds=deeds,
            clock=self.clock,
        )
        policy_pb2_grpc.add_PolicyServiceServicer_to_server(policy, server)
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(
            IdentityService(None, lambda who: self.decisions.roles_of(who, DOMAIN)),  # type: ignore[arg-type]
            server,
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self.address = f"127.0.0.1:{port}"
        parts = [
            asyncio.create_task(part)
            for part in (
                self.audit.run(),
                self.log.run(),
                self.directory.run(),
                self.outbox.run(),
            )
        ]
        try:
            yield
        finally:
            await server.stop(None)
            await deeds.drain()
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            self.passwords.close()

    @asynccontextmanager
    async def calling(self, authorization: str = "") -> AsyncIterator[Calls]:
        """Stubs for who shows `authorization` in each call, or nothing."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            yield Calls(channel, authorization)

    async def records(self) -> list[audit_pb2.AuditRecord]:
        """The records about identity, in order."""
        async with self.database.transaction() as connection:
            cursor = await connection.execute(
                "select record from aegis.audit_record where kind = %s order by idx",
                (audit_pb2.AUDIT_KIND_IDENTITY,),
            )
            return [audit_pb2.AuditRecord.FromString(row[0]) for row in await cursor.fetchall()]

    async def version(self) -> int:
        """How often who is who was changed."""
        async with self.database.transaction() as connection:
            return await store.version(connection)

    async def token_from_mail(self) -> str:
        """The token in the last mail that was sent."""
        await self.outbox.empty()
        return next(
            line.strip()
            for line in self.letterbox.mails[-1].text.splitlines()
            if line.startswith("    ")
        )


class Calls:
    """Stubs whose calls all carry the same authorization."""

    def __init__(self, channel: grpc.aio.Channel, authorization: str) -> None:
        self._metadata = (("authorization", authorization),) if authorization else ()
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self.users = user_pb2_grpc.UserServiceStub(channel)
        self.machines = service_account_pb2_grpc.ServiceAccountServiceStub(channel)
        self.identity = identity_pb2_grpc.IdentityServiceStub(channel)
        self.policy = policy_pb2_grpc.PolicyServiceStub(channel)

    async def __call__(self, method: object, request: object) -> object:
        """Calls, and gives back the answer; raises the server's own error."""
        try:
            return await method(request, metadata=self._metadata, timeout=10)  # type: ignore[operator]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


async def _by_certificate(method: str, peer: Peer) -> Caller:
    raise Unauthenticated("PEER_UNIDENTIFIED", "no certificates here")


def write_keys(file: Path, *keys: ECKey) -> None:
    """Writes a JWKS with private keys."""
    document = {"keys": [{**key.as_dict(private=True), "kid": key.thumbprint()} for key in keys]}
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(document))
    fresh.chmod(0o600)
    os.replace(fresh, file)  # noqa: PTH105


def bearer(session: session_pb2.Session) -> str:
    """What a person shows in each call."""
    return f"Bearer {session.access_token}"


async def reason(call: object) -> str:
    """The reason with which a call is refused."""
    with pytest.raises(AegisError) as refusal:
        await call  # type: ignore[misc]
    return refusal.value.reason
