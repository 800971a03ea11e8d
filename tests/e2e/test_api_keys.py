"""A program without a certificate, from its account to a rotated key, as its admin does it."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
from pathlib import Path

import grpc

from aegis.bearer import ApiKey
from aegis.channel import Identity, connect
from aegis.errors import from_rpc_error
from aegis.local.state import token_address
from aegis.v1 import identity_pb2, identity_pb2_grpc
from tests.commands import command
from tests.e2e.test_people import answer, run


def with_key(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as whoever the key in the environment belongs to."""
    return command("--home", home, *arguments, environment=environment)


async def who(channel: grpc.aio.Channel) -> str:
    """The subject, or the reason of the refusal."""
    stub = identity_pb2_grpc.IdentityServiceStub(channel)
    try:
        return (await stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=10)).subject
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error).reason


async def test_program_calls_with_a_key_that_is_rotated_under_it(home: Path, tmp_path: Path):
    """The file is looked at before each call: neither the program nor its channel is restarted."""
    made = answer(
        home, "service-accounts", "create", "nightly", "--description", "Reports", "--role",
        "viewer", as_="admin",
    )  # fmt: skip
    assert made["subject"] == "service:nightly"
    file = tmp_path / "key"
    (first,) = answer(
        home, "api-keys", "create", "nightly", "--out", str(file), "--days", "1", as_="admin"
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith(f"aegis_{first['key_id']}_")
    assert first["key_id"] not in run(home, "policy", "show").stdout
    key = ApiKey(Identity.of("admin", home).roots, file)
    async with connect(str(token_address(home)), key, retries=False) as channel:
        assert await who(channel) == "service:nightly"
        rotate = ("api-keys", "rotate", first["key_id"], "--overlap-hours", "0")
        (second,) = await asyncio.to_thread(answer, home, *rotate, "--out", str(file), as_="admin")
        assert second["key_id"] != first["key_id"]
        assert await who(channel) == "service:nightly"
        file.unlink()
        assert await who(channel) == "service:nightly"
        await asyncio.to_thread(answer, home, "api-keys", "revoke", second["key_id"], as_="admin")
        assert await who(channel) == "CREDENTIAL_REVOKED"


def test_command_line_calls_with_the_key_of_the_environment(home: Path, tmp_path: Path):
    """From a file or as it is; what no scope covers is refused, and --as wins."""
    answer(home, "service-accounts", "create", "watcher", "--role", "auditor", as_="admin")
    created = run(home, "api-keys", "create", "watcher", "--scope", "read:/audit", as_="admin")
    secret = created.stdout.splitlines()[-1]
    assert secret.startswith("aegis_")
    (tmp_path / "key").write_text(secret)
    for environment in (
        {"AEGIS_API_KEY": secret},
        {"AEGIS_API_KEY_FILE": str(tmp_path / "key"), "AEGIS_API_KEY": "not looked at"},
    ):
        me = json.loads(with_key(home, "whoami", "--output", "json", **environment).stdout)
        assert (me["subject"], me["method"]) == ("service:watcher", "api-key")
    assert with_key(home, "audit", "list", AEGIS_API_KEY=secret).returncode == 0
    refused = with_key(home, "users", "list", AEGIS_API_KEY=secret)
    assert (refused.returncode, "SCOPE_INSUFFICIENT" in refused.stderr) == (1, True)
    assert secret not in refused.stderr
    missing = with_key(home, "whoami", AEGIS_API_KEY_FILE=str(tmp_path / "none"))
    assert (missing.returncode, "none" in missing.stderr) == (2, True)
    as_admin = with_key(home, "--as", "admin", "whoami", AEGIS_API_KEY=secret)
    assert "user:admin" in as_admin.stdout


def test_account_is_shown_changed_and_deleted(home: Path):
    """And what there is not is not found."""
    answer(home, "service-accounts", "create", "helper", "--role", "viewer", as_="admin")
    run(home, "api-keys", "create", "helper", as_="admin")
    shown = answer(home, "service-accounts", "show", "helper", as_="admin")
    assert [len(shown["api_keys"]), shown["disabled"]] == [1, False]
    assert (
        shown["api_keys"][0]["key_id"]
        in run(home, "service-accounts", "show", "helper", as_="admin").stdout
    )
    updated = answer(
        home, "service-accounts", "update", "helper", "--role", "operator", as_="admin"
    )
    assert updated["roles"] == ["operator"]
    stopped = answer(home, "service-accounts", "disable", "helper", as_="admin")
    assert (stopped["disabled"], stopped["roles"]) == (True, ["operator"])
    assert not answer(home, "service-accounts", "enable", "helper", as_="admin")["disabled"]
    assert "helper" in run(home, "service-accounts", "list", as_="admin").stdout
    answer(home, "service-accounts", "delete", "helper", "--yes", as_="admin")
    gone = run(home, "service-accounts", "show", "helper", as_="admin")
    assert (gone.returncode, "RESOURCE_NOT_FOUND" in gone.stderr) == (1, True)
    taken = run(home, "service-accounts", "create", "coordinator", as_="admin")
    assert (taken.returncode, "NAME_TAKEN" in taken.stderr) == (1, True)


def test_key_that_cannot_be_written_is_not_made(home: Path, tmp_path: Path):
    """Else its secret would be lost."""
    answer(home, "service-accounts", "create", "unlucky", as_="admin")
    path = str(tmp_path / "no" / "folder")
    done = run(home, "api-keys", "create", "unlucky", "--out", path, as_="admin")
    assert (done.returncode, "cannot be written" in done.stderr) == (2, True)
    assert "none" in run(home, "api-keys", "list", "unlucky", as_="admin").stdout
    refused = run(home, "api-keys", "create", "nobody", "--out", str(tmp_path / "k"), as_="admin")
    assert refused.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_person_cannot_log_in_where_there_is_no_provider(home: Path):
    """And is told how they can."""
    done = run(home, "login", "--oidc")
    assert (done.returncode, "no identity provider" in done.stderr) == (2, True)
