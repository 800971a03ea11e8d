"""ServiceAccountService: wire to values and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import service_account_pb2 as pb
from aegis.v1 import service_account_pb2_grpc
from aegis_policy.paths import fault_of_pattern
from aegis_server.identity.machines.accounts import ServiceAccounts
from aegis_server.identity.machines.keys import ApiKeys
from aegis_server.identity.machines.store import ApiKey, ServiceAccount

_ACTION = re.compile(r"\*|[a-z][a-z_]*")


class ServiceAccountService(service_account_pb2_grpc.ServiceAccountServiceServicer):
    """Accounts of programs and their keys."""

    def __init__(self, accounts: ServiceAccounts, keys: ApiKeys, deeds: Deeds) -> None:
        self._accounts = accounts
        self._keys = keys
        self._deeds = deeds

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: Context
    ) -> pb.CreateServiceAccountResponse:
        """Makes an account."""
        if not request.description.isprintable():
            raise _field_invalid("description", "one line of printable characters")
        account = await self._deeds.finish(
            self._accounts.create(
                current_call().caller,
                request.name,
                description=request.description,
                roles=tuple(request.roles),
            )
        )
        return pb.CreateServiceAccountResponse(service_account=_account(account))

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: Context
    ) -> pb.ListServiceAccountsResponse:
        """A page of accounts, by name."""
        after = decode_token(request.page_token, "service-accounts")
        size = page_size(request.page_size)
        found = await self._accounts.list(
            after=after if isinstance(after, str) else "", limit=size + 1
        )
        more = len(found) > size
        return pb.ListServiceAccountsResponse(
            service_accounts=map(_account, found[:size]),
            next_page_token=encode_token(found[size - 1].name, "service-accounts") if more else "",
        )

    async def UpdateServiceAccount(
        self, request: pb.UpdateServiceAccountRequest, context: Context
    ) -> pb.UpdateServiceAccountResponse:
        """Replaces the roles, disables or enables."""
        account = await self._deeds.finish(
            self._accounts.update(
                current_call().caller,
                request.name,
                roles=tuple(request.roles),
                disabled=request.disabled,
                etag=request.etag,
            )
        )
        return pb.UpdateServiceAccountResponse(service_account=_account(account))

    async def DeleteServiceAccount(
        self, request: pb.DeleteServiceAccountRequest, context: Context
    ) -> pb.DeleteServiceAccountResponse:
        """Deletes an account with its keys."""
        await self._deeds.finish(self._accounts.delete(current_call().caller, request.name))
        return pb.DeleteServiceAccountResponse()

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: Context
    ) -> pb.CreateApiKeyResponse:
        """Makes a key and shows it."""
        _check_scopes(request.scopes)
        key, fresh = await self._deeds.finish(
            self._keys.create(
                current_call().caller,
                request.service_account,
                scopes=tuple(request.scopes),
                lifetime=timedelta(seconds=request.lifetime_seconds),
            )
        )
        return pb.CreateApiKeyResponse(api_key=_key(key), secret=fresh.text())

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: Context
    ) -> pb.ListApiKeysResponse:
        """The keys of an account."""
        found = await self._keys.list(request.service_account)
        return pb.ListApiKeysResponse(api_keys=map(_key, found))

    async def RotateApiKey(
        self, request: pb.RotateApiKeyRequest, context: Context
    ) -> pb.RotateApiKeyResponse:
        """Makes a successor and shows it."""
        key, fresh = await self._deeds.finish(
            self._keys.rotate(
                current_call().caller,
                request.key_id,
                overlap=timedelta(seconds=request.overlap_seconds),
                lifetime=timedelta(seconds=request.lifetime_seconds),
            )
        )
        return pb.RotateApiKeyResponse(api_key=_key(key), secret=fresh.text())

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, context: Context
    ) -> pb.RevokeApiKeyResponse:
        """Ends a key."""
        key = await self._deeds.finish(self._keys.revoke(current_call().caller, request.key_id))
        return pb.RevokeApiKeyResponse(api_key=_key(key))


def _check_scopes(scopes: Sequence[str]) -> None:
    """Raises `InvalidArgument` for a scope that could never cover anything."""
    for position, scope in enumerate(scopes):
        action, _, pattern = scope.partition(":")
        fault = "" if _ACTION.fullmatch(action) else 'expected an action such as "read", or "*"'
        if fault := fault or fault_of_pattern(pattern):
            raise _field_invalid(f"scopes[{position}]", fault)


def _field_invalid(field: str, text: str) -> InvalidArgument:
    violation = FieldViolation(field, text)
    return InvalidArgument("FIELD_INVALID", f"{field}: {text}", violations=[violation])


def _account(account: ServiceAccount) -> pb.ServiceAccount:
    message = pb.ServiceAccount(
        name=account.name,
        subject=account.subject,
        description=account.description,
        roles=account.roles,
        disabled=account.disabled,
        etag=account.etag,
    )
    message.create_time.FromDatetime(account.created_at)
    return message


def _key(key: ApiKey) -> pb.ApiKey:
    message = pb.ApiKey(key_id=key.key_id, service_account=key.service_account, scopes=key.scopes)
    message.create_time.FromDatetime(key.created_at)
    message.expire_time.FromDatetime(key.ends_at)
    if key.last_used_at is not None:
        message.last_use_time.FromDatetime(key.last_used_at)
    if key.revoked_at is not None:
        message.revoke_time.FromDatetime(key.revoked_at)
    return message
