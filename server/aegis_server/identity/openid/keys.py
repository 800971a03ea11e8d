"""Public keys of a provider, and which algorithms each may be used with.

The algorithm belongs to the key: a token that names another is refused before anything is computed,
so a public key is never taken for the secret of an HMAC, and "none" is no algorithm at all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

log = logging.getLogger(__name__)

# Algorithm -> type of key and curve. Symmetric ones are not here, and so cannot be configured.
KINDS: Mapping[str, tuple[str, str]] = {
    "RS256": ("RSA", ""),
    "RS384": ("RSA", ""),
    "RS512": ("RSA", ""),
    "PS256": ("RSA", ""),
    "PS384": ("RSA", ""),
    "PS512": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}

# The old name and the one of RFC 9864 for the same thing.
_ED25519 = frozenset({"EdDSA", "Ed25519"})

_RSA_BITS_MIN = 2048
# A larger one would only make each verification slow.
_RSA_BITS_MAX = 8192
_KEYS_MAX = 64
_TYPES: Mapping[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {
    "RSA": RSAKey,
    "EC": ECKey,
    "OKP": OKPKey,
}


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A key that verifies signatures; `thumbprint` is of the key itself, whatever its id."""

    key_id: str
    thumbprint: str
    algorithms: frozenset[str]
    public: RSAKey | ECKey | OKPKey


def read_keys(document: object) -> tuple[ProviderKey, ...]:
    """Returns the keys of a JWKS that may verify; passes over all others.

    Raises ValueError for what is no JWKS, or has none of them.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > _KEYS_MAX:
        raise ValueError("this is no JWKS, or one of too many keys")
    keys = tuple(key for entry in listed if (key := _read(entry)) is not None)
    if not keys:
        raise ValueError("no key of this JWKS can be used")
    return keys


def _read(entry: Any) -> ProviderKey | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
        return None
    algorithms = _algorithms_of(entry)
    operations = entry.get("key_ops", ["verify"])
    if (
        not algorithms
        or entry.get("use", "sig") != "sig"
        or not (isinstance(operations, list) and "verify" in operations)
    ):
        return None
    if "d" in entry:
        log.warning("the provider publishes a private key, which does not count any more")
        return None
    try:
        public = _TYPES[entry["kty"]].import_key(entry)
        thumbprint = public.thumbprint()
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    bits = public.raw_value.key_size if isinstance(public, RSAKey) else _RSA_BITS_MIN
    if not _RSA_BITS_MIN <= bits <= _RSA_BITS_MAX:
        return None
    return ProviderKey(entry["kid"], thumbprint, algorithms, public)


def _algorithms_of(entry: Mapping[str, Any]) -> frozenset[str]:
    """Returns what fits the type and curve of a key, or of that the one it says it is for."""
    fitting = frozenset(
        name
        for name, (kind, curve) in KINDS.items()
        if entry.get("kty") == kind and (not curve or entry.get("crv") == curve)
    )
    declared = entry.get("alg")
    if declared is None or (
        isinstance(declared, str) and declared in _ED25519 and fitting == _ED25519
    ):
        return fitting
    return frozenset(name for name in fitting if name == declared)
