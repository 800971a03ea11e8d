"""Chapter 4: what people decide, what does not help, and the switch that stops everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
from rich.console import Console

from aegis.channel import Identity, connect
from aegis.cli.action import telling
from aegis.cli.demo.board import chapter
from aegis.cli.demo.cluster import SandboxCluster
from aegis.cli.demo.remediation import scale
from aegis.cli.demo.results import Results
from aegis.cli.demo.signing import Autopilot, teller
from aegis.errors import AegisError
from aegis.local.authority import Authority, Names
from aegis.spiffe import spiffe_id
from aegis.v1 import (
    envelope_pb2,
    execution_pb2,
    execution_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
)

Action = execution_pb2.Action

PERSON = "user:nadia"
# One more person for one deployment: everything else stays as a fresh installation has it.
_RULES = f"""
p, role:automation, *, /clusters/*/namespaces/demo/deployments/api, without_1_oncall, , deny, \
api-needs-oncall
g2, {PERSON}, role:oncall
"""
_SECONDS = 30
_WINDOW_SECONDS = 3


class Governing:
    """An approval, a compensation and a pause; `address` and `home` are the control plane's."""

    def __init__(
        self,
        *,
        admin: grpc.aio.Channel,
        autopilot: Autopilot,
        address: str,
        home: Path,
        cluster: SandboxCluster,
        console: Console,
        results: Results,
    ) -> None:
        self._policy = policy_pb2_grpc.PolicyServiceStub(admin)
        self._autopilot = autopilot
        self._address = address
        self._home = home
        self._cluster = cluster
        self._console = console
        self._results = results

    async def tell(self) -> None:
        """Plays the chapter."""
        chapter(self._console, "4. People decide, and not everything helps")
        await self._demand_oncall()
        async with self._person() as nadia:
            await self._approved(nadia)
            await self._ineffective()
            await self._paused(nadia)

    async def _demand_oncall(self) -> None:
        current = await self._policy.GetPolicy(policy_pb2.GetPolicyRequest(), timeout=_SECONDS)
        request = policy_pb2.ImportPolicyRequest(
            csv=current.csv.rstrip("\n") + _RULES,
            expected_revision=current.revision.revision,
            reason="nobody scales the api alone",
        )
        await self._policy.ImportPolicy(request, timeout=_SECONDS)
        self._console.print(
            "a new rule: automation may not scale demo/api without 1 of role:oncall"
        )

    @asynccontextmanager
    async def _person(self) -> AsyncIterator[execution_pb2_grpc.ExecutionServiceStub]:
        """Gives somebody on call, with a certificate of this home."""
        folder = self._home / "pki"
        authority = Authority.open(folder)
        if authority is None:
            raise RuntimeError(f"{folder} has no authority")
        names = Names(spiffe_id(PERSON, "aegis.local"), ("localhost",), ("127.0.0.1",))
        authority.issue("nadia", names, datetime.now(UTC), [], days=1)
        async with connect(self._address, Identity.of("nadia", self._home)) as channel:
            yield execution_pb2_grpc.ExecutionServiceStub(channel)

    async def _approved(self, nadia: execution_pb2_grpc.ExecutionServiceStub) -> None:
        told = teller(self._console)
        asked = asyncio.Event()
        waiting = Action()

        def on_change(action: Action) -> None:
            told(action)
            if action.state == Action.STATE_PENDING_APPROVAL:
                waiting.CopyFrom(action)
                asked.set()

        async def approve() -> None:
            await asked.wait()
            request = execution_pb2.ApproveActionRequest(
                action_id=waiting.action_id,
                action_digest=waiting.action_digest,
                reason="traffic is real",
            )
            await nadia.ApproveAction(request, timeout=_SECONDS)

        self._console.print("\nscale demo/api to 3, signed by automation:")
        async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(approve())
            action = await self._autopilot.remediator.run(
                scale("demo", "api", 3, "INC-2"), on_change=on_change
            )
            asked.set()
        telling.tell(telling.steps(action), self._console)
        verified = action.state == Action.STATE_VERIFIED and len(action.approvals) == 1
        self._results.measure("actions", "approved", int(verified))
        self._results.expect(
            "it waits until somebody else approves, and is signed again",
            verified,
            f"{telling.state_of(action)}, {len(action.approvals)} approved",
        )

    async def _ineffective(self) -> None:
        spec = scale("demo", "web", 4, "INC-3")
        verification = envelope_pb2.ActionSpec.Verification(
            on_failure=envelope_pb2.ActionSpec.Verification.ON_FAILURE_COMPENSATE
        )
        verification.window.FromSeconds(_WINDOW_SECONDS)
        spec.verification.CopyFrom(verification)
        self._console.print("\nscale demo/web to 4, while no node takes another pod:")
        await self._cluster.keep_pods_away(True)
        try:
            action = await self._autopilot.remediator.run(spec, on_change=teller(self._console))
        finally:
            await self._cluster.keep_pods_away(False)
        rung = telling.what(action.next) if action.HasField("next") else ""
        self._console.print(f"[yellow]•[/] next rung, for a new signature: [bold]{rung}[/]")
        undone = action.state == Action.STATE_COMPENSATED
        self._results.measure("actions", "compensated", int(undone))
        self._results.expect(
            "what does not help is taken back, and the next rung proposed",
            undone and bool(rung),
            f"{telling.state_of(action)}, then {rung or 'nothing'}",
        )

    async def _paused(self, nadia: execution_pb2_grpc.ExecutionServiceStub) -> None:
        pause = execution_pb2.PauseExecutionRequest(reason="the incident is in hand")
        laid = (await nadia.PauseExecution(pause, timeout=_SECONDS)).pause
        reason = "it was accepted"
        try:
            await self._autopilot.remediator.submit(scale("shop", "checkout", 4))
        except AegisError as refusal:
            reason = refusal.reason
        resume = execution_pb2.ResumeExecutionRequest(pause_id=laid.pause_id, reason="all is well")
        ended = (await nadia.ResumeExecution(resume, timeout=_SECONDS)).pause
        self._console.print(
            f"\n[red]•[/] {PERSON} stops everything: the next request is [bold]{reason}[/]"
            "\n[green]•[/] and lets it go on",
            highlight=False,
        )
        stopped = reason == "EXECUTION_PAUSED" and not ended.in_force
        self._results.measure("actions", "paused", int(stopped))
        self._results.expect("the kill switch stops the next request", stopped, reason)
