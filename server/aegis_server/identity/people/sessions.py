"""Sessions: from a password to tokens, and what becomes of them.

A session is a family of refresh tokens. Each is spent for the next, and only its digest is stored.
A token that is used a second time has been copied, by whom cannot be told: the whole family ends,
so the thief is out at once and the owner logs in again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias

from aegis.errors import AegisError, Unauthenticated, Unavailable
from aegis.serving.database import Connection
from aegis_server.identity.people import store
from aegis_server.identity.people.accounts import path_of
from aegis_server.identity.people.passwords import Passwords
from aegis_server.identity.people.store import Person, key_of
from aegis_server.identity.people.tokens import digest_of, new_token
from aegis_server.identity.people.tokens import store as tokens
from aegis_server.identity.people.tokens.store import RefreshToken
from aegis_server.identity.register import Register, entry
from aegis_server.identity.tokens import AccessTokens

log = logging.getLogger(__name__)

REFRESH_LIFETIME = timedelta(days=7)
ANYBODY = "anonymous:unknown"

_SWEEP_SECONDS = 3600.0
# What has ended is kept for a day, so that its holder is told why and not that it never was.
_KEPT = timedelta(days=1)

# What is guessed at: a password to log in or to change it, a token from a mail, a mail to somebody,
# the secret of an invitation.
Attempt: TypeAlias = Literal["bootstrap", "enrol", "login", "password", "reset", "reset-request"]
# With the key of the account, the caller's host and its device token.
AttemptBy: TypeAlias = tuple[Attempt, str, str, str]


class Throttle(Protocol):
    """Slows guessing down.

    `account_key` stands for an account or an address without naming it, known or not. A device
    token says that this device has logged in to the account before.
    """

    async def before(
        self, kind: Attempt, account_key: str, caller_address: str, device_token: str
    ) -> None:
        """Raises `ResourceExhausted` (RATE_LIMITED) or `Unavailable` (LIMITER_UNAVAILABLE)."""

    async def failed(
        self, kind: Attempt, account_key: str, caller_address: str, device_token: str
    ) -> None:
        """Counts an attempt that was wrong."""

    async def succeeded(
        self, kind: Attempt, account_key: str, caller_address: str, device_token: str
    ) -> str:
        """Forgets failures; returns the device token that this device shows next time."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a person holds; the tokens are kept out of the repr."""

    subject: str
    access_token: str = field(repr=False)
    access_ends_at: datetime
    refresh_token: str = field(repr=False)
    refresh_ends_at: datetime
    device_token: str = field(default="", repr=False)


