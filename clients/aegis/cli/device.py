"""Logging in at an OpenID provider from a terminal: the device authorization grant, RFC 8628.

The provider gets a person's password and whatever else it asks for, in a browser on any device; we
get tokens. It is found by the issuer that the control plane names, over https and nothing else but
for one on this very machine.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import httpx

from aegis.errors import AegisError, Unauthenticated, Unavailable

_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_ANSWER_SECONDS = 10.0
_INTERVAL_SECONDS = 5.0
_SLOWER_SECONDS = 5.0
_INTERVAL_MAX_SECONDS = 60.0
_LIFETIME_SECONDS = 300.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CODE = re.compile("[a-z_]{1,64}")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a person is asked to do, until when, and how often to look whether they did."""

    device_code: str = field(repr=False)
    user_code: str
    uri: str
    uri_with_code: str
    lifetime_seconds: float
    interval_seconds: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the provider gave: the token to call with, and one to get the next with, or none."""

    token: str = field(repr=False)
    ends_at: float
    refresh_token: str = field(repr=False)


class DeviceLogin:
    """A public client of one provider. Use it as an async context manager."""

    def __init__(
        self,
        issuer: str,
        client_id: str,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._sleep = sleep
        self._endpoints: Mapping[str, Any] = {}
        self._http = httpx.AsyncClient(follow_redirects=False, timeout=_ANSWER_SECONDS)

    async def __aenter__(self) -> DeviceLogin:
        """Finds the provider's endpoints.

        Raises `Unavailable` (IDENTITY_PROVIDER_UNAVAILABLE) when it does not answer as one.
        """
        try:
            self._endpoints = await self._discovered()
        except BaseException:
            await self._http.aclose()
            raise
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._http.aclose()

    async def begin(self, scopes: tuple[str, ...]) -> Grant:
        """Returns what a person has to do.

        Raises `Unauthenticated` (LOGIN_FAILED) when the provider does not take our client.
        """
        status, answer = await self._post(
            "device_authorization_endpoint", {"scope": " ".join(scopes)}
        )
        if status != httpx.codes.OK:
            raise _refused(answer)
        uri, user_code = answer.get("verification_uri"), answer.get("user_code")
        device_code = answer.get("device_code")
        if not (_is_line(uri) and _is_line(user_code) and isinstance(device_code, str)):
            raise _away("the provider's answer names no code, or nowhere to enter it")
        whole = answer.get("verification_uri_complete")
        return Grant(
            device_code=device_code,
            user_code=user_code,
            uri=uri,
            uri_with_code=whole if _is_line(whole) else "",
            lifetime_seconds=_seconds(answer.get("expires_in"), _LIFETIME_SECONDS),
            interval_seconds=_seconds(answer.get("interval"), _INTERVAL_SECONDS),
        )

    async def wait(self, grant: Grant) -> Tokens:
        """Looks until the person is done; raises `Unauthenticated` (LOGIN_FAILED) if they refuse
        or take too long.
        """
        interval = grant.interval_seconds
        left_seconds = grant.lifetime_seconds
        while left_seconds > 0:
            await self._sleep(interval)
            left_seconds -= interval
            try:
                status, answer = await self._post(
                    "token_endpoint", {"grant_type": _GRANT, "device_code": grant.device_code}
                )
            except Unavailable:
                # RFC 8628, section 3.5: whoever gets no answer asks less often.
                interval = min(2 * interval, _INTERVAL_MAX_SECONDS)
                continue
            if status == httpx.codes.OK:
                return _tokens(answer)
            match answer.get("error"):
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval = min(interval + _SLOWER_SECONDS, _INTERVAL_MAX_SECONDS)
                case _:
                    raise _refused(answer)
        raise Unauthenticated("LOGIN_FAILED", "the code was not confirmed in time")

    async def refresh(self, refresh_token: str) -> Tokens:
        """Returns the next tokens.

        Raises `Unauthenticated` (TOKEN_EXPIRED) when the provider does not go on.
        """
        status, answer = await self._post(
            "token_endpoint", {"grant_type": "refresh_token", "refresh_token": refresh_token}
        )
        if status != httpx.codes.OK:
            raise Unauthenticated("TOKEN_EXPIRED", "the provider has ended this session")
        return _tokens(answer, refresh_token)

    async def revoke(self, refresh_token: str) -> None:
        """Has the provider forget a refresh token, where it does such a thing."""
        if refresh_token and "revocation_endpoint" in self._endpoints:
            await self._post("revocation_endpoint", {"token": refresh_token})

    async def _discovered(self) -> Mapping[str, Any]:
        if not _is_safe(self._issuer, self._issuer):
            raise _away(f"{self._issuer} is not reached over https")
        where = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            response = await self._http.get(where)
            found = response.json() if response.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise _away(f"{self._issuer} does not answer") from error
        if not isinstance(found, dict) or found.get("issuer") != self._issuer:
            raise _away(f"{self._issuer} does not answer as that issuer")
        return found

    async def _post(self, endpoint: str, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        url = self._endpoints.get(endpoint)
        if not isinstance(url, str) or not _is_safe(url, self._issuer):
            raise _away(f"the provider has no {endpoint} that can be used")
        try:
            response = await self._http.post(url, data={"client_id": self._client_id, **fields})
            found = response.json() if response.content else {}
        except (httpx.HTTPError, ValueError) as error:
            raise _away("the provider does not answer") from error
        # Asked too often, it has said nothing about what was asked.
        busy = response.status_code == httpx.codes.TOO_MANY_REQUESTS
        if busy or response.is_server_error or not isinstance(found, dict):
            raise _away("the provider does not answer")
        return response.status_code, found


def _tokens(answer: Mapping[str, Any], refresh_token: str = "") -> Tokens:
    """Returns the access token if that is a JWT, as the control plane needs, else the ID token."""
    fresh = answer.get("refresh_token")
    kept = fresh if isinstance(fresh, str) else refresh_token
    for name in ("access_token", "id_token"):
        token = answer.get(name)
        if isinstance(token, str) and token.count(".") == 2:
            return Tokens(token, _end_of(token, answer.get("expires_in")), kept)
    raise Unauthenticated("LOGIN_FAILED", "the provider gave no token that is a JWT")


def _end_of(token: str, lifetime_seconds: object) -> float:
    """Returns when a token ends, in seconds since 1970: only to know when to get the next."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["exp"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return time.time() + _seconds(lifetime_seconds, _LIFETIME_SECONDS)


def _is_safe(url: str, issuer: str) -> bool:
    """Says whether a URL is https, or like its issuer on this very machine."""
    try:
        parts, of_issuer = urlsplit(url), urlsplit(issuer)
    except ValueError:
        return False
    local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    return parts.scheme == "https" or (local and of_issuer.hostname in _LOOPBACK)


def _is_line(value: object) -> TypeGuard[str]:
    # It goes to a terminal, which obeys some characters.
    return isinstance(value, str) and 0 < len(value) <= 2048 and value.isprintable()


def _seconds(value: object, otherwise: float) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return float(value) if known else otherwise  # type: ignore[arg-type]


def _refused(answer: Mapping[str, Any]) -> AegisError:
    code = answer.get("error")
    known = code if isinstance(code, str) and _CODE.fullmatch(code) else "no reason given"
    return Unauthenticated("LOGIN_FAILED", f"the identity provider refuses: {known}")


def _away(problem: str) -> Unavailable:
    return Unavailable("IDENTITY_PROVIDER_UNAVAILABLE", problem)
