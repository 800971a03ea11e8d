"""New passwords: changed by their owner, or set with a token from a mail."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from aegis.errors import NotFound, Unauthenticated
from aegis_server.identity.people import store
from aegis_server.identity.people.accounts import path_of
from aegis_server.identity.people.mail import Mail, Outbox
from aegis_server.identity.people.passwords import Passwords, check_strength
from aegis_server.identity.people.sessions import ANYBODY, AttemptBy, Throttle
from aegis_server.identity.people.store import Person, key_of
from aegis_server.identity.people.tokens import digest_of, new_token
from aegis_server.identity.people.tokens import store as tokens
from aegis_server.identity.register import Register, entry

RESET_LIFETIME = timedelta(minutes=30)


class Resets:
    """Sets passwords."""

    def __init__(
        self, register: Register, passwords: Passwords, throttle: Throttle, outbox: Outbox
    ) -> None:
        self._register = register
        self._passwords = passwords
        self._throttle = throttle
        self._outbox = outbox

    async def request(self, email: str, *, caller_address: str) -> None:
        """Mails a token that sets a new password, if the address is known.

        All that depends on whether it is happens behind the queue. Raises what the throttle does.
        """
        account_key = self._register.key_of_address(key_of(email))
        attempt: AttemptBy = ("reset-request", account_key, caller_address, "")
        await self._throttle.before(*attempt)
        # Every request counts: there is no right and wrong in asking.
        await self._throttle.failed(*attempt)
        self._outbox.put(lambda: self._write(email, account_key))

    async def _write(self, email: str, account_key: str) -> Mail | None:
        token, now = new_token(), self._register.clock()
        async with self._register.deed() as deed:
            # Locked, so that no token is made for what is being deleted, disabled or readdressed.
            person = await store.lock_by_email(deed.connection, email)
            if person is None or person.disabled:
                path = "/identity/users" if person is None else path_of(person)
                details = {"address_key": account_key} if person is None else {}
                deed.record(entry(ANYBODY, "request_reset", path, "ignored", **details))
                return None
            await tokens.keep_token(
                deed.connection,
                digest_of(token),
                "reset",
                user_id=person.user_id,
                now=now,
                ends_at=now + RESET_LIFETIME,
            )
            deed.record(entry(ANYBODY, "request_reset", path_of(person), "mailed"))
        return _mail(person, token)

    async def reset(self, token: str, password: str, *, caller_address: str) -> None:
        """Sets a password with a token, which counts once, and ends every session of the account.

        Raises `Unauthenticated` (ONE_TIME_TOKEN_INVALID), `InvalidArgument` (PASSWORD_WEAK), which
        leaves the token as it is, and what the throttle raises.
        """
        digest = digest_of(token)
        attempt: AttemptBy = ("reset", digest.hex()[:32], caller_address, "")
        await self._throttle.before(*attempt)
        async with self._register.database.transaction() as connection:
            found = await tokens.token_owner(
                connection, digest, ("invitation", "reset"), self._register.clock()
            )
            person = await store.by_id(connection, found[1]) if found and found[1] else None
        if person is None or person.disabled:
            await self._throttle.failed(*attempt)
            raise one_time_token_invalid()
        check_strength(password, email=person.email, name=person.display_name)
        password_hash = await self._passwords.hash(password)
        async with self._register.change() as change:
            current = await store.lock(change.connection, person.user_id)
            if (
                current is None
                or current.disabled
                or not await tokens.spend_token(change.connection, digest)
            ):
                raise one_time_token_invalid()
            await store.update(change.connection, replace(current, password_hash=password_hash))
            # Another mail that is still around must not undo this one.
            await tokens.drop_tokens_of(change.connection, person.user_id)
            await tokens.revoke_sessions(change.connection, person.user_id, self._register.clock())
            change.record(entry(person.subject, "reset_password", path_of(person), "changed"))
        await self._throttle.succeeded(*attempt)

    async def change(
        self,
        user_id: str,
        old_password: str,
        new_password: str,
        *,
        session_id: str,
        caller_address: str,
    ) -> None:
        """Sets a password for who knows the old one, and ends every session but this one.

        Raises `Unauthenticated` (LOGIN_FAILED), `InvalidArgument` (PASSWORD_WEAK) and what the
        throttle raises.
        """
        async with self._register.database.transaction() as connection:
            person = await store.by_id(connection, user_id)
        if person is None:
            raise NotFound("RESOURCE_NOT_FOUND", "this account is gone", resource=user_id)
        account_key = self._register.key_of_address(key_of(person.email))
        attempt: AttemptBy = ("password", account_key, caller_address, "")
        await self._throttle.before(*attempt)
        if not await self._passwords.verify(person.password_hash, old_password):
            await self._throttle.failed(*attempt)
            await self._register.audit.record(
                entry(
                    person.subject,
                    "change_password",
                    path_of(person),
                    "refused",
                    reason="LOGIN_FAILED",
                )
            )
            raise _wrong()
        check_strength(
            new_password, email=person.email, name=person.display_name, field="new_password"
        )
        password_hash = await self._passwords.hash(new_password)
        async with self._register.change() as change:
            current = await store.lock(change.connection, user_id)
            if current is None or current.password_hash != person.password_hash:
                raise _wrong()
            await store.update(change.connection, replace(current, password_hash=password_hash))
            await tokens.drop_tokens_of(change.connection, user_id)
            await tokens.revoke_sessions(
                change.connection, user_id, self._register.clock(), but_for=session_id
            )
            change.record(entry(person.subject, "change_password", path_of(person), "changed"))
        await self._throttle.succeeded(*attempt)


def one_time_token_invalid() -> Unauthenticated:
    """Returns the refusal of a token that is unknown, spent or past its end."""
    return Unauthenticated("ONE_TIME_TOKEN_INVALID", "this token does not count, or no longer")


def _wrong() -> Unauthenticated:
    return Unauthenticated("LOGIN_FAILED", "the old password is another one")


def _mail(person: Person, token: str) -> Mail:
    text = (
        f"Hello {person.display_name or 'there'},\n\n"
        "somebody, probably you, asked to set a new password for your account. This token does\n"
        "it, once, within 30 minutes:\n\n"
        f"    {token}\n\n"
        "In a terminal: aegis password reset, which asks for it.\n"
        "If it was not you, nothing has happened yet and nothing needs to be done.\n"
    )
    return Mail(person.email, "A new password at Aegis", text)
