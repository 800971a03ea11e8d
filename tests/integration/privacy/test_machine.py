"""Runs, limits and new accounts in any order: no reservation ever overdraws, nothing is lost.

The real SQL beside a list in memory that is added up the slow way.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.integration.privacy.conftest import Room, invite, now
from tests.integration.privacy.test_books import ADMIN, register

from aegis.errors import FailedPrecondition
from aegis.serving.auditlog import AuditLog
from aegis.serving.database import Database
from aegis_learning import privacy
from aegis_server.migrating import migrate
from aegis_server.privacy.book import PARTICIPANT, RECORD, Limit, Mechanism
from aegis_server.privacy.books import Books
from aegis_server.privacy.ledger import Ledger

NAMES = ("north", "south", "west")
Value = TypeVar("Value")
EVERYBODY = ("*",)


@dataclass
class Entry:
    """What the model knows of an entry."""

    run_id: str
    participant: str
    account: int
    mechanism: Mechanism
    steps: int
    counted: bool
    open: bool = True

    def cost(self) -> Any:
        halved = 2 if self.mechanism.unit == PARTICIPANT else 1
        noise = self.mechanism.noise_multiplier / halved
        return privacy.rdp(noise, self.mechanism.sample_rate, self.steps)


MECHANISMS = st.one_of(
    st.builds(
        Mechanism,
        noise_multiplier=st.sampled_from((0.8, 1.4, 3.0)),
        sample_rate=st.sampled_from((0.05, 0.3, 1.0)),
        steps=st.integers(0, 40),
        unit=st.just(RECORD),
    ),
    st.builds(
        Mechanism,
        noise_multiplier=st.sampled_from((4.0, 8.0)),
        sample_rate=st.just(1.0),
        steps=st.integers(1, 20),
        unit=st.just(PARTICIPANT),
    ),
)


class Ledgers(RuleBasedStateMachine):
    """The machine; every example has a data set of its own."""

    room: Any
    loop: asyncio.AbstractEventLoop
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.dataset = f"rows-{uuid.uuid4().hex[:12]}"
        self.entries: list[Entry] = []
        self.limits: dict[str, Limit] = {}
        self.accounts: dict[str, int] = {}

    def wait(self, for_: Coroutine[Any, Any, Value]) -> Value:
        return self.loop.run_until_complete(asyncio.wait_for(for_, 20))

    @initialize()
    def rows_are_registered(self) -> None:
        async def begin() -> None:
            async with self.room.database.transaction() as connection:
                await register(connection, self.dataset)

        self.wait(begin())

    @rule(
        target=runs,
        participants=st.one_of(
            st.just(EVERYBODY),
            st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple),
        ),
        mechanism=MECHANISMS,
        simulation=st.sampled_from((False, False, False, True)),
    )
    def begin(self, participants: tuple[str, ...], mechanism: Mechanism, simulation: bool) -> str:
        """Begins exactly if nobody would be overdrawn; names the first who would."""
        overdrawn = None if simulation else self._overdrawn(participants, mechanism)
        reserving = self.room.reserve(
            *participants, mechanism=mechanism, dataset=self.dataset, simulation=simulation
        )
        if overdrawn is not None:
            with pytest.raises(FailedPrecondition) as refused:
                self.wait(reserving)
            assert refused.value.metadata["participant"] == overdrawn
            return ""
        run_id = self.wait(reserving)
        for name in participants:
            self.entries.append(
                Entry(
                    run_id,
                    name,
                    self.accounts.get(name, 1),
                    mechanism,
                    mechanism.steps,
                    counted=not simulation,
                )
            )
        for name in () if simulation else self._bearers(participants):
            assert self._spent(name) <= self._limit(name).epsilon
        return run_id

    @rule(
        run_id=consumes(runs),
        said=st.dictionaries(st.sampled_from(("everybody", *NAMES)), st.integers(0, 80)),
    )
    def end(self, run_id: str, said: dict[str, int]) -> None:
        """Lowers, never raises; who is not named pays for everything."""
        self.wait(self.room.settle(run_id, **said))
        for entry in self.entries:
            if entry.run_id == run_id:
                name = "everybody" if entry.participant == "*" else entry.participant
                entry.steps = min(entry.steps, said.get(name, entry.steps))
                entry.open = False

    @rule(
        name=st.sampled_from((*EVERYBODY, *NAMES)),
        epsilon=st.sampled_from((0.5, 4.0, 20.0, 60.0)),
        delta=st.sampled_from((1e-3, 1e-5)),
    )
    def limit(self, name: str, epsilon: float, delta: float) -> None:
        """May be below what is spent: that ends nothing, and lets nothing begin."""
        self.wait(self.room.books.limit(self.dataset, name, Limit(epsilon, delta), ADMIN))
        self.limits[name] = Limit(epsilon, delta)

    @precondition(lambda self: not any(e.open and e.counted for e in self.entries))
    @rule(name=st.sampled_from((*EVERYBODY, *NAMES)))
    def reset(self, name: str) -> None:
        """Begins anew where nothing is open."""
        self.wait(self.room.books.reset(self.dataset, name, ADMIN))
        for each in self._known() if name == "*" else [name]:
            self.accounts[each] = self.accounts.get(each, 1) + 1

    @precondition(lambda self: any(e.open and e.counted for e in self.entries))
    @rule(name=st.sampled_from((*EVERYBODY, *NAMES)))
    def reset_under_an_open_run(self, name: str) -> None:
        """Is refused."""
        with pytest.raises(FailedPrecondition, match="is open"):
            self.wait(self.room.books.reset(self.dataset, name, ADMIN))

    @invariant()
    def everything_is_there_and_adds_up(self) -> None:
        """Every entry that was ever written, and the sums of the current accounts."""
        _, standings, stored = self.wait(self.room.books.look(self.dataset, history=True))
        seen = {(e.run_id, e.participant): (e.account, e.steps, not e.settled) for e in stored}
        model = {(e.run_id, e.participant): (e.account, e.steps, e.open) for e in self.entries}
        assert seen == model
        for standing in standings:
            spent = self._spent(standing.participant)
            assert standing.spent == pytest.approx(spent, rel=1e-9, abs=1e-12)
            assert standing.account == self.accounts.get(standing.participant, 1)
            assert standing.limit == self._limit(standing.participant)
            assert 0 <= standing.reserved <= standing.spent

    def _known(self) -> list[str]:
        counted = {
            e.participant
            for e in self.entries
            if e.counted and e.account == self.accounts.get(e.participant, 1)
        }
        return ["*", *sorted(({*counted, *self.limits, *self.accounts}) - {"*"})]

    def _bearers(self, participants: tuple[str, ...]) -> list[str]:
        return self._known() if participants == EVERYBODY else list(participants)

    def _limit(self, name: str) -> Limit:
        return self.limits.get(name) or self.limits.get("*") or Limit(20.0, 1e-3)

    def _cost(self, name: str) -> Any:
        cost = 0 * privacy.ORDERS
        for entry in self.entries:
            current = entry.account == self.accounts.get(entry.participant, 1)
            if entry.counted and current and entry.participant in ("*", name):
                cost = cost + entry.cost()
        return cost

    def _spent(self, name: str) -> float:
        return privacy.epsilon_of(self._cost(name), self._limit(name).delta)

    def _overdrawn(self, participants: tuple[str, ...], mechanism: Mechanism) -> str | None:
        for name in self._bearers(participants):
            limit = self._limit(name)
            wanted = self._cost(name) + mechanism.cost()
            if privacy.epsilon_of(wanted, limit.delta) > limit.epsilon:
                return name
        return None


async def _opened(owner_url: str, url: str, folder: Path) -> Room:
    await migrate(owner_url)
    database = Database(url, application="test")
    await database.open()
    async with database.transaction() as connection:
        for name in NAMES:
            await invite(connection, name)
    audit = AuditLog(database, log_id="test", clock=now)
    books = Books(database, audit, ledger := Ledger(), clock=now)
    return Room(database, audit, ledger, books, "", folder, AsyncExitStack())


@pytest.fixture
def machine(
    database_url: str, server_database_url: str, tmp_path: Path
) -> Iterator[type[RuleBasedStateMachine]]:
    """The machine on a room of its own, whose loop stands still between two rules."""
    with asyncio.Runner() as runner:
        room = runner.run(_opened(database_url, server_database_url, tmp_path))
        parts = {"room": room, "loop": runner.get_loop()}
        yield type("LedgersHere", (Ledgers,), parts)
        runner.run(room.database.close())


@pytest.mark.slow
def test_no_order_of_events_overdraws_a_ledger(machine: type[RuleBasedStateMachine]) -> None:
    """Whatever Hypothesis thinks of."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
