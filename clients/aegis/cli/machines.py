"""`aegis service-accounts` and `aegis api-keys`: programs without a certificate.

A key is shown once, or written to a file that only its owner can read; no command takes one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from aegis.cli.paging import every
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    as_dict,
    channel,
    err,
    fail,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.errors import NotFound
from aegis.v1 import service_account_pb2 as pb
from aegis.v1 import service_account_pb2_grpc

service_accounts = typer.Typer(no_args_is_help=True, help="Accounts of programs.")
api_keys = typer.Typer(no_args_is_help=True, help="What programs without a certificate call with.")

_DAY_SECONDS = 24 * 3600
_HOUR_SECONDS = 3600

NameArgument = Annotated[str, typer.Argument(help="e.g. nightly; its subject is service:nightly.")]
KeyArgument = Annotated[str, typer.Argument(help="Public part of the key: aegis_THIS_…")]
RolesOption = Annotated[
    list[str] | None,
    typer.Option("--role", help="admin, operator, auditor, viewer or participant; repeatable."),
]
DaysOption = Annotated[int, typer.Option(min=1, max=366, help="How long the key counts.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Write the key there, readable by you alone; do not show it."),
]


@service_accounts.command("list")
def list_accounts(output: OutputOption = Output.table) -> None:
    """List accounts by name."""
    _show(run(_all()), output, title="service accounts")


@service_accounts.command("create")
def create_account(
    name: NameArgument,
    description: Annotated[str, typer.Option(help="What the program does.")] = "",
    role: RolesOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Make an account; it can do nothing before it has a key."""
    request = pb.CreateServiceAccountRequest(name=name, description=description, roles=role or [])
    _show([run(_ask("CreateServiceAccount", request)).service_account], output)


@service_accounts.command("show")
def show_account(name: NameArgument, output: OutputOption = Output.table) -> None:
    """Show an account and its keys."""
    account, keys = run(_with_keys(name))
    if output is Output.json:
        show_json({**as_dict(account), "api_keys": [as_dict(key) for key in keys]})
        return
    _show([account], output)
    out.print()
    _show_keys(keys, output)


