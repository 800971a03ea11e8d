"""Approvals through the whole service: who may, for what, and what is sent in the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.factories import restart, scale
from tests.integration.execution.house import (
    ADMIN,
    AUTOPILOT,
    NINA,
    NORA,
    OLGA,
    OTTO,
    SHOP,
    VERA,
    Execution,
    House,
    State,
    obliges,
    refusal,
)

from aegis import dsse
from aegis.errors import FailedPrecondition
from aegis.spiffe import Caller
from aegis.v1 import envelope_pb2, execution_pb2
from aegis_executor.admission import Admission, Limits
from aegis_policy.baseline import baseline_csv
from aegis_policy.models import DEFAULT_MODEL, DENY_OVERRIDES
from aegis_server.policy.revisions import Change

TWO_STEPS = obliges("without_1_oncall", "step2_without_1_operator")


async def test_nobody_has_to_approve_what_no_rule_demands(house: House):
    """The baseline lets automation act at once."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    assert (action.state, list(action.steps)) == (State.STATE_APPLIED, [])
    assert list(house.executor.sent[0].approvals) == []


async def test_obliged_action_waits_and_is_not_sent(house: House):
    """It tells who has to approve, and until when."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    (step,) = action.steps
    assert (step.step, step.group, step.needed, step.detached) == (1, "role:oncall", 1, False)
    waits = action.approval_expire_time.ToDatetime() - action.create_time.ToDatetime()
    assert waits == timedelta(minutes=15)
    assert house.executor.sent == []
    assert await house.outcomes(action.action_id) == ["pending_approval"]
    labels = {"action": "restart_pod", "state": "pending_approval"}
    assert house.registry.get_sample_value("aegis_actions_total", labels) == 1


async def test_approved_action_is_signed_again_and_sent_with_its_approvals(house: House):
    """The fresh request is decided anew; the decision lists who had to approve."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    approved = await house.as_(NINA).approve(action)
    assert approved.state == State.STATE_APPROVED
    assert [each.approver for each in approved.approvals] == [NINA]
    until = approved.execute_expire_time.ToDatetime() - approved.update_time.ToDatetime()
    assert timedelta(minutes=4, seconds=59) < until <= timedelta(minutes=5)
    applied = await house.as_(AUTOPILOT).submit(house.again(action))
    assert (applied.action_id, applied.state) == (action.action_id, State.STATE_APPLIED)
    (sent,) = house.executor.sent
    (decision,) = house.executor.decisions
    assert [step.group for step in decision.steps] == ["role:oncall"]
    (envelope,) = sent.approvals
    trust = house.keys.trust()
    payload, key = dsse.verify(
        envelope, dsse.APPROVAL_TYPE, trust.finder("approval-attestation", house.clock())
    )
    approval = envelope_pb2.ActionApproval.FromString(payload)
    assert key.owner == "server:aegis"
    assert (approval.approver, approval.action_id, approval.action_digest) == (
        NINA,
        action.action_id,
        action.action_digest,
    )
    assert approval.expire_time.ToDatetime() > decision.execute_not_after.ToDatetime()
    assert await house.outcomes(action.action_id) == [
        "pending_approval",
        "approval",
        "approved",
        "dispatched",
        "applied",
    ]
    assert await house.broken_rules() == []


@pytest.mark.parametrize("own_key", [False, True])
async def test_what_is_sent_is_what_the_executor_admits(house: House, own_key: bool):
    """Its own checks, with the public keys alone; without the approvals it refuses the rest."""
    await house.rule(obliges("without_signed_1_oncall" if own_key else "without_1_oncall"))
    action = await house.pending(restart("shop", "web-1"))
    signed = {"approval": signed_approval(house, action, NINA)} if own_key else {}
    await house.as_(NINA).approve(action, **signed)
    await house.as_(AUTOPILOT).submit(house.again(action))
    (sent,) = house.executor.sent
    admission = Admission(
        trust=house.keys.trust(),
        name="executor:local",
        cluster="sandbox",
        audience="aegis",
        limits=Limits(frozenset({"shop"}), frozenset({"restart_pod"}), 10),
        clock=house.clock,
    )
    admitted = admission.admit(sent.request, sent.decision, sent.approvals, peer="server:aegis")
    assert admitted.agreement.approvers == {NINA}
    with pytest.raises(FailedPrecondition, match="0 of 1"):
        admission.admit(sent.request, sent.decision, peer="server:aegis")


