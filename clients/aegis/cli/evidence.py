"""`aegis update evidence` and `verify-evidence`: what a verdict rests on, and a check of it."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from aegis.audit.copies import logs_in
from aegis.cli.audit_copy import printable
from aegis.cli.session import (
    Output,
    OutputOption,
    channel,
    err,
    fail,
    out,
    run,
    show_json,
    target,
)
from aegis.errors import DataLoss
from aegis.evidence.archive import BUNDLE_BYTES_MAX
from aegis.evidence.manifest import PAGE
from aegis.evidence.verification import Finding, Result, verify_bundle
from aegis.trust import TrustBundle
from aegis.v1 import review_pb2, review_pb2_grpc

# The first request draws the pictures.
_SECONDS = 180.0


def evidence(
    update_id: Annotated[str, typer.Argument(help="As `aegis update list` shows it.")],
    to: Annotated[
        Path | None, typer.Option("--to", "-f", help="Where to put it; else UPDATE.zip here.")
    ] = None,
    open_dir: Annotated[
        Path | None, typer.Option(help="Verify it and unpack it there as well; must not exist.")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option(help="The trust bundle to verify against.", dir_okay=False)
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Bring the evidence of an update's verdict: numbers, pictures, a page, signed."""
    file = to or Path(f"{update_id}.zip")
    if open_dir is not None and open_dir.exists():
        fail(f"{open_dir} is there already", "name a folder that is not")
    words = f"fetching {update_id}; who asks first waits for its pictures"
    with err.status(words) if err.is_terminal else nullcontext():
        data = run(_download(update_id))
    _put(file, data)
    if open_dir is not None:
        result = verify_bundle(data, trust=_trust(trust))
        if not result.good:
            _tell(result)
            raise typer.Exit(1)
        _unpack(result, open_dir)
    if output is Output.json:
        digest = hashlib.sha256(data).hexdigest()
        show_json({"file": str(file), "sha256": digest, "size_bytes": len(data)})
        return
    out.print(f"{len(data):,} bytes in {file}", highlight=False)
    if open_dir is not None:
        out.print(f"verified; read {open_dir / PAGE}", highlight=False)


def verify_evidence(
    file: Annotated[Path, typer.Argument(help="A bundle, from `aegis update evidence`.")],
    trust: Annotated[
        Path | None,
        typer.Option(help="The trust bundle with the server's key; else that of this home."),
    ] = None,
    update: Annotated[
        Path | None, typer.Option(help="The update's file: is the evidence about these bytes?")
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(help="A copy made by `aegis audit export`: was the verdict recorded so?"),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Check a bundle offline: signature, every file, and what it says of itself.

    Exit status: 0 good · 1 not what the server signed, or about another update · 2 not checked
    """
    bundle = _trust(trust)
    if audit is not None and not logs_in(audit):
        fail(f"there is no copy of an audit log in {audit}", "make one: `aegis audit export`")
    try:
        # A file of any size is turned away, but not read whole.
        with file.open("rb") as source:
            data = source.read(BUNDLE_BYTES_MAX + 1)
        given = update.read_bytes() if update is not None else None
        result = verify_bundle(data, trust=bundle, update=given, audit=audit)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", "check the path and its permissions")
    if output is Output.json:
        show_json(result_dict(result))
    else:
        _tell(result)
    raise typer.Exit(0 if result.good else 1)


def result_dict(result: Result) -> dict[str, Any]:
    """Returns what a verification found as plain values."""
    manifest, key = result.manifest, result.key
    return {
        "good": result.good,
        "checked": [str(check) for check in result.checked],
        "findings": [_finding_dict(finding) for finding in result.findings],
        "key_id": key.key_id if key is not None else None,
        "signed_by": key.owner if key is not None else None,
        "update_id": manifest.update_id if manifest is not None else None,
        "run_id": manifest.run_id if manifest is not None else None,
        "round": manifest.round if manifest is not None else None,
        "participant": manifest.participant if manifest is not None else None,
        "verdict": manifest.verdict if manifest is not None else None,
        "evidence_sha256": manifest.evidence_sha256.hex() if manifest is not None else None,
    }


def _finding_dict(finding: Finding) -> dict[str, str]:
    return {
        "check": str(finding.check),
        "file": finding.file,
        "problem": finding.problem,
        "expected": finding.expected,
        "actual": finding.actual,
    }


def _tell(result: Result) -> None:
    """Prints what was proven, and what was not; texts of the bundle are not ours."""
    for finding in result.findings:
        place = f" {finding.file}" if finding.file else ""
        told = printable(f"{place}: {finding.problem}")
        err.print(f"[bold red]{finding.check}[/]{told}", highlight=False)
        if finding.expected or finding.actual:
            expected, actual = printable(finding.expected), printable(finding.actual)
            err.print(f"  expected {expected}\n  actual   {actual}", highlight=False)
    manifest, key = result.manifest, result.key
    if not result.good or manifest is None or key is None:
        return
    what = f"{manifest.update_id} of {manifest.participant}, round {manifest.round}"
    out.print(
        f"[bold green]good[/]: {printable(what)} of {printable(manifest.run_id)}:"
        f" [bold]{printable(manifest.verdict)}[/] {manifest.review_time:%Y-%m-%d %H:%M:%S} UTC\n"
        f"  signed by {printable(key.owner)}, key {key.key_id}\n"
        f"  checked: {', '.join(result.checked)}",
        highlight=False,
    )


async def _download(update_id: str) -> bytes:
    async with channel() as opened:
        stub = review_pb2_grpc.ReviewServiceStub(opened)
        request = review_pb2.DownloadEvidenceRequest(update_id=update_id)
        header: review_pb2.DownloadEvidenceResponse.Header | None = None
        data = bytearray()
        async for part in stub.DownloadEvidence(request, timeout=_SECONDS):
            if part.WhichOneof("part") == "header":
                header = part.header
            data += part.chunk
    if header is None or hashlib.sha256(data).digest() != header.sha256:
        digest = header.sha256.hex() if header is not None else ""
        raise DataLoss("DATA_DAMAGED", "what came is not what was announced", sha256=digest)
    return bytes(data)


def _put(file: Path, data: bytes) -> None:
    """Puts the file there as a whole."""
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
    try:
        fresh.write_bytes(data)
        fresh.replace(file)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        fail(str(error), "name another place with --to")


def _unpack(result: Result, folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
        for name, data in result.files.items():
            # Names were checked: no folders, nothing hidden.
            (folder / name).write_bytes(data)
    except OSError as error:
        fail(str(error), "name another folder with --open-dir")


def _trust(given: Path | None) -> TrustBundle:
    path = given or target.home / "pki" / "trust.json"
    if not path.is_file():
        fail(f"no trust bundle: {path}", "name the one with the server's keys with --trust")
    try:
        return TrustBundle.load(path)
    except (OSError, ValueError) as error:
        fail(str(error), "name another trust bundle with --trust")
