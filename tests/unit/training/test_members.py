"""Who is enrolled, from the server to the SuperLink through a file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from aegis.errors import Unavailable
from aegis.spiffe import Caller
from aegis_server.training.superlink.members import Members, tell

CALLER = Caller(
    subject="participant:hospital-a",
    spiffe_id="spiffe://aegis.local/participant/hospital-a",
    credential="issuer:1",
)


async def told(file: Path, *answers: Mapping[str, str]) -> None:
    """Tells once what the last of the answers is."""
    task = asyncio.create_task(tell(file, lambda: answers[-1]))
    while not file.exists() or file.stat().st_mtime == 0:
        await asyncio.sleep(0.01)
    task.cancel()


async def test_an_enrolled_certificate_counts(tmp_path: Path) -> None:
    """By its number, which no other certificate of that name has."""
    file = tmp_path / "members"
    await told(file, {"issuer:1": "hospital-a"})
    assert Members(file).refusal(CALLER) is None


async def test_another_certificate_of_an_enrolled_name_does_not_count(tmp_path: Path) -> None:
    """Nor does the certificate of another participant."""
    file = tmp_path / "members"
    await told(file, {"issuer:2": "hospital-a", "issuer:1": "hospital-b"})
    assert Members(file).refusal(CALLER) is not None


async def test_a_change_counts_at_once(tmp_path: Path) -> None:
    """The file is looked at with every question."""
    file = tmp_path / "members"
    await told(file, {"issuer:1": "hospital-a"})
    members = Members(file)
    assert members.refusal(CALLER) is None
    os.utime(file, (0, 0))
    await told(file, {})
    assert members.refusal(CALLER) == "the certificate is not that of an enrolled participant"


async def test_nobody_counts_when_nothing_was_told_for_half_a_minute(tmp_path: Path) -> None:
    """A server that cannot read its database vouches for nobody."""
    file = tmp_path / "members"
    await told(file, {"issuer:1": "hospital-a"})
    os.utime(file, (1000.0, 1000.0))
    assert Members(file, clock=lambda: 1029.0).refusal(CALLER) is None
    assert "too long" in (Members(file, clock=lambda: 1031.0).refusal(CALLER) or "")


def test_nobody_counts_without_a_file_that_can_be_read(tmp_path: Path) -> None:
    """Missing, and broken."""
    file = tmp_path / "members"
    assert Members(file).refusal(CALLER) is not None
    file.write_text("{")
    assert Members(file).refusal(CALLER) is not None


async def test_the_file_gets_old_while_the_registry_is_away(tmp_path: Path) -> None:
    """What was true a while ago is not told as if it were now."""
    file = tmp_path / "members"
    await told(file, {"issuer:1": "hospital-a"})
    os.utime(file, (1000.0, 1000.0))

    def away() -> Mapping[str, str]:
        raise Unavailable("DATABASE_UNAVAILABLE", "away")

    task = asyncio.create_task(tell(file, away))
    await asyncio.sleep(0.05)
    task.cancel()
    assert file.stat().st_mtime == 1000.0
