"""`aegis execution` against a control plane that plays: the kill switch, the guards, the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import grpc
import pytest
from click.testing import Result
from tests.commands import invoke
from tests.fake_execution import BORN, FakeExecution, serving
from tests.healing import healing_report

from aegis.cli.action import calls
from aegis.errors import PermissionDenied, Unavailable
from aegis.v1 import execution_pb2

Breaker, Storm = execution_pb2.Breaker, execution_pb2.Storm


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExecution]:
    """The control plane, and the commands' channel to it."""
    playing = FakeExecution()
    with serving(playing) as address:

        @asynccontextmanager
        async def channel(*, retries: bool = True):
            options = [("grpc.enable_retries", int(retries))]
            async with grpc.aio.insecure_channel(address, options) as opened:
                yield opened

        monkeypatch.setattr(calls, "channel", channel)
        yield playing


def aegis(*words: object) -> Result:
    return invoke(["execution", *map(str, words)])


def pause(**fields: object) -> execution_pb2.Pause:
    made = execution_pb2.Pause(pause_id="p-1", who="user:mia", reason="looking", **fields)
    made.create_time.seconds = BORN
    return made


def test_pause_names_its_scope_and_how_to_end_it(fake: FakeExecution):
    """In one namespace, for one verb, for half an hour."""
    made = pause(in_force=True, scope={"namespace": "shop", "action": "scale_deployment"})
    made.expire_time.seconds = BORN + 1800
    fake.tell("PauseExecution", execution_pb2.PauseExecutionResponse(pause=made))
    words = ("-n", "shop", "--action", "scale-deployment", "--for", "30m", "--reason", "looking")
    done = aegis("pause", *words)
    assert done.exit_code == 0, done.output
    request = fake.last("PauseExecution")
    assert (request.scope.namespace, request.scope.action) == ("shop", "scale_deployment")
    assert (request.life.seconds, request.reason) == (1800, "looking")
    assert "scale_deployment in shop is paused until 11-14 22:43:20 UTC, in force" in done.stdout
    assert "aegis execution resume p-1" in done.stdout


def test_pause_the_executor_has_yet_to_take_says_so(fake: FakeExecution):
    """It is stored, and nothing is sent before it is laid upon the executor."""
    fake.tell("PauseExecution", execution_pb2.PauseExecutionResponse(pause=pause()))
    done = aegis("pause", "--reason", "looking")
    assert "everything is paused until somebody resumes" in done.stdout
    assert "the executor has yet to take it" in done.stdout
    assert not fake.last("PauseExecution").HasField("life")


def test_pause_of_no_length_exits_2(fake: FakeExecution):
    """Nothing is sent."""
    done = aegis("pause", "--reason", "x", "--for", "a while")
    assert (done.exit_code, fake.asked) == (2, [])


def test_resume_ends_a_pause(fake: FakeExecution):
    """By its id, with a reason."""
    answer = execution_pb2.ResumeExecutionResponse(pause=pause())
    fake.tell("ResumeExecution", answer, answer)
    assert "execution goes on: everything" in aegis("resume", "p-1", "--reason", "done").stdout
    assert fake.last("ResumeExecution").pause_id == "p-1"
    document = json.loads(aegis("resume", "p-1", "--reason", "done", "-o", "json").stdout)
    assert document["pause_id"] == "p-1"


def test_who_may_not_resume_is_told(fake: FakeExecution):
    """Exit code 1."""
    fake.tell("ResumeExecution", PermissionDenied("APPROVAL_OWN", "your action tripped it"))
    done = aegis("resume", "p-1", "--reason", "done")
    assert (done.exit_code, "your action tripped it" in done.stderr) == (1, True)


def standing() -> execution_pb2.GetExecutionStateResponse:
    found = execution_pb2.GetExecutionStateResponse(
        pauses=[pause(in_force=True)],
        breakers=[
            Breaker(name="target shop/deployments/web", state=Breaker.STATE_OPEN, cause="2 of 2"),
            Breaker(name="dependency prometheus", state=Breaker.STATE_HALF_OPEN),
            Breaker(name="global", state=Breaker.STATE_CLOSED),
        ],
        storm=Storm(state=Storm.STATE_RECOVERING, watched=40, anomalous=10, pace=2, cause="ok"),
        budgets=[
            execution_pb2.Budget(name="hour.global", used=15, limit=30),
            execution_pb2.Budget(name="hour.namespace shop", used=10, limit=10),
            execution_pb2.Budget(name="concurrent.global", used=0, limit=0),
        ],
        epoch=7,
        local_pause="the disk is full",
    )
    found.breakers[0].probe_time.seconds = BORN
    found.budgets[1].free_time.seconds = BORN
    return found


def test_state_shows_pauses_breakers_storm_and_budgets(fake: FakeExecution):
    """With bars, and what a limit of nothing means: full."""
    fake.tell("GetExecutionState", standing())
    done = aegis("state")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for words in (
        "paused by the executor's own file: the disk is full",
        "p-1 everything user:mia 11-14 22:13:20 resumed yes looking",
        "target shop/deployments/web open 11-14 22:13:20 2 of 2",
        "dependency prometheus half open",
        "storm: recovering █████··············· 10 of 40 workloads ill, 2 at once let through ok",
        "hour.global 15 of 30 ██████████··········",
        "hour.namespace shop 10 of 10 ████████████████████ 11-14 22:13:20",
        "concurrent.global 0 of 0 ████████████████████",
        "executor epoch 7",
    ):
        assert words in lines


