"""HTTP over mutual TLS that tells the application whose certificate it was.

uvicorn asks for certificates but keeps them to itself. What is read here comes from the TLS session
and not from a header, so nobody can claim it.
"""

from __future__ import annotations

import asyncio
import ssl

from aegis.errors import Unauthenticated
from aegis.spiffe import Caller, caller_of_certificate
from aegis_server.training.superlink.internals import H11Protocol

PEER = "aegis_participant"
KIND = "participant:"


def participant_of(der: bytes | None, trust_domain: str) -> Caller | None:
    """Returns the participant a certificate names, or None where it names none."""
    if not der:
        return None
    pem = ssl.DER_cert_to_PEM_cert(der).encode()
    try:
        caller = caller_of_certificate(pem, trust_domain)
    except (Unauthenticated, ValueError):
        return None
    return caller if caller.subject.startswith(KIND) else None


def protocol_for(trust_domain: str) -> type[H11Protocol]:
    """Returns a protocol that puts the participant into each request's state."""

    class PeerProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            session = transport.get_extra_info("ssl_object")
            der = session.getpeercert(binary_form=True) if session is not None else None
            # The state that came with us is the server's: another connection has another peer.
            self.app_state = {**self.app_state, PEER: participant_of(der, trust_domain)}

    return PeerProtocol


def server_context(
    *, certificate: str, key: str, roots: str, revoked: str | None
) -> ssl.SSLContext:
    """Returns TLS 1.3 for a server whose every client shows a certificate of `roots`.

    `revoked` is the file of a revocation list; with one, a client needs to be on the right side of
    a list of its issuer. Raises OSError or ssl.SSLError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(roots)
    if revoked is not None:
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    context.verify_mode = ssl.CERT_REQUIRED
    # The only protocol behind it is HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session would outlive the list its certificate was checked against.
    context.num_tickets = 0
    return context
