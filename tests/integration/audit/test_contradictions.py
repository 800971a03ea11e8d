"""What a log must not be talked into: by its database, its witness, its sink or the other log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import psycopg
import pytest
from prometheus_client import CollectorRegistry
from tests.auditing import Keys, Written, entry

from aegis.audit import checkpoints
from aegis.audit.checkpoints import CheckpointError
from aegis.audit.findings import Verdict
from aegis.audit.signers import cosigned_by
from aegis.audit.verifier import verify_copy
from aegis.errors import FailedPrecondition, InvalidArgument
from aegis.serving.checkpointing.cutting import Checkpoints
from aegis.serving.checkpointing.peers import PeerLog
from aegis.serving.checkpointing.sinks import Delivery, FileSink
from aegis.serving.checkpointing.store import KeptNote
from aegis.serving.checkpointing.witnessing import Witnessing
from aegis.serving.database import Database
from aegis.trust import TrustBundle
from aegis.v1 import audit_pb2, witness_pb2, witness_pb2_grpc
from aegis_witness.heads import Heads
from aegis_witness.service import WitnessService


async def seal(log: Written, records: int = 1) -> None:
    await log.write(*[entry()] * records)
    log.clock.move(seconds=10)
    assert await log.kept.cut_if_due() is not None


async def newest(kept: Checkpoints) -> str:
    found = await kept.newest()
    assert found is not None
    return found.note


def as_owner(url: str, *statements: str) -> None:
    """What somebody can do who owns the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("audit_record", "audit_index"):
            connection.execute(f"alter table aegis.{table} disable trigger all")
        for statement in statements:
            connection.execute(statement)


async def test_past_that_was_written_anew_is_not_signed(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
):
    """The key never says two different things about one size, however well the hashes fit."""
    log = Written(database)
    await seal(log, 3)
    as_owner(
        database_url,
        "delete from aegis.audit_record where idx >= 1",
        "delete from aegis.audit_index where idx >= 1",
    )
    forger = Written(database)
    await forger.write(*[entry("deny")] * 5)
    log.clock.move(seconds=10)
    with pytest.raises(FailedPrecondition) as refusal:
        await log.kept.cut_if_due()
    assert refusal.value.reason == "AUDIT_FORKED"
    task = asyncio.create_task(log.kept.run())
    async with asyncio.timeout(10):
        while "CRITICAL" not in caplog.text:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(await log.kept.since(0, 0, 10)) == 1


async def test_log_that_was_cut_off_is_not_signed(database: Database, database_url: str):
    """Fewer records than were signed already: said at once, and not in an hour."""
    log = Written(database)
    await seal(log, 3)
    as_owner(
        database_url,
        "delete from aegis.audit_record where idx >= 2",
        "delete from aegis.audit_index where idx >= 2",
    )
    with pytest.raises(FailedPrecondition) as refusal:
        await log.kept.cut_if_due()
    assert refusal.value.reason == "AUDIT_FORKED"


async def test_key_that_was_revoked_seals_nothing(database: Database, tmp_path: Path):
    """What it signed until then stays good; with the next key it goes on."""
    keys, next_keys = Keys(), Keys()
    log = Written(database, keys=keys)
    trust = keys.trust()
    log.kept = Checkpoints(log.audit, keys.log, clock=log.clock, trust=lambda: trust)
    await seal(log, 3)
    log.clock.move(seconds=1)
    trust = TrustBundle(
        (
            *(replace(key, revoked_at=log.clock()) for key in keys.trust().keys),
            *next_keys.trust().keys,
        )
    )
    await log.write(entry())
    log.clock.move(seconds=10)
    with pytest.raises(FailedPrecondition) as refusal:
        await log.kept.cut_if_due()
    assert refusal.value.reason == "SIGNING_KEY_UNUSABLE"
    log.kept = Checkpoints(log.audit, next_keys.log, clock=log.clock, trust=lambda: trust)
    assert await log.kept.cut_if_due() is not None
    copy = await log.copy(tmp_path / "copy")
    assert verify_copy(copy, trust=trust, now=log.clock()).verdict is Verdict.GOOD


