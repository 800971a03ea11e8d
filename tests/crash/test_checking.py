"""A checker that cannot fail is worth nothing: every way to break a history is found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.crash.checking import check
from tests.crash.history import (
    Asked,
    Attempt,
    Budget,
    Effect,
    Ending,
    History,
    Intent,
    Paused,
    Record,
    Told,
    Verdict,
)

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


EFFECT = Effect(at(2), "audit-1", "patch", "deployments/scale", "demo", "web", "u-1")
ASKED = Asked("r-1", "scale_deployment", "demo", "web", not_after=at(60), takes_back=True)
TOLD = (Told("r-1", at(1)), Told("r-1", at(3), "APPLIED"), Told("r-1", at(9), "VERIFIED"))
ENDING = Ending("r-1", "APPLIED", at(3), observations={"changed": "yes", "audit_id": "audit-1"})
UNDONE = replace(EFFECT, at=at(7), audit_id="audit-2")
UNDO = Attempt("r-1", 1, "u-1", at(6), undo=True)

WHOLE = History(
    effects=(EFFECT,),
    asked=(ASKED,),
    told=TOLD,
    intents=(Intent("r-1", "a-1", "scale_deployment", at(0)),),
    attempts=(Attempt("r-1", 1, "u-1", at(1)),),
    endings=(ENDING,),
    verdicts=(Verdict("r-1", "VERIFIED", at(8)),),
    records=(Record("a-1", "intent"), Record("a-1", "applied")),
)
COMPENSATED = replace(
    WHOLE,
    effects=(EFFECT, UNDONE),
    attempts=(*WHOLE.attempts, UNDO),
    verdicts=(Verdict("r-1", "COMPENSATED", at(8)),),
    told=(*TOLD[:2], Told("r-1", at(9), "COMPENSATED")),
)
REFUSED = History(asked=(ASKED,), told=(Told("r-1", at(1), reason="TARGET_BUSY"),))
FAILED = replace(
    WHOLE,
    effects=(),
    endings=(Ending("r-1", "FAILED", at(3), "TARGET_GONE", {}),),
    verdicts=(),
    records=(Record("a-1", "intent"), Record("a-1", "failed")),
    told=(Told("r-1", at(3), "FAILED"),),
)
IDLE = replace(
    WHOLE, effects=(), attempts=(), endings=(replace(ENDING, observations={"changed": "no"}),)
)


@pytest.mark.parametrize("history", [History(), WHOLE, COMPENSATED, REFUSED, FAILED, IDLE])
def test_what_belongs_together_has_no_findings(history: History):
    """Done, taken back, refused, failed, and nothing to do: five ways to be right."""
    assert check(history) == []


def test_a_refusal_may_be_followed_by_an_execution():
    """The pause was over, the budget filled up again: the same request was sent once more."""
    refused = Told("r-1", at(-1), reason="EXECUTION_PAUSED")
    assert check(replace(WHOLE, told=(refused, *TOLD))) == []


def test_answers_that_crossed_may_come_in_any_order():
    """Two calls at once: the slower one may bring the older news."""
    crossed = Told("r-1", at(10), "APPLIED", began=at(2))
    assert check(replace(WHOLE, told=(*TOLD, crossed))) == []


def test_a_pod_is_told_apart_by_its_uid():
    """Two requests on one name are two, when the object is another one."""
    other = (
        replace(EFFECT, uid="u-2", at=at(2.5)),
        Attempt("r-2", 1, "u-2", at(1.5)),
    )
    history = replace(
        WHOLE,
        effects=(EFFECT, other[0]),
        attempts=(*WHOLE.attempts, other[1]),
        intents=(*WHOLE.intents, Intent("r-2", "a-2", "restart_pod", at(1))),
        endings=(ENDING, Ending("r-2", "APPLIED", at(3))),
        verdicts=(*WHOLE.verdicts, Verdict("r-2", "VERIFIED", at(4))),
        records=(*WHOLE.records, Record("a-2", "intent"), Record("a-2", "applied")),
    )
    assert check(history) == []


BROKEN = {
    "two effects": (
        "double",
        "it took effect 2 times",
        replace(WHOLE, effects=(EFFECT, replace(EFFECT, at=at(2.5)))),
    ),
    "two undos": (
        "double",
        "it was taken back 2 times",
        replace(COMPENSATED, effects=(EFFECT, UNDONE, replace(UNDONE, at=at(7.5)))),
    ),
    "an undo nobody ordered": (
        "unexplained",
        "it was taken back and nobody had ordered that",
        replace(COMPENSATED, asked=(replace(ASKED, takes_back=False),)),
    ),
    "an undo that is only said": (
        "lost",
        "it is said to be taken back and was not",
        replace(COMPENSATED, effects=(EFFECT,)),
    ),
    "an INTENT twice": (
        "double",
        "the journal holds its INTENT 2 times",
        replace(WHOLE, intents=WHOLE.intents * 2),
    ),
    "no end": ("lost", "its INTENT never ended", replace(WHOLE, endings=())),
    "an end without INTENT": (
        "unexplained",
        "it ended and there is no INTENT",
        replace(WHOLE, intents=()),
    ),
    "two ends": (
        "double",
        "the journal holds its end 2 times",
        replace(WHOLE, endings=(ENDING, ENDING)),
    ),
    "no verdict": ("lost", "it was applied and never judged", replace(WHOLE, verdicts=())),
    "two verdicts": (
        "double",
        "it was judged 2 times",
        replace(WHOLE, verdicts=WHOLE.verdicts * 2),
    ),
    "a verdict on nothing": (
        "unexplained",
        "it was judged and had not been applied",
        replace(FAILED, verdicts=WHOLE.verdicts),
    ),
    "an effect that is only said": (
        "lost",
        "it is said to be applied and had no effect",
        replace(WHOLE, effects=()),
    ),
    "an effect that is denied": (
        "unexplained",
        "it took effect and is said to be so already",
        replace(WHOLE, endings=IDLE.endings),
    ),
    "a failure with an effect": (
        "unexplained",
        "it ended as FAILED and took effect",
        replace(FAILED, effects=(EFFECT,)),
    ),
    "a dry run with an effect": (
        "unexplained",
        "a dry run took effect",
        replace(WHOLE, asked=(replace(ASKED, dry_run=True),)),
    ),
    "an end that nobody knows": (
        "unexplained",
        "nobody else was there and its end is UNKNOWN",
        replace(FAILED, endings=(Ending("r-1", "UNKNOWN", at(3)),)),
    ),
    "evidence of something else": (
        "unexplained",
        "its evidence names another write",
        replace(WHOLE, effects=(replace(EFFECT, audit_id="audit-9"),)),
    ),
    "an effect nobody sent": (
        "unexplained",
        "patch deployments/scale demo/web: no attempt was written down before it",
        replace(WHOLE, effects=(EFFECT, replace(EFFECT, uid="u-9"))),
    ),
    "an effect before its attempt": (
        "unexplained",
        "patch deployments/scale demo/web: no attempt was written down before it",
        replace(WHOLE, attempts=(Attempt("r-1", 1, "u-1", at(2.1)),)),
    ),
    "an attempt without INTENT": (
        "unexplained",
        "patch deployments/scale demo/web: no INTENT before it",
        replace(WHOLE, intents=()),
    ),
    "a missing record of the INTENT": (
        "lost",
        "the audit log does not hold its intent",
        replace(WHOLE, records=WHOLE.records[1:]),
    ),
    "a missing record of the end": (
        "lost",
        "the audit log does not hold its applied",
        replace(WHOLE, records=WHOLE.records[:1]),
    ),
    "a record twice": (
        "double",
        "the audit log holds its applied 2 times",
        replace(WHOLE, records=(*WHOLE.records, WHOLE.records[1])),
    ),
    "a broken chain": (
        "unexplained",
        "the audit log: record 3 does not fit",
        replace(WHOLE, broken="record 3 does not fit"),
    ),
    "a client told otherwise": (
        "unexplained",
        "the client was told FAILED; stored is INTENT, APPLIED, VERIFIED",
        replace(WHOLE, told=(Told("r-1", at(3), "FAILED"), TOLD[2])),
    ),
    "a client told backwards": (
        "unexplained",
        "the client was told INTENT after APPLIED",
        replace(WHOLE, told=(TOLD[1], Told("r-1", at(4), "INTENT"), TOLD[2])),
    ),
    "a client refused what was done": (
        "unexplained",
        "the client was refused (TARGET_BUSY) what the journal holds",
        replace(WHOLE, told=(Told("r-1", at(1), reason="TARGET_BUSY"), *TOLD)),
    ),
    "a client told of what is not stored": (
        "unexplained",
        "the client was told APPLIED; stored is nothing",
        replace(REFUSED, told=(Told("r-1", at(2), "APPLIED"),)),
    ),
    "a client that never learned": (
        "lost",
        "the client never learned how it ended",
        replace(WHOLE, told=TOLD[:2]),
    ),
    "a client that heard nothing": (
        "lost",
        "the client never learned how it ended",
        replace(REFUSED, told=(Told("r-1", at(1)),)),
    ),
    "an effect of an old decision": (
        "unexplained",
        "it took effect 1.0 s too late",
        replace(WHOLE, asked=(replace(ASKED, not_after=at(1)),)),
    ),
    "an effect under a pause": (
        "unexplained",
        "it took effect while that was paused",
        replace(WHOLE, paused=(Paused(at(0.5), None, "demo", "scale_deployment"),)),
    ),
    "too many in a window": (
        "unexplained",
        "more than 1 effects on demo/deployments/web in 1:00:00",
        replace(
            WHOLE,
            effects=(EFFECT, replace(EFFECT, at=at(3599), resource="deployments")),
            budgets=(Budget("target", 1, HOUR),),
        ),
    ),
}


@pytest.mark.parametrize(("kind", "sentence", "history"), BROKEN.values(), ids=BROKEN)
def test_what_does_not_belong_together_is_found(kind: str, sentence: str, history: History):
    found = [(finding.kind, finding.sentence) for finding in check(history)]
    assert (kind, sentence) in found


@pytest.mark.parametrize(
    "paused",
    [
        Paused(at(1.5), None),
        Paused(at(0), at(1.9)),
        Paused(at(0), None, namespace="shop"),
        Paused(at(0), None, action="restart_pod"),
    ],
    ids=["acknowledged less than a second ago", "over", "elsewhere", "for something else"],
)
def test_a_pause_that_does_not_hold_is_none(paused: Paused):
    assert check(replace(WHOLE, paused=(paused,))) == []


@pytest.mark.parametrize(
    ("budget", "second"),
    [
        (Budget("target", 1, HOUR), replace(EFFECT, name="api", at=at(3))),
        (Budget("namespace", 1, HOUR), replace(EFFECT, namespace="shop", at=at(3))),
        (Budget("global", 1, HOUR), replace(EFFECT, at=at(2) + HOUR)),
        (Budget("global", 2, HOUR), replace(EFFECT, at=at(3))),
    ],
    ids=["another target", "another namespace", "another hour", "as many as allowed"],
)
def test_a_budget_that_is_kept_is_no_finding(budget: Budget, second: Effect):
    history = replace(WHOLE, effects=(EFFECT, second), budgets=(budget,))
    assert not [found for found in check(history) if found.sentence.startswith("more than")]


def test_an_undo_spends_no_budget():
    history = replace(COMPENSATED, budgets=(Budget("global", 1, HOUR),))
    assert check(history) == []
