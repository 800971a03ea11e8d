"""What was decided: `aegis policy decisions` and `export-decisions`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated

import typer

from aegis.cli.policy.calls import LimitOption, administer
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    as_dict,
    err,
    fail,
    name_of,
    show_json,
    show_table,
    when,
)
from aegis.v1 import policy_admin_pb2, policy_admin_pb2_grpc, policy_pb2


class Effect(StrEnum):
    """Which decisions."""

    allow = "allow"
    deny = "deny"


SubjectOption = Annotated[str, typer.Option(help="Only about this subject.")]
CallerOption = Annotated[str, typer.Option(help="Only asked by this one.")]
DomainOption = Annotated[str, typer.Option(help="Only in this tenant.")]
ResourceOption = Annotated[str, typer.Option(help="Only this path and what is below it.")]
ActionOption = Annotated[str, typer.Option(help="Only this verb.")]
RuleOption = Annotated[str, typer.Option(help="Only decided by the rule of this id.")]
EffectOption = Annotated[Effect | None, typer.Option(help="Only allowed, or only denied ones.")]
SinceOption = Annotated[datetime | None, typer.Option(help="From this time on (UTC).")]
UntilOption = Annotated[datetime | None, typer.Option(help="Before this time (UTC).")]


def list_(
    subject: SubjectOption = "",
    caller: CallerOption = "",
    domain: DomainOption = "",
    resource: ResourceOption = "",
    action: ActionOption = "",
    rule: RuleOption = "",
    effect: EffectOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = 20,
    output: OutputOption = Output.table,
) -> None:
    """List decisions, newest first."""
    chosen = policy_admin_pb2.DecisionFilter(
        subject=subject,
        caller=caller,
        domain=domain,
        resource=resource,
        action=action,
        rule_id=rule,
    )
    _narrow(chosen, effect, since, until)
    request = policy_admin_pb2.ListDecisionsRequest(filter=chosen, page_size=limit)
    found = administer(lambda stub: stub.ListDecisions(request, timeout=SECONDS)).decisions
    if output is Output.json:
        show_json(found)
        return
    show_table(
        "decisions",
        ["time", "effect", "subject", "action", "resource", "rule", "revision", "by", "µs"],
        [_row(each) for each in found],
        folding=["resource", "rule"],
        spare=["µs", "by", "revision", "time"],
    )


def export(
    file: Annotated[Path | None, typer.Option("--out", help="Else standard output.")] = None,
    one_in: Annotated[int, typer.Option(min=1, help="A sample: one in so many.")] = 1,
    subject: SubjectOption = "",
    caller: CallerOption = "",
    domain: DomainOption = "",
    resource: ResourceOption = "",
    action: ActionOption = "",
    rule: RuleOption = "",
    effect: EffectOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
) -> None:
    """Write decisions in their order as JSON, one a line; all, or a sample."""
    chosen = policy_admin_pb2.DecisionFilter(
        subject=subject,
        caller=caller,
        domain=domain,
        resource=resource,
        action=action,
        rule_id=rule,
    )
    _narrow(chosen, effect, since, until)
    request = policy_admin_pb2.ExportDecisionsRequest(filter=chosen, one_in=one_in)
    if file is None:
        count = administer(lambda stub: _written(stub, request, sys.stdout))
    else:
        try:
            with file.open("w", encoding="utf-8") as opened:
                count = administer(lambda stub: _written(stub, request, opened))
        except OSError as error:
            fail(f"{file} cannot be written: {error}", "name another one with --out")
    err.print(f"{count} decisions", highlight=False)


def _narrow(
    chosen: policy_admin_pb2.DecisionFilter,
    effect: Effect | None,
    since: datetime | None,
    until: datetime | None,
) -> None:
    if effect is not None:
        chosen.effect = policy_pb2.Effect.Value(f"EFFECT_{effect.upper()}")
    if since is not None:
        chosen.start_time.FromDatetime(since.replace(tzinfo=UTC))
    if until is not None:
        chosen.end_time.FromDatetime(until.replace(tzinfo=UTC))


def _row(decision: policy_admin_pb2.DecisionRecord) -> tuple[object, ...]:
    return (
        when(decision, "time"),
        name_of(policy_pb2.Effect, decision.effect, "EFFECT_"),
        decision.request.subject,
        decision.request.action,
        decision.request.resource,
        decision.rule_id,
        decision.revision,
        name_of(policy_pb2.DecisionSource, decision.source, "DECISION_SOURCE_"),
        decision.microseconds,
    )


async def _written(
    stub: policy_admin_pb2_grpc.PolicyAdminServiceStub,
    request: policy_admin_pb2.ExportDecisionsRequest,
    file: IO[str],
) -> int:
    count = 0
    async for batch in stub.ExportDecisions(request):
        for decision in batch.decisions:
            file.write(json.dumps(as_dict(decision)) + "\n")
            count += 1
    return count
