"""The semantic audit: what a whole record may still not tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.factories import Signers, scale

from aegis import algorithms, dsse
from aegis.audit.semantics import EXECUTOR, SERVER, Story
from aegis.trust import ACTION_APPROVAL, APPROVAL_ATTESTATION, TrustBundle, TrustedKey
from aegis.v1 import audit_pb2 as pb
from aegis.v1 import envelope_pb2
from aegis.v1.envelope_pb2 import ApprovalStep, SignedEnvelope

NOW = datetime.now(UTC)
SIGNERS = Signers.fresh()
REQUEST = SIGNERS.request(scale("demo", "web", 3))
DECISION = SIGNERS.decision(REQUEST, action_id="act-1")
BOTH = {SERVER, EXECUTOR}
DIGEST = dsse.action_digest(envelope_pb2.ActionRequest.FromString(REQUEST.payload).spec)
ATTESTATION, OWN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def trust() -> TrustBundle:
    """The asker, the decider, the server that saw people approve, and Nina's own key."""
    listed = ((APPROVAL_ATTESTATION, "server:aegis", ATTESTATION), (ACTION_APPROVAL, "u:n", OWN))
    keys = [
        TrustedKey(
            algorithms.key_id(key.public_key()),
            usage,
            owner,
            key.public_key(),
            NOW - timedelta(days=1),
            NOW + timedelta(days=1),
        )
        for usage, owner, key in listed
    ]
    return TrustBundle((*SIGNERS.trust(NOW).keys, *keys))


class Teller:
    """Tells a story record by record."""

    def __init__(self) -> None:
        self.story = Story(trust())
        self._index = 0
        self.now = NOW

    def tell(
        self,
        kind: str,
        outcome: str,
        *,
        log_id: str = SERVER,
        subject_id: str = "act-1",
        action: str = "scale_deployment",
        decision: SignedEnvelope | None = None,
        request: SignedEnvelope | None = None,
        approval: SignedEnvelope | None = None,
        erased: bool = False,
        actor: str = "automation:autopilot",
        **details: str,
    ) -> Teller:
        record = pb.AuditRecord(
            index=self._index,
            kind=pb.AuditKind.Value(f"AUDIT_KIND_{kind}"),
            outcome=outcome,
            subject_id=subject_id,
            action=action,
            details=details,
            actor=actor,
        )
        record.time.FromDatetime(self.now)
        if decision is not None:
            record.evidence.add(name="decision", content=decision.SerializeToString())
        beside = {} if request is None else {"request": request.SerializeToString()}
        if approval is not None:
            record.attachments.add(name="approval", sha256=bytes(32))
            beside |= {} if erased else {"approval": approval.SerializeToString()}
        self.story.tell(log_id, record, beside)
        self._index += 1
        return self

    def dispatched(self, **changes: SignedEnvelope | str | None) -> Teller:
        told = {"decision": DECISION, "request": REQUEST} | changes
        return self.tell("ACTION", "dispatched", **told)

    def approved(self, who: str, *, signed: dict[str, Any] | None = None, **told: Any) -> Teller:
        """Somebody's approval; `signed` is what the envelope says otherwise than the record."""
        words = {"step": 1, "group": "role:oncall"} | {
            name: told.pop(name) for name in ("step", "group") if name in told
        }
        fields = {"approver": who, "action_id": "act-1", "action_digest": DIGEST, **words}
        key = told.pop("key", ATTESTATION)
        approval = envelope_pb2.ActionApproval(**(fields | (signed or {})))
        envelope = dsse.sign(dsse.APPROVAL_TYPE, approval.SerializeToString(), key)
        details = {"detached": "false", "action_digest": DIGEST.hex()} | {
            name: str(value) for name, value in words.items()
        }
        beside = {"approval": envelope} | told
        return self.tell("ACTION", "approval", action="approve", actor=who, **details | beside)

    def executed(self) -> Teller:
        self.tell("EXECUTION", "intent", log_id=EXECUTOR)
        return self.tell("EXECUTION", "applied", log_id=EXECUTOR)

    def problems(self, complete: set[str] = BOTH) -> list[str]:
        return [broken.problem for broken in self.story.broken_rules(complete)]


def test_decided_intended_applied_is_how_it_should_be():
    """One action from request to end, in both logs."""
    assert Teller().dispatched().executed().tell("ACTION", "applied").problems() == []


