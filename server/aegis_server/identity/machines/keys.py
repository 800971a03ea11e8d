"""API keys: made, rotated and revoked. A secret leaves here once and is stored nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from aegis.errors import FailedPrecondition, NotFound
from aegis.serving.database import Connection
from aegis.spiffe import Caller
from aegis_server.identity.machines import store
from aegis_server.identity.machines.accounts import known, locked, path_of
from aegis_server.identity.machines.keytext import KEY_ID, KeyText, new_key
from aegis_server.identity.machines.rights import Rights, check_scopes
from aegis_server.identity.machines.store import ApiKey, ServiceAccount
from aegis_server.identity.register import Register, entry

# Of one account, at the same time.
KEYS_MAX = 64
_LISTED_MAX = 200


class ApiKeys:
    """The keys; `caller` is always who asks."""

    def __init__(self, register: Register, rights: Rights) -> None:
        self._register = register
        self._rights = rights

    async def create(
        self, caller: Caller, account: str, *, scopes: Sequence[str], lifetime: timedelta
    ) -> tuple[ApiKey, KeyText]:
        """Makes a key.

        Raises `NotFound` (RESOURCE_NOT_FOUND), `FailedPrecondition` (STATE_CONFLICT) and
        `PermissionDenied` (POLICY_DENIED, SCOPE_INSUFFICIENT).
        """
        check_scopes(caller, path_of(account), scopes)
        fresh = new_key()
        async with self._register.change() as change:
            owner = await self._owner(change.connection, caller, account)
            key = await self._insert(change.connection, fresh, owner, scopes, lifetime)
            change.record(
                entry(
                    caller.subject,
                    "create",
                    _path_of(key),
                    "created",
                    scopes=" ".join(key.scopes),
                    ends_at=_text(key.ends_at),
                )
            )
        return key, fresh

    async def list(self, account: str) -> list[ApiKey]:
        """Returns the keys of an account, newest first; raises `NotFound`.

        All that count, and of those that ended the newest: no key is hidden behind others.
        """
        async with self._register.database.transaction() as connection:
            await known(connection, account)
            now = self._register.clock()
            return await store.keys_of(connection, account, now=now, limit=_LISTED_MAX)

    async def rotate(
        self, caller: Caller, key_id: str, *, overlap: timedelta, lifetime: timedelta
    ) -> tuple[ApiKey, KeyText]:
        """Makes a successor with the same scopes; the old key counts for `overlap` at most.

        Raises what `create` raises, and STATE_CONFLICT for a key that does not count any more.
        """
        fresh = new_key()
        async with self._register.change() as change:
            old = await _locked(change.connection, key_id)
            check_scopes(caller, _path_of(old), old.scopes)
            now = self._register.clock()
            if not old.counts(now):
                raise FailedPrecondition(
                    "STATE_CONFLICT",
                    "a key that does not count any more has no successor: create one",
                    resource=_path_of(old),
                    state="revoked" if old.revoked_at is not None else "expired",
                )
            owner = await self._owner(change.connection, caller, old.service_account)
            old = await store.end_key(
                change.connection, key_id, ends_at=min(old.ends_at, now + overlap), revoked_at=None
            )
            key = await self._insert(change.connection, fresh, owner, old.scopes, lifetime)
            change.record(
                entry(
                    caller.subject,
                    "rotate",
                    _path_of(old),
                    "rotated",
                    successor=key.key_id,
                    old_ends_at=_text(old.ends_at),
                    ends_at=_text(key.ends_at),
                )
            )
        return key, fresh

    async def revoke(self, caller: Caller, key_id: str) -> ApiKey:
        """Ends a key at once; one that has ended stays as it is. Raises `NotFound`."""
        async with self._register.change() as change:
            key = await _locked(change.connection, key_id)
            now = self._register.clock()
            if key.counts(now):
                key = await store.end_key(
                    change.connection, key_id, ends_at=key.ends_at, revoked_at=now
                )
                change.record(entry(caller.subject, "revoke", _path_of(key), "revoked"))
        return key

    async def _owner(self, connection: Connection, caller: Caller, account: str) -> ServiceAccount:
        owner = await locked(connection, account)
        # A key of an account is as good as its roles.
        self._rights.check_roles(caller, path_of(account), owner.roles)
        return owner

    async def _insert(
        self,
        connection: Connection,
        fresh: KeyText,
        owner: ServiceAccount,
        scopes: Sequence[str],
        lifetime: timedelta,
    ) -> ApiKey:
        now = self._register.clock()
        if await store.counting_keys(connection, owner.name, now) >= KEYS_MAX:
            raise FailedPrecondition(
                "STATE_CONFLICT",
                f"an account has at most {KEYS_MAX} keys that count: revoke one",
                resource=path_of(owner.name),
                state="full",
            )
        return await store.insert_key(
            connection,
            fresh.key_id,
            fresh.digest,
            service_account=owner.name,
            scopes=list(scopes),
            now=now,
            ends_at=now + lifetime,
        )


async def _locked(connection: Connection, key_id: str) -> ApiKey:
    key = await store.lock_key(connection, key_id) if KEY_ID.fullmatch(key_id) else None
    if key is None:
        path = f"/identity/service-accounts/-/keys/{key_id}"
        raise NotFound("RESOURCE_NOT_FOUND", f"no API key {key_id}", resource=path)
    return key


def _path_of(key: ApiKey) -> str:
    return f"{path_of(key.service_account)}/keys/{key.key_id}"


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
