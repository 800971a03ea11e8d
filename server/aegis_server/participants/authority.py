"""The authority that signs for participants: one key, certificates for one kind of name.

It is not the authority of our own programs, and no program trusts it as a server: a certificate of
it opens nothing but the server's port, there only as a client, and only with the registry's word.
What a signing request asks for beside its key is not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aegis.errors import FailedPrecondition, FieldViolation, InvalidArgument
from aegis.spiffe import certificate_id, issuer_name, spiffe_id
from aegis_server.participants.store import StoredCertificate

_CURVE = ec.SECP256R1.name
LIFETIME = timedelta(days=30)
# Clocks of sites differ from ours.
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class SignedKey:
    """A public key whose holder signed for it, and its SHA-256."""

    public_key: ec.EllipticCurvePublicKey
    sha256: bytes

    @classmethod
    def of(cls, signing_request: bytes) -> SignedKey:
        """Reads a PKCS#10 request in DER; raises `InvalidArgument` (FIELD_INVALID)."""
        try:
            request = x509.load_der_x509_csr(signing_request)
            key = request.public_key()
            # The kind of key first: others may be costly to verify with.
            if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE:
                raise _invalid("expected a key on the curve P-256")
            signed = request.is_signature_valid
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
            raise _invalid("expected a certificate signing request (PKCS#10) in DER") from None
        if not signed:
            raise _invalid("the request is not signed by its own key")
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(key, hashlib.sha256(spki).digest())


class Authority:
    """Issues certificates of participants. Raises OSError or ValueError for files that cannot do.

    `certificate_file` has the certificate of `key_file` and, while an authority is being replaced,
    others that still count; none may go by the name of one of `others`, the roots of programs.
    """

    def __init__(self, certificate_file: Path, key_file: Path, *, others: Path) -> None:
        certificates = x509.load_pem_x509_certificates(certificate_file.read_bytes())
        try:
            key = load_pem_private_key(key_file.read_bytes(), password=None)
        except TypeError as error:
            raise ValueError(f"{key_file} is encrypted") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key_file} is not an elliptic-curve key")
        found = [each for each in certificates if each.public_key() == key.public_key()]
        if not found:
            raise ValueError(f"{key_file} is not the key of any certificate in {certificate_file}")
        self._certificate, self._key = found[0], key
        self.names = frozenset(issuer_name(each.subject) for each in certificates)
        programs = x509.load_pem_x509_certificates(others.read_bytes())
        if self.names & {issuer_name(each.subject) for each in programs}:
            raise ValueError(f"{certificate_file} and {others} have an authority of the same name")

    def issue(
        self, participant: str, key: SignedKey, *, trust_domain: str, now: datetime
    ) -> StoredCertificate:
        """Returns a certificate that names `participant:NAME` and nothing else.

        Raises `FailedPrecondition` (ENROLMENT_UNAVAILABLE) when the authority itself has ended.
        """
        ends_at = min(now + LIFETIME, self._certificate.not_valid_after_utc)
        if ends_at <= now:
            raise FailedPrecondition(
                "ENROLMENT_UNAVAILABLE", "the authority for participants has expired"
            )
        certificate = self._sign(participant, key.public_key, trust_domain, now - _SKEW, ends_at)
        return StoredCertificate(
            certificate_id=certificate_id(certificate),
            participant=participant,
            certificate_pem=certificate.public_bytes(Encoding.PEM),
            key_sha256=key.sha256,
            issued_at=now,
            ends_at=ends_at,
        )

    def _sign(
        self,
        participant: str,
        public_key: ec.EllipticCurvePublicKey,
        trust_domain: str,
        begins_at: datetime,
        ends_at: datetime,
    ) -> x509.Certificate:
        name = x509.UniformResourceIdentifier(spiffe_id(f"participant:{participant}", trust_domain))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, participant)]))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(begins_at, self._certificate.not_valid_before_utc))
            .not_valid_after(ends_at)
        )
        for extension, critical in _extensions(name, public_key, self._key.public_key()):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _extensions(
    name: x509.UniformResourceIdentifier,
    public_key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
) -> Sequence[tuple[x509.ExtensionType, bool]]:
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        (x509.SubjectAlternativeName([name]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), False),
    )


def _invalid(text: str) -> InvalidArgument:
    violation = FieldViolation("signing_request", text)
    return InvalidArgument("FIELD_INVALID", f"signing_request: {text}", violations=[violation])
