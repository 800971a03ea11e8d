"""Changes of single lines: each names the line it means by its place and shows its etag.

The etag is of the line, not of the revision: two people who work on different rules do not get in
each other's way, and two who work on the same one cannot overwrite each other unseen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aegis.errors import Aborted, FieldViolation, InvalidArgument, NotFound
from aegis_policy import Line, PolicyError, to_csv
from aegis_policy.lines import read_line
from aegis_server.policy.drafts import Draft
from aegis_server.policy.places import Slot, filled
from aegis_server.policy.store import Policy

_ETAG_DIGITS = 16
_VIOLATIONS_MAX = 20


@dataclass(frozen=True, slots=True)
class Create:
    """A new line before the one at a place; 0 puts it last."""

    line: str
    before_place: int = 0


@dataclass(frozen=True, slots=True)
class Replace:
    """Another line at the place of one."""

    place: int
    etag: str
    line: str


@dataclass(frozen=True, slots=True)
class Delete:
    """One line less."""

    place: int
    etag: str


LineChange: TypeAlias = Create | Replace | Delete


def etag_of(line: Line) -> str:
    """Returns what changes when the line does."""
    return hashlib.sha256(to_csv([line]).encode()).hexdigest()[:_ETAG_DIGITS]


def drawn(before: Policy, changes: Sequence[LineChange]) -> Draft:
    """Returns the draft that the changes make, all together.

    Places mean those of `before`. Raises `NotFound` (RESOURCE_NOT_FOUND), `Aborted`
    (ETAG_MISMATCH) and `InvalidArgument` (POLICY_INVALID) naming every change that is no line.
    """
    lines = _read(changes)
    ahead, changed = _by_place(dict(before.placed), changes)
    slots: list[Slot] = []
    origins: dict[int, str] = {}

    def put(place: int | None, number: int) -> None:
        slots.append(Slot(place, lines[number]))
        origins[len(slots)] = _name(number, changes[number])

    for place, line in before.placed:
        for number in ahead.get(place, ()):
            put(None, number)
        if place not in changed:
            slots.append(Slot(place, line))
        elif changed[place] in lines:
            put(place, changed[place])
    for number in ahead.get(0, ()):
        put(None, number)
    return Draft(filled(slots), before.revision.model_conf, origins=origins)


def _by_place(
    there: Mapping[int, Line], changes: Sequence[LineChange]
) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Returns which changes come before the line at each place (0: the end), and which is to it."""
    ahead: dict[int, list[int]] = {}
    changed: dict[int, int] = {}
    for number, change in enumerate(changes):
        if isinstance(change, Create):
            if change.before_place and change.before_place not in there:
                raise _gone(change.before_place)
            ahead.setdefault(change.before_place, []).append(number)
            continue
        _compare(there, change.place, change.etag)
        first = changed.setdefault(change.place, number)
        if first != number:
            text = f"changes[{first}] is about the same line"
            raise _bad([FieldViolation(_name(number, change), text)])
    return ahead, changed


def _read(changes: Sequence[LineChange]) -> dict[int, Line]:
    """Returns the lines of the changes that bring one."""
    lines, bad = {}, []
    for number, change in enumerate(changes):
        if isinstance(change, Delete):
            continue
        try:
            lines[number] = read_line(change.line)
        except PolicyError as error:
            fault = error.violations[0]
            text = f"column {fault.column}: {fault.expected}" if fault.column else fault.expected
            bad.append(FieldViolation(_name(number, change), text))
    if bad:
        raise _bad(bad)
    return lines


def _compare(there: Mapping[int, Line], place: int, etag: str) -> None:
    line = there.get(place)
    if line is None:
        raise _gone(place)
    current = etag_of(line)
    if etag != current:
        raise Aborted(
            "ETAG_MISMATCH",
            f"the line at {place} was changed since it was read; read it again",
            place=place,
            expected=etag,
            current=current,
        )


def _name(number: int, change: LineChange) -> str:
    if isinstance(change, Delete):
        return f"changes[{number}].delete"
    kind = "create" if isinstance(change, Create) else "replace"
    return f"changes[{number}].{kind}.line"


def _gone(place: int) -> NotFound:
    resource = f"/policy/rules/{place}"
    return NotFound("RESOURCE_NOT_FOUND", f"there is no line at {place}", resource=resource)


def _bad(violations: Sequence[FieldViolation]) -> InvalidArgument:
    text = f"{violations[0].field}: {violations[0].description}"
    return InvalidArgument("POLICY_INVALID", text, violations=violations[:_VIOLATIONS_MAX])
