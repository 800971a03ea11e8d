"""`aegis standing`, `aegis quarantine` and `aegis review` against a served room, over mTLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from prometheus_client import CollectorRegistry
from tests.judged import Judged, reckoned
from typer.testing import CliRunner

from aegis.cli.main import app
from aegis.local import pki
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Doors, by_certificate
from aegis.serving.metrics import CallMetrics
from aegis.serving.port import Port
from aegis.serving.tls import TlsFiles
from aegis.v1 import standing_pb2_grpc
from aegis_server.access import Access
from aegis_server.policy.decisions import Decisions
from aegis_server.policy.revisions import Revisions
from aegis_server.review.analytics.analytics import Analytics
from aegis_server.review.case import Verdict
from aegis_server.review.findings import Finding
from aegis_server.review.standing.counting import Counts
from aegis_server.review.standing.quarantines import Quarantines
from aegis_server.review.standing.service import StandingService
from aegis_server.review.standing.standings import Standings
from aegis_server.review.store import RoundKey

NOW = datetime.now(UTC) - timedelta(hours=5)
BAD = Judged(
    Verdict.REJECTED, 1.6, findings=(Finding("kind", "looks_like", 0.0, 0.0, 0.0, "sign-flip"),)
)


@dataclass
class Room:
    """Where the commands find the room."""

    address: str
    home: Path

    async def aegis(self, *words: object) -> Result:
        """Runs a command. It has a loop of its own, and ours has to answer it meanwhile."""
        where = ["--as", "admin", "--home", str(self.home), "--address", self.address]
        return await asyncio.to_thread(CliRunner().invoke, app, [*where, *map(str, words)])

    async def told(self, *words: object) -> object:
        """Returns what a command tells programs."""
        done = await self.aegis(*words, "-o", "json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@pytest.fixture
async def room(server_tables: str, server_database_url: str, tmp_path: Path) -> AsyncIterator[Room]:
    """Three rounds were judged; north is proposed for quarantine."""
    pki.ensure(tmp_path / "pki")
    async with AsyncExitStack() as stack:
        database = Database(server_database_url, application="test")
        await database.open()
        stack.push_async_callback(database.close)
        audit = AuditLog(database, log_id="test", clock=_now)
        writer = asyncio.create_task(audit.run())
        registry, deeds = CollectorRegistry(), Deeds()
        decisions = Decisions(database, cache=None, clock=_now, registry=registry)
        await Revisions(database, audit=audit, decisions=decisions, clock=_now).ensure_first()
        await decisions.open()
        access, counts = Access(decisions, audit), Counts(registry)
        standings = Standings(database, clock=_now, counts=counts)
        for number in (1, 2, 3):
            at = NOW + timedelta(hours=number)
            async with database.transaction() as connection:
                updates = {"north": BAD, "south": Judged()}
                key = RoundKey("run-1", number, 1)
                await reckoned(connection, key, updates, standings, now=at)
        tls = TlsFiles(*(tmp_path / "pki" / f"{name}" for name in _FILES))
        doors = Doors(
            admit=access.admit,
            metrics=CallMetrics(registry),
            authenticate=by_certificate("aegis.local"),
        )
        port = Port(doors=doors, tls=tls, services=())
        standing_pb2_grpc.add_StandingServiceServicer_to_server(
            StandingService(
                standings,
                Quarantines(database, audit, clock=_now, counts=counts),
                Analytics(database, clock=_now),
                access,
                deeds,
            ),
            port.server,
        )
        yield Room(await port.open("127.0.0.1:0"), tmp_path)
        await port.close(1.0)
        await deeds.drain()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


_FILES = ("server.crt", "server.key", "ca.crt")


def _now() -> datetime:
    return datetime.now(UTC)


async def test_standings_are_listed_and_shown(room: Room):
    """The least trusted first, with a bar; one with the updates it rests on."""
    listed = await room.aegis("standing", "list")
    assert listed.exit_code == 0, listed.output
    lines = listed.stdout.splitlines()
    (north,) = (at for at, line in enumerate(lines) if "north" in line)
    (south,) = (at for at, line in enumerate(lines) if "south" in line)
    assert north < south
    assert "proposed" in lines[north]
    shown = await room.aegis("standing", "show", "north")
    for words in ("north reputation 0.1", "0 accepted, 3 rejected", "upd-run-1-3-1-north"):
        assert words in shown.stdout
    told = await room.told("standing", "list", "--limit", 1)
    assert [each["participant"] for each in told] == ["north"]  # type: ignore[index, attr-defined]


async def test_quarantine_is_enforced_lifted_and_refused_by_command(room: Room):
    """Each with a reason; what is not due is refused with a next step."""
    (proposed,) = await room.told("quarantine", "list")  # type: ignore[misc]
    quarantine = proposed["quarantine_id"]
    enforced = await room.aegis("quarantine", "enforce", quarantine, "--reason", "poisons")
    assert "north: in force" in enforced.stdout
    again = await room.aegis("quarantine", "refuse", quarantine, "--reason", "late")
    assert again.exit_code == 1
    assert "STATE_CONFLICT" in again.output
    lifted = await room.told("quarantine", "lift", quarantine, "--reason", "was repaired")
    assert lifted["state"] == "STATE_LIFTED"  # type: ignore[index]
    listed = await room.aegis("quarantine", "list", "--participant", "north")
    assert "was repaired" in listed.stdout


async def test_reason_is_asked_for(room: Room):
    """A decision without one does not even start."""
    assert (await room.aegis("quarantine", "lift", "qua-1")).exit_code == 2


async def test_analytics_are_tables_and_pictures(room: Room, tmp_path: Path):
    """Counts under every heading, drawn into files on the side."""
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    done = await room.aegis("review", "analytics", "--svg", svg, "--png", png)
    assert done.exit_code == 0, done.output
    for words in ("6 updates judged, 3 rejected (50.0%)", "sign-flip", "by participant"):
        assert words in done.stdout
    assert "sign-flip" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    told = await room.told("review", "analytics", "--last", "30d", "--run", "run-2")
    assert told["total"]["judged"] == "0"  # type: ignore[index]


async def test_security_view_lists_threats_newest_first(room: Room, tmp_path: Path):
    """The proposal and the rounds it rests on."""
    done = await room.aegis("review", "security", "--svg", tmp_path / "s.svg")
    assert done.exit_code == 0, done.output
    assert "looks like sign-flip" in " ".join(done.stdout.split())
    assert "Threats" in (tmp_path / "s.svg").read_text()
    told = await room.told("review", "security", "--limit", 2)
    assert [each["kind"] for each in told] == ["quarantine", "sign-flip"]  # type: ignore[index, attr-defined]


async def test_two_beginnings_and_a_folder_that_is_not_there_are_told(room: Room, tmp_path: Path):
    """Before and after the server was asked."""
    wrong = await room.aegis("review", "analytics", "--from", "2026-01-01", "--last", "7d")
    assert (wrong.exit_code, "two beginnings" in wrong.output) == (2, True)
    nowhere = await room.aegis("review", "security", "--svg", tmp_path / "no" / "s.svg")
    assert (nowhere.exit_code, "cannot be written" in nowhere.output) == (2, True)
