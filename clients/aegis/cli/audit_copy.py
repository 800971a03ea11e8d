"""`aegis audit export` and `aegis audit verify`: a copy that can be checked anywhere."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.markup import escape

from aegis.audit.copies import RECORDS, TRUST, CopyWriter, notes_in
from aegis.audit.findings import Finding, LogResult, Result, Verdict
from aegis.audit.verifier import verify_copy
from aegis.cli.session import Output, OutputOption, channel, err, fail, out, run, show_json, target
from aegis.serving.trusting import folder_of
from aegis.trust import TrustBundle
from aegis.v1 import audit_pb2, audit_pb2_grpc

LOGS = ("aegis-server", "aegis-executor")
_TELL_EVERY = 20_000


def export(
    directory: Annotated[Path, typer.Option("--out", help="Where to write the copy.")],
    log: Annotated[
        list[str] | None, typer.Option(help="Only this log; both when not given.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Copy the logs, byte for byte, with their checkpoints, to files that verify anywhere."""
    counts = run(copied(directory, log or LOGS, _tell))
    if output is Output.json:
        show_json({"directory": str(directory), "logs": counts})
        return
    for log_id, count in counts.items():
        out.print(
            f"{count['records']} records and {count['checkpoints']} checkpoints of {log_id}"
            f" in {directory / log_id}",
            highlight=False,
        )
        if count["unsigned"]:
            out.print(
                f"  the newest {count['unsigned']} are in no checkpoint yet: chained, not proven;"
                " in ten seconds another copy has them",
                highlight=False,
            )


