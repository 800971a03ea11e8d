"""A hospital's program against a server of the test, over real mTLS, with real worker processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.sites import (
    SCHEMA,
    Ground,
    Response,
    Server,
    Site,
    announce,
    content,
    gone,
    rows,
)

from aegis.errors import PermissionDenied, ResourceExhausted
from aegis.sitekeys import mend
from aegis_participant.flower import Array, ArrayRecord, content_bytes, content_of
from aegis_participant.settings import identity_in


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground.make(tmp_path)


@pytest.fixture
def start(ground: Ground) -> Iterator[Callable[..., Site]]:
    """Starts the program; whatever is left of it is ended."""
    started: list[Site] = []

    def begin(server: Server, **how: str) -> Site:
        ground.write(server.address, **how)
        started.append(Site(ground.folder))
        return started[-1]

    yield begin
    for site in started:
        site.close()


async def test_site_joins_trains_and_says_so(ground: Ground, start: Callable[..., Site]) -> None:
    """Hello, task in chunks, receipt, answer; the ledger, the status and the metrics know of it."""
    async with Server(ground) as server:
        start(server, more='[metrics]\nstore = "figures"\n')
        session = await server.session()
        assert {"ward": SCHEMA.sha256} == dict(session.hello.datasets)
        assert {"toy": ground.app_sha256} == dict(session.hello.apps)
        assert session.hello.protocol == 1
        data = content_bytes(content(size=300_000))
        task = announce(data, ground, answer_bytes_max=3_000_000)
        given = await session.done(task, data)
        assert given.head.steps == 4
        assert given.head.size_bytes > 4 * 256 * 1024
        session.said.put_nowait(Response(accepted=Response.Accepted(task_id=task.task_id)))
        figures = ground.folder / "figures" / "run-1" / "hospital-a" / "1.json"
        async with asyncio.timeout(10):
            while not figures.exists() or ground.status()["last_task"]["outcome"] != "accepted":
                await asyncio.sleep(0.02)
        status = ground.status()
        assert status["state"] == "attending"
        assert status["data"]["ward"]["rows"] == 40
        stored = json.loads(figures.read_text())
        assert 0 < stored["epsilon"] == status["data"]["ward"]["epsilon"]
        assert (4, given.head.size_bytes) == (stored["steps"], stored["bytes_sent"])
        assert "loss" not in stored


async def test_nothing_about_rows_leaves_but_the_update(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """Whatever the application puts into its answer, of private rows only counts and arrays go."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        data = content_bytes(content(do="print"))
        given = await session.done(announce(data, ground), data)
        answer = content_of(given.content)
        assert dict(answer.metric_records["metrics"]) == {"num-examples": 5, "steps": 4}
        assert not answer.config_records
        assert b"4711" not in given.content


