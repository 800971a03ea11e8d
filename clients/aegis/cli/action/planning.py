"""`aegis action plan`: what would change, who would have to approve, and every gate."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from rich.text import Text

from aegis.cli.action import specs, telling
from aegis.cli.action.calls import DONE, NOT_DONE, WAITS, AttributeOption, Stub, ask, pairs
from aegis.cli.action.specs import Watched, spec_of
from aegis.cli.session import SECONDS, Output, OutputOption, show_json
from aegis.v1 import envelope_pb2, execution_pb2

Gate = execution_pb2.Gate

# The executor lets these through when somebody approved.
_OPENED_BY_PEOPLE = frozenset({"APPROVALS_INSUFFICIENT", "SINGLE_REPLICA", "BOUNDS_EXCEEDED"})


def plan(
    verb: specs.VerbArgument,
    name: specs.NameArgument,
    namespace: specs.NamespaceOption = "",
    cluster: specs.ClusterOption = "sandbox",
    replicas: specs.ReplicasOption = None,
    to: specs.ToOption = "",
    grace_seconds: specs.GraceOption = None,
    uid: specs.UidOption = "",
    incident: specs.IncidentOption = "",
    attr: AttributeOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what an action would change and whether it would go through; nothing is done.

    Exits 0 when it would be carried out at once, 6 when people have to approve it first, 4 when
    it would be denied, held or refused, 1 when it cannot even be planned.
    """
    spec = spec_of(
        verb,
        name,
        namespace=namespace,
        cluster=cluster,
        replicas=replicas,
        to=to,
        grace=grace_seconds,
        uid=uid,
        incident=incident,
        watched=Watched(),
    )
    request = execution_pb2.PlanActionRequest(spec=spec, attributes=pairs(attr, "--attr"))

    async def call(stub: Stub) -> execution_pb2.PlanActionResponse:
        return await stub.PlanAction(request, timeout=SECONDS)

    planned = ask(call)
    if output is Output.json:
        show_json(planned)
    else:
        telling.tell(told(spec, planned))
    raise typer.Exit(_code(planned))


def told(
    spec: envelope_pb2.ActionSpec, planned: execution_pb2.PlanActionResponse
) -> Iterator[Text]:
    """Yields a plan: the difference, the people, the gates, and what it comes to."""
    yield Text.assemble(("plan", "bold"), f" {telling.what(spec)} in {spec.target.cluster}")
    yield from telling.difference(planned.differences)
    for warning in planned.warnings:
        yield Text(f"  ! {warning}", "yellow")
    if planned.steps:
        yield Text("approvals")
        yield from telling.needed(planned.steps)
    yield Text("gates")
    yield from telling.gates(planned.gates)
    yield Text(f"  digest {planned.action_digest.hex()}", "dim")
    yield _comes_to(planned)


def _closed(planned: execution_pb2.PlanActionResponse) -> list[str]:
    shut = (Gate.VERDICT_HELD, Gate.VERDICT_REFUSED)
    return [each.name for each in planned.gates if each.verdict in shut and not _people(each)]


def _people(gate: execution_pb2.Gate) -> bool:
    """True for what only approvals are lacking for."""
    return gate.reason in _OPENED_BY_PEOPLE and gate.verdict == Gate.VERDICT_HELD


def _code(planned: execution_pb2.PlanActionResponse) -> int:
    if planned.ready:
        return DONE
    return WAITS if planned.allowed and planned.steps and not _closed(planned) else NOT_DONE


def _comes_to(planned: execution_pb2.PlanActionResponse) -> Text:
    if planned.ready:
        return Text("ready: submitting it now would carry it out at once", "green")
    if not planned.allowed:
        return Text("not ready: the policy denies it", "red")
    if closed := _closed(planned):
        return Text(f"not ready: {', '.join(closed)}", "red")
    if not planned.steps:
        return Text("not ready: people would have to approve it, and no rule asks any", "red")
    return Text("not ready: people have to approve it first", "yellow")
