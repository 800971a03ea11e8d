"""Readers of rule files: one for Aegis' own model, one for an admin's.

They collect everything that is wrong before anything is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from aegis_policy.conditions import Condition, compile_condition
from aegis_policy.faults import PolicyError, Violation
from aegis_policy.lines import Field, Line, Unquotable, fault_of_text, split
from aegis_policy.matchers import PATTERNS
from aegis_policy.models import Model
from aegis_policy.names import ACTION, DOMAIN, RULE_ID, SUBJECT
from aegis_policy.paths import fault_of_pattern
from aegis_policy.roles import EVERYWHERE, Link, Roles
from aegis_policy.syntax import ConditionError

# A hundred thousand rules and as many bindings: some seconds to build, some 200 MB.
MAX_LINES = 200_000
# PyCasbin looks at every rule for every decision, at some microseconds a rule.
MAX_LINES_OF_OWN_MODEL = 10_000
NO_RULES = "expected at least one p line: this locks all out"
_COLUMNS = {
    "p": ("subject", "domain", "resource", "action", "condition", "effect", "id"),
    "g": ("member", "role", "domain"),
    "g2": ("member", "role"),
}
_PRIORITY = re.compile(r"0|[1-9][0-9]{0,8}")
_FIELD_BYTES_MAX = 512


class Reader:
    """Collects lines and faults; what spans lines is checked at the end."""

    def __init__(self) -> None:
        self._faults: list[Violation] = []
        self.lines: list[Line] = []
        self.numbers: list[int] = []
        self.conditions: dict[str, Condition] = {}
        self._seen: dict[tuple[str, ...], int] = {}
        self._links: list[Link] = []
        self._member_line: dict[tuple[str, str], int] = {}
        self._columns: Mapping[str, Sequence[str]] = _COLUMNS
        self._good: dict[re.Pattern[str] | None, set[str]] = {}
        self._texts: dict[str, str] = {}

    def read(self, number: int, raw: str) -> None:
        """Takes a line of the file."""
        fault = fault_of_text(raw)
        if fault is not None:
            self._faults.append(Violation(number, *fault))
            return
        if not raw.strip(" ") or raw.lstrip(" ").startswith("#"):
            return
        try:
            kind, *fields = split(raw)
        except Unquotable as error:
            self._faults.append(Violation(number, error.column, error.expected))
            return
        columns = self._columns.get(kind.text)
        if columns is None:
            *others, last = (f'"{known}"' for known in self._columns)
            kinds = f"{', '.join(others)} or {last}" if others else last
            self._fault(number, kind, f"expected {kinds}, found {kind.text!r}")
        elif len(fields) != len(columns):
            found = f"found {len(fields)}"
            hint = " (a condition with commas goes in double quotes)" if kind.text == "p" else ""
            names = ", ".join(columns)
            self._fault(number, kind, f"expected {len(columns)} fields ({names}), {found}{hint}")
        elif kind.text == "p":
            self._rule(number, fields)
        else:
            self._binding(number, kind.text, fields)

    def _rule(self, number: int, fields: Sequence[Field]) -> None:
        subject, domain, resource, action, condition, effect, rule_id = fields
        self._match(number, subject, SUBJECT, 'a subject such as "role:operator" or "user:ann"')
        if domain.text != "*":
            self._match(number, domain, DOMAIN, 'a domain or "*"')
        patterns = self._good.setdefault(None, set())
        if resource.text not in patterns:
            if fault := fault_of_pattern(resource.text):
                self._fault(number, resource, fault)
            else:
                patterns.add(resource.text)
        if action.text != "*":
            self._match(number, action, ACTION, 'an action such as "read", or "*"')
        self._condition(number, condition)
        if effect.text not in ("allow", "deny"):
            wanted = 'exactly "allow" or "deny"'
            self._fault(number, effect, f"expected {wanted}, found {effect.text!r}")
        if self._match(number, rule_id, RULE_ID, 'an id such as "automation-restarts-pods"'):
            self._once(number, rule_id, ("p", rule_id.text), f"the id {rule_id.text}")
        *names, unique = (item.text for item in fields)
        self.lines.append(Line("p", (*map(self._same, names), unique)))
        self.numbers.append(number)

    def _same(self, text: str) -> str:
        """Returns the one object of equal texts: less memory, and what is looked at often is near.

        It is for who compares many lines: a subject is in thousands of them.
        """
        return self._texts.setdefault(text, text)

    def _condition(self, number: int, condition: Field) -> None:
        if not condition.text or condition.text in self.conditions:
            return
        try:
            self.conditions[condition.text] = compile_condition(condition.text)
        except ConditionError as error:
            self._faults.append(Violation(number, condition.column + error.offset, error.message))

    def _binding(self, number: int, kind: str, fields: Sequence[Field]) -> None:
        member, role, *domain = fields
        good = self._match(number, member, SUBJECT, 'a member such as "user:ann"')
        if not role.text.startswith("role:") or SUBJECT.fullmatch(role.text) is None:
            self._fault(number, role, f'expected a role such as "role:operator", not {role.text!r}')
            good = False
        for item in domain:
            good = self._match(number, item, DOMAIN, "a domain (g2 binds in all of them)") and good
        texts = tuple(self._same(item.text) for item in fields)
        if good and self._once(number, member, (kind, *texts), "this binding"):
            scope = domain[0].text if domain else EVERYWHERE
            self._links.append((scope, member.text, role.text))
            self._member_line.setdefault((scope, member.text), number)
        self.lines.append(Line(kind, texts))
        self.numbers.append(number)

    def _once(self, number: int, item: Field, key: tuple[str, ...], what: str) -> bool:
        first = self._seen.setdefault(key, number)
        if first != number:
            self._fault(number, item, f"{what} was already used in line {first}")
        return first == number

    def _match(self, number: int, item: Field, shape: re.Pattern[str], wanted: str) -> bool:
        known = self._good.setdefault(shape, set())
        if item.text in known:
            return True
        if shape.fullmatch(item.text) is None:
            self._fault(number, item, f"expected {wanted}, found {item.text!r}")
            return False
        known.add(item.text)
        return True

    def _fault(self, number: int, item: Field, expected: str) -> None:
        self._faults.append(Violation(number, item.column, expected))

    def check(self) -> None:
        """Raises `PolicyError` with everything that is wrong with the lines, each by itself."""
        if self._faults:
            raise PolicyError(self._faults)

    def check_file(self, model: Model) -> None:
        """Raises `PolicyError` with everything that is wrong with them as a file, too."""
        for scope, member, fault in Roles({}).with_links((), self._links).faults():
            self._faults.append(Violation(self._member_line[scope, member], 1, fault))
        most = MAX_LINES if model.compiled else MAX_LINES_OF_OWN_MODEL
        if len(self.lines) > most:
            self._faults.append(Violation(0, 0, f"at most {most} lines"))
        if not self._faults and all(line.kind != "p" for line in self.lines):
            self._faults.append(Violation(0, 0, NO_RULES))
        self.check()


class OwnReader(Reader):
    """Reads the rules of an admin's own model: what it calls eft, cond and id is checked."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        bindings = {kind: ("member", "role", "domain")[:n] for kind, n in model.roles.items()}
        self._columns = {"p": model.rule, **bindings}
        # By field, the functions that it is a pattern of.
        self._patterns: dict[str, list[str]] = {}
        for function, pattern in model.matcher.patterns():
            self._patterns.setdefault(pattern.removeprefix("p."), []).append(function)

    def _rule(self, number: int, fields: Sequence[Field]) -> None:
        named = dict(zip(self._columns["p"], fields, strict=True))
        for name, item in named.items():
            if len(item.text.encode()) > _FIELD_BYTES_MAX:
                self._fault(number, item, f"a field has at most {_FIELD_BYTES_MAX} bytes")
            if name == "cond":
                self._condition(number, item)
            for function in self._patterns.get(name, ()):
                if fault := PATTERNS[function](item.text):
                    self._fault(number, item, fault)
        if "eft" in named and named["eft"].text not in ("allow", "deny"):
            wanted = 'exactly "allow" or "deny"'
            self._fault(number, named["eft"], f"expected {wanted}, found {named['eft'].text!r}")
        if "priority" in named:
            # Casbin sorts by it: digits as numbers, others as text, and both at once not at all.
            self._match(number, named["priority"], _PRIORITY, "a number from 0 to 999999999")
        if "id" in named:
            rule_id = named["id"]
            if self._match(number, rule_id, RULE_ID, 'an id such as "automation-restarts-pods"'):
                self._once(number, rule_id, ("p", rule_id.text), f"the id {rule_id.text}")
        self.lines.append(Line("p", tuple(item.text for item in fields)))
        self.numbers.append(number)

    def _binding(self, number: int, kind: str, fields: Sequence[Field]) -> None:
        texts = tuple(item.text for item in fields)
        if not all(texts):
            self._fault(number, fields[0], "a binding has no empty fields")
        elif self._once(number, fields[0], (kind, *texts), "this binding"):
            # Each kind has a scope of its own here, as Casbin keeps them apart.
            scope = " ".join((kind, *texts[2:]))
            self._links.append((scope, texts[0], texts[1]))
            self._member_line.setdefault((scope, texts[0]), number)
        self.lines.append(Line(kind, texts))
        self.numbers.append(number)
