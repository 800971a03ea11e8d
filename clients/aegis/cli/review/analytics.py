"""`aegis review analytics` and `aegis review security`: tables, lines and pictures."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from aegis.cli.durations import duration, spoken
from aegis.cli.execution.drawing import Drawing, png, svg
from aegis.cli.review.calls import ask
from aegis.cli.review.charts import analytics_chart, in_words, period, security_chart
from aegis.cli.session import Output, OutputOption, fail, out, show_json, show_table, when
from aegis.v1 import standing_pb2

_DAY = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]

FromOption = Annotated[
    datetime | None, typer.Option("--from", formats=_DAY, help="UTC; else 30 days before --to.")
]
ToOption = Annotated[datetime | None, typer.Option("--to", formats=_DAY, help="UTC; else now.")]
LastOption = Annotated[str, typer.Option(help="Instead of --from, e.g. 7d.")]
RunOption = Annotated[str, typer.Option("--run", help="Only of this run.")]
SvgOption = Annotated[Path | None, typer.Option("--svg", help="Also draw it into this file.")]
PngOption = Annotated[
    Path | None, typer.Option("--png", help="The same as PNG; needs the extra `report`.")
]


def analytics(
    start: FromOption = None,
    end: ToOption = None,
    last: LastOption = "",
    run_id: RunOption = "",
    picture: SvgOption = None,
    image: PngOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Count verdicts by day, participant, kind of attack and examiner."""
    found = _found(start, end, last, run_id)
    _draw(analytics_chart(found), picture, image)
    if output is Output.json:
        show_json(found)
        return
    out.print(f"{period(found)}: {in_words(found)}", highlight=False, soft_wrap=True)
    if found.total.judged:
        half, most = spoken(found.seconds_p50), spoken(found.seconds_p99)
        out.print(f"verdicts after {half}, 99 of 100 within {most}", highlight=False)
    for title, counts in (
        ("day", found.by_day),
        ("participant", found.by_participant),
        ("looks like", found.by_attack),
        ("examiner", found.by_examiner),
    ):
        show_table(
            f"by {title}",
            [title, "judged", "accepted", "rejected", "held", "overridden"],
            [
                (each.key, each.judged, each.accepted, each.rejected, each.held, each.overridden)
                for each in counts
            ],
            spare=["overridden"],
        )


def security(
    start: FromOption = None,
    end: ToOption = None,
    last: LastOption = "",
    run_id: RunOption = "",
    picture: SvgOption = None,
    image: PngOption = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """Show what looked like an attack, and from whom, newest first."""
    found = _found(start, end, last, run_id)
    _draw(security_chart(found), picture, image)
    if output is Output.json:
        show_json(list(found.threats[:limit]))
        return
    show_table(
        "threats",
        ["time", "kind", "score", "participants", "in words"],
        [
            (
                when(each, "time"),
                each.kind,
                f"{each.score:.2f}" if each.score else "",
                ", ".join(each.participants),
                each.text,
            )
            for each in found.threats[:limit]
        ],
        folding=["in words", "participants"],
        spare=["score"],
    )


def _found(
    start: datetime | None, end: datetime | None, last: str, run_id: str
) -> standing_pb2.GetReviewAnalyticsResponse:
    if start is not None and last:
        fail("--from and --last are two beginnings", "give one of them")
    request = standing_pb2.GetReviewAnalyticsRequest(run_id=run_id)
    if last:
        end = end or datetime.now(UTC)
        try:
            start = end - duration(last, "--last").ToTimedelta()
        except OverflowError:
            fail(f"--last {last!r} reaches behind the calendar", "write e.g. 7d")
    if start is not None:
        request.start.FromDatetime(start.replace(tzinfo=UTC))
    if end is not None:
        request.end.FromDatetime(end.replace(tzinfo=UTC))
    return ask("GetReviewAnalytics", request)  # type: ignore[no-any-return]


def _draw(drawing: Drawing, picture: Path | None, image: Path | None) -> None:
    try:
        if picture is not None:
            picture.write_text(svg(drawing), encoding="utf-8")
        if image is not None:
            image.write_bytes(png(drawing))
    except ModuleNotFoundError:
        fail("a PNG needs Pillow", "pip install 'aegis-control-plane[report]', or take --svg")
    except OSError as error:
        fail(f"the picture cannot be written: {error}", "choose another file")
