"""Certificates in use: rotated and revoked under calls, over real handshakes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.name import _ASN1Type
from prometheus_client import CollectorRegistry

from aegis.channel import Identity, connect
from aegis.errors import AegisError, from_rpc_error
from aegis.following import Following
from aegis.local.authority import Authority, Names
from aegis.serving import revocation
from aegis.serving.doors import Doors, Grant, by_certificate, current_call
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.revocation import Revocations
from aegis.serving.tls import TlsFiles
from aegis.spiffe import Caller, certificate_id
from aegis.v1 import audit_pb2, audit_pb2_grpc

NOW = datetime.now(UTC)
HERE = ("localhost",), ("127.0.0.1",)


class _Audit(audit_pb2_grpc.AuditServiceServicer):
    """Says whose certificate it sees, and tells nothing for as long as it is watched."""

    def __init__(self) -> None:
        self.watched = asyncio.Event()

    async def GetAuditRecord(self, request, context):
        await asyncio.sleep(0.002)
        stored = audit_pb2.StoredAuditRecord(record=current_call().caller.credential.encode())
        return audit_pb2.GetAuditRecordResponse(record=stored)

    async def WatchAuditRecords(self, request, context):
        self.watched.set()
        await asyncio.Event().wait()
        yield audit_pb2.WatchAuditRecordsResponse()


class _Admission:
    """Lets everybody in: at once, but for who wants to watch while it is closed."""

    def __init__(self) -> None:
        self.asked, self.open = asyncio.Event(), asyncio.Event()
        self.open.set()

    async def __call__(self, method: str, caller: Caller) -> Grant:
        if method.endswith("/WatchAuditRecords"):
            self.asked.set()
            await self.open.wait()
        return Grant()


@dataclass
class Site:
    """A server, and the authority that everybody here trusts."""

    folder: Path
    authority: Authority
    address: str
    service: _Audit
    admission: _Admission

    def issue(self, name: str, subject: str) -> Identity:
        """Writes a pair."""
        names = Names(f"spiffe://aegis.local/{subject}", *HERE)
        self.authority.issue(name, names, NOW, [], days=1)
        return self.identity(name)

    def identity(self, name: str) -> Identity:
        """The files of a pair."""
        return Identity(
            self.folder / f"{name}.crt", self.folder / f"{name}.key", self.folder / "ca.crt"
        )

    def credential(self, name: str) -> str:
        """What a server calls the certificate that is in the file now."""
        pem = (self.folder / f"{name}.crt").read_bytes()
        return certificate_id(x509.load_pem_x509_certificate(pem))

    def revoke(self, name: str) -> None:
        """Revokes what is in the file now."""
        pem = (self.folder / f"{name}.crt").read_bytes()
        serial = x509.load_pem_x509_certificate(pem).serial_number
        self.authority.revoke(serial, NOW, [])


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[Site]:
    authority = Authority.create(folder, NOW, [])
    authority.ensure_list(NOW, [])
    site = Site(folder, authority, "", _Audit(), _Admission())
    server = site.issue("server", "server/aegis")
    files = TlsFiles(server.certificate, server.key, server.roots, folder / "ca.crl")
    revocations = Revocations(files)
    doors = Doors(
        authenticate=revocations.guard(by_certificate("aegis.local")),
        admit=site.admission,
        metrics=CallMetrics(CollectorRegistry()),
    )
    port = Port(doors=doors, tls=files, services=["aegis.v1.AuditService"])
    audit_pb2_grpc.add_AuditServiceServicer_to_server(site.service, port.server)
    site.address = await port.open("127.0.0.1:0")
    following = asyncio.create_task(revocations.run(doors.leashes.expel))
    yield site
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await port.close(0)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(revocation, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr("aegis.following._LOOK_SECONDS", 0.0)
    async with _serving(tmp_path) as served:
        yield served


async def seen_by_server(channel: grpc.aio.Channel) -> str:
    """Whose certificate the server saw."""
    stub = audit_pb2_grpc.AuditServiceStub(channel)
    request = audit_pb2.GetAuditRecordRequest()
    try:
        return (await stub.GetAuditRecord(request, timeout=10)).record.record.decode()
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def until_refused(channel: grpc.aio.Channel) -> AegisError:
    """The first refusal, within a few seconds."""
    async with asyncio.timeout(5):
        while True:
            try:
                await seen_by_server(channel)
            except AegisError as error:
                return error


async def test_revoked_certificate_is_refused_on_the_connection_it_has_open(site: Site) -> None:
    """And whoever else is connected is not."""
    ann, bob = site.issue("ann", "user/ann"), site.issue("bob", "user/bob")
    async with connect(site.address, ann) as anns, connect(site.address, bob) as bobs:
        assert await seen_by_server(anns) == site.credential("ann")
        assert await seen_by_server(bobs) == site.credential("bob")
        site.revoke("ann")
        refusal = await until_refused(anns)
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "CREDENTIAL_REVOKED",
        )
        assert await seen_by_server(bobs) == site.credential("bob")


async def test_revocation_ends_an_open_stream(site: Site) -> None:
    """A stream that waits is ended as well, not only the next call refused."""
    async with connect(site.address, site.issue("ann", "user/ann")) as channel:
        stub = audit_pb2_grpc.AuditServiceStub(channel)
        call = stub.WatchAuditRecords(audit_pb2.WatchAuditRecordsRequest())
        await site.service.watched.wait()
        site.revoke("ann")
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async with asyncio.timeout(5):
                await anext(aiter(call))
    assert from_rpc_error(ended.value).reason == "CREDENTIAL_REVOKED"


async def test_stream_that_is_let_in_while_its_certificate_is_revoked_ends_as_well(
    site: Site,
) -> None:
    """Whoever is between the proof and the permission at that moment would stay for good."""
    site.admission.open.clear()
    async with connect(site.address, site.issue("ann", "user/ann")) as channel:
        stub = audit_pb2_grpc.AuditServiceStub(channel)
        call = stub.WatchAuditRecords(audit_pb2.WatchAuditRecordsRequest())
        await site.admission.asked.wait()
        site.revoke("ann")
        await until_refused(channel)
        site.admission.open.set()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async with asyncio.timeout(5):
                await anext(aiter(call))
    assert from_rpc_error(ended.value).reason == "CREDENTIAL_REVOKED"


async def test_server_looks_at_its_list_every_second() -> None:
    """The bound of two seconds that the documentation states."""
    assert revocation._LOOK_SECONDS == 1.0


def foreign(folder: Path) -> bytes:
    """A list of an authority that nobody here trusts, of the same name."""
    other = folder / "other"
    other.mkdir()
    authority = Authority.create(other, NOW, [])
    authority.ensure_list(NOW, [])
    return (other / "ca.crl").read_bytes()


@pytest.mark.parametrize("damage", [lambda folder: b"?", foreign, lambda folder: None])
async def test_list_that_cannot_be_used_leaves_the_last_good_one(
    site: Site, damage: Callable[[Path], bytes | None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever can break the file has not brought anybody back."""
    async with connect(site.address, site.issue("ann", "user/ann")) as channel:
        site.revoke("ann")
        await until_refused(channel)
        data, file = damage(site.folder), site.folder / "ca.crl"
        file.unlink()
        if data is not None:
            file.write_bytes(data)
        async with asyncio.timeout(5):
            while "keeping the old revocation list" not in caplog.text:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        with pytest.raises(AegisError, match="revoked"):
            await seen_by_server(channel)
    assert caplog.text.count("keeping the old revocation list") == 1


