"""Policy tests: stories with the answer they expect, run against an engine.

A file of stories is YAML; reading that is the caller's job, this module takes what YAML's reader
made of it, strictly, since a misspelt key would be a test of nothing.

    bindings: {user:olga: role:operator}      # beside those of the rules; one role or a list
    cases:
      - story: Olga the operator stops a run
        subject: user:olga
        action: stop
        resource: /training/runs
        domain: acme                          # else aegis
        attributes: {review: "on"}            # what conditions read as ctx.NAME
        now: 2026-03-02T12:00:00Z             # else the present
        expect: allow                         # or deny
        by: operator-stops-runs               # the rule that decides; else any
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from aegis_policy.faults import RequestError
from aegis_policy.lines import Line, to_csv
from aegis_policy.names import SUBJECT
from aegis_policy.requests import check_request
from aegis_policy.rulefile import RuleFile, read_rules

_KEYS_OF_FILE = ("bindings", "cases")
_NEEDED = ("story", "subject", "action", "resource", "expect")
_KEYS_OF_CASE = (*_NEEDED, "domain", "attributes", "now", "by")
_DOMAIN = "aegis"
_ROLE = re.compile(r"role:.+")


class CasesError(ValueError):
    """A file of stories is not usable; `mistakes` name each story that is to blame."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        more = f" (and {len(self.mistakes) - 1} more)" if len(self.mistakes) > 1 else ""
        super().__init__(f"{self.mistakes[0]}{more}")


class Decides(Protocol):
    """What an engine gives: `allowed`, and the rule that decided."""

    @property
    def allowed(self) -> bool:
        """Says whether it is an allow."""

    @property
    def rule_id(self) -> str:
        """The rule, or an empty string."""


class Decider(Protocol):
    """An engine, or another thing that answers as one."""

    def decide(
        self,
        *,
        subject: str,
        domain: str,
        resource: str,
        action: str,
        attributes: Mapping[str, object] | None = None,
        now: datetime | None = None,
    ) -> Decides:
        """Returns the decision."""


