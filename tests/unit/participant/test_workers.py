"""Processes for applications: warm from round to round, ended at the deadline, never left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.sites import Ground, alive, content, gone

from aegis_participant.apps import App
from aegis_participant.flower import content_bytes, content_of
from aegis_participant.workers import Workers, WorkFailed, flower_run_id


@pytest.fixture
def app(tmp_path: Path) -> App:
    return Ground.make(tmp_path).settings().apps["toy"]


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Workers]:
    made = Workers(tmp_path, at_once=2)
    yield made
    made.close()


async def ask(
    workers: Workers, app: App, *, run: str = "run-1", seconds: float = 30, **how: Any
) -> list[int]:
    """What the toy tells: process, number of rounds it has done, run, when it began and ended."""
    header = {
        "task_id": "task",
        "run_id": flower_run_id(run),
        "node_id": 1001,
        "message_type": how.pop("message_type", "train"),
        "group_id": "1",
        "seconds": seconds,
        "node_config": {},
        "run_config": {},
    }
    bytes_max = how.pop("bytes_max", 100_000)
    data, _ = await workers.answer(
        app, run, header, content_bytes(content(**how)), bytes_max=bytes_max, seconds=seconds
    )
    (record,) = content_of(data).array_records.values()
    return [int(each) for each in record["told"].numpy()]


async def test_run_keeps_its_process_and_its_state(workers: Workers, app: App) -> None:
    """Flower's context lives as long as the process; another run has another one."""
    first = await ask(workers, app)
    second = await ask(workers, app)
    other = await ask(workers, app, run="run-2")
    assert (first[0], 1, 2) == (second[0], first[1], second[1])
    assert other[1] == 1
    assert other[0] != first[0]
    assert [flower_run_id(r) % 2**31 for r in ("run-1", "run-2")] == [first[2], other[2]]
    assert os.getpid() not in (first[0], other[0])


async def test_oldest_process_makes_room(workers: Workers, app: App) -> None:
    """No more of them than may work at once, and one that waits."""
    pids = [(await ask(workers, app, run=f"run-{n}"))[0] for n in range(3)]
    assert not alive(pids[0])
    assert alive(pids[1])
    assert alive(pids[2])


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"do": "raise"}, "RuntimeError"),
        ({"do": "die"}, "WorkerDied"),
        ({"message_type": "evaluate"}, "ValueError"),
        ({"size": 100_000}, "AnswerTooLarge"),
        ({"do": "hang", "seconds": 1.0}, "DeadlineExceeded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
async def test_failure_is_a_kind(
    workers: Workers, app: App, how: dict[str, Any], kind: str
) -> None:
    """An exception, a crash, a message nobody handles, too much, too long; the next task works."""
    with pytest.raises(WorkFailed) as failure:
        await ask(workers, app, **how)
    assert kind == failure.value.kind == str(failure.value)
    assert await ask(workers, app)


async def test_application_that_cannot_be_loaded_is_a_kind(workers: Workers, app: App) -> None:
    """Its module is not there."""
    with pytest.raises(WorkFailed, match="ModuleNotFoundError"):
        await ask(workers, replace(app, module="nowhere:app"))


async def test_killed_process_is_replaced(workers: Workers, app: App) -> None:
    """As by a machine that is short of memory."""
    pid = (await ask(workers, app))[0]
    os.kill(pid, 9)
    await gone(pid)
    # Its other threads may take a moment longer than the first.
    while any(each.pid == pid and each.alive for each in workers._workers.values()):
        await asyncio.sleep(0.01)
    told = await ask(workers, app)
    assert told[0] != pid
    assert told[1] == 1


async def test_what_is_printed_is_not_a_frame(workers: Workers, app: App, tmp_path: Path) -> None:
    """It goes to the site's log, which nobody else can read."""
    await ask(workers, app, do="print")
    log = tmp_path / "worker.log"
    assert "patient 4711" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


async def test_secrets_of_the_environment_stay_outside(
    workers: Workers, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application has no use for the keys of the store."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    pid = (await ask(workers, app))[0]
    assert b"AWS_" not in (Path("/proc") / str(pid) / "environ").read_bytes()


async def test_spare_process_takes_the_next_run(workers: Workers, app: App) -> None:
    """It has imported what it needs before anybody asks."""
    workers.warm(app)
    assert workers._spare is not None
    pid = workers._spare.pid
    assert pid == (await ask(workers, app))[0]
    assert workers._spare is not None
    assert workers._spare.pid != pid


async def test_two_runs_work_at_the_same_time(workers: Workers, app: App) -> None:
    """And a third waits for its turn, within its own time."""
    for run in ("run-1", "run-2"):
        await ask(workers, app, run=run)
    naps = [ask(workers, app, run=run, do="nap", nap=1.0) for run in ("run-1", "run-2")]
    async with asyncio.timeout(20):
        waiting = asyncio.gather(*naps)
        await asyncio.sleep(0.1)
        with pytest.raises(WorkFailed, match="DeadlineExceeded"):
            await ask(workers, app, run="run-3", seconds=0.3)
        first, second = await waiting
    assert max(first[3], second[3]) < min(first[4], second[4])


async def test_process_that_nobody_asks_any_more_ends(
    workers: Workers, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is not kept for a run that has ended; a run that comes back gets another."""
    monkeypatch.setattr("aegis_participant.workers._IDLE_SECONDS", 0.2)
    pid = (await ask(workers, app))[0]
    await gone(pid)
    assert pid != (await ask(workers, app))[0]


async def test_closing_leaves_no_process(tmp_path: Path, app: App) -> None:
    """Neither one with a run nor the one that waits."""
    made = Workers(tmp_path, at_once=2)
    pids = [(await ask(made, app))[0]]
    assert made._spare is not None
    pids.append(made._spare.pid)
    made.close()
    assert [alive(pid) for pid in pids] == [False, False]
