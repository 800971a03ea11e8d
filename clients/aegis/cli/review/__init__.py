"""`aegis review`, `aegis standing` and `aegis quarantine`: what the review found over time."""

from __future__ import annotations

import typer

from aegis.cli.review import analytics, quarantines, standings

app = typer.Typer(no_args_is_help=True, help="What the review found over time.")
app.command("analytics")(analytics.analytics)
app.command("security")(analytics.security)

standing = typer.Typer(no_args_is_help=True, help="What the review thinks of participants.")
standing.command("list")(standings.list_)
standing.command("show")(standings.show)

quarantine = typer.Typer(no_args_is_help=True, help="Participants that are left out of rounds.")
quarantine.command("list")(quarantines.list_)
quarantine.command("enforce")(quarantines.enforce)
quarantine.command("refuse")(quarantines.refuse)
quarantine.command("lift")(quarantines.lift)
