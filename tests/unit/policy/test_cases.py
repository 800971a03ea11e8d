"""Decision cases: stories in YAML that the baseline rules have to tell the same way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from aegis_policy import Engine, read_rules
from aegis_policy.baseline import baseline_csv

CASES = Path(__file__).parents[3] / "policy" / "cases"
FILES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CASES.glob("*.yaml"))}
ENGINES = {
    name: Engine.from_csv(
        baseline_csv()
        + "".join(f"g2, {member}, {role}\n" for member, role in content["bindings"].items())
    )
    for name, content in FILES.items()
}
STORIES = [
    pytest.param(name, case, id=case["story"])
    for name, content in FILES.items()
    for case in content["cases"]
]


@pytest.mark.parametrize(("name", "case"), STORIES)
def test_story(name: str, case: dict[str, Any]) -> None:
    """The rules decide each story as it is told, by the rule it names."""
    decision = ENGINES[name].decide(
        subject=case["subject"],
        domain=case.get("domain", "aegis"),
        resource=case["resource"],
        action=case["action"],
        attributes=case.get("attributes", {}),
        now=datetime(2026, 3, 2, 12, tzinfo=UTC),
    )
    assert (decision.allowed, decision.rule_id) == (case["expect"] == "allow", case.get("by", ""))


def test_every_baseline_rule_decides_a_case() -> None:
    """A rule that no story needs is a rule nobody has thought through."""
    rules = {line.fields[-1] for line in read_rules(baseline_csv()).lines if line.kind == "p"}
    told = {case.get("by", "") for content in FILES.values() for case in content["cases"]}
    assert rules - told == set()
    assert told - rules == {""}


def test_every_baseline_role_has_a_case() -> None:
    """Each role of the baseline is played by somebody in a story."""
    lines = read_rules(baseline_csv()).lines
    roles = {name for line in lines for name in line.fields[:2] if name.startswith("role:")}
    played = {
        role
        for name, content in FILES.items()
        for case in content["cases"]
        for role in ENGINES[name].roles_of(case["subject"], "aegis")
    }
    assert roles == played
