"""Plans before, reasons behind: what an action would do, and why it stands where it stands."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.factories import restart, scale
from tests.integration.execution.house import (
    AUTOPILOT,
    NINA,
    OLGA,
    VERA,
    Execution,
    House,
    State,
    obliges,
    refusal,
)

from aegis import dsse
from aegis.errors import (
    Aborted,
    AegisError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from aegis.v1 import envelope_pb2, execution_pb2

Gate = execution_pb2.Gate
PASSED, HELD, REFUSED, NOT_ASKED = (
    Gate.VERDICT_PASSED,
    Gate.VERDICT_HELD,
    Gate.VERDICT_REFUSED,
    Gate.VERDICT_NOT_ASKED,
)


def named(gates: object) -> dict[str, Gate]:
    return {gate.name: gate for gate in gates}  # type: ignore[attr-defined]


async def test_plan_says_what_would_change_and_what_to_sign(house: House):
    """The executor filled the spec in; the digest is that of exactly these bytes."""
    house.executor.gates = [Gate(name="budget.target", verdict=PASSED, message="0 of 3")]
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=scale("shop", "web", 3))
    filled = envelope_pb2.ActionSpec.FromString(plan.spec)
    assert filled.target.uid == "uid-1"
    assert plan.action_digest == dsse.action_digest(plan.spec)
    assert [each.path for each in plan.differences] == ["spec.replicas"]
    assert (plan.allowed, plan.rule_id, plan.ready) == (True, "automation-scales-in-shop", True)
    assert [gate.name for gate in plan.gates] == ["pause", "policy", "approvals", "budget.target"]
    assert list(plan.warnings) == ["deprecated"]
    assert house.executor.planned[0].issuer == AUTOPILOT
    action = await house.as_(AUTOPILOT).submit(house.sign(plan.spec))
    assert (action.action_digest, action.spec_bytes) == (plan.action_digest, plan.spec)


async def test_plan_leaves_a_record_and_nothing_else(house: House):
    """Who looked at what."""
    await house.as_(AUTOPILOT).call("PlanAction", spec=scale("shop", "web", 3))
    assert list((await house.as_(VERA).call("ListActions")).actions) == []
    (record,) = await house.records()
    assert (record.actor, record.action, record.outcome) == (
        AUTOPILOT,
        "scale_deployment",
        "planned",
    )


async def test_plan_of_what_is_denied_is_an_answer(house: House):
    """With the rule that says so."""
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=scale("shop", "web", 11))
    assert (plan.allowed, plan.ready) == (False, False)
    assert plan.rule_id == "automation-replicas-out-of-bounds"
    assert named(plan.gates)["policy"].reason == "POLICY_DENIED"


async def test_plan_says_who_would_have_to_approve(house: House):
    """And that it would wait for them, or for ever."""
    await house.rule(obliges("without_2_oncall"))
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=restart("shop", "web-1"))
    assert [(step.group, step.needed) for step in plan.steps] == [("role:oncall", 2)]
    gate = named(plan.gates)["approvals"]
    assert (gate.verdict, gate.reason) == (HELD, "APPROVALS_INSUFFICIENT")
    assert "0 of 2 of role:oncall" in gate.message
    assert not plan.ready
    house.roles[NINA] = ()
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=restart("shop", "web-1"))
    gate = named(plan.gates)["approvals"]
    assert (gate.verdict, gate.reason) == (REFUSED, "APPROVALS_IMPOSSIBLE")


@pytest.mark.parametrize(
    ("name", "reason", "asked"),
    [
        ("object.replicas", "SINGLE_REPLICA", "without_1_oncall"),
        ("object.step", "BOUNDS_EXCEEDED", "without_1_oncall"),
        ("approvals.own", "APPROVALS_INSUFFICIENT", "without_signed_N_oncall"),
    ],
)
async def test_plan_says_how_people_get_asked_where_only_they_open_a_gate(
    house: House, name: str, reason: str, asked: str
):
    """No rule asks anybody: without the line it names, the action could never go through."""
    house.executor.gates = [Gate(name=name, verdict=HELD, reason=reason, message="so it is")]
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=restart("shop", "web-1"))
    gate = named(plan.gates)[name]
    where = "/clusters/sandbox/namespaces/shop/**"
    line = f"p, {AUTOPILOT}, *, {where}, {asked}, , deny, needs-oncall"
    assert (gate.verdict, gate.reason, plan.ready) == (HELD, reason, False)
    assert gate.message == (
        f"so it is; approvals open it, and no rule asks for any: aegis policy add '{line}'"
    )
    await house.rule(line.replace("_N_", "_1_") + "\n")
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=restart("shop", "web-1"))
    assert named(plan.gates)[name].message == "so it is; approvals open it"
    assert [step.group for step in plan.steps] == ["role:oncall"]


async def test_plan_shows_a_pause_and_what_the_executor_holds_it_by(house: House):
    """Each with its numbers; either keeps it from being ready."""
    house.executor.gates = [Gate(name="budget.target", verdict=HELD, reason="BUDGET_EXHAUSTED")]
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=restart("shop", "web-1"))
    assert (plan.allowed, plan.ready) == (True, False)
    house.executor.gates = []
    await house.as_(OLGA).pause(life=timedelta(minutes=5))
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=restart("shop", "web-1"))
    gate = named(plan.gates)["pause"]
    assert (gate.verdict, gate.reason) == (HELD, "EXECUTION_PAUSED")
    assert gate.HasField("retry_time")
    assert not plan.ready


async def test_plan_the_executor_would_not_even_try_is_told_as_a_gate(house: House):
    """Its static limits are a reason, not a failure of the plan."""
    error = PermissionDenied("NAMESPACE_NOT_ALLOWED", "not here")
    house.executor.refusals["PlanExecution"] = error
    plan = await house.as_(AUTOPILOT).call("PlanAction", spec=restart("shop", "web-1"))
    gate = named(plan.gates)["executor"]
    assert (gate.verdict, gate.reason, plan.ready) == (REFUSED, "NAMESPACE_NOT_ALLOWED", False)
    assert plan.spec == restart("shop", "web-1").SerializeToString()


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (NotFound("TARGET_GONE", "gone"), "TARGET_GONE"),
        (Aborted("TARGET_CHANGED", "another"), "TARGET_CHANGED"),
        (FailedPrecondition("CLUSTER_REFUSED", "no"), "CLUSTER_REFUSED"),
        (Unavailable("CLUSTER_UNAVAILABLE", "away"), "CLUSTER_UNAVAILABLE"),
        (InvalidArgument("PAYLOAD_INVALID", "odd"), "FIELD_INVALID"),
        (Unavailable("DATABASE_UNAVAILABLE", "away"), "EXECUTOR_UNAVAILABLE"),
    ],
)
@pytest.mark.refuses(
    "TARGET_GONE",
    "TARGET_CHANGED",
    "CLUSTER_REFUSED",
    "CLUSTER_UNAVAILABLE",
    "FIELD_INVALID",
    "EXECUTOR_UNAVAILABLE",
)
async def test_plan_that_cannot_be_made_is_an_error(house: House, there: AegisError, reason: str):
    """Where the cluster forbids even to look, the field is wrong, or nobody is there."""
    house.executor.refusals["PlanExecution"] = there
    error = await refusal(house.as_(AUTOPILOT).call("PlanAction", spec=restart("shop", "web-1")))
    assert error.reason == reason


async def test_plan_of_a_pod_without_namespace_is_refused(house: House):
    """Before anybody is asked."""
    error = await refusal(house.as_(AUTOPILOT).call("PlanAction", spec=restart("", "web-1")))
    assert error.reason == "FIELD_INVALID"
    assert house.executor.planned == []


async def test_why_an_action_waits(house: House):
    """Who approved so far, and who is missing."""
    await house.rule(obliges("without_2_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    gates = await house.as_(VERA).why(action)
    assert list(gates) == ["pause", "policy", "approvals"]
    assert gates["policy"].verdict == PASSED
    assert (gates["approvals"].verdict, gates["approvals"].reason) == (
        HELD,
        "APPROVALS_INSUFFICIENT",
    )
    assert "1 of 2" in gates["approvals"].message
    await house.as_(OLGA).pause()
    assert (await house.as_(VERA).why(action))["pause"].verdict == HELD


async def test_why_an_action_was_denied(house: House):
    """The rule and the revision."""
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign(scale("shop", "web", 11))))
    action = execution_pb2.Action(action_id=error.metadata["action_id"])
    gates = await house.as_(VERA).why(action)
    assert gates["policy"].verdict == REFUSED
    assert "automation-replicas-out-of-bounds" in gates["policy"].message
    assert list(gates) == ["pause", "policy"]


async def test_why_an_action_was_applied_or_refused_at_the_executor(house: House):
    """Its gates stand beside ours, as it tells them."""
    house.executor.gates = [Gate(name="budget.target", verdict=PASSED, message="1 of 3")]
    action = await house.as_(AUTOPILOT).submit(house.sign())
    gates = await house.as_(VERA).why(action)
    assert list(gates) == ["pause", "policy", "approvals", "budget.target"]
    house.executor.refusals["ExecuteAction"] = FailedPrecondition("STORM_ACTIVE", "5 of 9 are ill")
    refused = await house.as_(AUTOPILOT).submit(house.sign())
    assert (refused.state, refused.reason) == (State.STATE_REFUSED, "STORM_ACTIVE")
    gate = (await house.as_(VERA).why(refused))["executor"]
    assert (gate.verdict, gate.reason, gate.message) == (REFUSED, "STORM_ACTIVE", "5 of 9 are ill")


async def test_why_while_the_executor_is_away(house: House):
    """What is known here is told, and that the rest is not known."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    house.executor.away = True
    gate = (await house.as_(VERA).why(action))["executor"]
    assert (gate.verdict, gate.reason) == (NOT_ASKED, "EXECUTOR_UNAVAILABLE")


