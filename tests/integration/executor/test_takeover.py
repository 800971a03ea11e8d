"""Two executors and one journal: whoever lost its turn can write nothing more.

Hypothesis lets them start, lose the lock without noticing, claim, send and end in any order, on the
real SQL. The cluster is one number: a write is pinned to the version that was read, which is the
last fence, because a message that was sent cannot be called back.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.factories import Signers, scale

from aegis.errors import Aborted
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Connection, Database, migrate
from aegis_executor.admission import Admission, Admitted, Limits
from aegis_executor.catalogue.base import Change, Kind, Place
from aegis_executor.journal import Ending, Journal
from aegis_executor.store import OnlyExecutor

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SIGNERS = Signers.fresh()
NAMES = ("first", "second")
Value = TypeVar("Value")

_END_OF_LOCKS = """
select pg_terminate_backend(pid) from pg_locks
where locktype = 'advisory' and objid = x'6a726e6c'::int and granted
  and database = (select oid from pg_database where datname = current_database())
"""


@dataclass
class Side:
    """One executor: its lock, its journal, and what it is about to send."""

    lock: OnlyExecutor
    database: Database
    journal: Journal
    planned: dict[str, Change] = field(default_factory=dict)


@dataclass
class Model:
    """What must be so."""

    epoch: int = 0
    # Who holds the lock; None once the database has ended the session.
    holder: str | None = None
    turns: dict[str, int] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    ended: dict[str, str] = field(default_factory=dict)


class Takeover(RuleBasedStateMachine):
    """The machine; `urls` are those of the executor and of the database's owner."""

    urls: tuple[str, str]
    loop: asyncio.AbstractEventLoop
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.sides: dict[str, Side] = {}
        self.model = Model()
        self.admitted: dict[str, Admitted] = {}
        self.version = 0
        self.effects: dict[str, int] = {}

    def wait(self, for_: Coroutine[Any, Any, Value]) -> Value:
        return self.loop.run_until_complete(asyncio.wait_for(for_, 20))

    @initialize()
    def one_is_there(self) -> None:
        self.model.epoch = self.owner("select coalesce(max(epoch), 0) from aegis_executor.epoch")
        self.start("first")

    @precondition(lambda self: self.model.holder is None)
    @rule(name=st.sampled_from(NAMES))
    def start(self, name: str) -> None:
        """Takes the lock that is free, with the next number; a second life forgets the first."""
        if name in self.sides:
            self.wait(self._stop(self.sides.pop(name)))
        self.sides[name] = self.wait(self._started(name))
        self.model.epoch += 1
        self.model.turns[name] = self.model.epoch
        self.model.holder = name
        assert self.sides[name].lock.epoch.number == self.model.epoch

    @rule()
    def lose_the_lock(self) -> None:
        """The database ends the session; nobody tells the executor."""
        self.owner(f"select count(*) from ({_END_OF_LOCKS}) as ended")
        self.model.holder = None

    @rule(target=requests)
    def ask(self) -> str:
        """Somebody asks for something."""
        admitted = _admitted()
        self.admitted[admitted.request_id] = admitted
        return admitted.request_id

    @rule(name=st.sampled_from(NAMES), request_id=requests)
    def claim(self, name: str, request_id: str) -> None:
        """Only whose turn it is claims, and only once."""
        if name not in self.sides:
            return
        claim = self.sides[name].journal.claim(self.admitted[request_id], _agree)
        if self._fenced(name):
            self._refused(claim)
            return
        _, fresh = self.wait(claim)
        assert fresh == (request_id not in self.model.claimed)
        self.model.claimed.add(request_id)

    @rule(request_id=requests)
    def claim_together(self, request_id: str) -> None:
        """Everybody at the same moment: at most one is the first."""
        claims = [s.journal.claim(self.admitted[request_id], _agree) for s in self.sides.values()]
        answers = self.wait(_together(claims))
        fresh = [answer for answer in answers if isinstance(answer, tuple) and answer[1]]
        may = any(not self._fenced(name) for name in self.sides)
        assert len(fresh) == (1 if may and request_id not in self.model.claimed else 0)
        if fresh:
            self.model.claimed.add(request_id)

    @rule(name=st.sampled_from(NAMES), request_id=requests)
    def plan(self, name: str, request_id: str) -> None:
        """Reads the cluster; that changes nothing, whoever does it."""
        if name in self.sides and request_id in self.model.claimed - set(self.effects):
            self.sides[name].planned[request_id] = _change(self.version)

    @rule(name=st.sampled_from(NAMES), request_id=requests)
    def send(self, name: str, request_id: str) -> None:
        """Writes the attempt down and sends it; the cluster takes it if nothing has changed."""
        change = self.sides[name].planned.pop(request_id, None) if name in self.sides else None
        if change is None:
            return
        number = 1 + self.owner(
            f"select count(*) from aegis_executor.attempt where request_id = '{request_id}'"
        )
        sending = self.sides[name].journal.sending(request_id, number, change)
        if self._fenced(name):
            self._refused(sending)
            return
        self.wait(sending)
        if change.resource_version == str(self.version):
            self.version += 1
            self.effects[request_id] = self.effects.get(request_id, 0) + 1

    @rule(
        name=st.sampled_from(NAMES),
        request_id=requests,
        state=st.sampled_from(("APPLIED", "FAILED", "UNKNOWN")),
    )
    def end(self, name: str, request_id: str, state: Any) -> None:
        """The first end stands, and only whose turn it is writes one."""
        if name not in self.sides or request_id not in self.model.claimed:
            return
        ending = self.sides[name].journal.end(request_id, Ending(state))
        if self._fenced(name):
            self._refused(ending)
            return
        execution = self.wait(ending)
        stands = self.model.ended.setdefault(request_id, state)
        assert execution.ending is not None
        assert execution.ending.state == stands

    @precondition(lambda self: self.model.holder is not None)
    @rule(request_id=requests)
    def overtake(self, request_id: str) -> None:
        """Superseded in the middle of a claim: the successor waits, and sees the claim."""
        name = self.model.holder
        other = next(each for each in NAMES if each != name)
        if name is None or request_id in self.model.claimed:
            return
        if other in self.sides:
            self.wait(self._stop(self.sides.pop(other)))
        self.sides[other] = self.wait(self._overtaken(name, other, request_id))
        self.model.epoch += 1
        self.model.turns[other] = self.model.epoch
        self.model.holder = other
        self.model.claimed.add(request_id)
        unfinished = self.wait(self.sides[other].journal.unfinished())
        assert request_id in {intent.request_id for intent in unfinished}

    @invariant()
    def everything_is_there_once(self) -> None:
        """No effect twice, and nothing in the journal that the model does not know."""
        assert all(count == 1 for count in self.effects.values())
        ours = "','".join(self.admitted)
        claimed = f"select count(*) from aegis_executor.intent where request_id::text in ('{ours}')"
        assert self.owner(claimed) == len(self.model.claimed)

    def teardown(self) -> None:
        for side in self.sides.values():
            self.wait(self._stop(side))

    def owner(self, query: str) -> int:
        with psycopg.connect(self.urls[1], autocommit=True) as connection:
            row = connection.execute(query).fetchone()
        return int(row[0]) if row else 0

    def _fenced(self, name: str) -> bool:
        return self.model.turns[name] != self.model.epoch

    def _refused(self, call: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(Aborted) as caught:
            self.wait(call)
        assert caught.value.reason == "FENCED"

    async def _started(self, name: str) -> Side:
        lock = OnlyExecutor(self.urls[0], holder=name)
        await lock.__aenter__()
        database = Database(self.urls[0], application="test", max_size=2)
        await database.open()
        audit = AuditLog(
            database, log_id="aegis-executor", clock=lambda: NOW, schema="aegis_executor"
        )
        journal = Journal(database, audit, name=name, epoch=lock.epoch, clock=lambda: NOW)
        return Side(lock, database, journal)

    async def _stop(self, side: Side) -> None:
        await side.database.close()
        await side.lock.__aexit__(None, None, None)

    async def _overtaken(self, name: str, other: str, request_id: str) -> Side:
        starting: list[asyncio.Task[Side]] = []

        async def meanwhile(_: Connection) -> None:
            await asyncio.to_thread(self.owner, f"select count(*) from ({_END_OF_LOCKS}) as ended")
            starting.append(asyncio.create_task(self._started(other)))
            await asyncio.sleep(0.1)
            assert not starting[0].done()

        _, fresh = await self.sides[name].journal.claim(self.admitted[request_id], meanwhile)
        assert fresh
        return await starting[0]


def _admitted() -> Admitted:
    checks = Admission(
        trust=SIGNERS.trust(NOW),
        name="executor:local",
        cluster="sandbox",
        audience="aegis",
        limits=Limits(frozenset({"demo"}), frozenset({"scale_deployment"}), 10),
        clock=lambda: NOW,
    )
    asked = SIGNERS.request(scale("demo", "web", 3), now=NOW, request_id=str(uuid.uuid4()))
    return checks.admit(asked, SIGNERS.decision(asked, now=NOW), peer="server:aegis")


def _change(version: int) -> Change:
    place = Place(Kind.DEPLOYMENT, "demo", "web", "u-1")
    return Change("scale", place, str(version), 1, {})


async def _agree(_: Connection) -> None:
    """Nothing stands against the claim."""


async def _together(calls: list[Coroutine[Any, Any, Value]]) -> list[Value | BaseException]:
    return await asyncio.gather(*calls, return_exceptions=True)


def test_whoever_lost_its_turn_writes_nothing(executor_database_url: str, database_url: str):
    """In any order of starts, losses, claims, attempts and ends."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(migrate(database_url, "aegis_executor", "aegis_executor"))
    machine = type(
        "Machine",
        (Takeover,),
        {"urls": (executor_database_url, database_url), "loop": loop},
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    loop.close()
