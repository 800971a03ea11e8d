"""Access tokens: JWTs of RFC 9068, signed with ES256, that any server verifies without asking.

Verification takes nothing from the token but what it checked: the algorithm is ours, the key is one
of ours by its id, and a header with anything beside `alg`, `typ` and `kid` is not a token of ours.
A verified token is remembered by its SHA-256, so that its next call costs microseconds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from aegis.errors import Unauthenticated

__all__ = [
    "ACCESS_LIFETIME",
    "ANY_TOKEN_MAX_BYTES",
    "SKEW",
    "AccessToken",
    "AccessTokens",
    "TokenKeys",
    "extracted",
    "invalid",
    "issuer_of",
    "moment_of",
]

log = logging.getLogger(__name__)

ACCESS_LIFETIME = timedelta(minutes=15)
# What clocks of servers may differ.
SKEW = timedelta(seconds=5)
TOKEN_MAX_BYTES = 4096
# Those of others may list every group of somebody; all metadata of a call has at most 16 KiB.
ANY_TOKEN_MAX_BYTES = 12 * 1024

_ALGORITHM = "ES256"
_TYPE = "at+jwt"
_CLIENT = "aegis"
_REMEMBERED_MAX = 4096
_LOOK_SECONDS = 1.0
# No token is of another time; at either end of a calendar one cannot even add what clocks differ.
_SECONDS_MAX = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a token of ours says."""

    subject: str
    session_id: str
    issued_at: datetime
    not_before: datetime
    ends_at: datetime


