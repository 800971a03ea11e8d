"""How an action, its plan and its gates are told to people: lines of styled text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.text import Text

from aegis.actions import Action
from aegis.cli.session import name_of, out
from aegis.v1 import envelope_pb2, execution_pb2

Gate = execution_pb2.Gate

_STATE_STYLES = {
    Action.STATE_VERIFIED: "green",
    Action.STATE_DRY_RUN: "green",
    Action.STATE_APPLIED: "cyan",
    Action.STATE_DISPATCHED: "cyan",
    Action.STATE_APPROVED: "yellow",
    Action.STATE_PENDING_APPROVAL: "yellow",
    Action.STATE_CANCELLED: "dim",
    Action.STATE_EXPIRED: "dim",
}
_SIGNS = {
    Gate.VERDICT_PASSED: ("✓", "green"),
    Gate.VERDICT_HELD: ("✗", "yellow"),
    Gate.VERDICT_REFUSED: ("✗", "red"),
    Gate.VERDICT_NOT_ASKED: ("·", "dim"),
}
# What the message would say is said anyway: who has to approve; what was done.
_SAID = frozenset({Action.STATE_PENDING_APPROVAL, Action.STATE_APPLIED})
_WORDS = {Gate.VERDICT_HELD: "held", Gate.VERDICT_REFUSED: "refused"}


def tell(lines: Iterable[Text], console: Console | None = None) -> None:
    """Prints lines: folded below their beginning in a terminal, as long as they are elsewhere."""
    console = console or out
    narrow = console.is_terminal or console.record
    for line in lines:
        shown = line if line.plain.isprintable() else harmless(line.plain)
        for part in _folded(shown, console) if narrow else (shown,):
            console.print(part, soft_wrap=True)


def _folded(line: Text, console: Console) -> Iterable[Text]:
    begins = len(line.plain) - len(line.plain.lstrip())
    first, *rest = line.wrap(console, console.width) or [line]
    if not rest:
        return (first,)
    # What wrap left of the blank it broke at does not begin the next line.
    more = line[len(first) :]
    more = more[len(more.plain) - len(more.plain.lstrip()) :]
    indent = Text(" " * (begins + 4))
    return (first, *(indent + each for each in more.wrap(console, console.width - len(indent))))


def harmless(text: str) -> Text:
    """Returns what others wrote, without the commands to a terminal that it may hold.

    They could hide from people what they approve.
    """
    return Text(
        "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    )


def state_of(action: execution_pb2.Action) -> str:
    """Returns an action's state as people write it."""
    return name_of(execution_pb2.Action.State, action.state, "STATE_").replace("_", " ")


def styled_state(action: execution_pb2.Action) -> Text:
    """Returns the state in its colour."""
    return Text(state_of(action), _STATE_STYLES.get(action.state, "red"))


def what(spec: envelope_pb2.ActionSpec) -> str:
    """Returns a spec in a few words."""
    verb = str(spec.WhichOneof("action"))
    more = ""
    if verb == "scale_deployment":
        more = f" to {spec.scale_deployment.replicas}"
    elif verb == "rollback_deployment" and spec.rollback_deployment.pod_template_hash:
        more = f" to {spec.rollback_deployment.pod_template_hash}"
    return f"{verb} {place(spec)}{more}"


def place(spec: envelope_pb2.ActionSpec) -> str:
    """Returns the target's name with its namespace, where it has one."""
    return "/".join(each for each in (spec.target.namespace, spec.target.name) if each)


def clock(moment: Timestamp) -> str:
    """Returns a time of day, UTC."""
    return f"{moment.ToDatetime(UTC):%H:%M:%S}"


def difference(differences: Iterable[execution_pb2.Difference]) -> Iterator[Text]:
    """Yields what would change: what goes in red, what comes in green."""
    found = False
    for each in differences:
        found = True
        if each.before:
            yield Text(f"  - {each.path}: {each.before}", "red")
        if each.after:
            yield Text(f"  + {each.path}: {each.after}", "green")
    if not found:
        yield Text("  no field of the object changes", "dim")


def gates(found: Iterable[execution_pb2.Gate]) -> Iterator[Text]:
    """Yields each gate with ✓ or ✗ and its numbers."""
    all_of_them = [(each, *each.name.partition(" ")[::2]) for each in found]
    width = max((len(name) for _, name, _ in all_of_them), default=0)
    for each, name, scope in all_of_them:
        sign, style = _SIGNS.get(each.verdict, ("?", "red"))
        line = Text.assemble("  ", (sign, style), f" {name:<{width}}  ")
        if scope:
            line.append(f"{scope}: ")
        if each.verdict in _WORDS:
            reason = f" {each.reason}" if each.reason else ""
            line.append(f"{_WORDS[each.verdict]}{reason}: ", f"bold {style}")
        passed_by = "dim" if each.verdict == Gate.VERDICT_NOT_ASKED else ""
        line.append(each.message or ("not asked" if passed_by else ""), passed_by)
        if each.HasField("retry_time"):
            line.append(f"; not before {clock(each.retry_time)}", "dim")
        line.rstrip()
        yield line


