"""Checkpoints on real Postgres: cut once, kept for ever, delivered, and shown to the other log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.auditing import Keys, Written, entry

from aegis.audit import checkpoints
from aegis.errors import InvalidArgument
from aegis.serving.checkpointing.peers import PeerLog
from aegis.serving.checkpointing.sinks import Delivery, FileSink, LogSink, sink_of
from aegis.serving.database import Database
from aegis.v1 import audit_pb2


async def seal(log: Written, records: int = 1) -> None:
    await log.write(*[entry()] * records)
    log.clock.move(seconds=10)
    assert await log.kept.cut_if_due() is not None


async def until(true: object) -> None:
    async with asyncio.timeout(10):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_checkpoint_is_what_the_database_holds(database: Database):
    """Size, root and chain hash of one moment, signed by the log's key."""
    log = Written(database)
    await seal(log, 5)
    kept = await log.kept.newest()
    assert kept is not None
    signed = checkpoints.verify(kept.note, "aegis-server", log.keys.log.public_key())
    assert (signed.size, signed.root, signed.chain) == await log.audit.state()
    assert await log.kept.cut_if_due() is None


async def test_replicas_cut_one_checkpoint_not_two(database: Database):
    """Whoever comes second sees that it is done."""
    log = Written(database)
    await log.write(entry())
    log.clock.move(seconds=10)
    replicas = [Written(database, keys=log.keys, clock=log.clock) for _ in range(4)]
    cut = await asyncio.gather(*(each.kept.cut_if_due() for each in (log, *replicas)))
    assert sum(each is not None for each in cut) == 1


async def test_idle_log_repeats_itself_every_hour(database: Database):
    """The same size with a later time."""
    log = Written(database)
    await seal(log)
    log.clock.move(hours=1)
    assert await log.kept.cut_if_due() is not None
    first, second = await log.kept.since(0, 0, 10)
    assert (first.tree_size, second.tree_size) == (1, 1)
    assert second.at > first.at


