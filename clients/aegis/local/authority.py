"""A small certificate authority in a folder, for development and small sites.

`ca.crt` holds the roots that peers must chain to: the authority's own certificate first and, while
it is being replaced, the one before. `ca.key` signs; who reads it can be anybody, so a site keeps
the folder off the machines that serve. `ca.crl` lists what was revoked. A certificate names its
holder by exactly one SPIFFE id in the URI SAN; the common name is only for people.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aegis.local.keys import RENEW_AT, SKEW, pem, write_private

AUTHORITY_DAYS = 365
CERTIFICATE_DAYS = 30
# A list is renewed with every revocation and by every start of `aegis up` when it gets old.
_LIST_DAYS = 90
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def lasts(self, now: datetime) -> bool:
        """Says whether more than a third of the certificate's life is left."""
        begins = self.certificate.not_valid_before_utc
        ends = self.certificate.not_valid_after_utc
        return begins <= now < ends - (ends - begins) * RENEW_AT


@dataclass(frozen=True, slots=True)
class Names:
    """Who a certificate is for: a SPIFFE id, and the names and addresses it may be reached by."""

    spiffe_id: str
    dns: Sequence[str] = ()
    addresses: Sequence[str] = ()

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Names:
        """Reads the names of a certificate; raises ValueError unless it has one SPIFFE id."""
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = found.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            raise ValueError(f"the certificate has {len(uris)} URI names instead of one")
        addresses = [str(each) for each in found.get_values_for_type(x509.IPAddress)]
        return cls(uris[0], found.get_values_for_type(x509.DNSName), addresses)


