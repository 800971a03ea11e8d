"""Chapter 3: a deployment goes bad, and automation repairs it under supervision."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from rich.console import Console
from rich.text import Text

from aegis.cli.action import planning, telling
from aegis.cli.demo.board import chapter, unrecorded
from aegis.cli.demo.cluster import Pod, SandboxCluster
from aegis.cli.demo.results import Results
from aegis.cli.demo.signing import Autopilot, tampered
from aegis.cli.session import new_table
from aegis.errors import AegisError, from_rpc_error
from aegis.remediation import Plan
from aegis.v1 import envelope_pb2, execution_pb2

NAMESPACE, DEPLOYMENT, INCIDENT = "shop", "checkout", "INC-1"
FOREIGN = ("payments", "ledger")
_HEAL_SECONDS = 30
# What a plan compared, by the gates whose numbers say most.
_TOLD = ("storm", "concurrent.target", "hour.target", "cool_down", "attempts")


class Remediation:
    """Breaks pods, repairs them by a signed request, and then tries what must not work."""

    def __init__(
        self, *, autopilot: Autopilot, cluster: SandboxCluster, console: Console, results: Results
    ) -> None:
        self._autopilot = autopilot
        self._cluster = cluster
        self._console = console
        self._results = results

    async def tell(self) -> None:
        """Plays the chapter."""
        chapter(self._console, "3. A deployment goes bad at night (sandbox cluster)")
        names = await self._cluster.break_deployment(NAMESPACE, DEPLOYMENT)
        sick = await self._wait(lambda pods: not any(p.ready for p in pods if p.name in names))
        self._show(sick, f"{NAMESPACE}/{DEPLOYMENT}: its pods crash-loop")
        spec = restart(NAMESPACE, DEPLOYMENT, INCIDENT)
        plan = await self._autopilot.remediator.plan(spec)
        self._console.print(f"\nthe alert is incident {INCIDENT}; automation plans, then signs:")
        telling.tell(planning.told(spec, _short(plan)), self._console)
        envelope = self._autopilot.signed(plan.spec, f"{DEPLOYMENT} crash-loops")
        await self._restart(envelope, sick)
        self._console.print("\nand four that must not work:")
        await self._refused("replay_refused", "the same envelope again", envelope)
        await self._refused("tampered_refused", "one byte changed", tampered(envelope))
        await self._denied()
        await self._too_soon(spec)

    async def _restart(self, envelope: envelope_pb2.SignedEnvelope, sick: list[Pod]) -> None:
        action = await self._autopilot.follow(await self._autopilot.send(envelope), self._console)
        old = {pod.uid for pod in sick}
        pods = await self._wait(
            lambda pods: bool(pods) and all(p.ready and p.uid not in old for p in pods)
        )
        verified = action.state == execution_pb2.Action.STATE_VERIFIED
        replaced = len(old - {pod.uid for pod in pods})
        self._results.measure("actions", "verified", int(verified))
        self._results.expect(
            "the signed restart is carried out, and it helps",
            verified and all(pod.ready for pod in pods) and replaced == len(sick),
            f"{telling.state_of(action)}, {replaced} of {len(sick)} pods replaced",
        )

    async def _refused(self, name: str, what: str, envelope: envelope_pb2.SignedEnvelope) -> None:
        error = await self._submit(envelope)
        wanted = "REPLAY_DETECTED" if name == "replay_refused" else "SIGNATURE_INVALID"
        refused = error is not None and error.reason == wanted
        self._tell_refusal(what, error)
        self._results.measure("actions", name, int(refused))
        self._results.expect(
            f"{what}: refused", refused, error.reason if error is not None else "it was accepted"
        )

    async def _denied(self) -> None:
        namespace, name = FOREIGN
        spec = scale(namespace, name, 4)
        error = await self._submit(
            self._autopilot.signed(spec.SerializeToString(), "more capacity")
        )
        denied = error is not None and error.reason == "POLICY_DENIED"
        rule = error.metadata.get("rule_id", "") if error is not None else ""
        self._tell_refusal(f"scale {namespace}/{name}", error)
        self._results.measure("actions", "denied", int(denied))
        self._results.expect(
            "a scale outside its namespaces is denied by a rule", denied and bool(rule), rule
        )

    async def _too_soon(self, spec: envelope_pb2.ActionSpec) -> None:
        action = await self._autopilot.remediator.run(spec)
        held = action.reason == "COOLING_DOWN"
        line = Text.assemble(("•", "red"), " the same restart at once: ", (action.reason, "bold"))
        telling.tell([line.append(f", {action.message}")], self._console)
        self._results.measure("actions", "held", int(held))
        self._results.expect(
            "what was just done is not done again", held, action.reason or "it was accepted"
        )

    async def _submit(self, envelope: envelope_pb2.SignedEnvelope) -> AegisError | None:
        try:
            await self._autopilot.send(envelope)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        return None

    def _tell_refusal(self, what: str, error: AegisError | None) -> None:
        if error is None:
            self._console.print(f"[bold red]•[/] {what}: accepted")
            return
        rule = error.metadata.get("rule_id")
        by = f", rule [bold]{rule}[/]" if rule else ""
        self._console.print(f"[red]•[/] {what}: [bold]{error.reason}[/]{by}", highlight=False)

    async def _wait(self, good: Callable[[list[Pod]], bool]) -> list[Pod]:
        pods: list[Pod] = []
        with unrecorded(self._console), self._console.status("waiting for the cluster"):
            for _ in range(_HEAL_SECONDS * 5):
                pods = await self._cluster.pods(NAMESPACE, DEPLOYMENT)
                if good(pods):
                    break
                await asyncio.sleep(0.2)
        return pods

    def _show(self, pods: list[Pod], title: str) -> None:
        table = new_table(title)
        for heading in ("pod", "ready", "why not"):
            table.add_column(heading)
        for pod in pods:
            table.add_row(pod.name, "[green]yes[/]" if pod.ready else "[red]no[/]", pod.reason)
        self._console.print(table)


def restart(namespace: str, name: str, incident: str) -> envelope_pb2.ActionSpec:
    """Returns the wish for a rollout of new pods."""
    return envelope_pb2.ActionSpec(
        target=envelope_pb2.ActionSpec.Target(cluster="sandbox", namespace=namespace, name=name),
        restart_rollout=envelope_pb2.ActionSpec.RestartRollout(),
        incident_id=incident,
    )


def scale(namespace: str, name: str, replicas: int, incident: str = "") -> envelope_pb2.ActionSpec:
    """Returns the wish for so many replicas."""
    return envelope_pb2.ActionSpec(
        target=envelope_pb2.ActionSpec.Target(cluster="sandbox", namespace=namespace, name=name),
        scale_deployment=envelope_pb2.ActionSpec.ScaleDeployment(replicas=replicas),
        incident_id=incident,
    )


def _short(plan: Plan) -> Plan:
    """Returns a plan with the gates that did not pass, and of the others those that say most."""
    short = execution_pb2.PlanActionResponse()
    short.CopyFrom(plan)
    del short.gates[:]
    passed = [each for each in plan.gates if each.verdict == execution_pb2.Gate.VERDICT_PASSED]
    told = [each for each in plan.gates if each not in passed or each.name in _TOLD]
    more = execution_pb2.Gate(
        name="…",
        verdict=execution_pb2.Gate.VERDICT_PASSED,
        message=f"and {len(plan.gates) - len(told)} more that passed",
    )
    short.gates.extend([*told, more])
    return short
