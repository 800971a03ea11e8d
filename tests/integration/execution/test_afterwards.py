"""What follows: verdicts, broken glass, what people found out, and the report."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from tests.factories import restart, scale
from tests.integration.execution.house import (
    AUTOPILOT,
    NINA,
    NORA,
    OLGA,
    OTTO,
    VERA,
    Calls,
    Execution,
    House,
    State,
    obliges,
    refusal,
)

from aegis.errors import FailedPrecondition, NotFound
from aegis.v1 import execution_pb2

Found = execution_pb2.ResolveActionRequest


async def later(house: House, seconds: float = 5) -> int:
    """Lets time pass and the executor be asked."""
    house.clock.passed += timedelta(seconds=seconds)
    return await house.settlement.reconcile()


@pytest.mark.parametrize(
    "state", ["VERIFIED", "INEFFECTIVE", "INCONCLUSIVE", "COMPENSATED", "ESCALATED"]
)
async def test_applied_action_is_followed_until_it_is_judged(house: House, state: str):
    """The answer is APPLIED at once; the verdict comes when there is one, with its record."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    assert action.state == State.STATE_APPLIED
    assert await later(house) == 0
    house.executor.becomes(Execution.State.Value(f"STATE_{state}"), restarts="0")
    assert await later(house) == 1
    assert await later(house) == 0
    judged = await house.as_(VERA).get(action)
    assert judged.state == State.State.Value(f"STATE_{state}")
    assert dict(judged.observations) == {"restarts": "0"}
    assert judged.HasField("end_time")
    assert await house.outcomes(action.action_id) == ["dispatched", "applied", state.lower()]


async def test_to_look_is_no_change(house: House):
    """The reconciler's questions do not move update_time."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    await later(house)
    await later(house)
    assert (await house.as_(VERA).get(action)).update_time == action.update_time


async def test_verdict_after_a_lost_answer_passes_through_applied(house: House):
    """So that both logs tell the same story."""
    house.executor.refusals["ExecuteAction"] = FailedPrecondition("STATE_CONFLICT", "x")
    house.executor.away = True
    action = await house.as_(AUTOPILOT).submit(house.sign())
    house.executor.away = False
    house.executor.refusals.clear()
    house.executor.ends = Execution.STATE_VERIFIED
    assert await later(house) == 1
    assert (await house.as_(VERA).get(action)).state == State.STATE_VERIFIED
    assert await house.outcomes(action.action_id) == ["dispatched", "applied", "verified"]


async def test_request_that_was_lost_is_sent_again_with_its_approvals(house: House):
    """What the executor needs to let it through."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    house.executor.away = True
    await house.as_(AUTOPILOT).submit(house.again(action))
    house.executor.away = False
    assert await later(house) == 1
    assert len(house.executor.sent[0].approvals) == 1
    assert (await house.as_(VERA).get(action)).state == State.STATE_APPLIED


async def test_two_servers_write_a_verdict_once(house: House):
    """SKIP LOCKED, and the state it was in."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    house.executor.becomes(Execution.STATE_VERIFIED)
    house.clock.passed = timedelta(seconds=5)
    await asyncio.gather(*(house.settlement.reconcile() for _ in range(4)))
    assert await house.outcomes(action.action_id) == ["dispatched", "applied", "verified"]


async def test_watch_tells_every_change_and_ends_with_the_action(house: House):
    """As it is first, then whenever it changes."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    seen: list[str] = []

    async def follow() -> None:
        async for each in house.as_(VERA).watch(action.action_id):
            seen.append(State.State.Name(each.state).removeprefix("STATE_"))
            started.set()

    started = asyncio.Event()
    watching = asyncio.create_task(follow())
    await started.wait()
    await house.as_(NINA).approve(action)
    await house.as_(AUTOPILOT).submit(house.again(action))
    house.executor.becomes(Execution.STATE_VERIFIED)
    await later(house)
    async with asyncio.timeout(10):
        await watching
    assert (seen[0], seen[-1]) == ("PENDING_APPROVAL", "VERIFIED")
    order = ["PENDING_APPROVAL", "APPROVED", "DISPATCHED", "APPLIED", "VERIFIED"]
    assert [order.index(each) for each in seen] == sorted(order.index(each) for each in seen)


