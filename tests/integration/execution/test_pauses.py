"""The kill switch: at once, everywhere it should, and never lifted by who tripped it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from tests.factories import restart, scale
from tests.integration.execution.house import (
    AUTOPILOT,
    NINA,
    OLGA,
    OTTO,
    VERA,
    Execution,
    House,
    State,
    obliges,
    refusal,
)

from aegis.errors import Unavailable
from aegis.v1 import execution_pb2


async def test_pause_is_laid_upon_the_executor_at_once(house: House):
    """With its scope and who made it."""
    pause = await house.as_(OLGA).pause(scope={"namespace": "shop"})
    assert (pause.in_force, pause.who, pause.reason) == (True, OLGA, "smoke")
    (there,) = house.executor.pauses.values()
    assert (there.pause_id, there.scope.namespace, there.who) == (pause.pause_id, "shop", OLGA)
    (record,) = await house.records(pause.pause_id)
    assert (record.action, record.outcome, record.resource) == ("pause", "paused", "/execution")


@pytest.mark.refuses("EXECUTION_PAUSED")
async def test_nothing_is_begun_while_it_is_paused(house: House):
    """Not even with the glass broken; no action is left, and the same request goes on after."""
    pause = await house.as_(OLGA).pause()
    envelope = house.sign()
    error = await refusal(house.as_(AUTOPILOT).submit(envelope))
    assert (error.reason, error.metadata["by"], error.metadata["scope"]) == (
        "EXECUTION_PAUSED",
        OLGA,
        "everything",
    )
    glass = house.sign(restart("shop", "web-1"), by=OTTO, break_glass=True)
    assert (await refusal(house.as_(OTTO).submit(glass))).reason == "EXECUTION_PAUSED"
    assert house.executor.sent == []
    assert house.refused("EXECUTION_PAUSED") == 2
    assert list((await house.as_(VERA).call("ListActions")).actions) == []
    await house.as_(OTTO).resume(pause)
    assert (await house.as_(AUTOPILOT).submit(envelope)).state == State.STATE_APPLIED


@pytest.mark.parametrize(
    ("scope", "shop", "demo", "scaled"),
    [
        ({}, False, False, False),
        ({"namespace": "shop"}, False, True, False),
        ({"action": "restart_pod"}, False, False, True),
        ({"namespace": "demo", "action": "restart_pod"}, True, False, True),
    ],
)
async def test_pause_holds_for_its_scope(
    house: House, scope: dict[str, str], shop: bool, demo: bool, scaled: bool
):
    """A namespace, an action, or both."""
    await house.as_(OLGA).pause(scope=scope)
    for spec, goes_on in (
        (restart("shop", "web-1"), shop),
        (restart("demo", "web-1"), demo),
        (scale("shop", "web", 3), scaled),
    ):
        asked = house.as_(AUTOPILOT).submit(house.sign(spec))
        if goes_on:
            assert (await asked).state == State.STATE_APPLIED
        else:
            assert (await refusal(asked)).reason == "EXECUTION_PAUSED"


async def test_pause_of_an_action_nobody_knows_is_refused(house: House):
    """A misspelt one would stop nothing, and look as if it did."""
    error = await refusal(house.as_(OLGA).pause(scope={"action": "restart_pods"}))
    assert (error.reason, error.violations[0].field) == ("FIELD_INVALID", "scope.action")


async def test_pause_ends_when_its_time_is_over(house: House):
    """By itself."""
    await house.as_(OLGA).pause(life=timedelta(minutes=1))
    house.clock.passed = timedelta(minutes=1, seconds=1)
    assert (await house.as_(AUTOPILOT).submit(house.sign())).state == State.STATE_APPLIED


async def test_executor_that_was_away_gets_the_pause_before_anything_else(house: House):
    """Until it has it, nothing is sent in that scope; then it is in force."""
    house.executor.away = True
    pause = await house.as_(OLGA).pause(scope={"namespace": "shop"})
    assert not pause.in_force
    assert (await refusal(house.as_(AUTOPILOT).submit(house.sign()))).reason == "EXECUTION_PAUSED"
    with pytest.raises(Unavailable):
        await house.room.pauses.lay()
    house.executor.away = False
    assert await house.room.pauses.lay() == 1
    assert await house.room.pauses.lay() == 0
    assert list(house.executor.pauses) == [pause.pause_id]
    state = await house.as_(VERA).call("GetExecutionState")
    assert [each.in_force for each in state.pauses] == [True]


async def test_lost_request_is_not_sent_again_into_a_pause(house: House):
    """It waits, and ends as never begun when its decision is over."""
    house.executor.away = True
    action = await house.as_(AUTOPILOT).submit(house.sign())
    assert action.state == State.STATE_DISPATCHED
    await house.as_(OLGA).pause()
    house.executor.away = False
    house.clock.passed = timedelta(seconds=5)
    assert await house.settlement.reconcile() == 0
    assert house.executor.sent == []
    house.clock.passed = timedelta(seconds=90)
    assert await house.settlement.reconcile() == 1
    ended = await house.as_(VERA).get(action)
    assert (ended.state, ended.reason) == (State.STATE_FAILED, "EXECUTOR_UNAVAILABLE")


async def test_approved_action_waits_for_the_end_of_a_pause(house: House):
    """Approvals do not outweigh it."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    pause = await house.as_(OLGA).pause()
    error = await refusal(house.as_(AUTOPILOT).submit(house.again(action)))
    assert error.reason == "EXECUTION_PAUSED"
    await house.as_(OLGA).resume(pause)
    applied = await house.as_(AUTOPILOT).submit(house.again(action))
    assert applied.state == State.STATE_APPLIED


