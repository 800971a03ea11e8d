"""The Merkle tree of RFC 6962, section 2.1, over a log that only grows.

A log keeps, with each leaf, the hashes of the perfect subtrees that the leaf completes: the leaf
at index i completes one of height 1 to h for the h trailing one bits of i. That is one hash a leaf
on average, never changes, and makes every root and proof a matter of at most 64 look-ups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

# A perfect subtree: its height above the leaves and its position among those of that height.
Node: TypeAlias = tuple[int, int]
# Looks up the hashes of nodes, in their order.
Fetch: TypeAlias = Callable[[Sequence[Node]], Awaitable[Sequence[bytes]]]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Returns the 32-byte hash of an interior node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """The right edge of a tree: the roots of its perfect subtrees, largest first."""

    size: int = 0
    peaks: list[bytes] = field(default_factory=list)

    def append(self, leaf: bytes) -> list[bytes]:
        """Adds a leaf hash; returns the hashes of the subtrees it completes, lowest first."""
        completed = []
        node, rest = leaf, self.size
        while rest & 1:
            node = node_hash(self.peaks.pop(), node)
            completed.append(node)
            rest >>= 1
        self.peaks.append(node)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Returns the root hash of the tree as it is."""
        return _fold(self.peaks)


def peaks_of(size: int) -> list[Node]:
    """Returns the perfect subtrees a tree of `size` leaves consists of, largest first."""
    return _cover(0, size)


def inclusion_nodes(index: int, size: int) -> list[list[Node]]:
    """Returns for each hash of the proof (RFC 6962, 2.1.1), from the leaf up, what it is made of.

    Raises ValueError unless 0 <= index < size.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    return [_cover(*span) for span in _path(index, 0, size)]


def consistency_nodes(first: int, second: int) -> list[list[Node]]:
    """Returns for each hash of the proof (RFC 6962, 2.1.2) what it is made of.

    Empty for equal sizes and for a first tree that is empty. Raises ValueError unless
    0 <= first <= second.
    """
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {second} does not continue one of {first}")
    if first in (0, second):
        return []
    return [_cover(*span) for span in _subproof(first, 0, second, whole=True)]


async def gather(wanted: Sequence[Sequence[Node]], fetch: Fetch) -> list[bytes]:
    """Returns the hashes of a proof, looked up in one go."""
    flat = [node for nodes in wanted for node in nodes]
    found = iter(await fetch(flat))
    return [_fold([next(found) for _ in nodes]) for nodes in wanted]


def root_from_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """Returns the root that a proof leads to from a leaf hash (RFC 9162, 2.1.3.2).

    Raises ValueError for a proof of another length than index and size ask for.
    """
    spans = _path(index, 0, size) if 0 <= index < size else None
    if spans is None or len(spans) != len(proof):
        raise ValueError("the inclusion proof has another length than its tree")
    node = leaf
    for (begin, _), sibling in zip(spans, proof, strict=True):
        node = node_hash(sibling, node) if begin < index else node_hash(node, sibling)
    return node


def roots_from_consistency(
    first: int, second: int, first_root: bytes, proof: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """Returns both roots a proof leads to, to be compared with the known ones (RFC 9162, 2.1.4.2).

    Raises ValueError for sizes out of order and for a proof of another length than they ask for.
    """
    if not 0 < first <= second:
        raise ValueError("nothing to prove from an empty tree")
    if first == second:
        if proof:
            raise ValueError("equal sizes need no proof")
        return first_root, first_root
    spans = _subproof(first, 0, second, whole=True)
    if len(spans) != len(proof):
        raise ValueError("the consistency proof has another length than its trees")
    # The first hash covers the last perfect subtree of the old tree; all of it, when that is one.
    hashes = dict(zip(spans, proof, strict=True))
    begin, end = spans[0] if spans[0][1] == first else (0, first)
    old = new = hashes.get((begin, end), first_root)
    for (low, high), sibling in zip(spans, proof, strict=True):
        if high <= begin:
            old, new, begin = node_hash(sibling, old), node_hash(sibling, new), low
        elif low == end:
            new, end = node_hash(new, sibling), high
    return old, new


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Returns the root over leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def _fold(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return EMPTY_ROOT
    node = hashes[-1]
    for left in reversed(hashes[:-1]):
        node = node_hash(left, node)
    return node


def _cover(begin: int, end: int) -> list[Node]:
    """Returns the perfect subtrees of leaves [begin, end), where begin is a multiple of each."""
    nodes = []
    while begin < end:
        height = (end - begin).bit_length() - 1
        nodes.append((height, begin >> height))
        begin += 1 << height
    return nodes


def _split(begin: int, end: int) -> int:
    """Returns where RFC 6962 splits a range: behind the largest power of two below its length."""
    return begin + (1 << (end - begin - 1).bit_length() - 1)


def _path(index: int, begin: int, end: int) -> list[tuple[int, int]]:
    spans = []
    while end - begin > 1:
        middle = _split(begin, end)
        if index < middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((begin, middle))
            begin = middle
    return spans[::-1]


def _subproof(first: int, begin: int, end: int, *, whole: bool) -> list[tuple[int, int]]:
    if first == end:
        return [] if whole else [(begin, end)]
    middle = _split(begin, end)
    if first <= middle:
        return [*_subproof(first, begin, middle, whole=whole), (middle, end)]
    return [*_subproof(first, middle, end, whole=False), (begin, middle)]
