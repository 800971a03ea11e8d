"""`aegis update submit` and `download`: updates as files, on their way in and out."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

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
)
from aegis.errors import from_rpc_error
from aegis.v1 import identity_pb2, identity_pb2_grpc, review_pb2, review_pb2_grpc

_CHUNK = 64 * 1024
_STREAM_SECONDS = 3600.0
# How long a connection that broke off is tried again without getting any further.
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_PARTICIPANT = "participant:"
_BROKEN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


@dataclass(frozen=True, slots=True)
class _Sending:
    """A file on its way."""

    data: bytes
    header: review_pb2.SubmitUpdateRequest.Header
    progress: Progress

    async def parts(self, offset: int) -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        """Yields the header and the chunks behind `offset`."""
        header = review_pb2.SubmitUpdateRequest.Header()
        header.CopyFrom(self.header)
        header.offset = offset
        yield review_pb2.SubmitUpdateRequest(header=header)
        for start in range(offset, len(self.data), _CHUNK):
            chunk = self.data[start : start + _CHUNK]
            yield review_pb2.SubmitUpdateRequest(chunk=chunk)
            self.progress.update(self.progress.task_ids[0], completed=start + len(chunk))


def submit(
    file: Annotated[Path, typer.Argument(help="A safetensors file: model after minus before.")],
    run_id: Annotated[str, typer.Option("--run", help="The run it is for.")],
    number: Annotated[int, typer.Option("--round", min=1, help="The round it is for.")],
    participant: Annotated[
        str, typer.Option(help="Whose update it is; a participant's own by default.")
    ] = "",
    base: Annotated[
        str, typer.Option(help="SHA-256 of the model it starts from, to have that checked.")
    ] = "",
    attempt: Annotated[
        int, typer.Option(min=1, help="Which try of the round; later ones find it, too.")
    ] = 1,
    output: OutputOption = Output.table,
) -> None:
    """Send an update to be reviewed; a stream that breaks off goes on by itself."""
    if not file.is_file():
        fail(f"there is no file {file}", "name a safetensors file")
    try:
        base_sha256 = bytes.fromhex(base)
    except ValueError:
        fail(f"{base!r} is no SHA-256", "`aegis train show RUN` has the one of each model")
    data = file.read_bytes()
    header = review_pb2.SubmitUpdateRequest.Header(
        run_id=run_id,
        round=number,
        attempt=attempt,
        participant=participant,
        sha256=hashlib.sha256(data).digest(),
        size_bytes=len(data),
        base_sha256=base_sha256,
    )
    update = run(_submit(data, header, quiet=output is Output.json))
    if output is Output.json:
        show_json(update)
        return
    verdict = name_of(review_pb2.Update.Verdict, update.verdict, "VERDICT_")
    out.print(f"[bold]{update.update_id}[/] {verdict}", highlight=False)


def download(
    update_id: Annotated[str, typer.Argument(help="As `aegis update list` shows it.")],
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
) -> None:
    """Write the bytes of an update to a file."""
    if file.exists():
        fail(f"{file} exists already", "choose another name")
    data, wanted = run(_download(update_id))
    if hashlib.sha256(data).digest() != wanted:
        fail("the bytes that came are not those that were reviewed", "try again")
    file.write_bytes(data)
    out.print(f"{file} {len(data)} bytes, sha256 {wanted.hex()}", highlight=False)


async def _submit(
    data: bytes, header: review_pb2.SubmitUpdateRequest.Header, *, quiet: bool
) -> review_pb2.Update:
    columns = (TextColumn("sending"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal) as progress:
        progress.add_task("sending", total=len(data))
        sending = _Sending(data, header, progress)
        give_up, furthest = time.monotonic() + _PATIENCE_SECONDS, 0
        while True:
            try:
                async with channel(retries=False) as opened:
                    if not header.participant:
                        header.participant = await _own_name(opened)
                    stub = review_pb2_grpc.ReviewServiceStub(opened)
                    asked = review_pb2.GetUploadRequest(header=header)
                    offset = (await stub.GetUpload(asked, timeout=SECONDS)).received_bytes
                    if offset > furthest:
                        give_up, furthest = time.monotonic() + _PATIENCE_SECONDS, offset
                    response = await stub.SubmitUpdate(
                        sending.parts(offset), timeout=_STREAM_SECONDS
                    )
                    return response.update
            except grpc.aio.AioRpcError as error:
                if error.code() not in _BROKEN or time.monotonic() > give_up:
                    raise
                err.print(f"{from_rpc_error(error).message}; going on", highlight=False)
            await asyncio.sleep(_PAUSE_SECONDS)


async def _own_name(opened: grpc.aio.Channel) -> str:
    stub = identity_pb2_grpc.IdentityServiceStub(opened)
    me = await stub.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=SECONDS)
    if not me.subject.startswith(_PARTICIPANT):
        fail(f"{me.subject} is no participant", "say whose update it is with --participant")
    return me.subject.removeprefix(_PARTICIPANT)


async def _download(update_id: str) -> tuple[bytes, bytes]:
    async with channel() as opened:
        stub = review_pb2_grpc.ReviewServiceStub(opened)
        about = review_pb2.GetUpdateRequest(update_id=update_id)
        update = (await stub.GetUpdate(about, timeout=SECONDS)).update
        data = bytearray()
        wanted = review_pb2.DownloadUpdateRequest(update_id=update_id)
        async for part in stub.DownloadUpdate(wanted, timeout=_STREAM_SECONDS):
            data += part.chunk
        return bytes(data), update.sha256
