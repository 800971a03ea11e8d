"""Verification of tokens that an OpenID provider issued.

Nothing in a token is believed before its signature fits; and unless its algorithm is one of those
allowed and its key is for that algorithm, nothing is computed at all. What was verified is
remembered by its SHA-256, for as long as the provider still has the key.
"""

from __future__ import annotations

import asyncio
import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeGuard
from weakref import WeakValueDictionary

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jws import JWSRegistry

from aegis.errors import Unauthenticated
from aegis.serving.auditlog import AuditLog
from aegis.spiffe import Caller
from aegis_server.identity.directory import Directory
from aegis_server.identity.openid.keys import ProviderKey
from aegis_server.identity.openid.provider import Provider
from aegis_server.identity.openid.settings import OpenIdSettings
from aegis_server.identity.register import entry
from aegis_server.identity.tokens import ANY_TOKEN_MAX_BYTES, extracted, invalid, moment_of

# What our clock and the provider's may differ.
SKEW = timedelta(seconds=30)

# Of access tokens and ID tokens; others, such as those of a logout, are not to log in with.
_TYPES = ("jwt", "at+jwt", "application/at+jwt")
_REMEMBERED_MAX = 4096
_NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token of the provider says, in our words."""

    subject: str
    roles: tuple[str, ...]
    token_id: str
    client: str
    counts_from: datetime
    ends_at: datetime
    key: ProviderKey


class OpenIdVerification:
    """Says who a person is, for `Authentication`."""

    def __init__(
        self,
        provider: Provider,
        directory: Directory,
        audit: AuditLog,
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._settings = provider.settings
        self._provider = provider
        self._directory = directory
        self._audit = audit
        self._clock = clock
        self._remembered: OrderedDict[bytes, Verified] = OrderedDict()
        self._first: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, token: str, address: str) -> Caller:
        """Returns the caller, with the roles that the token's claims give.

        Raises `Unauthenticated`: TOKEN_INVALID naming the check that failed, TOKEN_EXPIRED,
        TOKEN_NOT_YET_VALID; and `Unavailable`: IDENTITY_PROVIDER_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        if len(token) > ANY_TOKEN_MAX_BYTES:
            raise invalid("size", f"a token has at most {ANY_TOKEN_MAX_BYTES} bytes")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = self._recall(digest) or await self._login(token, digest)
        self._check_times(found)
        self._directory.note_external(found.subject, found.roles, found.ends_at + SKEW)
        return Caller(
            found.subject,
            "",
            method="oidc",
            credential=found.token_id,
            expires_at=found.ends_at,
        )

    def _recall(self, digest: bytes) -> Verified | None:
        found = self._remembered.get(digest)
        return found if found is not None and self._provider.still_has(found.key) else None

    async def _login(self, token: str, digest: bytes) -> Verified:
        # Many calls may begin at the same moment with a new token: that is one login.
        async with self._first.setdefault(digest, asyncio.Lock()):
            if (known := self._recall(digest)) is not None:
                return known
            found = await self._verify(token, digest.hex()[:32])
            self._check_times(found)
            await self._record(found)
            self._remembered[digest] = found
            if len(self._remembered) > _REMEMBERED_MAX:
                self._remembered.popitem(last=False)
            return found

    async def _verify(self, token: str, token_id: str) -> Verified:
        header = extracted(token).protected
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms:
            raise invalid("algorithm", "tokens signed with this algorithm do not count")
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise invalid("type", "this is neither an access token nor an ID token")
        if "crit" in header:
            raise invalid("header", "the header asks for more than is understood here")
        if not isinstance(key_id, str):
            raise invalid("key", "the token names no key")
        key = await self._provider.key(key_id, algorithm)
        claims = _signed_claims(token, key, algorithm)
        return self._read(claims, key, token_id)

    def _read(self, claims: Mapping[str, Any], key: ProviderKey, token_id: str) -> Verified:
        _check_issuer_and_audience(claims, self._settings)
        subject = claims.get("sub")
        if not _is_name(subject):
            raise invalid("claims", "the token names no subject")
        if "events" in claims:
            raise invalid("type", "this token tells of an event")
        counts_from = moment_of(claims, "iat")
        if "nbf" in claims:
            counts_from = max(counts_from, moment_of(claims, "nbf"))
        client = claims.get("azp", claims.get("client_id", ""))
        return Verified(
            subject=subject_of(self._settings.issuer, subject),
            roles=roles_of(claims, self._settings),
            token_id=token_id,
            client=client if _is_name(client) else "",
            counts_from=counts_from,
            ends_at=moment_of(claims, "exp"),
            key=key,
        )

    def _check_times(self, found: Verified) -> None:
        now = self._clock()
        if found.ends_at + SKEW <= now:
            raise Unauthenticated("TOKEN_EXPIRED", "the token is past its end")
        if found.counts_from - SKEW > now:
            raise Unauthenticated("TOKEN_NOT_YET_VALID", "the token counts only later")

    async def _record(self, found: Verified) -> None:
        name = found.subject.partition(":")[2]
        await self._audit.record(
            entry(
                found.subject,
                "login",
                f"/identity/users/{name}",
                "accepted",
                method="oidc",
                issuer=self._settings.issuer,
                client=found.client,
                token=found.token_id,
                roles=" ".join(found.roles),
            )
        )


def subject_of(issuer: str, subject: str) -> str:
    """Returns the pseudonym that policies and the audit log know somebody by."""
    return f"user:oidc-{hashlib.sha256(f'{issuer}|{subject}'.encode()).hexdigest()[:16]}"


def roles_of(claims: Mapping[str, Any], settings: OpenIdSettings) -> tuple[str, ...]:
    """Returns what the values of the roles claim give; those that nobody mapped give nothing."""
    if not settings.roles_claim:
        return ()
    found: Any = claims
    for step in settings.roles_claim:
        found = found.get(step) if isinstance(found, dict) else None
    values = [found] if isinstance(found, str) else found
    if not isinstance(values, list):
        return ()
    given = {
        role for value in values if isinstance(value, str) for role in settings.roles.get(value, ())
    }
    return tuple(f"role:{role}" for role in sorted(given))


def _is_name(value: Any) -> TypeGuard[str]:
    # OpenID Connect Core, section 2: a subject is at most 255 ASCII characters.
    return (
        isinstance(value, str)
        and 0 < len(value) <= _NAME_MAX
        and value.isascii()
        and value.isprintable()
    )


def _signed_claims(token: str, key: ProviderKey, algorithm: str) -> Mapping[str, Any]:
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    try:
        with warnings.catch_warnings():
            # "EdDSA" is the old name of Ed25519, which providers will write for long.
            warnings.simplefilter("ignore", SecurityWarning)
            return jwt.decode(token, key.public, registry=registry).claims
    except (JoseError, ValueError, TypeError, RecursionError):
        raise invalid("signature", "the signature does not fit the token") from None


def _check_issuer_and_audience(claims: Mapping[str, Any], settings: OpenIdSettings) -> None:
    if claims.get("iss") != settings.issuer:
        raise invalid("issuer", "the token is from another issuer")
    named = claims.get("aud")
    audiences = [named] if isinstance(named, str) else named
    if not isinstance(audiences, list) or settings.audience not in audiences:
        raise invalid("audience", "the token is for another audience")
    if len(audiences) > 1 and claims.get("azp") != settings.client_id:
        # For several at once, it was asked for by somebody: that has to be who people log in with.
        raise invalid("audience", "the token is for several, and was not asked for by our client")
