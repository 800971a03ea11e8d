"""What the executor's service tells of an execution, and what it writes down of a refusal."""

from __future__ import annotations

from datetime import UTC, datetime

from aegis.v1 import execution_pb2
from aegis_executor.journal import Ending, Execution
from aegis_executor.service import _message
from aegis_executor.store import Verdict

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
Gate = execution_pb2.Gate


def execution(ending: Ending | None, verdict: Verdict | None = None) -> Execution:
    return Execution("r-1", "a-1", bytes(32), NOW, ending, NOW, verdict)


def test_what_held_it_back_is_told_as_a_gate():
    """`why` shows it beside what let it through: a person may open this one later."""
    ending = Ending("FAILED", "PDB_EXHAUSTED", "web allows 0 disruptions")
    (gate,) = _message(execution(ending)).gates
    assert (gate.verdict, gate.reason) == (Gate.VERDICT_HELD, "PDB_EXHAUSTED")
    assert gate.message == "web allows 0 disruptions"


def test_what_went_well_was_held_by_nothing():
    """Neither an intent, nor what was applied, nor what helped."""
    verdict = Verdict("VERIFIED", "", "2 good looks in a row", {}, NOW)
    assert not _message(execution(None)).gates
    assert not _message(execution(Ending("APPLIED"), verdict)).gates


def test_what_kept_it_from_being_undone_is_told_as_a_gate():
    """An escalation says what stood in the way."""
    verdict = Verdict("ESCALATED", "TARGET_VETOED", "not undone: it carries a veto", {}, NOW)
    (gate,) = _message(execution(Ending("APPLIED"), verdict)).gates
    assert (gate.verdict, gate.reason) == (Gate.VERDICT_REFUSED, "TARGET_VETOED")