async def test_exception_is_told_by_its_kind_only(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """The text stays in the site's own log; a worker that died is replaced."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        for do, kind in (("raise", "RuntimeError"), ("die", "WorkerDied")):
            data = content_bytes(content(do=do))
            given = await session.done(announce(data, ground), data)
            assert (kind, b"") == (given.head.error, given.content)
            # Even failing says something: what was reserved stays spent.
            assert given.head.steps == 4
        assert "4711" in (ground.folder / "worker.log").read_text()
        data = content_bytes(content())
        assert not (await session.done(announce(data, ground), data)).head.error
        data = content_bytes(content())
        task = announce(data, ground, message_type="evaluate")
        assert (await session.done(task, data)).head.error == "ValueError"


async def test_server_that_comes_back_gets_the_same_bytes(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """Also after the site itself was killed; and the second answer costs nothing."""
    async with Server(ground) as server:
        site = start(server)
        session = await server.session()
        data = content_bytes(content())
        task = announce(data, ground)
        first = await session.done(task, data)
        ledger = (ground.folder / "ledger").read_text()
        await server.stop()
        await server.start()
        session = await server.session()
        again = await session.done(task, data)
        assert first.content == again.content
        site.kill()
        start(server)
        session = await server.session()
        once_more = await session.done(task, data)
        assert first.content == once_more.content
        assert ledger == (ground.folder / "ledger").read_text()
        # Another content under the same name is another task.
        other = content_bytes(content(take=1))
        changed = announce(other, ground, task_id=task.task_id)
        assert await session.refused(changed, other) == "TASK_CLOSED"


async def test_task_goes_on_while_the_server_is_away(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """Offered again in the middle it is not begun again."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        data = content_bytes(content(do="nap", nap=2.0))
        task = announce(data, ground)
        session.offer(task, data)
        await session.next("receipt")
        await server.stop()
        await server.start()
        session = await server.session()
        given = await session.done(task, data)
        assert given.told[1:2] == [1]
        assert (ground.folder / "ledger").read_text().count('"reserve"') == 1


async def test_site_refuses_beyond_its_own_limit(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """Whatever the server says; and a restart forgets nothing."""
    async with Server(ground) as server:
        site = start(server, data="epsilon_limit = 1.0")
        session = await server.session()
        data = content_bytes(content())
        answered = 0
        while True:
            task = announce(data, ground)
            session.offer(task, data)
            message = await session.heard.get()
            assert message is not None
            if message.WhichOneof("part") == "refusal":
                break
            await session.answer()
            answered += 1
        assert message.refusal.reason == "PRIVACY_BUDGET_EXHAUSTED"
        assert answered > 0
        assert ground.status()["data"]["ward"]["epsilon"] <= 1.0
        site.kill()
        start(server, data="epsilon_limit = 1.0")
        session = await server.session()
        assert await session.refused(announce(data, ground), data) == "PRIVACY_BUDGET_EXHAUSTED"


async def test_two_runs_work_at_once(ground: Ground, start: Callable[..., Site]) -> None:
    """Each in a process of its own, which stays warm from round to round."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        data = content_bytes(content(do="nap", nap=4.0))
        tasks = [announce(data, ground, run_id=run) for run in ("run-1", "run-2")]
        for task in tasks:
            session.offer(task, data)
        told: dict[str, list[int]] = {}
        while len(told) < 2:
            message = await session.heard.get()
            assert message is not None
            if message.HasField("chunk"):
                (array,) = content_of(message.chunk.data).array_records.values()
                told[message.chunk.task_id] = [int(each) for each in array["told"].numpy()]
        first, second = (told[task.task_id] for task in tasks)
        assert first[0] != second[0]
        assert max(first[3], second[3]) < min(first[4], second[4])
        quick = content_bytes(content())
        again = await session.done(announce(quick, ground, run_id="run-1", round=2), quick)
        assert [first[0], 2] == again.told[:2]


async def test_worker_is_killed_at_the_deadline(ground: Ground, start: Callable[..., Site]) -> None:
    """A task that hangs does not keep the next one waiting."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        data = content_bytes(content(do="print"))
        pid = (await session.done(announce(data, ground), data)).told[0]
        data = content_bytes(content(do="hang"))
        given = await session.done(announce(data, ground, seconds=1.5), data)
        assert given.head.error == "DeadlineExceeded"
        await gone(pid)
        data = content_bytes(content())
        assert not (await session.done(announce(data, ground), data)).head.error


async def test_cancelled_task_ends_its_process(ground: Ground, start: Callable[..., Site]) -> None:
    """Nobody waits for it, so nothing is said about it any more."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        data = content_bytes(content())
        pid = (await session.done(announce(data, ground), data)).told[0]
        hangs = content_bytes(content(do="hang"))
        task = announce(hangs, ground)
        session.offer(task, hangs)
        await session.next("receipt")
        session.said.put_nowait(Response(cancel=Response.Cancel(task_id=task.task_id)))
        await gone(pid)
        assert not (await session.done(announce(data, ground), data)).head.error


async def test_refused_task_costs_nothing_and_the_site_goes_on(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """A pickle, a task nobody promises anything for, one too large, one longer than announced."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        asks = content()
        asks["arrays"] = ArrayRecord({"w": Array("float32", (1,), "pickle", b"\x80\x04.")})
        data = content_bytes(asks)
        assert await session.refused(announce(data, ground), data) == "FIELD_INVALID"
        data = content_bytes(content())
        task = announce(data, ground, mechanism=None)
        assert await session.refused(task, data) == "TASK_NOT_PRIVATE"
        # The server says that it has heard the refusal.
        session.said.put_nowait(Response(accepted=Response.Accepted(task_id=task.task_id)))
        task = announce(data, ground, content_size_bytes=2**40)
        assert await session.refused(task, data) == "REQUEST_TOO_LARGE"
        task = announce(data, ground, content_size_bytes=100)
        assert await session.refused(task, data) == "FIELD_INVALID"
        assert (ground.folder / "ledger").read_text() == ""
        assert ground.status()["last_task"]["outcome"].startswith("refused, ")
        assert not (await session.done(announce(data, ground), data)).head.error


async def test_public_rows_need_no_mechanism(ground: Ground, start: Callable[..., Site]) -> None:
    """And their figures may leave."""
    async with Server(ground) as server:
        start(server, data="public = true", more='[metrics]\nstore = "figures"\n')
        session = await server.session()
        data = content_bytes(content(None))
        given = await session.done(announce(data, ground, mechanism=None), data)
        assert content_of(given.content).metric_records["metrics"]["loss"] == 0.25
        data = content_bytes(content(None, simulation=True))
        task = announce(data, ground, mechanism=None, simulation=True, round=2)
        assert (await session.done(task, data)).head.steps == 0
        assert (ground.folder / "ledger").read_text() == ""


async def test_empty_site_refuses_and_one_class_is_warned_of(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """Rows that are put there later are seen without a restart."""
    table = ground.folder / "rows.csv"
    table.write_text("age,ward,ill\n")
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        data = content_bytes(content())
        assert await session.refused(announce(data, ground), data) == "DATASET_ROWS_INVALID"
        table.write_text(rows(30, ill=0) + "12,c,no\nold,a,no\n")
        assert not (await session.done(announce(data, ground), data)).head.error
        async with asyncio.timeout(5):
            while ground.status()["data"]["ward"]["rows"] != 30:
                await asyncio.sleep(0.02)
        warnings = " ".join(ground.status()["warnings"])
        assert "one class" in warnings
        assert "2 rows dropped" in warnings
        assert "old" not in warnings


@pytest.mark.parametrize("reason", ["PARTICIPANT_REVOKED", "PARTICIPANT_UNKNOWN"])
async def test_revoked_site_ends_for_good(
    ground: Ground, start: Callable[..., Site], reason: str
) -> None:
    """In the middle of a stream, with a sentence that says what to do."""
    async with Server(ground) as server:
        site = start(server)
        session = await server.session()
        server.refuse = lambda: PermissionDenied(reason, "no more")
        session.said.put_nowait(None)
        assert await site.ended() == 3
        assert ground.status()["state"] == "ended"
        assert ground.status()["detail"] in site.log.read_text()


async def test_silent_server_is_left_and_tried_again(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """A connection that only looks alive is worth nothing after three heartbeats."""
    async with Server(ground, heartbeat=0.2, echoes=False) as server:
        start(server)
        first = await server.session()
        await server.session()
        assert first.heartbeats >= 3


async def test_sigterm_finishes_what_is_under_way(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """The answer still goes, and no process stays."""
    async with Server(ground) as server:
        site = start(server)
        session = await server.session()
        data = content_bytes(content(do="nap", nap=1.0, size=1_000_000))
        task = announce(data, ground, answer_bytes_max=10_000_000)
        session.offer(task, data)
        await session.next("receipt")
        site.terminate()
        given = await session.answer()
        assert not given.head.error
        assert given.head.size_bytes > 7_000_000
        assert await site.ended() == 0
        assert ground.status()["state"] == "stopped"
        await gone(given.told[0])


async def test_sigterm_hands_back_what_takes_too_long(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """Within ten seconds, so that the coordinator need not wait for the deadline."""
    async with Server(ground) as server:
        site = start(server)
        session = await server.session()
        data = content_bytes(content(do="hang"))
        task = announce(data, ground)
        session.offer(task, data)
        await session.next("receipt")
        site.terminate()
        refusal = await session.next("refusal")
        assert refusal.reason == "STATE_CONFLICT"
        assert await site.ended(10) == 0


async def test_workers_end_with_a_program_that_was_killed(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """Nothing goes on training for nobody."""
    async with Server(ground) as server:
        site = start(server)
        session = await server.session()
        data = content_bytes(content())
        pid = (await session.done(announce(data, ground), data)).told[0]
        site.kill()
        await gone(pid)


async def test_second_program_for_the_same_folder_is_refused(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """Two ledgers of the same rows would each let pass what both together must not."""
    async with Server(ground) as server:
        start(server)
        await server.session()
        second = start(server)
        assert await second.ended() == 2
        assert "another aegis-participant" in second.log.read_text()


async def test_status_is_told_to_people_and_programs(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """`--status` reads what is there, and says that a killed program does not run."""
    command = [sys.executable, "-m", "aegis_participant", "--dir", str(ground.folder), "--status"]
    nothing = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: ASYNC221
    assert (nothing.returncode, nothing.stdout) == (1, "")
    async with Server(ground) as server:
        site = start(server)
        await server.session()
        site.kill()
    said = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: ASYNC221
    assert "hospital-a: stopped - the program is not running" in said.stdout
    assert "epsilon 0.00 of 12" in said.stdout
    said = subprocess.run(  # noqa: ASYNC221
        [*command, "--output", "json"], capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout)["state"] == "stopped"


async def test_model_is_trained_on_the_rows_of_the_file(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """The application that ships, unmodified: DP-SGD from the table, and an update of the model."""
    from aegis_learning.models import family
    from aegis_participant.apps import built_in

    ground.write()
    model = family("logistic", SCHEMA.width, 2)
    asks = content(
        **{
            "model": "logistic",
            "features": SCHEMA.width,
            "classes": 2,
            "learning-rate": 0.5,
            "server-round": 1,
            "simulation": False,
            "seed": 0,
            "repeat": 0,
        }
    )
    asks["arrays"] = ArrayRecord({n: Array(v) for n, v in model.initial(1).items()})
    data = content_bytes(asks)
    async with Server(ground) as server:
        start(server, more='[apps.aegis]\n[metrics]\nstore = "figures"\nshare = true\n')
        session = await server.session()
        task = announce(data, ground, app="aegis", app_sha256=built_in().sha256)
        given = await session.done(task, data)
        assert given.head.error == ""
        assert model.shapes == {name: array.shape for name, array in given.arrays.items()}
        assert all(np.isfinite(array).all() for array in given.arrays.values())
        metrics = content_of(given.content).metric_records["metrics"]
        assert dict(metrics) == {"num-examples": 40, "steps": 4}
        figures = ground.folder / "figures" / "run-1" / "hospital-a" / "1.json"
        async with asyncio.timeout(5):
            while not figures.exists():
                await asyncio.sleep(0.02)
        assert {"loss", "accuracy", "auc"} <= json.loads(figures.read_text()).keys()


async def test_answer_that_nobody_waits_for_ends_its_process(
    ground: Ground, start: Callable[..., Site]
) -> None:
    """As after a receipt that came too late."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        data = content_bytes(content())
        pid = (await session.done(announce(data, ground), data)).told[0]
        hangs = content_bytes(content(do="hang"))
        task = announce(hangs, ground)
        session.offer(task, hangs)
        await session.next("receipt")
        rejected = Response.Rejected(task_id=task.task_id, reason="TASK_CLOSED", message="late")
        session.said.put_nowait(Response(rejected=rejected))
        await gone(pid)


async def test_server_says_when_to_come_again(ground: Ground, start: Callable[..., Site]) -> None:
    """A stream that was ended for want of room is begun again as soon as it may be."""
    async with Server(ground) as server:
        start(server)
        session = await server.session()
        server.refuse = lambda: ResourceExhausted("RATE_LIMITED", "come again", retry_seconds=1)
        session.said.put_nowait(None)
        async with asyncio.timeout(5):
            while "RATE_LIMITED" not in ground.status()["detail"]:
                await asyncio.sleep(0.02)
        server.refuse = lambda: None
        async with asyncio.timeout(4):
            await server.session()


async def test_certificate_is_renewed_in_time(
    tmp_path: Path, start: Callable[..., Site], ground: Ground
) -> None:
    """With a third of its life left, for a new key; the next stream is on the new pair."""
    old = Ground.make(tmp_path / "older", age_days=25)
    async with Server(old) as server:
        old.write(server.address)
        before = (old.folder / "site.key").read_bytes()
        site = Site(old.folder)
        try:
            await server.session()
            async with asyncio.timeout(10):
                while (old.folder / "site.key").read_bytes() == before:
                    await asyncio.sleep(0.02)
            (renewed,) = server.renewed
            assert renewed == (old.folder / "site.crt").read_bytes()
            identity_in(old.folder).check()
            await server.stop()
            await server.start()
            await server.session()
        finally:
            site.close()


async def test_certificate_that_ended_is_the_end(tmp_path: Path, ground: Ground) -> None:
    """Nobody would answer it, so nobody is asked for ever."""
    old = Ground.make(tmp_path / "older", age_days=31)
    old.write()
    site = Site(old.folder)
    try:
        assert await site.ended() == 3
        assert "join again with a new token" in site.log.read_text()
    finally:
        site.close()


def test_renewal_that_was_cut_off_is_finished(ground: Ground) -> None:
    """Between the certificate and its key; a next key that fits nothing stays where it is."""
    identity = identity_in(ground.folder)
    key = identity.key.read_bytes()
    following = ground.folder / "site.key.next"
    following.write_bytes((ground.pki / "server.key").read_bytes())
    mend(identity)
    assert key == identity.key.read_bytes()
    identity.certificate.write_bytes((ground.pki / "server.crt").read_bytes())
    mend(identity)
    identity.check()
    assert not following.exists()
