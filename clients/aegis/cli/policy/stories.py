"""Stories that rules have to tell the same way: `aegis policy test`.

They run in this process. Only who names no file of rules needs a server, to have its rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.text import Text

from aegis.cli.policy.calls import ModelOption, current, pycasbin_if_needed, text_of
from aegis.cli.policy.junit import junit
from aegis.cli.session import Output, OutputOption, fail, out, refuse, show_json
from aegis.errors import FieldViolation, InvalidArgument

if TYPE_CHECKING:
    from aegis_policy import PolicyError
    from aegis_policy.cases import Cases, CasesError, Result

_YAML = ("*.yaml", "*.yml")
_SHOWN_MAX = 50


def run_stories(
    stories: Annotated[
        list[Path], typer.Argument(exists=True, help="YAML files, or folders of them.")
    ],
    rules: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Else the server's rules.")
    ] = None,
    model: ModelOption = None,
    report: Annotated[
        Path | None, typer.Option("--junit", dir_okay=False, help="Write a JUnit report.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Run stories against rules, here; exits 1 when one went otherwise than it is told."""
    told = [_stories(file) for file in _files(stories)]
    results = _run(told, rules, model)
    if report is not None:
        try:
            report.write_text(junit(results), encoding="utf-8")
        except OSError as error:
            fail(f"{report} cannot be written: {error}", "name another one with --junit")
    failed = [result for result in results if not result.passed]
    if output is Output.json:
        show_json({"passed": len(results) - len(failed), "failed": [_as_dict(r) for r in failed]})
    else:
        for result in failed:
            out.print(Text(f"{result.file}: {result.case.story}", style="bold red"))
            out.print(f"  {result.problem}", highlight=False, markup=False)
        out.print(f"{len(results) - len(failed)} passed, {len(failed)} failed", highlight=False)
    raise typer.Exit(1 if failed else 0)


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        inside = sorted(each for name in _YAML for each in path.rglob(name))
        if path.is_dir() and not inside:
            fail(f"{path} has no story", "stories are in files that end in .yaml")
        files.extend(inside if path.is_dir() else [path])
    return files


def _stories(file: Path) -> Cases:
    import yaml

    from aegis_policy.cases import CasesError, read_cases

    try:
        return read_cases(str(file), yaml.safe_load(text_of(file)))
    except yaml.YAMLError as error:
        fail(f"{file} is no YAML: {' '.join(str(error).split())}", "see docs/policy.md, Testing")
    except CasesError as error:
        _refuse_stories(error)


def _run(told: Sequence[Cases], rules: Path | None, model: Path | None) -> list[Result]:
    from aegis_policy import Engine, PolicyError, read_model, read_rules
    from aegis_policy.cases import run, with_bindings

    if rules is None:
        policy = current()
        csv, model_conf = policy.csv, policy.model_conf or None
    else:
        csv, model_conf = text_of(rules), text_of(model) if model else None
    now = datetime.now(UTC)
    try:
        read = read_rules(csv, read_model(model_conf))
        with pycasbin_if_needed():
            return [
                result
                for cases in told
                for result in run(Engine(with_bindings(read, cases)), cases, now=now)
            ]
    except PolicyError as error:
        _refuse_rules(error)


def _refuse_rules(error: PolicyError) -> NoReturn:
    violations = [
        FieldViolation(f"line {bad.line}, column {bad.column}", bad.expected)
        for bad in error.violations[:_SHOWN_MAX]
    ]
    refuse(InvalidArgument("POLICY_INVALID", "these rules cannot be used", violations=violations))


def _refuse_stories(error: CasesError) -> NoReturn:
    first, *others = error.mistakes
    fail("\n  ".join([first, *others]), "see docs/policy.md, Testing")


def _as_dict(result: Result) -> dict[str, Any]:
    return {
        "file": result.file,
        "story": result.case.story,
        "problem": result.problem,
        "effect": "allow" if result.allowed else "deny",
        "rule_id": result.by,
    }
