"""The difference a change makes, place by place: what is approved, and what is compared later.

Its digest is taken over the true values in one canonical form. What people are shown has values
that may be secrets replaced, under a key nobody keeps: equal values still look equal within one
plan, and guessing does not help.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aegis_executor.catalogue.base import Change, Object
from aegis_executor.catalogue.restart_rollout import RESTARTED_BY

# The mark differs from action to action, so it stands for itself.
_MARK = "(this action)"
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# Of a path: what is under these may hold anything.
_HIDING = re.compile(
    r"\.(command|args|httpHeaders)(\[|\.|$)|\.env\[\d+\]\.value$"
    r"|password|passwd|secret|token|credential|private|api_?key|auth",
    re.IGNORECASE,
)
_HARMLESS = frozenset({"", "true", "false", "null", "{}", "[]", "{…}", "[…]"})
_SHOWN_MAX = 500


@dataclass(frozen=True, slots=True)
class Difference:
    """One place, with the value as canonical JSON before and after; empty where there is none."""

    path: str
    before: str
    after: str


def differences(live: Object, change: Change | None, tried: Object | None) -> list[Difference]:
    """Returns what differs between the object as it is and as the cluster says it would be.

    Only `spec` is compared: status and metadata move by themselves. A pod that would be gone
    differs in being there.
    """
    if change is None:
        return []
    if change.verb in ("evict", "delete"):
        return [
            Difference("pod", '"running"', '"evicted"' if change.verb == "evict" else '"deleted"')
        ]
    after = tried.get("spec", {}) if tried is not None else {}
    if change.verb == "scale":
        # What is tried is a Scale, which knows nothing else of the deployment.
        after = {**live["spec"], "replicas": after.get("replicas", 0)}
    return sorted(_walk("spec", live["spec"], after), key=lambda found: found.path)


def digest(found: Sequence[Difference]) -> bytes:
    """Returns the SHA-256 that names exactly this difference."""
    told = [[one.path, one.before, one.after] for one in found]
    return hashlib.sha256(_json(told).encode()).digest()


def unmarked(found: Sequence[Difference], action_id: str) -> list[Difference]:
    """Returns the difference as it is for every action: its own mark has no value yet in a plan."""
    ours = _json(action_id)
    return [
        Difference(one.path, one.before, _json(_MARK))
        if RESTARTED_BY in one.path and one.after == ours
        else one
        for one in found
    ]


def shown(found: Sequence[Difference], key: bytes) -> list[Difference]:
    """Returns the difference for people: without what may be secret, and not endless."""
    return [
        Difference(one.path, _shown(one.path, one.before, key), _shown(one.path, one.after, key))
        for one in found
    ]


def _shown(path: str, value: str, key: bytes) -> str:
    if value in _HARMLESS:
        return value
    if _HIDING.search(path):
        return _json(f"hidden:{hmac.digest(key, value.encode(), 'sha256').hex()[:12]}")
    return value if len(value) <= _SHOWN_MAX else _json(value[:_SHOWN_MAX] + "…")


def _walk(path: str, before: Any, after: Any) -> Iterator[Difference]:
    """Down to single values, so that what has to be hidden can be told by its path alone."""
    if _either(before, after, Mapping):
        yield from _walk_keys(path, before, after)
    elif _either(before, after, list):
        yield from _walk_items(path, before, after)
    elif isinstance(before, Mapping | list) or isinstance(after, Mapping | list):
        # Another kind of thing: what was there goes, what comes is new.
        yield from _walk(path, before, _ABSENT)
        yield from _walk(path, _ABSENT, after)
    elif before != after or type(before) is not type(after):  # true is not 1
        yield Difference(path, _text(before), _text(after))


def _either(before: Any, after: Any, kind: type) -> bool:
    return isinstance(before, kind | _Absent) and isinstance(after, kind | _Absent)


def _walk_keys(path: str, before: Any, after: Any) -> Iterator[Difference]:
    old = {} if isinstance(before, _Absent) else before
    new = {} if isinstance(after, _Absent) else after
    yield from _emptiness(path, before, after, "{…}")
    for name in sorted(old.keys() | new.keys()):
        under = f"{path}.{name}" if _PLAIN_KEY.fullmatch(name) else f"{path}[{_json(name)}]"
        yield from _walk(under, old.get(name, _ABSENT), new.get(name, _ABSENT))


def _walk_items(path: str, before: Any, after: Any) -> Iterator[Difference]:
    old = [] if isinstance(before, _Absent) else before
    new = [] if isinstance(after, _Absent) else after
    yield from _emptiness(path, before, after, "[…]")
    for index in range(max(len(old), len(new))):
        one = old[index] if index < len(old) else _ABSENT
        other = new[index] if index < len(new) else _ABSENT
        yield from _walk(f"{path}[{index}]", one, other)


def _emptiness(path: str, before: Any, after: Any, full: str) -> Iterator[Difference]:
    """An empty thing has no places of its own to differ in, and is not the same as none."""
    emptied = not isinstance(after, _Absent) and not after
    vanished = isinstance(after, _Absent) and not isinstance(before, _Absent) and not before
    if vanished or (emptied and (before or isinstance(before, _Absent))):
        yield Difference(path, full if before else _text(before), _text(after))


class _Absent:
    """Stands where there is nothing, which is not the same as null."""

    def __bool__(self) -> bool:
        return False


_ABSENT = _Absent()


def _text(value: Any) -> str:
    return "" if isinstance(value, _Absent) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