async def test_why_of_nothing_is_not_found(house: House):
    """As every question about it."""
    nothing = execution_pb2.Action(action_id="act-nothing")
    assert (await refusal(house.as_(VERA).why(nothing))).reason == "RESOURCE_NOT_FOUND"


async def test_what_did_not_help_proposes_the_next_rung(house: House):
    """Only then, and only a proposal."""
    spec = scale("shop", "web", 3)
    spec.incident_id = "inc-7"
    action = await house.as_(AUTOPILOT).submit(house.sign(spec))
    assert (action.incident_id, action.HasField("next")) == ("inc-7", False)
    house.executor.becomes(Execution.STATE_INEFFECTIVE)
    house.clock.passed = timedelta(seconds=5)
    await house.settlement.reconcile()
    ineffective = await house.as_(VERA).get(action)
    assert ineffective.state == State.STATE_INEFFECTIVE
    assert ineffective.next.WhichOneof("action") == "rollback_deployment"
    assert ineffective.next.incident_id == "inc-7"


@pytest.mark.refuses("PAGE_TOKEN_INVALID")
async def test_list_is_chosen_by_state_and_incident(house: House):
    """And a page token is good for its own choice only."""
    spec = restart("shop", "web-1")
    spec.incident_id = "inc-1"
    first = await house.as_(AUTOPILOT).submit(house.sign(spec))
    await house.rule(obliges("without_1_oncall"))
    second = await house.pending()
    viewer = house.as_(VERA)

    async def listed(**chosen: object) -> list[str]:
        answer = await viewer.call("ListActions", **chosen)
        return [action.action_id for action in answer.actions]

    assert await listed() == [second.action_id, first.action_id]
    assert await listed(states=[State.STATE_PENDING_APPROVAL]) == [second.action_id]
    assert await listed(incident_id="inc-1") == [first.action_id]
    assert await listed(incident_id="inc-1", states=[State.STATE_EXPIRED]) == []
    page = await viewer.call("ListActions", page_size=1)
    error = await refusal(
        viewer.call("ListActions", page_token=page.next_page_token, incident_id="inc-1")
    )
    assert error.reason == "PAGE_TOKEN_INVALID"
    assert await listed(page_token=page.next_page_token) == [first.action_id]
