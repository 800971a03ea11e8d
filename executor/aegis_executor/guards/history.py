"""What was done and how it went, as the guards look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from aegis_executor.guards.gates import target
from aegis_executor.guards.pauses import Pause
from aegis_executor.guards.storm import Storm

_UNDER_WAY = frozenset({"INTENT", "APPLIED"})
# Late refusals: something was checked once more just before the change, and nothing was sent. They
# cost budget, but they are no remedy that did not help.
_HELD_BACK = frozenset(
    {
        "CLOCK_UNTRUSTED",
        "DECISION_EXPIRED",
        "EXECUTION_PAUSED",
        "FENCED",
        "GITOPS_OWNED",
        "HPA_OWNED",
        "PDB_EXHAUSTED",
        "PLAN_DRIFT",
        "SINGLE_REPLICA",
        "TARGET_CHANGED",
        "TARGET_GONE",
        "TARGET_PROTECTED",
        "TARGET_UNSETTLED",
        "TARGET_VETOED",
    }
)


@dataclass(frozen=True, slots=True)
class Deed:
    """One execution; `state` as `aegis.executor.v1.Execution.State` without its prefix."""

    request_id: str
    verb: str
    kind: str
    namespace: str
    name: str
    incident_id: str
    at: datetime
    state: str
    reason: str = ""
    ended_at: datetime | None = None
    resolved: bool = False

    @property
    def target(self) -> tuple[str, str, str]:
        """What it is counted by."""
        return target(self.namespace, self.kind, self.name)

    @property
    def under_way(self) -> bool:
        """Until it is known whether it helped."""
        return self.state in _UNDER_WAY

    @property
    def final(self) -> bool:
        """True when nothing that is written later changes it; an unknown end may be found out."""
        return not self.under_way and self.state != "UNKNOWN"

    @property
    def counts(self) -> bool:
        """False when it was held back just before the change."""
        return not (self.state == "FAILED" and self.reason in _HELD_BACK)

    @property
    def good(self) -> bool:
        """True only when it helped: every other end counts as one that did not."""
        return self.state == "VERIFIED"

    @property
    def over_at(self) -> datetime:
        """When it ended; when it began, where nobody wrote that down."""
        return self.ended_at or self.at


@dataclass(frozen=True, slots=True)
class History:
    """Everything the guards judge by, at one moment.

    `deeds` are without dry runs, those of this moment's request excluded. `storm` is None when
    nobody has looked at the workloads for too long. `local_pause` is what the local file says.
    """

    now: datetime
    deeds: Sequence[Deed]
    pauses: Sequence[Pause]
    storm: Storm | None
    local_pause: str = ""
    clock_trusted: bool = True

    @property
    def under_way(self) -> list[Deed]:
        """What has not ended."""
        return [deed for deed in self.deeds if deed.under_way]