async def test_watch_sees_what_another_server_did(house: House):
    """Nobody tells this process; it looks."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    states = []
    async with asyncio.timeout(10):
        async for each in house.as_(VERA).watch(action.action_id):
            states.append(each.state)
            if len(states) == 1:
                async with house.database.transaction() as connection:
                    await connection.execute(
                        "update aegis.action set state = 9, updated_at = now()"
                    )
    assert states == [State.STATE_PENDING_APPROVAL, State.STATE_EXPIRED]


async def test_watch_of_nothing_is_not_found(house: House):
    """At once."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in house.as_(VERA).watch("act-nothing"):
            pass
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def broken(house: House, by: str = OLGA) -> execution_pb2.Action:
    """An action that broke the glass."""
    return await house.as_(by).submit(
        house.sign(restart("payments", "web-1"), by=by, break_glass=True)
    )


async def test_broken_glass_goes_past_approvals_and_is_loud(house: House):
    """It is sent as such, with a record of its own and a metric; nobody had to approve."""
    await house.rule(obliges("without_1_oncall", who="role:operator", where="/clusters/**"))
    action = await broken(house)
    assert (action.state, action.break_glass) == (State.STATE_APPLIED, True)
    (decision,) = house.executor.decisions
    assert (decision.break_glass, list(decision.steps)) == (True, [])
    assert await house.outcomes(action.action_id) == ["dispatched", "broken", "applied"]
    assert house.registry.get_sample_value("aegis_glass_broken_total") == 1
    assert (await house.as_(VERA).why(action))["approvals"].message == f"{OLGA} broke the glass"


async def test_who_may_not_break_it_is_denied(house: House):
    """Though they may do the deed itself."""
    envelope = house.sign(restart("shop", "web-1"), break_glass=True)
    error = await refusal(house.as_(AUTOPILOT).submit(envelope))
    assert (error.reason, error.metadata["rule_id"], error.metadata["action"]) == (
        "POLICY_DENIED",
        "automation-breaks-no-glass",
        "break_glass",
    )
    denied = await house.as_(VERA).call("GetAction", action_id=error.metadata["action_id"])
    assert denied.action.state == State.STATE_DENIED
    assert house.executor.sent == []
    assert house.refused("POLICY_DENIED") == 1


async def test_two_others_answer_for_a_broken_glass(house: House):
    """Never the one who broke it, and nobody twice."""
    action = await broken(house)
    assert (await refusal(house.as_(OLGA).review(action))).reason == "APPROVAL_OWN"
    reviewed = await house.as_(NINA).review(action)
    assert [each.approver for each in reviewed.reviews] == [NINA]
    assert (await refusal(house.as_(NINA).review(action))).reason == "APPROVAL_REPEATED"
    assert len((await house.as_(OTTO).review(action)).reviews) == 2
    assert (await refusal(house.as_(NORA).review(action))).reason == "STATE_CONFLICT"


