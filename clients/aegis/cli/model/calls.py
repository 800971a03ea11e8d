"""What `aegis model` asks the server, and how bytes come onto the disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import grpc

from aegis.cli.session import SECONDS, channel, name_of
from aegis.v1 import model_pb2, model_pb2_grpc, review_pb2

_PAGE = 1000
# A download that got no further so many times in a row has failed.
_TRIES, _PAUSE_SECONDS = 5, 1.0
_READ = 1024 * 1024


class NotAsAnnounced(Exception):
    """The bytes that came do not have the model's SHA-256."""


async def several(run_id: str, limit: int) -> list[model_pb2.Model]:
    """Returns models, newest first."""
    async with channel() as opened:
        request = model_pb2.ListModelsRequest(page_size=min(limit, _PAGE), run_id=run_id)
        stub = model_pb2_grpc.ModelServiceStub(opened)
        return list((await stub.ListModels(request, timeout=SECONDS)).models)


async def one(model_id: str, run_id: str) -> model_pb2.Model:
    """Returns one model."""
    async with channel() as opened:
        request = model_pb2.GetModelRequest(model_id=model_id.lower(), run_id=run_id)
        stub = model_pb2_grpc.ModelServiceStub(opened)
        return (await stub.GetModel(request, timeout=SECONDS)).model


async def lineage(model_id: str, run_id: str, limit: int) -> list[model_pb2.Model]:
    """Returns a model and those before it."""
    async with channel() as opened:
        request = model_pb2.GetModelLineageRequest(
            model_id=model_id.lower(), run_id=run_id, limit=limit
        )
        stub = model_pb2_grpc.ModelServiceStub(opened)
        return list((await stub.GetModelLineage(request, timeout=SECONDS)).models)


async def release(model_id: str, run_id: str, reason: str) -> model_pb2.Model:
    """Lets a blocked model leave."""
    async with channel() as opened:
        request = model_pb2.ReleaseModelRequest(
            model_id=model_id.lower(), run_id=run_id, reason=reason
        )
        stub = model_pb2_grpc.ModelServiceStub(opened)
        return (await stub.ReleaseModel(request, timeout=SECONDS)).model


def standing_of(model: model_pb2.Model) -> str:
    """Returns whether a model may leave, where that was ever in doubt."""
    if model.released_by:
        return "released"
    return "blocked" if model.blocked else ""


def verdict_of(each: model_pb2.Ingredient) -> str:
    """Returns what the review said, as people write it."""
    if each.verdict == review_pb2.Update.VERDICT_UNSPECIFIED:
        return "no review"
    return name_of(review_pb2.Update.Verdict, each.verdict, "VERDICT_")


async def download(
    model_id: str, run_id: str, file: Path, *, progress: Callable[[int, int], None]
) -> model_pb2.Model:
    """Brings a model into a file, from FILE.part on if that is there; returns what it is.

    A broken connection is taken up again where it broke. The file has its name only once its
    SHA-256 is the model's. Raises `NotAsAnnounced`, with nothing kept, and what the server refuses.
    """
    async with channel() as opened:
        stub = model_pb2_grpc.ModelServiceStub(opened)
        request = model_pb2.GetModelRequest(model_id=model_id.lower(), run_id=run_id)
        model = (await stub.GetModel(request, timeout=SECONDS)).model
        part = file.with_name(file.name + ".part")
        if part.exists() and part.stat().st_size > model.size_bytes:
            part.unlink()
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            progress(before, model.size_bytes)
            try:
                await _append(stub, model, part, before, progress)
                break
            except grpc.aio.AioRpcError as error:
                failures = 0 if part.stat().st_size > before else failures + 1
                if error.code() is not grpc.StatusCode.UNAVAILABLE or failures >= _TRIES:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
    _keep(part, file, model)
    return model


async def _append(
    stub: model_pb2_grpc.ModelServiceStub,
    model: model_pb2.Model,
    part: Path,
    offset: int,
    progress: Callable[[int, int], None],
) -> None:
    request = model_pb2.DownloadModelRequest(
        model_id=model.model_id, run_id=model.run_id, offset=offset
    )
    with part.open("ab") as target:
        async for message in stub.DownloadModel(request):
            target.write(message.chunk)
            offset += len(message.chunk)
            progress(offset, model.size_bytes)


def _keep(part: Path, file: Path, model: model_pb2.Model) -> None:
    digest = hashlib.sha256()
    with part.open("rb+") as source:
        while data := source.read(_READ):
            digest.update(data)
        os.fsync(source.fileno())
    if digest.hexdigest() != model.model_id:
        part.unlink()
        raise NotAsAnnounced(f"what came is not {model.model_id}: its SHA-256 is another")
    part.replace(file)
