"""Stand-ins for what other rooms bring: used only while the real thing is not there yet.

Imported by conftest.py before anything else of the server."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from aegis_policy import Line, PolicyError, read_rules, to_csv


class Finding(NamedTuple):
    severity: str
    check: str
    line: int
    column: int
    rule_id: str
    text: str


class Difference(NamedTuple):
    text: str
    before: str
    after: str


def lint_csv(csv: str, model_conf: str | None = None, now: object = None) -> list[Finding]:
    try:
        read_rules(csv)
    except PolicyError as error:
        return [
            Finding("error", "syntax", v.line, v.column, "", v.expected) for v in error.violations
        ]
    return []


def differences(before: Sequence[Line], after: Sequence[Line]) -> list[Difference]:
    gone = [line for line in before if line not in after]
    new = [line for line in after if line not in before]
    return [Difference("removed", to_csv([line]).strip(), "") for line in gone] + [
        Difference("added", "", to_csv([line]).strip()) for line in new
    ]


def install() -> None:
    for name, members in (
        ("lint", {"Finding": Finding, "lint_csv": lint_csv}),
        ("differences", {"Difference": Difference, "differences": differences}),
    ):
        if importlib.util.find_spec(f"aegis_policy.{name}") is None:
            module = ModuleType(f"aegis_policy.{name}")
            module.__dict__.update(members)
            sys.modules[module.__name__] = module


install()