async def test_what_broke_nothing_is_not_answered_for(house: House):
    """An ordinary action, and one nobody knows."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    assert (await refusal(house.as_(NINA).review(action))).reason == "STATE_CONFLICT"
    action.action_id = "act-nothing"
    assert (await refusal(house.as_(NINA).review(action))).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.refuses("BREAK_GLASS_UNREVIEWED")
async def test_unanswered_glass_lets_nobody_break_another_after_a_day(house: House):
    """Until two have answered for it; other issuers, and ordinary actions, go on."""
    action = await broken(house)
    await broken(house)
    house.clock.passed = timedelta(hours=24, minutes=1)
    error = await refusal(broken(house))
    assert (error.reason, error.metadata["action_id"]) == (
        "BREAK_GLASS_UNREVIEWED",
        action.action_id,
    )
    assert (await broken(house, by=OTTO)).state == State.STATE_APPLIED
    ordinary = house.sign(restart("payments", "web-1"), by=OLGA)
    assert (await house.as_(OLGA).submit(ordinary)).state == State.STATE_APPLIED
    for each in (await house.as_(VERA).call("ListActions")).actions:
        if each.break_glass and each.issuer == OLGA:
            await house.as_(NINA).review(each)
            await house.as_(NORA).review(each)
    assert (await broken(house)).state == State.STATE_APPLIED


async def unknown(house: House) -> execution_pb2.Action:
    """An action nobody knows about."""
    house.executor.ends = Execution.STATE_UNKNOWN
    action = await house.as_(OLGA).submit(house.sign(restart("payments", "web-1"), by=OLGA))
    assert action.state == State.STATE_UNKNOWN
    return action


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (Found.FOUND_APPLIED, State.STATE_INCONCLUSIVE),
        (Found.FOUND_NOT_APPLIED, State.STATE_FAILED),
    ],
)
async def test_person_ends_the_not_knowing(house: House, found: int, state: int):
    """At the executor first, so that its breaker may close."""
    action = await unknown(house)
    resolved = await house.as_(NINA).resolve(action, found)
    assert resolved.state == state
    (told,) = house.executor.resolved
    assert (told.request_id, told.who, told.found) == (action.request_id, NINA, found)
    record = (await house.records(action.action_id))[-1]
    assert (record.actor, record.details["found"]) == (
        NINA,
        Found.Found.Name(found).removeprefix("FOUND_").lower(),
    )
    error = await refusal(house.as_(OTTO).resolve(action, found))
    assert error.reason == "STATE_CONFLICT"


@pytest.mark.refuses("APPROVAL_OWN")
async def test_who_asked_for_it_does_not_say_what_came_of_it(house: House):
    """Somebody else looks."""
    action = await unknown(house)
    error = await refusal(house.as_(OLGA).resolve(action, Found.FOUND_APPLIED))
    assert error.reason == "APPROVAL_OWN"
    assert house.executor.resolved == []


async def test_what_was_found_waits_for_the_executor(house: House):
    """Which has to know it, so that its breaker closes."""
    action = await unknown(house)
    house.executor.away = True
    error = await refusal(house.as_(NINA).resolve(action, Found.FOUND_APPLIED))
    assert error.reason == "EXECUTOR_UNAVAILABLE"
    assert (await house.as_(VERA).get(action)).state == State.STATE_UNKNOWN
    house.executor.away = False
    resolved = await house.as_(NINA).resolve(action, Found.FOUND_APPLIED)
    assert resolved.state == State.STATE_INCONCLUSIVE


async def test_executor_that_knows_better_is_believed(house: House):
    """There it is not unknown, or somebody found otherwise: what is said now does not count."""
    action = await unknown(house)
    house.executor.refusals["Resolve"] = FailedPrecondition("STATE_CONFLICT", "applied")
    error = await refusal(house.as_(NINA).resolve(action, Found.FOUND_NOT_APPLIED))
    assert error.reason == "STATE_CONFLICT"
    assert (await house.as_(VERA).get(action)).state == State.STATE_UNKNOWN


@pytest.mark.parametrize("who", [VERA, AUTOPILOT])
async def test_who_may_not_resolve_or_review_is_stopped_at_the_door(house: House, who: str):
    """A viewer and automation."""
    action = await unknown(house)
    calls = house.as_(who)
    assert (await refusal(calls.resolve(action, Found.FOUND_APPLIED))).reason == "POLICY_DENIED"
    assert (await refusal(calls.review(action))).reason == "POLICY_DENIED"


async def report(calls: Calls, **fields: object) -> execution_pb2.GetHealingReportResponse:
    answer: execution_pb2.GetHealingReportResponse = await calls.call("GetHealingReport", **fields)
    return answer


async def some_history(house: House) -> None:
    """One healed, one not, one denied, one refused, one that waits, and refusals without action."""
    autopilot = house.as_(AUTOPILOT)
    healed = await autopilot.submit(house.sign())
    house.executor.becomes(Execution.STATE_VERIFIED)
    await later(house, 10)
    unhelped = await autopilot.submit(house.sign(scale("demo", "web", 3)))
    house.executor.known[unhelped.request_id].state = Execution.STATE_ESCALATED
    await later(house)
    await refusal(autopilot.submit(house.sign(scale("shop", "web", 11))))
    house.executor.refusals["ExecuteAction"] = FailedPrecondition("BREAKER_OPEN", "2 of 2")
    await autopilot.submit(house.sign())
    house.executor.refusals.clear()
    await house.rule(obliges("without_1_oncall"))
    waiting = await house.pending()
    await refusal(house.as_(NINA).approve(waiting, action_digest=bytes(32)))
    assert healed.state == State.STATE_APPLIED


async def test_report_counts_what_was_healed_and_what_was_prevented(house: House):
    """By type and state, with the time it took, and what refused how often."""
    await some_history(house)
    told = await report(house.as_(VERA))
    everything, *types = told.rows
    assert (everything.action, everything.total) == ("", 5)
    assert dict(everything.states) == {
        "VERIFIED": 1,
        "ESCALATED": 1,
        "DENIED": 1,
        "REFUSED": 1,
        "PENDING_APPROVAL": 1,
    }
    assert [(row.action, row.total) for row in types] == [
        ("restart_pod", 3),
        ("scale_deployment", 2),
    ]
    assert 10 <= everything.time_to_heal_p50.ToTimedelta().total_seconds() < 60
    assert types[0].time_to_heal_p95 == everything.time_to_heal_p95
    assert not types[1].HasField("time_to_heal_p50")
    assert {each.reason: each.count for each in told.refusals} == {
        "POLICY_DENIED": 1,
        "BREAKER_OPEN": 1,
        "DIGEST_MISMATCH": 1,
    }
    assert len(told.buckets) == 24
    sums = [
        sum(getattr(bucket, name) for bucket in told.buckets)
        for name in ("healed", "failed", "prevented", "open")
    ]
    assert sums == [1, 1, 2, 1]


async def test_report_of_a_time_without_actions_is_empty(house: House):
    """And its buckets fill the whole of it, the last one maybe shorter."""
    await house.as_(AUTOPILOT).submit(house.sign())
    end = datetime(2026, 1, 2, tzinfo=UTC)
    told = await report(
        house.as_(VERA),
        start_time=end - timedelta(hours=1),
        end_time=end,
        bucket=timedelta(minutes=25),
    )
    assert [row.total for row in told.rows] == [0]
    assert [each.start_time.ToDatetime().minute for each in told.buckets] == [0, 25, 50]
    assert list(told.refusals) == []


async def test_report_reaches_to_the_end_of_time(house: House):
    """The last bucket ends where the calendar does."""
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    told = await report(
        house.as_(VERA),
        start_time=end - timedelta(days=900),
        end_time=end,
        bucket=timedelta(days=365),
    )
    assert len(told.buckets) == 3
    everything = await report(house.as_(VERA), start_time=datetime(1, 1, 1, tzinfo=UTC))
    assert len(everything.buckets) == 24


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"start_time": timedelta(hours=1)}, "start_time"),
        ({"start_time": timedelta(days=-30), "bucket": timedelta(minutes=1)}, "bucket"),
    ],
)
async def test_report_that_makes_no_sense_is_refused(
    house: House, fields: dict[str, timedelta], field: str
):
    """Its end before its start, or more buckets than anybody could look at."""
    told: dict[str, object] = dict(fields)
    told["start_time"] = house.clock() + fields["start_time"]
    error = await refusal(house.as_(VERA).call("GetHealingReport", **told))
    assert (error.reason, error.violations[0].field) == ("FIELD_INVALID", field)


async def test_execution_the_executor_lost_changes_nothing(house: House):
    """What it applied, and no longer knows, is not made undone."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    house.executor.refusals["GetExecution"] = NotFound("RESOURCE_NOT_FOUND", "never seen")
    assert await later(house) == 0
    assert (await house.as_(VERA).get(action)).state == State.STATE_APPLIED
