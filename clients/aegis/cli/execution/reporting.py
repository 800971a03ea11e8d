"""`aegis execution report`: what was healed, as tables, sparklines and a picture."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from aegis.cli.action.calls import Stub, ask
from aegis.cli.durations import duration
from aegis.cli.execution.bars import bar, spark
from aegis.cli.execution.chart import chart
from aegis.cli.execution.drawing import page, png, svg
from aegis.cli.execution.healing import (
    HEADINGS,
    Report,
    in_words,
    period,
    refusals,
    rows,
    slices,
)
from aegis.cli.session import SECONDS, Output, OutputOption, fail, out, show_json, show_table
from aegis.v1 import execution_pb2

_DAY = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
_FORMS = (".svg", ".png", ".html")
_SPARK = 60
_BAR = 24
_STYLES = {"healed": "green", "failed": "red", "prevented": "blue", "open": "yellow"}


def report(
    start: Annotated[
        datetime | None, typer.Option("--from", formats=_DAY, help="UTC; else a day before --to.")
    ] = None,
    end: Annotated[
        datetime | None, typer.Option("--to", formats=_DAY, help="UTC; else now.")
    ] = None,
    last: Annotated[str, typer.Option(help="Instead of --from, e.g. 7d.")] = "",
    bucket: Annotated[str, typer.Option(help="One bar a, e.g. 1h; else a 24th of all.")] = "",
    picture: Annotated[
        Path | None,
        typer.Option("--chart", help="Draw it: FILE.svg, FILE.png or FILE.html.", dir_okay=False),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Report what was healed: actions by type and outcome, time to heal, what was refused.

    Exits 0, or 1 when the server refused.
    """
    if picture is not None and picture.suffix not in _FORMS:
        fail(f"{picture} is none of {', '.join(_FORMS)}", "its ending says what it becomes")
    request = _request(start, end, last, bucket)

    async def call(stub: Stub) -> execution_pb2.GetHealingReportResponse:
        return await stub.GetHealingReport(request, timeout=SECONDS)

    found = ask(call)
    if picture is not None:
        _draw(found, picture)
    if output is Output.json:
        show_json(found)
        return
    _tell(found)
    if picture is not None:
        out.print(f"drawn in {picture}", highlight=False, markup=False, soft_wrap=True)


def _request(
    start: datetime | None, end: datetime | None, last: str, bucket: str
) -> execution_pb2.GetHealingReportRequest:
    if start is not None and last:
        fail("--from and --last are two beginnings", "give one of them")
    request = execution_pb2.GetHealingReportRequest()
    if last:
        length = duration(last, "--last").ToTimedelta()
        end = end or datetime.now(UTC)
        try:
            start = end - length
        except OverflowError:
            fail(f"--last {last!r} reaches behind the calendar", "write e.g. 7d")
    if start is not None:
        request.start_time.FromDatetime(start.replace(tzinfo=UTC))
    if end is not None:
        request.end_time.FromDatetime(end.replace(tzinfo=UTC))
    if bucket:
        request.bucket.CopyFrom(duration(bucket, "--bucket"))
    return request


def _tell(found: Report) -> None:
    show_table(
        f"self-healing, {period(found)}",
        HEADINGS,
        rows(found),
        spare=["not done", "unknown", "open"],
    )
    out.print(in_words(found), highlight=False, soft_wrap=True)
    for line in _sparks(found):
        out.print(line, soft_wrap=True)
    refused = refusals(found)
    most = max((count for _, count in refused), default=0)
    show_table(
        "refused by",
        ["check", "times", ""],
        [
            (reason, count, Text(bar(count / most if most else 0, _BAR), "blue"))
            for reason, count in refused
        ],
    )


def _sparks(found: Report) -> list[Text]:
    """One line for each kind that happened, all in the same measure."""
    parts = slices(found, _SPARK)
    counts = {kind: [getattr(each, kind) for each in parts] for kind in _STYLES}
    most = max((max(values, default=0) for values in counts.values()), default=0)
    return [
        Text.assemble(f"  {kind:<10}", (spark(values, most), _STYLES[kind]), f" {sum(values)}")
        for kind, values in counts.items()
        if any(values)
    ]


def _draw(found: Report, picture: Path) -> None:
    drawing = chart(found)
    try:
        if picture.suffix == ".png":
            picture.write_bytes(png(drawing))
        elif picture.suffix == ".svg":
            picture.write_text(svg(drawing), encoding="utf-8")
        else:
            css = (files("aegis.audit.report") / "report.css").read_text(encoding="utf-8")
            numbers = [[reason, str(count)] for reason, count in refusals(found)]
            tables = [
                ("Actions by type", HEADINGS, rows(found)),
                ("Refused by", ["check", "times"], numbers),
            ]
            picture.write_text(page(drawing, css, tables), encoding="utf-8")
    except ModuleNotFoundError:
        fail("a PNG needs Pillow", "pip install 'aegis-control-plane[report]', or draw .svg")
    except OSError as error:
        fail(f"{picture} cannot be written: {error}", "choose another file")
