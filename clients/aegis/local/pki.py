"""A development certificate authority, and the keys that sign, for one home.

`ensure` may run at every start: it makes what is missing, renews what is about to end, and leaves
the rest alone. A certificate names its holder by exactly one SPIFFE id in the URI SAN; the common
name is only for people. Private keys are readable by nobody else, the authority's included: who
reads `ca.key` can be anybody, which is why this is for one machine.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aegis.local.keys import (
    RENEW_AT,
    SKEW,
    ensure_signing_keys,
    ensure_token_keys,
    pem,
    write_private,
)
from aegis.local.sockets import private_directory
from aegis.spiffe import spiffe_id

# File name -> policy subject.
PROGRAMS: Mapping[str, str] = {
    "witness": "witness:local",
    "server": "server:aegis",
    "executor": "executor:local",
    "coordinator": "service:coordinator",
    "admin": "user:admin",
    "autopilot": "automation:autopilot",
}

_AUTHORITY_DAYS = 365
_PROGRAM_DAYS = 30


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure(
    folder: Path, *, trust_domain: str = "aegis.local", now: datetime | None = None
) -> list[str]:
    """Makes or renews everything in `folder`; returns the names of the files it wrote."""
    now = now or datetime.now(UTC)
    private_directory(folder)
    written: list[str] = []
    authority = _ensure_authority(folder, now, written)
    for name, subject in PROGRAMS.items():
        _ensure_pair(folder, name, spiffe_id(subject, trust_domain), authority, now, written)
    ensure_signing_keys(folder, now, written)
    ensure_token_keys(folder, written)
    if not (folder / "cache.key").exists():
        write_private(folder / "cache.key", secrets.token_bytes(32), written)
    return written


def _ensure_authority(folder: Path, now: datetime, written: list[str]) -> _Authority:
    certificate, key = _read_pair(folder, "ca")
    if certificate is not None and key is not None and _lasts(certificate, now):
        return _Authority(certificate, key)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Aegis development authority")])
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(folder, "ca", certificate, key, written)
    return _Authority(certificate, key)


def _ensure_pair(
    folder: Path, name: str, uri: str, authority: _Authority, now: datetime, written: list[str]
) -> None:
    certificate, key = _read_pair(folder, name)
    if (
        certificate is not None
        and key is not None
        and _lasts(certificate, now)
        and _issued_by(certificate, authority)
        and _uris(certificate) == [uri]
    ):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(uri),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
    )
    issuer = authority.certificate.subject
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = (
        _builder(subject, issuer, key.public_key(), now, _PROGRAM_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(authority_id, critical=False)
        .add_extension(names, critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    _write_pair(folder, name, certificate, key, written)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _lasts(certificate: x509.Certificate, now: datetime) -> bool:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begins <= now < ends - (ends - begins) * RENEW_AT


def _issued_by(certificate: x509.Certificate, authority: _Authority) -> bool:
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def _read_pair(
    folder: Path, name: str
) -> tuple[x509.Certificate | None, ec.EllipticCurvePrivateKey | None]:
    """Returns a pair that belongs together, or nothing: a killed renewal leaves halves."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
        key = load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None, None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None, None
    return (certificate, key) if certificate.public_key() == key.public_key() else (None, None)


def _write_pair(
    folder: Path,
    name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    written: list[str],
) -> None:
    write_private(folder / f"{name}.key", pem(key), written)
    write_private(folder / f"{name}.crt", certificate.public_bytes(Encoding.PEM), written)
