"""`aegis detector`: what scores updates."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import grpc
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    err,
    name_of,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.v1 import detector_pb2 as pb
from aegis.v1 import detector_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="What scores updates, and how it was measured.")

_LOOK_SECONDS = 1.0
_RATES = 5
_TRAINING = pb.Detector.STATE_TRAINING

VersionArgument = Annotated[str, typer.Argument(help="e.g. v3, builtin, or champion")]


@app.command()
def train(
    dataset: Annotated[str, typer.Option(help="Only of updates of this data set.")] = "",
    target_fpr: Annotated[
        float, typer.Option(min=0, max=0.2, help="Share of honest updates it may count out.")
    ] = 0.03,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random in the job.")] = 0,
    request_id: Annotated[
        str, typer.Option(help="Repeat it, and you get the job it started; else a new one.")
    ] = "",
    wait: Annotated[bool, typer.Option(help="Until it is measured.")] = True,
    output: OutputOption = Output.table,
) -> None:
    """Train a detector on recorded honest updates and measure it in the attack lab."""
    request = pb.TrainDetectorRequest(
        request_id=request_id or uuid.uuid4().hex,
        dataset=dataset,
        target_false_positive_rate=target_fpr,
        seed=seed,
    )
    detector = run(_train(request, wait=wait))
    _show_one(detector, output)
    if detector.state == pb.Detector.STATE_FAILED:
        raise typer.Exit(1)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List detectors, newest first."""
    found = run(_ask("ListDetectors", pb.ListDetectorsRequest(page_size=limit))).detectors
    if output is Output.json:
        show_json(list(found))
    else:
        _show(found)


@app.command()
def show(version: VersionArgument, output: OutputOption = Output.table) -> None:
    """Show a detector and how it did against each attack."""
    _show_one(run(_ask("GetDetector", pb.GetDetectorRequest(version=version))).detector, output)


@app.command()
def shadow(version: VersionArgument, output: OutputOption = Output.table) -> None:
    """Let a detector score beside the champion; it decides nothing."""
    request = pb.ShadowDetectorRequest(version=version)
    _show_one(run(_ask("ShadowDetector", request)).detector, output)


@app.command()
def promote(
    version: VersionArgument,
    reason: Annotated[str, typer.Option(help="Why; for the record and for the policy.")],
    fpr_max: Annotated[
        float,
        typer.Option(min=0.001, max=1, help="Refuse when it was measured to count out more."),
    ] = 0.06,
    tpr_drop_max: Annotated[
        float,
        typer.Option(
            min=0.001, max=1, help="Refuse when it finds that much less than the champion."
        ),
    ] = 0.05,
    output: OutputOption = Output.table,
) -> None:
    """Let a detector decide, from the next round on."""
    request = pb.PromoteDetectorRequest(
        version=version,
        reason=reason,
        false_positive_rate_max=fpr_max,
        true_positive_rate_drop_max=tpr_drop_max,
    )
    answer = run(_ask("PromoteDetector", request))
    _show_one(answer.detector, output)
    if not answer.attacks_compared and output is Output.table:
        out.print("not compared with a champion before it: nothing was measured for both")


@app.command()
def compare(
    version: VersionArgument,
    other: Annotated[str, typer.Argument(help="By default the champion.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Set two detectors side by side: as measured, and on what both have scored."""
    request = pb.CompareDetectorsRequest(version=version, other=other)
    found = run(_ask("CompareDetectors", request))
    if output is Output.json:
        show_json(found)
        return
    one, two = found.detector, found.other
    _show([one, two])
    out.print(
        f"\nboth scored {found.both_scored} updates; only {one.version} would reject"
        f" {found.only_first_rejects}, only {two.version} {found.only_second_rejects}\n",
        highlight=False,
    )
    ours = {each.attack: each for each in one.measured}
    theirs = {each.attack: each for each in two.measured}
    show_table(
        f"as measured: {one.version} / {two.version}",
        ["attack", "TPR at 1 % FPR", "TPR at 5 % FPR", "AUC", "TPR", "FPR"],
        [
            (attack, *_pairs(ours.get(attack), theirs.get(attack)))
            for attack in dict.fromkeys((*ours, *theirs))
        ],
    )


def _show_one(detector: pb.Detector, output: Output) -> None:
    if output is Output.json:
        show_json(detector)
        return
    _show([detector])
    if detector.reason:
        out.print(f"\n{detector.reason}", highlight=False, markup=False)
    if detector.updates:
        out.print(
            f"\nlearnt from {detector.updates} updates of {detector.participants} participants in"
            f" {detector.rounds} rounds\nfile sha256 {detector.sha256.hex()}\n",
            highlight=False,
        )
    if not detector.measured:
        out.print("it was not measured here", highlight=False)
        return
    show_table(
        "as measured, on participants and seeds it has not seen",
        ["attack", "TPR at 1 % FPR", "TPR at 5 % FPR", "AUC", "TPR", "FPR"],
        [(each.attack, *map(_share, _rates(each))) for each in detector.measured],
    )


def _show(found: Sequence[pb.Detector]) -> None:
    show_table(
        "detectors",
        ["detector", "state", "target", "scored", "rejected", "created by", "created", "promoted"],
        [
            (
                each.version,
                _state_of(each),
                f"{each.target_false_positive_rate:.1%}",
                each.scored,
                f"{each.observed_rejection_rate:.1%}" if each.scored else "",
                each.created_by,
                when(each, "create_time"),
                when(each, "promote_time"),
            )
            for each in found
        ],
        spare=["created", "created by", "target"],
    )


def _state_of(detector: pb.Detector) -> str:
    state = name_of(pb.Detector.State, detector.state, "STATE_").replace("_", " ")
    return f"{state} {detector.progress:.0%}" if detector.state == _TRAINING else state


def _rates(each: pb.Detector.Measured) -> tuple[float, ...]:
    return each.tpr_at_1_fpr, each.tpr_at_5_fpr, each.auc, each.tpr, each.fpr


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _pairs(one: pb.Detector.Measured | None, other: pb.Detector.Measured | None) -> list[str]:
    """Returns rates beside each other; `-` where one was not measured, as `builtin` is not."""
    first, second = (
        [_share(rate) for rate in _rates(each)] if each is not None else ["-"] * _RATES
        for each in (one, other)
    )
    return [f"{mine} / {yours}" for mine, yours in zip(first, second, strict=True)]


async def _train(request: pb.TrainDetectorRequest, *, wait: bool) -> pb.Detector:
    detector: pb.Detector = (await _ask("TrainDetector", request)).detector
    if not wait:
        return detector
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    bar = Progress(
        *columns,
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        shown = bar.add_task(f"training {detector.version}", total=1.0)
        while detector.state == _TRAINING:
            await asyncio.sleep(_LOOK_SECONDS)
            detector = await _look(detector)
            bar.update(shown, completed=detector.progress)
    return detector


async def _look(detector: pb.Detector) -> pb.Detector:
    try:
        request = pb.GetDetectorRequest(version=detector.version)
        found: pb.Detector = (await _ask("GetDetector", request)).detector
    except grpc.aio.AioRpcError as error:
        # The job goes on while its server is replaced by another.
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return detector
    return found


async def _ask(method: str, request: Any) -> Any:
    async with channel() as opened:
        stub = detector_pb2_grpc.DetectorServiceStub(opened)
        return await getattr(stub, method)(request, timeout=SECONDS)
