"""The first administrator: made with a token that only who runs the server can read.

There is no default password. A server that starts and finds nobody who can administrate writes a
single-use token to a file of its own; who presents it becomes administrator, and the file goes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import datetime
from pathlib import Path

from aegis.errors import FailedPrecondition
from aegis.serving.database import Connection
from aegis_server.identity.people import store
from aegis_server.identity.people.accounts import add, new_person, path_of
from aegis_server.identity.people.passwords import Passwords, check_strength
from aegis_server.identity.people.resets import one_time_token_invalid
from aegis_server.identity.people.sessions import AttemptBy, Session, Sessions, Throttle
from aegis_server.identity.people.tokens import digest_of, new_token
from aegis_server.identity.people.tokens import store as tokens
from aegis_server.identity.register import Register, entry

log = logging.getLogger(__name__)


class Bootstrap:
    """Makes the first administrator; `prepare()` when the server starts."""

    def __init__(
        self,
        register: Register,
        passwords: Passwords,
        sessions: Sessions,
        throttle: Throttle,
        *,
        file: Path,
    ) -> None:
        self._register = register
        self._passwords = passwords
        self._sessions = sessions
        self._throttle = throttle
        self._file = file

    async def prepare(self) -> None:
        """Writes the token if there is no administrator, and removes it if there is one.

        Servers that share the folder start at the same time, maybe: the first writes, the others
        find its token.
        """
        async with self._register.change() as change:
            if await store.administrators(change.connection) > 0:
                await tokens.drop_bootstrap_tokens(change.connection)
                await asyncio.to_thread(self._file.unlink, missing_ok=True)
            elif not await self._is_written(change.connection):
                await self._write(change.connection, self._register.clock())
                log.info("no administrator yet: the token that makes one is in %s", self._file)

    async def _is_written(self, connection: Connection) -> bool:
        try:
            token = (await asyncio.to_thread(self._file.read_text)).strip()
        except (OSError, ValueError):
            return False
        now = self._register.clock()
        found = await tokens.token_owner(connection, digest_of(token), ("bootstrap",), now)
        return found is not None

    async def _write(self, connection: Connection, now: datetime) -> None:
        token = new_token()
        await tokens.drop_bootstrap_tokens(connection)
        await tokens.keep_token(
            connection, digest_of(token), "bootstrap", user_id=None, now=now, ends_at=None
        )
        await asyncio.to_thread(_replace, self._file, token)

    async def make_administrator(
        self, token: str, *, email: str, display_name: str, password: str, caller_address: str
    ) -> Session:
        """Makes the first administrator and begins a session.

        Raises `Unauthenticated` (ONE_TIME_TOKEN_INVALID), `FailedPrecondition` (BOOTSTRAP_CLOSED),
        `InvalidArgument` (PASSWORD_WEAK), `AlreadyExists` (NAME_TAKEN) and what the throttle
        raises.
        """
        digest = digest_of(token)
        # Counted by token, as a reset is: one bucket for all guesses would be emptied by strangers
        # and keep out whoever has the token.
        attempt: AttemptBy = ("bootstrap", digest.hex()[:32], caller_address, "")
        await self._throttle.before(*attempt)
        async with self._register.database.transaction() as connection:
            await _refuse_second(connection)
            now = self._register.clock()
            found = await tokens.token_owner(connection, digest, ("bootstrap",), now)
        if found is None:
            await self._throttle.failed(*attempt)
            raise one_time_token_invalid()
        check_strength(password, email=email, name=display_name)
        password_hash = await self._passwords.hash(password)
        wanted = new_person(
            email=email,
            display_name=display_name,
            roles=("admin",),
            now=now,
            password_hash=password_hash,
        )
        async with self._register.change() as change:
            await _refuse_second(change.connection)
            if not await tokens.spend_token(change.connection, digest):
                raise one_time_token_invalid()
            await tokens.drop_bootstrap_tokens(change.connection)
            person = await add(change.connection, wanted)
            session_id, session = await self._sessions.begin(change.connection, person)
            change.record(
                entry(person.subject, "bootstrap", path_of(person), "created", session=session_id)
            )
        await asyncio.to_thread(self._file.unlink, missing_ok=True)
        await self._throttle.succeeded(*attempt)
        return session


async def _refuse_second(connection: Connection) -> None:
    if await store.administrators(connection) > 0:
        raise FailedPrecondition("BOOTSTRAP_CLOSED", "there is an administrator already")


def _replace(file: Path, token: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(token + "\n")
    fresh.rename(file)
