"""What keys can sign with. The key record says which, never the signature or its sender.

ed25519        RFC 8032; the default
ecdsa-p256     FIPS 186-5 with SHA-256 and signatures in DER, for key stores without Ed25519
hmac-sha256    RFC 2104, for callers that cannot do better: whoever verifies can also sign
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

ED25519, ECDSA_P256, HMAC_SHA256 = "ed25519", "ecdsa-p256", "hmac-sha256"
ALGORITHMS = (ED25519, ECDSA_P256, HMAC_SHA256)
SECRET_MIN_BYTES = 32

_SHA256 = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A secret of at least 32 bytes that both ends have; raises ValueError for a shorter one."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < SECRET_MIN_BYTES:
            raise ValueError(f"a shared secret has at least {SECRET_MIN_BYTES} bytes")

    def code(self, message: bytes) -> bytes:
        """Returns the authentication code; for nothing else is the derived key ever used."""
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=b"aegis/v1/envelope")
        return hmac.digest(derived.derive(self.secret), message, hashlib.sha256)


PublicKey: TypeAlias = Ed25519PublicKey | ec.EllipticCurvePublicKey | SharedSecret
PrivateKey: TypeAlias = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | SharedSecret


def algorithm_of(key: PublicKey) -> str:
    """Returns the algorithm of a key; ValueError for a curve that is not P-256."""
    if isinstance(key, SharedSecret):
        return HMAC_SHA256
    if isinstance(key, Ed25519PublicKey):
        return ED25519
    if not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"keys on {key.curve.name} do not count, those on P-256 do")
    return ECDSA_P256


def public_half(key: PrivateKey) -> PublicKey:
    """Returns what verifies what `key` signs."""
    return key if isinstance(key, SharedSecret) else key.public_key()


def key_id(key: PublicKey) -> str:
    """Returns 16 hex digits: of the SHA-256 of the SPKI or, in a domain of its own, the secret."""
    if isinstance(key, SharedSecret):
        return hashlib.sha256(b"aegis shared secret\0" + key.secret).hexdigest()[:16]
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()[:16]


def sign(key: PrivateKey, message: bytes) -> bytes:
    """Returns a signature of `message`."""
    if isinstance(key, SharedSecret):
        return key.code(message)
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, _SHA256)


def verify(key: PublicKey, signature: bytes, message: bytes) -> None:
    """Raises InvalidSignature unless `key` has signed `message`."""
    if isinstance(key, SharedSecret):
        if not hmac.compare_digest(signature, key.code(message)):
            raise InvalidSignature
    elif isinstance(key, Ed25519PublicKey):
        key.verify(signature, message)
    else:
        key.verify(signature, message, _SHA256)


def load_signing_key(path: Path) -> PrivateKey:
    """Reads PKCS #8 in PEM, or else a shared secret as it is; the message never says what is there.

    Raises OSError, or ValueError for a key that signs in none of our ways.
    """
    data = path.read_bytes()
    if not data.startswith(b"-----BEGIN "):
        try:
            return SharedSecret(data)
        except ValueError as error:
            raise ValueError(f"{path} is no private key in PEM; and {error}") from None
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise ValueError(f"{path} is no unencrypted private key in PEM") from None
    if isinstance(key, Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return key
    raise ValueError(f"{path} is neither an Ed25519 nor a P-256 key")
