"""The tree against its definition in RFC 6962, written a second time and slowly."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis.audit import merkle
from aegis.audit.merkle import Frontier, Node

SIZE = 130
LEAVES = [hashlib.sha256(b"%d" % number).digest() for number in range(SIZE)]


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1: MTH."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + root(leaves[:split]) + root(leaves[split:])).digest()


ROOTS = [root(LEAVES[:size]) for size in range(SIZE + 1)]


def subtrees() -> dict[Node, bytes]:
    found, frontier = {}, Frontier()
    for index, leaf in enumerate(LEAVES):
        found[(0, index)] = leaf
        for height, node in enumerate(frontier.append(leaf), 1):
            found[(height, ((index + 1) >> height) - 1)] = node
    return found


SUBTREES = subtrees()


async def fetch(nodes: Sequence[Node]) -> Sequence[bytes]:
    return [SUBTREES[node] for node in nodes]


def test_root_is_that_of_the_definition():
    """For every size from nothing on, appended or computed at once."""
    frontier = Frontier()
    assert frontier.root() == ROOTS[0]
    for size, leaf in enumerate(LEAVES, 1):
        frontier.append(leaf)
        assert frontier.root() == ROOTS[size] == merkle.root_of(LEAVES[:size])


async def test_every_leaf_is_proven_in_every_tree():
    """The proof of each leaf leads to the root, in trees of all sizes."""
    for size in (*range(1, 40), 63, 64, 65, 127, 128, 129, SIZE):
        for index in range(size):
            proof = await merkle.gather(merkle.inclusion_nodes(index, size), fetch)
            found = merkle.root_from_inclusion(index, size, LEAVES[index], proof)
            assert found == ROOTS[size], (index, size)


async def test_every_tree_is_proven_to_begin_every_larger_one():
    """The proof gives both roots."""
    for second in (*range(1, 40), 64, 65, 127, 128, SIZE):
        for first in range(1, second + 1):
            proof = await merkle.gather(merkle.consistency_nodes(first, second), fetch)
            found = merkle.roots_from_consistency(first, second, ROOTS[first], proof)
            assert found == (ROOTS[first], ROOTS[second]), (first, second)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-2, 40),
    st.integers(-2, 40),
    st.lists(st.binary(min_size=32, max_size=32), max_size=8),
)
def test_invented_proof_leads_nowhere(first: int, second: int, proof: list[bytes]) -> None:
    """Whatever somebody makes up is refused or leads to another root; nothing else happens."""
    if proof:
        with contextlib.suppress(ValueError):
            assert merkle.root_from_inclusion(first, second, LEAVES[0], proof) not in ROOTS
        known = ROOTS[first] if 0 <= first <= SIZE else bytes(32)
        with contextlib.suppress(ValueError):
            assert merkle.roots_from_consistency(first, second, known, proof)[1] not in ROOTS


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_leaf_outside_its_tree_has_no_proof(index: int, size: int):
    """An index that is not there is a mistake, not an empty proof."""
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_nodes(index, size)


def test_larger_tree_does_not_begin_a_smaller_one():
    """A log that got shorter has no proof."""
    with pytest.raises(ValueError, match="does not continue"):
        merkle.consistency_nodes(5, 4)
