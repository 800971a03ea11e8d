"""`aegis action`: sign remediations, submit them, see what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from aegis.algorithms import PrivateKey, load_signing_key
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    fail,
    name_of,
    out,
    run,
    show_json,
    show_table,
    target,
    when,
)
from aegis.envelope import sign_action
from aegis.v1 import (
    envelope_pb2,
    execution_pb2,
    execution_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
)

app = typer.Typer(no_args_is_help=True, help="Signed remediations.")


@app.command()
def submit(
    verb: Annotated[str, typer.Argument(help="restart-pod, scale or rollback")],
    name: Annotated[str, typer.Argument(help="Pod (restart-pod) or deployment.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n")],
    cluster: Annotated[str, typer.Option(help="As the executor names it.")] = "sandbox",
    replicas: Annotated[int | None, typer.Option(min=0, max=10_000, help="For scale.")] = None,
    to: Annotated[str, typer.Option(help="For rollback: a pod-template-hash.")] = "",
    uid: Annotated[str, typer.Option(help="Refuse when the object was replaced.")] = "",
    key: Annotated[
        Path | None, typer.Option(help="Ed25519 key; else PKI/NAME-signing.key of --as.")
    ] = None,
    request_id: Annotated[str | None, typer.Option(help="Repeat to retry safely.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    audience: Annotated[str, typer.Option(help="As the server's AEGIS_AUDIENCE.")] = "aegis",
    output: OutputOption = Output.table,
) -> None:
    """Sign one action and submit it; exits 1 unless it was applied."""
    spec = envelope_pb2.ActionSpec(
        target=envelope_pb2.ActionSpec.Target(
            cluster=cluster, namespace=namespace, name=name, uid=uid
        )
    )
    if verb == "restart-pod":
        spec.restart_pod.SetInParent()
    elif verb == "scale" and replicas is not None:
        spec.scale_deployment.replicas = replicas
    elif verb == "rollback":
        spec.rollback_deployment.pod_template_hash = to
    else:
        fail(f"cannot {verb!r}", "use restart-pod, rollback, or scale with --replicas")
    file = key or target.home / "pki" / f"{target.name}-signing.key"
    if not file.is_file():
        fail(f"there is no signing key {file}", "use `aegis --as autopilot`, or --key FILE")
    action = run(_submit(spec, file, audience, request_id=request_id, reason=reason))
    if output is Output.json:
        show_json(action)
    else:
        out.print(f"[bold]{action.action_id}[/] {state_of(action)} {action.reason}".rstrip())
        for seen, value in sorted(action.observations.items()):
            out.print(f"  {seen}: {escape(value)}", highlight=False)
    raise typer.Exit(0 if action.state == execution_pb2.Action.STATE_APPLIED else 1)


@app.command()
def show(
    action_id: Annotated[str, typer.Argument(help="As `aegis action list` shows it.")],
    output: OutputOption = Output.table,
) -> None:
    """Show one action."""
    action = run(_get(action_id))
    if output is Output.json:
        show_json(action)
        return
    out.print(
        f"[bold]{action.action_id}[/] {what(action)} {state_of(action)} {action.reason}".rstrip()
    )
    rule = action.rule_id or "no rule"
    out.print(f"  by {action.issuer}; {rule} at policy revision {action.policy_revision}")
    if action.message:
        out.print(f"  {escape(action.message)}")
    for seen, value in sorted(action.observations.items()):
        out.print(f"  {seen}: {escape(value)}", highlight=False)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List actions, newest first."""
    actions = run(_list(limit))
    if output is Output.json:
        show_json(actions)
        return
    show_table(
        "actions",
        ["action", "time", "by", "what", "state", "rule or reason"],
        [
            (
                action.action_id,
                when(action, "create_time"),
                action.issuer,
                what(action),
                state_of(action),
                action.reason or action.rule_id,
            )
            for action in actions
        ],
        folding=["what", "rule or reason"],
        spare=["time", "by"],
    )


def state_of(action: execution_pb2.Action) -> str:
    """Returns an action's state as people write it."""
    return name_of(execution_pb2.Action.State, action.state, "STATE_")


def what(action: execution_pb2.Action) -> str:
    """Returns an action in a few words."""
    verb = str(action.spec.WhichOneof("action"))
    where = action.spec.target
    many = f" to {action.spec.scale_deployment.replicas}" if verb == "scale_deployment" else ""
    return f"{verb} {where.namespace}/{where.name}{many}"


def _signing_key(file: Path) -> PrivateKey:
    try:
        return load_signing_key(file)
    except (OSError, TypeError, ValueError) as error:
        fail(f"{file} cannot be used: {error}", "see `aegis keys generate --help`")


async def _submit(
    spec: envelope_pb2.ActionSpec,
    key: Path,
    audience: str,
    *,
    request_id: str | None,
    reason: str,
) -> execution_pb2.Action:
    async with channel() as opened:
        me = await identity_pb2_grpc.IdentityServiceStub(opened).WhoAmI(
            identity_pb2.WhoAmIRequest(), timeout=SECONDS
        )
        envelope = sign_action(
            spec,
            key=_signing_key(key),
            issuer=me.subject,
            audience=audience,
            request_id=request_id,
            reason=reason,
        )
        stub = execution_pb2_grpc.ExecutionServiceStub(opened)
        request = execution_pb2.SubmitActionRequest(envelope=envelope)
        return (await stub.SubmitAction(request, timeout=SECONDS)).action


async def _get(action_id: str) -> execution_pb2.Action:
    async with channel() as opened:
        stub = execution_pb2_grpc.ExecutionServiceStub(opened)
        request = execution_pb2.GetActionRequest(action_id=action_id)
        return (await stub.GetAction(request, timeout=SECONDS)).action


async def _list(limit: int) -> list[execution_pb2.Action]:
    async with channel() as opened:
        stub = execution_pb2_grpc.ExecutionServiceStub(opened)
        request = execution_pb2.ListActionsRequest(page_size=limit)
        return list((await stub.ListActions(request, timeout=SECONDS)).actions)
