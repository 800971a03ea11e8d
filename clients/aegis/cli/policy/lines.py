"""Rules and bindings one by one: `aegis policy rules`, `add`, `replace` and `remove`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from aegis.cli.policy.calls import (
    LONG_SECONDS,
    PAGE_SIZE,
    DryRunOption,
    LimitOption,
    ReasonOption,
    administer,
    tell_change,
)
from aegis.cli.session import SECONDS, Output, OutputOption, fail, out, show_json, show_table
from aegis.v1 import policy_admin_pb2, policy_admin_pb2_grpc

PlaceArgument = Annotated[str, typer.Argument(help="Place or id, as `aegis policy rules` shows.")]
LineArgument = Annotated[str, typer.Argument(help='As in a rule file: "g2, user:ann, role:admin".')]


def rules(
    subject: Annotated[str, typer.Option(help="Only of this subject, member or role.")] = "",
    resource: Annotated[str, typer.Option(help="Only what concerns this path.")] = "",
    action: Annotated[str, typer.Option(help="Only this verb.")] = "",
    domain: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    rule_id: Annotated[str, typer.Option("--id", help="Only the rule of this id.")] = "",
    limit: LimitOption = 200,
    output: OutputOption = Output.table,
) -> None:
    """List rules and bindings with their places, in the order of the file."""
    request = policy_admin_pb2.ListRulesRequest(
        subject=subject,
        resource=resource,
        action=action,
        domain=domain,
        rule_id=rule_id,
        page_size=limit,
    )
    answer = administer(lambda stub: stub.ListRules(request, timeout=SECONDS))
    if output is Output.json:
        show_json(answer.rules)
        return
    rows = [(rule.place, line_of(rule)) for rule in answer.rules]
    show_table(f"rules of revision {answer.revision}", ["place", "line"], rows, folding=["line"])
    if answer.next_page_token:
        out.print("[dim]there are more: narrow it down, or raise --limit[/]", highlight=False)


def add(
    line: LineArgument,
    reason: ReasonOption,
    before: Annotated[int, typer.Option(min=0, help="Place of the next line; 0: last.")] = 0,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.table,
) -> None:
    """Add LINE, a rule or a binding."""
    create = policy_admin_pb2.PolicyChange.Create(line=line, before_place=before)
    _apply(policy_admin_pb2.PolicyChange(create=create), reason, output, dry_run=dry_run)


def replace(
    place: PlaceArgument,
    line: LineArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.table,
) -> None:
    """Put LINE in the place of another one, unless somebody changes that meanwhile."""
    old = _found(place)
    change = policy_admin_pb2.PolicyChange.Replace(place=old.place, etag=old.etag, line=line)
    _apply(policy_admin_pb2.PolicyChange(replace=change), reason, output, dry_run=dry_run)


def remove(
    place: PlaceArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.table,
) -> None:
    """Remove a line, unless somebody changes it meanwhile."""
    old = _found(place)
    change = policy_admin_pb2.PolicyChange.Delete(place=old.place, etag=old.etag)
    _apply(policy_admin_pb2.PolicyChange(delete=change), reason, output, dry_run=dry_run)


def line_of(rule: policy_admin_pb2.PolicyRule) -> str:
    """Returns a line as it stands in a rule file."""
    return ", ".join([rule.kind, *(_quoted(text) for text in rule.fields)])


def _quoted(text: str) -> str:
    plain = text == text.strip(" ") and not {'"', ","}.intersection(text)
    return text if plain else '"' + text.replace('"', '""') + '"'


def _apply(
    change: policy_admin_pb2.PolicyChange, reason: str, output: Output, *, dry_run: bool
) -> None:
    request = policy_admin_pb2.ApplyPolicyChangesRequest(
        changes=[change], reason=reason, validate_only=dry_run
    )
    answer = administer(lambda stub: stub.ApplyPolicyChanges(request, timeout=LONG_SECONDS))
    tell_change(answer, output, dry_run=dry_run)


def _found(place: str) -> policy_admin_pb2.PolicyRule:
    """Returns the line of a place or an id; exits when there is none."""
    number = int(place) if place.isdecimal() else None
    by_id = "" if number is not None else place
    found = administer(lambda stub: _matching(stub, by_id, number))
    if not found:
        fail(f"there is no line {place}", "list them with `aegis policy rules`")
    return found[0]


async def _matching(
    stub: policy_admin_pb2_grpc.PolicyAdminServiceStub, rule_id: str, place: int | None
) -> Sequence[policy_admin_pb2.PolicyRule]:
    token = ""
    while True:
        request = policy_admin_pb2.ListRulesRequest(
            rule_id=rule_id, page_size=PAGE_SIZE, page_token=token
        )
        answer = await stub.ListRules(request, timeout=SECONDS)
        found = [rule for rule in answer.rules if place in (None, rule.place)]
        token = answer.next_page_token
        if found or not token:
            return found
