"""Chapter 4: the record of it all, verified, and then altered behind Aegis' back."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from rich.console import Console

from aegis.audit import chain as auditchain
from aegis.audit.copies import read_records, write_records
from aegis.cli.demo.board import chapter
from aegis.cli.demo.results import Results
from aegis.cli.session import new_table
from aegis.v1 import audit_pb2, audit_pb2_grpc


class Record:
    """Exports the log, verifies it, and verifies a copy somebody tampered with."""

    def __init__(
        self,
        *,
        audit: audit_pb2_grpc.AuditServiceStub,
        console: Console,
        results: Results,
    ) -> None:
        self._audit = audit
        self._console = console
        self._results = results

    async def tell(self) -> None:
        """Plays the chapter."""
        chapter(self._console, "4. The record")
        call = self._audit.ExportAuditRecords(audit_pb2.ExportAuditRecordsRequest(), timeout=60)
        records = [record async for batch in call for record in batch.records]
        result = auditchain.verify(records)
        table = new_table("audit records")
        for kind in sorted(result.counts):
            table.add_column(kind.lower(), justify="right")
        table.add_row(*(str(count) for _, count in sorted(result.counts.items())))
        self._console.print(table)
        verdict = "[bold green]intact[/]" if result.intact else "[bold red]broken[/]"
        self._console.print(f"\nchain of {result.records} records: {verdict}")
        self._results.measure("audit", "intact", result.intact)
        self._results.measure("audit", "records", result.records)
        self._results.expect(
            "the audit chain is intact",
            result.intact and result.records > 0,
            f"{result.records} records",
        )
        self._tamper(records)

    def _tamper(self, records: list[audit_pb2.StoredAuditRecord]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch)
            victim = random.Random(self._results.seed).randrange(len(records))  # noqa: S311
            altered = audit_pb2.AuditRecord.FromString(records[victim].record)
            before, altered.outcome = altered.outcome, "never happened"
            records[victim].record = altered.SerializeToString()
            write_records(copy, records)
            fault = auditchain.verify(read_records(copy)).fault
        found = fault is not None and fault.index == victim
        self._console.print(
            f"in a copy, record {victim} now says {altered.outcome!r} instead of {before!r}"
        )
        if fault is not None:
            self._console.print(f"[red]•[/] record [bold]{fault.index}[/]: {fault.problem}")
        self._results.measure("audit", "tampered_record_found", found)
        self._results.measure("audit", "tampered_record", victim)
        self._results.expect(
            "verification names the altered record",
            found,
            f"altered {victim}, found {fault.index if fault is not None else 'nothing'}",
        )
