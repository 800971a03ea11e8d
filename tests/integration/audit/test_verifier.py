"""The offline verifier against a real log, and against everything that can be done to a copy."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from itertools import accumulate
from pathlib import Path

import click.testing
import pytest
from tests.auditing import START, Keys, Written, entry
from tests.commands import invoke

from aegis.audit import checkpoints
from aegis.audit.chain import GENESIS, chain_hash, leaf_hash
from aegis.audit.checkpoints import Checkpoint
from aegis.audit.copies import (
    ATTACHMENTS,
    CHECKPOINTS,
    RECORDS,
    CopyWriter,
    RawRecord,
    read_notes,
    scan_records,
)
from aegis.audit.findings import Result, Verdict
from aegis.audit.merkle import root_of
from aegis.audit.verifier import verify_copy
from aegis.serving.database import Database
from aegis.v1 import audit_pb2

LOG = "aegis-server"
RECORDS_TOTAL = 300
KEYS = Keys()


@pytest.fixture
async def copy(database: Database, tmp_path: Path) -> Path:
    """300 records, a checkpoint behind each 50 and one behind the last, some with attachments."""
    log = Written(database, keys=KEYS)
    for batch in range(6):
        await log.write(
            *(
                entry(
                    subject_id=f"{batch}-{number}",
                    attachments={"reason": b"because"} if number % 10 == 0 else {},
                )
                for number in range(50)
            )
        )
        log.clock.move(seconds=10)
        assert await log.kept.cut_if_due() is not None
    return await log.copy(tmp_path / "copy")


def verified(copy: Path, *external: Path, keys: Keys = KEYS, **late: float) -> Result:
    now = START + timedelta(minutes=5) + timedelta(**late)
    return verify_copy(copy, trust=keys.trust(), now=now, external=external)


def verdict(copy: Path, *external: Path) -> Verdict:
    return verified(copy, *external).verdict


def raw(copy: Path) -> list[RawRecord]:
    return list(scan_records(copy / LOG))


def put(copy: Path, records: list[RawRecord]) -> None:
    path = copy / LOG / RECORDS
    path.write_bytes(
        b"".join(len(r.record).to_bytes(4, "big") + r.record + r.hashes for r in records)
    )


def rewritten(records: list[RawRecord]) -> list[RawRecord]:
    """Every hash computed anew, as somebody would who owns the database."""
    previous, done = GENESIS, []
    for index, each in enumerate(records):
        message = audit_pb2.AuditRecord.FromString(each.record)
        message.index = index
        del message.attachments[:]
        record = message.SerializeToString()
        leaf = leaf_hash(record)
        chained = chain_hash(previous, leaf)
        done.append(RawRecord(record, leaf + previous + chained, complete=True))
        previous = chained
    return done


def notes(copy: Path) -> list[str]:
    return read_notes(copy / LOG / CHECKPOINTS)


def put_notes(copy: Path, kept: list[str]) -> None:
    (copy / LOG / CHECKPOINTS).write_text("".join(f"{note}--\n" for note in kept))


async def test_copy_of_a_real_log_is_good(copy: Path):
    """Nothing is found, and what was counted is what is there."""
    result = verified(copy)
    assert (result.verdict, result.findings) == (Verdict.GOOD, [])
    (log,) = result.logs
    assert (log.log_id, log.records, log.checkpoints, log.erased) == (LOG, RECORDS_TOTAL, 6, 0)
    assert log.newest is not None
    assert (log.newest.size, log.newest.root) == (RECORDS_TOTAL, log.root)


async def test_every_flipped_byte_is_found_where_it_is(copy: Path):
    """In lengths, records and hashes: of the first record, one in the middle, and the last."""
    path = copy / LOG / RECORDS
    whole = bytearray(path.read_bytes())
    ends = list(accumulate(4 + len(each.record) + 96 for each in raw(copy)))
    spans = list(zip([0, *ends], ends, strict=False))
    tried = 0
    for victim in (0, 1, 137, RECORDS_TOTAL - 1):
        for spot in range(*spans[victim]):
            bit = 1 << (spot % 8)
            whole[spot] ^= bit
            path.write_bytes(whole)
            result = verified(copy)
            whole[spot] ^= bit
            found = result.findings[0]
            assert (result.verdict, found.index) == (Verdict.ALTERED, victim), (victim, spot)
            tried += 1
    assert tried > 600


def deleted(copy: Path) -> None:
    put(copy, [*raw(copy)[:100], *raw(copy)[101:]])


def duplicated(copy: Path) -> None:
    put(copy, [*raw(copy)[:101], *raw(copy)[100:]])


def swapped(copy: Path) -> None:
    records = raw(copy)
    records[100], records[101] = records[101], records[100]
    put(copy, records)


def truncated(copy: Path) -> None:
    put(copy, raw(copy)[:299])


def truncated_inside_a_record(copy: Path) -> None:
    path = copy / LOG / RECORDS
    path.write_bytes(path.read_bytes()[:-40])


def emptied(copy: Path) -> None:
    put(copy, [])


def chain_recomputed_without_a_record(copy: Path) -> None:
    records = raw(copy)
    put(copy, rewritten([*records[:100], *records[101:]]))
    (copy / LOG / ATTACHMENTS).write_bytes(b"")


def chain_recomputed_with_another_record(copy: Path) -> None:
    records = raw(copy)
    message = audit_pb2.AuditRecord.FromString(records[120].record)
    message.outcome = "deny"
    records[120] = records[120]._replace(record=message.SerializeToString())
    put(copy, rewritten(records))
    (copy / LOG / ATTACHMENTS).write_bytes(b"")


def chain_recomputed_and_extended(copy: Path) -> None:
    records = raw(copy)
    put(copy, rewritten([*records[:100], *records[101:], *records[:5]]))
    (copy / LOG / ATTACHMENTS).write_bytes(b"")


def rewritten_and_signed_by_another_key(copy: Path) -> None:
    records = rewritten(raw(copy)[:299])
    put(copy, records)
    (copy / LOG / ATTACHMENTS).write_bytes(b"")
    root = root_of(each.hashes[:32] for each in records)
    cut = Checkpoint(LOG, 299, root, records[-1].hashes[64:], START + timedelta(minutes=1))
    put_notes(copy, [checkpoints.sign(cut, Keys().log)])


def checkpoint_altered(copy: Path) -> None:
    put_notes(copy, [notes(copy)[0].replace("\n50\n", "\n51\n"), *notes(copy)[1:]])


def checkpoint_of_another_log(copy: Path) -> None:
    state = checkpoints.parse(notes(copy)[0]).checkpoint
    other = Checkpoint("aegis-other", state.size, state.root, state.chain, state.time)
    put_notes(copy, [*notes(copy), checkpoints.sign(other, KEYS.log)])


def checkpoints_removed(copy: Path) -> None:
    put_notes(copy, [])


def attachment_altered(copy: Path) -> None:
    path = copy / LOG / ATTACHMENTS
    path.write_bytes(path.read_bytes().replace(b"because", b"perhaps", 1))


def attachment_moved(copy: Path) -> None:
    path = copy / LOG / ATTACHMENTS
    path.write_bytes(path.read_bytes().replace((10).to_bytes(8, "big"), (11).to_bytes(8, "big"), 1))


def attachments_damaged(copy: Path) -> None:
    path = copy / LOG / ATTACHMENTS
    path.write_bytes(path.read_bytes()[:-3])


def records_removed(copy: Path) -> None:
    (copy / LOG / RECORDS).unlink()


def attachment_added_in_the_name_of_another(copy: Path) -> None:
    path = copy / LOG / ATTACHMENTS
    path.write_bytes(path.read_bytes()[:43].replace(b"because", b"perhaps") + path.read_bytes())


def attachment_removed_without_a_word(copy: Path) -> None:
    (copy / LOG / ATTACHMENTS).write_bytes(b"")


@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        (deleted, Verdict.ALTERED),
        (duplicated, Verdict.ALTERED),
        (swapped, Verdict.ALTERED),
        (truncated, Verdict.TRUNCATED),
        (truncated_inside_a_record, Verdict.TRUNCATED),
        (emptied, Verdict.TRUNCATED),
        (records_removed, Verdict.TRUNCATED),
        (chain_recomputed_without_a_record, Verdict.FORKED),
        (chain_recomputed_with_another_record, Verdict.FORKED),
        (chain_recomputed_and_extended, Verdict.FORKED),
        (rewritten_and_signed_by_another_key, Verdict.SIGNATURE),
        (checkpoint_altered, Verdict.SIGNATURE),
        (checkpoint_of_another_log, Verdict.SIGNATURE),
        (checkpoints_removed, Verdict.STALE),
        (attachment_altered, Verdict.ALTERED),
        (attachment_moved, Verdict.ALTERED),
        (attachments_damaged, Verdict.ALTERED),
        (attachment_added_in_the_name_of_another, Verdict.ALTERED),
        (attachment_removed_without_a_word, Verdict.RULE),
    ],
)
async def test_what_was_done_to_a_copy_is_called_by_its_name(
    copy: Path, mutation: Callable[[Path], None], expected: Verdict
):
    """Each has its own exit status."""
    mutation(copy)
    assert verdict(copy) is expected


async def test_truncation_with_its_checkpoints_is_found_by_those_elsewhere(
    copy: Path, tmp_path: Path
):
    """Who cuts records and checkpoints alike is contradicted by a sink, a witness, another copy."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0000000006-300.note").write_text(notes(copy)[-1])
    older = tmp_path / "older"
    shutil.copytree(copy, older)
    put(copy, raw(copy)[:250])
    put_notes(copy, notes(copy)[:5])
    attachments = copy / LOG / ATTACHMENTS
    kept = attachments.read_bytes()
    attachments.write_bytes(kept[: kept.index((250).to_bytes(8, "big"))])
    assert verdict(copy) is Verdict.GOOD
    assert verdict(copy, elsewhere) is Verdict.TRUNCATED
    assert verdict(copy, older) is Verdict.TRUNCATED


