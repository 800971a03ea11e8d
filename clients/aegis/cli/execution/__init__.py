"""`aegis execution`: stop and start it, see its guards, report what was healed."""

from __future__ import annotations

import typer

from aegis.cli.execution import pausing, reporting, standing

app = typer.Typer(no_args_is_help=True, help="Kill switch, guards and the self-healing report.")

app.command()(pausing.pause)
app.command()(pausing.resume)
app.command()(standing.state)
app.command()(reporting.report)
