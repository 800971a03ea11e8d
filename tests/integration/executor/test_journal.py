"""The journal on real Postgres: claims, ends, and that nothing is ever rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from tests.factories import Signers, scale

from aegis.errors import (
    Aborted,
    AlreadyExists,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database, migrate
from aegis_executor.admission import Admission, Admitted, Limits
from aegis_executor.catalogue import REMEDIES
from aegis_executor.catalogue.base import Change, Kind, Place, Sent, Standing
from aegis_executor.journal import Ending, Execution, Journal
from aegis_executor.store import OnlyExecutor, Verdict

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SIGNERS = Signers.fresh()
WEB = Place(Kind.DEPLOYMENT, "demo", "web")


class FakeEpoch:
    """This executor's turn, until `over`."""

    number = 3

    def __init__(self) -> None:
        self.over = False

    async def check(self, connection: Connection) -> None:
        if self.over:
            raise Aborted("FENCED", "epoch 4 acts")


async def nothing(connection: Connection) -> None:
    """No guard stands in the way."""


async def claim(journal: Journal, asked: Admitted) -> tuple[Execution, bool]:
    return await journal.claim(asked, nothing)


def admitted(replicas: int = 3) -> Admitted:
    checks = Admission(
        trust=SIGNERS.trust(NOW),
        name="executor:local",
        cluster="sandbox",
        audience="aegis",
        limits=Limits(frozenset({"demo"}), frozenset(REMEDIES), 10),
        clock=lambda: NOW,
    )
    asked = SIGNERS.request(scale("demo", "web", replicas), now=NOW)
    return checks.admit(asked, SIGNERS.decision(asked, now=NOW), peer="server:aegis")


@pytest.fixture
async def journal(executor_tables: str, executor_database_url: str) -> AsyncIterator[Journal]:
    database = Database(executor_database_url, application="test", max_size=8)
    await database.open()
    audit = AuditLog(database, log_id="aegis-executor", clock=lambda: NOW, schema="aegis_executor")
    epoch = FakeEpoch()
    yield Journal(database, audit, name="executor:local", epoch=epoch, clock=lambda: NOW)
    await database.close()


async def test_claim_is_fresh_exactly_once(journal: Journal):
    """Twenty claims of one request at the same moment: one is the first."""
    asked = admitted()
    claims = await asyncio.gather(*(claim(journal, asked) for _ in range(20)))
    assert sum(fresh for _, fresh in claims) == 1
    assert {execution.action_id for execution, _ in claims} == {asked.action_id}


@pytest.mark.refuses("REPLAY_DETECTED", step=13)
async def test_claims_of_one_nonce_by_many_requests_have_one_winner(journal: Journal):
    """The nonce is unique by itself, whatever id it comes with."""
    first = admitted()
    others = [replace(admitted(), nonce=first.nonce) for _ in range(10)]
    claims = await asyncio.gather(*(claim(journal, one) for one in others), return_exceptions=True)
    refused = [c for c in claims if isinstance(c, Unauthenticated)]
    assert [error.reason for error in refused] == ["REPLAY_DETECTED"] * 9


async def test_spent_nonce_is_told_before_a_reused_id(journal: Journal):
    """Both at once: the replay is the graver thing."""
    first, second = admitted(3), admitted(4)
    await claim(journal, first)
    await claim(journal, second)
    with pytest.raises(Unauthenticated, match="nonce"):
        await claim(journal, replace(second, nonce=first.nonce))


@pytest.mark.parametrize(
    "change", [{"action_digest": bytes(32)}, {"issuer": "user:admin"}, {"dry_run": True}]
)
@pytest.mark.refuses("REQUEST_ID_REUSED", step=13)
async def test_request_id_of_another_action_or_issuer_is_refused(
    journal: Journal, change: dict[str, object]
):
    """An id belongs to one issuer and one action; what was tried was not done, nor the reverse."""
    first = admitted()
    await claim(journal, first)
    with pytest.raises(AlreadyExists) as caught:
        await claim(journal, replace(first, nonce=bytes(16), **change))
    assert caught.value.reason == "REQUEST_ID_REUSED"


