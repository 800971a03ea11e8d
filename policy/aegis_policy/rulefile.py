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
from aegis_policy.faults import PolicyError, Violation
from aegis_policy.matchers import PATTERNS
from aegis_policy.models import Model, read_model
from aegis_policy.paths import fault_of_pattern
from aegis_policy.roles import EVERYWHERE, Link, Roles
from aegis_policy.syntax import ConditionError

# A hundred thousand rules and as many bindings: some seconds to build, some 200 MB.
MAX_LINES = 200_000
# PyCasbin looks at every rule for every decision, at some microseconds a rule.
MAX_LINES_OF_OWN_MODEL = 10_000
SUBJECT = re.compile(r"[a-z][a-z0-9-]{0,31}:[A-Za-z0-9][A-Za-z0-9._@/-]{0,127}")
DOMAIN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ACTION = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ID = re.compile(r"[a-z0-9][a-z0-9._#-]{0,79}")
NO_RULES = "expected at least one p line: this locks all out"
_COLUMNS = {
    "p": ("subject", "domain", "resource", "action", "condition", "effect", "id"),
    "g": ("member", "role", "domain"),
    "g2": ("member", "role"),
}
_PRIORITY = re.compile(r"0|[1-9][0-9]{0,8}")
_FIELD_BYTES_MAX = 512


class Line(NamedTuple):
    """One rule (`p`) or binding (`g`, `g2`) as it is stored."""

    kind: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleFile:
    """A file that passed every check. `conditions` are compiled, by their text.

    `line_numbers` say where in the text each of the `lines` was; empty when there was no text.
    """

    lines: tuple[Line, ...]
    conditions: Mapping[str, Condition] = field(repr=False)
    model: Model = field(default_factory=read_model, repr=False)
    line_numbers: tuple[int, ...] = field(default=(), repr=False, compare=False, kw_only=True)

    def to_csv(self) -> str:
        """Returns the canonical text: reading it gives the same lines again."""
        return to_csv(self.lines)


def to_csv(lines: Iterable[Line]) -> str:
    """Returns lines as a file, in their order."""
    return "".join(
        ", ".join((line.kind, *(_quoted(text) for text in line.fields))) + "\n" for line in lines
    )


def _quoted(text: str) -> str:
    plain = '"' not in text and "," not in text and text == text.strip(" ")
    return text if plain else '"' + text.replace('"', '""') + '"'


def read_rules(text: str, model: Model | None = None) -> RuleFile:
    """Reads a rule file; raises `PolicyError` with everything that is wrong with it.

    For a model that is not compiled the fields are those that it defines.
    """
    model = model or read_model()
    reader = _Reader() if model.compiled else _OwnReader(model)
    for number, raw in enumerate(text.split("\n"), start=1):
        reader.read(number, raw.removesuffix("\r"))
    return reader.finish(model)


def read_lines(lines: Iterable[Line]) -> Mapping[str, Condition]:
    """Checks lines of Aegis' own model, each alone; returns their conditions by their text.

    Raises `PolicyError`, whose line numbers count these lines.
    """
    reader = _Reader()
    for number, line in enumerate(lines, start=1):
        reader.read(number, to_csv([line]).removesuffix("\n"))
    return reader.conditions()


def read_line(raw: str) -> Line:
    """Cuts one line into its fields; raises `PolicyError` where that cannot be done.

    What the fields mean, and whether they fit the other lines, is for whoever reads the whole file.
    """
    fault = _fault_of_text(raw)
    if fault is not None:
        raise PolicyError([Violation(1, *fault)])
    try:
        kind, *fields = _split(raw)
    except _Unquotable as error:
        raise PolicyError([Violation(1, error.column, error.expected)]) from None
    if kind.text not in _COLUMNS:
        expected = f'expected "p", "g" or "g2", found {kind.text!r}'
        raise PolicyError([Violation(1, kind.column, expected)])
    return Line(kind.text, tuple(each.text for each in fields))


class _Field(NamedTuple):
    text: str
    column: int