async def test_every_checkpoint_reaches_every_sink_in_order(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The folder gets all, also those from before it was there; the log stream goes on from now."""
    log = Written(database)
    for _ in range(3):
        await seal(log)
    folder = tmp_path / "elsewhere" / "aegis-server"
    sinks = [FileSink(tmp_path / "elsewhere", "aegis-server"), LogSink()]
    delivery = Delivery(log.kept, sinks, CollectorRegistry())
    with caplog.at_level("INFO"):
        task = asyncio.create_task(delivery.run())
        await until(lambda: len(list(folder.glob("*-*.note"))) == 3)
        await seal(log)
        await until(lambda: len(list(folder.glob("*-*.note"))) == 4)
        await until(lambda: caplog.text.count("checkpoint aegis-server") == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    kept = await log.kept.since(0, 0, 10)
    names = sorted(folder.glob("*-*.note"))
    assert [path.read_text() for path in names] == [each.note for each in kept]
    assert (folder / "latest").read_text() == kept[-1].note


async def test_sink_that_fails_gets_later_what_it_missed(database: Database, tmp_path: Path):
    """A disk that is away holds up nothing and loses nothing."""

    class Away(FileSink):
        broken = 1

        def put(self, kept: object) -> None:
            if self.broken:
                self.broken -= 1
                raise OSError("no such disk")
            super().put(kept)  # type: ignore[arg-type]

    log, registry = Written(database), CollectorRegistry()
    await seal(log)
    sink = Away(tmp_path, "aegis-server")
    task = asyncio.create_task(Delivery(log.kept, [sink], registry).run())
    await until(lambda: sink.behind() == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    labels = {"sink": sink.name}
    failures = registry.get_sample_value("aegis_audit_sink_failures_total", labels)
    assert failures == 1


async def test_log_that_was_put_back_is_told_by_its_sink(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A sink that knows more than the log is worth waking somebody, and nothing there is lost."""
    log = Written(database)
    await seal(log)
    sink = FileSink(tmp_path, "aegis-server")
    for number in (1, 2, 3):
        sink.put((await log.kept.since(0, 0, 1))[0]._replace(number=number))
    before = set((tmp_path / "aegis-server").glob("*-*.note"))
    task = asyncio.create_task(Delivery(log.kept, [sink], CollectorRegistry()).run())
    await until(lambda: "has checkpoint 3, the log only 1" in caplog.text)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert before <= set((tmp_path / "aegis-server").glob("*-*.note"))


@pytest.mark.parametrize("url", ["file://host/x", "file:x", "ftp://x", "s3:", "/x", "log:x"])
def test_sink_nobody_knows_is_refused(url: str):
    """At the start, not when the first checkpoint is cut."""
    with pytest.raises(ValueError, match="is no sink"):
        sink_of(url, "aegis-server")


@pytest.fixture
async def peers(database: Database) -> tuple[Written, Written, PeerLog]:
    """Two logs that share a table here only because they are tested; the second knows the first."""
    theirs, ours = Written(database), Written(database)
    return theirs, ours, PeerLog(ours.audit, ours.kept, theirs.keys.trust, "aegis-server")


async def peer_records(log: Written) -> list[audit_pb2.AuditRecord]:
    records = [audit_pb2.AuditRecord.FromString(each.record) for each in await log.stored()]
    return [each for each in records if each.kind == audit_pb2.AUDIT_KIND_CHECKPOINT_PEER]


async def test_checkpoint_of_the_other_log_becomes_a_record(
    peers: tuple[Written, Written, PeerLog],
):
    """Once for each size, with the signed note as evidence."""
    theirs, ours, peer = peers
    await seal(theirs)
    note = (await theirs.kept.since(0, 0, 1))[0].note
    for _ in range(3):
        await peer.take(note)
    (record,) = await peer_records(ours)
    assert (record.outcome, record.subject_id) == ("recorded", "aegis-server@1")
    assert record.evidence[0].content.decode() == note


async def test_other_log_that_got_shorter_is_recorded(
    peers: tuple[Written, Written, PeerLog], caplog: pytest.LogCaptureFixture
):
    """An earlier checkpoint after a later one: told once, loudly, and kept."""
    theirs, ours, peer = peers
    await seal(theirs)
    await seal(theirs)
    small, large = await theirs.kept.since(0, 0, 2)
    await peer.take(large.note)
    for _ in range(3):
        await peer.take(small.note)
    assert [each.outcome for each in await peer_records(ours)] == ["recorded", "rolled-back"]
    assert "it had 2 records" in caplog.text


async def test_replicas_exchange_one_after_another(peers: tuple[Written, Written, PeerLog]):
    """Two on their way at once could arrive the other way round, and look like a shorter log."""
    theirs, ours, peer = peers
    other = PeerLog(ours.audit, ours.kept, theirs.keys.trust, "aegis-server")
    await seal(theirs)
    note = (await theirs.kept.since(0, 0, 1))[0].note
    sent, answer = asyncio.Event(), asyncio.Event()

    async def send(ours: str) -> str:
        sent.set()
        await answer.wait()
        return note

    exchanging = asyncio.create_task(peer.exchange_once(send))
    await asyncio.wait_for(sent.wait(), 5)
    assert not await other.exchange_once(send)
    answer.set()
    assert await exchanging
    assert await other.exchange_once(send)
    assert [each.outcome for each in await peer_records(ours)] == ["recorded"]


@pytest.mark.parametrize("kind", ["garbage", "foreign key", "another log"])
async def test_checkpoint_that_does_not_count_is_refused(
    peers: tuple[Written, Written, PeerLog], kind: str
):
    """Nothing of it is recorded."""
    theirs, ours, peer = peers
    await seal(theirs)
    kept = (await theirs.kept.since(0, 0, 1))[0]
    state = checkpoints.parse(kept.note).checkpoint
    note = {
        "garbage": "hello",
        "foreign key": checkpoints.sign(state, Keys().log),
        "another log": checkpoints.sign(
            checkpoints.Checkpoint("aegis-x", 1, state.root, state.chain, state.time),
            theirs.keys.log,
        ),
    }[kind]
    with pytest.raises(InvalidArgument) as refusal:
        await peer.take(note)
    assert refusal.value.reason == "CHECKPOINT_INVALID"
    assert await peer_records(ours) == []
