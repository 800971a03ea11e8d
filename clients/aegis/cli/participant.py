"""`aegis participant`: sites are invited, join with a token, and are revoked."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.markup import escape

from aegis.cli.durations import duration
from aegis.cli.paging import every
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
    when,
)
from aegis.joining import Site, SiteError, join, renew
from aegis.local.keys import write_private
from aegis.v1 import participant_pb2 as pb
from aegis.v1 import participant_pb2_grpc

Result = TypeVar("Result")

app = typer.Typer(no_args_is_help=True, help="Sites that take part in training.")
data = typer.Typer(no_args_is_help=True, help="Rows of a site.")
app.add_typer(data, name="data")

NameArgument = Annotated[str, typer.Argument(help="e.g. hospital-a")]
FolderOption = Annotated[Path, typer.Option("--dir", help="Folder of the site.")]

_BOUND_EXAMPLE = "breast-cancer=500"


@app.command()
def invite(
    name: NameArgument,
    dataset: Annotated[
        list[str],
        typer.Option(help=f"DATASET=ROWS, the most that may ever count; {_BOUND_EXAMPLE}"),
    ],
    lifetime: Annotated[str, typer.Option(help="How long the token can be used.")] = "1d",
    file: Annotated[
        Path | None,
        typer.Option("--out", help="Write the token there, readable by you alone; do not show it."),
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Invite a site; the token is shown this once, and can be used once."""
    request = pb.InviteParticipantRequest(
        name=name,
        datasets=[_bound(each) for each in dataset],
        lifetime=duration(lifetime, "--lifetime"),
    )
    answer = run(_ask("InviteParticipant", request, retries=False))
    if file is not None:
        try:
            write_private(file, f"{answer.token}\n".encode(), [])
        except OSError as error:
            fail(f"{file} cannot be written: {error.strerror}", "invite again, for another token")
        answer.token = ""
    if output is Output.json:
        show_json(answer)
        return
    ends = answer.expire_time.ToDatetime()
    out.print(f"{name} is invited until {ends:%Y-%m-%d %H:%M} UTC", highlight=False)
    if file is None:
        err.print("the token, shown this once:", highlight=False)
        typer.echo(answer.token)
        _next("on the site, `aegis participant join TOKEN --dir DIR`")
    else:
        _next(f"take {file} to the site, and there `aegis participant join - --dir DIR < {file}`")


@app.command("join")
def join_(
    token: Annotated[str, typer.Argument(help="aegis-join-…, or - to read it from the input.")],
    folder: FolderOption,
    output: OutputOption = Output.table,
) -> None:
    """Become a participant: make a key, have it signed, and set the site's folder up."""
    text = sys.stdin.read() if token == "-" else token  # noqa: S105
    site, datasets = _on_site(join(text, folder.expanduser()))
    if output is Output.json:
        show_json(
            {
                "participant": site.name,
                "address": site.address,
                "folder": str(site.folder),
                "datasets": list(datasets),
            }
        )
        return
    out.print(f"[bold]{site.name}[/] takes part at {site.address}", highlight=False)
    for name in datasets:
        _next(f"`aegis participant data add {name} FILE --dir {site.folder}`")


@app.command("renew")
def renew_(folder: FolderOption, output: OutputOption = Output.table) -> None:
    """Get the site's next certificate now; a site that runs does so by itself."""
    site = _site(folder)
    ends = _on_site(renew(site))
    if output is Output.json:
        show_json({"participant": site.name, "certificate_end_time": ends.isoformat()})
    else:
        out.print(f"the certificate of {site.name} ends {ends:%Y-%m-%d}", highlight=False)


@app.command("run")
def run_(folder: FolderOption) -> None:
    """Take part, until Ctrl-C."""
    site = _site(folder)
    command = [sys.executable, "-P", "-m", "aegis_participant", "--dir", str(site.folder)]
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606


@app.command("list")
def list_(output: OutputOption = Output.table) -> None:
    """List participants by name."""
    _show(run(_all()), output)


@app.command()
def show(name: NameArgument, output: OutputOption = Output.table) -> None:
    """Show a participant and what it holds."""
    found = run(_ask("GetParticipant", pb.GetParticipantRequest(name=name))).participant
    if output is Output.json:
        show_json(found)
        return
    _show([found], output)
    out.print()
    show_holdings(found.holdings)


