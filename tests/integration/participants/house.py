"""Servers with the participants' room behind their real doors: real TLS, Postgres and policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry
from tests.blobs import blobs_in

from aegis.channel import Bearer, Identity, connect
from aegis.errors import AegisError, from_rpc_error
from aegis.jointoken import JoinToken
from aegis.local import pki
from aegis.local.keys import pem
from aegis.local.programs import server_environment
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.port import Port
from aegis.serving.trusting import LiveTrust
from aegis.spiffe import Caller, spiffe_id
from aegis.v1 import audit_pb2, dataset_pb2_grpc, identity_pb2_grpc, participant_pb2_grpc
from aegis.v1 import participant_pb2 as pb
from aegis_server.access import DOMAIN
from aegis_server.entrance import open_doors
from aegis_server.foundation import Base, authority_of
from aegis_server.identity.buckets import LocalBuckets
from aegis_server.identity.directory import Directory
from aegis_server.identity.machines.verification import Uses
from aegis_server.identity.service import IdentityService
from aegis_server.participants.registry import Registry
from aegis_server.participation import Participation, held_roles_of, serve_participants
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.settings import Settings
from aegis_server.workers import Workers

BOUND = pb.InviteParticipantRequest.Bound(dataset="breast-cancer", rows_max=100)


class Clock:
    """A clock that tests put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Echoing:
    """Streams that give every heartbeat back."""

    async def attend(
        self, requests: AsyncIterator[pb.AttendRequest], caller: Caller
    ) -> AsyncIterator[pb.AttendResponse]:
        async for request in requests:
            echo = pb.AttendResponse.Echo(number=request.heartbeat.number)
            yield pb.AttendResponse(echo=echo)


@dataclass
class Site:
    """What a site has on its disk."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    identity: Identity

    @classmethod
    def at(cls, folder: Path) -> Site:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / "site.key").write_bytes(pem(key))
        return cls(
            folder,
            key,
            Identity(folder / "site.crt", folder / "site.key", folder / "roots.crt"),
        )

    def request(self, key: Any = None, algorithm: Any = None) -> bytes:
        """A signing request that asks for more than it will get."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
        uri = x509.UniformResourceIdentifier("spiffe://aegis.local/user/admin")
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        signed = builder.sign(key or self.key, algorithm or hashes.SHA256())
        return signed.public_bytes(Encoding.DER)

    def keep(self, certificate: bytes, roots: bytes) -> None:
        self.identity.certificate.write_bytes(certificate)
        self.identity.roots.write_bytes(roots)


@dataclass
class Server:
    """One server."""

    base: Base
    port: Port
    participation: Participation


