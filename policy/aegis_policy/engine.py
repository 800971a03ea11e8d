"""The engine: decides by the rules it was built from, and never changes.

Rules of Aegis' own model are compiled to an index; those of an admin's own model are evaluated by
PyCasbin. New rules make a new engine, `updated` one that shares what stays, and the owner swaps
one reference: a reader never waits for a writer, and never sees half a change. Any number of
threads may ask the same engine.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from aegis_policy.conditions import Condition, Moment, Unanswerable
from aegis_policy.faults import PolicyError, Violation
from aegis_policy.index import Index, Row
from aegis_policy.lines import Line, to_csv
from aegis_policy.models import read_model
from aegis_policy.parts import (
    Kept,
    Parts,
    attributes_of,
    identity_of,
    kept_of,
    line_of,
    name_of,
    without_collections,
)
from aegis_policy.readers import MAX_LINES, NO_RULES
from aegis_policy.requests import check_action, check_subject, segments_of
from aegis_policy.roles import Roles
from aegis_policy.rulefile import RuleFile, read_lines, read_rules

if TYPE_CHECKING:
    from aegis_policy.interpreter import Interpreter

# Between the places of neighbouring lines, so that a new line finds room between them.
STRIDE = 1 << 20
_CLOSED_MAX = 50_000


class Decision(NamedTuple):
    """An answer. `rule_id` is the rule that denied or allowed, empty when none matched.

    Without a new engine the answer stays the same until `valid_until`; None means for ever.
    """

    allowed: bool
    rule_id: str
    valid_until: datetime | None


_NOTHING_ALLOWS = Decision(False, "", None)


class Engine:
    """Decides by the rules it was built from."""

    def __init__(
        self,
        rules: RuleFile,
        model_conf: str | None = None,
        places: Sequence[int] | None = None,
    ) -> None:
        """Builds an engine from rules that were read for `model_conf`.

        `places` order the lines and name them to `updated`; by default they are `STRIDE` apart.
        """
        self.model = rules.model if model_conf is None else read_model(model_conf)
        if places is None:
            places = range(STRIDE, (len(rules.lines) + 1) * STRIDE, STRIDE)
        self._lines: dict[int, Kept] = {}
        self._places: dict[str | Line, int] = {}
        self._conditions = rules.conditions
        self._interpreter: Interpreter | None = None
        self.index, self._roles = Index(), Roles({})
        # How many lines begin with a name.
        self._names: dict[str, int] = {}
        self._attributes = attributes_of(rules.conditions.values())
        self._closed: dict[tuple[str, ...], frozenset[str]] = {}
        # Known to be spelt well, because rules name them.
        self._actions = frozenset(line.fields[3] for line in rules.lines if len(line.fields) == 7)
        if self.model.compiled:
            with without_collections():
                self._compile((), zip(places, rules.lines, strict=True))
        else:
            self._lines.update(zip(places, rules.lines, strict=True))
            # Only who uses such a model needs PyCasbin.
            from aegis_policy.interpreter import Interpreter

            self._interpreter = Interpreter(rules, self.model)
            self._names = self._interpreter.names

    @classmethod
    def from_csv(cls, policy_csv: str, model_conf: str | None = None) -> Engine:
        """Builds an engine from a rule file; raises `PolicyError` naming every bad line."""
        return cls(read_rules(policy_csv, read_model(model_conf)))

    @property
    def compiled(self) -> bool:
        """Says whether the rules are compiled, or evaluated one by one by PyCasbin."""
        return self._interpreter is None

    @property
    def size(self) -> int:
        """The number of lines."""
        return len(self._lines)

    def decide(
        self,
        *,
        subject: str,
        domain: str,
        resource: str,
        action: str,
        attributes: Mapping[str, object] | None = None,
        roles: Iterable[str] = (),
        now: datetime | None = None,
    ) -> Decision:
        """Returns the decision; raises `RequestError` for a request that is not canonical.

        `roles` are what the subject has beside the bindings of the rules, e.g. from a directory.
        `attributes` are what conditions read as ctx.NAME: texts, finite numbers, truth values,
        lists of these and mappings. `now` is an aware time, by default the present.
        """
        if now is not None and now.tzinfo is None:
            raise ValueError("a time without its zone could mean two instants")
        if self._interpreter is not None:
            asked = Moment(attributes or {}, now or datetime.now(UTC))
            allowed, rule_id = self._interpreter.decide(
                subject, domain, resource, action, asked, roles
            )
            return Decision(allowed, rule_id, asked.valid_until)
        key = (subject, domain, *roles) if roles else (subject, domain)
        holders = self._closed.get(key) or self._holders(subject, domain, roles)
        if action not in self._actions:
            check_action(action)
        rows = self.index.matching(holders, domain, segments_of(resource), action)
        if not rows:
            return _NOTHING_ALLOWS
        if len(rows) > 1:
            rows = self._ordered(rows)
        moment: Moment | None = None
        for row in rows:
            if row.condition is not None:
                # The clock is looked at where a rule may ask for it.
                moment = moment or Moment(attributes or {}, now or datetime.now(UTC))
                if not fits(row, row.condition, moment):
                    continue
            return Decision(not row.deny, row.rule_id, moment.valid_until if moment else None)
        return Decision(False, "", moment.valid_until if moment else None)

    def _ordered(self, rows: list[Row]) -> list[Row]:
        """Returns rows that fit so that the first whose condition holds decides, by the model.

        It is the rule PyCasbin names: the first deny, or the last allow.
        """
        rows.sort()
        if self.model.first_match:
            return rows
        denies = [row for row in rows if row.deny]
        if len(denies) == len(rows):
            return rows
        return denies + [row for row in reversed(rows) if not row.deny]

    def _holders(self, subject: str, domain: str, roles: Iterable[str]) -> frozenset[str]:
        """Returns the subject with all its roles; kept for subjects that somebody knows."""
        check_subject(subject, domain)
        held = tuple(roles)
        holders = self._roles.of(subject, domain, held) | {subject}
        if held or subject in self._names:
            if len(self._closed) >= _CLOSED_MAX:
                self._closed.clear()
            self._closed[(subject, domain, *held)] = holders
        return holders

    def roles_of(self, subject: str, domain: str, roles: Iterable[str] = ()) -> frozenset[str]:
        """Returns every role a subject has in a domain, directly or not, platform-wide ones too."""
        if self._interpreter is not None:
            return self._interpreter.roles_of(subject, domain, roles)
        return self._roles.of(subject, domain, roles)

    def role_path(
        self, subject: str, role: str, domain: str, roles: Iterable[str] = ()
    ) -> list[str]:
        """Returns a shortest way from a subject to a role, both included; empty if none leads."""
        return self._roles.path(subject, role, domain, roles)

    def subjects(self) -> Iterable[str]:
        """Returns every subject and role that some rule or binding names."""
        return self._names

    def knows(self, subject: str) -> bool:
        """Says whether any rule or binding names the subject: if none does, none can match."""
        return subject in self._names

    def relevant(self, attributes: Mapping[str, object]) -> dict[str, object]:
        """Returns those attributes that some condition may read; no other can change an answer."""
        read = self._attributes
        return {name: value for name, value in attributes.items() if name in read}

    def lines(self) -> Iterator[tuple[int, Line]]:
        """Yields every line with its place, in the order of the file."""
        return ((place, line_of(self._lines[place])) for place in sorted(self._lines))

    @property
    def rules(self) -> RuleFile:
        """Its lines as a rule file."""
        lines = tuple(line for _, line in self.lines())
        return RuleFile(lines, self._conditions, self.model)

    def updated(self, removed: Iterable[int], added: Iterable[tuple[int, Line]]) -> Engine:
        """Returns an engine with the lines at some places taken out, and others put in.

        Shares with this one what stays. Raises KeyError for a place that is not there, and
        `PolicyError` where the result would be no good file; the line it names counts those added.
        """
        gone, new = list(removed), dict(added)
        if not self.compiled:
            lines = dict(self.lines())
            for place in gone:
                del lines[place]
            lines |= new
            places = sorted(lines)
            rules = read_rules(to_csv(lines[place] for place in places), self.model)
            return Engine(rules, places=places)
        twin = copy.copy(self)
        twin._change(gone, new)  # noqa: SLF001  # the copy is ours
        return twin

    def _change(self, removed: Sequence[int], added: Mapping[int, Line]) -> None:
        self._conditions = {**self._conditions, **read_lines(added.values())}
        self._attributes |= attributes_of(
            self._conditions[line.fields[4]]
            for line in added.values()
            if line.kind == "p" and line.fields[4]
        )
        self._lines, self._places = {**self._lines}, {**self._places}
        self._names = {**self._names}
        self._compile(removed, added.items())
        if not any(isinstance(kept, Row) for kept in self._lines.values()):
            raise PolicyError([Violation(0, 0, NO_RULES)])

    def _compile(self, removed: Iterable[int], added: Iterable[tuple[int, Line]]) -> None:
        """Changes this engine, which nobody else has yet; raises KeyError, `PolicyError`."""
        out, into = Parts(), Parts()
        for place in removed:
            kept = self._lines.pop(place)
            del self._places[identity_of(kept)]
            self._count(kept, -1)
            out.take(kept)
        faults = []
        for number, (place, line) in enumerate(added, start=1):
            kept = kept_of(place, line, self._conditions)
            if self._lines.setdefault(place, kept) is not kept:
                raise KeyError(place)
            if self._places.setdefault(identity_of(kept), place) != place:
                what = f"the id {line.fields[-1]}" if line.kind == "p" else "this binding"
                faults.append(Violation(number, 1, f"{what} is already used"))
            self._count(kept, 1)
            into.take(kept)
        if out.links or into.links:
            self._roles = self._roles.with_links(out.links, into.links)
            self._closed = {}
        if into.links:
            faults += [
                Violation(0, 0, f"{member}: {fault}") for _, member, fault in self._roles.faults()
            ]
        if len(self._lines) > MAX_LINES:
            faults.append(Violation(0, 0, f"at most {MAX_LINES} lines"))
        if faults:
            raise PolicyError(faults)
        self.index = self.index.with_rules(out.rows, into.rows)

    def _count(self, kept: Kept, step: int) -> None:
        name = name_of(kept)
        count = self._names.get(name, 0) + step
        if count:
            self._names[name] = count
        else:
            del self._names[name]


def fits(row: Row, condition: Condition, moment: Moment) -> bool:
    """Says whether a row's condition lets it count: what cannot be answered denies."""
    try:
        return condition.holds(moment)
    except Unanswerable:
        return row.deny