async def test_revocation_reaches_a_certificate_that_writes_its_issuer_in_another_way(
    site: Site,
) -> None:
    """TLS takes it for the same issuer, so the list has to as well."""
    identity = site.issue("ann", "user/ann")
    (name, number) = site.authority.certificate.subject
    other = x509.Name(
        [
            x509.NameAttribute(name.oid, f" {str(name.value).upper()}", _ASN1Type.PrintableString),
            number,
        ]
    )
    good = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    builder = x509.CertificateBuilder(
        other,
        good.subject,
        good.public_key(),
        good.serial_number,
        good.not_valid_before_utc.replace(tzinfo=None),
        good.not_valid_after_utc.replace(tzinfo=None),
        list(good.extensions),
    )
    written = builder.sign(site.authority._key, hashes.SHA256())
    identity.certificate.write_bytes(written.public_bytes(Encoding.PEM))
    async with connect(site.address, identity, retries=False) as channel:
        assert await seen_by_server(channel) == site.credential("ann")
        site.revoke("ann")
        assert (await until_refused(channel)).reason == "CREDENTIAL_REVOKED"


@pytest.mark.parametrize("way", ["older list", "retired authority"])
async def test_who_was_revoked_does_not_come_back(
    site: Site, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by a list that somebody had kept, nor with the authority that revoked it."""
    caplog.set_level(logging.INFO)
    file = site.folder / "ca.crl"
    async with connect(site.address, site.issue("ann", "user/ann")) as channel:
        kept = file.read_bytes()
        site.revoke("ann")
        await until_refused(channel)
        if way == "older list":
            file.write_bytes(kept)
        else:
            site.authority = site.authority.succeed(NOW, [])
            site.authority.retire_predecessors(NOW, [])
        async with asyncio.timeout(5):
            while "listed no more" not in caplog.text:
                await asyncio.sleep(0.01)
        with pytest.raises(AegisError, match="revoked"):
            await seen_by_server(channel)


async def test_list_that_was_copied_only_in_part_is_none(site: Site) -> None:
    """Of two lists only the first has arrived: who is on the second was revoked all the same."""
    site.revoke("server")
    site.authority.succeed(NOW, [])
    roots, file = site.folder / "ca.crt", site.folder / "ca.crl"
    whole = file.read_bytes()
    assert len(revocation.read(file, roots)) == 1
    for cut in (len(whole) - 2, whole.rindex(b"-----BEGIN") + 40):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="in the middle of"):
            revocation.read(file, roots)


async def test_server_with_a_list_it_cannot_use_does_not_start(site: Site) -> None:
    """At the start there is no last good one."""
    site.folder.joinpath("ca.crl").write_bytes(foreign(site.folder))
    files = TlsFiles(
        *(site.folder / name for name in ("server.crt", "server.key", "ca.crt", "ca.crl"))
    )
    with pytest.raises(ValueError, match="not signed by any of the roots"):
        Revocations(files)


async def _load(
    ask: Callable[[], Awaitable[str]], while_doing: Callable[[], Awaitable[None]]
) -> list[str]:
    """What the server saw in the calls that were made meanwhile; none of them failed."""
    seen: list[str] = []
    done = asyncio.Event()

    async def worker() -> None:
        while not done.is_set():
            seen.append(await ask())

    workers = [asyncio.create_task(worker()) for _ in range(8)]
    await asyncio.sleep(0.1)
    await while_doing()
    await asyncio.sleep(0.2)
    done.set()
    await asyncio.gather(*workers)
    return seen


async def test_everything_is_rotated_under_load_and_no_call_fails(site: Site) -> None:
    """Authority, server and client, one after the other, and in the end the old root is gone."""
    identity = site.issue("ann", "user/ann")
    first = site.credential("ann")

    async def rotate() -> None:
        site.authority = site.authority.succeed(NOW, [])
        await asyncio.sleep(0.2)
        site.issue("ann", "user/ann")
        await asyncio.sleep(0.2)
        site.issue("server", "server/aegis")
        await asyncio.sleep(0.2)
        site.authority.retire_predecessors(NOW, [])
        await asyncio.sleep(0.2)

    async with Following(site.address, identity, retries=False) as channel:
        seen = await _load(lambda: seen_by_server(channel), rotate)
    assert seen[0] == first
    assert seen[-1] == site.credential("ann")
    assert set(seen) == {first, site.credential("ann")}


async def test_half_of_a_rotation_is_not_used(site: Site) -> None:
    """A new key without its certificate leaves the old pair in use."""
    identity = site.issue("ann", "user/ann")
    before = site.credential("ann")
    async with Following(site.address, identity, retries=False) as channel:
        assert await seen_by_server(channel) == before
        other = site.issue("other", "user/other")
        identity.key.write_bytes(other.key.read_bytes())
        assert await seen_by_server(channel) == before
        identity.certificate.write_bytes(other.certificate.read_bytes())
        assert await seen_by_server(channel) == site.credential("other")


async def test_key_that_nobody_can_open_leaves_the_old_pair_in_use(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Encrypted, as some tools write it by default: neither end loses a call."""
    ann, bob = site.issue("ann", "user/ann"), site.issue("bob", "user/bob")
    before = site.credential("ann")
    async with Following(site.address, ann, retries=False) as channel:
        assert await seen_by_server(channel) == before
        for key in (ann.key, site.folder / "server.key"):
            locked = load_pem_private_key(key.read_bytes(), None).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password")
            )
            key.write_bytes(locked)
        assert await seen_by_server(channel) == before
        async with connect(site.address, bob, retries=False) as bobs:
            assert await seen_by_server(bobs) == site.credential("bob")
    assert caplog.text.count("keeping the old certificate") >= 2


