"""Runs and the ledger: whom they are charged to, and that no run stops for want of privacy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aegis.errors import FailedPrecondition, InvalidArgument
from aegis.serving.doors import Grant
from aegis.v1 import training_pb2
from aegis_learning import privacy
from aegis_server.privacy.book import Limit
from aegis_server.privacy.books import Actor, Books

Run = training_pb2.Run
Plan = Callable[..., training_pb2.RunPlan]
PARTICIPANT = {"privacy_unit": training_pb2.PRIVACY_UNIT_PARTICIPANT, "update_clip_norm": 1.0}


def _private(plan: Plan, **changes: object) -> training_pb2.RunPlan:
    made = plan(review=True, **changes)
    made.simulation = False
    return made


async def _entries(room: Any) -> list[tuple[Any, ...]]:
    async with room.database.transaction() as connection:
        cursor = await connection.execute(
            """
            select participant, unit, sample_rate, clip_norm, steps_reserved, steps, settled,
                   simulation, noise_multiplier
            from aegis.privacy_entry order by created_at
            """
        )
        return await cursor.fetchall()


async def test_run_goes_on_to_its_end_whatever_becomes_of_the_limit(room: Any, plan: Plan) -> None:
    """All of its rounds were set aside when it began; the next run is refused."""
    await room.start(_private(plan))
    books = Books(room.database, room.audit, room.runs._budget.ledger, clock=room.runs._clock)
    actor = Actor("user:admin", "too much", Grant(1, ""))
    await books.limit("breast-cancer", "*", Limit(0.5, 1e-3), actor)
    with pytest.raises(FailedPrecondition) as refused:
        await room.start(_private(plan, target_epsilon=1.0))
    assert refused.value.reason == "PRIVACY_BUDGET_EXHAUSTED"
    await room.supervise()
    (view,) = await room.runs.page(before=None, limit=5)
    async for watched in room.runs.watch(view.run.run_id):
        view = watched
    assert view.run.state == Run.STATE_COMPLETED, view.run.reason
    assert [row[4:7] for row in await _entries(room)] == [(6, 6, True)]


async def test_run_that_protects_participants_is_charged_by_the_round(
    room: Any, plan: Plan
) -> None:
    """Its own epsilon is the participant's; the entry says by which mechanism."""
    run_id = await room.start(plan(**PARTICIPANT))
    await room.supervise()
    async for watched in room.runs.watch(run_id):
        view = watched
    assert view.run.state == Run.STATE_COMPLETED, view.run.reason
    (entry,) = await _entries(room)
    assert entry[:8] == ("*", "participant", 1.0, 1.0, 3, 3, True, True)
    assert view.epsilon == pytest.approx(privacy.epsilon(entry[8], 1.0, 3, 1e-3))
    assert 7.9 < view.epsilon <= 8
    last = view.last
    assert last is not None
    assert (last.steps, last.epsilon) == (6, view.epsilon)


async def test_plan_that_reviews_and_protects_participants_is_refused(
    room: Any, plan: Plan
) -> None:
    """A verdict on one update depends on the others; nothing is recorded or reserved."""
    with pytest.raises(InvalidArgument) as refused:
        await room.start(plan(review=True, **PARTICIPANT))
    assert [violation.field for violation in refused.value.violations] == ["plan.review"]
    assert await _entries(room) == []
