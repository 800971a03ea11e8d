"""`aegis quarantine`: what the review proposes, and what people make of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from aegis.cli.review.calls import ask, pages, state_of
from aegis.cli.session import Output, OutputOption, out, show_json, show_table, when
from aegis.v1 import standing_pb2

Decision = standing_pb2.DecideQuarantineRequest

QuarantineArgument = Annotated[
    str, typer.Argument(metavar="QUARANTINE", help="As `aegis quarantine list` shows it.")
]
ReasonOption = Annotated[str, typer.Option(help="Why; kept with it and in the audit log.")]


def list_(
    participant: Annotated[str, typer.Option(help="Only of this one.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List quarantines, proposed and decided, newest first."""
    request = standing_pb2.ListQuarantinesRequest(participant=participant)
    found = pages("ListQuarantines", request, "quarantines", limit)
    if output is Output.json:
        show_json(found)
        return
    show_table(
        "quarantines",
        ["quarantine", "participant", "state", "why", "proposed", "decided by", "because"],
        [
            (
                each.quarantine_id,
                each.participant,
                state_of(each),
                each.reason,
                when(each, "propose_time"),
                each.decided_by,
                each.decision_reason,
            )
            for each in found
        ],
        folding=["why", "because"],
        spare=["proposed", "because", "decided by"],
    )


def enforce(
    quarantine: QuarantineArgument, reason: ReasonOption, output: OutputOption = Output.table
) -> None:
    """Leave the participant out of every round that begins from now on."""
    _decide(quarantine, Decision.DECISION_ENFORCE, reason, output)


def refuse(
    quarantine: QuarantineArgument, reason: ReasonOption, output: OutputOption = Output.table
) -> None:
    """Refuse a proposal; what is known by now is not proposed again."""
    _decide(quarantine, Decision.DECISION_REFUSE, reason, output)


def lift(
    quarantine: QuarantineArgument, reason: ReasonOption, output: OutputOption = Output.table
) -> None:
    """Let the participant take part again."""
    _decide(quarantine, Decision.DECISION_LIFT, reason, output)


def _decide(
    quarantine: str, decision: Decision.Decision.ValueType, reason: str, output: Output
) -> None:
    request = Decision(quarantine_id=quarantine, decision=decision, reason=reason)
    decided = ask("DecideQuarantine", request).quarantine
    if output is Output.json:
        show_json(decided)
        return
    line = Text.assemble((decided.quarantine_id, "bold"), f" of {decided.participant}: ")
    out.print(line.append_text(state_of(decided)), highlight=False)