class _Reader:
    """Collects lines and faults; what spans lines is checked at the end."""

    def __init__(self) -> None:
        self._faults: list[Violation] = []
        self._lines: list[Line] = []
        self._numbers: list[int] = []
        self._conditions: dict[str, Condition] = {}
        self._seen: dict[tuple[str, ...], int] = {}
        self._links: list[Link] = []
        self._member_line: dict[tuple[str, str], int] = {}
        self._columns: Mapping[str, Sequence[str]] = _COLUMNS
        self._good: dict[re.Pattern[str] | None, set[str]] = {}

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

    def _rule(self, number: int, fields: Sequence[_Field]) -> None:
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
        if self._match(number, rule_id, _ID, 'an id such as "automation-restarts-pods"'):
            self._once(number, rule_id, ("p", rule_id.text), f"the id {rule_id.text}")
        self._lines.append(Line("p", tuple(item.text for item in fields)))
        self._numbers.append(number)

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
            scope = domain[0].text if domain else EVERYWHERE
            self._links.append((scope, member.text, role.text))
            self._member_line.setdefault((scope, member.text), number)
        self._lines.append(Line(kind, texts))
        self._numbers.append(number)

    def _once(self, number: int, item: _Field, key: tuple[str, ...], what: str) -> bool:
        first = self._seen.setdefault(key, number)
        if first != number:
            self._fault(number, item, f"{what} was already used in line {first}")
        return first == number

    def _match(self, number: int, item: _Field, shape: re.Pattern[str], wanted: str) -> bool:
        known = self._good.setdefault(shape, set())
        if item.text in known:
            return True
        if shape.fullmatch(item.text) is None:
            self._fault(number, item, f"expected {wanted}, found {item.text!r}")
            return False
        known.add(item.text)
        return True

    def _fault(self, number: int, item: _Field, expected: str) -> None:
        self._faults.append(Violation(number, item.column, expected))

    def conditions(self) -> Mapping[str, Condition]:
        if self._faults:
            raise PolicyError(self._faults)
        return self._conditions

    def finish(self, model: Model) -> RuleFile:
        for scope, member, fault in Roles({}).with_links((), self._links).faults():
            self._faults.append(Violation(self._member_line[scope, member], 1, fault))
        most = MAX_LINES if model.compiled else MAX_LINES_OF_OWN_MODEL
        if len(self._lines) > most:
            self._faults.append(Violation(0, 0, f"at most {most} lines"))
        if not self._faults and all(line.kind != "p" for line in self._lines):
            self._faults.append(Violation(0, 0, NO_RULES))
        if self._faults:
            raise PolicyError(self._faults)
        numbers = tuple(self._numbers)
        return RuleFile(tuple(self._lines), self._conditions, model, line_numbers=numbers)


class _OwnReader(_Reader):
    """Reads the rules of an admin's own model: what it calls eft, cond and id is checked."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        bindings = {kind: ("member", "role", "domain")[:n] for kind, n in model.roles.items()}
        self._columns = {"p": model.rule, **bindings}
        # By field, the functions that it is a pattern of.
        self._patterns: dict[str, list[str]] = {}
        for function, pattern in model.matcher.patterns():
            self._patterns.setdefault(pattern.removeprefix("p."), []).append(function)

    def _rule(self, number: int, fields: Sequence[_Field]) -> None:
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
            if self._match(number, rule_id, _ID, 'an id such as "automation-restarts-pods"'):
                self._once(number, rule_id, ("p", rule_id.text), f"the id {rule_id.text}")
        self._lines.append(Line("p", tuple(item.text for item in fields)))
        self._numbers.append(number)

    def _binding(self, number: int, kind: str, fields: Sequence[_Field]) -> None:
        texts = tuple(item.text for item in fields)
        if not all(texts):
            self._fault(number, fields[0], "a binding has no empty fields")
        elif self._once(number, fields[0], (kind, *texts), "this binding"):
            # Each kind has a scope of its own here, as Casbin keeps them apart.
            scope = " ".join((kind, *texts[2:]))
            self._links.append((scope, texts[0], texts[1]))
            self._member_line.setdefault((scope, texts[0]), number)
        self._lines.append(Line(kind, texts))
        self._numbers.append(number)


def _fault_of_text(raw: str) -> tuple[int, str] | None:
    """Returns column and fault of characters that a reader of the file could not see."""
    if raw.isascii() and raw.isprintable():
        return None
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
_SPACES = re.compile(" *")


def _split(raw: str) -> Iterator[_Field]:
    """Cuts a line at its commas, outside quotes; raises `_Unquotable`."""
    at = 0
    if '"' not in raw:
        for part in raw.split(","):
            text = part.lstrip(" ")
            yield _Field(text.rstrip(" "), at + 1 + len(part) - len(text))
            at += len(part) + 1
        return
    while True:
        at = _SPACES.match(raw, at).end()  # type: ignore[union-attr]  # it always matches
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
