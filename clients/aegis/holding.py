"""A site's rows of one data set: its schema pinned, the rows read by it, the holding declared."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from aegis import schemas
from aegis.errors import from_rpc_error
from aegis.joining import NAME, SECONDS, Site, SiteError
from aegis.local.keys import write_private
from aegis.local.sockets import private_directory
from aegis.v1 import dataset_pb2, dataset_pb2_grpc, participant_pb2, participant_pb2_grpc
from aegis_learning.laplace import noised
from aegis_learning.schema import Schema, SchemaError
from aegis_learning.tables import Table, TableError, read_csv


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a file: the rows that fit, those dropped by "column: problem", what counts.

    `first` is the line of the first row that was dropped, or None.
    """

    rows: int
    dropped: Mapping[str, int]
    first: int | None
    declared: dataset_pb2.Holding


async def add(
    site: Site,
    name: str,
    file: Path,
    *,
    provenance: str = "",
    public: bool = False,
    epsilon: float | None = None,
    few: bool = False,
) -> Added:
    """Adds rows to a site: pins the schema, reads the file, declares, and writes the setting.

    With `epsilon` the declared counts carry noise of that cost. The rows themselves stay where
    they are. A schema that was pinned before is never replaced by another. Raises `SiteError`, also
    where fewer rows fit than were dropped unless `few`, and the server's own refusals as
    `AegisError`.
    """
    if not NAME.fullmatch(name):
        raise SiteError(f"{name[:64]!r} is no data set: lower case letters, digits and dashes")
    _check_setting(site, name, file)
    async with site.channel() as channel:
        try:
            schema = await _registered(channel, name)
            _pin(site, name, schema)
            table = _read(file, schema)
            if not few:
                _refuse_few(table, file, site.folder / "schemas" / f"{name}.json")
            declared = await _declare(channel, name, schema, table, provenance, epsilon)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
    _write_setting(site, name, file, public=public)
    return Added(len(table.rows), table.dropped, table.first, declared)


async def _registered(channel: grpc.aio.Channel, name: str) -> Schema:
    stub = dataset_pb2_grpc.DatasetServiceStub(channel)
    answer = await stub.GetDataset(dataset_pb2.GetDatasetRequest(name=name), timeout=SECONDS)
    try:
        schema = schemas.schema_of(answer.dataset.schema)
    except SchemaError as error:
        raise SiteError(f"the schema of {name} makes no sense here: {error}") from error
    if schema.sha256 != answer.dataset.schema_sha256:
        raise SiteError(f"the schema of {name} is not what its digest says: update this program")
    return schema


def _pin(site: Site, name: str, schema: Schema) -> None:
    file = site.folder / "schemas" / f"{name}.json"
    if file.exists():
        if hashlib.sha256(file.read_bytes()).digest() != schema.sha256:
            raise SiteError(f"{file} pins another schema than the server has now: find out why")
        return
    private_directory(file.parent)
    write_private(file, schema.canonical, [])


def _read(file: Path, schema: Schema) -> Table:
    try:
        return read_csv(file.read_text(encoding="utf-8-sig"), schema)
    except (OSError, UnicodeDecodeError, TableError) as error:
        raise SiteError(f"{file}: {error}") from error


def _refuse_few(table: Table, file: Path, schema: Path) -> None:
    """Raises `SiteError` when most rows do not fit.

    Their words may be spelled in another way; or the schema was made so that only somebody's rows
    fit, and to declare how many those are would say whether there are any.
    """
    dropped = sum(table.dropped.values())
    if dropped > len(table.rows):
        worst = max(table.dropped, key=lambda problem: table.dropped[problem])
        raise SiteError(
            f"{file}: of {dropped + len(table.rows)} rows only {len(table.rows)} fit, and nothing "
            f"was declared. Most often, {worst}. Compare the file with {schema}, and "
            "give --few where both are as they should be"
        )


async def _declare(
    channel: grpc.aio.Channel,
    name: str,
    schema: Schema,
    table: Table,
    provenance: str,
    epsilon: float | None,
) -> dataset_pb2.Holding:
    found = table.class_counts
    counts = found + (0,) * (len(schema.classes) - len(found))
    if epsilon is not None:
        counts = noised(counts, epsilon)
    request = participant_pb2.DeclareHoldingRequest(
        dataset=name,
        schema_sha256=schema.sha256,
        rows=max(1, sum(counts)),
        class_counts=counts,
        noised=epsilon is not None,
        provenance=provenance,
    )
    stub = participant_pb2_grpc.ParticipantServiceStub(channel)
    return (await stub.DeclareHolding(request, timeout=SECONDS)).holding


def _check_setting(site: Site, name: str, file: Path) -> None:
    before = _tables(site).get(name)
    if before is not None and (site.folder / str(before.get("file"))).resolve() != file.resolve():
        raise SiteError(
            f"[data.{name}] in {site.folder / 'site.toml'} names another file: change it there"
        )


def _write_setting(site: Site, name: str, file: Path, *, public: bool) -> None:
    if name in _tables(site):
        return
    settings = site.folder / "site.toml"
    added = f"\n[data.{name}]\nfile = {json.dumps(str(file.resolve()), ensure_ascii=False)}\n"
    if public:
        added += "public = true\n"
    write_private(settings, (settings.read_text(encoding="utf-8") + added).encode(), [])


def _tables(site: Site) -> Mapping[str, Mapping[str, object]]:
    content = tomllib.loads((site.folder / "site.toml").read_text(encoding="utf-8"))
    found = content.get("data", {})
    return found if isinstance(found, dict) else {}
