"""All rules at once: `aegis policy show`, `export`, `import` and `adopt-baseline`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aegis.cli.policy.calls import (
    LONG_SECONDS,
    DryRunOption,
    ExpectedOption,
    ModelOption,
    ReasonOption,
    administer,
    ask,
    current,
    tell_change,
    text_of,
)
from aegis.cli.session import Output, OutputOption, fail, out, show_json, when
from aegis.v1 import policy_admin_pb2, policy_pb2

RULES, MODEL = "rules.csv", "model.conf"


def show(
    revision: Annotated[int, typer.Argument(min=0, help="0 is the current one.")] = 0,
    output: OutputOption = Output.table,
) -> None:
    """Print the rules of a revision as Casbin CSV."""
    answer = current(revision)
    if output is Output.json:
        show_json(answer)
        return
    head = answer.revision
    typer.echo(f"# revision {head.revision}, {when(head, 'create_time')} by {head.actor}")
    typer.echo(answer.csv, nl=not answer.csv.endswith("\n"))


def export(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Made if it is not there.")],
    revision: Annotated[int, typer.Option(min=0, help="0 is the current one.")] = 0,
    output: OutputOption = Output.table,
) -> None:
    """Write rules.csv and model.conf into FOLDER, for Casbin or for `aegis policy import`."""
    answer = current(revision)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RULES).write_text(answer.csv, encoding="utf-8")
        (folder / MODEL).write_text(answer.model_conf or _own_model(), encoding="utf-8")
    except OSError as error:
        fail(f"{folder} cannot be written: {error}", "name a folder of your own")
    if output is Output.json:
        files = [str(folder / name) for name in (RULES, MODEL)]
        show_json({"revision": str(answer.revision.revision), "files": files})
    else:
        out.print(f"revision {answer.revision.revision}: {folder / RULES}, {folder / MODEL}")


def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Casbin CSV")],
    reason: ReasonOption,
    model: ModelOption = None,
    expected_revision: ExpectedOption = 0,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.table,
) -> None:
    """Replace all rules by those of FILE, or by nothing at all."""
    request = policy_pb2.ImportPolicyRequest(
        csv=text_of(file),
        model_conf=text_of(model) if model else "",
        reason=reason,
        expected_revision=expected_revision,
        validate_only=dry_run,
    )
    answer = ask(lambda stub: stub.ImportPolicy(request, timeout=LONG_SECONDS))
    good = f"{file}: {answer.revision.rule_count} rules, all good"
    tell_change(answer, output, dry_run=dry_run, nothing=good)


def adopt_baseline(
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    output: OutputOption = Output.table,
) -> None:
    """Add the rules of a fresh installation that are new since, after an upgrade."""
    request = policy_admin_pb2.AdoptBaselineRequest(reason=reason, validate_only=dry_run)
    answer = administer(lambda stub: stub.AdoptBaseline(request, timeout=LONG_SECONDS))
    if output is Output.json:
        show_json(answer)
        return
    for title, rules in (("added", answer.added), ("left out, as before", answer.left_out)):
        for line in rules:
            out.print(f"{title}: {line}", highlight=False, markup=False, soft_wrap=True)
    if answer.added:
        tell_change(answer, output, dry_run=dry_run)
    else:
        out.print("nothing to add")


def _own_model() -> str:
    from aegis_policy.models import DEFAULT_MODEL

    return DEFAULT_MODEL
