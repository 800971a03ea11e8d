"""Decisions by rules: Casbin's language, no I/O."""

from aegis_policy.engine import Decision, Engine
from aegis_policy.faults import PolicyError, RequestError, Violation
from aegis_policy.lines import Line, to_csv
from aegis_policy.models import Model, read_model
from aegis_policy.paths import matches
from aegis_policy.requests import check_request
from aegis_policy.rulefile import RuleFile, read_rules

__all__ = [
    "Decision",
    "Engine",
    "Line",
    "Model",
    "PolicyError",
    "RequestError",
    "RuleFile",
    "Violation",
    "check_request",
    "matches",
    "read_model",
    "read_rules",
    "to_csv",
]