@dataclass
class House:
    """Any number of servers on one database, and how to call them as anybody."""

    folder: Path
    database_url: str
    workers: Workers
    clock: Clock = field(default_factory=Clock)
    servers: list[Server] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self, **changes: Any) -> AsyncIterator[Server]:
        """Starts one more server; `changes` replace settings."""
        async with AsyncExitStack() as stack:
            server = await self._start(stack, changes)
            self.servers.append(server)
            stack.callback(self.servers.remove, server)
            yield server

    async def _start(self, stack: AsyncExitStack, changes: dict[str, Any]) -> Server:
        pki.ensure(self.folder / "pki")
        told = server_environment(
            self.folder,
            database_url=self.database_url,
            redis_url=None,
            executor_address="127.0.0.1:1",
            witness_address="127.0.0.1:1",
        )
        (self.folder / "blobs").mkdir(exist_ok=True)
        bound = {"listen": "127.0.0.1:0", "token_listen": "127.0.0.1:0"}
        settings = replace(Settings.from_environment(told), **bound | changes)
        database = Database(self.database_url, application="test")
        await database.open()
        stack.push_async_callback(database.close)
        audit = AuditLog(database, log_id="test", clock=self.clock)
        directory = Directory(database, clock=self.clock)
        authority = authority_of(settings)
        participants = Registry(
            database,
            clock=self.clock,
            authorities=authority.names if authority else frozenset(),
        )
        decisions = Decisions(
            database,
            cache=None,
            clock=self.clock,
            registry=CollectorRegistry(),
            held_roles=held_roles_of(directory, participants),
        )
        await directory.open()
        await participants.open()
        await Revisions(database, audit=audit, decisions=decisions, clock=self.clock).ensure_first()
        await decisions.open()
        base = Base(
            settings=settings,
            database=database,
            audit=audit,
            directory=directory,
            participants=participants,
            authority=authority,
            access_tokens=None,
            key_uses=Uses(database),
            provider=None,
            buckets=LocalBuckets(),
            trust=LiveTrust(settings.trust),
            decisions=decisions,
            deeds=Deeds(),
            blobs=blobs_in(self.folder / "blobs"),
            clock=self.clock,
        )
        return await self._open(stack, base)

    async def _open(self, stack: AsyncExitStack, base: Base) -> Server:
        port, revoking = open_doors(base, CollectorRegistry())
        participation = serve_participants(base, port, self.workers, streams=lambda _: Echoing())
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(
            IdentityService(base.trust, lambda who: base.decisions.roles_of(who, DOMAIN)),
            port.server,
        )
        for part in (base.audit.run(), base.directory.run(), revoking(), *participation.parts):
            stack.push_async_callback(_cancel, asyncio.create_task(part))
        await port.open(base.settings.listen, base.settings.token_listen)
        stack.push_async_callback(base.deeds.drain)
        stack.push_async_callback(port.close, 1.0)
        return Server(base, port, participation)

    @asynccontextmanager
    async def calling(self, who: Identity | str, server: int = 0) -> AsyncIterator[Calls]:
        """Stubs as a program of `aegis up`, or as who has other files."""
        identity = Identity.of(who, self.folder) if isinstance(who, str) else who
        address = self.servers[server].port.address
        async with connect(address, identity, retries=False) as channel:
            yield Calls(channel)

    @asynccontextmanager
    async def knocking(self, server: int = 0) -> AsyncIterator[Calls]:
        """Stubs for who has no certificate."""
        bearer = Bearer(self.folder / "pki" / "ca.crt")
        address = self.servers[server].port.token_address
        async with connect(address, bearer, retries=False) as channel:
            yield Calls(channel)

    async def invite(self, name: str = "hospital-a", **changes: Any) -> JoinToken:
        """An invitation by user:admin."""
        request = pb.InviteParticipantRequest(**{"name": name, "datasets": [BOUND]} | changes)
        async with self.calling("admin") as call:
            return JoinToken.parse((await call(call.participants.InviteParticipant, request)).token)

    async def enrol(self, secret: bytes, site: Site, server: int = 0) -> pb.EnrolResponse:
        """The site's own call; what comes back is kept on its disk."""
        request = pb.EnrolRequest(secret=secret, signing_request=site.request())
        async with self.knocking(server) as call:
            response = await call(call.participants.Enrol, request)
        site.keep(response.certificate, response.roots)
        return response

    async def joined(self, name: str = "hospital-a", **changes: Any) -> Site:
        """An enrolled site."""
        token = await self.invite(name, **changes)
        site = Site.at(self.folder / "sites" / name)
        await self.enrol(token.secret, site)
        return site

    def signed(self, site: Site, subject: str, *, by: str = "participants-ca") -> None:
        """Gives a site a certificate that an authority signed without anybody's word for it."""
        [authority, *_] = x509.load_pem_x509_certificates(
            (self.folder / "pki" / f"{by}.crt").read_bytes()
        )
        key_file = self.folder / "pki" / f"{by}.key"
        key = pki.read_pair(key_file.parent, by).key  # type: ignore[union-attr]
        uri = x509.UniformResourceIdentifier(spiffe_id(subject, "aegis.local"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(authority.subject)
            .public_key(site.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(minutes=1))
            .not_valid_after(datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
            .sign(key, hashes.SHA256())
        )
        roots = (self.folder / "pki" / "ca.crt").read_bytes()
        site.keep(certificate.public_bytes(Encoding.PEM), roots)

    async def records(self, action: str = "") -> list[audit_pb2.AuditRecord]:
        """What the audit log says about identity, in order."""
        async with self.servers[0].base.database.transaction() as connection:
            cursor = await connection.execute(
                "select record from aegis.audit_record where kind = %s order by idx",
                (audit_pb2.AUDIT_KIND_IDENTITY,),
            )
            found = [audit_pb2.AuditRecord.FromString(row[0]) for row in await cursor.fetchall()]
        return [record for record in found if action in ("", record.action)]


class Calls:
    """Stubs of one channel; `call(method, request)` raises the server's own error."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.participants = participant_pb2_grpc.ParticipantServiceStub(channel)
        self.datasets = dataset_pb2_grpc.DatasetServiceStub(channel)
        self.identity = identity_pb2_grpc.IdentityServiceStub(channel)

    async def __call__(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


async def reason(call: Any) -> str:
    """The reason with which a call is refused."""
    with pytest.raises(AegisError) as refusal:
        await call
    return refusal.value.reason


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