def test_erased_request_takes_nothing_from_its_decision():
    """Without the words of the request its signed decision still stands."""
    teller = Teller().dispatched(request=None).executed().tell("ACTION", "applied")
    assert teller.problems() == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"decision": None}, "not signed"),
        ({"decision": SIGNERS.decision(REQUEST, action_id="act-2")}, "another action"),
        (
            {"decision": Signers.fresh().decision(REQUEST, action_id="act-1")},
            "not signed by a key that counts",
        ),
        ({"request": SIGNERS.request(scale("demo", "web", 9))}, "another request"),
        ({"request": Signers.fresh().request(scale("demo", "web", 3))}, "not signed"),
        ({"request": SignedEnvelope(payload=b"\xff")}, "not signed"),
    ],
)
def test_decision_that_does_not_carry_its_action_is_told(
    changes: dict[str, SignedEnvelope | None], problem: str
):
    """It has to be an ALLOW for exactly this request, by a key that counts."""
    (found,) = Teller().dispatched(**changes).problems(set())
    assert problem in found


def test_applied_without_a_decision_is_told():
    """Nothing may be done that was never decided."""
    assert Teller().tell("ACTION", "applied").problems(set()) == [
        "act-1 was applied without a decision"
    ]


def test_applied_twice_is_told():
    """Also when both times were decided."""
    teller = Teller().dispatched().tell("ACTION", "applied").tell("ACTION", "applied")
    assert teller.problems({SERVER}) == ["act-1 was applied twice"]


def test_request_that_was_applied_as_two_actions_is_told():
    """Once for a request, by whatever names."""
    teller = Teller()
    for action_id, request_id in (("act-1", "r"), ("act-2", "r"), ("act-3", "s")):
        decision = SIGNERS.decision(REQUEST, action_id=action_id)
        teller.dispatched(subject_id=action_id, request_id=request_id, decision=decision)
        teller.tell("ACTION", "applied", subject_id=action_id)
    assert teller.problems({SERVER}) == ["request r was applied as act-1 and as act-2"]


def test_carried_out_without_an_intent_is_told():
    """The executor writes before it acts."""
    teller = Teller().dispatched().tell("EXECUTION", "applied", log_id=EXECUTOR)
    assert teller.problems() == ["act-1 was carried out without an intent"]


def test_begun_and_carried_out_twice_is_told():
    """Once for a request, whatever was lost."""
    assert Teller().dispatched().executed().executed().problems() == [
        "act-1 was begun twice",
        "act-1 was carried out twice",
    ]


def test_logs_that_disagree_are_told():
    """What one says was done, the other one must know of; one log alone cannot tell."""
    alone = Teller().dispatched().tell("ACTION", "applied")
    assert alone.problems({SERVER}) == []
    assert alone.problems() == ["act-1 was applied, but the executor does not know of it"]
    assert Teller().executed().problems() == [
        "act-1 was carried out, but the server never decided it"
    ]


def test_update_in_a_model_was_accepted_before():
    """Each of them."""
    teller = Teller().tell("REVIEW", "accepted", subject_id="u1", action="judge")
    teller.tell("REVIEW", "rejected", subject_id="u2", action="judge")
    teller.tell("RUN", "completed", action="complete_round", update_ids="u1,u2")
    assert teller.problems(set()) == ["update u2 is in the model and was never accepted"]


def test_fallback_is_made_of_updates_that_were_held_in_one():
    """And says so; an update that was held otherwise is in no model."""
    teller = Teller().tell("REVIEW", "held", subject_id="u1", action="judge", fallback="yes")
    teller.tell("REVIEW", "held", subject_id="u2", action="judge")
    round_ = {"action": "complete_round", "fallback": "nobody can tell"}
    teller.tell("RUN", "completed", update_ids="u1", **round_)
    assert teller.problems(set()) == []
    teller.tell("RUN", "completed", update_ids="u2", **round_)
    teller.tell("RUN", "completed", update_ids="u1", action="complete_round")
    assert teller.problems(set()) == [
        "update u2 is in the model and was never accepted",
        "update u1 is in the model and was never accepted",
    ]


def test_round_without_review_has_no_updates_to_accept():
    """A run with review off says so when it is allowed to start."""
    assert (
        Teller().tell("RUN", "completed", action="complete_round", update_ids="").problems() == []
    )


def test_what_is_gone_was_erased_by_somebody():
    """The record of an erasure names what it took; anything else that is gone was taken."""
    teller = Teller()
    teller.story.gone(SERVER, 4)
    teller.tell("ERASURE", "erased", index="4")
    assert teller.problems() == []
    teller.story.gone(SERVER, 5)
    assert teller.problems() == ["what was beside it is gone, and nobody erased it"]


@pytest.mark.parametrize("index", ["9" * 5000, "\u0664", "-4", ""])
def test_erasure_of_no_record_excuses_nothing(index: str):
    """Whatever is written there, also what no computer reads as a number."""
    teller = Teller().tell("ERASURE", "erased", index=index)
    teller.story.gone(SERVER, 4)
    assert len(teller.problems()) == 1


