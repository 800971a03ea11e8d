"""A rule file as the checks look at it: rules with their lines, and who reaches which role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from aegis_policy.patterns import steps_of
from aegis_policy.rulefile import RuleFile

Severity: TypeAlias = Literal["error", "warning", "note"]

# The scope of a binding that counts in every domain.
EVERYWHERE = ""
_NONE: Mapping[str, list[str]] = {}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a rule file that is wrong, suspicious or worth knowing.

    `check` is a name to look up in docs/policy.md. Line and column count from 1; line 0 is the
    whole file.
    """

    severity: Severity
    check: str
    line: int
    column: int
    rule_id: str
    text: str


class Reading(Enum):
    """How a model reads rules that match the same request."""

    DENY_OVERRIDES = "one deny outweighs every allow"
    FIRST_MATCH = "the first rule in the file decides"
    OWN = "as an admin's own model says"


class Rule(NamedTuple):
    """A `p` line."""

    line: int
    subject: str
    domain: str
    resource: str
    action: str
    condition: str
    effect: str
    rule_id: str

    @property
    def allows(self) -> bool:
        """Says whether this is an allow."""
        return self.effect == "allow"

    @property
    def steps(self) -> tuple[str, ...]:
        """What it is about, as a pattern."""
        return steps_of(self.domain, self.action, self.resource)

    def found(self, severity: Severity, check: str, text: str) -> Finding:
        """Returns a finding about this rule."""
        return Finding(severity, check, self.line, 1, self.rule_id, text)


class Binding(NamedTuple):
    """A `g` or `g2` line; its domain is EVERYWHERE for `g2`."""

    line: int
    member: str
    role: str
    domain: str

    def found(self, severity: Severity, check: str, text: str) -> Finding:
        """Returns a finding about this binding."""
        return Finding(severity, check, self.line, 1, "", text)


class Survey:
    """The rules and bindings of a file. `held` are roles that somebody has beside the bindings."""

    def __init__(self, file: RuleFile, held: Iterable[str] = ()) -> None:
        self.held = frozenset(held)
        numbers = file.line_numbers or range(1, len(file.lines) + 1)
        self.rules = [
            Rule(number, *line.fields)
            for number, line in zip(numbers, file.lines, strict=True)
            if line.kind == "p"
        ]
        self.bindings = [
            Binding(number, *line.fields, *([EVERYWHERE] if line.kind == "g2" else []))
            for number, line in zip(numbers, file.lines, strict=True)
            if line.kind != "p"
        ]
        self._links: dict[str, dict[str, list[str]]] = {EVERYWHERE: {}}
        for _, member, role, domain in self.bindings:
            self._links.setdefault(domain, {}).setdefault(member, []).append(role)
        self._closed: dict[tuple[str, str], frozenset[str]] = {}
        self._reached: dict[str, frozenset[str]] = {}

    def roles_of(self, name: str, domain: str) -> frozenset[str]:
        """Returns every role that a subject or role has in a domain; in all of them for `*`."""
        key = name, domain if domain in self._links else EVERYWHERE
        if key not in self._closed:
            self._closed[key] = self._closure(self._above(name, key[1]), key[1])
        return self._closed[key]

    def reached(self, domain: str) -> frozenset[str]:
        """Returns the roles that somebody has in a domain; in any of them for `*`."""
        if domain == "*":
            if "*" not in self._reached:
                scopes = [self.reached(scope) for scope in self._links]
                self._reached["*"] = frozenset().union(*scopes)
            return self._reached["*"]
        scope = domain if domain in self._links else EVERYWHERE
        if scope not in self._reached:
            # In a domain only what its own bindings add is walked: there may be many domains.
            base = self.held if scope == EVERYWHERE else self.reached(EVERYWHERE)
            given = (
                role
                for member, roles in self._links[scope].items()
                if not member.startswith("role:") or member in base
                for role in roles
            )
            first = (*given, *base) if scope == EVERYWHERE else given
            self._reached[scope] = base | self._closure(first, scope)
        return self._reached[scope]

    def members(self, domain: str) -> Iterator[str]:
        """Returns who has roles in a domain by a binding, directly, and is no role."""
        found = {**self._links[EVERYWHERE], **self._links.get(domain, _NONE)}
        return (member for member in found if not member.startswith("role:"))

    def _above(self, name: str, scope: str) -> list[str]:
        everywhere = self._links[EVERYWHERE].get(name, [])
        return everywhere if scope == EVERYWHERE else [*everywhere, *self._here(name, scope)]

    def _here(self, name: str, scope: str) -> list[str]:
        return self._links[scope].get(name, [])

    def _closure(self, first: Iterable[str], scope: str) -> frozenset[str]:
        reached = set(first)
        waiting = list(reached)
        while waiting:
            fresh = set(self._above(waiting.pop(), scope)) - reached
            reached |= fresh
            waiting.extend(fresh)
        return frozenset(reached)
