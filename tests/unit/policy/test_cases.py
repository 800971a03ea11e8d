"""Decision cases: stories in YAML that the baseline rules have to tell the same way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from aegis_policy import Engine, Line, PolicyError, read_rules
from aegis_policy.baseline import baseline_csv
from aegis_policy.cases import Case, Cases, CasesError, Result, read_cases, run, with_bindings

FOLDER = Path(__file__).parents[3] / "policy" / "cases"
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
BASELINE = read_rules(baseline_csv())
FILES = [
    read_cases(path.stem, yaml.safe_load(path.read_text()))
    for path in sorted(FOLDER.glob("*.yaml"))
]
ENGINES = {told.file: Engine(with_bindings(BASELINE, told)) for told in FILES}
RESULTS = [result for told in FILES for result in run(ENGINES[told.file], told, now=NOW)]


@pytest.mark.parametrize("result", [pytest.param(each, id=each.case.story) for each in RESULTS])
def test_story(result: Result) -> None:
    """The rules decide each story as it is told, by the rule it names, or else by none."""
    assert result.problem == ""
    assert result.by == (result.case.by or "")


def test_every_baseline_rule_decides_a_case() -> None:
    """A rule that no story needs is a rule nobody has thought through."""
    rules = {line.fields[-1] for line in BASELINE.lines if line.kind == "p"}
    told = {result.case.by or "" for result in RESULTS}
    assert rules - told == set()
    assert told - rules == {""}


def test_every_baseline_role_has_a_case() -> None:
    """Each role of the baseline is played by somebody in a story."""
    roles = {name for line in BASELINE.lines for name in line.fields[:2] if name[:5] == "role:"}
    played = {
        role
        for told in FILES
        for case in told.cases
        for role in ENGINES[told.file].roles_of(case.subject, "aegis")
    }
    assert roles == played


STORY = {
    "story": "Olga stops a run",
    "subject": "user:olga",
    "action": "stop",
    "resource": "/training/runs",
    "expect": "allow",
}


def told(**changes: Any) -> Cases:
    case = {key: value for key, value in (STORY | changes).items() if value is not ...}
    return read_cases("my.yaml", {"bindings": {"user:olga": "role:operator"}, "cases": [case]})


def outcome(**changes: Any) -> str:
    cases = told(**changes)
    (result,) = run(Engine(with_bindings(BASELINE, cases)), cases, now=NOW)
    return result.problem


def test_story_that_goes_as_told_has_no_problem() -> None:
    """With the rule it names, or whichever decides when it names none."""
    assert outcome() == ""
    assert outcome(by="operator-stops-runs") == ""
    assert outcome(action="dance", expect="deny") == ""
    assert outcome(action="dance", expect="deny", by="") == ""


def test_story_that_goes_otherwise_says_what_was_expected_and_what_came() -> None:
    """Effect and rule, of both."""
    assert outcome(expect="deny") == "expected deny, got allow by operator-stops-runs"
    assert outcome(action="dance") == "expected allow, got deny, since no rule allows it"
    other = outcome(by="operator-starts-runs")
    assert other == "expected allow by operator-starts-runs, got allow by operator-stops-runs"


def test_story_has_its_own_time_domain_and_attributes() -> None:
    """What it does not say is the present, aegis, and no attributes."""
    rules = read_rules(
        "p, user:olga, acme, /a, read, \"ctx.n == 2 and between('2026-01-01T00:00:00Z',"
        " '2026-02-01T00:00:00Z')\", allow, x\n"
    )
    story = {"resource": "/a", "action": "read", "domain": "acme", "attributes": {"n": 2}}
    for now in (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"):
        cases = told(**story, now=now, by="x")
        assert run(Engine(rules), cases)[0].passed
    assert not run(Engine(rules), told(**story), now=NOW)[0].passed
    assert told().cases[0] == Case(
        "Olga stops a run", "user:olga", "stop", "/training/runs", allowed=True
    )


def test_member_may_have_several_roles() -> None:
    """A list instead of one."""
    bindings = {"user:olga": ["role:a", "role:b"], "user:bob": "role:a"}
    found = read_cases("my.yaml", {"bindings": bindings, "cases": [STORY]})
    assert found.bindings == (
        Line("g2", ("user:olga", "role:a")),
        Line("g2", ("user:olga", "role:b")),
        Line("g2", ("user:bob", "role:a")),
    )


def test_binding_that_the_rules_have_already_is_no_mistake() -> None:
    """The rules may have moved towards the stories; a binding that makes a cycle is refused."""
    cases = read_cases("my.yaml", {"bindings": {"user:admin": "role:admin"}, "cases": [STORY]})
    assert with_bindings(BASELINE, cases) is BASELINE
    circle = read_cases("my.yaml", {"bindings": {"role:guarded": "role:admin"}, "cases": [STORY]})
    with pytest.raises(PolicyError, match="would be its own role"):
        with_bindings(BASELINE, circle)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"atributes": {}}, "'atributes' means nothing here; there are story"),
        ({"subject": ...}, "expected a text as subject"),
        ({"action": 3}, "expected a text as action"),
        ({"expect": "Deny"}, "expect is allow or deny, not 'Deny'"),
        ({"attributes": ["x"]}, "attributes: expected NAME: VALUE"),
        ({"attributes": {1: 2}}, "attributes: expected NAME: VALUE"),
        ({"by": 5}, "by: expected the id of a rule"),
        ({"by": ""}, "nothing is allowed by no rule"),
        ({"now": "yesterday"}, "now: expected a time with its zone"),
        ({"now": "2026-01-01T00:00:00"}, "now: expected a time with its zone"),
        ({"now": datetime(2026, 1, 1)}, "now: expected a time with its zone"),
        ({"domain": 3}, "domain: expected a text"),
        ({"domain": "Acme"}, "domain: expected lower-case"),
        ({"subject": "olga"}, "subject: expected kind:name"),
        ({"subject": "role:operator"}, "a role cannot ask"),
        ({"resource": "/a//b"}, "resource: "),
        ({"action": "Stop"}, "action: expected a verb"),
    ],
)
def test_mistake_in_a_story_names_file_and_story(changes: dict[str, Any], words: str) -> None:
    """A misspelt key would else be a test of nothing."""
    with pytest.raises(CasesError) as caught:
        told(**changes)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("my.yaml: 'Olga stops a run': ")
    assert words in mistake


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "expected bindings and cases"),
        ([], "expected bindings and cases"),
        ({"cases": [STORY], "case": 1}, "'case' means nothing here"),
        ({"cases": []}, "expected a list of cases"),
        ({"cases": {}}, "expected a list of cases"),
        ({"cases": ["x"]}, "case 1: expected story"),
        ({"cases": [STORY, {**STORY, "story": ""}]}, "case 2: expected a text as story"),
        ({"cases": [STORY, STORY]}, "'Olga stops a run': this story is told twice"),
        ({"bindings": [], "cases": ["x"]}, "case 1"),
        ({"bindings": ["x"], "cases": [STORY]}, "bindings: expected MEMBER: ROLE"),
        ({"bindings": {"olga": "role:x"}, "cases": [STORY]}, "expected a member"),
        ({"bindings": {"user:olga": "operator"}, "cases": [STORY]}, "user:olga: expected a role"),
        ({"bindings": {"user:olga": "user:bob"}, "cases": [STORY]}, "user:olga: expected a role"),
    ],
)
def test_mistake_in_a_file_is_named(content: object, words: str) -> None:
    """By the number of the case where it has no story."""
    with pytest.raises(CasesError) as caught:
        read_cases("my.yaml", content)
    assert str(caught.value).startswith("my.yaml: ")
    assert words in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    """Nobody mends a file one error at a time."""
    bad = {**STORY, "story": "Two", "expect": "maybe"}
    with pytest.raises(CasesError) as caught:
        read_cases("my.yaml", {"bindings": 3, "x": 1, "cases": [bad, "y", STORY]})
    assert len(caught.value.mistakes) == 4
    assert "(and 3 more)" in str(caught.value)
