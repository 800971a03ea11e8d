"""The trust bundle in use, and `aegis keys`, which changes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.commands import invoke

from aegis import dsse
from aegis.algorithms import load_signing_key
from aegis.cli.audit_copy import trust_of
from aegis.errors import Unauthenticated
from aegis.local import pki
from aegis.serving import trusting
from aegis.serving.trusting import LiveTrust, TrustFiles
from aegis.trust import ACTION_REQUEST, TrustBundle, signature_of


class Home:
    """A home, and the commands on its bundle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        pki.ensure(folder / "pki")
        self.bundle = folder / "pki" / "trust.json"
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        self.files = TrustFiles(self.bundle, folder / "pki" / "trust-root.pub", self.secrets)

    def __call__(self, *arguments: str, exit_code: int = 0) -> str:
        """Runs a command; returns all it printed."""
        result = invoke(["--home", str(self.folder), "keys", *arguments])
        assert result.exit_code == exit_code, result.output
        return " ".join(result.output.split())

    def made(self, name: str, *more: str) -> tuple[str, Path]:
        """A new key: its id and its file."""
        file = self.folder / name
        answer = self("generate", "--out", str(file), *more, "--output", "json")
        return json.loads(answer)["key_id"], file

    def registered(self, name: str, *more: str) -> tuple[str, Path]:
        """A new key that counts."""
        key, file = self.made(name)
        self("register", f"{file}.pub", "--owner", "automation:deploy", *more)
        return key, file

    def states(self) -> dict[str, str]:
        """Every key of the bundle, and whether it counts."""
        shown: Any = json.loads(self("list", "--bundle", str(self.bundle), "--output", "json"))
        return {key["key_id"]: key["state"] for key in shown["keys"]}

    def put(self, bundle: bytes, signature: bytes) -> None:
        """Puts a bundle in place, as somebody who can write the files."""
        self.bundle.write_bytes(bundle)
        signature_of(self.bundle).write_bytes(signature)

    def now(self) -> tuple[bytes, bytes]:
        """What is in place."""
        return self.bundle.read_bytes(), signature_of(self.bundle).read_bytes()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
async def live(home: Home, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiveTrust]:
    monkeypatch.setattr(trusting, "_LOOK_SECONDS", 0.01)
    trust = LiveTrust(home.files)
    task = asyncio.create_task(trust.run())
    yield trust
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(trust: LiveTrust, version: int) -> None:
    async with asyncio.timeout(5):
        while trust.version != version:
            await asyncio.sleep(0.01)


def counts(trust: TrustBundle, file: Path) -> bool:
    """Whether what a key signs now is taken."""
    envelope = dsse.sign("text/plain", b"payload", load_signing_key(file))
    try:
        dsse.verify(envelope, "text/plain", trust.finder(ACTION_REQUEST, datetime.now(UTC)))
    except Unauthenticated:
        return False
    return True


async def test_key_counts_once_it_is_registered_and_no_more_once_it_is_revoked(
    home: Home, live: LiveTrust
) -> None:
    """Without a restart; and an older bundle, well signed, does not bring it back."""
    assert live.version == 1
    key, file = home.registered("deploy.key")
    await until(live, 2)
    assert counts(live, file)
    with_the_key = home.now()
    home("revoke", key)
    await until(live, 3)
    assert not counts(live, file)
    home.put(*with_the_key)
    await asyncio.sleep(0.1)
    assert (live.version, counts(live, file)) == (3, False)


