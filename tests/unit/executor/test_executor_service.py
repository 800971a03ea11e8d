"""What the executor's service tells of an execution, and what it writes down of a refusal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.factories import Signers, scale

from aegis.errors import AegisError, FailedPrecondition, InvalidArgument, PermissionDenied
from aegis.executor.v1 import executor_pb2
from aegis.serving import doors
from aegis.serving.auditlog import Entry
from aegis.serving.doors import Call, Grant
from aegis.spiffe import Caller
from aegis.v1 import execution_pb2
from aegis_executor.admission import Admission, Limits
from aegis_executor.catalogue import REMEDIES
from aegis_executor.journal import Ending, Execution
from aegis_executor.service import ExecutorService, _message, admit_peers
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


class FakeAudit:
    """Remembers what was recorded."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def record(self, entry: Entry) -> None:
        self.entries.append(entry)


class FakeContext:
    """A call with so many seconds left."""

    def __init__(self, seconds: float | None = 30.0) -> None:
        self.seconds = seconds

    def time_remaining(self) -> float | None:
        return self.seconds


class Refusing:
    """Executions that the guards hold back."""

    async def carry_out(self, admitted: Any) -> Execution:
        raise FailedPrecondition("BREAKER_OPEN", "enough", breaker="global")


SIGNERS = Signers.fresh()
SERVER = Caller("server:aegis", "spiffe://aegis.local/server/aegis")


async def refused(audit: FakeAudit, seconds: float | None, cluster: str) -> AegisError:
    admission = Admission(
        trust=SIGNERS.trust(NOW),
        name="executor:local",
        cluster=cluster,
        audience="aegis",
        limits=Limits(frozenset({"demo"}), frozenset(REMEDIES), 10),
        clock=lambda: NOW,
    )
    told: Any = dict.fromkeys(("plans", "server", "guards", "orders"))
    service = ExecutorService(
        admission=admission,
        executions=Refusing(),
        audit=audit,
        **told,  # type: ignore[arg-type]
    )
    asked = SIGNERS.request(scale("demo", "web", 4), now=NOW)
    request = executor_pb2.ExecuteActionRequest(
        request=asked, decision=SIGNERS.decision(asked, now=NOW)
    )
    token = doors._current.set(Call("/x", SERVER, Grant()))
    try:
        with pytest.raises(AegisError) as caught:
            await service.ExecuteAction(request, FakeContext(seconds))  # type: ignore[arg-type]
        return caught.value
    finally:
        doors._current.reset(token)


async def test_refusal_of_what_was_admitted_is_recorded_with_what_it_was():
    """Who asked for which action at which object, and by which guard it was refused."""
    audit = FakeAudit()
    await refused(audit, 30.0, "sandbox")
    (entry,) = audit.entries
    assert (entry.outcome, entry.reason) == ("refused", "BREAKER_OPEN")
    assert (entry.actor, entry.action) == ("automation:autopilot", "scale_deployment")
    assert entry.resource == "/clusters/sandbox/namespaces/demo/deployments/web"
    assert entry.details["breaker"] == "global"
    assert set(entry.details) == {"breaker", "request_id", "action_digest"}


async def test_request_that_proves_nothing_is_recorded_under_its_peer():
    """What it says of itself is not believed."""
    audit = FakeAudit()
    await refused(audit, 30.0, "elsewhere")
    (entry,) = audit.entries
    assert (entry.actor, entry.action, entry.reason) == (
        "server:aegis",
        "execute",
        "AUDIENCE_MISMATCH",
    )


@pytest.mark.parametrize("seconds", [None, 600.0])
async def test_call_without_a_deadline_is_refused_and_recorded(seconds: float | None):
    """A caller that never gives up would hold its place for ever."""
    audit = FakeAudit()
    error = await refused(audit, seconds, "sandbox")
    assert isinstance(error, InvalidArgument)
    assert [entry.reason for entry in audit.entries] == ["DEADLINE_REQUIRED"]


async def test_stranger_is_turned_away_and_recorded():
    """A certificate of our own domain, and nobody this executor listens to."""
    audit = FakeAudit()
    admit = admit_peers(frozenset({"server:aegis"}), audit)  # type: ignore[arg-type]
    stranger = Caller("service:other", "spiffe://aegis.local/service/other")
    with pytest.raises(PermissionDenied) as caught:
        await admit("/x", stranger)
    assert caught.value.reason == "PEER_NOT_ALLOWED"
    assert [(e.actor, e.reason) for e in audit.entries] == [("service:other", "PEER_NOT_ALLOWED")]
    assert await admit("/x", SERVER) == Grant()
