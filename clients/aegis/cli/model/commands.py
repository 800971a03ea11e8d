"""The commands of `aegis model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from aegis.cli.execution.drawing import svg
from aegis.cli.model import calls, export
from aegis.cli.model.lineage import drawing, tree
from aegis.cli.session import (
    Output,
    OutputOption,
    as_dict,
    err,
    fail,
    out,
    run,
    show_json,
    show_table,
    when,
)
from aegis.v1 import model_pb2

app = typer.Typer(no_args_is_help=True, help="Models, where each comes from, and their bytes.")

ModelArgument = Annotated[
    str, typer.Argument(help="Its SHA-256 in hex, or at least the first eight digits.")
]
RunOption = Annotated[
    str, typer.Option("--run", help="Of this run, where several made the same bytes.")
]


@app.command("list")
def list_(
    run_id: Annotated[str, typer.Option("--run", help="Only models of this run.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    output: OutputOption = Output.table,
) -> None:
    """List models, newest first."""
    models = run(calls.several(run_id, limit))
    if output is Output.json:
        show_json(models)
        return
    show_table(
        "models",
        [
            *("model", "round", "accuracy", "epsilon", "bytes", "data set", "family", "made"),
            *("may leave", "run"),
        ],
        [
            (
                model.model_id[:12],
                model.round,
                f"{model.accuracy:.3f}",
                f"{model.epsilon:.2f}",
                f"{model.size_bytes:,}",
                model.dataset,
                model.family,
                when(model, "create_time"),
                calls.standing_of(model),
                model.run_id,
            )
            for model in models
        ],
        spare=["made", "family", "data set"],
    )


@app.command()
def show(
    model_id: ModelArgument, run_id: RunOption = "", output: OutputOption = Output.table
) -> None:
    """Show one model and what it was made of."""
    model = run(calls.one(model_id, run_id))
    if output is Output.json:
        show_json(model)
        return
    out.print(f"[bold]{model.model_id}[/]", highlight=False)
    show_table(
        "model", ["what", "value"], [(name, value) for name, value in _facts(model) if value]
    )
    show_table(
        "made of",
        ["participant", "rows", "verdict", "score", "update", "sha256"],
        [
            (
                each.participant,
                each.examples,
                calls.verdict_of(each),
                f"{each.score:.2f}" if each.update_id else "",
                each.update_id,
                each.update_sha256[:12],
            )
            for each in model.ingredients
        ],
        spare=["sha256", "score"],
    )


@app.command()
def lineage(
    model_id: ModelArgument,
    run_id: RunOption = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 means all.")] = 0,
    picture: Annotated[
        Path | None, typer.Option("--svg", help="Also draw it into this file.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show which models led to this one, and the updates, reviews and rules behind each."""
    models = run(calls.lineage(model_id, run_id, limit))
    if picture is not None:
        picture.write_text(svg(drawing(models)))
    if output is Output.json:
        show_json(models)
    else:
        out.print(tree(models), highlight=False)


@app.command()
def download(
    model_id: ModelArgument,
    file: Annotated[Path, typer.Argument(help="Where to; FILE.part until it is whole.")],
    run_id: RunOption = "",
    output: OutputOption = Output.table,
) -> None:
    """Download a model's safetensors file; goes on where an earlier try broke off."""
    if file.exists():
        fail(f"{file} is there already", "name another file, or remove it")
    model = _fetch(model_id, run_id, file)
    if output is Output.json:
        show_json(as_dict(model) | {"file": str(file)})
    else:
        out.print(f"{file}: {model.size_bytes:,} bytes, SHA-256 as announced", highlight=False)


@app.command()
def release(
    model_id: ModelArgument,
    reason: Annotated[str, typer.Option(help="Why it may leave; goes into the record.")],
    run_id: RunOption = "",
    output: OutputOption = Output.table,
) -> None:
    """Let a model be downloaded that was blocked because it seems to hold a backdoor."""
    model = run(calls.release(model_id, run_id, reason))
    if output is Output.json:
        show_json(model)
    else:
        out.print(f"{model.model_id} may be downloaded", highlight=False)


@app.command("export")
def export_(
    model_id: ModelArgument,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    run_id: RunOption = "",
    output: OutputOption = Output.table,
) -> None:
    """Write a model, its lineage and how to load it into a folder of their own."""
    if (folder / export.MODEL).exists():
        fail(f"{folder} holds a model already", "name another folder")
    models = run(calls.lineage(model_id, run_id, 0))
    folder.mkdir(parents=True, exist_ok=True)
    model = _fetch(models[0].model_id, models[0].run_id, folder / export.MODEL)
    export.describe(folder, models)
    if output is Output.json:
        show_json(as_dict(model) | {"folder": str(folder)})
    else:
        names = ", ".join((export.MODEL, export.LINEAGE, export.README))
        out.print(f"{folder}: {names}", highlight=False)


def _fetch(model_id: str, run_id: str, file: Path) -> model_pb2.Model:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        bar = shown.add_task(model_id[:12], total=None)

        def progress(done: int, whole: int) -> None:
            shown.update(bar, completed=done, total=whole)

        try:
            return run(calls.download(model_id, run_id, file, progress=progress))
        except calls.NotAsAnnounced as error:
            fail(str(error), "download it again: nothing of it was kept")


def _facts(model: model_pb2.Model) -> list[tuple[str, str]]:
    return [
        ("run", f"{model.run_id}, round {model.round}"),
        ("parent", model.parent_id),
        ("data set", f"{model.dataset}, {model.family}"),
        ("bytes", f"{model.size_bytes:,}"),
        ("accuracy, loss", f"{model.accuracy:.4f}, {model.loss:.4f}"),
        ("epsilon", f"{model.epsilon:.3f}"),
        ("made", f"{when(model, 'create_time')} by {model.actor}, code {model.code_version}"),
        ("allowed by", f"{model.rule_id}, policy revision {model.policy_revision}"),
        ("plan", model.plan_sha256),
        ("key", model.key_id),
        ("blocked", model.blocked),
        ("released", f"by {model.released_by}: {model.release_reason}" * bool(model.released_by)),
        ("also made by", ", ".join(model.other_runs)),
    ]
