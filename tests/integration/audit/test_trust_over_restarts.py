"""A trust bundle that was in use is not followed by an older one, also over a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.auditing import Written

from aegis.local import pki
from aegis.local.keys import write_bundle
from aegis.serving.database import Database
from aegis.serving.trust_records import last_recorded, record_trust
from aegis.serving.trusting import LiveTrust, Seen, TrustFiles
from aegis.trust import TrustBundle, load_private_key, signature_of
from aegis_witness.memory import keep, kept_in

SERVER = "server:aegis"


class Bundle:
    """The bundle of a home, and who may sign the next one."""

    def __init__(self, folder: Path, name: str = "pki") -> None:
        self.folder = folder / name
        pki.ensure(self.folder)
        self.path = self.folder / "trust.json"
        self.files = TrustFiles(self.path, self.folder / "trust-root.pub")

    def sign_next(self) -> None:
        """As any change does."""
        before = TrustBundle.load(self.path)
        root = load_private_key(self.folder / "trust-root.key")
        write_bundle(self.path, TrustBundle(before.keys, before.version + 1), root, [])

    def now(self) -> tuple[bytes, bytes]:
        """What is in place."""
        return self.path.read_bytes(), signature_of(self.path).read_bytes()

    def put(self, bundle: bytes, signature: bytes) -> None:
        """Puts it back, as somebody who can write the files."""
        self.path.write_bytes(bundle)
        signature_of(self.path).write_bytes(signature)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


async def while_they_run(*parts: Coroutine[Any, Any, None]) -> None:
    """Lets parts of a program do what they do at its start."""
    running = [asyncio.create_task(part) for part in parts]
    await asyncio.sleep(0.3)
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_older_bundle_keeps_a_program_with_a_log_from_starting(
    database: Database, bundle: Bundle
):
    """Its own record says what was in use; the newest one, and later ones, are good."""
    audit = Written(database).audit
    older = bundle.now()
    bundle.sign_next()
    assert await last_recorded(audit, schema="aegis", actor=SERVER) is None
    await while_they_run(audit.run(), record_trust(LiveTrust(bundle.files), audit, actor=SERVER))
    kept = await last_recorded(audit, schema="aegis", actor=SERVER)
    LiveTrust(bundle.files).refuse_older(kept)
    newest = bundle.now()
    bundle.put(*older)
    with pytest.raises(ValueError, match="is version 1, and 2 was in use already"):
        LiveTrust(bundle.files).refuse_older(kept)
    bundle.put(*newest)
    bundle.sign_next()
    LiveTrust(bundle.files).refuse_older(kept)


async def test_older_bundle_keeps_the_witness_from_starting(bundle: Bundle, tmp_path: Path):
    """It has no log, but a folder."""
    older = bundle.now()
    bundle.sign_next()
    assert kept_in(tmp_path) is None
    await while_they_run(keep(LiveTrust(bundle.files), tmp_path))
    bundle.put(*older)
    with pytest.raises(ValueError, match="in use already"):
        LiveTrust(bundle.files).refuse_older(kept_in(tmp_path))
    (tmp_path / "trust-in-use").write_text("nothing\n")
    with pytest.raises(ValueError, match="does not say"):
        kept_in(tmp_path)


def test_versions_of_another_root_say_nothing(bundle: Bundle, tmp_path: Path):
    """A new root begins where it likes; without one, versions are what anybody wrote."""
    for _ in range(3):
        bundle.sign_next()
    kept = LiveTrust(bundle.files).seen
    LiveTrust(Bundle(tmp_path, "other").files).refuse_older(kept)
    LiveTrust(TrustFiles(bundle.path)).refuse_older(Seen("", 99))