@service_accounts.command("update")
def update_account(
    name: NameArgument,
    role: RolesOption = None,
    no_roles: Annotated[bool, typer.Option("--no-roles", help="Take every role away.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Give an account these roles and no other."""
    if not role and not no_roles:
        fail("nothing to change", "see `aegis service-accounts update --help`")
    _show([run(_updated(name, roles=[] if no_roles else role or []))], output)


@service_accounts.command("disable")
def disable_account(name: NameArgument, output: OutputOption = Output.table) -> None:
    """Keep a program out; its keys stop to count within two seconds."""
    _show([run(_updated(name, disabled=True))], output)


@service_accounts.command("enable")
def enable_account(name: NameArgument, output: OutputOption = Output.table) -> None:
    """Let a program in again, with the keys it has."""
    _show([run(_updated(name, disabled=False))], output)


@service_accounts.command("delete")
def delete_account(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Delete an account with its keys; there is no way back."""
    if not yes:
        typer.confirm(f"Delete {name} and its keys?", abort=True)
    run(_ask("DeleteServiceAccount", pb.DeleteServiceAccountRequest(name=name)))
    if output is Output.json:
        show_json({"deleted": name})
    else:
        out.print(f"{name} is deleted", highlight=False, markup=False)


@api_keys.command("list")
def list_keys(account: NameArgument, output: OutputOption = Output.table) -> None:
    """List the keys of an account, newest first."""
    request = pb.ListApiKeysRequest(service_account=account)
    _show_keys(run(_ask("ListApiKeys", request)).api_keys, output)


@api_keys.command("create")
def create_key(
    account: NameArgument,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="ACTION:RESOURCE it may be used for at most, e.g. read:/training/**"),
    ] = None,
    days: DaysOption = 90,
    file: OutOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Make a key and show it, this once."""
    request = pb.CreateApiKeyRequest(
        service_account=account, scopes=scope or [], lifetime_seconds=days * _DAY_SECONDS
    )
    _hand_over("CreateApiKey", request, file, output)


@api_keys.command("rotate")
def rotate_key(
    key: KeyArgument,
    overlap_hours: Annotated[
        int, typer.Option(min=0, max=720, help="How long the old key still counts.")
    ] = 24,
    days: DaysOption = 90,
    file: OutOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Make the successor of a key, with the same scopes, and show it, this once."""
    request = pb.RotateApiKeyRequest(
        key_id=key,
        overlap_seconds=overlap_hours * _HOUR_SECONDS,
        lifetime_seconds=days * _DAY_SECONDS,
    )
    _hand_over("RotateApiKey", request, file, output)


@api_keys.command("revoke")
def revoke_key(key: KeyArgument, output: OutputOption = Output.table) -> None:
    """End a key within two seconds."""
    request = pb.RevokeApiKeyRequest(key_id=key)
    _show_keys([run(_ask("RevokeApiKey", request)).api_key], output)


def _hand_over(method: str, request: Any, file: Path | None, output: Output) -> None:
    """Asks for a key and puts it where it was wanted."""
    if file is None:
        answer = run(_ask(method, request, retries=False))
        if output is Output.json:
            show_json(answer)
            return
        _show_keys([answer.api_key], output)
        err.print("the key, shown this once:", highlight=False)
        typer.echo(answer.secret)
        return
    with _private(file) as descriptor:
        answer = run(_ask(method, request, retries=False))
        os.write(descriptor, f"{answer.secret}\n".encode())
    _show_keys([answer.api_key], output)


@contextmanager
def _private(file: Path) -> Iterator[int]:
    """Opens a file that replaces `file` at the end, and is made before there is a key to lose."""
    scratch = file.with_name(f".{file.name}.new")
    try:
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}", "name another file with --out")
    try:
        yield descriptor
        os.fsync(descriptor)
        scratch.replace(file)
    finally:
        os.close(descriptor)
        scratch.unlink(missing_ok=True)


def _show(
    accounts: Sequence[pb.ServiceAccount], output: Output, *, title: str = "service account"
) -> None:
    if output is Output.json:
        one = title == "service account"
        show_json(accounts[0] if one else accounts)
        return
    show_table(
        title,
        ["name", "roles", "state", "created", "description"],
        [
            (
                account.name,
                " ".join(account.roles),
                "disabled" if account.disabled else "active",
                when(account, "create_time"),
                account.description,
            )
            for account in accounts
        ],
        folding=["roles", "description"],
        spare=["created", "description"],
    )


def _show_keys(keys: Sequence[pb.ApiKey], output: Output) -> None:
    if output is Output.json:
        show_json(list(keys))
        return
    show_table(
        "API keys",
        ["key", "account", "scopes", "until", "last use", "revoked"],
        [
            (
                key.key_id,
                key.service_account,
                " ".join(key.scopes) or "whatever the account may",
                f"{key.expire_time.ToDatetime():%Y-%m-%d %H:%M}",
                when(key, "last_use_time"),
                when(key, "revoke_time"),
            )
            for key in keys
        ],
        folding=["scopes"],
        spare=["account", "last use"],
    )


async def _ask(method: str, request: Any, *, retries: bool = True) -> Any:
    # Without retries where a repeat would make a second key that nobody sees.
    async with channel(retries=retries) as opened:
        stub = service_account_pb2_grpc.ServiceAccountServiceStub(opened)
        return await getattr(stub, method)(request, timeout=SECONDS)


async def _all() -> list[pb.ServiceAccount]:
    return await every(
        _ask, "ListServiceAccounts", pb.ListServiceAccountsRequest(), "service_accounts"
    )


async def _one(name: str) -> pb.ServiceAccount:
    for account in await _all():
        if account.name == name:
            return account
    raise NotFound("RESOURCE_NOT_FOUND", f"no service account {name}")


async def _with_keys(name: str) -> tuple[pb.ServiceAccount, Sequence[pb.ApiKey]]:
    account = await _one(name)
    answer = await _ask("ListApiKeys", pb.ListApiKeysRequest(service_account=name))
    return account, answer.api_keys


async def _updated(
    name: str, *, roles: Sequence[str] | None = None, disabled: bool | None = None
) -> pb.ServiceAccount:
    before = await _one(name)
    request = pb.UpdateServiceAccountRequest(
        name=name,
        roles=before.roles if roles is None else roles,
        disabled=before.disabled if disabled is None else disabled,
        etag=before.etag,
    )
    answer: pb.UpdateServiceAccountResponse = await _ask("UpdateServiceAccount", request)
    return answer.service_account
