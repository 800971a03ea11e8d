"""How a site becomes a participant, and everything that is not one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.protobuf.duration_pb2 import Duration
from tests.doors import DoorsFor
from tests.integration.participants.house import BOUND, Calls, House, Site, reason

from aegis.channel import Identity, connect
from aegis.errors import from_rpc_error
from aegis.serving.auditlog import AuditLog
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.spiffe import Caller, caller_of_certificate
from aegis.v1 import identity_pb2, identity_pb2_grpc
from aegis.v1 import participant_pb2 as pb
from aegis_server.access import Access
from aegis_server.policy.decisions import Decisions

WHO = identity_pb2.WhoAmIRequest()


async def who(house: House, identity: Identity | str, server: int = 0) -> object:
    async with house.calling(identity, server) as call:
        return await call(call.identity.WhoAmI, WHO)


async def test_invited_site_enrols_and_holds_the_role(house: House, tmp_path: Path):
    """The certificate names the participant and nothing that its request asked for."""
    token = await house.invite()
    assert token.address == house.servers[0].port.token_address
    site = Site.at(tmp_path / "site")
    answer = await house.enrol(token.secret, site)
    assert (answer.participant, answer.trust_domain) == ("hospital-a", "aegis.local")
    assert list(answer.datasets) == ["breast-cancer"]
    assert answer.address == house.servers[0].port.address
    assert answer.roots == token.roots == (house.folder / "pki" / "ca.crt").read_bytes()
    certificate = x509.load_pem_x509_certificate(answer.certificate)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    life = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < life <= timedelta(days=30)
    assert caller_of_certificate(answer.certificate, "aegis.local").subject == (
        "participant:hospital-a"
    )
    me = await who(house, site.identity)
    assert (me.subject, list(me.roles)) == ("participant:hospital-a", ["role:participant"])


async def test_each_step_is_in_the_audit_log_without_the_secret(house: House):
    """Who invited, who enrolled with which certificate, and who revoked."""
    token = await house.invite()
    site = Site.at(house.folder / "site")
    await house.enrol(token.secret, site)
    async with house.calling("admin") as call:
        request = pb.RevokeParticipantRequest(name="hospital-a", reason="left the consortium")
        await call(call.participants.RevokeParticipant, request)
    records = await house.records()
    assert [(r.action, r.actor, r.resource, r.reason) for r in records] == [
        ("invite", "user:admin", "/training/participants/hospital-a", ""),
        ("enrol", "participant:hospital-a", "/training/participants/hospital-a", ""),
        ("revoke", "user:admin", "/training/participants/hospital-a", "left the consortium"),
    ]
    assert all(token.secret not in record.SerializeToString() for record in records)
    assert records[0].details["datasets"] == "breast-cancer=100"


async def test_same_key_gets_the_same_certificate_again(house: House, tmp_path: Path):
    """An answer that was lost costs nothing: not even a second record."""
    token, site = await house.invite(), Site.at(tmp_path / "site")
    first = await house.enrol(token.secret, site)
    again = await house.enrol(token.secret, site)
    assert again.certificate == first.certificate
    assert len(await house.records("enrol")) == 1


async def test_used_late_wrong_and_withdrawn_tokens_get_one_answer(house: House, tmp_path: Path):
    """Whoever guesses learns nothing from the difference, because there is none."""
    used, late, withdrawn, replaced = [
        await house.invite(name, lifetime=Duration(seconds=60)) for name in ("a", "b", "c", "d")
    ]
    await house.invite("d")
    await house.enrol(used.secret, Site.at(tmp_path / "first"))
    async with house.calling("admin") as call:
        request = pb.RevokeParticipantRequest(name="c", reason="by mistake")
        await call(call.participants.RevokeParticipant, request)
    answers = set()
    thief = Site.at(tmp_path / "thief")
    for token in (used, withdrawn, replaced):
        answers.add(await told(house, token.secret, thief))
    answers.add(await told(house, bytes(32), thief))
    house.clock.ahead = timedelta(seconds=61)
    answers.add(await told(house, late.secret, thief))
    # Whoever enrolled in time has a certificate; the same key gets no other one later.
    answers.add(await told(house, used.secret, thief))
    assert answers == {("INVITATION_INVALID", "this invitation is unknown, used or too old")}
    assert not thief.identity.certificate.exists()
    refused = [record.outcome for record in await house.records("enrol")]
    assert refused.count("refused") == 6


async def told(house: House, secret: bytes, site: Site) -> tuple[str, str]:
    async with house.knocking() as call:
        request = pb.EnrolRequest(secret=secret, signing_request=site.request())
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.participants.Enrol(request, timeout=10)
    error = from_rpc_error(refusal.value)
    return error.reason, error.message


def damaged(site: Site) -> bytes:
    request = bytearray(site.request())
    request[-1] ^= 1
    return bytes(request)


def with_rsa(site: Site) -> bytes:
    return site.request(rsa.generate_private_key(65537, 2048))


def on_another_curve(site: Site) -> bytes:
    return site.request(ec.generate_private_key(ec.SECP384R1()))


def nothing(site: Site) -> bytes:
    return b"hello"


@pytest.mark.parametrize("make", [damaged, with_rsa, on_another_curve, nothing])
async def test_request_not_signed_by_a_good_key_is_refused(house: House, make, tmp_path: Path):
    """And the invitation can still be used."""
    token, site = await house.invite(), Site.at(tmp_path / "site")
    async with house.knocking() as call:
        request = pb.EnrolRequest(secret=token.secret, signing_request=make(site))
        assert await reason(call(call.participants.Enrol, request)) == "FIELD_INVALID"
    await house.enrol(token.secret, site)


async def test_guessing_is_slowed_down(house: House, tmp_path: Path):
    """From one network, whatever is guessed."""
    site = Site.at(tmp_path / "site")
    found = set()
    async with house.knocking() as call:
        for number in range(70):
            secret = number.to_bytes(32, "big")
            request = pb.EnrolRequest(secret=secret, signing_request=site.request())
            found.add(await reason(call(call.participants.Enrol, request)))
            if "RATE_LIMITED" in found:
                break
    assert found == {"INVITATION_INVALID", "RATE_LIMITED"}


@pytest.mark.parametrize("authority", ["participants-ca", "ca"])
async def test_signature_alone_is_no_enrolment(house: House, authority: str):
    """Neither of a name nobody invited, nor beside the certificate that a participant has."""
    await house.joined()
    for name in ("hospital-a", "hospital-z"):
        forged = Site.at(house.folder / "forged" / name)
        house.signed(forged, f"participant:{name}", by=authority)
        assert await reason(who(house, forged.identity)) == "PARTICIPANT_UNKNOWN"


@pytest.mark.parametrize("subject", ["automation:autopilot", "user:admin", "service:coordinator"])
async def test_authority_of_participants_speaks_for_nobody_else(house: House, subject: str):
    """Whoever has its key is not yet a program or a person."""
    forged = Site.at(house.folder / "forged")
    house.signed(forged, subject)
    assert await reason(who(house, forged.identity)) == "PEER_UNIDENTIFIED"


async def test_certificate_of_a_participant_opens_no_other_port(house: House):
    """Executor and witness do not know the authority of participants: the handshake fails."""
    site = await house.joined()
    folder = house.folder / "pki"
    executor = TlsFiles(folder / "executor.crt", folder / "executor.key", folder / "ca.crt")
    doors = DoorsFor(Caller("user:nobody", ""), admit=Access(*decisions_of(house)).admit)
    port = Port(doors=doors, tls=executor, services=())
    address = await port.open("127.0.0.1:0")
    try:
        for identity, code in (
            (Identity.of("admin", house.folder), grpc.StatusCode.UNIMPLEMENTED),
            (site.identity, grpc.StatusCode.UNAVAILABLE),
        ):
            async with connect(address, identity, retries=False) as channel:
                stub = identity_pb2_grpc.IdentityServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refusal:
                    await stub.WhoAmI(WHO, timeout=5)
                assert refusal.value.code() == code
    finally:
        await port.close(0)


def decisions_of(house: House) -> tuple[Decisions, AuditLog]:
    base = house.servers[0].base
    return base.decisions, base.audit


async def test_revocation_ends_the_open_stream_and_every_later_call(house: House):
    """At once, with the reason."""
    site = await house.joined()
    async with house.calling(site.identity) as call:
        stream = call.participants.Attend()
        await stream.write(beat(1))
        assert (await stream.read()).echo.number == 1
        async with house.calling("admin") as admin:
            request = pb.RevokeParticipantRequest(name="hospital-a", reason="stolen")
            revoked = await admin(admin.participants.RevokeParticipant, request)
        assert revoked.participant.state == pb.Participant.STATE_REVOKED
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async with asyncio.timeout(2):
                await stream.read()
        assert from_rpc_error(ended.value).reason == "PARTICIPANT_REVOKED"
        assert await reason(call(call.identity.WhoAmI, WHO)) == "PARTICIPANT_REVOKED"


def beat(number: int) -> pb.AttendRequest:
    return pb.AttendRequest(heartbeat=pb.AttendRequest.Heartbeat(number=number))


async def test_two_servers_know_the_same_participants(house: House):
    """Enrolled at one and revoked at it, both count at the other."""
    async with house.serving():
        site = await house.joined()
        me = await who(house, site.identity, 1)
        assert list(me.roles) == ["role:participant"]
        async with house.calling(site.identity, 1) as call:
            stream = call.participants.Attend()
            await stream.write(beat(1))
            await stream.read()
            async with house.calling("admin") as admin:
                request = pb.RevokeParticipantRequest(name="hospital-a", reason="stolen")
                await admin(admin.participants.RevokeParticipant, request)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                async with asyncio.timeout(5):
                    await stream.read()
            assert from_rpc_error(ended.value).reason == "PARTICIPANT_REVOKED"


async def test_participants_outlive_a_restart(empty_house: House):
    """The certificate counts at the next server as it did at the last."""
    async with empty_house.serving():
        site = await empty_house.joined()
    async with empty_house.serving():
        assert (await who(empty_house, site.identity)).subject == "participant:hospital-a"


async def test_name_stands_for_one_participant_for_ever(house: House):
    """Enrolled or revoked, it is not invited again."""
    await house.joined()
    assert await reason(house.invite()) == "STATE_CONFLICT"
    async with house.calling("admin") as call:
        request = pb.RevokeParticipantRequest(name="hospital-a", reason="left")
        first = await call(call.participants.RevokeParticipant, request)
        again = await call(call.participants.RevokeParticipant, request)
    assert again.participant.revoke_time == first.participant.revoke_time
    assert await reason(house.invite()) == "STATE_CONFLICT"


@pytest.mark.parametrize(
    "datasets",
    [
        [BOUND, BOUND],
        [pb.InviteParticipantRequest.Bound(dataset="nobody-knows", rows_max=1)],
        [],
    ],
    ids=["twice", "unknown", "none"],
)
async def test_invitation_is_for_data_sets_there_are(house: House, datasets):
    """Each once."""
    assert await reason(house.invite(datasets=datasets)) == "FIELD_INVALID"


async def test_server_without_authority_invites_and_enrols_nobody(
    empty_house: House, tmp_path: Path
):
    """And says so, instead of making tokens that nobody can redeem."""
    none = {"participants_certificate": None, "participants_key": None}
    async with empty_house.serving(**none):
        assert await reason(empty_house.invite()) == "ENROLMENT_UNAVAILABLE"
        enrolling = empty_house.enrol(bytes(32), Site.at(tmp_path / "site"))
        assert await reason(enrolling) == "ENROLMENT_UNAVAILABLE"


@pytest.mark.parametrize(
    "change",
    [{"token_listen": None}, {"listen": "0.0.0.0:0"}, {"token_listen": "0.0.0.0:0"}],
    ids=["no-token-port", "everywhere", "tokens-everywhere"],
)
async def test_server_that_sites_cannot_find_invites_nobody(empty_house: House, change):
    """A token with no address, or with one that means every machine, is of no use."""
    async with empty_house.serving(**change) as server:
        _, port = server.port.address.rsplit(":", 1)
        async with connect(
            f"127.0.0.1:{port}", Identity.of("admin", empty_house.folder)
        ) as channel:
            call = Calls(channel)
            request = pb.InviteParticipantRequest(name="hospital-a", datasets=[BOUND])
            inviting = call(call.participants.InviteParticipant, request)
            assert await reason(inviting) == "ENROLMENT_UNAVAILABLE"


async def test_advertised_addresses_are_what_sites_are_told(empty_house: House, tmp_path: Path):
    """In the token and in the answer to it."""
    told = {"advertise": "aegis.example.org:443", "token_advertise": "join.example.org:443"}
    async with empty_house.serving(**told):
        token = await empty_house.invite()
        answer = await empty_house.enrol(token.secret, Site.at(tmp_path / "site"))
    assert token.address == "join.example.org:443"
    assert answer.address == "aegis.example.org:443"


async def test_unknown_participant_is_not_found(house: House):
    """To read or to revoke."""
    async with house.calling("admin") as call:
        get = call(call.participants.GetParticipant, pb.GetParticipantRequest(name="nobody"))
        revoke = call(
            call.participants.RevokeParticipant,
            pb.RevokeParticipantRequest(name="nobody", reason="x"),
        )
        assert {await reason(get), await reason(revoke)} == {"RESOURCE_NOT_FOUND"}


async def test_participants_are_listed_by_name_in_pages(house: House):
    """With their states, and without a hole."""
    for name in ("c", "a", "b"):
        await house.invite(name)
    async with house.calling("admin") as call:
        listed, token = [], ""
        while not listed or token:
            request = pb.ListParticipantsRequest(page_size=2, page_token=token)
            page = await call(call.participants.ListParticipants, request)
            listed += page.participants
            token = page.next_page_token
    assert [each.name for each in listed] == ["a", "b", "c"]
    assert {each.state for each in listed} == {pb.Participant.STATE_INVITED}
    assert len({each.node_id for each in listed}) == 3


async def test_participant_may_not_look_at_other_participants(house: House):
    """Nor invite or revoke anybody."""
    site = await house.joined()
    async with house.calling(site.identity) as call:
        calls = (
            call(call.participants.ListParticipants, pb.ListParticipantsRequest()),
            call(
                call.participants.RevokeParticipant,
                pb.RevokeParticipantRequest(name="hospital-a", reason="x"),
            ),
            call(
                call.participants.InviteParticipant,
                pb.InviteParticipantRequest(name="hospital-b", datasets=[BOUND]),
            ),
        )
        assert {await reason(each) for each in calls} == {"POLICY_DENIED"}


async def test_renewal_gives_the_next_certificate_and_the_old_one_counts_on(house: House):
    """Another key gets another certificate; the same key, soon after, the same."""
    site = await house.joined()
    other = Site.at(house.folder / "sites" / "next")
    async with house.calling(site.identity) as call:
        same = await call(
            call.participants.RenewCertificate,
            pb.RenewCertificateRequest(signing_request=site.request()),
        )
        assert same.certificate == site.identity.certificate.read_bytes()
        fresh = await call(
            call.participants.RenewCertificate,
            pb.RenewCertificateRequest(signing_request=other.request()),
        )
    other.keep(fresh.certificate, fresh.roots)
    assert (await who(house, other.identity)).subject == "participant:hospital-a"
    assert (await who(house, site.identity)).subject == "participant:hospital-a"


async def test_aged_certificate_is_renewed_for_the_same_key(house: House):
    """After a third of its life."""
    site = await house.joined()
    house.clock.ahead = timedelta(days=11)
    request = pb.RenewCertificateRequest(signing_request=site.request())
    async with house.calling(site.identity) as call:
        fresh = await call(call.participants.RenewCertificate, request)
    assert fresh.certificate != site.identity.certificate.read_bytes()


async def test_site_that_renews_without_end_is_stopped(house: House):
    """Sixteen certificates at the same time are enough for anybody."""
    site = await house.joined()
    async with house.calling(site.identity) as call:
        found = []
        for _ in range(16):
            key = ec.generate_private_key(ec.SECP256R1())
            request = pb.RenewCertificateRequest(signing_request=site.request(key))
            try:
                await call(call.participants.RenewCertificate, request)
            except Exception as error:
                found.append(error.reason)
    assert found == ["STATE_CONFLICT"]


async def test_who_is_no_participant_renews_declares_and_attends_nothing(house: House):
    """The administrator may call everything, and is still nobody's site."""
    site = Site.at(house.folder / "site")
    async with house.calling("admin") as call:
        renew = pb.RenewCertificateRequest(signing_request=site.request())
        declare = pb.DeclareHoldingRequest(dataset="breast-cancer", schema_sha256=bytes(32), rows=1)
        assert await reason(call(call.participants.RenewCertificate, renew)) == (
            "PARTICIPANT_UNKNOWN"
        )
        assert await reason(call(call.participants.DeclareHolding, declare)) == (
            "PARTICIPANT_UNKNOWN"
        )
        stream = call.participants.Attend()
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stream.read()
        assert from_rpc_error(refusal.value).reason == "PARTICIPANT_UNKNOWN"
