"""Service accounts: made, changed and deleted by administrators."""

from __future__ import annotations

from collections.abc import Sequence

from aegis.errors import Aborted, AlreadyExists, NotFound
from aegis.serving.database import Connection
from aegis.spiffe import Caller
from aegis_server.identity.machines import store
from aegis_server.identity.machines.rights import Rights
from aegis_server.identity.machines.store import ServiceAccount
from aegis_server.identity.register import Change, Register, entry


class ServiceAccounts:
    """The accounts; `caller` is always who asks."""

    def __init__(self, register: Register, rights: Rights) -> None:
        self._register = register
        self._rights = rights

    async def create(
        self, caller: Caller, name: str, *, description: str, roles: Sequence[str]
    ) -> ServiceAccount:
        """Makes an account that has no key yet.

        Raises `AlreadyExists` (NAME_TAKEN) and `PermissionDenied` (POLICY_DENIED).
        """
        self._rights.check_roles(caller, path_of(name), roles)
        if self._rights.known_to_rules(f"service:{name}"):
            raise AlreadyExists("NAME_TAKEN", f"the rules give rights to service:{name} already")
        async with self._register.change() as change:
            account = await store.insert_account(
                change.connection,
                name,
                description=description,
                roles=sorted(set(roles)),
                now=self._register.clock(),
            )
            if account is None:
                raise AlreadyExists("NAME_TAKEN", f"there is a service account {name} already")
            listed = " ".join(account.roles)
            change.record(entry(caller.subject, "create", path_of(name), "created", roles=listed))
        return account

    async def list(self, *, after: str, limit: int) -> list[ServiceAccount]:
        """Returns accounts by name."""
        async with self._register.database.transaction() as connection:
            return await store.page_of_accounts(connection, after=after, limit=limit)

    async def update(
        self, caller: Caller, name: str, *, roles: Sequence[str], disabled: bool, etag: str
    ) -> ServiceAccount:
        """Gives an account these roles and no other; a disabled one keeps its keys, unusable.

        Raises `NotFound` (RESOURCE_NOT_FOUND), `Aborted` (ETAG_MISMATCH) and `PermissionDenied`
        (POLICY_DENIED, SCOPE_INSUFFICIENT).
        """
        if not disabled:
            self._rights.check_roles(caller, path_of(name), roles)
        async with self._register.change() as change:
            before = await locked(change.connection, name)
            if etag != before.etag:
                raise Aborted(
                    "ETAG_MISMATCH", "the account changed since it was read", current=before.etag
                )
            # Also to one that is disabled: it would count as soon as somebody enables it.
            given = set(roles) - set(before.roles)
            self._rights.check_gift(caller, path_of(name), given)
            after = await store.update_account(
                change.connection, name, roles=sorted(set(roles)), disabled=disabled
            )
            _record_update(change, caller.subject, before, after)
        return after

    async def delete(self, caller: Caller, name: str) -> None:
        """Removes an account with its keys; raises `NotFound` (RESOURCE_NOT_FOUND)."""
        async with self._register.change() as change:
            before = await locked(change.connection, name)
            await store.delete_account(change.connection, name)
            listed = " ".join(before.roles)
            change.record(
                entry(caller.subject, "delete", path_of(name), "deleted", roles_before=listed)
            )


def path_of(name: str) -> str:
    """Returns the canonical path of an account."""
    return f"/identity/service-accounts/{name}"


async def locked(connection: Connection, name: str) -> ServiceAccount:
    """Returns an account and locks it; raises `NotFound` (RESOURCE_NOT_FOUND)."""
    return _found(await store.lock_account(connection, _askable(name)), name)


async def known(connection: Connection, name: str) -> ServiceAccount:
    """Returns an account; raises `NotFound` (RESOURCE_NOT_FOUND)."""
    return _found(await store.account(connection, _askable(name)), name)


def _askable(name: str) -> str:
    # Whoever invents a name gets a refusal, not an error of the database (NUL).
    return name if name.isprintable() else ""


def _found(account: ServiceAccount | None, name: str) -> ServiceAccount:
    if account is None:
        raise NotFound("RESOURCE_NOT_FOUND", f"no service account {name}", resource=path_of(name))
    return account


def _record_update(
    change: Change, actor: str, before: ServiceAccount, after: ServiceAccount
) -> None:
    path = path_of(after.name)
    if before.roles != after.roles:
        roles = {"roles_before": " ".join(before.roles), "roles_after": " ".join(after.roles)}
        change.record(entry(actor, "change_roles", path, "changed", **roles))
    if before.disabled != after.disabled:
        verb = "disable" if after.disabled else "enable"
        change.record(entry(actor, verb, path, f"{verb}d"))
