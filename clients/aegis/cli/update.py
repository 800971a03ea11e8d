"""`aegis update`: what participants proposed and what the review made of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from aegis.cli import evidence, update_holding, update_sending
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    name_of,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.v1 import review_pb2, review_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="Model updates and their verdicts.")
for command in (
    update_sending.submit,
    update_sending.download,
    update_holding.held,
    update_holding.override,
    update_holding.watch,
    update_holding.queue,
):
    app.command()(command)
app.command("evidence")(evidence.evidence)
app.command("verify-evidence")(evidence.verify_evidence)


class Verdict(StrEnum):
    """How an update may stand."""

    pending = "pending"
    accepted = "accepted"
    rejected = "rejected"
    held = "held"


@app.command("list")
def list_(
    run_id: Annotated[str, typer.Option("--run", help="Only updates of this run.")] = "",
    verdict: Annotated[Verdict | None, typer.Option(help="Only those that stand so.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List updates, newest first."""
    updates = run(_list(run_id, verdict, limit))
    if output is Output.json:
        show_json(updates)
        return
    show_table(
        "updates",
        ["update", "round", "participant", "verdict", "score", "received", "run"],
        [
            (
                update.update_id,
                update.round,
                update.participant,
                verdict_of(update),
                f"{update.score:.2f}",
                when(update, "create_time"),
                update.run_id,
            )
            for update in updates
        ],
        spare=["run", "received"],
    )


@app.command()
def show(
    update_id: Annotated[str, typer.Argument(help="As `aegis update list` shows it.")],
    output: OutputOption = Output.table,
) -> None:
    """Show one update and everything the review measured."""
    update = run(_get(update_id))
    if output is Output.json:
        show_json(update)
        return
    out.print(
        f"[bold]{update.update_id}[/] {verdict_of(update)},"
        f" score {update.score:.2f} where rejection begins at 1{_rarity(update)}\n"
        f"{update.participant}, round {update.round} of {update.run_id},"
        f" {update.size_bytes} bytes\nsha256 {update.sha256.hex()}\n",
        highlight=False,
    )
    show_table(
        "findings",
        ["severity", "examiner", "measure", "value / limit", "in words"],
        [
            (
                name_of(review_pb2.Finding.Severity, finding.severity, "SEVERITY_"),
                finding.examiner,
                finding.measure,
                f"{finding.value:.3g} / {finding.threshold:.3g}",
                finding.text,
            )
            for finding in update.findings
        ],
        folding=["in words"],
    )
    for sentence in update.would_change:
        out.print(f"what would change it: {sentence}", highlight=False, markup=False)
    if update.verdict == review_pb2.Update.VERDICT_HELD:
        default = name_of(review_pb2.Update.Verdict, update.hold_default, "VERDICT_")
        out.print(f"held until {when(update, 'hold_until')}, then {default}", highlight=False)
    for override in update.overrides:
        who = " and ".join(filter(None, (override.by or "the deadline", override.confirmed_by)))
        state = "" if override.effective else ", waiting for a second person"
        out.print(
            f"{when(override, 'time')} {who}: "
            f"{name_of(review_pb2.Update.Verdict, override.to, 'VERDICT_')}{state}"
            f" ({override.reason})",
            highlight=False,
            markup=False,
        )


def verdict_of(update: review_pb2.Update) -> str:
    """Returns a verdict as people write it."""
    return name_of(review_pb2.Update.Verdict, update.verdict, "VERDICT_")


def _rarity(update: review_pb2.Update) -> str:
    """Says what a score means, where a detector was asked."""
    if not 0 < update.false_positive_rate < 1:
        return ""
    return f"; of honest updates, {update.false_positive_rate:.2%} are expected to score as high"


async def _list(run_id: str, verdict: Verdict | None, limit: int) -> list[review_pb2.Update]:
    async with channel() as opened:
        stub = review_pb2_grpc.ReviewServiceStub(opened)
        request = review_pb2.ListUpdatesRequest(page_size=limit, run_id=run_id)
        if verdict is not None:
            request.verdict = review_pb2.Update.Verdict.Value(f"VERDICT_{verdict.upper()}")
        return list((await stub.ListUpdates(request, timeout=SECONDS)).updates)


async def _get(update_id: str) -> review_pb2.Update:
    async with channel() as opened:
        stub = review_pb2_grpc.ReviewServiceStub(opened)
        request = review_pb2.GetUpdateRequest(update_id=update_id)
        return (await stub.GetUpdate(request, timeout=SECONDS)).update
