"""What a run costs: how many private steps it pays for, and its lines in the privacy ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from aegis.serving.database import Connection
from aegis.v1 import training_pb2
from aegis_server.privacy.book import ALL
from aegis_server.privacy.ledger import Ledger
from aegis_server.training import units
from aegis_server.training.plans import planned_steps
from aegis_server.training.seats.store import StoredSite
from aegis_server.training.store import StoredRound, StoredRun

# How often a coordinator tries a round.
TRIES = 2


@dataclass(frozen=True, slots=True)
class Budget:
    """What runs cost, written into the ledger."""

    ledger: Ledger = field(default_factory=Ledger)

    async def reserve(
        self,
        connection: Connection,
        run: StoredRun,
        plan: training_pb2.RunPlan,
        sites: Sequence[StoredSite],
        *,
        at: datetime,
    ) -> dict[str, str]:
        """Reserves what a run may cost, and returns what its audit record says of that.

        Raises `FailedPrecondition` (PRIVACY_BUDGET_EXHAUSTED).
        """
        names = (ALL,) if units.embedded(plan) else tuple(site.name for site in sites)
        await self.ledger.reserve(
            connection,
            run_id=run.run_id,
            dataset=plan.dataset,
            participants=names,
            mechanism=units.mechanism_of(plan, run.noise_multiplier, planned_steps(plan)),
            simulation=plan.simulation,
            model=plan.model,
            at=at,
        )
        return await self.ledger.statement(connection, plan.dataset)

    async def settle(
        self,
        connection: Connection,
        run: StoredRun,
        plan: training_pb2.RunPlan,
        steps: Mapping[str, int],
        *,
        at: datetime,
    ) -> dict[str, str]:
        """Replaces a run's reservation by what each participant was asked for.

        Embedded sites have no identity: everybody bears what the busiest of them took.
        """
        if units.embedded(plan):
            steps = {ALL: max(steps.values(), default=0)}
        paid = {
            name: units.mechanism_of(plan, run.noise_multiplier, taken).steps
            for name, taken in steps.items()
        }
        await self.ledger.settle(connection, run.run_id, paid, at)
        return await self.ledger.statement(connection, plan.dataset)


def lost_steps(run: StoredRun, last: StoredRound | None, plan: training_pb2.RunPlan) -> int:
    """Returns what each participant may have sent to coordinators that died untold.

    A coordinator that died may have sent out its round, each participant's retries, and its
    repetition, without anybody having written that down. A simulation answers the same order with
    the same bytes, which cost nothing again, and what enrolled participants were asked for is
    written down before they are; other private noise is fresh, so all of it counts.
    """
    if last is None or plan.simulation or plan.sites == training_pb2.SITES_ENROLLED:
        return 0
    silent = run.attempt - max(last.attempt, run.attempt_settled + 1)
    return max(0, silent) * TRIES * (1 + plan.retries) * plan.local_steps


def steps_so_far(run: StoredRun, last: StoredRound | None) -> int:
    """Returns the private steps the participant that took most may have sent, lost ones included.

    As many as are planned, at most: nobody is asked for more.
    """
    if last is None:
        return 0
    plan = training_pb2.RunPlan.FromString(run.plan)
    return min(last.steps + lost_steps(run, last, plan), planned_steps(plan))


def steps_paid(run: StoredRun, last: StoredRound | None) -> int:
    """Returns the steps a run pays for as it stands.

    What a run that failed has sent out is not known: it pays all it reserved.
    """
    if run.steps_settled is not None:
        return run.steps_settled
    if run.state == training_pb2.Run.STATE_FAILED:
        return planned_steps(training_pb2.RunPlan.FromString(run.plan))
    return steps_so_far(run, last)


def epsilon_of(run: StoredRun, steps: int) -> float:
    """Returns what so many steps of a run cost whom it protects."""
    plan = training_pb2.RunPlan.FromString(run.plan)
    return units.epsilon_of(plan, run.noise_multiplier, steps)
