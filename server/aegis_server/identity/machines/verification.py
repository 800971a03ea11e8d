"""Verification of API keys, from memory; and when each was used last.

A call with a key asks no database: the directory has the digest. A key that counts is remembered by
the SHA-256 of its text for as long as the directory says the same: whatever is changed about a key
or an account, each is looked at anew at its next call. The time of use is noted in memory, and
written to the minute for many keys at once, by a part that nobody waits for.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable
from datetime import datetime

from aegis.errors import Unauthenticated, Unavailable
from aegis.serving.database import Database
from aegis.spiffe import Caller
from aegis_server.identity.directory import Directory, Snapshot
from aegis_server.identity.machines import store
from aegis_server.identity.machines.keytext import parse
from aegis_server.identity.tokens import invalid

log = logging.getLogger(__name__)

_WRITE_SECONDS = 30.0
_LAST_WRITE_SECONDS = 5.0
# No secret is known to have this digest; it is compared with where there is no key to compare with.
_NOBODYS = bytes(32)
_REMEMBERED_MAX = 4096


class Uses:
    """When each key was used last. Run `run()` as a task."""

    def __init__(
        self,
        database: Database,
        *,
        write_seconds: float = _WRITE_SECONDS,
    ) -> None:
        self._database = database
        self._write_seconds = write_seconds
        self._noted: dict[str, datetime] = {}

    def note(self, key_id: str, at: datetime) -> None:
        """Notes that a key is used."""
        self._noted[key_id] = at

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
                await store.note_uses(
                    connection,
                    {key: at.replace(second=0, microsecond=0) for key, at in noted.items()},
                )
        except Unavailable as error:
            self._noted = {**noted, **self._noted}
            log.warning("when API keys were used is written later: %s", error)


class KeyVerification:
    """Says whose key it is, for `Authentication`."""

    def __init__(self, directory: Directory, uses: Uses, *, clock: Callable[[], datetime]) -> None:
        self._directory = directory
        self._uses = uses
        self._clock = clock
        self._remembered: dict[tuple[bytes, str], Caller] = {}
        self._remembered_by: Snapshot | None = None

    async def __call__(self, token: str, address: str) -> Caller:
        """Returns the caller.

        Raises `Unauthenticated`: TOKEN_INVALID, CREDENTIAL_REVOKED or TOKEN_EXPIRED. An unknown id
        and a wrong secret are told by nothing but that they fail, after the same comparison.
        """
        snapshot, now = self._directory.snapshot, self._clock()
        if snapshot is not self._remembered_by:
            self._remembered.clear()
            self._remembered_by = snapshot
        name = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest(), address
        caller = self._remembered.get(name)
        if caller is None or caller.expires_at is None or caller.expires_at <= now:
            caller = self._verified(token, address, snapshot, now)
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[name] = caller
        self._uses.note(caller.credential, now)
        return caller

    def _verified(self, token: str, address: str, snapshot: Snapshot, now: datetime) -> Caller:
        shown = parse(token)
        key = snapshot.api_keys.get(shown.key_id)
        fits = hmac.compare_digest(shown.digest, key.digest if key is not None else _NOBODYS)
        if key is None or not fits:
            raise invalid("key", "no such API key counts here")
        if not key.revoked and key.ends_at <= now:
            raise Unauthenticated("TOKEN_EXPIRED", "this API key is past its end")
        caller = Caller(
            key.subject,
            "",
            method="api-key",
            credential=key.key_id,
            scopes=tuple(key.scopes) or None,
            expires_at=key.ends_at,
            address=address,
        )
        if (refusal := self._directory.refusal(caller)) is not None:
            raise refusal
        return caller
