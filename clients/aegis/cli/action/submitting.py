"""`aegis action submit` and `continue`: sign, wait for people, sign again, watch."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.status import Status

from aegis.actions import OPEN, Action
from aegis.cli.action import planning, specs, telling
from aegis.cli.action.calls import (
    ActionArgument,
    AttributeOption,
    AudienceOption,
    KeyOption,
    ReasonOption,
    action_of,
    exit_code,
    pairs,
    remediating,
)
from aegis.cli.action.specs import Watched, spec_of
from aegis.cli.session import Output, OutputOption, fail, out, refuse, run, show_json
from aegis.remediation import Asked, Climb, Remediator, Request
from aegis.v1 import envelope_pb2, execution_pb2

WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Follow it, over approvals, to its verdict.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Every check and the dry run, and nothing more.")
]


def submit(
    verb: specs.VerbArgument,
    name: specs.NameArgument,
    namespace: specs.NamespaceOption = "",
    cluster: specs.ClusterOption = "sandbox",
    replicas: specs.ReplicasOption = None,
    to: specs.ToOption = "",
    grace_seconds: specs.GraceOption = None,
    uid: specs.UidOption = "",
    incident: specs.IncidentOption = "",
    on_failure: specs.OnFailureOption = None,
    stabilise: specs.StabiliseOption = "",
    window: specs.WindowOption = "",
    successes: specs.SuccessesOption = 0,
    alert: specs.AlertOption = None,
    look_back: specs.LookBackOption = "",
    metric: specs.MetricOption = None,
    reason: ReasonOption = "",
    attr: AttributeOption = None,
    request_id: Annotated[
        str, typer.Option(help="A UUID; repeat it to retry safely.", show_default=False)
    ] = "",
    plan: Annotated[bool, typer.Option("--plan/--no-plan", help="Show what changes first.")] = True,
    wait: WaitOption = True,
    ladder: Annotated[
        bool, typer.Option("--ladder", help="While it does not help, go on with the next rung.")
    ] = False,
    dry_run: DryRunOption = False,
    break_glass: Annotated[
        bool, typer.Option("--break-glass", help="Go past approvals and budgets; answered for.")
    ] = False,
    key: KeyOption = None,
    audience: AudienceOption = "aegis",
    output: OutputOption = Output.table,
) -> None:
    """Plan an action, sign it, wait for approvals, and follow it until its verdict."""
    watched = Watched(on_failure, stabilise, window, successes, alert, look_back, metric)
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
        watched=watched,
    )
    if ladder and not (incident and wait):
        fail(
            "a ladder is climbed for an incident, and watched", "add --incident, without --no-wait"
        )
    request = Request(
        request_id or str(uuid.uuid4()), pairs(attr, "--attr"), reason, _mode(dry_run), break_glass
    )
    if break_glass:
        _confirm_glass(spec, reason)
    asking = _Asking(key, audience, output, request)
    if ladder:
        _end_ladder(run(asking.climb(spec)), output)
    action = run(asking.submit(spec, plan=plan, wait=wait))
    _end(action, output, waited=wait)


def continue_(
    action_id: ActionArgument,
    reason: ReasonOption = "",
    attr: AttributeOption = None,
    wait: WaitOption = True,
    dry_run: DryRunOption = False,
    key: KeyOption = None,
    audience: AudienceOption = "aegis",
    output: OutputOption = Output.table,
) -> None:
    """Take up an action you submitted: wait for its approvals, sign the same again, follow it.

    What conditions read with --attr has to be said again, for the policy decides anew.
    """
    action = action_of(action_id)
    if action.state not in OPEN:
        _end(action, output)
    request = Request(
        action.request_id, pairs(attr, "--attr"), reason, _mode(dry_run), action.break_glass
    )
    asking = _Asking(key, audience, output, request)
    if action.state == Action.STATE_PENDING_APPROVAL and not wait:
        _end(action, output)
    _end(run(asking.take_up(action, wait=wait)), output, waited=wait)


def _mode(dry_run: bool) -> envelope_pb2.ActionRequest.Mode.ValueType:
    modes = envelope_pb2.ActionRequest
    return modes.MODE_DRY_RUN if dry_run else modes.MODE_EXECUTE


def _confirm_glass(spec: envelope_pb2.ActionSpec, reason: str) -> None:
    if not reason:
        fail("breaking the glass needs a reason", "add --reason: two others have to answer for it")
    wanted = telling.place(spec)
    typer.secho(
        "This goes past approvals, budgets, cool-downs, windows, breakers and storm mode."
        " Two others have to answer for it within 24 hours.",
        fg="red",
        err=True,
    )
    if typer.prompt(f"Type {wanted} to go on", err=True, default="", show_default=False) != wanted:
        fail("that is not its name", "nothing was sent; without --break-glass people are asked")


@dataclass(frozen=True, slots=True)
class _Asking:
    """One request on its way, and how it is told."""

    key: Path | None
    audience: str
    output: Output
    request: Request

    async def submit(
        self, spec: envelope_pb2.ActionSpec, *, plan: bool, wait: bool
    ) -> execution_pb2.Action:
        """Plans where that is wanted, signs, and waits where that is wanted."""
        async with remediating(self.key, self.audience) as remediator:
            asked = await self._asked(remediator, spec, plan=plan)
            if not wait:
                return await remediator.submit(asked, self.request)
            with Progress(self.output) as on_change:
                return await remediator.run(asked, self.request, on_change=on_change)

    async def climb(self, spec: envelope_pb2.ActionSpec) -> Climb:
        """Goes up the ladder."""
        async with remediating(self.key, self.audience) as remediator:
            with Progress(self.output) as on_change:
                return await remediator.climb(spec, self.request, on_change=on_change)

    async def take_up(self, action: execution_pb2.Action, *, wait: bool) -> execution_pb2.Action:
        """Goes on with an action of before."""
        async with remediating(self.key, self.audience) as remediator:
            if not wait:
                return await remediator.submit(action.spec_bytes, self.request)
            with Progress(self.output) as on_change:
                return await remediator.resume(action, self.request, on_change=on_change)

    async def _asked(
        self, remediator: Remediator, spec: envelope_pb2.ActionSpec, *, plan: bool
    ) -> Asked:
        if not plan:
            return spec.SerializeToString()
        planned = await remediator.plan(spec, attributes=self.request.attributes)
        if self.output is Output.table:
            telling.tell(planning.told(spec, planned))
        return planned


class Progress:
    """A line for each change and, in a terminal, what is waited for; silent for programs."""

    def __init__(self, output: Output) -> None:
        self._silent = output is Output.json
        self._named = ""
        live = not self._silent and out.is_terminal
        self._status: AbstractContextManager[Status | None] = (
            out.status("sent") if live else nullcontext()
        )
        self._spinning: Status | None = None

    def __enter__(self) -> Progress:
        self._spinning = self._status.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self._status.__exit__(None, None, None)

    def __call__(self, action: execution_pb2.Action) -> None:
        """Tells it."""
        if self._silent:
            return
        if action.action_id != self._named:
            self._named = action.action_id
            later = f"; interrupt and `aegis action continue {action.action_id}` later"
            out.print(f"[bold]{action.action_id}[/]{later}", highlight=False, soft_wrap=True)
        telling.tell([telling.progress(action)])
        if self._spinning is not None:
            self._spinning.update(f"{telling.state_of(action)} …")


def _end(action: execution_pb2.Action, output: Output, *, waited: bool = True) -> None:
    if output is Output.json:
        show_json(action)
    else:
        telling.tell(telling.summary(action))
    raise typer.Exit(exit_code(action, waited=waited))


def _end_ladder(climb: Climb, output: Output) -> None:
    if output is Output.json:
        show_json(climb.actions)
    else:
        for action in climb.actions:
            telling.tell(telling.summary(action))
    if climb.refusal is not None:
        refuse(climb.refusal)
    if not climb.healed and output is Output.table:
        out.print("[bold red]the ladder ends here: a person has to look[/]")
    raise typer.Exit(exit_code(climb.actions[-1]))
