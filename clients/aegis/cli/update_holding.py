"""`aegis update held`, `override`, `watch` and `queue`: what waits, and people who decide."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape

from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    as_dict,
    channel,
    name_of,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.v1 import review_pb2, review_pb2_grpc

Update = review_pb2.Update
_States = review_pb2.GetReviewQueueResponse


class Wanted(StrEnum):
    """What a person may decide."""

    accept = "accept"
    reject = "reject"


_WANTED = {Wanted.accept: Update.VERDICT_ACCEPTED, Wanted.reject: Update.VERDICT_REJECTED}


def held(
    run_id: Annotated[str, typer.Option("--run", help="Only updates of this run.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 100,
    output: OutputOption = Output.table,
) -> None:
    """List updates that wait for a person."""
    updates = run(_held(run_id, limit))
    if output is Output.json:
        show_json(updates)
        return
    show_table(
        "held updates",
        ["update", "participant", "run", "round", "decided at", "then", "why"],
        [
            (
                update.update_id,
                update.participant,
                update.run_id,
                update.round,
                when(update, "hold_until"),
                _verdict(update.hold_default) if update.hold_default else "",
                update.findings[0].text if update.findings else "",
            )
            for update in updates
        ],
        folding=["why"],
        spare=["run"],
    )


def override(
    update_id: Annotated[str, typer.Argument(help="As `aegis update held` shows it.")],
    wanted: Annotated[Wanted, typer.Argument(help="What it shall be.")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    output: OutputOption = Output.table,
) -> None:
    """Decide about an update otherwise than the examiners, or what they left open.

    Of a rejected update it takes two persons to make an accepted one.
    """
    answer = run(_override(update_id, wanted, reason))
    if output is Output.json:
        show_json(answer)
        return
    update = answer.update
    out.print(f"[bold]{update.update_id}[/] {_verdict(update.verdict)}", highlight=False)
    if answer.needs_second_person:
        out.print("somebody else has to say the same before it counts")
    if answer.too_late_for_model:
        out.print("the round's model was made before: this changes the record, not the model")


def watch(
    run_id: Annotated[str, typer.Option("--run", help="The run.")],
    number: Annotated[int, typer.Option("--round", min=1, help="The round.")],
    attempt: Annotated[int, typer.Option(min=1, help="Which try of the round.")] = 1,
    output: OutputOption = Output.table,
) -> None:
    """Follow a judged round until nothing in it is held; JSON is an object a line."""
    request = review_pb2.WatchRoundRequest(run_id=run_id, round=number, attempt=attempt)
    run(_watch(request, output))


def queue(output: OutputOption = Output.table) -> None:
    """Show which rounds wait for examiners, are being examined, or wait for a person."""
    response = run(_queue())
    if output is Output.json:
        show_json(response)
        return
    show_table(
        "rounds under review",
        ["state", "since", "run", "round", "try", "updates", "worker"],
        [
            (
                name_of(_States.State, entry.state, "STATE_"),
                when(entry, "since"),
                entry.run_id,
                entry.round,
                entry.attempt,
                entry.updates,
                entry.worker,
            )
            for entry in response.entries
        ],
        spare=["try"],
    )
    if response.examiners:
        told = f"{response.examiners} rounds can be examined at the same time"
    else:
        told = "nobody examines rounds: start `aegis-server review-worker`"
    out.print(told, highlight=False)


def _verdict(value: Update.Verdict.ValueType) -> str:
    return name_of(Update.Verdict, value, "VERDICT_")


async def _held(run_id: str, limit: int) -> list[Update]:
    async with channel() as opened:
        stub = review_pb2_grpc.ReviewServiceStub(opened)
        request = review_pb2.ListUpdatesRequest(
            page_size=limit, run_id=run_id, verdict=Update.VERDICT_HELD
        )
        return list((await stub.ListUpdates(request, timeout=SECONDS)).updates)


async def _override(
    update_id: str, wanted: Wanted, reason: str
) -> review_pb2.OverrideVerdictResponse:
    # Sent again it would be the second person's, who is the first.
    async with channel(retries=False) as opened:
        stub = review_pb2_grpc.ReviewServiceStub(opened)
        request = review_pb2.OverrideVerdictRequest(
            update_id=update_id, verdict=_WANTED[wanted], reason=reason
        )
        return await stub.OverrideVerdict(request, timeout=SECONDS)


async def _watch(request: review_pb2.WatchRoundRequest, output: Output) -> None:
    async with channel() as opened:
        stub = review_pb2_grpc.ReviewServiceStub(opened)
        async for change in stub.WatchRound(request):
            if output is Output.json:
                typer.echo(json.dumps(as_dict(change)))
                continue
            verdicts = ", ".join(
                f"{update.participant} {_verdict(update.verdict)}" for update in change.updates
            )
            out.print(f"round {request.round}: {verdicts}", highlight=False)
            if change.review.fallback:
                out.print(f"  the median only: {escape(change.review.reason)}", highlight=False)


async def _queue() -> review_pb2.GetReviewQueueResponse:
    async with channel() as opened:
        stub = review_pb2_grpc.ReviewServiceStub(opened)
        return await stub.GetReviewQueue(review_pb2.GetReviewQueueRequest(), timeout=SECONDS)