@app.command()
def revoke(
    name: NameArgument,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """End a participation for good, and its open stream at once."""
    if not yes:
        typer.confirm(f"End the participation of {name}? It cannot be invited again", abort=True)
    request = pb.RevokeParticipantRequest(name=name, reason=reason)
    found = run(_ask("RevokeParticipant", request)).participant
    if output is Output.json:
        show_json(found)
    else:
        _show([found], output)


@data.command("add")
def add_data(
    name: Annotated[str, typer.Argument(help="The data set, as it was registered.")],
    file: Annotated[Path, typer.Argument(help="CSV with a header line; it stays where it is.")],
    folder: FolderOption,
    provenance: Annotated[str, typer.Option(help="Where the rows come from.")] = "",
    noised: Annotated[
        float | None,
        typer.Option(
            metavar="EPSILON", help="Declare counts with noise that costs each row EPSILON."
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="The rows are no secret: simulations may use them.")
    ] = False,
    few: Annotated[
        bool, typer.Option("--few", help="It is right that most rows do not fit.")
    ] = False,
    output: OutputOption = Output.table,
) -> None:
    """Check rows by the registered schema, and declare how many there are."""
    # Only here, because numbers take longer to load than most commands to run.
    from aegis.holding import add

    if noised is not None and not 0 < noised <= 100:
        fail("--noised is above 0 and at most 100", "for example --noised 1")
    site = _site(folder)
    added = _on_site(
        add(
            site,
            name,
            file.expanduser(),
            provenance=provenance,
            public=public,
            epsilon=noised,
            few=few,
        )
    )
    dropped = sum(added.dropped.values())
    if output is Output.json:
        show_json(
            {
                "rows": added.rows,
                "dropped": dict(added.dropped),
                "first_dropped_row": added.first,
                "holding": as_dict(added.declared),
            }
        )
        return
    out.print(
        f"{added.rows} rows fit, {dropped} were dropped; {added.declared.examples} count",
        highlight=False,
    )
    if dropped:
        rows = sorted(added.dropped.items(), key=lambda each: -each[1])
        show_table(f"dropped, first in line {added.first}", ["why", "rows"], rows, folding=["why"])
    command = f"aegis participant run --dir {site.folder}"
    _next(f"`{command}`; where it runs already, stop it first: settings are read at its start")


def show_holdings(holdings: Sequence[Any]) -> None:
    """Prints what participants have declared."""
    show_table(
        "holdings",
        ["participant", "dataset", "rows", "count", "classes", "noised", "declared", "provenance"],
        [
            (
                each.participant,
                each.dataset,
                each.rows,
                each.examples,
                " ".join(map(str, each.class_counts)),
                "yes" if each.noised else "no",
                when(each, "declare_time"),
                each.provenance,
            )
            for each in holdings
        ],
        folding=["provenance", "classes"],
        spare=["provenance", "classes", "declared"],
    )


def _show(found: Sequence[pb.Participant], output: Output) -> None:
    if output is Output.json:
        show_json(list(found))
        return
    show_table(
        "participants",
        ["name", "state", "connected", "seen", "certificate until", "software", "reason"],
        [
            (
                each.name,
                name_of(pb.Participant.State, each.state, "STATE_"),
                "yes" if each.connected else "no",
                when(each, "seen_time"),
                when(each, "certificate_end_time"),
                each.software,
                each.reason,
            )
            for each in found
        ],
        folding=["reason", "software"],
        spare=["software", "seen", "certificate until"],
    )


def _bound(text: str) -> pb.InviteParticipantRequest.Bound:
    name, _, rows = text.partition("=")
    if not rows.isascii() or not rows.isdigit() or len(rows) > 10:
        fail(f"--dataset {text!r} is not DATASET=ROWS", f"for example --dataset {_BOUND_EXAMPLE}")
    return pb.InviteParticipantRequest.Bound(dataset=name, rows_max=int(rows))


def _site(folder: Path) -> Site:
    try:
        return Site.read(folder.expanduser())
    except SiteError as error:
        _refused(error)


def _on_site(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return run(work)
    except SiteError as error:
        _refused(error)


def _next(what: str) -> None:
    err.print(f"  next: {what}", highlight=False, soft_wrap=True, markup=False)


def _refused(error: SiteError) -> NoReturn:
    err.print(f"[bold red]error[/] {escape(str(error))}", highlight=False)
    raise typer.Exit(2) from error


async def _ask(method: str, request: Any, *, retries: bool = True) -> Any:
    # Without retries where a repeat would end the token that was just made.
    async with channel(retries=retries) as opened:
        stub = participant_pb2_grpc.ParticipantServiceStub(opened)
        return await getattr(stub, method)(request, timeout=SECONDS)


async def _all() -> list[pb.Participant]:
    return await every(_ask, "ListParticipants", pb.ListParticipantsRequest(), "participants")