def verify(
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
    log: Annotated[
        list[str] | None,
        typer.Option(help="Of a copy of this log alone: others may be missing."),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Recompute every hash and signature; the exit status says what is wrong.

    0 good · 1 altered · 2 truncated · 3 forked · 4 key or signature · 5 stale · 6 a broken rule
    """
    refuse_empty(external or [])
    with tempfile.TemporaryDirectory() as scratch:
        directory = records or Path(scratch) / "copy"
        if records is None:
            run(copied(directory, LOGS, _tell))
        bundle = trust_of(directory, trust)
        now = as_of.replace(tzinfo=UTC) if as_of is not None else datetime.now(UTC)
        try:
            result = verify_copy(
                directory, trust=bundle, now=now, external=external or [], only=log or []
            )
        except FileNotFoundError:
            fail(f"{directory} has no {RECORDS}", "make one with `aegis audit export --out DIR`")
        except OSError as error:
            fail(f"the copy cannot be read: {error}", "check the path and its permissions")
    if output is Output.json:
        show_json(result_dict(result))
    else:
        _show(result)
    if trust is None and records is not None and output is Output.table:
        err.print("  the keys came with the copy; name your own with --trust", highlight=False)
    raise typer.Exit(int(result.verdict))


def refuse_empty(external: Sequence[Path]) -> None:
    """Fails for folders without checkpoints: of a disk that is not mounted, nothing contradicts."""
    for folder in external:
        if not folder.is_dir():
            fail(f"{folder} is no folder", "name the folder of a sink, a witness or another copy")
        try:
            found = any(notes_in(folder))
        except OSError as error:
            fail(f"{folder} cannot be read: {error}", "check the path and its permissions")
        if not found:
            fail(f"{folder} holds no checkpoints", "see whether it is mounted, and the right one")


async def copied(
    directory: Path, logs: Sequence[str], tell: Callable[[str, int], None]
) -> dict[str, dict[str, int]]:
    """Copies logs and the trust bundle; returns how many of what, by log.

    `records`, `checkpoints`, and how many of the newest records are `unsigned`: in none of those.
    """
    async with channel() as opened:
        return await copy_logs(opened, directory, logs, target.home / "pki" / TRUST, tell)


async def copy_logs(
    opened: grpc.aio.Channel,
    directory: Path,
    logs: Sequence[str],
    trust: Path,
    tell: Callable[[str, int], None] = lambda log_id, count: None,
) -> dict[str, dict[str, int]]:
    """As `copied`, over a channel that is open already.

    Checkpoints are copied first: a copy may have more records than they know of, never fewer.
    """
    stub = audit_pb2_grpc.AuditServiceStub(opened)
    counts = {}
    for log_id in logs:
        with CopyWriter(directory / log_id) as copy:
            notes = stub.ExportCheckpoints(audit_pb2.ExportCheckpointsRequest(log_id=log_id))
            async for some in notes:
                for checkpoint in some.checkpoints:
                    copy.add_note(checkpoint.note)
            stored = stub.ExportAuditRecords(audit_pb2.ExportAuditRecordsRequest(log_id=log_id))
            async for batch in stored:
                for record in batch.records:
                    copy.add(record)
                tell(log_id, copy.records)
        counts[log_id] = {
            "records": copy.records,
            "checkpoints": copy.notes,
            "unsigned": copy.unsigned,
        }
    await asyncio.to_thread(_copy_trust, trust, directory)
    return counts


def _copy_trust(trust: Path, directory: Path) -> None:
    if trust.is_file():
        shutil.copyfile(trust, directory / TRUST)


def result_dict(result: Result) -> dict[str, Any]:
    """Returns what a verification found as plain values."""
    return {
        "verdict": result.verdict.name.lower(),
        "exit_status": int(result.verdict),
        "logs": [_log_dict(log) for log in result.logs],
        "findings": [_finding_dict(finding) for finding in result.findings],
    }


def _log_dict(log: LogResult) -> dict[str, Any]:
    newest = log.newest
    return {
        "log_id": log.log_id,
        "records": log.records,
        "chain_hash": log.chain_hash.hex(),
        "root_hash": log.root.hex(),
        "counts": {kind.lower(): count for kind, count in sorted(log.counts.items())},
        "attachments_gone": log.erased,
        "checkpoints": log.checkpoints,
        "newest_checkpoint": None
        if newest is None
        else {"tree_size": newest.size, "time": newest.time.isoformat()},
        "witnessed_size": dict(sorted(log.witnesses.items())),
    }


def _finding_dict(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": finding.verdict.name.lower(),
        "log_id": finding.log_id,
        "index": finding.index,
        "problem": finding.problem,
        "expected": finding.expected,
        "actual": finding.actual,
    }


def _show(result: Result) -> None:
    for log in result.logs:
        out.print(f"[bold]{printable(log.log_id)}[/]: {log.records} records", highlight=False)
        for kind, count in sorted(log.counts.items()):
            out.print(f"  {count:7d} {kind.lower()}")
        out.print(f"  root {log.root.hex()}", highlight=False)
        if log.newest is not None:
            out.print(
                f"  {log.checkpoints} checkpoints, the newest of {log.newest.size} records at"
                f" {log.newest.time:%Y-%m-%d %H:%M:%S} UTC",
                highlight=False,
            )
        for name, size in sorted(log.witnesses.items()):
            out.print(f"  {name} has seen {size} records", highlight=False)
    for finding in result.findings:
        place = "" if finding.index is None else f" record {finding.index}"
        word = finding.verdict.name.lower()
        told = printable(f"{finding.log_id}{place}: {finding.problem}")
        err.print(f"[bold red]{word}[/] {told}", highlight=False)
        if finding.expected or finding.actual:
            err.print(
                f"  expected {finding.expected}\n  actual   {finding.actual}", highlight=False
            )
    if result.verdict is Verdict.GOOD:
        out.print("[bold green]good[/]: every hash, signature and rule holds")


def printable(text: str) -> str:
    """Returns a text of a copy for a terminal: what it holds is not proven, and may be commands."""
    plain = (each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return escape("".join(plain))


def _tell(log_id: str, count: int) -> None:
    if err.is_terminal and count % _TELL_EVERY < 256 and count >= _TELL_EVERY:
        err.print(f"  {count} records of {log_id}", highlight=False)


def trust_of(directory: Path, given: Path | None) -> TrustBundle:
    """Returns the bundle that was named, or that came with the copy, or of this home."""
    places = [given] if given else [directory / TRUST, target.home / "pki" / TRUST]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        fail(f"no trust bundle: {places[0]}", "name one that has the keys of the logs with --trust")
    try:
        # What was signed with a shared secret is proven to who has it, and to nobody else.
        return TrustBundle.load(path, secrets=folder_of(os.environ.get("AEGIS_SHARED_SECRETS")))
    except ValueError as error:
        fail(str(error), "name another trust bundle with --trust")
