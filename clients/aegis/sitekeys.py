"""A site's key pair on its disk: made here, signed for by the server, replaced as a whole.

The next key is on the disk before anybody is asked to sign for it, and takes its place after its
certificate has: asked twice with the same key, the server gives the same certificate, and a site
that dies in between finds the pair together when it mends it.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from aegis.channel import Identity
from aegis.local.keys import pem, write_private


def key_in(file: Path) -> ec.EllipticCurvePrivateKey:
    """Returns the key in a file, a new one where there is none; raises OSError."""
    key = _key(file)
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(file, pem(key), [])
    return key


def next_key(identity: Identity) -> ec.EllipticCurvePrivateKey:
    """Returns the key to ask the next certificate for; raises OSError."""
    return key_in(_next(identity))


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """Returns a request (PKCS#10, DER) for a certificate."""
    # Who it is for is the server's word; this is only for people who look at the request.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def take_over(identity: Identity, certificate: bytes, roots: bytes) -> x509.Certificate:
    """Puts the next key and what was given for it in the place of the old; returns the certificate.

    Without `roots` those that are there stay. Raises OSError, and ValueError for a certificate of
    another key or roots that are none: then everything stays as it is.
    """
    found = x509.load_pem_x509_certificate(certificate)
    if found.public_key() != next_key(identity).public_key():
        raise ValueError("the server's certificate is for another key")
    if roots:
        x509.load_pem_x509_certificates(roots)
        write_private(identity.roots, roots, [])
    write_private(identity.certificate, certificate, [])
    mend(identity)
    return found


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
    except (FileNotFoundError, TypeError, ValueError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None
