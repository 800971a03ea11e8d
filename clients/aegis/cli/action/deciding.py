"""What people decide about actions: `approve`, `reject`, `cancel`, `resolve`, `review`.

Whoever approves is shown what the signed bytes say, not what a server says about them, and what
they would change in the cluster as it is now.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Protocol

import grpc
import typer
from google.protobuf.message import DecodeError
from rich.text import Text

from aegis import dsse
from aegis.cli.action import telling
from aegis.cli.action.calls import (
    NOT_DONE,
    ActionArgument,
    ReasonOption,
    Stub,
    action_of,
    ask,
    over,
    signing_key,
    whoami,
)
from aegis.cli.session import SECONDS, Output, OutputOption, err, fail, show_json
from aegis.envelope import APPROVAL_LIFE, APPROVAL_MAX_LIFE, sign_approval
from aegis.errors import AegisError, from_rpc_error
from aegis.v1 import envelope_pb2, execution_pb2, identity_pb2

WhyOption = Annotated[str, typer.Option("--reason", help="Why; kept with it.")]


class Found(StrEnum):
    """What a person saw in the cluster."""

    applied = "applied"
    not_applied = "not-applied"


class Answered(Protocol):
    """The answer to every decision."""

    @property
    def action(self) -> execution_pb2.Action:
        """As it stands now."""


def approve(
    action_id: ActionArgument,
    reason: ReasonOption = "",
    group: Annotated[str, typer.Option(help="Speak for this one, e.g. role:oncall.")] = "",
    digest: Annotated[
        str, typer.Option(help="Refuse when the action's digest does not begin so.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    detached: Annotated[
        bool, typer.Option("--detached", help="Sign with a key of your own.")
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="That key; else PKI/NAME-approval.key of --as.", dir_okay=False),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Approve somebody else's action, after a look at what it changes."""
    if key is not None and not detached:
        fail("--key signs detached approvals only", "add --detached")
    if output is Output.json and not yes:
        fail("there is nobody to ask", "look with `aegis action show`, then add --yes and --digest")
    looked = over(lambda opened: _look(opened, action_id))
    if digest and not looked.digest.hex().startswith(digest.lower()):
        fail(f"the digest is {looked.digest.hex()}", "look again: this is another action")
    step = looked.step_for(group)
    if step is not None and step.detached and not detached:
        fail(f"{step.group} has to sign with keys of their own", "add --detached --key FILE")
    if not yes:
        telling.tell(looked.told())
        if looked.action.state != execution_pb2.Action.STATE_PENDING_APPROVAL:
            state = telling.state_of(looked.action)
            fail(
                f"it is {state}: there is nothing to approve", "see what waits: `aegis action list`"
            )
        if not typer.confirm(f"Approve {action_id} as {looked.me.subject}?", err=True):
            err.print("nothing was approved")
            raise typer.Exit(NOT_DONE)
    request = execution_pb2.ApproveActionRequest(
        action_id=action_id, action_digest=looked.digest, reason=reason, group=group
    )
    if detached:
        request.approval.CopyFrom(looked.signed(step, key, reason))
        request.group = step.group if step is not None else group
    _decide(lambda stub: stub.ApproveAction(request, timeout=SECONDS), output)


def reject(
    action_id: ActionArgument, reason: WhyOption, output: OutputOption = Output.table
) -> None:
    """Reject an action that waits for people; one rejection is enough."""
    action = action_of(action_id)
    request = execution_pb2.RejectActionRequest(
        action_id=action_id, action_digest=action.action_digest, reason=reason
    )
    _decide(lambda stub: stub.RejectAction(request, timeout=SECONDS), output)


def cancel(
    action_id: ActionArgument,
    reason: ReasonOption = "",
    output: OutputOption = Output.table,
) -> None:
    """End an action that was not sent to the executor yet."""
    request = execution_pb2.CancelActionRequest(action_id=action_id, reason=reason)
    _decide(lambda stub: stub.CancelAction(request, timeout=SECONDS), output)


def resolve(
    action_id: ActionArgument,
    found: Annotated[Found, typer.Option(help="What you saw in the cluster.")],
    reason: WhyOption,
    output: OutputOption = Output.table,
) -> None:
    """Say what became of an UNKNOWN action, so that its breaker may close; not your own."""
    name = f"FOUND_{found.name.upper()}"
    request = execution_pb2.ResolveActionRequest(
        action_id=action_id,
        found=execution_pb2.ResolveActionRequest.Found.Value(name),
        reason=reason,
    )
    _decide(lambda stub: stub.ResolveAction(request, timeout=SECONDS), output)


