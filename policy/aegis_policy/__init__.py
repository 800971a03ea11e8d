"""Decisions by rules: Casbin's language, no I/O."""

from aegis_policy.engine import Decision, Engine, RequestError, check_request
from aegis_policy.paths import matches
from aegis_policy.rulefile import Line, PolicyError, RuleFile, Violation, read_rules, to_csv

__all__ = [
    "Decision",
    "Engine",
    "Line",
    "PolicyError",
    "RequestError",
    "RuleFile",
    "Violation",
    "check_request",
    "matches",
    "read_rules",
    "to_csv",
]
