"""`aegis attack`: what the review is worth against sites that lie."""

from __future__ import annotations

import typer

from aegis.cli.attack import listing, running

app = typer.Typer(no_args_is_help=True, help="Attack simulated runs, with the review and without.")

app.command()(running.run)
app.command("list")(listing.list_)
