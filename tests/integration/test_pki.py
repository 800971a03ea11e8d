"""The development authority: what its certificates say, and when they are made anew."""

import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from aegis.errors import Unauthenticated
from aegis.local import pki
from aegis.spiffe import caller_of_certificate
from aegis.trust import (
    ACTION_REQUEST,
    APPROVAL_ATTESTATION,
    AUDIT_CHECKPOINT,
    AUDIT_WITNESS,
    POLICY_DECISION,
    REVIEW_EVIDENCE,
    TrustBundle,
    load_private_key,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pki folder, made at NOW."""
    pki.ensure(tmp_path / "pki", now=NOW)
    return tmp_path / "pki"


def certificate(folder: Path, name: str) -> x509.Certificate:
    """Reads a certificate."""
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


@pytest.mark.parametrize(("name", "subject"), pki.PROGRAMS.items())
def test_certificate_names_its_holder_by_exactly_one_spiffe_id(
    folder: Path, name: str, subject: str
) -> None:
    """The one URI SAN is the SPIFFE id; localhost is there for host name checks."""
    names = (
        certificate(folder, name)
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert len(names.get_values_for_type(x509.UniformResourceIdentifier)) == 1
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    pem = (folder / f"{name}.crt").read_bytes()
    assert caller_of_certificate(pem, "aegis.local").subject == subject


def test_certificate_serves_both_ends_and_signs_nothing(folder: Path) -> None:
    """Programs are client and server; only the authority may issue, and only leaves."""
    leaf = certificate(folder, "server").extensions
    purposes = leaf.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert leaf.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert leaf.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False
    authority = certificate(folder, "ca").extensions.get_extension_for_class(x509.BasicConstraints)
    assert (authority.value.ca, authority.value.path_length) == (True, 0)


def test_nobody_else_can_read_anything(folder: Path) -> None:
    """Folder 0700, every file 0600, no half-written file left."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(modes, 0o600)
    assert not [name for name in modes if name.endswith(".new")]
    assert len((folder / "cache.key").read_bytes()) == 32


def test_second_run_changes_nothing(folder: Path) -> None:
    """What is there and lasts is left alone."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert pki.ensure(folder, now=NOW + timedelta(days=10)) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_certificate_about_to_expire_is_renewed(folder: Path) -> None:
    """With less than a third of its life left a certificate is made anew, by the same authority."""
    later = NOW + timedelta(days=21)
    written = pki.ensure(folder, now=later)
    assert set(written) == {f"{name}.{kind}" for name in pki.PROGRAMS for kind in ("crt", "key")}
    renewed = certificate(folder, "server")
    assert renewed.not_valid_after_utc > later + timedelta(days=29)
    renewed.verify_directly_issued_by(certificate(folder, "ca"))


def test_new_authority_reissues_every_certificate(folder: Path) -> None:
    """A certificate of another authority is worth nothing."""
    (folder / "ca.key").unlink()
    pki.ensure(folder, now=NOW)
    for name in pki.PROGRAMS:
        certificate(folder, name).verify_directly_issued_by(certificate(folder, "ca"))


@pytest.mark.parametrize("damage", ["missing", "garbage", "another's"])
def test_broken_pair_is_replaced(folder: Path, damage: str) -> None:
    """A killed renewal leaves a key without its certificate; the next start mends that."""
    key = folder / "executor.key"
    if damage == "missing":
        key.unlink()
    else:
        key.write_bytes(b"?" if damage == "garbage" else (folder / "server.key").read_bytes())
    assert pki.ensure(folder, now=NOW) == ["executor.key", "executor.crt"]


def test_changed_trust_domain_renames_everybody(folder: Path) -> None:
    """A certificate with the wrong name is as good as none."""
    pki.ensure(folder, now=NOW, trust_domain="example.org")
    pem = (folder / "admin.crt").read_bytes()
    assert caller_of_certificate(pem, "example.org").subject == "user:admin"
    with pytest.raises(Unauthenticated):
        caller_of_certificate(pem, "aegis.local")


def test_trust_bundle_lists_each_signing_key_for_its_one_use(folder: Path) -> None:
    """The server signs decisions, the automation signs requests, and neither the other's."""
    keys = TrustBundle.load(folder / "trust.json").keys
    assert [(key.usage, key.owner) for key in keys] == [
        (POLICY_DECISION, "server:aegis"),
        (APPROVAL_ATTESTATION, "server:aegis"),
        (ACTION_REQUEST, "automation:autopilot"),
        (AUDIT_CHECKPOINT, "log:aegis-server"),
        (AUDIT_CHECKPOINT, "log:aegis-executor"),
        (AUDIT_WITNESS, "witness:local"),
        (REVIEW_EVIDENCE, "server:aegis"),
    ]
    decision = load_private_key(folder / "decision.key").public_key()
    assert keys[0].public_key == decision
    assert all(key.usable(NOW) for key in keys)


def test_trust_bundle_keeps_what_people_added_and_revoked(folder: Path) -> None:
    """A start extends our own keys and touches no other entry; revoked stays revoked."""
    path = folder / "trust.json"
    document = json.loads(path.read_text())
    public = Ed25519PrivateKey.generate().public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    added = {
        **document["keys"][1],
        "owner": "automation:mine",
        "public_key": base64.b64encode(spki).decode(),
    }
    document["keys"][1]["revoked_at"] = NOW.isoformat()
    document["keys"].append(added)
    path.write_text(json.dumps(document))
    later = NOW + timedelta(days=300)
    assert "trust.json" in pki.ensure(folder, now=later)
    decision, request, *_, mine = TrustBundle.load(path).keys
    assert decision.usable(later + timedelta(days=300))
    assert request.revoked_at == NOW
    assert not request.usable(later)
    assert mine.owner == "automation:mine"
    assert mine.not_after == NOW + timedelta(days=365)
