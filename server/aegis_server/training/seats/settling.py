"""Settles who takes part in a run, and with what weight.

Embedded sites share out the rows of a data set that ships; enrolled ones are those who declared to
hold rows of it. A participant's weight is what was counted or declared then, never what it says in
a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aegis.errors import FailedPrecondition, FieldViolation
from aegis.serving.database import Connection
from aegis.v1 import training_pb2
from aegis_learning.datasets import Dataset, load
from aegis_server.training import plans
from aegis_server.training.seats import store
from aegis_server.training.seats.store import StoredSite
from aegis_server.training.units import embedded


async def settle(
    connection: Connection, run_id: str, plan: training_pb2.RunPlan, data: Dataset
) -> list[StoredSite]:
    """Returns the participants of a new run, in the order of node ids.

    Raises `FailedPrecondition` (PARTICIPANTS_MISSING), or `InvalidArgument` (FIELD_INVALID) for a
    delta that would let one of them give a row away.
    """
    if embedded(plan):
        sites = await asyncio.to_thread(embedded_sites, run_id, plan, data)
    else:
        sites = await store.enrolled_for(connection, run_id, plan.dataset, plan.names)
        _require_enough(plan, sites)
    require_delta(plan, sites)
    return sites


def embedded_sites(run_id: str, plan: training_pb2.RunPlan, data: Dataset) -> list[StoredSite]:
    """Returns the sites of a coordinator's process; node ids start at 1."""
    rows = plans.dealt(plan, data)
    return [
        StoredSite(run_id, name, number, examples)
        for number, (name, examples) in enumerate(rows.items(), start=1)
    ]


async def require_present(connection: Connection, run_id: str, plan: training_pb2.RunPlan) -> None:
    """Raises `FailedPrecondition` (PARTICIPANTS_MISSING) when too many have left meanwhile."""
    if embedded(plan):
        return
    settled = {site.name for site in await store.sites_of(connection, [run_id])}
    now = await store.enrolled_for(connection, run_id, plan.dataset, sorted(settled))
    _require_enough(plan, now)


async def sites_of(
    connection: Connection, run_id: str, plan: training_pb2.RunPlan
) -> list[StoredSite]:
    """Returns who takes part in a run; runs from before this was stored have embedded sites."""
    sites = await store.sites_of(connection, [run_id])
    if sites or not embedded(plan):
        return sites
    return await asyncio.to_thread(embedded_sites, run_id, plan, load(plan.dataset))


def _require_enough(plan: training_pb2.RunPlan, sites: Sequence[StoredSite]) -> None:
    needed = max(plan.participants, len(plan.names))
    if len(sites) >= needed:
        return
    absent = sorted(set(plan.names) - {site.name for site in sites})
    raise FailedPrecondition(
        "PARTICIPANTS_MISSING",
        f"{len(sites)} participants are enrolled and hold rows of {plan.dataset},"
        f" {needed} are needed" + (f"; missing: {', '.join(absent[:10])}" if absent else ""),
        dataset=plan.dataset,
        enrolled=len(sites),
        needed=needed,
    )


def require_delta(plan: training_pb2.RunPlan, sites: Sequence[StoredSite]) -> None:
    """Raises `InvalidArgument` (FIELD_INVALID) unless delta is below 1/n of every participant.

    With a delta of 1/n, publishing one of n rows as it is would count as private. Where whole
    participants are protected, n is how many there are.
    """
    by_participant = plan.privacy_unit == training_pb2.PRIVACY_UNIT_PARTICIPANT
    n = len(sites) if by_participant else max((site.examples for site in sites), default=0)
    if n and plan.delta >= 1 / n:
        whose = f"{n} participants" if by_participant else f"a participant with {n} rows"
        description = f"must be below 1/n, {1 / n:.3g} for {whose}"
        raise plans.refused([FieldViolation("plan.delta", description)])
