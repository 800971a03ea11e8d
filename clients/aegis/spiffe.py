"""Names of programs and people, as SPIFFE ids in certificates and as policy subjects.

`spiffe://aegis.local/automation/autopilot` in a certificate is `automation:autopilot` in the
policy. The id is read from the URI subject alternative name, never from the common name
(SPIFFE X.509-SVID, section 2: exactly one URI SAN).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from cryptography import x509

from aegis.errors import Unauthenticated

_PATH = re.compile(r"([a-z][a-z0-9-]{0,31})/([A-Za-z0-9][A-Za-z0-9._@-]{0,127})")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the other end: `subject` as policies write it, and how it was proven.

    `spiffe_id` is the certificate's, empty for who proved itself by a token; `method` is
    "certificate", "session", "api-key", "oidc" or "anonymous"; `credential` names the session, the
    API key or the certificate (`certificate_id`), so that it can be revoked under open calls;
    `scopes`, where there are any, bound what the policy allows; `address` is the peer's host.
    """

    subject: str
    spiffe_id: str
    method: str = "certificate"
    credential: str = ""
    scopes: tuple[str, ...] | None = None
    expires_at: datetime | None = None
    address: str = ""


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
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Unauthenticated(
            "PEER_UNIDENTIFIED", "the certificate's names cannot be read"
        ) from error
    if len(uris) != 1:
        raise Unauthenticated(
            "PEER_UNIDENTIFIED", f"the certificate has {len(uris)} URI names instead of one"
        )
    named = caller_of_uri(uris[0], trust_domain)
    return replace(named, credential=certificate_id(certificate))


def certificate_id(certificate: x509.Certificate) -> str:
    """Returns what a certificate is called where it is not shown, see `certificate_name`."""
    return certificate_name(certificate.issuer, certificate.serial_number)


def certificate_name(issuer: x509.Name, serial_number: int) -> str:
    """Returns issuer and serial number, by which revocation lists name a certificate.

    Names are compared as TLS compares them (RFC 5280, section 7.1): neither the kind of string nor
    case and white space make another issuer, so a list reaches whatever a handshake lets in.
    """
    return f"{issuer_name(issuer)}:{serial_number:x}"


def issuer_name(issuer: x509.Name) -> str:
    """Returns what stands for an issuer in the names of its certificates."""
    parts = (f"{each.oid.dotted_string}={_plain(each.value)}" for each in issuer)
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:16]


def _plain(value: str | bytes) -> str:
    return " ".join(value.casefold().split()) if isinstance(value, str) else value.hex()
