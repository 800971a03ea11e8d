"""What a coordinator says went into a model, against what the review has on its rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from tests.integration.training.reviewed import judged, named
from tests.integration.training.test_models import a_model

from aegis.errors import FailedPrecondition, from_rpc_error
from aegis.v1 import audit_pb2, training_pb2, training_pb2_grpc
from aegis_learning import parameters
from aegis_server.training import store

Plan = Callable[..., training_pb2.RunPlan]
Outcome = training_pb2.ParticipantRound
COORDINATOR = "service:coordinator"
NAMES = ("site-1", "site-2", "site-3")


@pytest.fixture
async def run_id(room: Any, plan: Plan) -> str:
    """A reviewed run with an initial model, whose round 1 is about to be made."""
    return await a_run(room, plan(review=True))


async def a_run(room: Any, plan: training_pb2.RunPlan) -> str:
    run_id: str = await room.start(plan)
    async with room.database.transaction() as connection:
        await store.next_attempt(connection, run_id, datetime.now(UTC))
    await complete(room, run_id, number=0)
    return run_id


async def complete(
    room: Any, run_id: str, *, number: int = 1, attempt: int = 1, fallback: str = "", **ids: str
) -> None:
    """Stores a round in whose model these updates are said to be, by participant."""
    report, model = reported(number, fallback, ids)
    await room.progress.complete_round(
        run_id, attempt=attempt, report=report, model=model, actor=COORDINATOR
    )


def reported(number: int, fallback: str, ids: dict[str, str]) -> tuple[training_pb2.Round, bytes]:
    model = a_model(number)
    aggregated = {name.replace("_", "-"): update_id for name, update_id in ids.items()}
    report = training_pb2.Round(
        round=number,
        steps=2 * number,
        accuracy=0.5,
        loss=0.7,
        fallback=fallback,
        model_sha256=parameters.digest(model),
        participants=[
            Outcome(
                participant=name,
                steps=2,
                update_id=aggregated.get(name, ""),
                outcome=Outcome.OUTCOME_AGGREGATED
                if name in aggregated
                else Outcome.OUTCOME_REJECTED,
            )
            for name in NAMES
            if number
        ],
    )
    return report, model


async def overridden(
    room: Any, update_id: str, before: str, after: str, *, by: str = "user:vera", ago: str = "0"
) -> None:
    """Somebody has decided otherwise, so many seconds ago; nobody at the deadline."""
    async with room.database.transaction() as connection:
        await connection.execute(
            "insert into aegis.review_override (update_id, from_verdict, to_verdict, by_whom,"
            " reason, effective, decided_at)"
            " values (%s, %s, %s, %s, 'x', true, now() - make_interval(secs => %s))",
            (update_id, before, after, by, float(ago)),
        )
        await connection.execute(
            "update aegis.review_update set verdict = %s where update_id = %s", (after, update_id)
        )


async def refused(room: Any, run_id: str, **said: Any) -> FailedPrecondition:
    """Returns why a round was refused; nothing of it is stored, and the refusal is on record."""
    with pytest.raises(FailedPrecondition) as refusal:
        await complete(room, run_id, **said)
    assert (await room.runs.get(run_id)).last.round == 0
    async with room.database.transaction() as connection:
        cursor = await connection.execute(
            "select count(*) from aegis.model where run_id = %s", [run_id]
        )
        assert await cursor.fetchone() == (1,)
    details = await told(room)
    assert details["participant"] == refusal.value.metadata["participant"]
    assert details["why"] in refusal.value.message
    assert "update_ids" not in details
    return refusal.value


async def told(room: Any) -> dict[str, str]:
    """Returns the details of the newest refusal on record."""
    async with room.database.transaction() as connection:
        cursor = await connection.execute(
            "select record from aegis.audit_record where kind = 4 order by idx desc limit 1"
        )
        (data,) = await cursor.fetchone()
    record = audit_pb2.AuditRecord.FromString(data)
    assert (record.action, record.outcome) == ("complete_round", "refused")
    assert (record.actor, record.reason) == (COORDINATOR, "STATE_CONFLICT")
    return dict(record.details)


async def test_accepted_updates_are_believed(room: Any, run_id: str) -> None:
    """By an examiner, by a person, and at the deadline where that accepts."""
    await judged(room, run_id, {"site-1": "accepted", "site-2": "rejected", "site-3": "held"})
    await overridden(room, named(run_id, "site-2"), "rejected", "accepted", ago="9999")
    await overridden(room, named(run_id, "site-3"), "held", "accepted", by="")
    ids = {name.replace("-", "_"): named(run_id, name) for name in NAMES}
    await complete(room, run_id, **ids)
    assert (await room.runs.get(run_id)).last.round == 1


@pytest.mark.parametrize("verdict", ["rejected", "held", "pending"])
async def test_update_that_was_not_accepted_is_in_no_model(
    room: Any, run_id: str, verdict: str
) -> None:
    """Whatever a coordinator makes of it; the error says whose it is, and why not."""
    await judged(room, run_id, {"site-1": "accepted", "site-2": verdict})
    refusal = await refused(
        room, run_id, site_1=named(run_id, "site-1"), site_2=named(run_id, "site-2")
    )
    assert refusal.reason == "STATE_CONFLICT"
    assert refusal.metadata == {
        "participant": "site-2",
        "resource": f"/review/updates/{named(run_id, 'site-2')}",
        "state": verdict.upper(),
    }
    await complete(room, run_id, site_1=named(run_id, "site-1"))


@pytest.mark.parametrize("update_id", ["", "upd-0", "u" * 5000])
async def test_update_nobody_submitted_is_in_no_model(
    room: Any, run_id: str, update_id: str
) -> None:
    """With whatever name, or none."""
    await judged(room, run_id, {"site-1": "accepted"})
    refusal = await refused(room, run_id, site_1=named(run_id, "site-1"), site_3=update_id)
    assert refusal.metadata["state"] == "MISSING"
    assert len(refusal.message) < 300


async def test_update_of_somebody_else_or_of_another_round_is_refused(
    room: Any, plan: Plan, run_id: str
) -> None:
    """An accepted update counts for its participant, in its round, of its run, and nowhere else."""
    await judged(room, run_id, {"site-1": "accepted"})
    refusal = await refused(room, run_id, site_2=named(run_id, "site-1"))
    assert refusal.metadata["state"] == "ANOTHERS"
    await judged(room, run_id, {"site-1": "accepted"}, number=2)
    refusal = await refused(room, run_id, site_1=named(run_id, "site-1", 2, 1))
    assert "of site-1 in round 2" in refusal.message
    other = await a_run(room, plan(review=True))
    refusal = await refused(room, other, site_1=named(run_id, "site-1"))
    assert f"of {run_id}" in refusal.message


async def test_updates_of_two_tries_are_in_no_model_together(room: Any, run_id: str) -> None:
    """A model is made of one try, whichever, by the first coordinator or the next."""
    await judged(room, run_id, {"site-1": "accepted"})
    await judged(room, run_id, {"site-1": "accepted", "site-2": "accepted"}, attempt=4)
    refusal = await refused(
        room, run_id, site_1=named(run_id, "site-1"), site_2=named(run_id, "site-2", 1, 4)
    )
    assert refusal.metadata["state"] == "ANOTHER_TRY"
    async with room.database.transaction() as connection:
        attempt = await store.next_attempt(connection, run_id, datetime.now(UTC))
    ids = {"site_1": named(run_id, "site-1", 1, 4), "site_2": named(run_id, "site-2", 1, 4)}
    await complete(room, run_id, attempt=attempt, **ids)
    await complete(room, run_id, attempt=attempt, **ids)


async def test_what_a_person_rejects_while_the_model_is_made_may_be_in_it(
    room: Any, run_id: str
) -> None:
    """The coordinator could not know; what was rejected long before it could."""
    await judged(room, run_id, {"site-1": "accepted", "site-2": "accepted"})
    ids = {"site_1": named(run_id, "site-1"), "site_2": named(run_id, "site-2")}
    await overridden(room, named(run_id, "site-2"), "accepted", "rejected", ago="1200")
    refusal = await refused(room, run_id, **ids)
    assert refusal.metadata["state"] == "REJECTED"
    await overridden(room, named(run_id, "site-2"), "rejected", "accepted", ago="900")
    await overridden(room, named(run_id, "site-2"), "accepted", "rejected", ago="60")
    await complete(room, run_id, **ids)


async def test_stored_round_stays_stored_whatever_is_decided_later(room: Any, run_id: str) -> None:
    """A coordinator that did not hear the answer may ask again."""
    await judged(room, run_id, {"site-1": "accepted"})
    await complete(room, run_id, site_1=named(run_id, "site-1"))
    await overridden(room, named(run_id, "site-1"), "accepted", "rejected", ago="1200")
    await complete(room, run_id, site_1=named(run_id, "site-1"))


async def test_fallback_is_made_of_its_members(room: Any, run_id: str) -> None:
    """Held ones, too, and those that nobody decided about until the deadline; no others."""
    verdicts = {"site-1": "held", "site-2": "held", "site-3": "accepted"}
    await judged(room, run_id, verdicts, fallback=["site-1", "site-2"])
    refusal = await refused(
        room, run_id, site_1=named(run_id, "site-1"), site_2=named(run_id, "site-2")
    )
    assert refusal.metadata["state"] == "HELD"
    refusal = await refused(room, run_id, fallback="x", site_3=named(run_id, "site-3"))
    assert "no member of a fallback" in refusal.message
    await overridden(room, named(run_id, "site-1"), "held", "rejected", ago="1200")
    refusal = await refused(room, run_id, fallback="x", site_1=named(run_id, "site-1"))
    assert refusal.metadata["state"] == "REJECTED"
    await overridden(room, named(run_id, "site-1"), "held", "rejected", ago="60")
    await overridden(room, named(run_id, "site-2"), "held", "rejected", by="", ago="1200")
    await complete(
        room, run_id, fallback="x", site_1=named(run_id, "site-1"), site_2=named(run_id, "site-2")
    )


async def test_round_without_a_fallback_has_no_members(room: Any, run_id: str) -> None:
    """To say that a model is one does not let held updates in."""
    await judged(room, run_id, {"site-1": "held"})
    refusal = await refused(room, run_id, fallback="x", site_1=named(run_id, "site-1"))
    assert "no member of a fallback" in refusal.message


async def test_run_without_review_has_nothing_to_hold_against_it(room: Any, plan: Plan) -> None:
    """Its start was allowed without."""
    run_id = await a_run(room, plan())
    await complete(room, run_id, site_1="", site_2="")


async def test_coordinator_is_told_over_the_wire(room: Any, run_id: str) -> None:
    """FAILED_PRECONDITION, with the participant."""
    await judged(room, run_id, {"site-1": "rejected"})
    report, model = reported(1, "", {"site_1": named(run_id, "site-1")})

    async def parts() -> AsyncIterator[training_pb2.CompleteRoundRequest]:
        yield training_pb2.CompleteRoundRequest(
            header=training_pb2.CompleteRoundRequest.Header(
                run_id=run_id, round=report, model_size_bytes=len(model), attempt=1
            )
        )
        yield training_pb2.CompleteRoundRequest(model_chunk=model)

    stub = training_pb2_grpc.CoordinatorServiceStub(await room.channel("coordinator"))
    with pytest.raises(grpc.RpcError) as call:
        await stub.CompleteRound(parts(), timeout=10)
    refusal = from_rpc_error(call.value)
    assert isinstance(refusal, FailedPrecondition)
    assert refusal.metadata["participant"] == "site-1"
