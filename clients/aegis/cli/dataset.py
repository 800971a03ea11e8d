"""`aegis dataset`: what runs may be about."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aegis.cli.participant import show_holdings
from aegis.cli.session import (
    SECONDS,
    Output,
    OutputOption,
    channel,
    fail,
    out,
    run,
    show_json,
    show_table,
)
from aegis.v1 import dataset_pb2 as pb
from aegis.v1 import dataset_pb2_grpc

app = typer.Typer(no_args_is_help=True, help="What runs may be about.")

NameArgument = Annotated[str, typer.Argument(help="e.g. breast-cancer")]

_TEXTS = ("name", "description", "provenance", "consent_basis")
_FIELDS = {*_TEXTS, "schema", "public", "golden_share"}
_EXAMPLE = "docs/participants.md shows such a file"
# What the server takes, and a second for each MiB on a slow line.
_REGISTER_SECONDS = 60.0


@app.command()
def register(
    file: Annotated[Path, typer.Argument(help="JSON or YAML: name, schema, where it is from.")],
    evaluation: Annotated[
        Path, typer.Option(help="CSV: the rows of your own by which models are judged.")
    ],
    output: OutputOption = Output.table,
) -> None:
    """Register a data set; what was registered never changes."""
    request = _request(file)
    try:
        request.evaluation_csv = evaluation.read_bytes()
    except OSError as error:
        fail(f"{evaluation} cannot be read: {error.strerror}", "name the CSV with --evaluation")
    stored = run(_ask("RegisterDataset", request, seconds=_REGISTER_SECONDS)).dataset
    _show_one(stored, output)


@app.command("list")
def list_(output: OutputOption = Output.table) -> None:
    """List data sets by name."""
    found = run(_ask("ListDatasets", pb.ListDatasetsRequest())).datasets
    if output is Output.json:
        show_json(list(found))
    else:
        _show(found)


@app.command()
def show(name: NameArgument, output: OutputOption = Output.table) -> None:
    """Show a data set, its schema, and who holds rows of it."""
    _show_one(run(_ask("GetDataset", pb.GetDatasetRequest(name=name))).dataset, output)


def _request(file: Path) -> pb.RegisterDatasetRequest:
    # Only here, because numbers take longer to load than most commands to run.
    import yaml  # no other command of this file needs it

    from aegis.schemas import message_of
    from aegis_learning.schema import Schema, SchemaError

    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", _EXAMPLE)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fail(f"{file} is neither JSON nor YAML: {error}", _EXAMPLE)
    if not isinstance(content, dict) or not {"name", "schema"} <= content.keys():
        fail(f"{file} needs a name and a schema", _EXAMPLE)
    if unknown := sorted(map(str, content.keys() - _FIELDS)):
        fail(f"{file}: nobody knows {', '.join(unknown)}", _EXAMPLE)
    try:
        schema = message_of(Schema.from_json(content["schema"]))
        return pb.RegisterDatasetRequest(
            schema=schema,
            public=content.get("public", False),
            golden_share=content.get("golden_share", 0.0),
            **{field: content.get(field, "") for field in _TEXTS},
        )
    except (SchemaError, TypeError) as error:
        fail(f"{file}: {error}", _EXAMPLE)


def _show_one(found: pb.Dataset, output: Output) -> None:
    if output is Output.json:
        show_json(found)
        return
    _show([found])
    out.print(f"\nschema sha256 {found.schema_sha256.hex()}", highlight=False)
    show_table(
        "columns",
        ["column", "values"],
        [(each.name, _values(each)) for each in found.schema.features]
        + [(f"{found.schema.label.name} (label)", ", ".join(found.schema.label.classes))],
        folding=["values"],
    )
    out.print()
    show_holdings(found.holdings)


def _show(found: Any) -> None:
    show_table(
        "data sets",
        ["name", "columns", "classes", "golden", "test", "held by", "public", "description"],
        [
            (
                each.name,
                len(each.schema.features),
                len(each.schema.label.classes),
                each.golden_rows,
                each.test_rows,
                len(each.holdings),
                "yes" if each.public else "no",
                each.description,
            )
            for each in found
        ],
        folding=["description"],
        spare=["description", "golden", "test"],
    )


def _values(feature: pb.Schema.Feature) -> str:
    if feature.WhichOneof("kind") == "continuous":
        return f"{feature.continuous.low:g} to {feature.continuous.high:g}"
    return ", ".join(feature.categorical.values)


async def _ask(method: str, request: Any, *, seconds: float = SECONDS) -> Any:
    async with channel() as opened:
        stub = dataset_pb2_grpc.DatasetServiceStub(opened)
        return await getattr(stub, method)(request, timeout=seconds)