@pytest.mark.parametrize("damage", ["unsigned", "altered", "garbage", "gone", "lost"])
async def test_bundle_that_cannot_be_used_leaves_the_last_good_one(
    home: Home, live: LiveTrust, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so once, and the next good one counts."""
    key, file = home.registered("deploy.key")
    await until(live, 2)
    bundle, signature = home.now()
    if damage in ("gone", "lost"):
        home.bundle.unlink()
        if damage == "lost":
            # A link that cannot even be looked behind.
            home.bundle.symlink_to("x" * 300)
    elif damage == "unsigned":
        signature_of(home.bundle).unlink()
    else:
        altered = bundle.replace(b'"version": 2', b'"version": 9') if damage == "altered" else b"?"
        home.put(altered, signature)
    async with asyncio.timeout(5):
        while "keeping trust bundle 2" not in caplog.text:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert counts(live, file)
    assert caplog.text.count("keeping trust bundle 2") == 1
    home.bundle.unlink(missing_ok=True)
    home.put(bundle, signature)
    home("revoke", key)
    await until(live, 3)
    assert not counts(live, file)


def test_bound_of_two_seconds_is_kept() -> None:
    """The file is looked at every second, as the documentation says."""
    assert trusting._LOOK_SECONDS == 1.0


def test_program_does_not_start_with_a_bundle_nobody_signed(home: Home) -> None:
    """At the start there is no last good one."""
    signature_of(home.bundle).unlink()
    with pytest.raises(ValueError, match="is not signed"):
        LiveTrust(home.files)


def test_folder_of_secrets_that_is_not_there_is_named(home: Home) -> None:
    """A typo does not silently refuse everybody."""
    files = TrustFiles(home.bundle, home.files.root, home.folder / "nowhere")
    with pytest.raises(ValueError, match="there is no folder"):
        LiveTrust(files)


def test_rotated_key_counts_beside_its_successor_until_the_overlap_ends(home: Home) -> None:
    """Both count now; with no overlap the old one is over at once."""
    old, old_file = home.registered("old.key")
    new, new_file = home.made("new.key")
    home("rotate", old, f"{new_file}.pub", "--overlap-hours", "24")
    trust = LiveTrust(home.files)
    assert counts(trust, old_file)
    assert counts(trust, new_file)
    newest, newest_file = home.made("newest.key")
    home("rotate", new, f"{newest_file}.pub", "--overlap-hours", "0")
    states = home.states()
    assert (states[old], states[new], states[newest]) == ("counts", "expired", "counts")
    owners = {key.key_id: key.owner for key in LiveTrust(home.files).keys}
    assert owners[newest] == "automation:deploy"


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "hmac-sha256"])
def test_other_algorithms_are_made_and_registered_alike(home: Home, algorithm: str) -> None:
    """A shared secret counts where it was put into the folder."""
    key, file = home.made("other.key", "--algorithm", algorithm)
    assert file.stat().st_mode & 0o777 == 0o600
    if algorithm == "hmac-sha256":
        home("register", str(file), "--owner", "automation:legacy")
        assert not counts(LiveTrust(home.files), file)
        (home.secrets / key).write_bytes(file.read_bytes())
        (home.secrets / key).chmod(0o600)
    else:
        home("register", f"{file}.pub", "--owner", "automation:legacy")
    assert counts(LiveTrust(home.files), file)


def test_public_key_in_another_form_is_not_registered_as_a_shared_secret(home: Home) -> None:
    """What everybody may read is no secret, as long as it may be: an OpenSSH or a DER key."""
    public = Ed25519PrivateKey.generate().public_key()
    before = home.now()
    for encoding, form in (
        (Encoding.OpenSSH, PublicFormat.OpenSSH),
        (Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ):
        file = home.folder / "someone.pub"
        file.write_bytes(public.public_bytes(encoding, form))
        file.chmod(0o644)
        answer = home("register", str(file), "--owner", "automation:deploy", exit_code=2)
        assert "is no secret: others may read it" in answer
    assert home.now() == before


def test_refusals_say_what_next_and_change_nothing(home: Home) -> None:
    """Whatever is wrong, bundle and signature stay."""
    key, file = home.registered("deploy.key")
    gone, _ = home.registered("gone.key")
    home("revoke", gone)
    _, p256 = home.made("p256.key", "--algorithm", "ecdsa-p256")
    before = home.now()
    owner = ("--owner", "automation:deploy")
    for arguments, said in (
        (("register", f"{file}.pub", *owner), "in the bundle already"),
        (("register", f"{p256}.pub", *owner, "--usage", "audit-checkpoint"), "is not ed25519"),
        (("register", f"{p256}.pub", *owner, "--usage", "anything"), "is no use of a key"),
        (("register", f"{p256}.pub", "--owner", "nobody"), "is no use of a key"),
        (("register", str(p256), *owner), "holds no public key"),
        (("register", str(home.folder / "nowhere"), *owner), "cannot be registered"),
        (("rotate", "0" * 16, f"{p256}.pub"), "no key 0000000000000000"),
        (("rotate", gone, f"{p256}.pub"), "is revoked"),
        (("revoke", gone), "is revoked already"),
        (("revoke", key, "--root-key", str(file) + ".pub"), "the root cannot sign"),
        (("generate", "--out", str(file)), "is there already"),
        (("list", "--bundle", str(file)), "no trust bundle"),
    ):
        answer = home(*arguments, exit_code=2)
        assert said in answer, answer
        assert "next:" in answer
    assert home.now() == before
    assert [each.name for each in home.bundle.parent.glob(".*")] == []


def test_bundle_changed_by_hand_is_signed_again(home: Home) -> None:
    """As the next version."""
    home.bundle.write_text(home.bundle.read_text().replace("automation:autopilot", "automation:x"))
    with pytest.raises(ValueError, match="aegis keys sign"):
        LiveTrust(home.files)
    home("sign")
    trust = LiveTrust(home.files)
    assert trust.version == 2
    assert trust.of_owner(ACTION_REQUEST, "automation:x")


def test_key_that_somebody_wrote_into_the_bundle_is_not_signed_with_the_next_change(
    home: Home,
) -> None:
    """The root signs what it signed before and one change, unless it is asked for more."""
    key, _ = home.registered("deploy.key")
    _, next_file = home.made("next.key")
    _, mallory = home.made("mallory.key")
    home.bundle.write_text(
        home.bundle.read_text().replace("automation:autopilot", "automation:mallory")
    )
    before = home.now()
    for arguments in (
        ("register", f"{mallory}.pub", "--owner", "automation:deploy"),
        ("rotate", key, f"{next_file}.pub"),
        ("revoke", key),
    ):
        assert "is not signed by the root" in home(*arguments, exit_code=2)
    assert home.now() == before


def test_copy_is_verified_with_the_shared_secrets_of_the_environment(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them such a key counts for nothing there, either."""
    key, file = home.made("legacy.key", "--algorithm", "hmac-sha256")
    home("register", str(file), "--owner", "automation:legacy")
    (home.secrets / key).write_bytes(file.read_bytes())
    (home.secrets / key).chmod(0o600)
    monkeypatch.delenv("AEGIS_SHARED_SECRETS", raising=False)
    assert not counts(trust_of(home.folder, home.bundle), file)
    monkeypatch.setenv("AEGIS_SHARED_SECRETS", str(home.secrets))
    assert counts(trust_of(home.folder, home.bundle), file)