async def test_condition_that_does_not_hold_undoes_the_claim(journal: Journal):
    """Neither id nor nonce are spent: the very same request may come again."""
    asked = admitted()

    async def refuse(connection: Connection) -> None:
        # In the same transaction, the claim is there to be counted.
        cursor = await connection.execute("select count(*) from aegis_executor.intent")
        assert await cursor.fetchone() == (1,)
        raise ResourceExhausted("BUDGET_EXHAUSTED", "3 an hour")

    with pytest.raises(ResourceExhausted):
        await journal.claim(asked, refuse)
    assert await journal.unfinished() == []
    assert (await claim(journal, asked))[1]


async def test_condition_is_not_asked_for_a_repeat(journal: Journal):
    """What was claimed once is answered, whatever the guards say now."""
    asked = admitted()
    await claim(journal, asked)

    async def refuse(connection: Connection) -> None:
        raise ResourceExhausted("BUDGET_EXHAUSTED", "3 an hour")

    _, fresh = await journal.claim(asked, refuse)
    assert not fresh


async def test_intent_carries_what_guards_count_by(journal: Journal):
    """Where, for which incident, with what granted, in whose turn."""
    asked = admitted()
    asked.spec.incident_id = "inc-7"
    await claim(journal, replace(asked, standing=Standing(approved=True, break_glass=True)))
    (intent,) = await journal.unfinished()
    assert (intent.kind, intent.namespace, intent.name) == ("deployments", "demo", "web")
    assert (intent.incident_id, intent.approved, intent.break_glass) == ("inc-7", True, True)
    assert intent.epoch == 3


async def test_stored_execution_is_found_for_the_same_request_only(journal: Journal):
    """What anybody else asks under that id goes on to the claim, which says why not."""
    asked = admitted()
    assert await journal.stored(asked) is None
    await claim(journal, asked)
    await journal.end(asked.request_id, Ending("DRY_RUN"))
    found = await journal.stored(asked)
    assert found is not None
    assert found.ending == Ending("DRY_RUN")
    assert await journal.stored(replace(asked, nonce=bytes(16))) == found
    assert await journal.stored(replace(asked, action_digest=bytes(32))) is None
    assert await journal.stored(replace(asked, issuer="user:admin")) is None
    assert await journal.stored(replace(asked, dry_run=True)) is None
    other = admitted(4)
    await claim(journal, other)
    assert await journal.stored(replace(asked, nonce=other.nonce)) is None


async def test_fenced_executor_writes_nothing(journal: Journal):
    """Neither a claim, nor an attempt, nor an end."""
    asked, late = admitted(), admitted(4)
    await claim(journal, asked)
    journal._epoch.over = True
    for written in (
        claim(journal, late),
        journal.sending(asked.request_id, 1, Change("scale", WEB, "1", 1, {})),
        journal.end(asked.request_id, Ending("APPLIED")),
    ):
        with pytest.raises(Aborted, match="epoch 4"):
            await written
    assert [intent.request_id for intent in await journal.unfinished()] == [asked.request_id]
    assert await journal.last_sent(asked.request_id) is None


async def test_first_end_stands(journal: Journal):
    """Whoever comes second learns what is already written."""
    asked = admitted()
    await claim(journal, asked)
    await journal.end(asked.request_id, Ending("APPLIED", observations={"uid": "u"}))
    later = await journal.end(asked.request_id, Ending("FAILED", "INTERNAL", "no"))
    assert later.ending == Ending("APPLIED", observations={"uid": "u"})


async def test_verdict_is_told_with_the_execution(journal: Journal, executor_database_url: str):
    """That it was applied is not the last word."""
    asked = admitted()
    await claim(journal, asked)
    await journal.end(asked.request_id, Ending("APPLIED", observations={"uid": "u"}))
    assert (await journal.find(asked.request_id)).verdict is None
    with psycopg.connect(executor_database_url) as connection:
        connection.execute(
            "insert into aegis_executor.verdict (request_id, state, reason, message, observations,"
            " at) values (%s, 'INEFFECTIVE', '', 'as ill as before', '{\"looks\": \"9\"}', %s)",
            (asked.request_id, NOW),
        )
    found = await journal.find(asked.request_id)
    assert found.ending is not None
    assert found.ending.state == "APPLIED"
    assert found.verdict == Verdict("INEFFECTIVE", "", "as ill as before", {"looks": "9"}, NOW)
    assert (await claim(journal, asked))[0] == found


