"""People, from an empty installation to a session that has ended, as they do it themselves."""

from __future__ import annotations

import email
import fcntl
import json
import stat
import subprocess
import time
from pathlib import Path

import grpc
import pytest

from aegis.channel import Bearer, Identity, connect
from aegis.errors import AegisError, from_rpc_error
from aegis.local.state import server_address, token_address
from aegis.v1 import (
    identity_pb2,
    identity_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    user_pb2,
    user_pb2_grpc,
)
from tests.commands import aegis, command

ADA = ("ada@example.org", "seven purple otters")
BOB = ("bob@example.org", "nine green herons")


def run(
    home: Path, *arguments: str, stdin: str = "", as_: str = ""
) -> subprocess.CompletedProcess[str]:
    who = ("--as", as_) if as_ else ()
    return command("--home", home, *who, *arguments, stdin=stdin)


def answer(home: Path, *arguments: str, stdin: str = "", as_: str = "") -> dict[str, object]:
    done = run(home, *arguments, "--output", "json", stdin=stdin, as_=as_)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def last_token(home: Path) -> str:
    """The token in the mail that was sent last."""
    deadline = time.monotonic() + 10
    while not (files := sorted((home / "mail").glob("*.eml"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    body = email.message_from_bytes(files[-1].read_bytes()).get_payload(decode=True)
    files[-1].unlink()
    return next(line.strip() for line in body.decode().splitlines() if line.startswith("    "))


async def evaluate(home: Path, token: str) -> policy_pb2.EvaluateResponse:
    """Asks for a decision on the port for people; raises the server's refusal."""
    bearer = Bearer(Identity.of("admin", home).roots, token)
    async with connect(str(token_address(home)), bearer, retries=False) as channel:
        request = policy_pb2.EvaluateRequest(subject="user:a", resource="/x", action="read")
        try:
            return await policy_pb2_grpc.PolicyServiceStub(channel).Evaluate(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


@pytest.fixture(scope="module")
def ada(home: Path) -> Path:
    """The home, with its first administrator logged in."""
    done = answer(
        home, "bootstrap", "--email", ADA[0], "--name", "Ada", "--password-stdin", stdin=ADA[1]
    )
    assert done["logged_in"]
    return home


async def test_person_logs_in_calls_and_is_out_two_seconds_after_logging_out(ada: Path):
    """Bootstrap, login, a decision over the port without certificates, logout."""
    assert not (ada / "blobs" / "bootstrap-token").exists()
    logged_in = answer(ada, "login", "--email", ADA[0], "--password-stdin", stdin=ADA[1])
    file = ada / "session.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = json.loads(file.read_text())["access_token"]
    assert (await evaluate(ada, token)).effect == policy_pb2.EFFECT_DENY
    me = answer(ada, "whoami")
    assert (me["subject"], me["method"]) == (logged_in["subject"], "session")
    answer(ada, "logout")
    assert not file.exists()
    deadline = time.monotonic() + 2
    with pytest.raises(AegisError) as refusal:
        while time.monotonic() < deadline:
            await evaluate(ada, token)
    assert refusal.value.reason == "CREDENTIAL_REVOKED"
    assert answer(ada, "whoami")["subject"] == "user:admin"


def test_person_is_invited_joins_and_is_removed(ada: Path):
    """An administrator makes the account, its owner sets the password and changes it."""
    user = answer(ada, "users", "create", BOB[0], "--name", "Bob", "--role", "viewer", as_="admin")
    user_id = str(user["user_id"])
    assert user["state"] == "STATE_INVITED"
    token = last_token(ada)
    answer(ada, "password", "reset", "--password-stdin", stdin=f"{token}\n{BOB[1]}\n")
    answer(ada, "login", "--email", BOB[0], "--password-stdin", stdin=BOB[1])
    assert answer(ada, "profile", "set", "--name", "Robert")["display_name"] == "Robert"
    refused = run(ada, "users", "list")
    assert (refused.returncode, "POLICY_DENIED" in refused.stderr) == (1, True)
    answer(ada, "password", "change", "--password-stdin", stdin=f"{BOB[1]}\ntwo yellow newts\n")
    answer(ada, "password", "forgot", "--email", BOB[0])
    answer(ada, "password", "reset", "--password-stdin", stdin=f"{last_token(ada)}\n{BOB[1]}\n")
    out = run(ada, "profile", "show")
    assert (out.returncode, "CREDENTIAL_REVOKED" in out.stderr) == (1, True)
    answer(ada, "users", "update", user_id, "--role", "auditor", as_="admin")
    assert answer(ada, "users", "disable", user_id, as_="admin")["state"] == "STATE_DISABLED"
    failed = run(ada, "login", "--email", BOB[0], "--password-stdin", stdin=BOB[1])
    assert (failed.returncode, "LOGIN_FAILED" in failed.stderr) == (1, True)
    assert answer(ada, "users", "enable", user_id, as_="admin")["roles"] == ["auditor"]
    answer(ada, "users", "delete", user_id, "--yes", as_="admin")
    assert user_id not in run(ada, "users", "list", as_="admin").stdout


def test_second_bootstrap_is_refused(ada: Path):
    """There is no way back to an installation without an administrator."""
    (ada / "blobs" / "bootstrap-token").write_text("invented")
    try:
        done = run(ada, "bootstrap", "--email", "eve@example.org", "--password-stdin", stdin=BOB[1])
    finally:
        (ada / "blobs" / "bootstrap-token").unlink()
    assert "BOOTSTRAP_CLOSED" in done.stderr


def test_two_commands_at_once_refresh_once(ada: Path):
    """Neither ends the session of the other, although both find the access token at its end."""
    answer(ada, "login", "--email", ADA[0], "--password-stdin", stdin=ADA[1])
    file = ada / "session.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "access_ends_at": "2020-01-01T00:00:00+00:00"}))
    commands = [
        subprocess.Popen(aegis("--home", str(ada), "whoami"), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [command.communicate(timeout=60)[0] for command in commands]
    assert [command.returncode for command in commands] == [0, 0, 0]
    assert all("session" in text for text in answers)
    assert json.loads(file.read_text())["refresh_token"] != stored["refresh_token"]
    answer(ada, "logout", "--everywhere")


def test_login_waits_for_a_command_that_refreshes(ada: Path):
    """Else the session from before is put back over the new one, and commands run as who was."""
    answer(ada, "login", "--email", ADA[0], "--password-stdin", stdin=ADA[1])
    before = (ada / "session.json").read_text()
    with (ada / "session.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = subprocess.Popen(
            aegis("--home", str(ada), "login", "--email", ADA[0], "--password-stdin"),
            stdin=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            command.communicate(ADA[1], timeout=5)
        assert (ada / "session.json").read_text() == before
    assert command.wait(60) == 0
    assert (ada / "session.json").read_text() != before


def test_logout_of_a_session_that_is_gone_forgets_it(ada: Path):
    """The refusal is shown, and nobody is logged in with what no server knows."""
    answer(ada, "login", "--email", ADA[0], "--password-stdin", stdin=ADA[1])
    file = ada / "session.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "refresh_token": "forgotten"}))
    done = run(ada, "logout")
    assert (done.returncode, "TOKEN_INVALID" in done.stderr) == (1, True)
    assert not file.exists()


async def test_port_for_people_takes_nobody_without_a_token(ada: Path):
    """Neither who shows nothing nor who has a certificate: nobody asks for one there."""
    roots = Identity.of("admin", ada).roots
    for proof in (Bearer(roots), Identity.of("admin", ada)):
        async with connect(str(token_address(ada)), proof, retries=False) as channel:
            stub = identity_pb2_grpc.IdentityServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=10)
        assert from_rpc_error(refusal.value).reason == "CREDENTIALS_MISSING"


async def test_certificate_has_no_profile(ada: Path):
    """Programs are not people; and the other port still asks for a certificate."""
    async with connect(str(server_address(ada)), Identity.of("admin", ada)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await user_pb2_grpc.UserServiceStub(channel).GetProfile(
                user_pb2.GetProfileRequest(), timeout=10
            )
        assert from_rpc_error(refusal.value).reason == "RESOURCE_NOT_FOUND"
    bearer = Bearer(Identity.of("admin", ada).roots, "x")
    async with connect(str(server_address(ada)), bearer, retries=False) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await identity_pb2_grpc.IdentityServiceStub(channel).WhoAmI(
                identity_pb2.WhoAmIRequest(), timeout=10
            )
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
