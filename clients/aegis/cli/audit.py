"""`aegis audit`: read the record, prove what is in it, follow it, erase what must be erased."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.message import DecodeError

from aegis.audit import merkle
from aegis.audit.chain import leaf_hash
from aegis.audit.checkpoints import CheckpointError
from aegis.audit.copies import TRUST
from aegis.audit.signers import open_checkpoint
from aegis.cli import audit_copy
from aegis.cli import report as compliance
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    as_dict,
    channel,
    err,
    fail,
    name_of,
    out,
    run,
    show_json,
    show_table,
    target,
    when,
)
from aegis.trust import TrustBundle
from aegis.v1 import audit_pb2, audit_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="Read and verify the record.")
app.command()(audit_copy.export)
app.command()(audit_copy.verify)
app.command()(compliance.report)

_COLUMNS = ["#", "time", "actor", "action", "resource", "outcome", "rule or reason", "kind"]

KindOption = Annotated[
    list[str] | None,
    typer.Option(help="decision, access, policy_change, run, review, action, identity …"),
]
ActorOption = Annotated[str, typer.Option(help="Only what this subject caused.")]
ActionOption = Annotated[str, typer.Option(help="Only this verb.")]
ResourceOption = Annotated[str, typer.Option(help="Only this path and what is below it.")]
OutcomeOption = Annotated[str, typer.Option(help="Only this outcome.")]
SinceOption = Annotated[datetime | None, typer.Option(help="From this time on (UTC).")]
UntilOption = Annotated[datetime | None, typer.Option(help="Before this time (UTC).")]
LogOption = Annotated[str, typer.Option(help="aegis-server or aegis-executor.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    kind: KindOption = None,
    about: Annotated[str, typer.Option(help="Only this run, update, action or decision.")] = "",
    actor: ActorOption = "",
    action: ActionOption = "",
    resource: ResourceOption = "",
    outcome: OutcomeOption = "",
    since: SinceOption = None,
    until: UntilOption = None,
    log: LogOption = "",
    output: OutputOption = Output.table,
) -> None:
    """List records, newest first."""
    request = audit_pb2.ListAuditRecordsRequest(
        page_size=limit,
        kinds=_kinds(kind),
        subject_id=about,
        filter=_filter(actor, action, resource, outcome, since, until),
        log_id=log,
    )
    records = run(_list(request)).records
    if output is Output.json:
        show_json(records)
        return
    show_table(
        "audit",
        _COLUMNS,
        [_row(record) for record in records],
        folding=["resource", "rule or reason"],
        spare=["kind", "time", "rule or reason"],
    )


@app.command()
def show(
    index: Annotated[int, typer.Argument(min=0, help="The record's number.")],
    log: LogOption = "",
    trust: Annotated[
        Path | None, typer.Option(help="The trust bundle with the key of the log.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show one record, what is beside it, and the proof that the signed log holds it."""
    pki = target.home / "pki"
    # Without a bundle no signature is known, and nothing is proven.
    known = trust is not None or (pki / TRUST).is_file()
    bundle = audit_copy.trust_of(pki, trust) if known else TrustBundle(())
    stored, proof, note = run(_show(index, log))
    record = audit_pb2.AuditRecord.FromString(stored.record)
    problem = fault_of_proof(index, stored, proof, note, bundle)
    shown = {
        "record": as_dict(record),
        "attachments": {beside.name: len(beside.content) for beside in stored.attachments},
        "leaf_hash": stored.leaf_hash.hex(),
        "tree_size": proof.tree_size,
        "proven": not problem,
        "problem": problem,
    }
    if output is Output.json:
        show_json(shown)
    else:
        show_table("record", _COLUMNS, [_row(record)], folding=["resource", "rule or reason"])
        for name, value in sorted(record.details.items()):
            out.print(f"  {name}: {value}", highlight=False, markup=False)
        for digest in record.attachments:
            kept = any(beside.name == digest.name for beside in stored.attachments)
            name = audit_copy.printable(digest.name)
            out.print(f"  beside it: {name}{'' if kept else ' (erased)'}", highlight=False)
        if not problem:
            out.print(f"[green]proven[/] to be in the signed tree of {proof.tree_size} records")
    if problem:
        err.print(f"[bold red]not proven[/] {audit_copy.printable(problem)}", highlight=False)
        raise typer.Exit(1)


@app.command()
def watch(
    kind: KindOption = None,
    actor: ActorOption = "",
    resource: ResourceOption = "",
    outcome: OutcomeOption = "",
    log: LogOption = "",
    output: OutputOption = Output.table,
) -> None:
    """Follow the record until Ctrl-C."""
    request = audit_pb2.WatchAuditRecordsRequest(
        start_index=-1,
        kinds=_kinds(kind),
        filter=_filter(actor, "", resource, outcome, None, None),
        log_id=log,
    )
    with contextlib.suppress(asyncio.CancelledError):
        run(_watch(request, output))


@app.command()
def checkpoint(log: LogOption = "", output: OutputOption = Output.table) -> None:
    """Show the newest signed checkpoint: keep it, and nobody can rewrite the log before it."""
    found = run(_checkpoint(log))
    if output is Output.json:
        show_json(found)
    else:
        typer.echo(found.note, nl=False)


