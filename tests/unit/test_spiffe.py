"""Whom a certificate names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.errors import Unauthenticated
from aegis.serving.doors import Peer, by_certificate
from aegis.spiffe import caller_of_certificate, caller_of_uri, spiffe_id


def certificate(*names: x509.GeneralName, common_name: str = "admin") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def refusal_of(pem: bytes) -> str:
    with pytest.raises(Unauthenticated) as refusal:
        caller_of_certificate(pem, "aegis.local")
    return refusal.value.reason


def test_subject_and_spiffe_id_are_the_same_name():
    """automation:autopilot is spiffe://…/automation/autopilot, both ways."""
    name = spiffe_id("automation:autopilot", "aegis.local")
    assert name == "spiffe://aegis.local/automation/autopilot"
    assert caller_of_uri(name, "aegis.local").subject == "automation:autopilot"


def test_certificate_with_one_spiffe_id_names_its_caller():
    """DNS names beside the one URI do no harm."""
    pem = certificate(uri("spiffe://aegis.local/user/admin"), x509.DNSName("localhost"))
    caller = caller_of_certificate(pem, "aegis.local")
    assert caller.subject == "user:admin"


def test_common_name_is_never_an_identity():
    """A certificate for CN=admin without a SPIFFE id is nobody."""
    assert refusal_of(certificate()) == "PEER_UNIDENTIFIED"


@pytest.mark.refuses("PEER_UNIDENTIFIED", step=1)
def test_two_uri_names_are_refused():
    """Whoever could choose between two names could be both."""
    two = certificate(uri("spiffe://aegis.local/user/a"), uri("spiffe://aegis.local/user/b"))
    assert refusal_of(two) == "PEER_UNIDENTIFIED"


@pytest.mark.parametrize(
    "name",
    [
        "spiffe://elsewhere.org/user/admin",
        "spiffe://aegis.local.evil.org/user/admin",
        "spiffe://aegis.local/user",
        "spiffe://aegis.local/user/admin/extra",
        "spiffe://aegis.local/User/admin",
        "https://aegis.local/user/admin",
    ],
)
def test_foreign_or_misshapen_spiffe_id_is_refused(name: str):
    """Only spiffe://TRUST-DOMAIN/KIND/NAME of our own trust domain counts."""
    assert refusal_of(certificate(uri(name))) == "PEER_UNIDENTIFIED"


def hostile(data: bytes) -> bytes:
    """A certificate whose alternative names are these bytes."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([]), datetime.now(UTC)
    names = x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, data)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(hours=1))
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return signed.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x82",
        # A URI that is not ASCII, and a name of a form that nobody uses (ediPartyName).
        b"\x30\x04\x86\x02\xff\xfe",
        b"\x30\x06\xa5\x04\xa1\x02\x0c\x00",
    ],
)
def test_alternative_names_that_cannot_be_read_are_nobody(data: bytes):
    """Whoever has such a certificate signed gets a refusal, not an internal error."""
    assert refusal_of(hostile(data)) == "PEER_UNIDENTIFIED"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_for_alternative_names_are_nobody(data: bytes):
    """None of them is a SPIFFE id of ours, and nothing else happens."""
    assert refusal_of(hostile(data)) == "PEER_UNIDENTIFIED"


async def test_missing_certificate_is_refused():
    """A connection without a client certificate is nobody."""
    with pytest.raises(Unauthenticated) as refusal:
        await by_certificate("aegis.local")("/any", Peer(dict, "", "127.0.0.1"))
    assert refusal.value.reason == "PEER_UNIDENTIFIED"
