"""Rule files: Casbin's CSV, read strictly, before Casbin sees any of it.

    p, SUBJECT OR ROLE, DOMAIN, RESOURCE PATTERN, ACTION, CONDITION, EFFECT, ID
    g, MEMBER, ROLE, DOMAIN
    g2, MEMBER, ROLE

A role given in one domain brings there what that role has everywhere: a deny bound to it by `g2`
holds its members by `g`, too.

Casbin drops a line with an unknown type, treats a misspelt `deny` as no rule at all, and lets a
line with a missing field break every later decision. Here the whole file is good or none of it is
used, and every bad place is named at once. Spaces around a field are layout and are removed;
inside double quotes they are text (and then mostly wrong). A line that starts with # is a comment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aegis_policy.conditions import Condition, compile_condition
from aegis_policy.paths import fault_of_pattern
from aegis_policy.roles import fault_of_chain
from aegis_policy.syntax import ConditionError

# Casbin looks at every rule for every decision, at some microseconds a rule.
MAX_RULES = 10_000
SUBJECT = re.compile(r"[a-z][a-z0-9-]{0,31}:[A-Za-z0-9][A-Za-z0-9._@/-]{0,127}")
DOMAIN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ACTION = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ID = re.compile(r"[a-z0-9][a-z0-9._#-]{0,79}")
_COLUMNS = {
    "p": ("subject", "domain", "resource", "action", "condition", "effect", "id"),
    "g": ("member", "role", "domain"),
    "g2": ("member", "role"),
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad place of a rule file: line and column count from 1; line 0 is the whole file."""

    line: int
    column: int
    expected: str


class PolicyError(ValueError):
    """A rule file is not usable; `violations` names every bad place in file order."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(sorted(violations, key=lambda bad: (bad.line, bad.column)))
        first = self.violations[0]
        place = f"line {first.line}, column {first.column}: " if first.line else ""
        more = f" (and {len(self.violations) - 1} more)" if len(self.violations) > 1 else ""
        super().__init__(f"{place}{first.expected}{more}")


class Line(NamedTuple):
    """One rule (`p`) or binding (`g`, `g2`) as it is stored."""

    kind: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A file that passed every check. `conditions` are compiled, by their text."""

    lines: tuple[Line, ...]
    conditions: Mapping[str, Condition] = field(repr=False)

    def to_csv(self) -> str:
        """Returns the canonical text: reading it gives the same lines again."""
        return to_csv(self.lines)


def to_csv(lines: Iterable[Line]) -> str:
    """Returns lines as a file, in their order."""
    return "".join(
        ", ".join((line.kind, *(_quoted(text) for text in line.fields))) + "\n" for line in lines
    )


def _quoted(text: str) -> str:
    plain = text == text.strip(" ") and not re.search(r'[",]', text)
    return text if plain else '"' + text.replace('"', '""') + '"'


def read_rules(text: str) -> RuleFile:
    """Reads a rule file; raises `PolicyError` with everything that is wrong with it."""
    reader = _Reader()
    for number, raw in enumerate(text.split("\n"), start=1):
        reader.read(number, raw.removesuffix("\r"))
    return reader.finish()


class _Field(NamedTuple):
    text: str
    column: int