async def test_approval_is_recorded_with_what_was_signed(house: House):
    """Beside the record, since its reason is free text."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    record = (await house.records(action.action_id))[1]
    assert (record.actor, record.action, record.outcome) == (NINA, "approve", "approval")
    assert sorted(each.name for each in record.attachments) == ["approval", "reason"]
    assert record.details["action_digest"] == action.action_digest.hex()


async def test_long_reason_leaves_room_for_what_binds(house: House):
    """The executor takes small approvals only; the whole reason is in the record and shown."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    approved = await house.as_(NINA).approve(action, reason="\U0001f600" * 500)
    assert len(approved.approvals[0].reason) == 500
    await house.as_(AUTOPILOT).submit(house.again(action))
    (envelope,) = house.executor.sent[0].approvals
    assert envelope.ByteSize() < 2048


async def test_first_envelope_is_not_good_for_carrying_out(house: House):
    """It was taken when the action was asked for."""
    await house.rule(obliges("without_1_oncall"))
    first = house.sign()
    action = await house.as_(AUTOPILOT).submit(first)
    await house.as_(NINA).approve(action)
    error = await refusal(house.as_(AUTOPILOT).submit(first))
    assert (error.reason, error.metadata["action_id"]) == ("REPLAY_DETECTED", action.action_id)


async def test_envelope_that_only_asked_again_is_spent_too(house: House):
    """Whoever copies it while it does nothing cannot use it once it would."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    copied = house.again(action)
    assert (await house.as_(AUTOPILOT).submit(copied)).state == State.STATE_PENDING_APPROVAL
    await house.as_(NINA).approve(action)
    assert (await refusal(house.as_(AUTOPILOT).submit(copied))).reason == "REPLAY_DETECTED"
    assert house.executor.sent == []


async def test_signed_again_ten_times_at_once_is_sent_once(house: House):
    """Whoever is first carries it out; the others find what became of it."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    asker = house.as_(AUTOPILOT)
    answers = await asyncio.gather(*(asker.submit(house.again(action)) for _ in range(10)))
    assert {each.action_id for each in answers} == {action.action_id}
    assert len(house.executor.sent) == 1


async def test_steps_are_taken_in_their_order(house: House):
    """Those of the second speak once the first have."""
    await house.rule(TWO_STEPS)
    action = await house.pending()
    early = await refusal(house.as_(OLGA).approve(action))
    assert (early.reason, early.metadata["group"]) == ("APPROVER_NOT_ELIGIBLE", "role:oncall")
    assert (await house.as_(NINA).approve(action)).state == State.STATE_PENDING_APPROVAL
    assert (await house.as_(OLGA).approve(action)).state == State.STATE_APPROVED