@dataclass(frozen=True, slots=True)
class Case:
    """One story. `by` is the rule it names, None when any will do."""

    story: str
    subject: str
    action: str
    resource: str
    allowed: bool
    domain: str = _DOMAIN
    attributes: Mapping[str, object] = field(default_factory=dict)
    now: datetime | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Cases:
    """The stories of one file, and the bindings they need beside those of the rules."""

    file: str
    bindings: tuple[Line, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """How a story went. `problem` is empty when it went as told."""

    file: str
    case: Case
    allowed: bool
    by: str
    problem: str

    @property
    def passed(self) -> bool:
        """Says whether the story went as told."""
        return not self.problem


def read_cases(file: str, content: object) -> Cases:
    """Returns the stories of a file; raises `CasesError` naming every mistake."""
    if not isinstance(content, Mapping):
        raise CasesError([f"{file}: expected {' and '.join(_KEYS_OF_FILE)}"])
    mistakes = [f"{file}: {each}" for each in _strangers(content, _KEYS_OF_FILE)]
    bindings = []
    try:
        bindings = list(_bindings(content.get("bindings") or {}))
    except _Mistake as mistake:
        mistakes.append(f"{file}: {mistake}")
    found = content.get("cases")
    if not isinstance(found, list) or not found:
        mistakes.append(f"{file}: expected a list of cases")
        found = []
    cases: dict[str, Case] = {}
    for number, told in enumerate(found, start=1):
        where = f"{file}: {_named(told, number)}"
        try:
            case = _case(told)
        except _Mistake as mistake:
            mistakes.append(f"{where}: {mistake}")
            continue
        if case.story in cases:
            mistakes.append(f"{where}: this story is told twice")
        cases[case.story] = case
    if mistakes:
        raise CasesError(mistakes)
    return Cases(file, tuple(bindings), tuple(cases.values()))


def with_bindings(rules: RuleFile, cases: Cases) -> RuleFile:
    """Returns rules with the bindings of the stories; raises `PolicyError`, e.g. for a cycle."""
    known = set(rules.lines)
    added = [line for line in cases.bindings if line not in known]
    return read_rules(rules.to_csv() + to_csv(added), rules.model) if added else rules


def run(engine: Decider, cases: Cases, *, now: datetime | None = None) -> list[Result]:
    """Returns how each story went; `now` is for those that do not name a time."""
    now = now or datetime.now(UTC)
    return [_result(engine, cases.file, case, case.now or now) for case in cases.cases]


def _result(engine: Decider, file: str, case: Case, now: datetime) -> Result:
    decision = engine.decide(
        subject=case.subject,
        domain=case.domain,
        resource=case.resource,
        action=case.action,
        attributes=case.attributes,
        now=now,
    )
    allowed, by = decision.allowed, decision.rule_id
    as_told = allowed == case.allowed and case.by in (None, by)
    problem = (
        "" if as_told else f"expected {_told(case.allowed, case.by)}, got {_told(allowed, by)}"
    )
    return Result(file, case, allowed, by, problem)


def _told(allowed: bool, by: str | None) -> str:
    if by:
        return f"{'allow' if allowed else 'deny'} by {by}"
    return "allow" if allowed else "deny" if by is None else "deny, since no rule allows it"


class _Mistake(Exception):
    """What is wrong with a part of a file."""


def _named(told: object, number: int) -> str:
    story = told.get("story") if isinstance(told, Mapping) else None
    return f"{story!r}" if isinstance(story, str) and story else f"case {number}"


def _strangers(found: Mapping[Any, Any], known: Sequence[str]) -> Iterator[str]:
    for key in found:
        if key not in known:
            yield f"{key!r} means nothing here; there are {', '.join(known)}"


def _bindings(told: object) -> Iterator[Line]:
    if not isinstance(told, Mapping):
        raise _Mistake("bindings: expected MEMBER: ROLE")
    for member, given in told.items():
        roles = given if isinstance(given, list) else [given]
        if not isinstance(member, str) or SUBJECT.fullmatch(member) is None:
            raise _Mistake(f"bindings: expected a member such as user:ann, found {member!r}")
        for role in roles:
            if not isinstance(role, str) or not (SUBJECT.fullmatch(role) and _ROLE.match(role)):
                raise _Mistake(f"bindings: {member}: expected a role, found {role!r}")
            yield Line("g2", (member, role))


def _case(told: object) -> Case:
    if not isinstance(told, Mapping):
        raise _Mistake(f"expected {', '.join(_NEEDED)}")
    for stranger in _strangers(told, _KEYS_OF_CASE):
        raise _Mistake(stranger)
    for key in _NEEDED:
        if not isinstance(told.get(key), str) or not told[key]:
            raise _Mistake(f"expected a text as {key}")
    if told["expect"] not in ("allow", "deny"):
        raise _Mistake(f"expect is allow or deny, not {told['expect']!r}")
    attributes = told.get("attributes", {})
    if not isinstance(attributes, Mapping) or not all(isinstance(name, str) for name in attributes):
        raise _Mistake("attributes: expected NAME: VALUE")
    by = told.get("by")
    if by is not None and not isinstance(by, str):
        raise _Mistake(f"by: expected the id of a rule, found {by!r}")
    case = Case(
        story=told["story"],
        subject=told["subject"],
        action=told["action"],
        resource=told["resource"],
        allowed=told["expect"] == "allow",
        domain=told.get("domain", _DOMAIN),
        attributes=attributes,
        now=_instant(told.get("now")),
        by=by,
    )
    _refuse_what_cannot_be_asked(case)
    return case


def _refuse_what_cannot_be_asked(case: Case) -> None:
    if not isinstance(case.domain, str):
        raise _Mistake(f"domain: expected a text, found {case.domain!r}")
    if case.allowed and case.by == "":
        raise _Mistake("by: nothing is allowed by no rule")
    try:
        check_request(case.subject, case.domain, case.resource, case.action)
    except RequestError as error:
        raise _Mistake(str(error)) from None


def _instant(told: object) -> datetime | None:
    if told is None:
        return None
    try:
        # YAML makes an instant of what looks like one, and leaves a text in quotes alone.
        instant = told if isinstance(told, datetime) else datetime.fromisoformat(str(told))
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise _Mistake(f"now: expected a time with its zone, e.g. 2026-03-02T12:00:00Z: {told!r}")
    return instant
