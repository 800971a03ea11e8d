"""Step 10: whether enough of the right people agreed.

The decision says who has to have approved; every approval is bound to the digest of the spec and to
the action, and none of them is the requester's. The executor's own demand comes on top: for some
actions so many approvals by the approvers' own keys, whatever the decision says, so that not even a
stolen control plane can do them alone. Who breaks the glass, and was allowed to by the decision,
goes past the decision's steps and never past the executor's own: two others have to answer for it
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from google.protobuf.message import Message

from aegis.envelope import OpenedApproval, open_approval
from aegis.errors import AegisError, FailedPrecondition, Precondition
from aegis.trust import TrustBundle, TrustedKey
from aegis.v1 import envelope_pb2

_OWN_KEY = "approvals by the approvers' own keys"


@dataclass(frozen=True, slots=True)
class Demand:
    """Whose agreement an action needs: the decision's steps, and detached ones on top."""

    steps: Sequence[envelope_pb2.ApprovalStep]
    detached: int = 0


@dataclass(frozen=True, slots=True)
class Agreement:
    """What people said to an action, as far as it counts."""

    approvers: frozenset[str] = frozenset()
    keys: tuple[TrustedKey, ...] = ()
    # The first moment at which one of them no longer counts.
    expires_at: datetime | None = None

    @property
    def approved(self) -> bool:
        """True when a person agreed, needed or not."""
        return bool(self.approvers)


def opened(
    envelopes: Iterable[envelope_pb2.SignedEnvelope],
    *,
    trust: TrustBundle,
    peer: str,
    now: datetime,
    validate: Callable[[Message, str], None],
) -> tuple[OpenedApproval, ...]:
    """Opens approvals, attested by `peer` or signed by the approvers themselves.

    Raises `FailedPrecondition` (APPROVALS_INSUFFICIENT, metadata check) for the first that does
    not open: who sends approvals that do not count has something wrong.
    """
    found = []
    for envelope in envelopes:
        try:
            found.append(
                open_approval(envelope, trust=trust, attestor=peer, now=now, validate=validate)
            )
        except AegisError as error:
            raise _counts_not(error.message, check=error.reason) from error
    return tuple(found)


def agree(
    demand: Demand,
    given: Sequence[OpenedApproval],
    *,
    action_digest: bytes,
    action_id: str,
    requester: str,
) -> Agreement:
    """Returns what was agreed, when that is all that was demanded.

    Each person counts once, for one step and group. Raises `FailedPrecondition`
    (APPROVALS_INSUFFICIENT) with what is missing, or with the approval that does not count.
    """
    for each in given:
        _check_bound(each.approval, action_digest, action_id, requester)
    _check_distinct(given)
    for step in sorted(demand.steps, key=lambda step: step.step):
        fits = [each for each in given if _fits(each, step)]
        if len(fits) < step.needed:
            raise _too_few(step.step, step.group, step.needed, len(fits), step.detached)
    detached = sum(each.detached for each in given)
    if detached < demand.detached:
        raise _too_few(0, "", demand.detached, detached, detached=True)
    return Agreement(
        approvers=frozenset(each.approval.approver for each in given),
        keys=tuple(each.key for each in given),
        expires_at=min((each.expires_at for each in given), default=None),
    )


def demands(text: str, known: frozenset[str]) -> Mapping[str, int]:
    """Reads "rollback_deployment=1,cordon_node=2"; ValueError names what is wrong with it."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        action, _, number = (piece.strip() for piece in part.partition("="))
        if action not in known:
            raise ValueError(f"{action} is none of {', '.join(sorted(known))}")
        if action in found:
            raise ValueError(f"{action} is there twice")
        if not number.isdecimal() or not 1 <= int(number) <= 9:
            raise ValueError(f"{part} does not say how many: {action}=1 to 9")
        found[action] = int(number)
    return found


def _check_bound(
    approval: envelope_pb2.ActionApproval, action_digest: bytes, action_id: str, requester: str
) -> None:
    if approval.action_digest != action_digest:
        raise _counts_not("it is for another spec")
    if approval.action_id != action_id:
        raise _counts_not("it is for another action")
    if approval.approver == requester:
        raise _counts_not("nobody approves what they asked for", check="OWN")


def _check_distinct(given: Sequence[OpenedApproval]) -> None:
    seen: set[str] = set()
    for each in given:
        if each.approval.approver in seen:
            raise _counts_not(f"{each.approval.approver} has spoken already", check="REPEATED")
        seen.add(each.approval.approver)


def _fits(given: OpenedApproval, step: envelope_pb2.ApprovalStep) -> bool:
    said = given.approval
    return (said.step, said.group) == (step.step, step.group) and (
        given.detached or not step.detached
    )


def _too_few(step: int, group: str, needed: int, count: int, detached: bool) -> FailedPrecondition:
    what = _OWN_KEY if detached else "approvals"
    whose = f" of {group}" if group else ", whatever was decided"
    message = f"{count} of {needed} {what}{whose}"
    return FailedPrecondition(
        "APPROVALS_INSUFFICIENT",
        message,
        preconditions=(Precondition("APPROVAL", group or "executor", message),),
        step=step,
        group=group,
        needed=needed,
        given=count,
    )


def _counts_not(why: str, *, check: str = "BINDING") -> FailedPrecondition:
    message = f"an approval does not count: {why}"
    return FailedPrecondition(
        "APPROVALS_INSUFFICIENT",
        message,
        preconditions=(Precondition("APPROVAL", check, message),),
        check=check,
    )
