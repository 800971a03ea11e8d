"""Many patterns at once: which of them cover another one, and whether any meets it.

A pattern here is a path of whole steps, such as a rule's domain, its action, and the segments of
its resource. `*` stands for any one step and `**`, only as the last, for any number of steps. They
are kept as a tree of steps, so that a question walks down a few branches instead of asking every
pattern; `Steps` bounds the walk for patterns that were made to be slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

# Where a tree keeps what ends at a node; no step is empty.
_HERE = ""


class Exhausted(Exception):
    """The patterns branch so much that an answer would take too long."""


class Steps:
    """How many steps may still be taken, by all questions together."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, count: int = 1) -> None:
        """Takes steps; raises `Exhausted` when there are none left."""
        self._left -= count
        if self._left < 0:
            raise Exhausted


def steps_of(domain: str, action: str, resource: str) -> tuple[str, ...]:
    """Returns what a rule is about as one path of steps."""
    return (domain, action, *resource.split("/")[1:])


class Patterns(Generic[Item]):
    """A set of patterns, each with the item that was added first for it."""

    def __init__(self, steps: Steps) -> None:
        self._root: dict[str, Any] = {}
        self._steps = steps

    def add(self, pattern: Sequence[str], item: Item) -> Item:
        """Adds a pattern; returns its item, an older one if exactly this pattern was there."""
        node = self._root
        for step in pattern:
            node = node.setdefault(step, {})
        first: Item = node.setdefault(_HERE, item)
        return first

    def covering(self, pattern: Sequence[str]) -> Iterator[Item]:
        """Returns the items of patterns that fit everything this one fits, itself included."""
        fixed, is_open = _ends(pattern)
        reached = [self._root]
        for step in fixed:
            self._steps.take(len(reached))
            for node in reached:
                if "**" in node:
                    yield node["**"][_HERE]
            names = (step,) if step == "*" else (step, "*")
            reached = [node[name] for node in reached for name in names if name in node]
        for node in reached:
            if "**" in node:
                yield node["**"][_HERE]
            if not is_open and _HERE in node:
                yield node[_HERE]

    def meets(self, pattern: Sequence[str]) -> bool:
        """Says whether something fits both this pattern and one of the set."""
        fixed, is_open = _ends(pattern)
        waiting = [(self._root, 0)]
        while waiting:
            node, depth = waiting.pop()
            self._steps.take()
            if "**" in node or (depth == len(fixed) and (is_open or _HERE in node)):
                return True
            if depth < len(fixed):
                waiting.extend((child, depth + 1) for child in _next(node, fixed[depth]))
        return False


def _ends(pattern: Sequence[str]) -> tuple[Sequence[str], bool]:
    """Returns the steps without a last `**`, and whether there was one."""
    is_open = pattern[-1] == "**"
    return (pattern[:-1] if is_open else pattern), is_open


def _next(node: dict[str, Any], step: str) -> Iterator[dict[str, Any]]:
    if step == "*":
        return (child for name, child in node.items() if name not in (_HERE, "**"))
    return (node[name] for name in (step, "*") if name in node)