def test_reason_of_a_pause_does_not_command_the_terminal(fake: FakeExecution):
    """Whoever may pause writes what everybody reads."""
    made = pause(in_force=True)
    made.reason = "\x1b[2Jgone"
    fake.tell("GetExecutionState", execution_pb2.GetExecutionStateResponse(pauses=[made]))
    done = aegis("state")
    assert "\x1b" not in done.stdout
    assert "[2Jgone" in done.stdout


def test_state_without_trouble_is_short(fake: FakeExecution):
    """Nothing is there to be shown."""
    calm = execution_pb2.GetExecutionStateResponse(storm=Storm(state=Storm.STATE_CALM), epoch=1)
    fake.tell("GetExecutionState", calm, calm)
    done = aegis("state")
    assert "pauses: none" in done.stdout
    assert "storm: calm" in done.stdout
    assert json.loads(aegis("state", "-o", "json").stdout)["epoch"] == "1"


def test_state_of_an_executor_that_is_away_exits_1(fake: FakeExecution):
    """And says where to look."""
    fake.tell("GetExecutionState", *[Unavailable("EXECUTOR_UNAVAILABLE", "it is away")] * 9)
    done = aegis("state")
    assert done.exit_code == 1
    assert "aegis status" in done.stderr


def test_report_is_a_table_with_sparklines_and_bars(fake: FakeExecution):
    """Types by outcome, the time to heal, and who refused how often."""
    fake.tell("GetHealingReport", healing_report())
    done = aegis("report")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for words in (
        "restart_pod 9 6 1 1 0 1 0 0 41s 2m 3s",
        "scale_deployment 4 0 1 0 1 1 1 0 – –",
        "all 13 6 2 1 1 2 1 0 41s 2m 3s",
        "healed ▂▂█ 6",
        "BUDGET_EXHAUSTED 4 ████████████████████████",
        "GITOPS_OWNED 1 ██████··················",
    ):
        assert words in lines, done.stdout
    assert "6 healed, 4 failed or did not help, 2 prevented, 0 open; healed in 41s" in done.stdout


def test_report_of_nothing_says_so(fake: FakeExecution):
    """And draws nothing."""
    fake.tell("GetHealingReport", execution_pb2.GetHealingReportResponse())
    done = aegis("report")
    assert "no action was asked for" in done.stdout
    assert "refused by: none" in done.stdout


def test_report_asks_for_the_period_and_the_bucket(fake: FakeExecution):
    """Two instants, or a length before the last."""
    fake.tell("GetHealingReport", *[healing_report()] * 3)
    aegis("report", "--from", "2026-11-01", "--to", "2026-11-08", "--bucket", "6h")
    request = fake.last("GetHealingReport")
    assert request.start_time.ToDatetime(UTC) == datetime(2026, 11, 1, tzinfo=UTC)
    assert request.end_time.ToDatetime(UTC) == datetime(2026, 11, 8, tzinfo=UTC)
    assert request.bucket.seconds == 6 * 3600
    aegis("report", "--last", "7d", "--to", "2026-11-08")
    assert fake.last("GetHealingReport").start_time == request.start_time
    aegis("report")
    plain = fake.last("GetHealingReport")
    assert not plain.HasField("start_time")
    assert not plain.HasField("end_time")


@pytest.mark.parametrize(
    "words",
    [
        ("--from", "2026-11-01", "--last", "7d"),
        ("--last", "a week"),
        ("--last", "9999999d"),
        ("--chart", "chart.gif"),
        ("--chart", "chart"),
    ],
)
def test_report_that_makes_no_sense_exits_2(fake: FakeExecution, words: tuple[str, ...]):
    """Nothing is asked."""
    done = aegis("report", *words)
    assert (done.exit_code, fake.asked) == (2, [])
    assert "next:" in done.stderr


@pytest.mark.parametrize("suffix", ["svg", "png", "html"])
def test_report_is_drawn_as_the_files_ending_says(fake: FakeExecution, tmp_path: Path, suffix: str):
    """Beside the JSON, too."""
    picture = tmp_path / f"healing.{suffix}"
    fake.tell("GetHealingReport", healing_report())
    done = aegis("report", "--chart", picture, "-o", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"][0]["total"] == 9
    content = picture.read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG")
    elif suffix == "svg":
        assert ET.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    else:
        assert content.startswith(b"<!doctype html>")
        assert b"default-src 'none'" in content
        assert b"<script" not in content
    assert [each.name for each in tmp_path.iterdir()] == [picture.name]


def test_picture_that_cannot_be_written_exits_2(fake: FakeExecution, tmp_path: Path):
    """With the reason."""
    fake.tell("GetHealingReport", healing_report())
    done = aegis("report", "--chart", tmp_path / "nowhere" / "healing.svg")
    assert done.exit_code == 2
    assert "cannot be written" in " ".join(done.stderr.split())