@app.command()
def erase(
    index: Annotated[int, typer.Argument(min=0, help="The record's number.")],
    reason: Annotated[str, typer.Option(help="Why, e.g. the number of the request; is recorded.")],
    output: OutputOption = Output.table,
) -> None:
    """Erase free text and signed requests beside a record; the chain stays whole."""
    names = run(_erase(index, reason))
    if output is Output.json:
        show_json({"index": index, "erased": list(names)})
    else:
        out.print(f"erased beside record {index}: {', '.join(names)}", highlight=False)


def _kinds(words: list[str] | None) -> list[audit_pb2.AuditKind.ValueType]:
    kinds = []
    for word in words or []:
        name = f"AUDIT_KIND_{word.upper()}"
        if name not in audit_pb2.AuditKind.keys():  # noqa: SIM118
            fail(f"there is no kind {word!r}", "see `aegis audit list --help`")
        kinds.append(audit_pb2.AuditKind.Value(name))
    return kinds


def _filter(
    actor: str,
    action: str,
    resource: str,
    outcome: str,
    since: datetime | None,
    until: datetime | None,
) -> audit_pb2.AuditFilter:
    chosen = audit_pb2.AuditFilter(actor=actor, action=action, resource=resource, outcome=outcome)
    if since is not None:
        chosen.start_time.FromDatetime(since.replace(tzinfo=UTC))
    if until is not None:
        chosen.end_time.FromDatetime(until.replace(tzinfo=UTC))
    return chosen


def _row(record: audit_pb2.AuditRecord) -> tuple[object, ...]:
    return (
        record.index,
        when(record, "time"),
        record.actor,
        record.action,
        record.resource,
        record.outcome,
        record.rule_id or record.reason,
        name_of(audit_pb2.AuditKind, record.kind, "AUDIT_KIND_"),
    )


def fault_of_proof(
    index: int,
    stored: audit_pb2.StoredAuditRecord,
    proof: audit_pb2.GetInclusionProofResponse,
    note: str,
    trust: TrustBundle,
) -> str:
    """Returns why a record is not proven to be the one of its number in a signed tree, or ""."""
    try:
        signed = open_checkpoint(note, trust)
        record = audit_pb2.AuditRecord.FromString(stored.record)
        if (record.log_id, record.index) != (signed.log_id, index):
            return f"this is record {record.index} of {record.log_id}"
        leaf = leaf_hash(stored.record)
        root = merkle.root_from_inclusion(index, signed.size, leaf, proof.hashes)
    except (CheckpointError, DecodeError, ValueError) as error:
        return str(error)
    return "" if root == signed.root else "the proof leads to another root than the signed one"


async def _list(request: audit_pb2.ListAuditRecordsRequest) -> audit_pb2.ListAuditRecordsResponse:
    async with channel() as opened:
        return await audit_pb2_grpc.AuditServiceStub(opened).ListAuditRecords(
            request, timeout=SECONDS
        )


async def _show(index: int, log: str) -> tuple[Any, Any, str]:
    async with channel() as opened:
        stub = audit_pb2_grpc.AuditServiceStub(opened)
        wanted = audit_pb2.GetAuditRecordRequest(index=index, log_id=log)
        stored = (await stub.GetAuditRecord(wanted, timeout=SECONDS)).record
        newest = await _newest_with(stub, index, log)
        asked = audit_pb2.GetInclusionProofRequest(
            index=index, tree_size=newest.tree_size, log_id=log
        )
        return stored, await stub.GetInclusionProof(asked, timeout=SECONDS), newest.note


async def _newest_with(
    stub: audit_pb2_grpc.AuditServiceStub, index: int, log: str
) -> audit_pb2.SignedCheckpoint:
    """Returns the newest checkpoint, waiting a little for one that knows the record."""
    for _ in range(60):
        request = audit_pb2.GetCheckpointRequest(log_id=log)
        newest = (await stub.GetCheckpoint(request, timeout=SECONDS)).checkpoint
        if newest.tree_size > index:
            break
        await asyncio.sleep(0.25)
    return newest


async def _watch(request: audit_pb2.WatchAuditRecordsRequest, output: Output) -> None:
    async with channel() as opened:
        call = audit_pb2_grpc.AuditServiceStub(opened).WatchAuditRecords(request)
        async for batch in call:
            for record in batch.records:
                if output is Output.json:
                    show_json(record)
                else:
                    cells = [str(cell) for cell in _row(record) if cell != ""]
                    out.print("  ".join(cells), highlight=False, markup=False, soft_wrap=True)


async def _checkpoint(log: str) -> audit_pb2.SignedCheckpoint:
    async with channel() as opened:
        stub = audit_pb2_grpc.AuditServiceStub(opened)
        request = audit_pb2.GetCheckpointRequest(log_id=log)
        return (await stub.GetCheckpoint(request, timeout=SECONDS)).checkpoint


async def _erase(index: int, reason: str) -> list[str]:
    async with channel() as opened:
        stub = audit_pb2_grpc.AuditServiceStub(opened)
        request = audit_pb2.EraseAuditAttachmentsRequest(index=index, reason=reason)
        return list((await stub.EraseAuditAttachments(request, timeout=SECONDS)).names)