class Sessions:
    """Begins, goes on with and ends sessions. Run `run()` as a task to forget old ones."""

    def __init__(
        self,
        register: Register,
        passwords: Passwords,
        access_tokens: AccessTokens,
        throttle: Throttle,
    ) -> None:
        self._register = register
        self._passwords = passwords
        self._access_tokens = access_tokens
        self._throttle = throttle

    async def login(
        self, email: str, password: str, *, device_token: str, caller_address: str
    ) -> Session:
        """Begins a session.

        Raises `Unauthenticated` (LOGIN_FAILED), the same and after the same time whatever was
        wrong, and what the throttle raises.
        """
        account_key = self._register.key_of_address(key_of(email))
        attempt: AttemptBy = ("login", account_key, caller_address, device_token)
        await self._throttle.before(*attempt)
        async with self._register.database.transaction() as connection:
            person = await store.by_email(connection, email)
        stored = person.password_hash if person is not None else None
        right = await self._passwords.verify(stored, password)
        session = await self._begin_for(person, password) if person and right else None
        if session is None:
            await self._throttle.failed(*attempt)
            await self._record_failure(person, account_key)
            raise Unauthenticated("LOGIN_FAILED", "no account has this address and password")
        return replace(session, device_token=await self._throttle.succeeded(*attempt))

    async def _begin_for(self, person: Person, password: str) -> Session | None:
        """Begins a session unless the account was changed while its password was verified."""
        stored = password_hash = person.password_hash or ""
        if self._passwords.outdated(stored):
            password_hash = await self._passwords.hash(password)
        async with self._register.deed() as deed:
            now = await store.lock(deed.connection, person.user_id)
            if now is None or now.disabled or now.password_hash != stored:
                return None
            await store.note_login(
                deed.connection,
                person.user_id,
                at=self._register.clock(),
                password_hash=password_hash,
            )
            session_id, session = await self.begin(deed.connection, person)
            deed.record(
                entry(person.subject, "login", path_of(person), "accepted", session=session_id)
            )
        return session

    async def begin(self, connection: Connection, person: Person) -> tuple[str, Session]:
        """Stores a new session in an open transaction; returns its id and its first tokens."""
        session_id = f"s-{secrets.token_hex(12)}"
        now = self._register.clock()
        await tokens.begin_session(
            connection, session_id, person.user_id, now=now, ends_at=now + REFRESH_LIFETIME
        )
        return session_id, await self._next(connection, session_id, person.subject)

    async def _next(self, connection: Connection, session_id: str, subject: str) -> Session:
        refresh_token, ends_at = new_token(), self._register.clock() + REFRESH_LIFETIME
        await tokens.keep_refresh_token(connection, digest_of(refresh_token), session_id, ends_at)
        access_token, access_ends_at = self._access_tokens.issue(subject, session_id)
        return Session(subject, access_token, access_ends_at, refresh_token, ends_at)

    async def _record_failure(self, person: Person | None, account_key: str) -> None:
        if person is None:
            path, details = "/identity/users", {"address_key": account_key}
        else:
            path, details = path_of(person), {}
        await self._register.audit.record(
            entry(ANYBODY, "login", path, "refused", reason="LOGIN_FAILED", **details)
        )

    async def refresh(self, refresh_token: str) -> Session:
        """Spends a refresh token for a new pair.

        Raises `Unauthenticated`: TOKEN_INVALID, TOKEN_EXPIRED, CREDENTIAL_REVOKED, or
        REFRESH_TOKEN_REUSED, behind which the session has ended.
        """
        digest = digest_of(refresh_token)
        async with self._register.deed() as deed:
            found = await tokens.lock_refresh_token(deed.connection, digest)
            refusal = self._refusal(found)
            if found is not None and refusal is None:
                await tokens.spend_refresh_token(deed.connection, digest, self._register.clock())
                return await self._next(deed.connection, found.session_id, f"user:{found.user_id}")
        # Ending a session is a change, which takes another lock first: so in a transaction anew.
        if found is not None and refusal is not None and refusal.reason == "REFRESH_TOKEN_REUSED":
            await self._end_family(found)
        raise refusal or _unknown()

    def _refusal(self, found: RefreshToken | None) -> AegisError | None:
        if found is None:
            return _unknown()
        if found.revoked_at is not None:
            return _revoked("session", "this session has ended")
        if found.spent_at is not None:
            return Unauthenticated(
                "REFRESH_TOKEN_REUSED", "this token was used before: the session is ended"
            )
        if found.disabled:
            return _revoked("account", "this account is disabled")
        if found.ends_at <= self._register.clock():
            return _expired()
        return None

    async def _end_family(self, found: RefreshToken) -> None:
        async with self._register.change() as change:
            now = self._register.clock()
            if await tokens.revoke_session(change.connection, found.session_id, now):
                change.record(
                    entry(
                        ANYBODY,
                        "refresh",
                        f"/identity/users/{found.user_id}",
                        "revoked",
                        reason="REFRESH_TOKEN_REUSED",
                        session=found.session_id,
                    )
                )

    async def logout(self, refresh_token: str, *, everywhere: bool) -> None:
        """Ends the session of a token, spent or not, or every session of its account.

        Raises `Unauthenticated`: TOKEN_INVALID; and for every session CREDENTIAL_REVOKED or
        TOKEN_EXPIRED, because a token that opens nothing any more ends nothing but its own.
        """
        digest = digest_of(refresh_token)
        # Anybody may ask, so first without the lock that all changes take.
        async with self._register.database.transaction() as connection:
            found = await tokens.lock_refresh_token(connection, digest)
        if not self._has_to_end(found, everywhere=everywhere):
            return
        async with self._register.change() as change:
            found = await tokens.lock_refresh_token(change.connection, digest)
            if found is None:
                raise _unknown()
            now = self._register.clock()
            if everywhere:
                ended = await tokens.revoke_sessions(change.connection, found.user_id, now)
            else:
                ended = int(await tokens.revoke_session(change.connection, found.session_id, now))
            if ended:
                subject = f"user:{found.user_id}"
                path = f"/identity/users/{found.user_id}"
                change.record(entry(subject, "logout", path, "ended", sessions=str(ended)))

    def _has_to_end(self, found: RefreshToken | None, *, everywhere: bool) -> bool:
        if found is None:
            raise _unknown()
        if not everywhere:
            return found.revoked_at is None
        if found.revoked_at is not None:
            raise _revoked("session", "this session has ended")
        if found.ends_at <= self._register.clock():
            raise _expired()
        return True

    async def run(self) -> None:
        """Forgets sessions and tokens a day after their end, until cancelled."""
        while True:
            try:
                async with self._register.database.transaction() as connection:
                    await tokens.drop_ended(connection, self._register.clock() - _KEPT)
            except Unavailable as error:
                log.warning("old sessions stay for an hour more: %s", error)
            await asyncio.sleep(_SWEEP_SECONDS)


def _unknown() -> Unauthenticated:
    return Unauthenticated("TOKEN_INVALID", "no session has this token", check="refresh_token")


def _expired() -> Unauthenticated:
    return Unauthenticated("TOKEN_EXPIRED", "this token is past its end")


def _revoked(credential: str, message: str) -> Unauthenticated:
    return Unauthenticated("CREDENTIAL_REVOKED", message, credential=credential)
