"""The rules as an index: from a request to the few rules that could match, whatever their number.

One tree a domain over the segments of resource patterns; at the end of a pattern its rules, by
action and subject. A lookup walks the segments of the resource, at each one along the segment
itself and along "*", and takes what it passes with "**". Its cost follows the resource's length
and the number of matching rules, not that of all rules.

A tree never changes. `with_rules` copies the nodes on the way to what it changes and shares the
others, so whoever reads keeps reading the tree it has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from aegis_policy.conditions import Condition
from aegis_policy.lines import Line

ANY = "*"


class Row(NamedTuple):
    """A rule as it is found. Rows sort by `place`, which no two share."""

    place: int
    deny: bool
    condition: Condition | None
    rule_id: str
    subject: str
    domain: str
    resource: str
    action: str

    def line(self) -> Line:
        """Returns it as a line of a rule file."""
        condition = self.condition.source if self.condition else ""
        effect = "deny" if self.deny else "allow"
        return Line(
            "p",
            (
                self.subject,
                self.domain,
                self.resource,
                self.action,
                condition,
                effect,
                self.rule_id,
            ),
        )


# By action, then by subject. In no particular order.
Sorted: TypeAlias = dict[str, dict[str, tuple[Row, ...]]]
# The rules that end at one place: looked through while they are few, which most are.
Bucket: TypeAlias = tuple[Row, ...] | Sorted
_FEW = 4

_Value = TypeVar("_Value")
_LEAF: dict[str, Node] = {}


class Node:
    """What patterns with a common beginning have in common."""

    __slots__ = ("children", "here", "name", "only", "star", "tail")

    def __init__(self) -> None:
        # By segment; an only child is kept without a table, as most are. Empty tables are all the
        # same object, which is never written.
        self.name = ""
        self.only: Node | None = None
        self.children: dict[str, Node] = _LEAF
        self.star: Node | None = None  # "*" as the next segment
        self.tail: Bucket | None = None  # rules that end here with "**"
        self.here: Bucket | None = None  # rules that end here

    def copy(self) -> Node:
        """Returns a node with the same content."""
        twin = Node()
        twin.name, twin.only, twin.children = self.name, self.only, self.children
        twin.star, twin.tail, twin.here = self.star, self.tail, self.here
        return twin

    def is_empty(self) -> bool:
        """Says whether no rule is at or below this node."""
        return not (self.only or self.children or self.star or self.tail or self.here)


class Index:
    """All rules of one rule set."""

    __slots__ = ("_roots",)

    def __init__(self, roots: dict[str, Node] | None = None) -> None:
        self._roots: dict[str, Node] = roots or {}

    def matching(
        self, holders: Collection[str], domain: str, segments: Sequence[str], action: str
    ) -> list[Row]:
        """Returns the rows for a subject or role among `holders`, their conditions aside."""
        found: list[Row] = []
        for bucket in self._reached(domain, segments):
            if isinstance(bucket, dict):
                found += _sought(bucket, holders, action)
                continue
            for row in bucket:
                if row.subject in holders and (row.action == action or row.action == ANY):
                    found.append(row)
        return found

    def covering(self, domain: str, segments: Sequence[str], action: str) -> list[Row]:
        """Returns the rows for a resource and an action, whoever they are for."""
        return [
            row
            for bucket in self._reached(domain, segments)
            for row in _rows_of(bucket)
            if row.action in (action, ANY)
        ]

    def rows(self, domain: str) -> Iterator[Row]:
        """Returns every row that counts in a domain."""
        waiting = [root for root in (self._roots.get(domain), self._roots.get(ANY)) if root]
        while waiting:
            node = waiting.pop()
            for bucket in (node.tail, node.here):
                yield from _rows_of(bucket or ())
            waiting += node.children.values()
            waiting += [below for below in (node.only, node.star) if below is not None]

    def _reached(self, domain: str, segments: Sequence[str]) -> list[Bucket]:
        """Returns the buckets whose patterns fit."""
        found: list[Bucket] = []
        for name in (domain, ANY):
            root = self._roots.get(name)
            if root is not None:
                _walk(root, segments, found)
        return found

    def with_rules(self, removed: Iterable[Row], added: Iterable[Row]) -> Index:
        """Returns these rules with some fewer and some more."""
        draft = _Draft(self._roots)
        for row in removed:
            draft.remove(row)
        for row in added:
            draft.add(row)
        return Index(draft.roots)


def _walk(node: Node, segments: Sequence[str], found: list[Bucket]) -> None:
    """Adds the buckets whose patterns fit, from a node on."""
    for depth, segment in enumerate(segments, 1):
        if node.tail is not None:
            found.append(node.tail)
        child = node.only if node.name == segment else node.children.get(segment)
        star = node.star
        if star is None:
            if child is None:
                return
            node = child
        elif child is None:
            node = star
        else:
            _walk(star, segments[depth:], found)
            node = child
    if node.tail is not None:
        found.append(node.tail)
    if node.here is not None:
        found.append(node.here)


def _sought(bucket: Sorted, holders: Collection[str], action: str) -> Iterator[Row]:
    for subjects in (bucket.get(action), bucket.get(ANY)):
        if subjects is None:
            continue
        few, many = (subjects, holders) if len(subjects) < len(holders) else (holders, subjects)
        for name in few:
            if name in many:
                yield from subjects[name]


def _rows_of(bucket: Bucket) -> Iterable[Row]:
    if isinstance(bucket, tuple):
        return bucket
    return (row for subjects in bucket.values() for rows in subjects.values() for row in rows)


class _Draft:
    """A tree in the making: copies a node, or a table of one, before its first change."""

    def __init__(self, roots: dict[str, Node]) -> None:
        self.roots = {**roots}
        # Kept alive by the tree, so their ids stay theirs.
        self._ours: set[int] = set()
        # One object for equal segments, which many nodes have.
        self._segments: dict[str, str] = {}

    def add(self, row: Row) -> None:
        node = self._node(self.roots, row.domain)
        *leading, last = row.resource[1:].split("/")
        for segment in leading:
            node = self._below(node, segment)
        if last == "**":
            node.tail = self._with(node.tail or (), row)
        else:
            node = self._below(node, last)
            node.here = self._with(node.here or (), row)

    def remove(self, row: Row) -> None:
        """Takes a row out, and the nodes that were there for it alone."""
        way: list[tuple[Node | dict[str, Node], str, Node]] = [
            (self.roots, row.domain, self._node(self.roots, row.domain))
        ]
        *leading, last = row.resource[1:].split("/")
        for segment in leading if last == "**" else (*leading, last):
            node = way[-1][2]
            way.append((node, segment, self._below(node, segment)))
        node = way[-1][2]
        if last == "**":
            node.tail = self._without(node.tail, row)
        else:
            node.here = self._without(node.here, row)
        for above, segment, below in reversed(way):
            if not below.is_empty():
                break
            if not isinstance(above, Node):
                del above[segment]
            elif segment == ANY:
                above.star = None
            elif above.name == segment:
                above.name, above.only = "", None
            else:
                del above.children[segment]

    def _with(self, bucket: Bucket, row: Row) -> Bucket:
        if isinstance(bucket, tuple):
            if len(bucket) < _FEW:
                return (*bucket, row)
            few, bucket = bucket, {}
            for each in few:
                self._sort_in(bucket, each)
        ours = self._own(bucket)
        self._sort_in(ours, row)
        return ours

    def _sort_in(self, ours: Sorted, row: Row) -> None:
        ours[row.action] = subjects = self._own(ours.get(row.action))
        subjects[row.subject] = (*subjects.get(row.subject, ()), row)

    def _without(self, bucket: Bucket | None, row: Row) -> Bucket | None:
        if bucket is None or isinstance(bucket, tuple):
            return tuple(each for each in bucket or () if each.place != row.place) or None
        ours = self._own(bucket)
        ours[row.action] = subjects = self._own(ours[row.action])
        left = tuple(each for each in subjects[row.subject] if each.place != row.place)
        if left:
            subjects[row.subject] = left
        else:
            del subjects[row.subject]
        if not subjects:
            del ours[row.action]
        return ours or None

    def _below(self, node: Node, segment: str) -> Node:
        if segment == ANY:
            node.star = self._our(node.star)
            return node.star
        segment = self._segments.setdefault(segment, segment)
        if not node.children and node.name in ("", segment):
            node.name, node.only = segment, self._our(node.only)
            return node.only
        node.children = self._own(node.children)
        if node.only is not None:
            node.children[node.name] = node.only
            node.name, node.only = "", None
        return self._node(node.children, segment)

    def _node(self, nodes: dict[str, Node], name: str) -> Node:
        nodes[name] = node = self._our(nodes.get(name))
        return node

    def _our(self, node: Node | None) -> Node:
        if node is not None and id(node) in self._ours:
            return node
        ours = Node() if node is None else node.copy()
        self._ours.add(id(ours))
        return ours

    def _own(self, table: dict[str, _Value] | None) -> dict[str, _Value]:
        if table is not None and id(table) in self._ours:
            return table
        ours = {**table} if table else {}
        self._ours.add(id(ours))
        return ours
