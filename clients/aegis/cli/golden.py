"""`aegis golden`: the rows updates are examined with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    fail,
    name_of,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.v1 import dataset_pb2, dataset_pb2_grpc, golden_set_pb2_grpc
from aegis.v1 import golden_set_pb2 as pb

app = typer.Typer(no_args_is_help=True, help="The rows updates are examined with.")

_CHUNK = 64 * 1024
# What the server takes, and some seconds for a slow line.
_CREATE_SECONDS = 60.0

SetArgument = Annotated[
    str, typer.Argument(metavar="SET", help="e.g. breast-cancer@2, or breast-cancer@active")
]


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="CSV with the columns of the data set's schema.")],
    dataset: Annotated[str, typer.Option(help="Whose schema the rows have.")],
    description: Annotated[str, typer.Option(help="Where the rows are from.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Hand in rows as a draft; rows that are there already return the version that has them."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {error}", "name a CSV file")
    _show_one(run(_create(file, text, dataset, description)), output)


@app.command("list")
def list_(
    dataset: Annotated[str, typer.Option(help="Only of this data set.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List versions, newest first."""
    request = pb.ListGoldenSetsRequest(page_size=limit, dataset=dataset)
    found = run(_ask("ListGoldenSets", request)).golden_sets
    if output is Output.json:
        show_json(list(found))
    else:
        _show(found)


@app.command()
def show(golden_set: SetArgument, output: OutputOption = Output.table) -> None:
    """Show one version; its rows stay with the server."""
    request = pb.GetGoldenSetRequest(golden_set_id=golden_set)
    _show_one(run(_ask("GetGoldenSet", request)).golden_set, output)


@app.command()
def freeze(golden_set: SetArgument, output: OutputOption = Output.table) -> None:
    """Make a draft fit to be promoted."""
    request = pb.FreezeGoldenSetRequest(golden_set_id=golden_set)
    _show_one(run(_ask("FreezeGoldenSet", request)).golden_set, output)


@app.command()
def promote(
    golden_set: SetArgument,
    reason: Annotated[str, typer.Option(help="Why; for the record and for the policy.")],
    output: OutputOption = Output.table,
) -> None:
    """Put a version in use; somebody else than who created it has to."""
    request = pb.PromoteGoldenSetRequest(golden_set_id=golden_set, reason=reason)
    _show_one(run(_ask("PromoteGoldenSet", request)).golden_set, output)


@app.command()
def compare(
    golden_set: SetArgument,
    other: Annotated[str, typer.Argument(help="By default the one in use.")] = "",
    run_id: Annotated[
        str, typer.Option("--run", help="Try the newest model of this run on both.")
    ] = "",
    output: OutputOption = Output.table,
) -> None:
    """Set two versions side by side."""
    request = pb.CompareGoldenSetsRequest(golden_set_id=golden_set, other_id=other, run_id=run_id)
    found = run(_ask("CompareGoldenSets", request))
    if output is Output.json:
        show_json(found)
        return
    _show([found.golden_set, found.other])
    out.print(f"\n{found.rows_in_common} rows in common", highlight=False)
    if found.HasField("tried"):
        for name, tried in (("first", found.tried), ("second", found.other_tried)):
            out.print(
                f"newest model of {run_id} on the {name}: accuracy {tried.accuracy:.3f},"
                f" loss {tried.loss:.3f}",
                highlight=False,
            )
    farthest = sorted(found.differences, key=lambda each: -each.distance)
    show_table(
        "how far features are apart, 0 to 1 (Kolmogorov-Smirnov)",
        ["feature", "distance"],
        [(each.feature, f"{each.distance:.3f}") for each in farthest],
    )


def _show_one(golden: pb.GoldenSet, output: Output) -> None:
    if output is Output.json:
        show_json(golden)
        return
    _show([golden])
    out.print(f"\nrows sha256 {golden.sha256.hex()}", highlight=False)
    if golden.promoted_by:
        out.print(f"promoted by {golden.promoted_by}, {when(golden, 'promote_time')}")


def _show(found: Sequence[pb.GoldenSet]) -> None:
    show_table(
        "golden sets",
        ["set", "state", "rows", "by class", "created by", "created", "description"],
        [
            (
                each.golden_set_id,
                name_of(pb.GoldenSet.State, each.state, "STATE_"),
                each.rows,
                " ".join(map(str, each.class_counts)),
                each.created_by,
                when(each, "create_time"),
                each.description,
            )
            for each in found
        ],
        folding=["description"],
        spare=["description", "created", "created by"],
    )


async def _create(file: Path, text: str, dataset: str, description: str) -> pb.GoldenSet:
    # Only here, because numbers take longer to load than most commands to run.
    from aegis.schemas import schema_of
    from aegis_learning import rowfiles
    from aegis_learning.tables import TableError, read_csv

    async with channel() as opened:
        datasets = dataset_pb2_grpc.DatasetServiceStub(opened)
        asked = dataset_pb2.GetDatasetRequest(name=dataset)
        schema = schema_of((await datasets.GetDataset(asked, timeout=SECONDS)).dataset.schema)
        try:
            table = read_csv(text, schema)
        except TableError as error:
            fail(f"{file}: {error}", f"`aegis dataset show {dataset}` shows the columns")
        if table.first is not None:
            fail(
                f"{file}: row {table.first}, {table.first_problem}",
                "correct the row; every row has to fit",
            )
        parts = _parts(rowfiles.encode(table.rows), dataset, description)
        stub = golden_set_pb2_grpc.GoldenSetServiceStub(opened)
        answer = await stub.CreateGoldenSet(parts, timeout=_CREATE_SECONDS)
        return answer.golden_set


def _parts(data: bytes, dataset: str, description: str) -> Iterator[pb.CreateGoldenSetRequest]:
    header = pb.CreateGoldenSetRequest.Header(
        dataset=dataset,
        description=description,
        sha256=hashlib.sha256(data).digest(),
        size_bytes=len(data),
    )
    yield pb.CreateGoldenSetRequest(header=header)
    for start in range(0, len(data), _CHUNK):
        yield pb.CreateGoldenSetRequest(chunk=data[start : start + _CHUNK])


async def _ask(method: str, request: Any) -> Any:
    async with channel() as opened:
        stub = golden_set_pb2_grpc.GoldenSetServiceStub(opened)
        return await getattr(stub, method)(request, timeout=SECONDS)