class Authority:
    """Issues and revokes; every change is on the disk when a method returns."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.folder = folder
        self.certificate = pair.certificate
        self._key = pair.key

    @classmethod
    def open(cls, folder: Path) -> Authority | None:
        """Returns the authority in a folder, or None when there is none that can sign."""
        pair = read_pair(folder, "ca")
        return None if pair is None else cls(folder, pair)

    @classmethod
    def create(
        cls, folder: Path, now: datetime, written: list[str], *, days: int = AUTHORITY_DAYS
    ) -> Authority:
        """Makes an authority in place of whatever was there."""
        created = cls(folder, _new_authority(now, days))
        write_private(folder / "ca.key", pem(created._key), written)
        created._write_roots([], written)
        return created

    def succeed(
        self, now: datetime, written: list[str], *, days: int = AUTHORITY_DAYS
    ) -> Authority:
        """Makes the next authority; peers that follow `ca.crt` go on trusting this one, too."""
        successor = Authority(self.folder, _new_authority(now, days))
        own, _ = self._lists()
        before = b"" if own is None else own.public_bytes(Encoding.PEM)
        # Peers read at any moment: roots before what only the new one vouches for.
        successor._write_roots([self.certificate], written)
        write_private(self.folder / "ca.key", pem(successor._key), written)
        successor.write_list([], now, written, before=before)
        return successor

    def retire_predecessors(self, now: datetime, written: list[str]) -> None:
        """Leaves this authority as the only root: what others issued counts no more."""
        revoked = self.revoked()
        # The roots first: one that still counts without its list would bring back who is on it.
        self._write_roots([], written)
        self.write_list(revoked, now, written)

    def _write_roots(self, others: Sequence[x509.Certificate], written: list[str]) -> None:
        roots = (each.public_bytes(Encoding.PEM) for each in (self.certificate, *others))
        write_private(self.folder / "ca.crt", b"".join(roots), written)

    def issue(
        self, name: str, names: Names, now: datetime, written: list[str], *, days: int
    ) -> x509.Certificate:
        """Writes NAME.key and NAME.crt, a new pair for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternative = x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier(names.spiffe_id),
                *map(x509.DNSName, names.dns),
                *(x509.IPAddress(ipaddress.ip_address(each)) for each in names.addresses),
            ]
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = (
            _builder(subject, self.certificate.subject, key.public_key(), now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(alternative, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        write_private(self.folder / f"{name}.key", pem(key), written)
        write_private(self.folder / f"{name}.crt", certificate.public_bytes(Encoding.PEM), written)
        return certificate

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Says whether a certificate is of this authority."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def revoked(self) -> Sequence[x509.RevokedCertificate]:
        """Returns what this authority has revoked."""
        own, _ = self._lists()
        return [] if own is None else list(own)

    def revoke(self, serial_number: int, now: datetime, written: list[str]) -> None:
        """Revokes a certificate of this authority; one that was revoked stays so."""
        own, others = self._lists()
        revoked = [] if own is None else list(own)
        if not any(each.serial_number == serial_number for each in revoked):
            builder = x509.RevokedCertificateBuilder().serial_number(serial_number)
            revoked.append(builder.revocation_date(now).build())
        self.write_list(revoked, now, written, before=others)

    def ensure_list(self, now: datetime, written: list[str]) -> None:
        """Writes a list where there is none of ours, or where it is getting old."""
        own, others = self._lists()
        if own is None or own.next_update_utc is None:
            self.write_list([], now, written, before=others)
        elif own.next_update_utc - now < timedelta(days=_LIST_DAYS) * RENEW_AT:
            self.write_list(list(own), now, written, before=others)

    def write_list(
        self,
        revoked: Sequence[x509.RevokedCertificate],
        now: datetime,
        written: list[str],
        *,
        before: bytes = b"",
    ) -> None:
        """Writes our list, and those of earlier authorities after it."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - SKEW)
            .next_update(now + timedelta(days=_LIST_DAYS))
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(each)
        own = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        write_private(self.folder / "ca.crl", own + before, written)

    def _lists(self) -> tuple[x509.CertificateRevocationList | None, bytes]:
        """Returns our list of the file, if there is one, and those of roots that still count."""
        try:
            data = (self.folder / "ca.crl").read_bytes()
            roots = x509.load_pem_x509_certificates((self.folder / "ca.crt").read_bytes())
        except (FileNotFoundError, ValueError):
            return None, b""
        own, others = None, b""
        for part in _LIST.findall(data):
            try:
                listed = x509.load_pem_x509_crl(part)
            except ValueError:
                continue
            if own is None and _has_signed(self.certificate, listed):
                own = listed
            elif any(_has_signed(root, listed) for root in roots):
                others += listed.public_bytes(Encoding.PEM)
        return own, others


def _has_signed(authority: x509.Certificate, listed: x509.CertificateRevocationList) -> bool:
    key = authority.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and listed.is_signature_valid(key)


def ensure_pair(folder: Path, name: str, now: datetime, written: list[str]) -> None:
    """Makes NAME.key and NAME.crt, an authority beside the folder's own that lists nothing.

    One that is getting old is followed by the next; its certificate counts on beside that.
    """
    before = read_pair(folder, name)
    if before is not None and before.lasts(now):
        return
    fresh = _new_authority(now, AUTHORITY_DAYS)
    kept = [before.certificate] if before is not None else []
    roots = (each.public_bytes(Encoding.PEM) for each in (fresh.certificate, *kept))
    # Peers read at any moment: the root before what only it vouches for.
    write_private(folder / f"{name}.crt", b"".join(roots), written)
    write_private(folder / f"{name}.key", pem(fresh.key), written)


def _new_authority(now: datetime, days: int) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "Aegis authority"),
            # Two authorities of one folder must not go by one name: lists name their issuer.
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{x509.random_serial_number():x}"),
        ]
    )
    certificate = (
        _builder(name, name, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def read_pair(folder: Path, name: str) -> Pair | None:
    """Returns a pair that belongs together, or nothing: a killed renewal leaves halves."""
    try:
        found = x509.load_pem_x509_certificates((folder / f"{name}.crt").read_bytes())
        key = load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return None
    # A killed succession leaves the root of the next authority before the one that has a key.
    public = key.public_key()
    return next((Pair(each, key) for each in found if each.public_key() == public), None)


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
