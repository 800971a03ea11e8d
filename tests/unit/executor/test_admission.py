"""Admission: each numbered check refuses what it is there for, in its order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.factories import Signers, cordon, flipped, restart, rollback, scale

from aegis.errors import AegisError
from aegis.v1.envelope_pb2 import ActionSpec, ApprovalStep, SignedEnvelope
from aegis_executor.admission import Admission, Admitted, Limits
from aegis_executor.catalogue import REMEDIES
from aegis_executor.catalogue.base import Kind, Place, Standing
from aegis_executor.catalogue.restart_pod import RestartPod

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SIGNERS = Signers.fresh()
LIMITS = Limits(
    namespaces=frozenset({"demo", "shop"}),
    actions=frozenset(REMEDIES),
    replicas_max=10,
    nodes=frozenset({"n-1"}),
)


class Clock:
    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def admission(clock: Clock | None = None, limits: Limits = LIMITS, **key: Any) -> Admission:
    return Admission(
        trust=SIGNERS.trust(NOW, **key),
        name="executor:local",
        cluster="sandbox",
        audience="aegis",
        limits=limits,
        clock=clock or Clock(),
    )


def request(spec: ActionSpec | None = None, **changes: Any) -> SignedEnvelope:
    return SIGNERS.request(spec or restart("demo", "web-1"), **{"now": NOW, **changes})


def decision(asked: SignedEnvelope, **changes: Any) -> SignedEnvelope:
    return SIGNERS.decision(asked, **{"now": NOW, **changes})


def admit(
    asked: SignedEnvelope,
    decided: SignedEnvelope | None = None,
    *,
    by: Admission | None = None,
    peer: str = "server:aegis",
) -> Admitted:
    return (by or admission()).admit(asked, decided or decision(asked), peer=peer)


def refusal(*arguments: Any, **keywords: Any) -> AegisError:
    with pytest.raises(AegisError) as caught:
        admit(*arguments, **keywords)
    return caught.value


def test_good_request_with_its_decision_is_admitted():
    """What comes out is what was signed, with the exact bytes as evidence."""
    asked = request(restart("demo", "web-1", uid="u-1", grace=5))
    decided = decision(asked, action_id="a-7")
    admitted = admit(asked, decided)
    assert admitted.remedy == RestartPod(Place(Kind.POD, "demo", "web-1", "u-1"), 5)
    assert (admitted.standing, admitted.dry_run) == (Standing(), False)
    assert admitted.action_id == "a-7"
    assert (admitted.request, admitted.decision) == (asked.payload, decided.payload)


def test_request_id_has_one_spelling():
    """The journal writes it in small letters, and the sweep looks for what is going on by it."""
    asked = request(request_id="ABCDEF00-0000-4000-8000-00000000000A")
    assert admit(asked).request_id == "abcdef00-0000-4000-8000-00000000000a"


@pytest.mark.refuses("ENVELOPE_MALFORMED", step=3)
def test_request_of_another_payload_type_is_malformed():
    """3: a decision is not a request, however well it is signed."""
    asked = request()
    assert refusal(decision(asked), decision(asked)).reason == "ENVELOPE_MALFORMED"


@pytest.mark.refuses("SIGNING_KEY_UNUSABLE", step=4)
def test_request_of_an_unknown_key_is_refused():
    """4: a signature by a stranger proves nothing."""
    asked = Signers.fresh().request(restart("demo", "web-1"), now=NOW)
    assert refusal(asked).reason == "SIGNING_KEY_UNUSABLE"


@pytest.mark.refuses("SIGNING_KEY_UNUSABLE", step=4)
def test_request_of_a_revoked_key_is_refused():
    """4: revocation counts from its very moment."""
    assert refusal(request(), by=admission(revoked_at=NOW)).reason == "SIGNING_KEY_UNUSABLE"


@pytest.mark.refuses("SIGNING_KEY_UNUSABLE", step=4)
def test_request_signed_with_the_decision_key_is_refused():
    """4: each key has one use; the server cannot mint requests."""
    forged = Signers(asker=SIGNERS.decider, decider=SIGNERS.decider)
    asked = forged.request(restart("demo", "web-1"), now=NOW)
    assert refusal(asked).reason == "SIGNING_KEY_UNUSABLE"


@pytest.mark.refuses("SIGNATURE_INVALID", step=5)
def test_tampered_request_is_refused():
    """5: one turned bit and the signature no longer fits."""
    asked = request()
    assert refusal(flipped(asked), decision(asked)).reason == "SIGNATURE_INVALID"


@pytest.mark.refuses("PAYLOAD_INVALID", step=6)
def test_request_with_a_broken_field_is_refused():
    """6: constraints of the .proto hold inside signed bytes too."""
    assert refusal(request(scale("demo", "web", -1))).reason == "PAYLOAD_INVALID"


@pytest.mark.refuses("AUDIENCE_MISMATCH", step=7)
def test_request_for_another_control_plane_is_refused():
    """7: a request for one installation is worth nothing in another."""
    assert refusal(request(audience="elsewhere")).reason == "AUDIENCE_MISMATCH"


@pytest.mark.refuses("AUDIENCE_MISMATCH", step=7)
def test_request_for_another_cluster_is_refused():
    """7: the cluster is a part of the address."""
    spec = restart("demo", "web-1")
    spec.target.cluster = "production"
    assert refusal(request(spec)).reason == "AUDIENCE_MISMATCH"


@pytest.mark.refuses("SIGNER_PEER_MISMATCH", step=7)
def test_request_in_somebody_elses_name_is_refused():
    """7: a key speaks for its owner only."""
    assert refusal(request(issuer="user:admin")).reason == "SIGNER_PEER_MISMATCH"


@pytest.mark.parametrize("seconds", [-66, -3600])
@pytest.mark.refuses("REQUEST_EXPIRED", step=8)
def test_expired_request_is_refused(seconds: int):
    """8: a minute of life and five seconds of skew, no more."""
    asked = request(now=NOW + timedelta(seconds=seconds))
    assert refusal(asked).reason == "REQUEST_EXPIRED"


def test_request_inside_the_skew_is_admitted():
    """8: five seconds of disagreement between clocks are forgiven."""
    asked = request(now=NOW - timedelta(seconds=64))
    assert admit(asked).issuer == "automation:autopilot"


@pytest.mark.refuses("REQUEST_EXPIRED", step=8)
def test_request_that_lives_too_long_is_refused():
    """8: more than 60 s of validity is refused, however fresh."""
    assert refusal(request(life=timedelta(seconds=61))).reason == "REQUEST_EXPIRED"


@pytest.mark.refuses("REQUEST_FROM_FUTURE", step=8)
def test_request_from_the_future_is_refused():
    """8: six seconds ahead is not skew any more."""
    asked = request(now=NOW + timedelta(seconds=6))
    assert refusal(asked).reason == "REQUEST_FROM_FUTURE"


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"action_digest": bytes(32)}, "BINDING"),
        ({"request_sha256": bytes(32)}, "BINDING"),
        ({"subject": "user:admin"}, "BINDING"),
        ({"executor": "executor:other"}, "BINDING"),
        ({"cluster": "production"}, "BINDING"),
        ({"now": NOW + timedelta(seconds=6)}, "BINDING"),
        ({"life": timedelta(minutes=6)}, "BINDING"),
        ({"life": timedelta(0)}, "BINDING"),
        ({"key": SIGNERS.asker}, "SIGNING_KEY_UNUSABLE"),
        ({"policy_revision": 0}, "PAYLOAD_INVALID"),
        ({"unknown_field": True}, "PAYLOAD_INVALID"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
@pytest.mark.refuses("DECISION_INVALID", step=9)
def test_decision_that_is_not_for_this_request_is_refused(changed: dict[str, Any], check: str):
    """9: digest, request, subject, executor, cluster, time, key and form all have to fit."""
    asked = request()
    error = refusal(asked, decision(asked, **changed))
    assert (error.reason, error.metadata["check"]) == ("DECISION_INVALID", check)


@pytest.mark.refuses("DECISION_INVALID", step=9)
def test_tampered_decision_is_refused():
    """9: the decision's signature is checked as the request's is."""
    asked = request()
    error = refusal(asked, flipped(decision(asked)))
    assert (error.reason, error.metadata["check"]) == ("DECISION_INVALID", "SIGNATURE_INVALID")


@pytest.mark.refuses("DECISION_INVALID", step=9)
def test_decision_delivered_by_another_peer_is_refused():
    """9: who decides and who delivers are the same."""
    assert refusal(request(), peer="service:coordinator").reason == "DECISION_INVALID"


@pytest.mark.refuses("DECISION_EXPIRED", step=9)
def test_expired_decision_is_refused():
    """9: a decision that is over is over, without any skew."""
    asked = request(now=NOW - timedelta(seconds=30))
    late = decision(asked, now=NOW - timedelta(seconds=31), life=timedelta(seconds=30))
    assert refusal(asked, late).reason == "DECISION_EXPIRED"


def test_decision_that_demands_approvals_is_refused_without_them():
    """10: an allowance under a condition is none while the condition is not met."""
    asked = request()
    step = ApprovalStep(step=1, group="role:oncall", needed=1)
    assert refusal(asked, decision(asked, steps=[step])).reason == "APPROVALS_INSUFFICIENT"


def test_target_that_does_not_fit_its_action_is_refused():
    """11: a node has no namespace, and everything else has one."""
    assert refusal(request(scale("", "web", 2))).reason == "PAYLOAD_INVALID"
    odd = cordon("n-1")
    odd.target.namespace = "demo"
    assert refusal(request(odd)).reason == "PAYLOAD_INVALID"


def test_node_is_admitted_where_it_is_named():
    """11: no list of namespaces speaks about nodes, so they have one of their own."""
    assert admit(request(cordon("n-1"))).remedy.place == Place(Kind.NODE, "", "n-1")
    assert refusal(request(cordon("n-2"))).reason == "ACTION_NOT_ENABLED"
    nameless = Limits(frozenset({"demo"}), frozenset(REMEDIES), 10)
    error = refusal(request(cordon("n-1")), by=admission(limits=nameless))
    assert error.reason == "ACTION_NOT_ENABLED"


@pytest.mark.refuses("NAMESPACE_NOT_ALLOWED", step=11)
def test_namespace_outside_the_allow_list_is_refused():
    """11: no decision widens the executor's own list."""
    assert refusal(request(scale("payments", "ledger", 2))).reason == "NAMESPACE_NOT_ALLOWED"


