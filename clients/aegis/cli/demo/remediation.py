"""Chapter 3: a deployment goes bad, and automation repairs it under supervision."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from aegis.cli.demo.board import chapter, unrecorded
from aegis.cli.demo.cluster import Pod, SandboxCluster
from aegis.cli.demo.results import Results
from aegis.cli.session import new_table
from aegis.envelope import sign_action
from aegis.errors import AegisError, from_rpc_error
from aegis.v1 import envelope_pb2, execution_pb2, execution_pb2_grpc

NAMESPACE = "shop"
DEPLOYMENT = "checkout"
FOREIGN = ("payments", "ledger")
_HEAL_SECONDS = 30


class Remediation:
    """Breaks pods, repairs them by signed requests, and then tries what must not work."""

    def __init__(
        self,
        *,
        execution: execution_pb2_grpc.ExecutionServiceStub,
        cluster: SandboxCluster,
        key: Ed25519PrivateKey,
        console: Console,
        results: Results,
    ) -> None:
        self._execution = execution
        self._cluster = cluster
        self._key = key
        self._console = console
        self._results = results
        self._applied = 0

    async def tell(self) -> None:
        """Plays the chapter."""
        chapter(self._console, "3. A deployment goes bad at night (sandbox cluster)")
        names = await self._cluster.break_deployment(NAMESPACE, DEPLOYMENT)
        pods = await self._wait(lambda pods: not any(p.ready for p in pods if p.name in names))
        self._show(pods, f"{NAMESPACE}/{DEPLOYMENT}: its pods crash-loop")
        sick = [pod for pod in pods if not pod.ready]
        envelopes = [self._sign(pod) for pod in sick]
        self._console.print("\nautomation signs a restart_pod for each:")
        for pod, envelope in zip(sick, envelopes, strict=True):
            await self._restart(pod, envelope)
        await self._expect_healed(sick)
        self._console.print("\nand three that must not work:")
        await self._refused("replay_refused", "the same envelope again", envelopes[0])
        await self._refused("tampered_refused", "one byte changed", _tampered(envelopes[0]))
        await self._denied()

    async def _restart(self, pod: Pod, envelope: envelope_pb2.SignedEnvelope) -> None:
        request = execution_pb2.SubmitActionRequest(envelope=envelope)
        action = (await self._execution.SubmitAction(request, timeout=30)).action
        self._applied += action.state == execution_pb2.Action.STATE_APPLIED
        state = execution_pb2.Action.State.Name(action.state).removeprefix("STATE_").lower()
        self._console.print(
            f"[green]•[/] {pod.name}: {state}, rule [bold]{action.rule_id}[/]",
            highlight=False,
        )

    async def _expect_healed(self, sick: list[Pod]) -> None:
        old = {pod.uid for pod in sick}

        def healed(pods: list[Pod]) -> bool:
            return bool(pods) and all(pod.ready and pod.uid not in old for pod in pods)

        pods = await self._wait(healed)
        self._console.print()
        self._show(pods, f"{NAMESPACE}/{DEPLOYMENT}: after the restarts")
        replaced = len(old - {pod.uid for pod in pods})
        self._results.measure("actions", "executed", self._applied)
        self._results.expect(
            "the signed restarts are executed and the pods replaced",
            healed(pods) and 0 < self._applied == len(sick),
            f"{self._applied} of {len(sick)} applied, {replaced} replaced",
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
        spec = envelope_pb2.ActionSpec(
            target=envelope_pb2.ActionSpec.Target(
                cluster="sandbox", namespace=namespace, name=name
            ),
            scale_deployment=envelope_pb2.ActionSpec.ScaleDeployment(replicas=4),
        )
        error = await self._submit(self._signed(spec, "more capacity"))
        denied = error is not None and error.reason == "POLICY_DENIED"
        rule = error.metadata.get("rule_id", "") if error is not None else ""
        self._tell_refusal(f"scale {namespace}/{name}", error)
        self._results.measure("actions", "denied", int(denied))
        self._results.expect(
            "a scale outside its namespaces is denied by a rule", denied and bool(rule), rule
        )

    async def _submit(self, envelope: envelope_pb2.SignedEnvelope) -> AegisError | None:
        request = execution_pb2.SubmitActionRequest(envelope=envelope)
        try:
            await self._execution.SubmitAction(request, timeout=30)
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

    def _sign(self, pod: Pod) -> envelope_pb2.SignedEnvelope:
        spec = envelope_pb2.ActionSpec(
            target=envelope_pb2.ActionSpec.Target(
                cluster="sandbox", namespace=NAMESPACE, name=pod.name, uid=pod.uid
            ),
            restart_pod=envelope_pb2.ActionSpec.RestartPod(),
        )
        return self._signed(spec, f"{pod.name} is in {pod.reason}")

    def _signed(self, spec: envelope_pb2.ActionSpec, reason: str) -> envelope_pb2.SignedEnvelope:
        return sign_action(
            spec, key=self._key, issuer="automation:autopilot", audience="aegis", reason=reason
        )

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


def _tampered(envelope: envelope_pb2.SignedEnvelope) -> envelope_pb2.SignedEnvelope:
    altered = envelope_pb2.SignedEnvelope()
    altered.CopyFrom(envelope)
    middle = len(altered.payload) // 2
    altered.payload = (
        altered.payload[:middle]
        + bytes([altered.payload[middle] ^ 1])
        + altered.payload[middle + 1 :]
    )
    return altered
