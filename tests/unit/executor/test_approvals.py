"""Step 10, row by row: what makes an approval count, and when there are enough."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.factories import Signers, flipped, restart, rollback

from aegis import algorithms, dsse
from aegis.envelope import sign_approval
from aegis.errors import AegisError, FailedPrecondition, from_status
from aegis.trust import ACTION_APPROVAL, APPROVAL_ATTESTATION, TrustBundle, TrustedKey
from aegis.v1.envelope_pb2 import ActionRequest, ApprovalStep, SignedEnvelope
from aegis_executor.admission import Admission, Admitted, Limits
from aegis_executor.approvals import demands
from aegis_executor.catalogue import REMEDIES

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LIFE = {"not_before": NOW - timedelta(days=1), "not_after": NOW + timedelta(days=1)}
SIGNERS = Signers.fresh()
ATTESTOR, MIA, NOA = (Ed25519PrivateKey.generate() for _ in range(3))
ONCALL = ApprovalStep(step=1, group="role:oncall", needed=1)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


def known(key: Ed25519PrivateKey, usage: str, owner: str, **life: Any) -> TrustedKey:
    public = key.public_key()
    return TrustedKey(algorithms.key_id(public), usage, owner, public, **{**LIFE, **life})


def admission(clock: Clock | None = None, *, own: dict[str, int] | None = None, **mia: Any):
    keys = (
        *SIGNERS.trust(NOW).keys,
        known(ATTESTOR, APPROVAL_ATTESTATION, "server:aegis"),
        known(MIA, ACTION_APPROVAL, "user:mia", **mia),
        known(NOA, ACTION_APPROVAL, "user:noa"),
    )
    return Admission(
        trust=TrustBundle(keys),
        name="executor:local",
        cluster="sandbox",
        audience="aegis",
        limits=Limits(frozenset({"demo"}), frozenset(REMEDIES), 10, detached_approvals=own or {}),
        clock=clock or Clock(),
    )


def request(spec: Any = None, **told: Any) -> SignedEnvelope:
    return SIGNERS.request(spec or restart("demo", "web-1"), now=NOW, **told)


def approval(asked: SignedEnvelope, approver: str = "user:mia", **told: Any) -> SignedEnvelope:
    """What the server saw `approver` say to action a-1, unless told otherwise."""
    spec = ActionRequest.FromString(asked.payload).spec
    said = {
        "key": ATTESTOR,
        "action_id": "a-1",
        "group": "role:oncall",
        "now": NOW - timedelta(minutes=1),
    } | told
    digest = said.pop("digest", dsse.action_digest(spec))
    return sign_approval(digest, approver=approver, **said)


def admit(
    asked: SignedEnvelope,
    approvals: list[SignedEnvelope],
    *,
    steps: tuple[ApprovalStep, ...] = (ONCALL,),
    by: Admission | None = None,
    **decided: Any,
) -> Admitted:
    told = {"now": NOW, "steps": steps, "action_id": "a-1"} | decided
    decision = SIGNERS.decision(asked, **told)
    return (by or admission()).admit(asked, decision, approvals, peer="server:aegis")


def refusal(*arguments: Any, **keywords: Any) -> AegisError:
    with pytest.raises(FailedPrecondition) as caught:
        admit(*arguments, **keywords)
    assert caught.value.reason == "APPROVALS_INSUFFICIENT"
    return caught.value


def test_approved_action_is_admitted():
    """One of role:oncall was needed and one agreed: kept as evidence, and told on."""
    asked = request(incident="inc-7")
    agreed = approval(asked)
    admitted = admit(asked, [agreed])
    assert admitted.standing.approved
    assert admitted.agreement.approvers == {"user:mia"}
    assert admitted.approval_envelopes == (agreed.SerializeToString(),)
    assert (admitted.spec.incident_id, admitted.standing.break_glass) == ("inc-7", False)
    assert not admitted.dry_run


def test_action_nobody_has_to_approve_is_not_approved():
    """It is admitted, and a guard that wants a person's word does not find one."""
    assert not admit(request(), [], steps=()).standing.approved


def test_word_that_was_not_needed_still_counts_as_approved():
    """In a storm only approved actions pass, whether or not the policy asked for it."""
    asked = request()
    assert admit(asked, [approval(asked)], steps=()).standing.approved


def test_dry_run_needs_the_same_approvals():
    """Every check, and the dry run, and nothing more."""
    asked = request(mode=ActionRequest.MODE_DRY_RUN)
    refusal(asked, [])
    assert admit(asked, [approval(asked)]).dry_run


@pytest.mark.refuses("APPROVALS_INSUFFICIENT", step=10)
def test_missing_approval_is_refused_with_its_numbers():
    """Who has to agree, how many of them, and how many did: for programs and for people."""
    error = refusal(request(), [])
    assert error.metadata == {"step": "1", "group": "role:oncall", "needed": "1", "given": "0"}
    (condition,) = error.preconditions
    assert (condition.kind, condition.subject) == ("APPROVAL", "role:oncall")
    told = from_status(error.to_status())
    assert (told.reason, told.metadata, told.preconditions) == (
        error.reason,
        error.metadata,
        error.preconditions,
    )