class _Reader:
    """Collects lines and faults; what spans lines is checked at the end."""

    def __init__(self) -> None:
        self._faults: list[Violation] = []
        self._lines: list[Line] = []
        self._conditions: dict[str, Condition] = {}
        self._seen: dict[tuple[str, ...], int] = {}
        self._links: dict[str, dict[str, list[str]]] = {}
        self._member_line: dict[tuple[str, str], int] = {}

    def read(self, number: int, raw: str) -> None:
        fault = _fault_of_text(raw)
        if fault is not None:
            self._faults.append(Violation(number, *fault))
            return
        if not raw.strip(" ") or raw.lstrip(" ").startswith("#"):
            return
        try:
            kind, *fields = _split(raw)
        except _Unquotable as error:
            self._faults.append(Violation(number, error.column, error.expected))
            return
        columns = _COLUMNS.get(kind.text)
        if columns is None:
            self._fault(number, kind, f'expected "p", "g" or "g2", found {kind.text!r}')
        elif len(fields) != len(columns):
            found = f"found {len(fields)}"
            hint = " (a condition with commas goes in double quotes)" if kind.text == "p" else ""
            names = ", ".join(columns)
            self._fault(number, kind, f"expected {len(columns)} fields ({names}), {found}{hint}")
        elif kind.text == "p":
            self._rule(number, fields)
        else:
            self._binding(number, kind.text, fields)

    def _rule(self, number: int, fields: Sequence[_Field]) -> None:
        subject, domain, resource, action, condition, effect, rule_id = fields
        self._match(number, subject, SUBJECT, 'a subject such as "role:operator" or "user:ann"')
        if domain.text != "*":
            self._match(number, domain, DOMAIN, 'a domain or "*"')
        if fault := fault_of_pattern(resource.text):
            self._fault(number, resource, fault)
        if action.text != "*":
            self._match(number, action, ACTION, 'an action such as "read", or "*"')
        self._condition(number, condition)
        if effect.text not in ("allow", "deny"):
            wanted = 'exactly "allow" or "deny"'
            self._fault(number, effect, f"expected {wanted}, found {effect.text!r}")
        if self._match(number, rule_id, _ID, 'an id such as "automation-restarts-pods"'):
            self._once(number, rule_id, ("p", rule_id.text), f"the id {rule_id.text}")
        self._lines.append(Line("p", tuple(item.text for item in fields)))

    def _condition(self, number: int, condition: _Field) -> None:
        if not condition.text or condition.text in self._conditions:
            return
        try:
            self._conditions[condition.text] = compile_condition(condition.text)
        except ConditionError as error:
            self._faults.append(Violation(number, condition.column + error.offset, error.message))

    def _binding(self, number: int, kind: str, fields: Sequence[_Field]) -> None:
        member, role, *domain = fields
        good = self._match(number, member, SUBJECT, 'a member such as "user:ann"')
        if not role.text.startswith("role:") or SUBJECT.fullmatch(role.text) is None:
            self._fault(number, role, f'expected a role such as "role:operator", not {role.text!r}')
            good = False
        for item in domain:
            good = self._match(number, item, DOMAIN, "a domain (g2 binds in all of them)") and good
        texts = tuple(item.text for item in fields)
        if good and self._once(number, member, (kind, *texts), "this binding"):
            scope = domain[0].text if domain else ""
            self._links.setdefault(scope, {}).setdefault(member.text, []).append(role.text)
            self._member_line.setdefault((scope, member.text), number)
        self._lines.append(Line(kind, texts))

    def _once(self, number: int, item: _Field, key: tuple[str, ...], what: str) -> bool:
        first = self._seen.setdefault(key, number)
        if first != number:
            self._fault(number, item, f"{what} was already used in line {first}")
        return first == number

    def _match(self, number: int, item: _Field, shape: re.Pattern[str], wanted: str) -> bool:
        good = shape.fullmatch(item.text) is not None
        if not good:
            self._fault(number, item, f"expected {wanted}, found {item.text!r}")
        return good

    def _fault(self, number: int, item: _Field, expected: str) -> None:
        self._faults.append(Violation(number, item.column, expected))

    def finish(self) -> RuleFile:
        everywhere = self._links.get("", {})
        for scope, members in self._links.items():
            for member in members:
                if fault := fault_of_chain(member, everywhere, members):
                    self._faults.append(Violation(self._member_line[scope, member], 1, fault))
        rules = sum(line.kind == "p" for line in self._lines)
        if len(self._lines) > MAX_RULES:
            self._faults.append(Violation(0, 0, f"at most {MAX_RULES} lines"))
        if not rules and not self._faults:
            self._faults.append(Violation(0, 0, "expected at least one p line: this locks all out"))
        if self._faults:
            raise PolicyError(self._faults)
        return RuleFile(tuple(self._lines), self._conditions)


def _fault_of_text(raw: str) -> tuple[int, str] | None:
    """Returns column and fault of characters that a reader of the file could not see."""
    for column, character in enumerate(raw, start=1):
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            return column, f"U+{ord(character):04X} is invisible and not allowed"
    if not unicodedata.is_normalized("NFC", raw):
        return 1, "expected Unicode normal form C"
    return None


class _Unquotable(Exception):
    def __init__(self, column: int, expected: str) -> None:
        super().__init__(expected)
        self.column = column
        self.expected = expected


_QUOTED = re.compile(r'"((?:[^"]|"")*)" *')
_PLAIN = re.compile(r"[^,]*")


def _split(raw: str) -> Iterator[_Field]:
    """Cuts a line at its commas, outside quotes; raises `_Unquotable`."""
    at = 0
    while True:
        at += len(raw[at:]) - len(raw[at:].lstrip(" "))
        quoted = raw.startswith('"', at)
        match = (_QUOTED if quoted else _PLAIN).match(raw, at)
        if match is None:
            raise _Unquotable(at + 1, "a quoted field without its closing quote")
        text = match[1].replace('""', '"') if quoted else match[0].rstrip(" ")
        if not quoted and '"' in text:
            raise _Unquotable(at + 1, 'a field with a quote in it goes in quotes, " written ""')
        yield _Field(text, at + 1 + quoted)
        at = match.end()
        if at == len(raw):
            return
        if raw[at] != ",":
            raise _Unquotable(at + 1, "expected a comma after the closing quote")
        at += 1
