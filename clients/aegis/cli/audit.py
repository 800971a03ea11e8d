"""`aegis audit`: read the record, take a copy, recompute the chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from aegis.audit import chain as auditchain
from aegis.audit.copies import read_records, write_records
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    err,
    fail,
    name_of,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.v1 import audit_pb2, audit_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="Read and verify the record.")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    kind: Annotated[
        list[str] | None, typer.Option(help="decision, access, policy_change, run, review, action")
    ] = None,
    about: Annotated[str, typer.Option(help="Only this run, update, action or decision.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """List records, newest first."""
    kinds = []
    for word in kind or []:
        name = f"AUDIT_KIND_{word.upper()}"
        if name not in audit_pb2.AuditKind.keys():  # noqa: SIM118
            fail(f"there is no kind {word!r}", "see `aegis audit list --help`")
        kinds.append(audit_pb2.AuditKind.Value(name))
    request = audit_pb2.ListAuditRecordsRequest(page_size=limit, kinds=kinds, subject_id=about)
    records = run(_list(request)).records
    if output is Output.json:
        show_json(records)
        return
    show_table(
        "audit",
        ["#", "time", "actor", "action", "resource", "outcome", "rule or reason", "kind"],
        [
            (
                record.index,
                when(record, "time"),
                record.actor,
                record.action,
                record.resource,
                record.outcome,
                record.rule_id or record.reason,
                name_of(audit_pb2.AuditKind, record.kind, "AUDIT_KIND_"),
            )
            for record in records
        ],
        folding=["resource", "rule or reason"],
        spare=["kind", "time", "rule or reason"],
    )


@app.command()
def export(
    directory: Annotated[Path, typer.Option("--out", help="Where to write records.bin.")],
    output: OutputOption = Output.table,
) -> None:
    """Copy the whole record, byte for byte, to a file that can be verified anywhere."""
    count = write_records(directory, run(_export()))
    if output is Output.json:
        show_json({"records": count, "file": str(directory / "records.bin")})
    else:
        out.print(f"{count} records in {directory / 'records.bin'}")


@app.command()
def verify(
    records: Annotated[
        Path | None, typer.Option(help="A directory made by `aegis audit export`.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Recompute the chain, of the server's log or of a copy; exits 1 at the first fault."""
    stored: Iterator[audit_pb2.StoredAuditRecord]
    if records is None:
        stored = iter(run(_export()))
    elif (records / "records.bin").is_file():
        stored = read_records(records)
    else:
        fail(f"{records} has no records.bin", "make one with `aegis audit export --out DIR`")
    result = auditchain.verify(stored)
    if output is Output.json:
        show_json(verification_dict(result))
    else:
        for kind, count in sorted(result.counts.items()):
            out.print(f"  {count:7d} {kind.lower()}")
        if result.fault is None:
            out.print(f"[bold green]intact[/]: {result.records} records")
            out.print(f"head {result.chain_hash.hex()}", highlight=False)
    if result.fault is not None:
        fault = result.fault
        err.print(f"[bold red]record {fault.index}[/]: {fault.problem}", highlight=False)
        if fault.expected:
            err.print(f"  expected {fault.expected}\n  actual   {fault.actual}", highlight=False)
        raise typer.Exit(1)


def verification_dict(result: auditchain.Verification) -> dict[str, Any]:
    """Returns what a verification found as plain values."""
    fault = result.fault
    return {
        "intact": result.intact,
        "records": result.records,
        "chain_hash": result.chain_hash.hex(),
        "counts": {kind.lower(): count for kind, count in sorted(result.counts.items())},
        "fault": None
        if fault is None
        else {
            "index": fault.index,
            "problem": fault.problem,
            "expected": fault.expected,
            "actual": fault.actual,
        },
    }


async def _list(request: audit_pb2.ListAuditRecordsRequest) -> audit_pb2.ListAuditRecordsResponse:
    async with channel() as opened:
        return await audit_pb2_grpc.AuditServiceStub(opened).ListAuditRecords(
            request, timeout=SECONDS
        )


async def _export() -> list[audit_pb2.StoredAuditRecord]:
    async with channel() as opened:
        stub = audit_pb2_grpc.AuditServiceStub(opened)
        call = stub.ExportAuditRecords(audit_pb2.ExportAuditRecordsRequest())
        return [record async for batch in call for record in batch.records]
