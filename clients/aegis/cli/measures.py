"""`aegis train metrics`: what was measured of a run, by round and by participant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from aegis.cli.curves import curves
from aegis.cli.execution.drawing import png, svg
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    fail,
    out,
    run,
    show_json,
    show_table,
)
from aegis.v1 import training_pb2, training_pb2_grpc

_TOLD_MAX = 10


def metrics(
    run_id: Annotated[str, typer.Argument(help="As `aegis train list` shows it.")],
    participants: Annotated[
        bool, typer.Option("--participants", help="Each participant's figures, too.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--svg", help="Also draw the rounds into this file.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--png", help="The same as PNG; needs the extra `report`.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show what was measured of a run, by round."""
    found = run(_metrics(run_id))
    drawing = curves(run_id, found.rounds)
    if picture is not None:
        picture.write_text(svg(drawing))
    if image is not None:
        try:
            image.write_bytes(png(drawing))
        except ModuleNotFoundError:
            fail("a PNG needs Pillow", "pip install 'aegis-control-plane[report]', or take --svg")
    if output is Output.json:
        show_json(found)
        return
    _show_rounds(found)
    if participants:
        _show_participants(found)
    _tell("no metrics of", found.missing)
    _tell("not used:", found.unusable)


def _show_rounds(found: training_pb2.GetRunMetricsResponse) -> None:
    rows = []
    for each in found.rounds:
        sites = each.summaries
        rows.append(
            (
                each.round,
                f"{each.accuracy:.3f}",
                f"{each.loss:.3f}",
                f"{each.epsilon:.2f}",
                sites["seconds"].participants if "seconds" in sites else 0,
                f"{sites['seconds'].max:.2f}" if "seconds" in sites else "",
                *(
                    f"{sites[name].mean:.3f}" if name in sites else ""
                    for name in ("loss", "accuracy", "auc")
                ),
            )
        )
    columns = ["round", "accuracy", "loss", "epsilon", "sites", "slowest s"]
    of_sites = ["their loss", "their accuracy", "their AUC"]
    show_table("rounds", [*columns, *of_sites], rows, spare=["their AUC", "slowest s"])


def _show_participants(found: training_pb2.GetRunMetricsResponse) -> None:
    names = sorted({name for each in found.metrics for name in each.values})
    rows = [
        (
            each.round,
            each.participant,
            *(f"{each.values[name]:.4g}" if name in each.values else "" for name in names),
        )
        for each in found.metrics
    ]
    show_table("participants", ["round", "participant", *names], rows, spare=names[::-1])


def _tell(what: str, names: Sequence[str]) -> None:
    for name in names[:_TOLD_MAX]:
        out.print(f"[yellow]{what}[/] {escape(name)}", highlight=False)
    if len(names) > _TOLD_MAX:
        out.print(f"and {len(names) - _TOLD_MAX} more; see --output json", highlight=False)


async def _metrics(run_id: str) -> training_pb2.GetRunMetricsResponse:
    whole = training_pb2.GetRunMetricsResponse()
    async with channel() as opened:
        stub = training_pb2_grpc.TrainingServiceStub(opened)
        request = training_pb2.GetRunMetricsRequest(run_id=run_id)
        while True:
            part = await stub.GetRunMetrics(request, timeout=SECONDS)
            whole.MergeFrom(part)
            whole.next_after_round = 0
            if not part.next_after_round:
                return whole
            request.after_round = part.next_after_round
