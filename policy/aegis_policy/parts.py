"""Lines of a rule file as the compiled engine takes them."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from aegis_policy.conditions import Condition
from aegis_policy.index import Row
from aegis_policy.lines import Line
from aegis_policy.roles import EVERYWHERE, Link


class Parts:
    """Rules as the index takes them, bindings as the roles do."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.links: list[Link] = []

    def take(self, place: int, line: Line, conditions: Mapping[str, Condition]) -> None:
        """Takes the line at a place; `conditions` are by their text."""
        if line.kind == "p":
            subject, domain, resource, action, source, effect, rule_id = line.fields
            condition = conditions[source] if source else None
            self.rows.append(
                Row(place, effect == "deny", condition, rule_id, subject, domain, resource, action)
            )
        else:
            member, role, *domains = line.fields
            self.links.append((domains[0] if domains else EVERYWHERE, member, role))


def identity_of(line: Line) -> str | Line:
    """Returns what no two lines share: a rule's id, all of a binding."""
    return line.fields[-1] if line.kind == "p" else line


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
