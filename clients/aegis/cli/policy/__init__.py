"""`aegis policy`: ask, read, try and change the rules."""

from __future__ import annotations

import typer

from aegis.cli.policy import asking, decisions, files, history, lines, stories, trying

app = typer.Typer(no_args_is_help=True, help="Ask, read, try and change the rules.")

app.command()(asking.check)
app.command()(asking.explain)
app.command()(asking.permitted)
app.command()(files.show)
app.command()(files.export)
app.command("import")(files.import_)
app.command()(files.adopt_baseline)
app.command()(lines.rules)
app.command()(lines.add)
app.command()(lines.replace)
app.command()(lines.remove)
app.command()(trying.lint)
app.command("test")(stories.run_stories)
app.command()(trying.simulate)
app.command()(history.history)
app.command()(history.diff)
app.command()(history.rollback)
app.command()(history.proposals)
app.command()(history.approve)
app.command()(history.reject)
app.command("decisions")(decisions.list_)
app.command("export-decisions")(decisions.export)
