"""Chapter 5: the record of it all, verified, and then altered behind Aegis' back."""

from __future__ import annotations

import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import grpc
from rich.console import Console

from aegis.audit.copies import RECORDS, scan_records
from aegis.audit.findings import Result, Verdict
from aegis.audit.verifier import verify_copy
from aegis.cli.audit_copy import LOGS, copy_logs
from aegis.cli.demo.board import chapter
from aegis.cli.demo.results import Results
from aegis.cli.session import new_table
from aegis.trust import TrustBundle

_SERVER = LOGS[0]


class Record:
    """Copies the logs, verifies the copy, and verifies it again after somebody tampered with it."""

    def __init__(
        self, *, channel: grpc.aio.Channel, trust: Path, console: Console, results: Results
    ) -> None:
        self._channel = channel
        self._trust = trust
        self._console = console
        self._results = results

    async def tell(self) -> None:
        """Plays the chapter."""
        chapter(self._console, "5. The record")
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "copy"
            await copy_logs(self._channel, copy, LOGS, self._trust)
            result = self._verified(copy)
            self._show(result)
            self._tamper(copy)
            self._cut_short(copy)

    def _verified(self, copy: Path) -> Result:
        return verify_copy(copy, trust=TrustBundle.load(self._trust), now=datetime.now(UTC))

    def _show(self, result: Result) -> None:
        server = next(log for log in result.logs if log.log_id == _SERVER)
        table = new_table("audit records of the server")
        for kind in sorted(server.counts):
            table.add_column(kind.lower(), justify="right")
        table.add_row(*(str(count) for _, count in sorted(server.counts.items())))
        self._console.print(table)
        intact = result.verdict is Verdict.GOOD
        verdict = "[bold green]intact[/]" if intact else f"[bold red]{result.verdict.name}[/]"
        told = ", ".join(f"{log.records} records of {log.log_id}" for log in result.logs)
        self._console.print(f"\n{told}: {verdict}")
        signed = sum(log.checkpoints for log in result.logs)
        self._console.print(
            f"{signed} signed checkpoints, cosigned by {', '.join(sorted(server.witnesses))}"
        )
        self._results.measure("audit", "intact", intact)
        self._results.measure("audit", "records", server.records)
        self._results.measure("audit", "checkpoints", signed)
        self._results.expect(
            "the audit logs are intact",
            intact and server.records > 0 and bool(server.witnesses),
            f"{server.records} records",
        )

    def _tamper(self, copy: Path) -> None:
        path = copy / _SERVER / RECORDS
        whole = path.read_bytes()
        records = list(scan_records(copy / _SERVER))
        victim = random.Random(self._results.seed).randrange(len(records))  # noqa: S311
        begin = sum(len(each.record) + 100 for each in records[:victim]) + 4
        spot = begin + len(records[victim].record) // 2
        path.write_bytes(whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :])
        first = self._verified(copy).findings[:1]
        path.write_bytes(whole)
        found = [(each.verdict, each.index) for each in first] == [(Verdict.ALTERED, victim)]
        self._console.print(f"in a copy, one bit of record {victim} is flipped")
        for each in first:
            self._console.print(f"[red]•[/] record [bold]{each.index}[/]: {each.problem}")
        self._results.measure("audit", "tampered_record_found", found)
        self._results.measure("audit", "tampered_record", victim)
        self._results.expect(
            "verification names the altered record",
            found,
            f"altered {victim}, found {first[0].index if first else 'nothing'}",
        )

    def _cut_short(self, copy: Path) -> None:
        path = copy / _SERVER / RECORDS
        records = list(scan_records(copy / _SERVER))
        kept = sum(len(each.record) + 100 for each in records[: len(records) // 2])
        path.write_bytes(path.read_bytes()[:kept])
        verdict = self._verified(copy).verdict
        self._console.print("in a copy, the second half of the records is cut off")
        self._console.print(f"[red]•[/] the signed checkpoints know more: {verdict.name.lower()}")
        self._results.measure("audit", "truncation_found", verdict is Verdict.TRUNCATED)
        self._results.expect(
            "verification notices what was cut off",
            verdict is Verdict.TRUNCATED,
            verdict.name.lower(),
        )
