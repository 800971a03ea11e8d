"""`aegis audit report`: what a verified copy shows of a period, and which articles it speaks to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from aegis.audit.copies import RECORDS, TRUST
from aegis.audit.findings import Verdict
from aegis.audit.report.document import STATUSES, Report, report_of
from aegis.audit.report.facts import Period
from aegis.audit.report.frameworks import KNOWN
from aegis.audit.report.render_html import render_html
from aegis.audit.report.render_json import render_json
from aegis.audit.verifier import verify_copy
from aegis.cli.audit_copy import LOGS, copied, printable, refuse_empty, trust_of
from aegis.cli.session import Output, OutputOption, err, fail, out, run, show_json

_DAY = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


class Format(StrEnum):
    """What the report is written as."""

    html = "html"
    json = "json"
    pdf = "pdf"


def report(
    start: Annotated[
        datetime, typer.Option("--from", formats=_DAY, help="First day, or instant (UTC).")
    ],
    end: Annotated[
        datetime, typer.Option("--to", formats=_DAY, help="The day, or instant, after the last.")
    ],
    framework: Annotated[
        str, typer.Option(help=f"One or more of {', '.join(KNOWN)}, separated by commas.")
    ] = ",".join(KNOWN),
    records: Annotated[
        Path | None, typer.Option(help="A copy made by `aegis audit export`; else one is made now.")
    ] = None,
    external: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of checkpoints that were kept elsewhere; may be repeated."),
    ] = None,
    trust: Annotated[
        Path | None, typer.Option(help="The trust bundle with the keys of logs and witnesses.")
    ] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(help="Judge the age of checkpoints as of then (UTC), not now."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="What to write.")] = Format.html,
    file: Annotated[
        Path | None, typer.Option("--out", help="Where; else aegis-report-FROM-TO in this folder.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Report on a period for auditors; the exit status is that of `aegis audit verify`.

    0 good · 1 altered · 2 truncated · 3 forked · 4 key or signature · 5 stale · 6 a broken rule
    """
    period = Period(start.replace(tzinfo=UTC), end.replace(tzinfo=UTC))
    if period.start >= period.end:
        fail(
            f"--from {start:%Y-%m-%d} is not before --to {end:%Y-%m-%d}",
            "give the first day and the day after the last",
        )
    frameworks = _frameworks(framework)
    refuse_empty(external or [])
    render = _renderer(form)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as scratch:
        directory = records or Path(scratch) / "copy"
        if records is None:
            run(copied(directory, LOGS, lambda log_id, count: None))
        judged = as_of.replace(tzinfo=UTC) if as_of is not None else now
        try:
            bundle = trust_of(directory, trust)
            result = verify_copy(directory, trust=bundle, now=judged, external=external or [])
            found = report_of(
                directory,
                result,
                period=period,
                frameworks=frameworks,
                made_at=now,
                own_keys=trust is not None or not (records and (records / TRUST).is_file()),
            )
        except FileNotFoundError:
            fail(f"{directory} has no {RECORDS}", "make one with `aegis audit export --out DIR`")
        except OSError as error:
            fail(f"the copy cannot be read: {error}", "check the path and its permissions")
    name = f"aegis-report-{start:%Y-%m-%d}-{end:%Y-%m-%d}.{form.value}"
    path = _written(file or Path(name), render(found))
    _tell(found, path, form, output)
    raise typer.Exit(int(result.verdict))


def _frameworks(text: str) -> list[str]:
    names = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in names:
        if name not in KNOWN:
            fail(f"there is no framework {name!r}", f"choose from {', '.join(KNOWN)}")
    if not names:
        fail("no framework is named", f"choose from {', '.join(KNOWN)}")
    return names


def _renderer(form: Format) -> Callable[[Report], bytes]:
    if form is not Format.pdf:
        return render_html if form is Format.html else render_json
    try:
        # Only who wants a PDF needs what draws it.
        from aegis.audit.report.render_pdf import render_pdf
    except ImportError:
        fail(
            "a PDF needs the extra `report`, which is not installed",
            'pip install "aegis-control-plane[cli,report]", or take --format html',
        )
    return render_pdf


def _written(path: Path, content: bytes) -> Path:
    """Writes the file whole or not at all."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        fail(f"{path} cannot be written: {error.strerror}", "name another file with --out")
    return path


def _tell(found: Report, path: Path, form: Format, output: Output) -> None:
    verdict = found.verification.verdict
    if output is Output.json:
        show_json(_summary(found, path, form))
        return
    if verdict is Verdict.GOOD:
        out.print(f"[bold green]good[/] {printable(found.headline)}", highlight=False)
    else:
        word = verdict.name.lower()
        err.print(f"[bold red]{word}[/] {printable(found.headline)}", highlight=False)
    out.print(f"{found.facts.records} records from {found.dates}", highlight=False, soft_wrap=True)
    for each in found.frameworks:
        out.print(
            f"  {each.framework.name}, articles:"
            f" {', '.join(f'{each.count(status)} {status}' for status in STATUSES)}",
            highlight=False,
            soft_wrap=True,
        )
    out.print(str(path), highlight=False, markup=False, soft_wrap=True)


def _summary(found: Report, path: Path, form: Format) -> dict[str, Any]:
    verdict = found.verification.verdict
    return {
        "file": str(path),
        "format": form.value,
        "verdict": verdict.name.lower(),
        "exit_status": int(verdict),
        "headline": found.headline,
        "from": found.period.start.isoformat(),
        "to": found.period.end.isoformat(),
        "records": found.facts.records,
        "frameworks": {
            each.framework.id: {status: each.count(status) for status in STATUSES}
            for each in found.frameworks
        },
    }
