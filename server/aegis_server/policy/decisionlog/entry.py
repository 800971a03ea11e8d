"""A decision as it is handed to the log, its name, and whether it may be given without a record."""

from __future__ import annotations

import itertools
import secrets
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

Source: TypeAlias = Literal["engine", "memory", "redis", "local"]

# Who is allowed one of these has changed nothing by it. Any other verb is taken for a deed.
READING = frozenset({"read", "list", "get", "watch", "evaluate", "explain"})


class Entry(NamedTuple):
    """One decision; a tuple, because it is made for every answer."""

    at: datetime
    decision_id: str
    caller: str
    subject: str
    domain: str
    resource: str
    action: str
    attributes: Mapping[str, object]
    allowed: bool
    rule_id: str
    revision: int
    source: Source
    microseconds: int


def privileged(entry: Entry) -> bool:
    """Says whether the answer lets somebody do something: it is not given without a record."""
    return entry.allowed and entry.action not in READING


class DecisionIds:
    """Names for the decisions of one process: 60 random bits and a counter.

    As UUIDs they are of version 8. The one with the counter at zero is no decision's: it is the
    name of the process' own log.
    """

    def __init__(self) -> None:
        random = f"{secrets.randbits(60):015x}"
        self._head = f"{random[:8]}-{random[8:12]}-8{random[12:]}-8000-"
        self._counter = itertools.count(1)
        self.log = uuid.UUID(f"{self._head}{0:012x}")

    def next(self) -> str:
        """Returns a name nobody has had."""
        return "%s%012x" % (self._head, next(self._counter))  # noqa: UP031  # a third faster