async def test_rewritten_log_with_its_own_key_is_found_by_checkpoints_elsewhere(
    copy: Path, tmp_path: Path
):
    """Even who has the log's key cannot take back what others hold."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "latest").write_text(notes(copy)[-1])
    records = rewritten([*raw(copy)[:100], *raw(copy)[99:]])
    put(copy, records)
    root = root_of(each.hashes[:32] for each in records)
    cut = Checkpoint(LOG, len(records), root, records[-1].hashes[64:], START + timedelta(minutes=4))
    put_notes(copy, [checkpoints.sign(cut, KEYS.log)])
    (copy / LOG / ATTACHMENTS).write_bytes(b"")
    assert verdict(copy, elsewhere) is Verdict.FORKED


async def test_log_that_fell_silent_is_stale(copy: Path):
    """No checkpoint for two hours is an alarm; a copy is judged as of when it was made."""
    assert verified(copy, hours=1).verdict is Verdict.GOOD
    assert verified(copy, hours=3).verdict is Verdict.STALE


async def test_log_that_fell_silent_still_has_to_keep_the_rules(copy: Path):
    """What must not happen is graver than silence, and not hidden by it."""
    attachment_removed_without_a_word(copy)
    result = verified(copy, hours=3)
    assert result.verdict is Verdict.RULE
    assert Verdict.STALE in {found.verdict for found in result.findings}


async def test_keys_nobody_trusts_prove_nothing(copy: Path):
    """The right form and a good signature are not enough."""
    assert verified(copy, keys=Keys()).verdict is Verdict.SIGNATURE


async def test_gravest_finding_gives_the_exit_status(copy: Path):
    """An altered record makes an old checkpoint unimportant."""
    path = copy / LOG / RECORDS
    path.write_bytes(path.read_bytes()[:10] + b"\xff" + path.read_bytes()[11:])
    assert verified(copy, hours=9).verdict is Verdict.ALTERED


async def test_logs_of_a_copy_know_each_other(database: Database, tmp_path: Path):
    """Cut one of them short with all its checkpoints: the other one still holds the proof.

    Also of one that was left out altogether, unless that was what was asked for.
    """
    server = Written(database, keys=KEYS)
    await server.write(*[entry()] * 5)
    server.clock.move(seconds=10)
    cut = await server.kept.cut_if_due()
    assert cut is not None
    directory = await server.copy(tmp_path / "copy")
    other = entry(
        "recorded",
        kind=audit_pb2.AUDIT_KIND_CHECKPOINT_PEER,
        subject_id=f"{LOG}@5",
        evidence={"checkpoint": cut.note.encode()},
    )
    message = audit_pb2.AuditRecord(log_id="aegis-executor", kind=other.kind)
    message.evidence.add(name="checkpoint", content=cut.note.encode())
    record = message.SerializeToString()
    leaf = leaf_hash(record)
    chained = chain_hash(GENESIS, leaf)
    executor = Checkpoint("aegis-executor", 1, leaf, chained, START)
    with CopyWriter(directory / "aegis-executor") as writer:
        writer.add(
            audit_pb2.StoredAuditRecord(
                record=record, leaf_hash=leaf, prev_chain_hash=GENESIS, chain_hash=chained
            )
        )
        writer.add_note(checkpoints.sign(executor, KEYS.log))
    trust = KEYS.trust(LOG, "aegis-executor")
    assert verify_copy(directory, trust=trust, now=START).verdict is Verdict.GOOD
    put(directory, raw(directory)[:4])
    put_notes(directory, [])
    found = verify_copy(directory, trust=trust, now=START)
    assert found.verdict is Verdict.TRUNCATED
    shutil.rmtree(directory / LOG)
    found = verify_copy(directory, trust=trust, now=START)
    assert [(each.verdict, each.log_id) for each in found.findings] == [(Verdict.TRUNCATED, LOG)]
    alone = verify_copy(directory, trust=trust, now=START, only=["aegis-executor"])
    assert alone.verdict is Verdict.GOOD


async def test_log_without_its_records_is_seen_beside_one_that_is_whole(copy: Path):
    """Who takes the records of one log away has not made it disappear."""
    other = copy / "aegis-executor"
    shutil.copytree(copy / LOG, other)
    (other / RECORDS).unlink()
    result = verified(copy, keys=KEYS)
    assert [log.log_id for log in result.logs] == ["aegis-executor", LOG]
    assert result.verdict is not Verdict.GOOD


def told(copy: Path, trust: Path, *more: str) -> click.testing.Result:
    """What the command says."""
    words = ["audit", "verify", "--records", str(copy), "--trust", str(trust)]
    return invoke([*words, "--as-of", "2026-05-01T12:05:00", *more])


async def test_folder_without_checkpoints_is_not_taken_for_one_that_agrees(
    copy: Path, tmp_path: Path
):
    """A disk that is not mounted is an empty folder."""
    trust, elsewhere = KEYS.write(tmp_path / "trust.json"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "read-me.txt").write_text("checkpoints go here")
    refused = told(copy, trust, "--external", str(elsewhere))
    assert refused.exit_code != 0
    assert "holds no checkpoints" in refused.output
    (elsewhere / "latest").write_text(notes(copy)[-1])
    assert told(copy, trust, "--external", str(elsewhere)).exit_code == 0


def test_names_in_a_copy_command_no_terminal(tmp_path: Path):
    """What is not proven yet is shown as what it is, and gets its verdict."""
    message = audit_pb2.AuditRecord(log_id="[/b]\x1b]0;good\x07[green]good")
    record = message.SerializeToString()
    leaf = leaf_hash(record)
    with CopyWriter(tmp_path / "copy" / LOG) as writer:
        stored = audit_pb2.StoredAuditRecord(record=record, leaf_hash=leaf)
        stored.prev_chain_hash, stored.chain_hash = GENESIS, chain_hash(GENESIS, leaf)
        writer.add(stored)
    shown = told(tmp_path / "copy", KEYS.write(tmp_path / "trust.json"))
    assert shown.exit_code == Verdict.STALE
    assert "\x1b" not in shown.output
    assert "[green]good" in shown.output


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def test_verifier_needs_neither_database_nor_server(copy: Path, tmp_path: Path):
    """A fresh interpreter verifies a copy without loading a driver, and exits with the status."""
    trust = KEYS.write(tmp_path / "trust.json")
    program = (
        "import sys\n"
        "from aegis.cli.main import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    loaded = {'psycopg', 'redis', 'casbin', 'torch', 'aegis_server'} & set(sys.modules)\n"
        "    print('loaded', sorted(loaded))\n"
    )
    command = [sys.executable, "-c", program, "audit", "verify", "--records", str(copy)]
    command += ["--trust", str(trust), "--as-of", "2026-05-01T12:05:00"]
    done = await asyncio.to_thread(run, command)
    assert (done.returncode, "loaded []" in done.stdout) == (0, True), done.stdout + done.stderr
    truncated(copy)
    done = await asyncio.to_thread(run, command)
    assert done.returncode == Verdict.TRUNCATED, done.stderr
    assert "expected 300" in done.stderr
