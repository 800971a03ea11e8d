"""Verification of API keys, from memory; and when each was used last.

A call with a key asks no database: the directory has the digest. The time of use is noted in memory
to the minute and written for many keys at once, by a part that nobody waits for.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from datetime import datetime

from aegis.errors import Unauthenticated, Unavailable
from aegis.serving.database import Database
from aegis.spiffe import Caller
from aegis_server.identity.directory import Directory
from aegis_server.identity.machines import store
from aegis_server.identity.machines.keytext import parse
from aegis_server.identity.tokens import invalid

log = logging.getLogger(__name__)

_WRITE_SECONDS = 30.0
_LAST_WRITE_SECONDS = 5.0
# No secret is known to have this digest; it is compared with where there is no key to compare with.
_NOBODYS = bytes(32)


class Uses:
    """When each key was used last. Run `run()` as a task."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], datetime],
        write_seconds: float = _WRITE_SECONDS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._write_seconds = write_seconds
        self._noted: dict[str, datetime] = {}

    def note(self, key_id: str) -> None:
        """Notes that a key is used now."""
        self._noted[key_id] = self._clock().replace(second=0, microsecond=0)

    async def run(self) -> None:
        """Writes what was noted until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(self._write_seconds)
                await self.write()
        finally:
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                await self.write()

    async def write(self) -> None:
        """Writes what was noted since the last time; keeps it when that does not work."""
        if not self._noted:
            return
        noted, self._noted = self._noted, {}
        try:
            async with self._database.transaction() as connection:
                await store.note_uses(connection, noted)
        except Unavailable as error:
            self._noted = {**noted, **self._noted}
            log.warning("when API keys were used is written later: %s", error)


class KeyVerification:
    """Says whose key it is, for `Authentication`."""

    def __init__(self, directory: Directory, uses: Uses, *, clock: Callable[[], datetime]) -> None:
        self._directory = directory
        self._uses = uses
        self._clock = clock

    async def __call__(self, token: str, address: str) -> Caller:
        """Returns the caller.

        Raises `Unauthenticated`: TOKEN_INVALID, CREDENTIAL_REVOKED or TOKEN_EXPIRED. An unknown id
        and a wrong secret are told by nothing but that they fail, after the same comparison.
        """
        shown = parse(token)
        key = self._directory.snapshot.api_keys.get(shown.key_id)
        fits = hmac.compare_digest(shown.digest, key.digest if key is not None else _NOBODYS)
        if key is None or not fits:
            raise invalid("key", "no such API key counts here")
        if not key.revoked and key.ends_at <= self._clock():
            raise Unauthenticated("TOKEN_EXPIRED", "this API key is past its end")
        caller = Caller(
            key.subject,
            "",
            method="api-key",
            credential=key.key_id,
            scopes=tuple(key.scopes) or None,
            expires_at=key.ends_at,
        )
        if (refusal := self._directory.refusal(caller)) is not None:
            raise refusal
        self._uses.note(key.key_id)
        return caller
