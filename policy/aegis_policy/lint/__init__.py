"""What is wrong, suspicious or worth knowing about rules: `aegis policy lint`.

An error could not, or should not, become a revision; a warning is probably not what was meant; a
note is worth knowing. docs/policy.md has every check with an example. A file of 10,000 lines takes
about a second; the checks that compare rules with rules stop after a bounded number of steps.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from aegis_policy.engine import Engine
from aegis_policy.faults import PolicyError
from aegis_policy.lint.clauses import window_findings
from aegis_policy.lint.coverage import coverage_findings
from aegis_policy.lint.lookalikes import lookalike_findings
from aegis_policy.lint.power import broad_findings, lockout_findings
from aegis_policy.lint.survey import Finding, Reading, Severity, Survey
from aegis_policy.lint.vocabulary import action_findings, role_findings
from aegis_policy.models import Model, read_model
from aegis_policy.rulefile import RuleFile, read_rules

__all__ = ["Finding", "Reading", "Severity", "lint", "lint_csv"]

_OWN_MODEL = Finding(
    "note",
    "own-model",
    0,
    0,
    "",
    "a model of its own runs on PyCasbin, not compiled; what its rules mean is not checked",
)


def lint(
    rules: RuleFile,
    *,
    now: datetime,
    known_actions: Collection[str] | None = None,
    known_roles: Collection[str] | None = None,
) -> list[Finding]:
    """Returns the findings about a rule file, in the order of its lines.

    `known_actions` are all there are; without them only what looks misspelt is found.
    `known_roles` are those that a directory gives; without them a role that no binding gives may
    still be somebody's.
    """
    reading = _reading(rules.model)
    if reading is Reading.OWN:
        return [_OWN_MODEL]
    directory_known = known_roles is not None
    survey = Survey(rules, known_roles or ())
    findings = [
        *coverage_findings(survey, reading, now),
        *window_findings(survey.rules, now),
        *role_findings(survey, directory_known=directory_known),
        *action_findings(survey, known_actions),
        *broad_findings(survey),
        *lockout_findings(survey, reading, now, directory_known=directory_known),
        *lookalike_findings(survey),
    ]
    return sorted(findings, key=lambda found: (found.line, found.column, found.check))


def lint_csv(
    csv: str,
    model_conf: str | None = None,
    *,
    now: datetime,
    known_actions: Collection[str] | None = None,
    known_roles: Collection[str] | None = None,
) -> list[Finding]:
    """Returns the findings about a file as it is written: errors alone when it is not usable."""
    try:
        rules = read_rules(csv, read_model(model_conf))
        if not rules.model.compiled:
            # Whether such a model runs shows when it does.
            Engine(rules)
    except PolicyError as error:
        return [
            Finding("error", "invalid", bad.line, bad.column, "", bad.expected)
            for bad in error.violations
        ]
    return lint(rules, now=now, known_actions=known_actions, known_roles=known_roles)


def _reading(model: Model) -> Reading:
    if not model.compiled:
        return Reading.OWN
    return Reading.FIRST_MATCH if model.first_match else Reading.DENY_OVERRIDES
