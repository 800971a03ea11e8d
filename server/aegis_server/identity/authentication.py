"""Authentication: from what a call shows to who is calling.

A bearer token wins over the certificate of its connection, because a console calls with its own
certificate on behalf of a person. A token that does not count is never passed over: somebody meant
to be somebody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from aegis.errors import Unauthenticated
from aegis.serving.doors import Authenticate, Peer
from aegis.spiffe import Caller
from aegis_server.access import OPEN_METHODS
from aegis_server.identity.directory import Directory
from aegis_server.identity.tokens import AccessTokens, invalid, issuer_of

# Given the token and the caller's host; raises an `AegisError` when it does not count.
Verify: TypeAlias = Callable[[str, str], Awaitable[Caller]]

API_KEY_PREFIX = "aegis_"
ANONYMOUS = Caller("anonymous:unknown", "", method="anonymous")


class Authentication:
    """Says who calls, for `Doors`.

    `certificates` vouches for connections, `access_tokens` for our sessions, `api_keys` and
    `openid` for what starts with "aegis_" and for tokens of another issuer, where there are any.
    Whoever it is, the directory has the last word.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        certificates: Authenticate,
        access_tokens: AccessTokens | None = None,
        api_keys: Verify | None = None,
        openid: Verify | None = None,
    ) -> None:
        self._directory = directory
        self._certificates = certificates
        self._access_tokens = access_tokens
        self._api_keys = api_keys
        self._openid = openid

    async def __call__(self, method: str, peer: Peer) -> Caller:
        """Returns the caller.

        Raises `Unauthenticated`: CREDENTIALS_MISSING for who shows nothing, TOKEN_INVALID,
        TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, CREDENTIAL_REVOKED, PEER_UNIDENTIFIED.
        """
        if peer.authorization:
            caller = await self._by_token(_bearer(peer.authorization), peer.address)
        elif peer.certificate is not None:
            caller = await self._certificates(method, peer)
            await self._directory.check(caller)
        elif method in OPEN_METHODS:
            caller = ANONYMOUS
        else:
            raise Unauthenticated(
                "CREDENTIALS_MISSING", "neither a token nor a client certificate was shown"
            )
        return caller if caller.address == peer.address else _at(caller, peer.address)

    async def _by_token(self, token: str, address: str) -> Caller:
        if token.startswith(API_KEY_PREFIX):
            if self._api_keys is None:
                raise invalid("type", "API keys do not count here")
            caller = await self._api_keys(token, address)
            await self._directory.check(caller)
            return caller
        ours = self._access_tokens
        if ours is not None and (ours.knows(token) or issuer_of(token) == ours.issuer):
            return await self._by_session(ours, token)
        if self._openid is None:
            raise invalid("issuer", "no token of this issuer counts here")
        caller = await self._openid(token, address)
        await self._directory.check(caller)
        return caller

    async def _by_session(self, access_tokens: AccessTokens, token: str) -> Caller:
        found = access_tokens.verify(token)
        caller = Caller(
            found.subject,
            "",
            method="session",
            credential=found.session_id,
            expires_at=found.ends_at,
        )
        await self._directory.check(caller, issued_at=found.issued_at)
        return caller


@lru_cache(maxsize=4096)
def _at(caller: Caller, address: str) -> Caller:
    """Remembered, because a caller asks again and again from where it is."""
    return replace(caller, address=address)


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise invalid("scheme", 'authorization is "Bearer TOKEN"')
    return token
