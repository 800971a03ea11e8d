"""`aegis action`: plan, sign, approve and follow remediations."""

from __future__ import annotations

import typer

from aegis.cli.action import deciding, looking, planning, submitting
from aegis.cli.action.calls import EXITS

app = typer.Typer(no_args_is_help=True, help="Governed, signed remediations.", epilog=EXITS)

app.command()(planning.plan)
app.command(epilog=EXITS)(submitting.submit)
app.command("continue", epilog=EXITS)(submitting.continue_)
app.command()(deciding.approve)
app.command()(deciding.reject)
app.command()(deciding.cancel)
app.command()(looking.show)
app.command("list")(looking.list_)
app.command(epilog=EXITS)(looking.watch)
app.command()(looking.why)
app.command()(deciding.resolve)
app.command()(deciding.review)
