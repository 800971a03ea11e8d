"""The site's certificate: renewed while the old one still counts, and replaced as a whole.

The next key is on the disk before anybody is asked to sign it, and takes its place after the
certificate has; a site that dies in between finds the pair together at its next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from aegis.channel import Identity
from aegis.errors import from_rpc_error
from aegis.local.keys import RENEW_AT, pem, write_private
from aegis.v1 import participant_pb2, participant_pb2_grpc
from aegis_participant.status import Status

log = logging.getLogger(__name__)

_LOOK_SECONDS = 600.0
_CALL_SECONDS = 30.0


class Certificate:
    """The pair in DIR, and its renewal."""

    def __init__(self, identity: Identity, name: str, *, clock: Callable[[], datetime]) -> None:
        self._identity = identity
        self._name = name
        self._clock = clock
        self._next = _next(identity)

    @property
    def ends(self) -> datetime:
        """Returns when it stops counting."""
        return self._read().not_valid_after_utc

    @property
    def ended(self) -> bool:
        """Says whether nobody will accept it any more."""
        return self._clock() >= self.ends

    @property
    def due(self) -> bool:
        """Says whether less than a third of its life is left."""
        certificate = self._read()
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return self._clock() >= ends - (ends - begins) * RENEW_AT

    async def keep(self, stub: participant_pb2_grpc.ParticipantServiceStub, status: Status) -> None:
        """Renews it in time, until cancelled."""
        while True:
            if self.due and not self.ended:
                try:
                    await self.renew(stub)
                    status.warn("certificate", None)
                    status.set(certificate_ends=self.ends.isoformat(timespec="seconds"))
                except (grpc.RpcError, OSError, ValueError) as error:
                    why = from_rpc_error(error) if isinstance(error, grpc.RpcError) else error
                    status.warn(
                        "certificate",
                        f"the certificate ends {self.ends:%Y-%m-%d} and was not renewed: {why}",
                    )
            await asyncio.sleep(_LOOK_SECONDS)

    async def renew(self, stub: participant_pb2_grpc.ParticipantServiceStub) -> None:
        """Gets the next certificate, for a new key; raises grpc.RpcError, OSError, ValueError."""
        # Asked twice with the same key, the server gives the same certificate.
        key = _key(self._next)
        if key is None:
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(self._next, pem(key), [])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject)
        response = await stub.RenewCertificate(
            participant_pb2.RenewCertificateRequest(
                signing_request=request.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
            ),
            timeout=_CALL_SECONDS,
        )
        certificate = x509.load_pem_x509_certificate(response.certificate)
        if certificate.public_key() != key.public_key():
            raise ValueError("the server's certificate is for another key")
        if response.roots:
            x509.load_pem_x509_certificates(response.roots)
            write_private(self._identity.roots, response.roots, [])
        write_private(self._identity.certificate, response.certificate, [])
        self._next.replace(self._identity.key)
        log.info("the certificate was renewed and ends %s", certificate.not_valid_after_utc)

    def _read(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._identity.certificate.read_bytes())


def mend(identity: Identity) -> None:
    """Finishes a renewal that was cut off between the certificate and its key; raises OSError."""
    key = _key(_next(identity))
    try:
        certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    except (FileNotFoundError, ValueError):
        return  # whoever uses it says so
    if key is not None and key.public_key() == certificate.public_key():
        _next(identity).replace(identity.key)


def _next(identity: Identity) -> Path:
    return identity.key.with_name(f"{identity.key.name}.next")


def _key(file: Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None
