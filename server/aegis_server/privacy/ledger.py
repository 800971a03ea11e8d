"""The privacy ledger: what runs may cost is set aside before they cost it.

`reserve` and `settle` are part of the caller's transaction, which stores or ends the run. One lock
a data set makes the check and the entry one step, whichever server makes them: two runs that fit
one at a time and not together do not both begin. What is reserved is what the whole run may cost,
so nothing can run out in the middle of a round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aegis.errors import FailedPrecondition
from aegis.serving.database import Connection
from aegis_server.privacy import store
from aegis_server.privacy.book import ALL, Book, Limit, Line, Mechanism, Overdrawn
from aegis_server.privacy.store import StoredEntry


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledgers of all data sets; `epsilon` at `delta` is the limit where none was set."""

    epsilon: float = 20.0
    delta: float = 1e-3

    async def reserve(
        self,
        connection: Connection,
        *,
        run_id: str,
        dataset: str,
        participants: Sequence[str],
        mechanism: Mechanism,
        simulation: bool,
        model: str,
        at: datetime,
    ) -> None:
        """Sets aside what a run may cost each of `participants`, or everybody: `("*",)`.

        All of them or none. A simulation is listed and costs nothing. Raises `FailedPrecondition`
        (PRIVACY_BUDGET_EXHAUSTED) naming the first participant that would be overdrawn, and
        ValueError for nobody or for names beside "*".
        """
        names = tuple(dict.fromkeys(participants))
        if not names or (ALL in names and len(names) > 1):
            raise ValueError('participants are names, or "*" alone')
        book = await self.book(connection, dataset, lock=True)
        if not simulation:
            overdrawn = book.overdrawn(names, mechanism.cost())
            if overdrawn is not None:
                raise exhausted(dataset, overdrawn)
        await store.insert(
            connection,
            [
                StoredEntry(
                    run_id=run_id,
                    dataset=dataset,
                    participant=name,
                    account=book.account(name),
                    simulation=simulation,
                    unit=mechanism.unit,
                    model=model,
                    noise_multiplier=mechanism.noise_multiplier,
                    sample_rate=mechanism.sample_rate,
                    clip_norm=mechanism.clip_norm,
                    delta=mechanism.delta,
                    steps_reserved=mechanism.steps,
                    steps=mechanism.steps,
                    settled=False,
                    created_at=at,
                )
                for name in names
            ],
        )

    async def settle(
        self, connection: Connection, run_id: str, steps: Mapping[str, int], at: datetime
    ) -> None:
        """Closes a run's entries with the steps its participants may have taken.

        Who is not named has used everything that was reserved; nobody is charged more than that.
        Settling again changes nothing. Raises ValueError for steps below zero.
        """
        if any(taken < 0 for taken in steps.values()):
            raise ValueError("nobody takes fewer than no steps")
        dataset = await store.dataset_of(connection, run_id)
        if dataset is None:
            return
        await store.lock(connection, dataset)
        await store.settle(connection, run_id, steps, at)

    async def spent(self, connection: Connection, dataset: str, participant: str) -> float:
        """Returns the epsilon a participant's rows bear, at the delta of its limit."""
        return (await self.book(connection, dataset)).spent(participant)

    async def statement(self, connection: Connection, dataset: str) -> dict[str, str]:
        """Returns what audit records say of a data set: of who has used most of its limit."""
        return statement(await self.book(connection, dataset))

    async def book(self, connection: Connection, dataset: str, *, lock: bool = False) -> Book:
        """Reads a data set's ledger; with `lock`, nobody else changes it before we commit."""
        if lock:
            await store.lock(connection, dataset)
        return Book(
            dataset=dataset,
            lines=[
                Line(
                    participant=each.participant,
                    mechanism=Mechanism(
                        each.noise_multiplier, each.sample_rate, each.steps, unit=each.unit
                    ),
                    open_steps=each.open_steps,
                    entries=each.entries,
                )
                for each in await store.sums(connection, dataset)
            ],
            limits={
                each.participant: Limit(each.epsilon, each.delta)
                for each in await store.limits(connection, dataset)
            },
            accounts=await store.accounts(connection, dataset),
            usual=Limit(self.epsilon, self.delta),
        )


def statement(book: Book) -> dict[str, str]:
    """Returns what audit records say of a data set's budget."""
    nearest = book.nearest()
    return {
        "budget_limit_epsilon": f"{nearest.limit.epsilon:g}",
        "budget_delta": f"{nearest.limit.delta:g}",
        "budget_spent_epsilon": f"{nearest.spent:.6f}",
        "budget_participant": nearest.participant,
    }


def exhausted(dataset: str, overdrawn: Overdrawn) -> FailedPrecondition:
    """Returns the error that says who would be overdrawn."""
    limit, who = overdrawn.limit, overdrawn.participant
    named = "every participant" if who == ALL else who
    return FailedPrecondition(
        "PRIVACY_BUDGET_EXHAUSTED",
        f"{dataset} at {named} has spent epsilon {overdrawn.spent:.2f} of {limit.epsilon:g} at"
        f" delta {limit.delta:g}: this run would exceed the limit",
        dataset=dataset,
        participant=who,
        epsilon_spent=f"{overdrawn.spent:.4f}",
        epsilon_limit=f"{limit.epsilon:g}",
    )