def review(
    action_id: ActionArgument, reason: WhyOption, output: OutputOption = Output.table
) -> None:
    """Answer for an action that broke the glass; two others than its issuer have to."""
    request = execution_pb2.ReviewBreakGlassRequest(action_id=action_id, reason=reason)
    _decide(lambda stub: stub.ReviewBreakGlass(request, timeout=SECONDS), output)


@dataclass(frozen=True, slots=True)
class _Looked:
    """What an approver has before them."""

    action: execution_pb2.Action
    spec: envelope_pb2.ActionSpec
    digest: bytes
    me: identity_pb2.WhoAmIResponse
    planned: execution_pb2.PlanActionResponse | None
    refusal: AegisError | None

    def step_for(self, group: str) -> envelope_pb2.ApprovalStep | None:
        """Returns the open step to speak for: of `group`, else of a role held, else the first."""
        lacking = telling.open_steps(self.action)
        if not lacking and self.action.state == execution_pb2.Action.STATE_PENDING_APPROVAL:
            # It still waits, so somebody's word does not count any more; the server knows whose.
            lacking = list(self.action.steps)
        if group:
            return next((each for each in lacking if each.group == group), None)
        held = (each for each in lacking if each.group in self.me.roles)
        return next(held, lacking[0] if lacking else None)

    def signed(
        self, step: envelope_pb2.ApprovalStep | None, key: Path | None, reason: str
    ) -> envelope_pb2.SignedEnvelope:
        """Returns the approval, signed by the approver; exits where there is nothing to sign."""
        if step is None:
            fail(
                f"{self.action.action_id} is {telling.state_of(self.action)}, and no such step of"
                " it is open",
                "see who is needed: `aegis action show`",
            )
        return sign_approval(
            action_digest=self.digest,
            action_id=self.action.action_id,
            approver=self.me.subject,
            step=step.step,
            group=step.group,
            key=signing_key(key, "approval"),
            reason=reason,
            life=self._life(),
        )

    def _life(self) -> timedelta:
        """Returns how long an approval has to count: until the last one, and the request then."""
        if not self.action.HasField("approval_expire_time"):
            return APPROVAL_LIFE
        left = self.action.approval_expire_time.ToDatetime(UTC) - datetime.now(UTC)
        return min(max(left, timedelta()) + APPROVAL_LIFE, APPROVAL_MAX_LIFE)

    def told(self) -> Iterator[Text]:
        """Yields what it is, what it changes, and its digest."""
        yield from telling.summary(self.action)
        yield Text(f"signed was: {telling.what(self.spec)} in {self.spec.target.cluster}")
        if self.planned is not None:
            yield from telling.difference(self.planned.differences)
            if self._drifted(self.planned):
                yield Text(
                    "  ! the object is not as it was planned for: it would be refused", "bold red"
                )
        elif self.refusal is not None:
            yield Text(f"  ! it cannot be planned now: {self.refusal.message}", "yellow")
        yield Text(f"digest {self.digest.hex()}", "bold")

    def _drifted(self, planned: execution_pb2.PlanActionResponse) -> bool:
        now = envelope_pb2.ActionSpec.FromString(planned.spec)
        pinned = self.spec.HasField("preconditions")
        return pinned and now.preconditions != self.spec.preconditions


async def _look(opened: grpc.aio.Channel, action_id: str) -> _Looked:
    stub = Stub(opened)
    request = execution_pb2.GetActionRequest(action_id=action_id)
    action = (await stub.GetAction(request, timeout=SECONDS)).action
    digest = dsse.action_digest(action.spec_bytes)
    if digest != action.action_digest:
        fail(
            "the server shows other bytes than its digest is of",
            "approve nothing, and verify its record: `aegis audit verify`",
        )
    try:
        spec = envelope_pb2.ActionSpec.FromString(action.spec_bytes)
    except DecodeError:
        fail("what was signed is no action", "approve nothing: `aegis action reject`")
    planned, refusal = None, None
    try:
        wanted = execution_pb2.PlanActionRequest(spec=spec)
        planned = await stub.PlanAction(wanted, timeout=SECONDS)
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
    return _Looked(action, spec, digest, await whoami(opened), planned, refusal)


def _decide(call: Callable[[Stub], Awaitable[Answered]], output: Output) -> None:
    action = ask(call).action
    if output is Output.json:
        show_json(action)
    else:
        telling.tell(telling.summary(action))
