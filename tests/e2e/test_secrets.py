"""Secrets of programs that run: weak ones keep them from starting, good ones are not to be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from aegis.local import pki, programs
from aegis.local.stack import Stack
from tests.commands import invoke

PASSWORD = "canary-4f9Qm2xZ7tR1"


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        async with Stack(Path(folder), sandbox=True) as running:
            yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    pki.ensure(tmp_path / "pki")
    (tmp_path / "kubeconfig").write_text("{}")
    (tmp_path / "kubeconfig").chmod(0o600)
    return tmp_path


def environment_of(program: str, home: Path) -> dict[str, str]:
    """What a program is told, with a database and a Redis that are not there, in production."""
    url = f"postgresql://aegis:{PASSWORD}@127.0.0.1:1/aegis?connect_timeout=1"
    environment = {
        "aegis_server": lambda: programs.server_environment(
            home,
            database_url=url,
            redis_url=f"redis://:{PASSWORD}@127.0.0.1:1",
            executor_address="127.0.0.1:1",
            witness_address="",
        ),
        "aegis_executor": lambda: programs.executor_environment(
            home,
            database_url=url,
            kubeconfig=home / "kubeconfig",
            cluster="c",
            namespaces=("shop",),
            witness_address="",
            given={},
        ),
        "aegis_witness": lambda: programs.witness_environment(home),
    }[program]()
    return {**environment, "AEGIS_PROFILE": "production"}


def started(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A program that cannot get far."""
    return subprocess.run(
        [sys.executable, "-P", "-m", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("program", ["aegis_server", "aegis_executor", "aegis_witness"])
def test_program_in_production_does_not_start_with_a_key_everybody_can_read(
    home: Path, program: str
):
    """It says which, and what to do; the same in development is only told."""
    environment = environment_of(program, home)
    key = Path(environment["AEGIS_TLS_KEY"])
    key.chmod(0o644)
    done = started(program, environment)
    assert done.returncode == 2
    assert f"SECRET_WORLD_READABLE AEGIS_TLS_KEY: everybody can open {key}" in done.stderr
    assert f"chmod 600 {key}" in done.stderr
    assert "1 secrets cannot be used in production" in done.stderr


@pytest.mark.parametrize("program", ["aegis_server", "aegis_executor"])
def test_password_is_in_no_line_of_a_program_that_cannot_reach_its_database(
    home: Path, program: str
):
    """Whether it came in the environment or in a file."""
    environment = environment_of(program, home)
    done = started(program, environment)
    name = "AEGIS_DATABASE_URL" if program == "aegis_server" else "AEGIS_EXECUTOR_DATABASE_URL"
    file = home / "url"
    file.write_text(environment.pop(name) + "\n")
    file.chmod(0o600)
    again = started(program, {**environment, f"{name}_FILE": str(file)})
    for each in (done, again):
        assert each.returncode != 0
        assert "SECRET_" not in each.stderr
        assert "canary" not in each.stdout + each.stderr


def processes_of(home: Path) -> Iterator[bytes]:
    """The command lines of whatever was told of this home."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            if str(home).encode() in line + (process / "environ").read_bytes():
                yield line
        except OSError:
            continue


async def test_no_argument_of_a_running_program_is_a_secret(stack: Stack):
    """Everybody on a machine sees arguments."""
    secrets = {
        file.read_bytes().strip() for file in (stack.home / "pki").iterdir() if "key" in file.name
    }
    lines = list(processes_of(stack.home))
    assert {b"aegis_server", b"aegis_executor", b"aegis_witness"} <= set(
        b"\0".join(lines).split(b"\0")
    )
    assert not any(secret in line for line in lines for secret in secrets)


def test_check_of_a_home_finds_what_is_wrong(home: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing at first; then a file that others can read, without showing it."""
    for name in [name for name in os.environ if name.startswith("AEGIS_")]:
        monkeypatch.delenv(name)

    def check(*more: str) -> Result:
        return invoke(["--home", str(home), "secrets", "check", *more])

    assert (check().exit_code, "nothing is wrong" in check().output) == (0, True)
    (home / "pki" / "cache.key").chmod(0o640)
    assert check().exit_code == 0
    assert check("--strict").exit_code == 1
    (home / "pki" / "cache.key").chmod(0o644)
    done = check("--output", "json")
    assert done.exit_code == 1
    (found,) = json.loads(done.stdout)["findings"]
    assert (found["code"], found["setting"]) == ("SECRET_WORLD_READABLE", "AEGIS_CACHE_KEY")
    assert "SECRET_WORLD_READABLE" in check().output


def test_check_of_an_environment_looks_at_that_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """For the machine a program runs on, as its start-up sees it."""
    monkeypatch.setenv("AEGIS_REDIS_URL", "redis://:postgres@cache.example.org")
    result = invoke(["--home", str(tmp_path), "secrets", "check"])
    assert result.exit_code == 1
    assert "SECRET_WEAK" in result.output
    assert "postgres" not in result.output