@pytest.mark.refuses("APPROVAL_REPEATED")
async def test_two_of_a_group_are_two_people(house: House):
    """Nobody counts twice."""
    await house.rule(obliges("without_2_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    assert (await refusal(house.as_(NINA).approve(action))).reason == "APPROVAL_REPEATED"
    assert (await house.as_(NORA).approve(action)).state == State.STATE_APPROVED


@pytest.mark.refuses("APPROVAL_OWN")
async def test_nobody_approves_what_they_asked_for(house: House):
    """Also not with the role that would have to."""
    await house.rule(obliges("without_1_operator", who="role:operator"))
    action = await house.pending(by=OLGA)
    assert (await refusal(house.as_(OLGA).approve(action))).reason == "APPROVAL_OWN"
    assert (await refusal(house.as_(OLGA).reject(action))).reason == "APPROVAL_OWN"
    assert (await house.as_(OTTO).approve(action)).state == State.STATE_APPROVED


@pytest.mark.parametrize(("who", "reason"), [(OLGA, "APPROVER_NOT_ELIGIBLE"), (VERA, None)])
@pytest.mark.refuses("APPROVER_NOT_ELIGIBLE", "POLICY_DENIED")
async def test_only_the_group_approves(house: House, who: str, reason: str | None):
    """An operator is not on call, and a viewer is stopped at the door."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    error = await refusal(house.as_(who).approve(action))
    assert error.reason == (reason or "POLICY_DENIED")


async def test_role_that_was_lost_no_longer_counts(house: House):
    """An approver who was demoted meanwhile does not let it through: it waits again."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    house.roles[NINA] = ()
    again = await house.as_(AUTOPILOT).submit(house.again(action))
    assert again.state == State.STATE_PENDING_APPROVAL
    assert house.executor.sent == []
    assert (await house.as_(NORA).approve(action)).state == State.STATE_APPROVED


@pytest.mark.parametrize("how", ["disabled", "denied"])
async def test_approver_who_may_speak_no_more_does_not_count(house: House, how: str):
    """The rules still name her, but her account was closed, or approving was forbidden to her."""
    lines = (
        obliges("without_1_owners"),
        "g2, user:ola, role:owners\n",
        "p, role:owners, *, /execution/actions, approve, , allow, owners-approve\n",
    )
    await house.rule(*lines)
    action = await house.pending()
    approved = await house.as_("user:ola").approve(action)
    assert approved.state == State.STATE_APPROVED
    await house.rule(*lines, "g2, user:ole, role:owners\n")
    if how == "disabled":
        house.roles["user:ola"] = None  # type: ignore[assignment]
    else:
        never = "p, user:ola, *, /execution/actions, approve, , deny, not-ola\n"
        await house.rule(*lines, "g2, user:ole, role:owners\n", never)
    again = await house.as_(AUTOPILOT).submit(house.again(action))
    assert again.state == State.STATE_PENDING_APPROVAL
    assert house.executor.sent == []
    gate = (await house.as_(VERA).why(action))["approvals"]
    assert "user:ola" in gate.message
    assert "no longer counts" in gate.message
    assert (await house.as_("user:ole").approve(action)).state == State.STATE_APPROVED


async def test_approval_that_ended_may_be_given_again(house: House):
    """Otherwise the one person on call could never let it through; the old one is not sent."""
    house.roles[NORA] = ()
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    short = signed_approval(house, action, NINA, lasts=timedelta(minutes=1))
    await house.as_(NINA).approve(action, approval=short)
    house.clock.passed = timedelta(minutes=2)
    again = await house.as_(AUTOPILOT).submit(house.again(action))
    assert again.state == State.STATE_PENDING_APPROVAL
    envelope = signed_approval(house, action, NINA)
    approved = await house.as_(NINA).approve(action, approval=envelope)
    assert approved.state == State.STATE_APPROVED
    assert len(approved.approvals) == 1
    await house.as_(AUTOPILOT).submit(house.again(action))
    assert list(house.executor.sent[0].approvals) == [envelope]
    assert await house.broken_rules() == []


async def test_what_is_sent_again_leaves_out_approvals_that_ended(house: House):
    """The executor refuses a request that comes with one."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    short = signed_approval(house, action, NINA, lasts=timedelta(minutes=1))
    await house.as_(NINA).approve(action, approval=short)
    house.clock.passed = timedelta(minutes=2)
    await house.as_(AUTOPILOT).submit(house.again(action))
    await house.as_(NORA).approve(action)
    house.executor.away = True
    sent = await house.as_(AUTOPILOT).submit(house.again(action))
    assert sent.state == State.STATE_DISPATCHED
    house.executor.away = False
    house.clock.passed = timedelta(minutes=2, seconds=5)
    assert await house.settlement.reconcile() == 1
    (request,) = house.executor.sent
    assert [
        envelope_pb2.ActionApproval.FromString(each.payload).approver for each in request.approvals
    ] == [NORA]


async def test_refusal_of_a_word_is_recorded_with_its_action(house: House):
    """Who tried to approve their own action has to be found by it."""
    await house.rule(obliges("without_1_operator", who="role:operator"))
    action = await house.pending(restart("shop", "web-1"), by=OLGA)
    assert (await refusal(house.as_(OLGA).approve(action))).reason == "APPROVAL_OWN"
    last = (await house.records(action.action_id))[-1]
    assert (last.actor, last.action, last.outcome, last.reason) == (
        OLGA,
        "approve",
        "refused",
        "APPROVAL_OWN",
    )


@pytest.mark.parametrize("name", ["without_oncall", "without_1oncall", "step2without_1_oncall"])
async def test_obligation_that_cannot_be_read_makes_the_rules_unusable(house: House, name: str):
    """Whoever wrote it meant that somebody has to approve; elsewhere it holds nothing up."""
    await house.rule(obliges(name))
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert (error.reason, name in error.message) == ("POLICY_UNUSABLE", True)
    elsewhere = await house.as_(AUTOPILOT).submit(house.sign(restart("demo", "web-1")))
    assert elsewhere.state == State.STATE_APPLIED


async def test_obligation_of_a_model_that_never_denies_is_unusable(house: House):
    """There a deny says nothing: what it demands must not be taken for nothing."""
    model = DEFAULT_MODEL.replace(DENY_OVERRIDES, "some(where (p.eft == allow))")
    csv = baseline_csv() + obliges("without_1_oncall")
    await house.revisions.import_rules(Change(csv, ADMIN, "a test", model_conf=model))
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert (error.reason, "without_1_oncall" in error.message) == ("POLICY_UNUSABLE", True)


async def test_obligation_of_a_model_without_effects_is_unusable(house: House):
    """Every rule allows there, the one that was meant to demand somebody, too."""
    model = DEFAULT_MODEL.replace("cond, eft, id", "id").replace(
        " && cond(p.cond, p.eft, r.ctx)", ""
    )
    csv = (
        "p, user:admin, *, /**, *, all\n"
        "p, automation:autopilot, *, /**, *, also\n"
        f"p, automation:autopilot, *, {SHOP}, without_1_oncall, obliged\n"
    )
    await house.revisions.import_rules(Change(csv, ADMIN, "a test", model_conf=model))
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert (error.reason, "without_1_oncall" in error.message) == ("POLICY_UNUSABLE", True)


async def test_obligation_of_an_own_model_holds(house: House):
    """Also where PyCasbin decides, and where the names of actions are patterns."""
    model = DEFAULT_MODEL.replace("p.act == r.act", "globMatch(r.act, p.act)")
    csv = baseline_csv() + obliges("without_1_oncall")
    await house.revisions.import_rules(Change(csv, ADMIN, "a test", model_conf=model))
    await house.pending()
    csv = baseline_csv() + obliges("without_*_oncall")
    await house.revisions.import_rules(Change(csv, ADMIN, "a test", model_conf=model))
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert error.reason == "POLICY_UNUSABLE"


async def test_rules_that_demand_more_by_now_are_heeded(house: House):
    """What was approved under the old rules waits for what the new ones want."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    await house.rule(obliges("without_2_oncall"))
    again = await house.as_(AUTOPILOT).submit(house.again(action))
    assert (again.state, again.steps[0].needed) == (State.STATE_PENDING_APPROVAL, 2)
    await house.as_(NORA).approve(action)
    applied = await house.as_(AUTOPILOT).submit(house.again(action))
    assert applied.state == State.STATE_APPLIED
    assert len(house.executor.sent[0].approvals) == 2


async def test_rules_that_say_no_by_now_are_heeded(house: House):
    """Approved is not allowed."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    await house.rule("p, role:automation, *, /clusters/**, restart_pod, , deny, no-restarts\n")
    error = await refusal(house.as_(AUTOPILOT).submit(house.again(action)))
    assert (error.reason, error.metadata["rule_id"]) == ("POLICY_DENIED", "no-restarts")
    denied = await house.as_(VERA).get(action)
    assert (denied.state, denied.reason) == (State.STATE_DENIED, "POLICY_DENIED")


@pytest.mark.refuses("DIGEST_MISMATCH")
async def test_another_digest_is_not_what_was_looked_at(house: House):
    """The approver names what they saw."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    error = await refusal(house.as_(NINA).approve(action, action_digest=bytes(32)))
    assert error.reason == "DIGEST_MISMATCH"
    assert house.refused("DIGEST_MISMATCH") == 1


@pytest.mark.refuses("RESOURCE_NOT_FOUND", "STATE_CONFLICT")
async def test_what_does_not_wait_cannot_be_approved(house: House):
    """Neither what is done nor what nobody knows."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    error = await refusal(house.as_(NINA).approve(action))
    assert (error.reason, error.metadata["state"]) == ("STATE_CONFLICT", "APPLIED")
    action.action_id = "act-unknown"
    assert (await refusal(house.as_(NINA).approve(action))).reason == "RESOURCE_NOT_FOUND"


async def test_one_no_ends_it(house: House):
    """Also after somebody's yes; the reason is beside the record."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    rejected = await house.as_(NORA).reject(action)
    assert rejected.state == State.STATE_REJECTED
    assert rejected.HasField("end_time")
    again = await house.as_(AUTOPILOT).submit(house.again(action))
    assert again.state == State.STATE_REJECTED
    assert house.executor.sent == []
    assert (await house.outcomes(action.action_id))[-2:] == ["rejection", "rejected"]


async def test_who_is_of_no_group_does_not_reject(house: House):
    """An operator may approve in general, but not here."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    assert (await refusal(house.as_(OLGA).reject(action))).reason == "APPROVER_NOT_ELIGIBLE"


@pytest.mark.refuses("APPROVALS_IMPOSSIBLE")
async def test_fewer_people_than_needed_is_said_at_once(house: House):
    """Two are on call: three could never approve. No action is left to wait for ever."""
    await house.rule(obliges("without_3_oncall"))
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert error.reason == "APPROVALS_IMPOSSIBLE"
    told = {name: error.metadata[name] for name in ("group", "needed", "eligible")}
    assert told == {"group": "role:oncall", "needed": "3", "eligible": "2"}
    assert "OpenID only: while their token lasts" in error.message
    listed = await house.as_(VERA).call("ListActions")
    assert list(listed.actions) == []
    assert (await house.records())[-1].reason == "APPROVALS_IMPOSSIBLE"


async def test_disabled_account_is_nobody_to_count_on(house: House):
    """Whatever the rules say of it."""
    await house.rule(obliges("without_1_owners"), "g2, user:ola, role:owners\n")
    # The door lets only those approve who have the permission.
    assert (await refusal(house.as_(AUTOPILOT).submit(house.sign()))).metadata["eligible"] == "0"
    may = "p, role:owners, *, /execution/actions, approve, , allow, owners-approve\n"
    await house.rule(obliges("without_1_owners"), "g2, user:ola, role:owners\n", may)
    await house.pending()
    house.roles["user:ola"] = None  # type: ignore[assignment]
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert error.reason == "APPROVALS_IMPOSSIBLE"


async def test_two_groups_are_not_met_by_one_person(house: House):
    """Whoever is both speaks for one of them only."""
    house.roles.update({NORA: (), NINA: ("role:oncall", "role:owners")})
    await house.rule(obliges("without_1_oncall", "without_1_owners"))
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert error.reason == "APPROVALS_IMPOSSIBLE"


@pytest.mark.refuses("POLICY_UNUSABLE")
async def test_more_than_a_decision_can_carry_makes_the_rules_unusable(house: House):
    """Rather than to leave somebody out."""
    await house.rule(obliges("without_9_oncall", "without_9_operator"))
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert error.reason == "POLICY_UNUSABLE"


async def test_nobody_speaks_after_the_time_for_it(house: House):
    """Before the sweep, and behind it."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    house.clock.passed = timedelta(minutes=15, seconds=1)
    assert (await refusal(house.as_(NINA).approve(action))).reason == "STATE_CONFLICT"
    assert await house.room.endings.expire() == 1
    assert (await house.as_(VERA).get(action)).state == State.STATE_EXPIRED
    assert await house.room.endings.expire() == 0
    assert await house.outcomes(action.action_id) == ["pending_approval", "refused", "expired"]


async def test_approved_action_is_not_good_for_ever(house: House):
    """Five minutes after the last approval its issuer comes too late."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    await house.as_(NINA).approve(action)
    house.clock.passed = timedelta(minutes=5, seconds=1)
    late = await house.as_(AUTOPILOT).submit(house.again(action))
    assert late.state == State.STATE_APPROVED
    assert house.executor.sent == []
    assert await house.room.endings.expire() == 1
    assert (await house.as_(VERA).get(action)).state == State.STATE_EXPIRED


def signed_approval(house: House, action: execution_pb2.Action, by: str, **changes: Any):
    """What an approver signs with their own key."""
    told = {
        "action_digest": action.action_digest,
        "action_id": action.action_id,
        "approver": by,
        "step": 1,
        "group": "role:oncall",
    } | changes
    ages = {"decided": timedelta(), "lasts": timedelta(minutes=30)}
    ages = {name: told.pop(name, usual) for name, usual in ages.items()}
    approval = envelope_pb2.ActionApproval(**told)
    now = house.clock()
    approval.decide_time.FromDatetime(now + ages["decided"])
    approval.expire_time.FromDatetime(now + ages["lasts"])
    return dsse.sign(dsse.APPROVAL_TYPE, approval.SerializeToString(), house.keys.approvals[by])


async def test_approval_with_ones_own_key_is_passed_on_as_it_came(house: House):
    """Where the rules want it, the server's word is not enough."""
    await house.rule(obliges("without_signed_1_oncall"))
    action = await house.pending()
    assert action.steps[0].detached
    error = await refusal(house.as_(NINA).approve(action))
    assert (error.reason, error.metadata["check"]) == ("APPROVAL_INVALID", "detached")
    envelope = signed_approval(house, action, NINA)
    approved = await house.as_(NINA).approve(action, approval=envelope)
    assert (approved.state, approved.approvals[0].detached) == (State.STATE_APPROVED, True)
    await house.as_(AUTOPILOT).submit(house.again(action))
    assert list(house.executor.sent[0].approvals) == [envelope]
    assert await house.broken_rules() == []


async def test_who_has_no_key_of_their_own_cannot_be_counted_on(house: House):
    """Two are on call, one has a key."""
    await house.rule(obliges("without_signed_2_oncall"))
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign()))
    assert (error.reason, error.metadata["eligible"]) == ("APPROVALS_IMPOSSIBLE", "1")


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"action_digest": bytes(32)}, "action_digest"),
        ({"action_id": "act-other"}, "action_id"),
        ({"approver": NORA}, "signer_peer_mismatch"),
        ({"step": 2}, "step"),
        ({"group": "role:operator"}, "step"),
        ({"decided": timedelta(minutes=1)}, "request_from_future"),
        ({"lasts": timedelta(seconds=-1)}, "request_expired"),
        ({"lasts": timedelta(hours=25)}, "request_expired"),
        ({"step": 0}, "payload_invalid"),
        ({"reason": "x" * 3000}, "envelope_malformed"),
    ],
)
@pytest.mark.refuses("APPROVAL_INVALID")
async def test_signed_approval_of_something_else_is_refused(
    house: House, changes: dict[str, Any], check: str
):
    """Each field binds."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    envelope = signed_approval(house, action, NINA, **changes)
    error = await refusal(house.as_(NINA).approve(action, approval=envelope))
    assert (error.reason, error.metadata["check"]) == ("APPROVAL_INVALID", check)
    assert (await house.as_(VERA).get(action)).state == State.STATE_PENDING_APPROVAL


async def test_approval_signed_by_somebody_else_is_refused(house: House):
    """Vera's key says nothing about Nina."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    envelope = signed_approval(house, action, VERA, approver=NINA)
    error = await refusal(house.as_(NINA).approve(action, approval=envelope))
    assert (error.reason, error.metadata["check"]) == ("APPROVAL_INVALID", "signer_peer_mismatch")