def steps(action: execution_pb2.Action) -> Iterator[Text]:
    """Yields who has to approve, and who did."""
    for each in action.steps:
        given = [found for found in action.approvals if _is_for(found, each)]
        enough = len(given) >= each.needed
        line = Text.assemble("  ", ("✓", "green") if enough else ("○", "yellow"), " ")
        line.append(f"{_asked_for(each)}, {len(given)} given")
        if given:
            line.append(": " + ", ".join(_word(found) for found in given))
        yield line


def needed(wanted: Iterable[envelope_pb2.ApprovalStep]) -> Iterator[Text]:
    """Yields who would have to approve."""
    for each in wanted:
        yield Text.assemble("  ", ("○", "yellow"), f" {_asked_for(each)}")


def open_steps(action: execution_pb2.Action) -> list[envelope_pb2.ApprovalStep]:
    """Returns the steps that may be approved now: the lowest number that is not complete."""
    lacking = [
        each
        for each in action.steps
        if sum(_is_for(found, each) for found in action.approvals) < each.needed
    ]
    return [each for each in lacking if each.step == min(other.step for other in lacking)]


def _asked_for(step: envelope_pb2.ApprovalStep) -> str:
    signed = ", signed with their own keys" if step.detached else ""
    return f"step {step.step}: {step.needed} of {step.group}{signed}"


def _is_for(approval: execution_pb2.Approval, step: envelope_pb2.ApprovalStep) -> bool:
    counts = approval.detached or not step.detached
    return counts and (approval.step, approval.group) == (step.step, step.group)


def _word(approval: execution_pb2.Approval) -> str:
    signed = " (own key)" if approval.detached else ""
    reason = f" “{approval.reason}”" if approval.reason else ""
    return f"{approval.approver}{signed}{reason}"


def summary(action: execution_pb2.Action) -> Iterator[Text]:
    """Yields everything about an action that people look for."""
    yield Text.assemble(
        (action.action_id, "bold"),
        f" {what(action.spec)} ",
        styled_state(action),
        f" {action.reason}".rstrip(),
    )
    rule = action.rule_id or "no rule"
    yield Text(f"  by {action.issuer}; {rule} at policy revision {action.policy_revision}")
    if action.incident_id:
        yield Text(f"  incident {action.incident_id}")
    if action.message and action.state not in _SAID:
        yield Text(f"  {action.message}")
    yield from steps(action)
    if action.break_glass and action.state != Action.STATE_DENIED:
        yield _glass(action)
    for seen, value in sorted(action.observations.items()):
        yield Text(f"  {seen}: {value}")
    if action.HasField("next"):
        yield Text(f"  next rung, if somebody wants it: {what(action.next)}")
    if (advice := next_step(action)) is not None:
        yield Text(f"  next: {advice}", "dim")


def unanswered(action: execution_pb2.Action) -> bool:
    """True for a broken glass that others still have to answer for; a denied one broke nothing."""
    broken = action.break_glass and action.state != Action.STATE_DENIED
    return broken and len(action.reviews) < 2


def _glass(action: execution_pb2.Action) -> Text:
    given = ", ".join(_word(each) for each in action.reviews) or "nobody yet"
    style = "red" if len(action.reviews) < 2 else "green"
    return Text(f"  broke the glass; answered for by {given} ({len(action.reviews)} of 2)", style)


def next_step(action: execution_pb2.Action) -> str | None:
    """Returns the command that somebody may want now."""
    named = action.action_id
    advice = {
        Action.STATE_PENDING_APPROVAL: f"somebody else: `aegis action approve {named}`",
        Action.STATE_APPROVED: f"its issuer: `aegis action continue {named}`",
        Action.STATE_DISPATCHED: f"`aegis action watch {named}`",
        Action.STATE_APPLIED: f"`aegis action watch {named}`",
        Action.STATE_UNKNOWN: f"look at the object, then `aegis action resolve {named}`",
        Action.STATE_REFUSED: f"`aegis action why {named}`",
        Action.STATE_DENIED: f"`aegis action why {named}`",
        Action.STATE_EXPIRED: "submit it again",
    }
    return advice.get(action.state)


def progress(action: execution_pb2.Action) -> Text:
    """Returns one line about where an action stands now."""
    line = Text.assemble((f"  {clock(action.update_time)} ", "dim"), styled_state(action))
    detail = action.message or action.reason
    if action.state == Action.STATE_PENDING_APPROVAL:
        lacking = [
            f"{each.needed} of {each.group}"
            f" ({sum(_is_for(found, each) for found in action.approvals)} given)"
            for each in open_steps(action)
        ]
        detail = f"needs {' and '.join(lacking)}" if lacking else detail
        if action.HasField("approval_expire_time"):
            detail += f" until {clock(action.approval_expire_time)}"
    elif action.state == Action.STATE_APPLIED:
        detail = "the cluster was changed; watching whether it helps"
    if detail:
        line.append(f"  {detail}")
    return line
