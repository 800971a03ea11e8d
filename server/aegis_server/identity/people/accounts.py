"""Accounts of people: made, changed, disabled and deleted by administrators.

Two things cannot be done: to leave nobody who can administrate, and to take that right from
oneself. Both are looked at behind the lock all changes take, so two administrators who remove each
other at the same moment do so one after the other, and the second is refused. And whom the rules
let write accounts without being administrator makes nobody one, and takes no administrator's mail.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from aegis.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound
from aegis.serving.database import Connection
from aegis.spiffe import Caller
from aegis_server.identity.machines.rights import Rights
from aegis_server.identity.people import store
from aegis_server.identity.people.mail import Mail, Outbox
from aegis_server.identity.people.store import Person
from aegis_server.identity.people.tokens import digest_of, new_token
from aegis_server.identity.people.tokens import store as tokens
from aegis_server.identity.register import Change, Register, entry

INVITATION_LIFETIME = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to become of an account; None leaves a thing as it is."""

    email: str | None = None
    display_name: str | None = None
    roles: tuple[str, ...] | None = None
    disabled: bool | None = None
    etag: str = ""


class Accounts:
    """The accounts; `caller` is always who asks."""

    def __init__(self, register: Register, rights: Rights, outbox: Outbox) -> None:
        self._register = register
        self._rights = rights
        self._outbox = outbox

    async def create(
        self, caller: Caller, *, email: str, display_name: str, roles: Sequence[str]
    ) -> Person:
        """Makes an account without a password, and mails an invitation that sets one.

        Raises `AlreadyExists` (NAME_TAKEN) and `PermissionDenied` (POLICY_DENIED,
        SCOPE_INSUFFICIENT).
        """
        wanted = new_person(
            email=email, display_name=display_name, roles=roles, now=self._register.clock()
        )
        self._rights.check_gift(caller, path_of(wanted), wanted.roles)
        async with self._register.change() as change:
            person = await add(change.connection, wanted)
            token = await self._invite(change.connection, person)
            listed = _listed(person)
            change.record(entry(caller.subject, "create", path_of(person), "created", roles=listed))
        self._outbox.put(lambda: _letter(_invitation(person, token)))
        return person

    async def get(self, user_id: str) -> Person:
        """Returns an account; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        async with self._register.database.transaction() as connection:
            return _found(await store.by_id(connection, user_id), user_id)

    async def list(self, *, after: int, limit: int) -> list[Person]:
        """Returns accounts in the order in which they were made."""
        async with self._register.database.transaction() as connection:
            return await store.page(connection, after=after, limit=limit)

    async def update(self, caller: Caller, user_id: str, wishes: Wishes) -> Person:
        """Changes an account; a disabled one loses its sessions.

        Raises `NotFound` (RESOURCE_NOT_FOUND), `Aborted` (ETAG_MISMATCH), `AlreadyExists`
        (NAME_TAKEN), `FailedPrecondition` (LAST_ADMIN, OWN_ADMIN_RIGHT) and `PermissionDenied`
        (POLICY_DENIED, SCOPE_INSUFFICIENT).
        """
        token = ""
        async with self._register.change() as change:
            before = await _locked(change.connection, user_id)
            if wishes.etag and wishes.etag != before.etag:
                raise Aborted(
                    "ETAG_MISMATCH", "the account changed since it was read", current=before.etag
                )
            after = _with(before, wishes)
            if _opens_more(before, after):
                self._rights.check_gift(caller, path_of(after), after.roles)
            await _keep_an_administrator(change.connection, caller.subject, before, after)
            if not await store.address_is_free(change.connection, after.email, but_for=user_id):
                raise _taken()
            stored = await store.update(change.connection, after)
            if stored.disabled:
                await tokens.revoke_sessions(change.connection, user_id, self._register.clock())
            if stored.email != before.email:
                # What was mailed to the old address may have reached somebody else.
                await tokens.drop_tokens_of(change.connection, user_id)
                if stored.password_hash is None:
                    token = await self._invite(change.connection, stored)
            _record_update(change, caller.subject, before, stored)
        if token:
            self._outbox.put(lambda: _letter(_invitation(stored, token)))
        return stored

    async def delete(self, caller: Caller, user_id: str) -> None:
        """Erases an account with everything personal.

        Raises `NotFound` (RESOURCE_NOT_FOUND) and `FailedPrecondition` (LAST_ADMIN,
        OWN_ADMIN_RIGHT).
        """
        async with self._register.change() as change:
            before = await _locked(change.connection, user_id)
            await _keep_an_administrator(change.connection, caller.subject, before, None)
            await store.delete(change.connection, user_id)
            listed = _listed(before)
            change.record(
                entry(caller.subject, "delete", path_of(before), "deleted", roles_before=listed)
            )

    async def _invite(self, connection: Connection, person: Person) -> str:
        token, now = new_token(), self._register.clock()
        await tokens.keep_token(
            connection,
            digest_of(token),
            "invitation",
            user_id=person.user_id,
            now=now,
            ends_at=now + INVITATION_LIFETIME,
        )
        return token


def new_person(
    *,
    email: str,
    display_name: str,
    roles: Sequence[str],
    now: datetime,
    password_hash: str | None = None,
) -> Person:
    """Returns an account that is not stored yet, under a pseudonym of its own."""
    pseudonym = base64.b32encode(secrets.token_bytes(7)).decode().lower()[:10]
    return Person(
        user_id=f"u-{pseudonym}",
        number=0,
        email=email,
        display_name=display_name,
        roles=sorted(set(roles)),
        disabled=False,
        password_hash=password_hash,
        created_at=now,
        last_login_at=None,
        revision=1,
    )


async def add(connection: Connection, person: Person) -> Person:
    """Stores an account; raises `AlreadyExists` (NAME_TAKEN)."""
    stored = await store.insert(connection, person)
    if stored is None:
        raise _taken()
    return stored


def path_of(person: Person) -> str:
    """Returns the canonical path of an account."""
    return f"/identity/users/{person.user_id}"


def _with(person: Person, wishes: Wishes) -> Person:
    return replace(
        person,
        email=person.email if wishes.email is None else wishes.email,
        display_name=(person.display_name if wishes.display_name is None else wishes.display_name),
        roles=person.roles if wishes.roles is None else sorted(set(wishes.roles)),
        disabled=person.disabled if wishes.disabled is None else wishes.disabled,
    )


def _opens_more(before: Person, after: Person) -> bool:
    """Says whether somebody may be who could not before: by a role, by coming back, or by reading
    the mail that sets a new password.
    """
    return (
        not set(after.roles) <= set(before.roles)
        or (before.disabled and not after.disabled)
        or before.email != after.email
    )


async def _keep_an_administrator(
    connection: Connection, actor: str, before: Person, after: Person | None
) -> None:
    if not before.can_administrate or (after is not None and after.can_administrate):
        return
    if actor == before.subject:
        raise FailedPrecondition(
            "OWN_ADMIN_RIGHT", "nobody takes this right from themselves: ask another administrator"
        )
    if await store.administrators(connection, but_for=before.user_id) == 0:
        raise FailedPrecondition("LAST_ADMIN", "nobody would be left who can administrate")


def _record_update(change: Change, actor: str, before: Person, after: Person) -> None:
    path = path_of(after)
    if before.roles != after.roles:
        roles = {"roles_before": _listed(before), "roles_after": _listed(after)}
        change.record(entry(actor, "change_roles", path, "changed", **roles))
    if before.disabled != after.disabled:
        verb = "disable" if after.disabled else "enable"
        change.record(entry(actor, verb, path, f"{verb}d"))
    changed = [
        name for name in ("email", "display_name") if getattr(before, name) != getattr(after, name)
    ]
    if changed:
        change.record(entry(actor, "update", path, "changed", fields=" ".join(changed)))


def _listed(person: Person) -> str:
    return " ".join(person.roles)


async def _locked(connection: Connection, user_id: str) -> Person:
    return _found(await store.lock(connection, user_id), user_id)


def _found(person: Person | None, user_id: str) -> Person:
    if person is None:
        path = f"/identity/users/{user_id}"
        raise NotFound("RESOURCE_NOT_FOUND", f"no account {user_id}", resource=path)
    return person


def _taken() -> AlreadyExists:
    return AlreadyExists("NAME_TAKEN", "another account has this address")


def _invitation(person: Person, token: str) -> Mail:
    text = (
        f"Hello {person.display_name or 'there'},\n\n"
        "an account was made for you. Set your password with this token, which counts once and\n"
        "for seven days:\n\n"
        f"    {token}\n\n"
        "In a terminal: aegis password reset, which asks for it. Then: aegis login\n"
    )
    return Mail(person.email, "Your account at Aegis", text)


async def _letter(mail: Mail) -> Mail:
    return mail
