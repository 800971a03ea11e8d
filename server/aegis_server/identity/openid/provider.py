"""The provider's public keys: fetched by one task, whoever asks for them.

Keys are read again every five minutes, and once more when a token names one that is not known, at
most every ten seconds: a flood of invented names becomes six fetches a minute. Nobody who calls can
break off a fetch. While the provider is away the last keys count, for a day.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from aegis.errors import Unavailable
from aegis_server.identity.openid.keys import ProviderKey, read_keys
from aegis_server.identity.openid.settings import OpenIdSettings, is_local, may_be_fetched
from aegis_server.identity.tokens import invalid

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 300.0
_AGAIN_AFTER_FAILURE_SECONDS = 30.0
_APART_SECONDS = 10.0
_FETCH_SECONDS = 5.0
_WAIT_SECONDS = 6.0
_LAST_GOOD_SECONDS = 24 * 3600.0
_ANSWER_MAX_BYTES = 256 * 1024


class Provider:
    """One issuer. Run `run()` as a task, without which no key is ever fetched."""

    def __init__(
        self,
        settings: OpenIdSettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        apart_seconds: float = _APART_SECONDS,
        wait_seconds: float = _WAIT_SECONDS,
    ) -> None:
        """Raises OSError or ssl.SSLError when `ca_file` cannot be used."""
        self.fetches = 0
        self.settings = settings
        self._monotonic = monotonic
        self._apart_seconds = apart_seconds
        self._wait_seconds = wait_seconds
        self._tls = ssl.create_default_context(cafile=settings.ca_file)
        self._keys: tuple[ProviderKey, ...] = ()
        self._read_at = self._tried_at = -math.inf
        self._away = True
        self._fetching = False
        self._wanted = asyncio.Event()
        self._answer: asyncio.Future[None] | None = None

    async def key(self, key_id: str, algorithm: str) -> ProviderKey:
        """Returns the key of this id, if it is for this algorithm.

        Raises `Unauthenticated` (TOKEN_INVALID) when the provider has no such key, and
        `Unavailable` (IDENTITY_PROVIDER_UNAVAILABLE) when that cannot be known.
        """
        found = self._find(key_id)
        if not found and self._may_ask():
            await self._ask()
            found = self._find(key_id)
        if not found and self._away:
            raise Unavailable(
                "IDENTITY_PROVIDER_UNAVAILABLE",
                "the keys of the identity provider cannot be fetched",
                retry_seconds=self._apart_seconds,
            )
        if not found:
            raise invalid("key", "the identity provider has no key of this id")
        fitting = [key for key in found if algorithm in key.algorithms]
        if len(fitting) != 1:
            raise invalid("algorithm", "the key of this id is not for this algorithm")
        return fitting[0]

    def still_has(self, key: ProviderKey) -> bool:
        """Says whether a key that `key` returned still counts."""
        return any(each.thumbprint == key.thumbprint for each in self._find(key.key_id))

    async def run(self) -> None:
        """Fetches until cancelled: now, every five minutes, and when somebody asks."""
        try:
            while True:
                await self._fetch()
                self._tell()
                pause = _AGAIN_AFTER_FAILURE_SECONDS if self._away else _AGAIN_SECONDS
                try:
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
                except TimeoutError:
                    continue
        finally:
            self._tell()

    def _find(self, key_id: str) -> list[ProviderKey]:
        if self._monotonic() - self._read_at > _LAST_GOOD_SECONDS:
            return []
        return [key for key in self._keys if key.key_id == key_id]

    def _may_ask(self) -> bool:
        waited = self._monotonic() - self._tried_at >= self._apart_seconds
        return waited or self._fetching or self._answer is not None

    async def _ask(self) -> None:
        """Waits for the next fetch, with everybody else who does."""
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            self._wanted.set()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await asyncio.shield(self._answer)
        except TimeoutError:
            return

    def _tell(self) -> None:
        self._fetching = False
        self._wanted.clear()
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.set_result(None)

    async def _fetch(self) -> None:
        self.fetches += 1
        self._fetching = True
        self._tried_at = self._monotonic()
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                self._keys = await self._fetched()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            # A TimeoutError is an OSError. What an answer says is not told: it may be anything.
            log.warning("the keys of %s stay as they were: %r", self.settings.issuer, error)
            self._away = True
            return
        self._read_at = self._monotonic()
        self._away = False

    async def _fetched(self) -> tuple[ProviderKey, ...]:
        issuer = self.settings.issuer
        async with httpx.AsyncClient(
            verify=self._tls, follow_redirects=False, timeout=_FETCH_SECONDS, trust_env=False
        ) as client:
            where = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
            described = await _get_json(client, where)
            if not isinstance(described, dict) or described.get("issuer") != issuer:
                raise ValueError("the provider says that it is another issuer")
            jwks_uri = described.get("jwks_uri")
            if not isinstance(jwks_uri, str) or not _as_safe(jwks_uri, issuer):
                raise ValueError("the provider names no safe jwks_uri")
            return read_keys(await _get_json(client, jwks_uri))


def _as_safe(url: str, issuer: str) -> bool:
    """Says whether a URL may be fetched on the word of an issuer; https stays https."""
    return may_be_fetched(url) and (is_local(urlsplit(issuer)) or not is_local(urlsplit(url)))


async def _get_json(client: httpx.AsyncClient, url: str) -> Any:
    """Fetches a document that is not too large, from there and nowhere else."""
    # Compressed, a small answer could become a large one.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"{url} answered with status {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError(f"{url} answered compressed")
        content = b""
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > _ANSWER_MAX_BYTES:
                raise ValueError(f"{url} answered with more than {_ANSWER_MAX_BYTES} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError(f"{url} answered with something nested too deeply") from None