def test_erasure_in_another_log_excuses_nothing():
    """The executor erases nothing, least of all beside a record of the server."""
    teller = Teller().tell("ERASURE", "erased", log_id=EXECUTOR, index="4")
    teller.story.gone(SERVER, 4)
    assert teller.problems() == ["what was beside it is gone, and nobody erased it"]


def demanding(*steps: ApprovalStep, **fields: Any) -> SignedEnvelope:
    """A decision that lists who has to have approved."""
    return SIGNERS.decision(REQUEST, action_id="act-1", steps=steps, **fields)


ONE = demanding(ApprovalStep(step=1, group="role:oncall", needed=1))
TWO = demanding(ApprovalStep(step=1, group="role:oncall", needed=2))
SIGNED = demanding(ApprovalStep(step=1, group="role:oncall", needed=1, detached=True))


def test_approvals_that_were_demanded_and_given_are_how_it_should_be():
    """By different people, attested or signed by themselves, their reasons erased or not."""
    assert Teller().approved("user:nina").dispatched(decision=ONE).problems(set()) == []
    both = Teller().approved("user:nina").approved("user:nora", erased=True)
    assert both.dispatched(decision=TWO).problems(set()) == []
    own = Teller().approved("user:nina", key=OWN, detached="true")
    assert own.dispatched(decision=SIGNED).problems(set()) == []


@pytest.mark.parametrize(
    ("given", "decision", "problem"),
    [
        ([], ONE, "0 of 1 of role:oncall"),
        ([{"who": "user:nina"}], TWO, "1 of 2 of role:oncall"),
        ([{"who": "user:nina"}, {"who": "user:nina"}], TWO, "1 of 2 of role:oncall"),
        ([{"who": "automation:autopilot"}], ONE, "0 of 1 of role:oncall"),
        ([{"who": "user:nina", "step": 2}], ONE, "0 of 1 of role:oncall"),
        ([{"who": "user:nina", "group": "role:viewer"}], ONE, "0 of 1 of role:oncall"),
        ([{"who": "user:nina"}], SIGNED, "0 of 1 of role:oncall"),
    ],
)
def test_sent_without_the_approvals_it_needed_is_told(
    given: list[dict[str, Any]], decision: SignedEnvelope, problem: str
):
    """Too few, the same one twice, who asked for it, another step or group, no key of their own."""
    teller = Teller()
    for each in given:
        teller.approved(**each)
    assert teller.dispatched(decision=decision).problems(set()) == [f"it was sent with {problem}"]


def test_approval_after_the_deed_does_not_count():
    """It has to be there when it is sent."""
    teller = Teller().dispatched(decision=ONE).approved("user:nina")
    assert teller.problems(set()) == ["it was sent with 0 of 1 of role:oncall"]


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ({"approval": None}, "nobody signed"),
        ({"key": Ed25519PrivateKey.generate()}, "not signed by a key that counts"),
        ({"key": OWN}, "not signed by a key that counts"),
        ({"detached": "true"}, "not signed by a key that counts"),
        ({"signed": {"approver": "user:nora"}}, "something else"),
        ({"signed": {"action_id": "act-2"}}, "something else"),
        ({"signed": {"action_digest": bytes(32)}}, "something else"),
        ({"signed": {"step": 2}}, "something else"),
        ({"signed": {"group": "role:viewer"}}, "something else"),
        ({"approval": SignedEnvelope(payload=b"\xff")}, "not signed by a key that counts"),
    ],
)
def test_approval_that_nobody_gave_is_told_and_does_not_count(told: dict[str, Any], problem: str):
    """What is written has to be what was signed."""
    first, second = Teller().approved("user:nina", **told).dispatched(decision=ONE).problems(set())
    assert problem in first
    assert second == "it was sent with 0 of 1 of role:oncall"


def test_broken_glass_is_answered_for_by_two_others_within_a_day():
    """Until a day is over nothing is wrong; who broke it does not count."""
    teller = Teller().dispatched(decision=demanding(break_glass=True))
    assert teller.problems({SERVER}) == []
    for who in ("user:nina", "user:nina", "automation:autopilot"):
        teller.tell("ACTION", "review", action="review", actor=who)
    teller.now = NOW + timedelta(hours=25)
    teller.tell("ACTION", "denied", subject_id="act-9")
    assert teller.problems(set()) == []
    assert teller.problems({SERVER}) == ["act-1 broke the glass, and 1 of 2 answered"]
    teller.tell("ACTION", "review", action="review", actor="user:nora")
    assert teller.problems({SERVER}) == []