async def test_intent_without_end_is_unfinished_with_its_last_attempt(journal: Journal):
    """What the sweep needs after a crash: the signed bytes, and what was sent last."""
    asked, ended = admitted(), admitted()
    for each in (asked, ended):
        await claim(journal, each)
    await journal.end(ended.request_id, Ending("FAILED", "TARGET_GONE"))
    assert await journal.last_sent(asked.request_id) is None
    change = Change("scale", replace(WEB, uid="u-1"), "20", 4, {}, {"replicas_before": "2"})
    await journal.sending(asked.request_id, 1, change)
    await journal.sending(asked.request_id, 2, replace(change, resource_version="21"))
    (intent,) = await journal.unfinished()
    assert (intent.request_id, bytes(intent.request)) == (asked.request_id, asked.request)
    assert await journal.last_sent(asked.request_id) == (
        Sent("u-1", "21", 4, {"replicas_before": "2"}),
        NOW,
    )


async def test_journal_that_was_taken_away_refuses(journal: Journal, database_url: str):
    """Without a place for nonces nothing is claimed, and the caller may try again."""
    with psycopg.connect(database_url) as owner:
        owner.execute("alter table aegis_executor.intent rename to gone")
    for question in (claim(journal, admitted()), journal.unfinished()):
        with pytest.raises(Unavailable) as caught:
            await question
        assert caught.value.reason == "DATABASE_UNAVAILABLE"


async def test_unknown_execution_is_not_found(journal: Journal):
    """Never claimed, never done."""
    with pytest.raises(NotFound):
        await journal.find("00000000-0000-4000-8000-000000000000")


@pytest.mark.parametrize("table", ["intent", "attempt", "ending"])
@pytest.mark.parametrize(
    "statement", ["update {} set request_id = request_id", "delete from {}", "truncate {} cascade"]
)
async def test_journal_cannot_be_rewritten(
    journal: Journal, database_url: str, table: str, statement: str
):
    """Not even by its owner: the database itself refuses."""
    asked = admitted()
    await claim(journal, asked)
    await journal.sending(asked.request_id, 1, Change("scale", WEB, "1", 1, {}))
    await journal.end(asked.request_id, Ending("APPLIED"))
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.RestrictViolation),
    ):
        connection.execute(statement.format(f"aegis_executor.{table}"))


def cut_off(owner_url: str) -> None:
    """Ends every connection that holds an advisory lock in the test's database."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
            " and database = (select oid from pg_database where datname = current_database())"
        )


async def test_lost_lock_is_taken_again(executor_database_url: str, database_url: str):
    """Connections break; the journal still belongs to the executor that goes on."""
    await migrate(database_url, "aegis_executor", "aegis_executor")
    async with OnlyExecutor(executor_database_url) as lock:
        keeping = asyncio.create_task(lock.keep())
        await asyncio.to_thread(cut_off, database_url)
        await asyncio.sleep(2.5)
        with pytest.raises(RuntimeError, match="another executor"):
            await OnlyExecutor(executor_database_url).__aenter__()
        assert not keeping.done()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_lock_whose_other_end_is_silent_is_taken_again(
    executor_database_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """A connection that swallows everything says nothing, least of all that the lock is gone."""
    monkeypatch.setattr("aegis_executor.store._ANSWER_SECONDS", 0.2)
    await migrate(database_url, "aegis_executor", "aegis_executor")
    async with OnlyExecutor(executor_database_url) as lock:
        first = lock._connection
        assert first is not None

        async def swallow(*_: object) -> None:
            await asyncio.sleep(60)

        first.execute = swallow  # type: ignore[method-assign,assignment]
        keeping = asyncio.create_task(lock.keep())
        async with asyncio.timeout(20):
            while lock._connection in (first, None):
                await asyncio.sleep(0.1)
        assert not keeping.done()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_executor_whose_lock_went_to_another_stops(
    executor_database_url: str, database_url: str
):
    """Two at once would end each other's executions as interrupted."""
    await migrate(database_url, "aegis_executor", "aegis_executor")
    async with OnlyExecutor(executor_database_url) as lock:
        await asyncio.to_thread(cut_off, database_url)
        async with OnlyExecutor(executor_database_url):
            with pytest.raises(RuntimeError, match="another executor"):
                await asyncio.wait_for(lock.keep(), 10)