async def test_stream_on_the_old_channel_goes_on(site: Site) -> None:
    """A rotation ends no stream."""
    async with Following(site.address, site.issue("ann", "user/ann"), retries=False) as channel:
        call = audit_pb2_grpc.AuditServiceStub(channel).WatchAuditRecords(
            audit_pb2.WatchAuditRecordsRequest()
        )
        await site.service.watched.wait()
        site.issue("ann", "user/ann")
        assert await seen_by_server(channel) == site.credential("ann")
        await asyncio.sleep(0.1)
        assert not call.done()
        call.cancel()


@pytest.mark.parametrize(
    ("uris", "said"),
    [
        (["spiffe://aegis.local/user/ann", "spiffe://aegis.local/user/bob"], "2 URI names"),
        ([], "0 URI names"),
        (["spiffe://elsewhere.example/user/ann"], "is not spiffe://aegis.local/KIND/NAME"),
    ],
)
async def test_certificate_that_does_not_say_who_it_is_is_refused(
    site: Site, uris: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed by our own authority, over a real handshake, and nobody all the same."""
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), *map(x509.UniformResourceIdentifier, uris)]
    )
    with monkeypatch.context() as authority_gone_wrong:
        authority_gone_wrong.setattr(x509, "SubjectAlternativeName", lambda _: names)
        identity = site.issue("odd", "user/odd")
    async with connect(site.address, identity, retries=False) as channel:
        with pytest.raises(AegisError, match=said) as refused:
            await seen_by_server(channel)
    assert refused.value.reason == "PEER_UNIDENTIFIED"


async def test_certificate_of_another_authority_gets_no_connection(
    site: Site, tmp_path: Path
) -> None:
    """The name is right; nobody here vouches for it."""
    other = tmp_path / "other"
    other.mkdir()
    authority = Authority.create(other, NOW, [])
    authority.issue("ann", Names("spiffe://aegis.local/user/ann"), NOW, [], days=1)
    identity = Identity(other / "ann.crt", other / "ann.key", site.folder / "ca.crt")
    async with connect(site.address, identity, retries=False) as channel:
        with pytest.raises(AegisError) as refused:
            await seen_by_server(channel)
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