async def test_request_signed_as_an_approval_is_none(house: House):
    """A key counts for its one use."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    stolen = house.sign()
    stolen.payload_type = dsse.APPROVAL_TYPE
    error = await refusal(house.as_(NINA).approve(action, approval=stolen))
    assert (error.reason, error.metadata["check"]) == ("APPROVAL_INVALID", "signing_key_unusable")


async def test_issuer_cancels_what_was_not_sent(house: House):
    """Without any permission: it is theirs."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    assert (await house.as_(AUTOPILOT).cancel(action)).state == State.STATE_CANCELLED
    error = await refusal(house.as_(AUTOPILOT).cancel(action))
    assert (error.reason, error.metadata["state"]) == ("STATE_CONFLICT", "CANCELLED")


async def test_others_cancel_with_the_permission_only(house: House):
    """An operator may; who is on call, or a stranger, may not."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    for who in (NINA, "user:stranger"):
        assert (await refusal(house.as_(who).cancel(action))).reason == "POLICY_DENIED"
    assert (await house.as_(OLGA).cancel(action)).state == State.STATE_CANCELLED


async def test_api_key_that_is_not_for_it_cancels_nothing(house: House):
    """Not even what its own account asked for: nobody checked its scopes at the door."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    for scopes, good in (((), False), (("read:/**",), False), (("cancel:/execution/**",), True)):
        caller = Caller(AUTOPILOT, "", method="api-key", scopes=scopes)
        cancelling = house.room.endings.cancel(action.action_id, caller, "")
        if good:
            assert (await cancelling).state == State.STATE_CANCELLED
        else:
            assert (await refusal(cancelling)).reason == "SCOPE_INSUFFICIENT"


@pytest.mark.refuses("STATE_CONFLICT")
async def test_what_was_sent_is_not_cancelled(house: House):
    """It is too late."""
    action = await house.as_(AUTOPILOT).submit(house.sign())
    assert (await refusal(house.as_(AUTOPILOT).cancel(action))).reason == "STATE_CONFLICT"


async def test_request_id_is_bound_to_what_was_asked_for(house: House):
    """Also to whether the glass was to be broken, or nothing to be changed."""
    await house.rule(obliges("without_1_oncall"))
    action = await house.pending()
    dry = house.again(action, mode=envelope_pb2.ActionRequest.MODE_DRY_RUN)
    assert (await refusal(house.as_(AUTOPILOT).submit(dry))).reason == "REQUEST_ID_REUSED"
    glass = house.again(action, break_glass=True)
    assert (await refusal(house.as_(AUTOPILOT).submit(glass))).reason == "REQUEST_ID_REUSED"
    other = house.sign(scale("shop", "web", 3), request_id=action.request_id)
    assert (await refusal(house.as_(AUTOPILOT).submit(other))).reason == "REQUEST_ID_REUSED"


async def test_dry_run_needs_nobody(house: House):
    """It changes nothing, and says so."""
    await house.rule(obliges("without_1_oncall"))
    house.executor.ends = Execution.STATE_DRY_RUN
    envelope = house.sign(mode=envelope_pb2.ActionRequest.MODE_DRY_RUN)
    action = await house.as_(AUTOPILOT).submit(envelope)
    assert action.state == State.STATE_DRY_RUN
    assert list(house.executor.decisions[0].steps) == []


async def test_pod_without_a_namespace_is_no_action(house: House):
    """Only nodes have none, and they must not have one."""
    nowhere = restart("", "web-1")
    error = await refusal(house.as_(AUTOPILOT).submit(house.sign(nowhere)))
    assert (error.reason, error.violations[0].field) == ("PAYLOAD_INVALID", "target.namespace")
    node = envelope_pb2.ActionSpec(
        target=envelope_pb2.ActionSpec.Target(cluster="sandbox", namespace="shop", name="n1"),
        cordon_node=envelope_pb2.ActionSpec.CordonNode(),
    )
    error = await refusal(house.as_(OLGA).submit(house.sign(node, by=OLGA)))
    assert error.reason == "PAYLOAD_INVALID"
    node.target.namespace = ""
    action = await house.as_(OLGA).submit(house.sign(node, by=OLGA))
    assert action.state == State.STATE_APPLIED
    assert action.rule_id == "operator-cordons-nodes"
