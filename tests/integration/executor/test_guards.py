"""The guards on real Postgres: one claims, everybody else counts what it wrote."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from psycopg.types.json import Jsonb
from tests.guarding import NOW, asked

from aegis.errors import (
    Aborted,
    AegisError,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database
from aegis.v1 import audit_pb2, envelope_pb2
from aegis_executor.catalogue.base import Object
from aegis_executor.guards import Asked, Guards, store
from aegis_executor.guards.assembly import guarding
from aegis_executor.guards.history import Deed
from aegis_executor.guards.memory import Memory
from aegis_executor.guards.numbers import Numbers
from aegis_executor.guards.orders import Orders
from aegis_executor.guards.pauses import Pause
from aegis_executor.store import OnlyExecutor

PATIENT = Numbers.of_table({"cool_down_seconds": 0})


class Workloads:
    """Four deployments, well or ill; or nobody answers."""

    def __init__(self) -> None:
        self.available = 1
        self.error: Exception | None = None

    async def deployments(self, namespace: str) -> Sequence[Object]:
        if self.error is not None:
            raise self.error
        status = {
            "availableReplicas": self.available,
            "updatedReplicas": 1,
            "observedGeneration": 1,
        }
        return [
            {
                "metadata": {"name": f"{namespace}{n}", "generation": 1},
                "spec": {"replicas": 1},
                "status": status,
            }
            for n in range(4)
        ]


class World:
    """An executor's guards, a clock and a journal to write into."""

    def __init__(self, database: Database, lock: OnlyExecutor, folder: Path) -> None:
        self.database = database
        self.lock = lock
        self.now = NOW
        self.cluster = Workloads()
        self.registry = CollectorRegistry()
        self.pause_file = folder / "pause"
        self.audit = AuditLog(
            database, log_id="aegis-executor", clock=self.clock, schema="aegis_executor"
        )
        self.orders = Orders(database, self.audit, clock=self.clock)
        self.guards: Guards

    def clock(self) -> datetime:
        return self.now

    async def begin(self, numbers: Numbers = PATIENT) -> None:
        """Makes the guards anew, as a restart would."""
        self.registry = CollectorRegistry()
        self.guards = await guarding(
            self.database,
            self.cluster,
            namespaces={"demo"},
            numbers=numbers,
            epoch=self.lock.epoch,
            pause_file=self.pause_file,
            clock_check=False,
            clock=self.clock,
            registry=self.registry,
        )

    async def claim(self, ask: Asked, *, linger: float = 0.0) -> str:
        """As the journal does it; returns the reason of a refusal, empty when it was claimed."""
        try:
            async with self.database.transaction() as connection:
                await self._insert(connection, ask)
                await self.guards.claim(connection, ask)
                await asyncio.sleep(linger)
        except AegisError as error:
            return error.reason
        return ""

    async def _insert(self, connection: Connection, ask: Asked, request: bytes = b"") -> None:
        await connection.execute(
            """
            insert into aegis_executor.intent
                (request_id, action_id, action, issuer, action_digest, key_id, nonce, request,
                 decision, intent_at, kind, namespace, name, incident_id, approved, break_glass)
            values (%s, %s, %s, 'user:ada', %s, 'key', %s, %s, '', %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                ask.request_id,
                f"action-{ask.request_id}",
                ask.verb,
                bytes(32),
                uuid.uuid4().bytes,
                request,
                self.now,
                ask.place.kind.value,
                ask.place.namespace,
                ask.place.name,
                ask.incident_id,
                ask.approved,
                ask.break_glass,
            ),
        )

    async def end(self, ask: Asked, state: str, verdict: str = "") -> None:
        async with self.database.transaction() as connection:
            await connection.execute(
                "insert into aegis_executor.ending values (%s, %s, '', '', %s, %s)",
                (ask.request_id, state, Jsonb({}), self.now),
            )
            if verdict:
                await connection.execute(
                    "insert into aegis_executor.verdict values (%s, %s, '', '', %s, %s)",
                    (ask.request_id, verdict, Jsonb({}), self.now),
                )

    async def done(self, ask: Asked, state: str, verdict: str = "") -> None:
        """Claims without asking anybody, and ends."""
        async with self.database.transaction() as connection:
            await self._insert(connection, ask)
        await self.end(ask, state, verdict)

    async def rows(self, query: str) -> list[Any]:
        async with self.database.transaction() as connection:
            return await (await connection.execute(query)).fetchall()

    async def records(self) -> list[audit_pb2.AuditRecord]:
        found = await self.rows("select record from aegis_executor.audit_record order by idx")
        return [audit_pb2.AuditRecord.FromString(bytes(raw)) for (raw,) in found]

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
async def world(
    executor_tables: str, executor_database_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    """Migrated by the owner, used by the executor's own role."""
    database = Database(executor_database_url, application="test", max_size=12)
    async with OnlyExecutor(executor_database_url, holder="executor:local") as lock:
        await database.open()
        made = World(database, lock, tmp_path)
        await made.begin()
        yield made
        await database.close()


async def test_two_claims_of_one_target_at_once_have_one_winner(world: World):
    """Counted and acted on under one lock: st2 #3150 and #4481 counted first."""
    found = await asyncio.gather(*(world.claim(asked(), linger=0.1) for _ in range(2)))
    assert sorted(found) == ["", "TARGET_BUSY"]


async def test_ten_claims_at_once_stay_within_every_limit(world: World):
    """Different targets of one namespace: two, however they race."""
    asks = [asked(f"app{n}") for n in range(10)]
    found = await asyncio.gather(*(world.claim(ask, linger=0.02) for ask in asks))
    assert sorted(found) == ["", "", *["TARGET_BUSY"] * 8]
    assert await world.rows("select count(*) from aegis_executor.intent") == [(2,)]


async def test_refused_claim_leaves_nothing(world: World):
    """Its id and nonce are free for when it may."""
    first, second = asked(), asked()
    assert await world.claim(first) == ""
    assert await world.claim(second) == "TARGET_BUSY"
    await world.end(first, "APPLIED", "VERIFIED")
    assert await world.claim(second) == ""


@pytest.mark.refuses("TARGET_BUSY", step=13)
async def test_action_is_under_way_from_intent_to_verdict(world: World):
    """APPLIED frees nothing, its verdict does; so do FAILED and a dry run."""
    first = asked()
    assert await world.claim(first) == ""
    await world.end(first, "APPLIED")
    assert await world.claim(asked()) == "TARGET_BUSY"
    for state in ("FAILED", "DRY_RUN"):
        ask = asked(f"app-{state.lower()}")
        assert await world.claim(ask) == ""
        await world.end(ask, state)
        again = asked(ask.place.name)
        assert await world.claim(again) == ""
        await world.end(again, "FAILED")


async def test_dry_runs_and_old_intents_count_for_nothing(world: World):
    """Intents of before the guards name no object."""
    for _ in range(5):
        await world.done(asked(), "DRY_RUN")
    dry = envelope_pb2.ActionRequest(mode=envelope_pb2.ActionRequest.MODE_DRY_RUN)
    async with world.database.transaction() as connection:
        # And one that is still going on.
        await world._insert(connection, asked(), dry.SerializeToString())
        await connection.execute(
            """
            insert into aegis_executor.intent (request_id, action_id, action, issuer,
                action_digest, key_id, nonce, request, decision, intent_at)
            values (%s, 'a', 'scale_deployment', 'x', %s, 'k', %s, '', '', %s)
            """,
            (uuid.uuid4(), bytes(32), bytes(16), NOW),
        )
    assert await world.claim(asked()) == ""


@pytest.mark.refuses("BREAKER_OPEN", step=12)
async def test_unknown_opens_the_breaker_until_it_is_resolved(world: World):
    """However old; a holder that vanished is not passed on by time."""
    lost = asked()
    await world.done(lost, "UNKNOWN")
    world.now += timedelta(days=10)
    await world.guards.look()
    with pytest.raises(FailedPrecondition) as refusal:
        await world.guards.enter(asked(approved=True))
    assert refusal.value.reason == "BREAKER_OPEN"
    board = await world.guards.board()
    assert [b.name for b in board.breakers if b.state == "OPEN"] == ["target demo/deployments/web"]
    await world.orders.resolve(
        request_id=lost.request_id, who="user:ada", found="NOT_APPLIED", reason="looked"
    )
    assert await world.claim(asked()) == ""
    (record,) = [record for record in await world.records() if record.action == "resolve"]
    assert (record.actor, record.outcome) == ("user:ada", "not_applied")
    assert record.subject_id == f"action-{lost.request_id}"


async def test_what_a_person_found_stands(world: World):
    """Saying it again is no error, saying otherwise is; and only an UNKNOWN one is resolved."""
    lost, healed = asked(), asked("api")
    await world.done(lost, "UNKNOWN")
    await world.done(healed, "APPLIED", "VERIFIED")
    told = {"who": "user:ada", "reason": "looked"}
    for _ in range(2):
        await world.orders.resolve(request_id=lost.request_id, found="APPLIED", **told)
    # As at the server: nobody watched whether it helped.
    async with world.database.transaction() as connection:
        deeds = await store.deeds(connection, now=world.now, memory=timedelta(days=1), besides=None)
    (deed,) = [each for each in deeds if each.request_id == lost.request_id]
    assert (deed.state, deed.resolved) == ("INCONCLUSIVE", True)
    for request_id, state in ((lost.request_id, "APPLIED"), (healed.request_id, "VERIFIED")):
        with pytest.raises(FailedPrecondition, match=state) as refusal:
            await world.orders.resolve(request_id=request_id, found="NOT_APPLIED", **told)
        assert refusal.value.reason == "STATE_CONFLICT"
    with pytest.raises(NotFound):
        await world.orders.resolve(request_id=str(uuid.uuid4()), found="APPLIED", **told)


@pytest.mark.refuses("EXECUTION_PAUSED", step=12)
async def test_pause_holds_at_once_at_every_step(world: World):
    """Before the claim, in it, and just before the change of what was claimed already."""
    claimed = asked("api")
    assert await world.claim(claimed) == ""
    pause = Pause("p-1", "demo", "", "user:ada", "network work", NOW)
    await world.orders.pause(pause)
    await world.orders.pause(pause)
    for question in (world.guards.enter(asked()), world.guards.recheck(claimed)):
        with pytest.raises(FailedPrecondition) as refusal:
            await question
        assert refusal.value.reason == "EXECUTION_PAUSED"
    assert await world.claim(asked(break_glass=True)) == "EXECUTION_PAUSED"
    await world.guards.enter(asked(namespace="shop"))
    await world.orders.resume(pause_id="p-1", who="user:bob", reason="done")
    assert await world.claim(asked()) == ""
    found = [(r.action, r.actor, r.outcome) for r in await world.records()]
    assert found == [("pause", "user:ada", "paused"), ("resume", "user:bob", "resumed")]


async def test_pause_that_arrives_after_its_end_never_holds(world: World):
    """Messages overtake each other; and an end without a pause is no error."""
    for _ in range(2):
        await world.orders.resume(pause_id="p-9", who="user:bob", reason="")
    await world.orders.pause(Pause("p-9", "", "", "user:ada", "late", NOW))
    assert await world.claim(asked()) == ""


async def test_pause_ends_by_its_own_time(world: World):
    """Until then it holds."""
    until = NOW + timedelta(minutes=5)
    await world.orders.pause(Pause("p-2", "", "", "user:ada", "x", NOW, until))
    assert await world.claim(asked()) == "EXECUTION_PAUSED"
    world.now = until
    await world.guards.look()
    assert await world.claim(asked()) == ""


@pytest.mark.refuses("EXECUTION_PAUSED", step=12)
async def test_local_file_pauses_at_every_step(world: World):
    """And its reason is shown to who asks."""
    claimed = asked("api")
    assert await world.claim(claimed) == ""
    world.pause_file.write_text("storage is on fire\n")
    for question in (world.guards.enter(asked()), world.guards.recheck(claimed)):
        with pytest.raises(FailedPrecondition, match="storage is on fire"):
            await question
    assert await world.claim(asked()) == "EXECUTION_PAUSED"
    assert (await world.guards.board()).local_pause == "storage is on fire"
    world.pause_file.unlink()
    await world.guards.recheck(claimed)


async def test_recheck_counts_nothing(world: World):
    """What was claimed is under way itself; only what may have changed is asked."""
    ask = asked()
    assert await world.claim(ask) == ""
    await world.guards.recheck(ask)


async def test_gates_tell_everything_and_refuse_nothing(world: World):
    """What `why` prints, the request itself left out."""
    ask = asked()
    assert await world.claim(ask) == ""
    assert all(gate.passed for gate in await world.guards.gates(ask))
    other = await world.guards.gates(asked())
    assert [gate.name for gate in other if not gate.passed] == ["concurrent.target"]
    assert {"pause.local", "pause", "clock", "freeze", "window", "storm", "cool_down"} <= {
        gate.name for gate in other
    }


@pytest.mark.refuses("COOLING_DOWN", "BUDGET_EXHAUSTED", "ATTEMPTS_EXHAUSTED", step=13)
async def test_each_refusal_in_the_order_of_the_steps(world: World):
    """Cool-down, budget and attempts, as the claim raises them."""
    ask = asked(incident_id="i-1")
    await world.done(ask, "APPLIED", "VERIFIED")
    await world.begin(Numbers())
    assert await world.claim(asked()) == "COOLING_DOWN"
    for _ in range(2):
        await world.done(asked(incident_id="i-1"), "APPLIED", "VERIFIED")
    async with world.database.transaction() as connection:
        with pytest.raises(ResourceExhausted) as refusal:
            await world.guards.claim(connection, asked())
    assert refusal.value.reason == "BUDGET_EXHAUSTED"
    assert refusal.value.retry_seconds == 3600
    world.now += timedelta(minutes=61)
    await world.guards.look()
    assert await world.claim(asked("api", incident_id="i-1")) == "ATTEMPTS_EXHAUSTED"
    assert world.metric("aegis_executor_guard_refusals_total", guard="cool_down") == 1
    assert world.metric("aegis_executor_guard_refusals_total", guard="hour.target") == 1
    assert world.metric("aegis_executor_guard_refusals_total", guard="attempts") == 1


@pytest.mark.refuses("STORM_ACTIVE", step=12)
async def test_storm_is_written_down_and_survives_a_restart(world: World):
    """Each change once; what was quiet before the restart counts for nothing."""
    world.cluster.available = 0
    await world.guards.look()
    world.now += timedelta(seconds=30)
    await world.guards.look()
    await world.guards.look()
    assert await world.claim(asked()) == "STORM_ACTIVE"
    assert await world.rows("select state, watched, anomalous from aegis_executor.storm") == [
        ("STORM", 4, 4)
    ]
    assert world.metric("aegis_executor_storm", state="STORM") == 1
    world.cluster.available = 1
    await world.begin()
    assert await world.claim(asked()) == "STORM_ACTIVE"
    for _ in range(70):
        world.now += timedelta(seconds=20)
        await world.guards.look()
    assert await world.claim(asked()) == ""
    found = await world.rows("select state, pace from aegis_executor.storm order by number")
    assert found == [
        ("STORM", 0),
        ("RECOVERING", 1),
        ("RECOVERING", 2),
        ("RECOVERING", 4),
        ("CALM", 0),
    ]


@pytest.mark.refuses("STORM_ACTIVE", step=12)
async def test_sensor_that_cannot_look_is_blind_and_blind_refuses(world: World):
    """After its bound; and back to calm when it sees that it is."""
    world.cluster.error = ConnectionError("refused")
    world.now += timedelta(seconds=31)
    await world.guards.look()
    assert await world.claim(asked()) == "STORM_ACTIVE"
    board = await world.guards.board()
    assert board.storm.state == "BLIND"
    assert [b.name for b in board.breakers if b.state != "CLOSED"] == ["dependency kubernetes"]
    world.cluster.error = None
    world.now += timedelta(seconds=60)
    await world.guards.look()
    assert await world.claim(asked()) == ""
    found = await world.rows("select state from aegis_executor.storm order by number")
    assert found == [("BLIND",), ("CALM",)]


async def test_cluster_that_is_away_at_the_start_does_not_hold_it_up(world: World):
    """The executor serves, and refuses."""
    world.cluster.error = ConnectionError("refused")
    await world.begin()
    assert await world.claim(asked()) == "STORM_ACTIVE"


async def test_board_shows_what_is_used(world: World):
    """Budgets of what was done, the global ones always."""
    assert {b.name for b in (await world.guards.board()).budgets} == {
        "concurrent.global",
        "hour.global",
    }
    assert await world.claim(asked()) == ""
    board = await world.guards.board()
    used = {budget.name: (budget.used, budget.limit) for budget in board.budgets}
    assert used == {
        "concurrent.global": (1, 5),
        "hour.global": (1, 30),
        "concurrent.namespace demo": (1, 2),
        "hour.namespace demo": (1, 10),
        "concurrent.target demo/deployments/web": (1, 1),
        "hour.target demo/deployments/web": (1, 3),
    }
    assert board.epoch == world.lock.epoch.number == 1


async def test_breakers_and_pauses_are_gauges(world: World):
    """By kind and state; single targets would be too many."""
    for _ in range(2):
        await world.done(asked(), "APPLIED", "INCONCLUSIVE")
    world.pause_file.write_text("x")
    await world.guards.look()
    assert world.metric("aegis_executor_breakers", kind="target", state="OPEN") == 1
    assert world.metric("aegis_executor_pauses") == 1


async def test_guards_without_their_database_let_nothing_through(world: World):
    """No limit is skipped because it cannot be counted."""
    await world.database.close()
    for question in (
        world.guards.enter(asked()),
        world.guards.recheck(asked()),
        world.guards.gates(asked()),
    ):
        with pytest.raises(Unavailable):
            await question


@pytest.mark.refuses("FENCED", step=13)
async def test_executor_of_an_earlier_epoch_claims_and_changes_nothing(
    world: World, executor_database_url: str, database_url: str
):
    """It lost its lock and does not know yet; the newest epoch is not its own."""
    claimed = asked("api")
    assert await world.claim(claimed) == ""
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(
            "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
            " and database = (select oid from pg_database where datname = current_database())"
        )
    async with OnlyExecutor(executor_database_url, holder="executor:other") as other:
        assert other.epoch.number == 2
        assert await world.claim(asked()) == "FENCED"
        with pytest.raises(Aborted) as refusal:
            await world.guards.recheck(claimed)
        assert refusal.value.reason == "FENCED"
    assert await world.rows("select epoch, holder from aegis_executor.epoch order by epoch") == [
        (1, "executor:local"),
        (2, "executor:other"),
    ]
    assert world.metric("aegis_executor_guard_refusals_total", guard="epoch") == 2
    # The other has gone again: what it did in between is not known here.
    with pytest.raises(RuntimeError, match="another executor has used this journal"):
        await asyncio.wait_for(world.lock.keep(), 10)


async def test_new_epoch_waits_for_who_has_asked_already(world: World, executor_database_url: str):
    """Between the check and the commit nobody takes over."""
    async with world.database.transaction() as connection:
        await world.lock.epoch.check(connection)
        from aegis_executor.guards.epoch import begin

        async with await psycopg.AsyncConnection.connect(
            executor_database_url, autocommit=True
        ) as other:
            beginning = asyncio.create_task(begin(other, "executor:other", NOW))
            await asyncio.sleep(0.1)
            assert not beginning.done()
            await connection.commit()
            assert (await asyncio.wait_for(beginning, 5)).number == 2


async def test_standby_waits_and_takes_over(world: World, executor_database_url: str):
    """Where another executor would end, it stands by for as long as it takes."""
    standby = OnlyExecutor(executor_database_url, holder="executor:other", standby=True)
    entering = asyncio.create_task(standby.__aenter__())
    await asyncio.sleep(3.5)
    assert not entering.done()
    await world.lock.__aexit__(None, None, None)
    await asyncio.wait_for(entering, 5)
    assert standby.epoch.number == 2
    await standby.__aexit__(None, None, None)


async def test_epoch_is_not_there_before_the_lock(executor_database_url: str):
    """Nobody acts without a turn."""
    with pytest.raises(RuntimeError, match="has not been taken"):
        _ = OnlyExecutor(executor_database_url).epoch


async def test_repeat_of_a_request_is_not_counted_against_itself(world: World):
    """The claim's own row is in the table when the guards count."""
    ask = replace(asked(), incident_id="i-1")
    await world.begin(Numbers.of_table({"attempts": 1, "hourly": {"target": 1}}))
    assert await world.claim(ask) == ""


async def test_what_is_over_is_read_once_and_never_missed(world: World):
    """After every step the memory says what a fresh look at the whole journal would."""
    memory, day = Memory(), timedelta(days=1)

    async def both(besides: str | None = None) -> list[Deed]:
        async with world.database.transaction() as connection:
            told = {"now": world.now, "memory": day, "besides": besides}
            found = await memory.deeds(connection, **told)
            assert found == await store.deeds(connection, **told)
        return found

    assert await both() == []
    lost = asked("lost")
    await world.done(lost, "UNKNOWN")
    for number, (state, verdict) in enumerate(
        [("APPLIED", "VERIFIED"), ("APPLIED", ""), ("FAILED", ""), ("DRY_RUN", "")]
    ):
        world.now += timedelta(minutes=1)
        ask = asked(f"app-{number}")
        async with world.database.transaction() as connection:
            await world._insert(connection, ask)
        assert (await both())[0].state == "INTENT"
        await world.end(ask, state, verdict)
        await both()
        await both(besides=ask.request_id)
    assert len(await both()) == 4
    found = {"who": "user:ada", "found": "NOT_APPLIED", "reason": "looked"}
    await world.orders.resolve(request_id=lost.request_id, **found)
    assert (await both())[-1].resolved
    world.now += day
    await both()
    world.now += timedelta(minutes=30)
    # What never got its verdict is under way, however old.
    assert [deed.state for deed in await both()] == ["APPLIED"]
    world.now -= timedelta(hours=1)
    assert len(await both()) == 4


async def test_over_deed_is_not_read_again(world: World):
    """Only what may still change comes from the journal a second time."""
    over, going = asked("over"), asked("going")
    await world.done(over, "APPLIED", "VERIFIED")
    assert await world.claim(going) == ""
    async with world.database.transaction() as connection:
        told = {"now": world.now, "memory": timedelta(days=1), "besides": None}
        known = [over.request_id]
        (read,) = await store.deeds(connection, **told, known=known)
    assert read.request_id == going.request_id
