"""A real OpenID provider as a process, and a browser that does what a person would there."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import httpx
import pytest

_HERE = Path(__file__).parent
_PACKAGE = ("package.json", "package-lock.json")
_INSTALL_SECONDS = 170


class IdentityProvider:
    """`server.mjs`, which ends when we do; `url` is its issuer."""

    def __init__(self, installed: Path) -> None:
        self._log = (installed / "log").open("ab")
        self._process = subprocess.Popen(
            ["node", "server.mjs"],
            cwd=installed,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, (installed / "log").read_text()

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._log.close()

    def has(self, refresh_token: str) -> bool:
        """Says whether a refresh token still counts there."""
        fields = {
            "client_id": "aegis-cli",
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
        }
        return httpx.post(f"{self.url}/token", data=fields).status_code == httpx.codes.OK


def install(cache: Path) -> Path:
    """Installs the provider below `cache`, once for each lock file; skips without Node."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(
                f"{program} is not installed, and the OpenID provider of the tests needs it"
            )
    lock = hashlib.sha256((_HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = cache / lock
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*_PACKAGE, "server.mjs"):
        shutil.copy(_HERE / name, folder)
    if not (folder / "installed").exists():
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"npm ci failed:\n{done.stderr}"
        (folder / "installed").touch()
    return folder


def confirm(url: str, *, person: str) -> str:
    """Follows the pages behind a verification URL as `person`; returns the last one's text."""
    with httpx.Client(follow_redirects=True, timeout=10) as browser:
        page = browser.get(url)
        for _ in range(8):
            form = re.search(r'<form[^>]*action="([^"]*)"', page.text)
            if form is None:
                return page.text
            fields = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page.text))
            if 'name="login"' in page.text:
                fields |= {"login": person, "password": "whatever"}
            page = browser.post(page.url.join(unescape(form[1])), data=fields)
    raise AssertionError(f"the pages of the provider do not come to an end: {page.url}")


def refuse(url: str) -> None:
    """Opens a verification URL and aborts."""
    with httpx.Client(follow_redirects=True, timeout=10) as browser:
        page = browser.get(url)
        for answer in ({}, {"abort": "yes"}):
            form = re.search(r'<form[^>]*action="([^"]*)"', page.text)
            assert form is not None, page.text
            fields = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', page.text))
            if answer:
                fields.pop("confirm", None)
            page = browser.post(page.url.join(unescape(form[1])), data={**fields, **answer})