@pytest.mark.refuses("APPROVALS_INSUFFICIENT", step=10)
def test_two_of_a_group_are_two_people():
    """One who speaks twice is refused, not counted twice."""
    asked, two = request(), (ApprovalStep(step=1, group="role:oncall", needed=2),)
    error = refusal(asked, [approval(asked)], steps=two)
    assert (error.metadata["needed"], error.metadata["given"]) == ("2", "1")
    again = refusal(asked, [approval(asked), approval(asked, key=MIA)], steps=two)
    assert again.metadata["check"] == "REPEATED"
    assert admit(asked, [approval(asked), approval(asked, "user:noa")], steps=two).standing.approved


def test_every_step_needs_its_own_people():
    """Steps and groups each count for themselves."""
    asked = request()
    steps = (ONCALL, ApprovalStep(step=2, group="role:owner", needed=1))
    error = refusal(asked, [approval(asked)], steps=steps)
    assert (error.metadata["step"], error.metadata["group"]) == ("2", "role:owner")
    wrong_step = approval(asked, "user:noa", group="role:owner", step=1)
    assert refusal(asked, [approval(asked), wrong_step], steps=steps).metadata["given"] == "0"
    right = approval(asked, "user:noa", group="role:owner", step=2)
    assert admit(asked, [approval(asked), right], steps=steps).standing.approved


def test_approval_of_another_group_does_not_count():
    """The word of role:viewer is not that of role:oncall."""
    asked = request()
    assert refusal(asked, [approval(asked, group="role:viewer")]).metadata["given"] == "0"


@pytest.mark.parametrize(
    ("told", "check"),
    [
        ({"digest": bytes(32)}, "BINDING"),
        ({"action_id": "a-2"}, "BINDING"),
        ({"approver": "automation:autopilot"}, "OWN"),
        ({"now": NOW - timedelta(minutes=16)}, "REQUEST_EXPIRED"),
        ({"now": NOW - timedelta(days=1), "life": timedelta(days=2)}, "REQUEST_EXPIRED"),
        ({"life": timedelta(0)}, "REQUEST_EXPIRED"),
        ({"now": NOW + timedelta(seconds=6)}, "REQUEST_FROM_FUTURE"),
        ({"key": Ed25519PrivateKey.generate()}, "SIGNING_KEY_UNUSABLE"),
        ({"key": SIGNERS.asker}, "SIGNING_KEY_UNUSABLE"),
        ({"key": SIGNERS.decider}, "SIGNING_KEY_UNUSABLE"),
        ({"key": NOA}, "SIGNER_PEER_MISMATCH"),
        ({"action_id": ""}, "PAYLOAD_INVALID"),
        ({"step": 0}, "PAYLOAD_INVALID"),
    ],
    ids=[
        "another spec",
        "another action",
        "the requester",
        "expired",
        "lives too long",
        "never lived",
        "from the future",
        "unknown key",
        "key of requests",
        "key of decisions",
        "another's own key",
        "no action",
        "no step",
    ],
)
@pytest.mark.refuses("APPROVALS_INSUFFICIENT", step=10)
def test_approval_that_does_not_count_is_refused(told: dict[str, Any], check: str):
    """Bound to spec and action, unexpired, by somebody else, with a key for this use."""
    asked = request()
    assert refusal(asked, [approval(asked, **told)]).metadata["check"] == check


def test_tampered_approval_is_refused():
    """Its signature is checked as every other."""
    asked = request()
    error = refusal(asked, [flipped(approval(asked))])
    assert error.metadata["check"] == "SIGNATURE_INVALID"


def test_request_in_place_of_an_approval_is_refused():
    """Another payload type is another thing."""
    asked = request()
    assert refusal(asked, [asked]).metadata["check"] == "ENVELOPE_MALFORMED"


def test_attestation_of_another_server_is_refused():
    """The peer that decided is the one that saw them approve."""
    asked = request()
    keys = [k for k in admission()._trust.keys if k.usage != APPROVAL_ATTESTATION]
    by = admission()
    by._trust = TrustBundle((*keys, known(ATTESTOR, APPROVAL_ATTESTATION, "server:other")))
    error = refusal(asked, [approval(asked)], by=by)
    assert error.metadata["check"] == "SIGNER_PEER_MISMATCH"


def test_step_that_demands_own_keys_takes_no_attestation():
    """What the server saw does not count there; what mia signed does."""
    asked = request()
    steps = (ApprovalStep(step=1, group="role:oncall", needed=1, detached=True),)
    assert refusal(asked, [approval(asked)], steps=steps).metadata["given"] == "0"
    assert admit(asked, [approval(asked, key=MIA)], steps=steps).standing.approved