class TokenKeys:
    """Private EC P-256 keys in a JWKS file: the first signs, all verify.

    The file is looked at once a second; one that cannot be used leaves the last good keys in place.
    Raises ValueError or OSError when the first reading fails.
    """

    def __init__(self, file: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._monotonic = monotonic
        self._looked_at = monotonic()
        self._seen = self._version()
        self._keys = _read(file)

    @property
    def current(self) -> Mapping[str, ECKey]:
        """The keys by their ids, the signing one first; another object once they changed."""
        now = self._monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._look()
        return self._keys

    def _look(self) -> None:
        try:
            version = self._version()
            if version == self._seen:
                return
            self._seen = version
            self._keys = _read(self._file)
        except (OSError, ValueError) as error:
            log.warning("keeping the old token keys: %s", error)
            return
        log.info("token keys in use: %s", ", ".join(self._keys))

    def _version(self) -> tuple[int, int, int]:
        found = self._file.stat()
        return (found.st_mtime_ns, found.st_ino, found.st_size)


class AccessTokens:
    """Issues and verifies access tokens of one issuer for one audience."""

    def __init__(
        self, keys: TokenKeys, *, issuer: str, audience: str, clock: Callable[[], datetime]
    ) -> None:
        self.issuer = issuer
        self._keys = keys
        self._audience = audience
        self._clock = clock
        self._remembered: OrderedDict[bytes, AccessToken] = OrderedDict()
        self._remembered_with = keys.current

    def issue(self, subject: str, session_id: str) -> tuple[str, datetime]:
        """Returns a token for a session, and when it ends."""
        key_id, key = next(iter(self._keys.current.items()))
        now = self._clock().replace(microsecond=0)
        ends_at = now + ACCESS_LIFETIME
        claims = {
            "iss": self.issuer,
            "aud": self._audience,
            "sub": subject,
            "client_id": _CLIENT,
            "sid": session_id,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int(ends_at.timestamp()),
            "jti": secrets.token_urlsafe(16),
        }
        header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": key_id}
        return jwt.encode(header, claims, key, algorithms=[_ALGORITHM]), ends_at

    def verify(self, token: str) -> AccessToken:
        """Returns what a token says.

        Raises `Unauthenticated`: TOKEN_INVALID naming the check that failed, TOKEN_EXPIRED or
        TOKEN_NOT_YET_VALID.
        """
        if len(token) > TOKEN_MAX_BYTES:
            raise invalid("size", f"a token has at most {TOKEN_MAX_BYTES} bytes")
        keys = self._current_keys()
        digest = _digest(token)
        found = self._remembered.get(digest)
        if found is None:
            found = self._verified(token, keys)
            self._remembered[digest] = found
            if len(self._remembered) > _REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        self._check_times(found)
        return found

    def knows(self, token: str) -> bool:
        """Says whether a token was verified already: it is one of ours, if maybe past its end."""
        return _digest(token) in self._remembered

    def _current_keys(self) -> Mapping[str, ECKey]:
        keys = self._keys.current
        if keys is not self._remembered_with:
            # What a key that is gone has signed no longer counts.
            self._remembered.clear()
            self._remembered_with = keys
        return keys

    def _verified(self, token: str, keys: Mapping[str, ECKey]) -> AccessToken:
        claims = _signed_claims(token, keys)
        if claims.get("iss") != self.issuer:
            raise invalid("issuer", "the token is from another issuer")
        if claims.get("aud") != self._audience:
            raise invalid("audience", "the token is for another audience")
        subject, session_id = claims.get("sub"), claims.get("sid")
        if not (isinstance(subject, str) and isinstance(session_id, str)):
            raise invalid("claims", "the token names no subject or no session")
        return AccessToken(
            subject,
            session_id,
            issued_at=moment_of(claims, "iat"),
            not_before=moment_of(claims, "nbf"),
            ends_at=moment_of(claims, "exp"),
        )

    def _check_times(self, token: AccessToken) -> None:
        now = self._clock()
        if token.ends_at + SKEW <= now:
            raise Unauthenticated("TOKEN_EXPIRED", "the token is past its end")
        if token.not_before - SKEW > now:
            raise Unauthenticated("TOKEN_NOT_YET_VALID", "the token counts only later")


def issuer_of(token: str) -> str:
    """Returns whom a token says it is from, unverified: only to choose who is to verify it.

    Raises `Unauthenticated` (TOKEN_INVALID) for what is no JWT.
    """
    if len(token) > ANY_TOKEN_MAX_BYTES:
        raise invalid("size", f"a token has at most {ANY_TOKEN_MAX_BYTES} bytes")
    try:
        claims = json.loads(extracted(token).payload)
    except (TypeError, ValueError, RecursionError):
        raise invalid("form", "this is not a JWT") from None
    issuer = claims.get("iss") if isinstance(claims, dict) else None
    if not isinstance(issuer, str):
        raise invalid("issuer", "the token names no issuer")
    return issuer


def invalid(check: str, message: str) -> Unauthenticated:
    """Returns the refusal of a token that failed a check."""
    return Unauthenticated("TOKEN_INVALID", message, check=check)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _signed_claims(token: str, keys: Mapping[str, ECKey]) -> dict[str, Any]:
    header = extracted(token).protected
    if header.get("alg") != _ALGORITHM:
        raise invalid("algorithm", f"a token is signed with {_ALGORITHM}")
    if header.get("typ") not in (_TYPE, f"application/{_TYPE}"):
        raise invalid("type", f"the type of an access token is {_TYPE}")
    if not header.keys() <= {"alg", "typ", "kid"}:
        raise invalid("header", "the header says more than alg, typ and kid")
    key_id = header.get("kid")
    key = keys.get(key_id) if isinstance(key_id, str) else None
    if key is None:
        raise invalid("key", "no key of this id is known")
    try:
        return jwt.decode(token, key, algorithms=[_ALGORITHM]).claims
    except (JoseError, ValueError, TypeError, RecursionError):
        raise invalid("signature", "the signature does not fit the token") from None


def extracted(token: str) -> jws.CompactSignature:
    """Returns the parts of a token, unverified; raises `Unauthenticated` (TOKEN_INVALID)."""
    try:
        found = jws.extract_compact(token.encode())
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
        raise invalid("form", "this is not a JWT") from None
    if not isinstance(found.protected, dict):
        raise invalid("form", "this is not a JWT")
    return found


def moment_of(claims: Mapping[str, Any], name: str) -> datetime:
    """Returns a time in a token; raises `Unauthenticated` (TOKEN_INVALID)."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid("claims", f"{name} is no time")
    if not 0 <= value < _SECONDS_MAX:
        raise invalid("claims", f"{name} is no time")
    return datetime.fromtimestamp(value, UTC)


def _read(file: Path) -> Mapping[str, ECKey]:
    """Reads the keys; the message of a ValueError names the file, never what is in it."""
    if file.stat().st_mode & 0o077:
        raise ValueError(f"{file} may be read by others: chmod 600")
    try:
        listed = json.loads(file.read_bytes())["keys"]
        keys = [ECKey.import_key(entry) for entry in listed]
        usable = all(key.curve_name == "P-256" and key.is_private for key in keys)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{file} is not a JWKS of private EC P-256 keys") from None
    if not keys or not usable:
        raise ValueError(f"{file} is not a JWKS of private EC P-256 keys")
    by_id = {str(key.kid or key.thumbprint()): key for key in keys}
    if len(by_id) != len(keys):
        raise ValueError(f"{file} names two keys by the same kid")
    return MappingProxyType(by_id)
