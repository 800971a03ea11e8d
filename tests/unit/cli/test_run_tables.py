"""Runs as people see them."""

from __future__ import annotations

import pytest

from aegis.cli.run_tables import lost, show_comparison, show_participants, show_rounds
from aegis.cli.watching import Board, _standing
from aegis.plans import default_plan
from aegis.v1 import training_pb2

Run = training_pb2.Run
Outcome = training_pb2.ParticipantRound


def _run() -> training_pb2.Run:
    round_ = training_pb2.Round(
        round=1,
        accuracy=0.9,
        participants=[
            Outcome(
                participant="north",
                outcome=Outcome.OUTCOME_AGGREGATED,
                tries=2,
                steps=8,
                seconds=1.5,
            ),
            Outcome(
                participant="south",
                outcome=Outcome.OUTCOME_MISSING,
                tries=1,
                reason="no answer before the deadline",
            ),
            Outcome(
                participant="west",
                outcome=Outcome.OUTCOME_NOT_ASKED,
                reason="quarantined until round 4",
            ),
        ],
    )
    return Run(
        run_id="run-1",
        plan=default_plan(),
        state=Run.STATE_RUNNING,
        rounds_completed=1,
        accuracy=0.9,
        epsilon=1.25,
        rounds=[round_],
    )


def test_participants_are_shown_with_what_became_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every participant of every round, with the reason."""
    show_participants(_run())
    shown = capsys.readouterr().out
    for words in ("not asked", "quarantined until round 4", "missing", "no answer", "north"):
        assert words in shown


def test_rounds_count_who_was_lost_and_who_was_not_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One each here."""
    show_rounds(_run())
    assert capsys.readouterr().out.splitlines()[-1].split()[-4:] == ["1", "0", "1", "1"]


def test_live_line_says_round_accuracy_epsilon_and_who_is_missing() -> None:
    """At most five names."""
    run = _run()
    line = _standing(run, run.rounds[0])
    for words in ("running", "round 1/15", "accuracy 0.900", "1.25 of 8", "without south"):
        assert words in line
    many = training_pb2.Round(
        participants=[
            Outcome(participant=f"site-{n}", outcome=Outcome.OUTCOME_FAILED) for n in range(7)
        ]
    )
    assert len(lost(many)) == 7
    assert "site-4 and 2 more" in _standing(run, many)
    run.state = Run.STATE_PAUSED
    assert "aegis train resume run-1" in _standing(run, run.rounds[0])


def test_watching_into_a_pipe_prints_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    """No live line where nobody looks."""
    run = _run()
    with Board() as board:
        board.told(training_pb2.WatchRunResponse(run=run))
        board.told(training_pb2.WatchRunResponse(run=run, round=run.rounds[0]))
    shown = capsys.readouterr().out
    assert "round   1" in shown
    assert "south missing: no answer" in shown
    assert "waiting" not in shown


def test_runs_beside_each_other_show_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    """How they did first, then the fields of their plans."""
    one, two = _run(), _run()
    two.run_id = "run-2"
    difference = training_pb2.CompareRunsResponse.Difference(field="seed", values=["1", "2"])
    show_comparison(training_pb2.CompareRunsResponse(runs=[one, two], differences=[difference]))
    shown = capsys.readouterr().out
    assert "plan.seed" in shown
    assert "lost answers" in shown