def test_own_key_counts_where_it_is_not_demanded():
    """Signing oneself is more than being seen, not less."""
    asked = request()
    assert admit(asked, [approval(asked, key=MIA)]).standing.approved


@pytest.mark.parametrize("steps", [(), (ONCALL,)], ids=["none decided", "one decided"])
def test_executor_demands_own_keys_whatever_was_decided(steps: tuple[ApprovalStep, ...]):
    """Not even a stolen control plane rolls anything back alone."""
    asked, by = request(rollback("demo", "web")), admission(own={"rollback_deployment": 1})
    error = refusal(asked, [approval(asked, "user:noa")], steps=steps, by=by)
    assert (error.metadata["needed"], error.metadata["given"]) == ("1", "0")
    assert admit(asked, [approval(asked, key=MIA)], steps=steps, by=by).standing.approved


def test_executor_demands_nothing_for_other_actions():
    """The demand is for the actions it names."""
    assert admit(request(), [], steps=(), by=admission(own={"rollback_deployment": 1}))


def test_broken_glass_needs_none_of_the_steps():
    """It was let to break the glass; two others answer for it afterwards."""
    asked = request(rollback("demo", "web"), break_glass=True)
    admitted = admit(asked, [], break_glass=True)
    assert admitted.standing.break_glass
    assert not admitted.standing.approved


def test_broken_glass_does_not_reach_the_executors_own_demand():
    """Or the asker's key and a stolen server would be enough for what is most dangerous."""
    asked, by = (
        request(rollback("demo", "web"), break_glass=True),
        admission(own={"rollback_deployment": 1}),
    )
    refusal(asked, [], by=by, break_glass=True)
    assert admit(asked, [approval(asked, key=MIA)], by=by, break_glass=True)


def test_glass_is_not_broken_without_a_decision():
    """The request alone cannot, whoever approved."""
    asked = request(break_glass=True)
    with pytest.raises(AegisError) as caught:
        admit(asked, [approval(asked)])
    assert caught.value.reason == "DECISION_INVALID"
    assert caught.value.metadata["check"] == "BREAK_GLASS"


def test_leave_to_break_the_glass_is_not_used_unasked():
    """A decision that would let it still demands what it demands of others."""
    refusal(request(), [], break_glass=True)


def test_approval_that_expired_since_is_refused_before_the_change():
    """16: the second clock runs on until the change."""
    clock = Clock()
    by = admission(clock)
    asked = request()
    admitted = admit(asked, [approval(asked)], by=by, life=timedelta(minutes=5))
    short = approval(asked, life=timedelta(seconds=90))
    hurried = admit(asked, [short], by=by, life=timedelta(minutes=5))
    clock.now = NOW + timedelta(seconds=31)  # Both were given a minute ago.
    by.recheck(admitted)
    with pytest.raises(AegisError, match="an approval expired"):
        by.recheck(hurried)


@pytest.mark.refuses("DECISION_EXPIRED", step=16)
def test_approvers_key_revoked_since_is_refused_before_the_change():
    """16: revocation reaches what was already admitted."""
    clock = Clock()
    by = admission(clock, revoked_at=NOW + timedelta(seconds=10))
    asked = request()
    admitted = admit(asked, [approval(asked, key=MIA)], by=by)
    clock.now = NOW + timedelta(seconds=10)
    with pytest.raises(AegisError, match="approver's key ended"):
        by.recheck(admitted)


def test_largest_request_fits_with_its_decision_and_16_approvals():
    """What each may weigh together fits into the 64 KiB of the executor's port."""
    kinds = (dsse.REQUEST_TYPE, dsse.DECISION_TYPE, *[dsse.APPROVAL_TYPE] * 16)
    assert sum(dsse.max_bytes(kind) + 8 for kind in kinds) <= 64 * 1024


def test_approval_with_a_long_reason_is_refused_where_it_is_signed():
    """500 characters of any script do not always fit; the signer is told."""
    asked = request()
    assert approval(asked, reason="a" * 500)
    with pytest.raises(AegisError) as caught:
        approval(asked, reason="\N{FIRE}" * 500)
    assert caught.value.reason == "ENVELOPE_MALFORMED"


@pytest.mark.parametrize(
    "text",
    ["rollback_deployment", "delete_everything=1", "restart_pod=0", "restart_pod=1,restart_pod=2"],
)
def test_demand_that_makes_no_sense_is_refused(text: str):
    """A typo must not mean that nobody has to sign."""
    with pytest.raises(ValueError):
        demands(text, frozenset(REMEDIES))


def test_demands_are_read():
    """So many a named action."""
    told = demands("rollback_deployment=1, scale_deployment=2", frozenset(REMEDIES))
    assert told == {"rollback_deployment": 1, "scale_deployment": 2}
    assert demands("", frozenset()) == {}
