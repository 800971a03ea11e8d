"""A whole Aegis of its own, as `aegis up` starts it, with an executor that keeps time."""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from governed.figures import Span

from aegis import dsse
from aegis.envelope import sign_action
from aegis.local.programs import Service
from aegis.local.stack import Stack
from aegis.trust import load_private_key
from aegis.v1 import envelope_pb2
from aegis.v1.envelope_pb2 import ActionRequest, ActionSpec, SignedEnvelope

LAUNCHER = Path(__file__).with_name("executor.py")
AUTOPILOT = "automation:autopilot"
# A minute of this bench does what should take days.
GUARDS = """
cool_down_seconds = 0
relapse_seconds = 0
attempts = 100
memory_seconds = 86400
[concurrent]
namespace = 1000
global = 1000
[hourly]
target = 10000
namespace = 10000
global = 10000
[storm]
share = 1
anomalous_min = 10000
[breakers]
consecutive = 100
share = 1
outcomes_min = 10000
"""


class House(Stack):
    """A stack whose executor keeps time; `spans` are those of the executor that ended last."""

    def __init__(self, home: Path, *, scripted: bool = False) -> None:
        self.pause_folder = home / "pause"
        self.spans_file = home / "spans.json"
        guards = home / "guards.toml"
        home.mkdir(parents=True)
        self.pause_folder.mkdir()
        guards.write_text(GUARDS)
        executor = {
            "AEGIS_EXECUTOR_GUARDS": str(guards),
            "AEGIS_EXECUTOR_PAUSE_FILE": str(self.pause_folder / "PAUSED"),
            "AEGIS_EXECUTOR_STABILISE_SECONDS": "0",
            "AEGIS_EXECUTOR_SUCCESSES": "1",
            "AEGIS_EXECUTOR_LOOK_SECONDS": "0.2",
            "BENCH_SPANS": str(self.spans_file),
            **({"BENCH_SCRIPTED": "yes"} if scripted else {}),
        }
        limits = "mutate=100000/100000 read=100000/100000 stop=100000/100000"
        super().__init__(
            home,
            sandbox=True,
            environment={"executor": executor, "server": {"AEGIS_LIMITS": limits}},
            given={},
        )

    def _executor_service(self) -> Service:
        service = super()._executor_service()
        service._command = lambda listen: [sys.executable, "-P", str(LAUNCHER)]  # noqa: SLF001
        return service

    @asynccontextmanager
    async def pausing_file(self) -> AsyncIterator[None]:
        file = self.pause_folder / "PAUSED"
        file.write_text("bench")
        try:
            yield
        finally:
            file.unlink()

    async def spans(self) -> list[Span]:
        """Ends the executor, starts it again, and returns what it had timed."""
        await self.restart("executor")
        return [(step, began, ended) for step, began, ended in json.loads(self._timed())]

    def _timed(self) -> str:
        return self.spans_file.read_text()


class Asker:
    """Signs as the autopilot; and, where a server is left out, as the server that allows it."""

    def __init__(self, home: Path) -> None:
        self._key = load_private_key(home / "pki" / "autopilot-signing.key")
        self._decider = load_private_key(home / "pki" / "decision.key")

    def request(
        self,
        spec: ActionSpec,
        *,
        mode: ActionRequest.Mode.ValueType = ActionRequest.MODE_EXECUTE,
        request_id: str | None = None,
    ) -> SignedEnvelope:
        return sign_action(
            spec,
            key=self._key,
            issuer=AUTOPILOT,
            audience="aegis",
            mode=mode,
            request_id=request_id,
        )

    def decision(self, request: SignedEnvelope) -> SignedEnvelope:
        decided = decision_for(request, action_id=f"a-{uuid.uuid4().hex[:12]}")
        return dsse.sign(dsse.DECISION_TYPE, decided.SerializeToString(), self._decider)


def decision_for(request: SignedEnvelope, *, action_id: str) -> envelope_pb2.ActionDecision:
    asked = ActionRequest.FromString(request.payload)
    decision = envelope_pb2.ActionDecision(
        decision_id="d-1",
        action_digest=dsse.action_digest(asked.spec),
        request_sha256=hashlib.sha256(request.payload).digest(),
        subject=asked.issuer,
        action_id=action_id,
        executor="executor:local",
        cluster="sandbox",
        policy_revision=1,
        rule_id="bench",
    )
    now = datetime.now(UTC)
    decision.issue_time.FromDatetime(now)
    decision.execute_not_after.FromDatetime(now + timedelta(seconds=60))
    return decision