async def test_change_of_rights_is_sealed_at_once(database: Database):
    """A login waits for the ten seconds, a role does not."""
    log = Written(database)
    identity = audit_pb2.AUDIT_KIND_IDENTITY
    await seal(log)
    await log.write(entry("accepted", kind=identity, action="login"))
    assert await log.kept.cut_if_due() is None
    await log.write(entry("changed", kind=identity, action="change_roles"))
    assert await log.kept.cut_if_due() is not None


async def test_stray_file_in_a_sink_is_passed_over(database: Database, tmp_path: Path):
    """Somebody's note of their own does not end the program."""
    log = Written(database)
    await seal(log)
    folder = tmp_path / "aegis-server"
    folder.mkdir()
    (folder / "read-me.note").write_text("hello")
    sink = FileSink(tmp_path, "aegis-server")
    task = asyncio.create_task(Delivery(log.kept, [sink], CollectorRegistry()).run())
    async with asyncio.timeout(10):
        while sink.behind() != 1:
            assert not task.done()
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_other_log_with_another_past_of_the_same_size_is_recorded(
    database: Database, caplog: pytest.LogCaptureFixture
):
    """Both notes are signed by its key, so both are kept; told once."""
    theirs, ours = Written(database), Written(database)
    peer = PeerLog(ours.audit, ours.kept, theirs.keys.trust, "aegis-server")
    await seal(theirs, 2)
    first = await newest(theirs.kept)
    state = checkpoints.parse(first).checkpoint
    forked = checkpoints.Checkpoint(state.log_id, 2, bytes(32), state.chain, state.time)
    second = checkpoints.sign(forked, theirs.keys.log)
    await peer.take(first)
    for _ in range(3):
        await peer.take(second)
    await peer.take(first)
    records = [audit_pb2.AuditRecord.FromString(each.record) for each in await ours.stored()]
    seen = [each for each in records if each.kind == audit_pb2.AUDIT_KIND_CHECKPOINT_PEER]
    assert [each.outcome for each in seen] == ["recorded", "forked"]
    assert [each.evidence[0].content.decode() for each in seen] == [first, second]
    assert "CRITICAL" in caplog.text


async def test_note_of_a_revoked_key_is_not_taken_from_the_other_log(database: Database):
    """Whatever time is written in it: who stole the key wrote that, too."""
    theirs, ours = Written(database), Written(database)
    keys = [
        replace(key, revoked_at=theirs.clock() + timedelta(minutes=1))
        for key in theirs.keys.trust().keys
    ]
    peer = PeerLog(ours.audit, ours.kept, lambda: TrustBundle(tuple(keys)), "aegis-server")
    await seal(theirs, 2)
    ours.clock.move(minutes=2)
    with pytest.raises(InvalidArgument, match="was not valid") as refusal:
        await peer.take(await newest(theirs.kept))
    assert refusal.value.reason == "CHECKPOINT_INVALID"


class Liar(witness_pb2_grpc.WitnessServiceServicer):
    """A witness that answers with whatever it was told."""

    cosignature = ""

    async def AddCheckpoint(
        self, request: witness_pb2.AddCheckpointRequest, context: object
    ) -> witness_pb2.AddCheckpointResponse:
        return witness_pb2.AddCheckpointResponse(cosignature=self.cosignature)

    async def GetWitnessedCheckpoint(
        self, request: witness_pb2.GetWitnessedCheckpointRequest, context: grpc.aio.ServicerContext
    ) -> witness_pb2.GetWitnessedCheckpointResponse:
        return witness_pb2.GetWitnessedCheckpointResponse(note=self.cosignature)


@pytest.fixture
async def liar() -> AsyncIterator[tuple[Liar, grpc.aio.Channel]]:
    server, servicer = grpc.aio.server(), Liar()
    witness_pb2_grpc.add_WitnessServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, channel
    await server.stop(None)


def link(log: Written, channel: grpc.aio.Channel, keys: Keys) -> Witnessing:
    return Witnessing(
        log.audit,
        log.kept,
        channel,
        trust=keys.trust,
        clock=log.clock,
        registry=CollectorRegistry(),
    )