async def test_pause_is_never_overtaken(house: House):
    """What is sent after a pause was answered would be one too many."""
    results = await asyncio.gather(
        *(house.as_(AUTOPILOT).submit(house.sign()) for _ in range(5)),
        house.as_(OLGA).pause(),
        return_exceptions=True,
    )
    sent = len(house.executor.sent)
    assert isinstance(results[-1], execution_pb2.Pause)
    assert (await refusal(house.as_(AUTOPILOT).submit(house.sign()))).reason == "EXECUTION_PAUSED"
    assert len(house.executor.sent) == sent


async def test_resume_tells_the_executor_first(house: House):
    """When it is away, nothing has changed here."""
    pause = await house.as_(OLGA).pause()
    house.executor.away = True
    assert (await refusal(house.as_(OLGA).resume(pause))).reason == "EXECUTOR_UNAVAILABLE"
    assert (await refusal(house.as_(AUTOPILOT).submit(house.sign()))).reason == "EXECUTION_PAUSED"
    house.executor.away = False
    resumed = await house.as_(OLGA).resume(pause)
    assert not resumed.in_force
    assert (await house.as_(OLGA).resume(pause)).pause_id == pause.pause_id
    assert house.executor.resumed == [pause.pause_id]
    assert await house.outcomes(pause.pause_id) == ["paused", "resumed"]


async def test_resume_of_nothing_is_not_found(house: House):
    """A pause nobody made."""
    nothing = execution_pb2.Pause(pause_id="pause-nothing")
    assert (await refusal(house.as_(OLGA).resume(nothing))).reason == "RESOURCE_NOT_FOUND"


async def test_who_tripped_it_does_not_lift_it(house: House):
    """The last action in that scope that was of no use was Olga's: Otto lets it go on."""
    await house.as_(OLGA).submit(house.sign(restart("payments", "web-1"), by=OLGA))
    house.executor.becomes(Execution.STATE_INEFFECTIVE)
    house.clock.passed = timedelta(seconds=5)
    await house.settlement.reconcile()
    here = await house.as_(OLGA).pause(scope={"namespace": "payments"})
    elsewhere = await house.as_(OLGA).pause(scope={"namespace": "shop"})
    assert (await refusal(house.as_(OLGA).resume(here))).reason == "APPROVAL_OWN"
    await house.as_(OLGA).resume(elsewhere)
    await house.as_(OTTO).resume(here)
    assert house.refused("APPROVAL_OWN") == 1


async def test_who_tripped_it_does_not_lift_it_when_others_failed_since(house: House):
    """Otto's action was under way as it was stopped, and was of no use either: neither lifts it."""
    await house.as_(OLGA).submit(house.sign(restart("payments", "web-1"), by=OLGA))
    house.executor.becomes(Execution.STATE_INEFFECTIVE)
    house.clock.passed = timedelta(seconds=5)
    await house.settlement.reconcile()
    await house.as_(OTTO).submit(house.sign(restart("payments", "web-2"), by=OTTO))
    pause = await house.as_(NINA).pause(scope={"namespace": "payments"})
    house.executor.becomes(Execution.STATE_INEFFECTIVE)
    house.clock.passed = timedelta(seconds=10)
    await house.settlement.reconcile()
    for who in (OLGA, OTTO):
        assert (await refusal(house.as_(who).resume(pause))).reason == "APPROVAL_OWN"
    (refused, _) = (await house.records(pause.pause_id))[-2:]
    assert (refused.action, refused.outcome, refused.actor) == ("resume", "refused", OLGA)


async def test_who_may_only_look_does_not_stop_anything(house: House):
    """Nor let it go on."""
    assert (await refusal(house.as_(VERA).pause())).reason == "POLICY_DENIED"
    pause = await house.as_(NINA).pause()
    assert (await refusal(house.as_(AUTOPILOT).resume(pause))).reason == "POLICY_DENIED"


async def test_state_shows_both_sides(house: House):
    """Our pauses, whatever the executor has of its own, and its guards."""
    ours = await house.as_(OLGA).pause()
    state = house.executor.state
    state.epoch, state.local_pause = 3, "stop"
    state.budgets.add(name="hour.global", used=1, limit=30)
    state.pauses.add(pause_id=ours.pause_id)
    state.pauses.add(pause_id="theirs", who="user:root", in_force=True)
    shown = await house.as_(VERA).call("GetExecutionState")
    assert [(each.pause_id, each.who) for each in shown.pauses] == [
        (ours.pause_id, OLGA),
        ("theirs", "user:root"),
    ]
    assert (shown.epoch, shown.local_pause, shown.budgets[0].limit) == (3, "stop", 30)
    house.executor.away = True
    error = await refusal(house.as_(VERA).call("GetExecutionState"))
    assert error.reason == "EXECUTOR_UNAVAILABLE"
