"""What somebody may do, and why: `aegis policy check`, `explain` and `permitted`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape

from aegis.cli.policy.calls import LimitOption, ask
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    fail,
    out,
    show_json,
    show_table,
)
from aegis.v1 import policy_pb2

SubjectArgument = Annotated[str, typer.Argument(help="kind:name, e.g. automation:autopilot")]
ResourceArgument = Annotated[str, typer.Argument(help="a path, e.g. /policy")]
ActionArgument = Annotated[str, typer.Argument(help="e.g. restart_pod")]
AttributesOption = Annotated[
    list[str] | None, typer.Option("--attr", help="name=value; repeat it for more")
]
DomainOption = Annotated[str, typer.Option(help="The tenant.")]


def check(
    subject: SubjectArgument,
    resource: ResourceArgument,
    action: ActionArgument,
    attr: AttributesOption = None,
    domain: DomainOption = "aegis",
    output: OutputOption = Output.table,
) -> None:
    """Ask whether SUBJECT may do ACTION to RESOURCE; exits 1 for no."""
    request = _question(subject, resource, action, attr, domain)
    answer = ask(lambda stub: stub.Evaluate(request, timeout=SECONDS))
    if output is Output.json:
        show_json(answer)
    else:
        _tell(answer)
    raise typer.Exit(0 if _allows(answer) else 1)


def explain(
    subject: SubjectArgument,
    resource: ResourceArgument,
    action: ActionArgument,
    attr: AttributesOption = None,
    domain: DomainOption = "aegis",
    revision: Annotated[int, typer.Option(min=0, help="By these rules; 0: the newest.")] = 0,
    output: OutputOption = Output.table,
) -> None:
    """Say why SUBJECT may or may not: rules, roles, conditions, and what would allow it."""
    question = _question(subject, resource, action, attr, domain)
    request = policy_pb2.ExplainRequest(request=question, revision=revision)
    answer = ask(lambda stub: stub.Explain(request, timeout=SECONDS))
    if output is Output.json:
        show_json(answer)
        return
    _tell(answer.decision)
    _list("roles", answer.roles)
    for title, traces in (("these rules match", answer.matched), ("these do not", answer.failed)):
        if traces:
            out.print(f"{title}:")
        for trace in traces:
            _tell_rule(trace)
    _list("this would allow it", answer.would_allow)


def permitted(
    subject: Annotated[str, typer.Option(help="What may this one do? kind:name")] = "",
    resource: Annotated[str, typer.Option(help="Only what concerns this path.")] = "",
    action: Annotated[str, typer.Option(help="Only this verb.")] = "",
    domain: DomainOption = "aegis",
    limit: LimitOption = 100,
    output: OutputOption = Output.table,
) -> None:
    """List what --subject may do, or who may do --action to --resource."""
    if not (subject or resource):
        fail("neither --subject nor --resource is named", "aegis policy permitted --subject WHO")
    request = policy_pb2.ListPermittedRequest(
        subject=subject, domain=domain, resource=resource, action=action, page_size=limit
    )
    answer = ask(lambda stub: stub.ListPermitted(request, timeout=SECONDS))
    if output is Output.json:
        show_json(answer.permissions)
        return
    show_table(
        f"permitted at revision {answer.revision}",
        ["subject", "action", "resource", "when", "rule", "through", "denied by"],
        [
            (
                each.subject,
                each.action,
                each.resource,
                each.condition,
                each.rule_id,
                " > ".join(each.role_path[1:]),
                " ".join(each.denied_by),
            )
            for each in answer.permissions
        ],
        folding=["resource", "when", "denied by"],
        spare=["through", "rule"],
    )
    if answer.next_page_token:
        out.print("[dim]there are more: narrow it down, or raise --limit[/]", highlight=False)


def _question(
    subject: str, resource: str, action: str, attr: list[str] | None, domain: str
) -> policy_pb2.EvaluateRequest:
    request = policy_pb2.EvaluateRequest(
        subject=subject, domain=domain, resource=resource, action=action
    )
    for pair in attr or []:
        name, separator, text = pair.partition("=")
        if not separator:
            fail(f"--attr {pair!r} is not name=value", "write --attr replicas=3")
        request.attributes[name] = _value(text)
    return request


def _value(text: str) -> str | float | bool:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _allows(answer: policy_pb2.EvaluateResponse) -> bool:
    return answer.effect == policy_pb2.EFFECT_ALLOW


def _tell(answer: policy_pb2.EvaluateResponse) -> None:
    verdict = "[bold green]ALLOW[/]" if _allows(answer) else "[bold red]DENY[/]"
    rule = f"rule {answer.rule_id}" if answer.rule_id else "no rule allows it"
    out.print(f"{verdict} {rule} (revision {answer.revision})", highlight=False)


def _tell_rule(trace: policy_pb2.RuleTrace) -> None:
    out.print(f"  {escape(trace.rule)}", highlight=False, soft_wrap=True)
    if len(trace.role_path) > 1:
        out.print(f"    through {' > '.join(trace.role_path)}", highlight=False, markup=False)
    if trace.condition:
        values = ", ".join(f"{name} = {value}" for name, value in sorted(trace.values.items()))
        told = f"    its condition is {trace.outcome}{f': {values}' if values else ''}"
        out.print(told, highlight=False, markup=False)


def _list(title: str, texts: Sequence[str]) -> None:
    if texts:
        out.print(f"{title}:")
    for text in texts:
        out.print(f"  {text}", highlight=False, markup=False)
