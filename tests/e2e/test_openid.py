"""A person of another organisation: logged in at a real OpenID provider, in a browser."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import aegis
from tests.e2e.conftest import _wait_until_up, left_behind
from tests.e2e.test_people import answer, run
from tests.idp.provider import IdentityProvider, confirm, install, refuse


@pytest.fixture(scope="module")
def provider(request: pytest.FixtureRequest) -> Iterator[IdentityProvider]:
    served = IdentityProvider(install(request.config.cache.mkdir("idp")))
    try:
        yield served
    finally:
        served.close()


@pytest.fixture(scope="module")
def hospital(provider: IdentityProvider) -> Iterator[Path]:
    """A home in which `aegis up` runs with the provider."""
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        home = Path(folder)
        settings = {
            "issuer": provider.url,
            "audience": "aegis",
            "client_id": "aegis-cli",
            "scopes": ["openid"],
            "roles_claim": "groups",
            "roles": {"platform-team": ["operator"]},
        }
        (home / "oidc.json").write_text(json.dumps(settings))
        process = subprocess.Popen(
            aegis("--home", folder, "up", "--listen", "127.0.0.1:0"),
            env={**os.environ, "AEGIS_OIDC": str(home / "oidc.json")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            _wait_until_up(process, home)
            yield home
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert left_behind(folder) == []


def begin(home: Path) -> tuple[subprocess.Popen[str], str]:
    """`aegis login --oidc`, and the URL it shows."""
    process = subprocess.Popen(
        aegis("--home", str(home), "login", "--oidc", "--output", "json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    first, second = process.stderr.readline(), process.stderr.readline()
    assert re.fullmatch(r"open \S+ and enter the code [A-Z]{4}-[A-Z]{4}\n", first), first
    return process, second.split()[2].rstrip(",")


def test_person_logs_in_at_the_provider_and_may_what_their_group_may(
    hospital: Path, provider: IdentityProvider
):
    """The device flow from code to logout, against forms that a person would fill in."""
    process, url = begin(hospital)
    assert "Success" in confirm(url, person="olga")
    shown, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    subject = json.loads(shown)["subject"]
    assert re.fullmatch("user:oidc-[0-9a-f]{16}", subject)
    file = hospital / "session.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    me = answer(hospital, "whoami")
    assert (me["subject"], me["method"]) == (subject, "oidc")
    assert "role:operator" in me["roles"]
    assert me["expire_time"]
    assert run(hospital, "service-accounts", "list").returncode == 0
    refused = run(hospital, "service-accounts", "create", "mine")
    assert (refused.returncode, "POLICY_DENIED" in refused.stderr) == (1, True)
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "access_ends_at": "2020-01-01T00:00:00+00:00"}))
    assert answer(hospital, "whoami")["subject"] == subject
    renewed = json.loads(file.read_text())
    assert renewed["access_token"] != stored["access_token"]
    listed = run(hospital, "audit", "list", "--output", "json", as_="admin").stdout
    assert "olga" not in listed
    answer(hospital, "logout")
    assert not file.exists()
    assert not provider.has(renewed["refresh_token"])
    assert answer(hospital, "whoami")["subject"] == "user:admin"


def test_person_who_refuses_is_not_logged_in(hospital: Path):
    """Nothing is kept, and the terminal says why."""
    process, url = begin(hospital)
    refuse(url)
    _, complaints = process.communicate(timeout=60)
    assert (process.returncode, "LOGIN_FAILED" in complaints) == (1, True)
    assert "access_denied" in complaints
    assert not (hospital / "session.json").exists()