@pytest.mark.refuses("ACTION_NOT_ENABLED", step=11)
def test_action_that_is_not_enabled_is_refused():
    """11: an executor may be told to restart pods and nothing else."""
    narrow = Limits(frozenset({"demo"}), frozenset({"restart_pod"}), 10)
    error = refusal(request(rollback("demo", "web")), by=admission(limits=narrow))
    assert error.reason == "ACTION_NOT_ENABLED"


@pytest.mark.parametrize("replicas", [0, 11])
@pytest.mark.refuses("BOUNDS_EXCEEDED", step=11)
def test_replicas_outside_the_bounds_are_refused(replicas: int):
    """11: neither an outage nor a crowd."""
    assert refusal(request(scale("demo", "web", replicas))).reason == "BOUNDS_EXCEEDED"


@pytest.mark.refuses("BOUNDS_EXCEEDED", step=11)
def test_restart_without_grace_is_refused():
    """11: grace 0 would forget a pod that may still be running."""
    assert refusal(request(restart("demo", "web-1", grace=0))).reason == "BOUNDS_EXCEEDED"


def test_decision_that_expired_since_is_refused_before_the_change():
    """16: a plan that waited too long is not carried out."""
    clock = Clock()
    checks = admission(clock)
    admitted = admit(request(), by=checks)
    checks.recheck(admitted)
    clock.now = NOW + timedelta(seconds=61)
    with pytest.raises(AegisError, match="expired before the change"):
        checks.recheck(admitted)


def test_key_revoked_since_is_refused_before_the_change():
    """16: revocation reaches what was already admitted."""
    clock = Clock()
    checks = admission(clock, revoked_at=NOW + timedelta(seconds=10))
    admitted = admit(request(), by=checks)
    clock.now = NOW + timedelta(seconds=10)
    with pytest.raises(AegisError) as caught:
        checks.recheck(admitted)
    assert caught.value.reason == "DECISION_EXPIRED"
