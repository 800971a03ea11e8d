"""What is noted arrives once, whatever ends or vanishes meanwhile; what does not is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from datetime import timedelta

import pytest
from tests.integration.policy.decisionlog.logs import (
    Logging,
    audit_records,
    now,
    stored,
    until_stored,
)

from aegis.errors import ResourceExhausted
from aegis.serving.database import Database
from aegis_server.policy.decisionlog import privileged
from aegis_server.policy.decisionlog.verification import verify

ODD = 'a\tb\\c\nd\re\0f"\N{SNOWMAN}'


async def test_decision_is_stored_as_it_was_noted(logging: Logging, database: Database):
    """Every field, whatever characters are in it."""
    noted = logging.entry(
        caller=f"user:{ODD}", resource=f"/{ODD}", allowed=False, rule_id=ODD, source="redis"
    )
    await logging.write(noted)
    (row,) = await stored(database)
    clean = ODD.replace("\0", "\N{REPLACEMENT CHARACTER}")
    assert (row.at, str(row.decision_id), row.caller) == (
        noted.at,
        noted.decision_id,
        f"user:{clean}",
    )
    assert (row.subject, row.domain, row.action) == ("user:ann", "aegis", "read")
    assert (row.resource, row.effect, row.rule_id) == (f"/{clean}", 2, clean)
    assert (row.revision, row.source, row.microseconds, row.attributes) == (1, 3, 7, None)
    assert (await verify(database)).problems == []


async def test_ids_are_uuids_that_differ(logging: Logging, database: Database):
    """Of version 8, without a collision within or between two servers."""
    other = Logging(database)
    ids = [each.log.next_id() for each in (logging, other) for _ in range(1000)]
    assert len(set(ids)) == 2000
    assert {uuid.UUID(each).version for each in ids} == {8}
    assert str(uuid.UUID(ids[0])) == ids[0]


async def test_nothing_is_lost_on_a_graceful_stop(logging: Logging, database: Database):
    """Thousands noted in the last moment are there, and committed to in the audit log."""
    await logging.write(*(logging.entry() for _ in range(4500)))
    assert len(await stored(database)) == 4500
    (record,) = await audit_records(database)
    assert (record.action, record.outcome, record.subject_id) == (
        "evaluate",
        "logged",
        str(logging.log.log_id),
    )
    assert {name: record.details[name] for name in ("first_batch", "last_batch", "allow")} == {
        "first_batch": "1",
        "last_batch": "3",
        "allow": "4500",
    }
    assert (record.details["deny"], record.details["unrecorded"]) == ("0", "0")
    assert json.loads(record.evidence[0].content)["allow"] == {"ann-reads": 4500}


async def test_stop_in_the_middle_of_a_write_loses_and_doubles_nothing(
    logging: Logging, database: Database
):
    """The transaction that is cut off is tried again by the stop itself."""
    noted = 0
    for seconds in (0.0, 0.06, 0.07, 0.1):
        async with logging.running():
            for _ in range(3000):
                logging.note()
            noted += 3000
            await asyncio.sleep(seconds)
    assert len(await stored(database)) == noted
    assert (await verify(database)).problems == []


async def test_crash_keeps_what_was_flushed(logging: Logging, database: Database):
    """A killed server loses its buffer; its batches stay, and the next server commits to them."""
    task = asyncio.create_task(logging.log.run())
    logging.note()
    await until_stored(logging.log)
    logging.log._finish = lambda: asyncio.sleep(0)  # type: ignore[method-assign]  # killed
    logging.note()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert len(await stored(database)) == 1
    found = await verify(database)
    assert (found.problems, found.open_batches) == ([], 1)
    heir = Logging(database)
    heir.log._commitment._clock = lambda: now() + timedelta(minutes=5)
    await heir.log._commitment.commit_left_behind()
    found = await verify(database)
    assert (found.problems, found.open_batches, found.commitments) == ([], 0, 1)
    await heir.log._commitment.commit_left_behind()
    assert len(await audit_records(database)) == 1


async def test_batches_are_committed_to_while_it_runs(database: Database):
    """Not only at the end: every so many seconds."""
    logging = Logging(database, {"commit_seconds": 0.05})
    async with logging.running():
        for count in range(1, 3):
            logging.note(allowed=False, rule_id="", subject="user:bob")
            async with asyncio.timeout(10):
                while len(await audit_records(database)) < count:
                    await asyncio.sleep(0.02)
    records = await audit_records(database)
    assert [each.details["first_batch"] for each in records] == ["1", "2"]
    assert json.loads(records[0].evidence[0].content)["denied"] == {"user:bob": 1}


@pytest.mark.parametrize(
    ("allowed", "action", "expected"),
    [
        (True, "restart_pod", True),
        (True, "write", True),
        (False, "restart_pod", False),
        *((True, verb, False) for verb in ("read", "list", "get", "watch", "evaluate", "explain")),
    ],
)
def test_an_allow_to_do_something_is_privileged(
    logging: Logging, allowed: bool, action: str, expected: bool
):
    """A denial changes nothing, and neither does reading."""
    assert privileged(logging.entry(allowed=allowed, action=action)) is expected


def refused(logging: Logging, **fields: object) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        logging.note(**fields)
    assert (caught.value.reason, caught.value.retry_seconds) == ("DECISION_LOG_FULL", 1.0)


async def test_full_log_refuses_privileged_and_counts_plain_ones(database: Database):
    """DECISION_LOG_FULL; what was given in spite of it is a gap that the log itself tells."""
    logging = Logging(database, {"capacity": 2})
    first, _ = logging.note(), logging.note(action="write")
    lost = [logging.note(), logging.note(allowed=False, action="write")]
    refused(logging, action="write")
    assert logging.counted("decisions_unrecorded_total") == 2
    assert logging.counted("decisions_refused_total") == 1
    assert logging.counted("decision_log_waiting") == 2
    async with logging.running():
        await until_stored(logging.log)
        logging.note(action="write")
    assert [row.action for row in await stored(database)] == ["read", "write", "write"]
    (record,) = await audit_records(database)
    assert (record.details["allow"], record.details["unrecorded"]) == ("3", "2")
    assert record.details["unrecorded_from"] == str(lost[0].at) > str(first.at)
    assert record.details["unrecorded_until"] == str(lost[1].at)
    assert (await verify(database)).unrecorded == 2


async def test_full_log_refuses_everything_in_strict_mode(database: Database):
    """Also a denial: no answer without a record."""
    logging = Logging(database, {"capacity": 1, "strict": True})
    logging.note()
    refused(logging)
    refused(logging, allowed=False)
    assert logging.counted("decisions_unrecorded_total") == 0


@pytest.mark.parametrize("strict", [False, True])
async def test_postgres_away(database: Database, server_database_url: str, strict: bool):
    """Privileged decisions are refused after the bound, plain ones in strict mode; when Postgres
    is back, what was given is there, and how much is missing."""
    logging = Logging(database, {"capacity": 4, "unwritable_seconds": 0.2, "strict": strict})
    nowhere = Database("postgresql://nobody@/nothing?host=/nowhere", application="t")
    logging.log._writer._database = nowhere
    nowhere._pool.timeout = 0.1
    await nowhere._pool.open()
    async with logging.running():
        logging.note(action="write")
        await asyncio.sleep(0.5)
        refused(logging, action="write")
        if strict:
            refused(logging)
        else:
            for _ in range(5):
                logging.note()
        logging.log._writer._database = database
        await until_stored(logging.log)
        logging.note(action="write")
    await nowhere.close()
    rows = await stored(database)
    assert [row.action for row in rows] == (
        ["write", "write"] if strict else ["write", "read", "read", "read", "write"]
    )
    found = await verify(database)
    assert (found.problems, found.unrecorded) == ([], 0 if strict else 2)


async def test_lost_answer_to_a_commit_writes_nothing_twice(logging: Logging, database: Database):
    """The batch is there, but nobody said so: it is looked for before it is written again."""
    writer = logging.log._writer
    write, tries = writer._write, 0

    async def and_lose_the_answer():
        nonlocal tries
        tries += 1
        batch = await write()
        if tries == 1:
            raise TimeoutError
        return batch

    writer._write = and_lose_the_answer  # type: ignore[method-assign]
    async with logging.running():
        logging.note()
        logging.note()
        await until_stored(logging.log)
        logging.note()
    assert tries >= 2
    assert len(await stored(database)) == 3
    assert (await verify(database)).problems == []


async def test_what_postgres_refuses_is_tried_again(logging: Logging, database: Database, owner):
    """A defect on the other side stops no server and loses nothing."""
    await owner.execute("alter table aegis.decision add constraint no check (action <> 'read')")
    async with logging.running():
        logging.note()
        async with asyncio.timeout(10):
            while not logging.counted("decision_log_behind"):
                await asyncio.sleep(0.01)
        await owner.execute("alter table aegis.decision drop constraint no")
        await until_stored(logging.log)
    assert logging.counted("decision_log_behind") == 0
    assert len(await stored(database)) == 1


async def test_reported_decisions_are_taken_once(database: Database):
    """A replica that did not hear our answer sends them again, maybe to another server."""
    servers = [Logging(database), Logging(database)]
    entries = [
        servers[0].entry(source="local", decision_id=str(uuid.uuid4()), caller="service:edge")
        for _ in range(3)
    ]
    async with servers[0].running(), servers[1].running():
        await servers[0].log.take(entries[:2])
        await asyncio.gather(*(each.log.take(entries) for each in servers))
        await servers[0].log.take([entries[0], entries[0]])
    rows = await stored(database)
    assert sorted(str(row.decision_id) for row in rows) == sorted(e.decision_id for e in entries)
    assert {(row.source, row.caller) for row in rows} == {(4, "service:edge")}
    assert (await verify(database)).problems == []


async def test_report_to_a_full_log_is_refused_as_a_whole(database: Database):
    """DECISION_LOG_FULL: send them again later; none of them was taken."""
    logging = Logging(database, {"capacity": 2})
    entries = [logging.entry(source="local") for _ in range(3)]
    with pytest.raises(ResourceExhausted):
        await logging.log.take(entries)
    assert logging.log.waiting == 0


async def test_attributes_are_kept_only_when_told(database: Database):
    """By default their digest; and never a document."""
    plain, keeping = Logging(database), Logging(database, {"keep_attributes": True})
    given = {"replicas": 3.0, "names": ["a\tb", "c\\d"], "deep": {"x": None, "y": True}}
    await plain.write(plain.entry(attributes=given))
    await keeping.write(
        keeping.entry(attributes=given),
        keeping.entry(),
        keeping.entry(attributes={"long": "x" * 10_000}),
    )
    rows = await stored(database)
    assert [row.attributes and json.loads(row.attributes) for row in rows] == [
        None,
        given,
        None,
        None,
    ]
    assert rows[0].attributes_digest == rows[1].attributes_digest != rows[2].attributes_digest
    assert (await verify(database)).problems == []


async def test_two_days_go_to_two_partitions(logging: Logging, database: Database):
    """A batch around midnight has its rows where they belong."""
    await logging.write(logging.entry(at=now() - timedelta(days=1)), logging.entry())
    assert len(await stored(database)) == 2
    assert (await verify(database)).problems == []
