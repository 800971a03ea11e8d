"""The site's certificate: renewed while the old one still counts (see `aegis.sitekeys`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

import grpc
from cryptography import x509

from aegis import sitekeys
from aegis.channel import Identity
from aegis.errors import from_rpc_error
from aegis.local.keys import RENEW_AT
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
        wanted = sitekeys.signing_request(sitekeys.next_key(self._identity), self._name)
        response = await stub.RenewCertificate(
            participant_pb2.RenewCertificateRequest(signing_request=wanted), timeout=_CALL_SECONDS
        )
        fresh = sitekeys.take_over(self._identity, response.certificate, response.roots)
        log.info("the certificate was renewed and ends %s", fresh.not_valid_after_utc)

    def _read(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._identity.certificate.read_bytes())
