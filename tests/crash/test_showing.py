"""What a run looks like to people and to machines."""

from __future__ import annotations

from tests.crash.history import Finding
from tests.crash.matrix import Outcome, summary
from tests.crash.points import points
from tests.crash.showing import document, line, tables

TWICE = Finding("double", "r-1", "it took effect 2 times")
CHOSEN = {point.name: point for point in points(0, 0)}
GOOD = Outcome(CHOSEN["killed/after-claim/restart_pod"], "FAILED", (), 1.25)
BAD = Outcome(CHOSEN["killed/before-claim/scale_deployment"], "APPLIED", (TWICE,), 2.0)


def test_a_line_says_what_how_and_why():
    shown = " ".join(line(BAD, 2, 9).split())
    point = "2/9 killed/before-claim/scale_deployment double APPLIED 2.0 s"
    assert shown == f"{point} double: r-1: it took effect 2 times"


def test_a_table_has_verbs_as_rows_and_steps_as_columns():
    shown = [row.split() for row in tables([GOOD, BAD]).splitlines()]
    assert shown == [
        ["killed", "after", "before"],
        ["claim", "claim"],
        ["restart_pod", "ok"],
        ["scale_deployment", "double"],
    ]


def test_the_last_line_counts_everything():
    lost = Finding("lost", "r-2", "its INTENT never ended")
    assert summary([GOOD, BAD]) == "2 points: 1 double, 0 lost, 0 unexplained"
    assert summary([GOOD], [lost]) == "1 points: 0 double, 1 lost, 0 unexplained"
    assert summary([]) == "0 points: 0 double, 0 lost, 0 unexplained"


def test_a_document_holds_the_seed_and_every_sentence():
    found = document([GOOD, BAD], [], 7)
    assert found["seed"] == 7
    assert [point["state"] for point in found["points"]] == ["FAILED", "APPLIED"]
    assert found["points"][1]["findings"][0]["sentence"] == "it took effect 2 times"
