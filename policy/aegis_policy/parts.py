"""Lines of a rule file as the compiled engine takes them."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from aegis_policy.conditions import Condition
from aegis_policy.index import Row
from aegis_policy.lines import Line
from aegis_policy.roles import EVERYWHERE, Link

# A rule is kept as its row, which the index has in any case, a binding as its line.
Kept: TypeAlias = Row | Line


class Parts:
    """Rules as the index takes them, bindings as the roles do."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.links: list[Link] = []

    def take(self, kept: Kept) -> None:
        """Adds one of them."""
        if isinstance(kept, Row):
            self.rows.append(kept)
        else:
            member, role, *domains = kept.fields
            self.links.append((domains[0] if domains else EVERYWHERE, member, role))


def kept_of(place: int, line: Line, conditions: Mapping[str, Condition]) -> Kept:
    """Returns what is kept of a line at a place; `conditions` are by their text."""
    if line.kind != "p":
        return line
    subject, domain, resource, action, source, effect, rule_id = line.fields
    condition = conditions[source] if source else None
    return Row(place, effect == "deny", condition, rule_id, subject, domain, resource, action)


def line_of(kept: Kept) -> Line:
    """Returns the line again."""
    return kept.line() if isinstance(kept, Row) else kept


def identity_of(kept: Kept) -> str | Line:
    """Returns what no two share: a rule's id, all of a binding."""
    return kept.rule_id if isinstance(kept, Row) else kept


def name_of(kept: Kept) -> str:
    """Returns the subject of a rule, or the member of a binding."""
    return kept.subject if isinstance(kept, Row) else kept.fields[0]


def attributes_of(conditions: Iterable[Condition]) -> frozenset[str]:
    """Returns the attributes that some condition may read."""
    return frozenset[str]().union(*(condition.attributes for condition in conditions))


@contextmanager
def without_collections() -> Iterator[None]:
    """Spares a build that makes many objects and no garbage Python's search for garbage.

    That takes longer than the build. Whoever else runs meanwhile makes theirs a little later.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
