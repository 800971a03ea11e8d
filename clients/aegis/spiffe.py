"""Names of programs and people, as SPIFFE ids in certificates and as policy subjects.

`spiffe://aegis.local/automation/autopilot` in a certificate is `automation:autopilot` in the
policy. The id is read from the URI subject alternative name, never from the common name
(SPIFFE X.509-SVID, section 2: exactly one URI SAN).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from aegis.errors import Unauthenticated

_PATH = re.compile(r"([a-z][a-z0-9-]{0,31})/([A-Za-z0-9][A-Za-z0-9._@-]{0,127})")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the other end: `subject` as policies write it, `spiffe_id` as it was proven."""

    subject: str
    spiffe_id: str


def spiffe_id(subject: str, trust_domain: str) -> str:
    """Returns the SPIFFE id of a policy subject, e.g. `user:admin`."""
    kind, _, name = subject.partition(":")
    if _PATH.fullmatch(f"{kind}/{name}") is None:
        raise ValueError(f"{subject!r} is not kind:name")
    return f"spiffe://{trust_domain}/{kind}/{name}"


def caller_of_uri(uri: str, trust_domain: str) -> Caller:
    """Returns the caller a SPIFFE id names.

    Raises `Unauthenticated` (PEER_UNIDENTIFIED) for a foreign trust domain or another form.
    """
    prefix = f"spiffe://{trust_domain}/"
    match = _PATH.fullmatch(uri.removeprefix(prefix)) if uri.startswith(prefix) else None
    if match is None:
        raise Unauthenticated(
            "PEER_UNIDENTIFIED",
            f"the certificate's SPIFFE id is not spiffe://{trust_domain}/KIND/NAME",
        )
    return Caller(subject=f"{match[1]}:{match[2]}", spiffe_id=uri)


def caller_of_auth_context(
    auth_context: Mapping[str, Iterable[bytes]], trust_domain: str
) -> Caller:
    """Returns the caller proven by a TLS handshake, from gRPC's `auth_context()`.

    Raises `Unauthenticated` (PEER_UNIDENTIFIED) unless the certificate carries exactly one URI
    SAN and that one is a SPIFFE id of our trust domain.
    """
    chain = tuple(auth_context.get("x509_pem_cert", ()))
    if len(chain) != 1:
        raise Unauthenticated("PEER_UNIDENTIFIED", "a client certificate is required")
    return caller_of_certificate(chain[0], trust_domain)


@lru_cache(maxsize=4096)
def caller_of_certificate(pem: bytes, trust_domain: str) -> Caller:
    """Returns the caller a certificate names; whether to trust the certificate is TLS' business.

    Remembered per certificate: parsing costs more than most decisions.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    if len(uris) != 1:
        raise Unauthenticated(
            "PEER_UNIDENTIFIED", f"the certificate has {len(uris)} URI names instead of one"
        )
    return caller_of_uri(uris[0], trust_domain)