@pytest.mark.parametrize("kind", ["nothing", "foreign key", "two lines", "another note's"])
async def test_cosignature_that_is_none_is_not_kept(
    database: Database, liar: tuple[Liar, grpc.aio.Channel], kind: str
):
    """A witness can refuse us, not put words into our log's checkpoints."""
    log, keys = Written(database), Keys()
    log = Written(database, keys=keys)
    await seal(log)
    note = await newest(log.kept)
    good = checkpoints.cosign(note, "witness:local", keys.witness, log.clock())
    state = checkpoints.parse(note).checkpoint
    other = checkpoints.Checkpoint(state.log_id, 9, state.root, state.chain, state.time)
    servicer, channel = liar
    servicer.cosignature = {
        "nothing": "",
        "foreign key": checkpoints.cosign(note, "witness:local", Keys().witness, log.clock()),
        "two lines": good + good.replace("witness:local", "witness:other"),
        "another note's": checkpoints.cosign(
            checkpoints.sign(other, keys.log), "witness:local", keys.witness, log.clock()
        ),
    }[kind]
    witnessing = link(log, channel, keys)
    witnessing._seen = 0  # what it says about the past is another question
    with pytest.raises(CheckpointError):
        await witnessing.offer_newest()
    assert await newest(log.kept) == note


async def test_past_that_a_witness_invents_is_not_believed(
    database: Database, liar: tuple[Liar, grpc.aio.Channel]
):
    """What it says it has seen has to be signed by our own log."""
    log = Written(database)
    await seal(log)
    state = checkpoints.parse(await newest(log.kept)).checkpoint
    far = checkpoints.Checkpoint(state.log_id, 10**9, state.root, state.chain, state.time)
    servicer, channel = liar
    servicer.cosignature = checkpoints.sign(far, Keys().log)
    with pytest.raises(CheckpointError):
        await link(log, channel, log.keys).offer_newest()


@pytest.fixture
async def replicas(
    database: Database, tmp_path: Path
) -> AsyncIterator[tuple[Written, Written, grpc.aio.Channel]]:
    """One log as two servers write it, and a witness that both call."""
    keys = Keys()
    first = Written(database, keys=keys)
    second = Written(database, keys=keys, clock=first.clock)
    heads = Heads(
        tmp_path, trust=keys.trust(), name="witness:local", key=keys.witness, clock=first.clock
    )
    from tests.doors import DoorsFor

    from aegis.serving.doors import Grant
    from aegis.spiffe import Caller

    async def admit(method: str, caller: Caller) -> Grant:
        return Grant()

    server = grpc.aio.server(interceptors=[DoorsFor(Caller("server:aegis", ""), admit)])
    witness_pb2_grpc.add_WitnessServiceServicer_to_server(WitnessService(heads), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield first, second, channel
    await server.stop(None)


async def test_replicas_share_a_witness(replicas: tuple[Written, Written, grpc.aio.Channel]):
    """One that has not heard of the other's last offer asks again instead of giving up."""
    first, second, channel = replicas
    links = [link(first, channel, first.keys), link(second, channel, first.keys)]
    for turn in (0, 1, 1, 0, 1):
        await seal(first, 3)
        await links[turn].offer_newest()
        found = cosigned_by(await newest(first.kept), first.keys.trust())
        assert set(found) == {"witness:local"}


@pytest.mark.parametrize("heard", [True, False])
async def test_replica_that_comes_late_raises_no_alarm(
    replicas: tuple[Written, Written, grpc.aio.Channel],
    caplog: pytest.LogCaptureFixture,
    heard: bool,
):
    """The other one showed a newer checkpoint meanwhile: that is no log that was cut short."""
    first, second, channel = replicas
    late, swift = link(first, channel, first.keys), link(second, channel, first.keys)
    await seal(first, 3)
    if heard:
        await late.offer_newest()
        await seal(first, 3)
    read = first.kept.newest

    async def overtaken() -> KeptNote | None:
        before = await read()
        first.kept.newest = read  # type: ignore[method-assign]
        await seal(second, 3)
        await swift.offer_newest()
        return before

    first.kept.newest = overtaken  # type: ignore[method-assign]
    await late.offer_newest()
    assert [each for each in caplog.records if each.levelno >= logging.CRITICAL] == []
    assert late._refused._value.get() == 0
    assert late._size._value.get() == swift._size._value.get() > 3
