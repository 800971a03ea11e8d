"""The semantic audit: what a whole record may still not tell."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.factories import Signers, scale

from aegis.audit.semantics import EXECUTOR, SERVER, Story
from aegis.v1 import audit_pb2 as pb
from aegis.v1.envelope_pb2 import SignedEnvelope

NOW = datetime.now(UTC)
SIGNERS = Signers.fresh()
REQUEST = SIGNERS.request(scale("demo", "web", 3))
DECISION = SIGNERS.decision(REQUEST, action_id="act-1")
BOTH = {SERVER, EXECUTOR}


class Teller:
    """Tells a story record by record."""

    def __init__(self) -> None:
        self.story = Story(SIGNERS.trust(NOW))
        self._index = 0

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
        **details: str,
    ) -> Teller:
        record = pb.AuditRecord(
            index=self._index,
            kind=pb.AuditKind.Value(f"AUDIT_KIND_{kind}"),
            outcome=outcome,
            subject_id=subject_id,
            action=action,
            details=details,
        )
        record.time.FromDatetime(NOW)
        if decision is not None:
            record.evidence.add(name="decision", content=decision.SerializeToString())
        beside = {} if request is None else {"request": request.SerializeToString()}
        self.story.tell(log_id, record, beside)
        self._index += 1
        return self

    def dispatched(self, **changes: SignedEnvelope | str | None) -> Teller:
        told = {"decision": DECISION, "request": REQUEST} | changes
        return self.tell("ACTION", "dispatched", **told)

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
