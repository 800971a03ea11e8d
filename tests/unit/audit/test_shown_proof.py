"""`aegis audit show` says "proven" of what a signed checkpoint holds, and of nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.auditing import START, Keys

from aegis.audit import checkpoints
from aegis.audit.chain import leaf_hash
from aegis.audit.checkpoints import Checkpoint
from aegis.audit.merkle import node_hash
from aegis.cli.audit import fault_of_proof
from aegis.v1 import audit_pb2

KEYS = Keys()
TRUST = KEYS.trust()
RECORDS = [
    audit_pb2.AuditRecord(log_id="aegis-server", index=number).SerializeToString()
    for number in range(2)
]
LEAVES = [leaf_hash(each) for each in RECORDS]
CUT = Checkpoint("aegis-server", 2, node_hash(*LEAVES), bytes(32), START)
NOTE = checkpoints.sign(CUT, KEYS.log)


def fault(index: int, record: bytes, hashes: list[bytes], note: str = NOTE) -> str:
    """What is wrong with an answer of a server; whatever else is in it is its own word."""
    return fault_of_proof(
        index,
        audit_pb2.StoredAuditRecord(record=record),
        audit_pb2.GetInclusionProofResponse(index=1 - index, tree_size=2, hashes=hashes),
        note,
        TRUST,
    )


def test_record_of_a_signed_tree_is_proven():
    """Each at its own number."""
    assert fault(0, RECORDS[0], [LEAVES[1]]) == ""
    assert fault(1, RECORDS[1], [LEAVES[0]]) == ""


def test_record_of_another_number_is_not_the_one_that_was_asked_for():
    """However well it is proven to be there."""
    assert fault(0, RECORDS[1], [LEAVES[0]]) == "this is record 1 of aegis-server"


@pytest.mark.parametrize("keys", [Keys(), KEYS])
def test_checkpoint_that_the_log_did_not_sign_proves_nothing(keys: Keys):
    """Whoever answers can make up a tree, and a note of it."""
    other = Checkpoint("aegis-server", 1, leaf_hash(RECORDS[0]), bytes(32), START)
    invented = checkpoints.sign(other, keys.log)
    assert (fault(0, RECORDS[0], [], invented) == "") is (keys is KEYS)
    assert fault(0, RECORDS[0], [], NOTE.replace("\n2\n", "\n1\n")) != ""


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 3),
    st.binary(max_size=40) | st.sampled_from(RECORDS),
    st.lists(st.binary(max_size=40) | st.sampled_from(LEAVES), max_size=3),
    st.text(max_size=60) | st.just(NOTE),
)
def test_any_other_answer_is_not_proven(index: int, record: bytes, hashes: list[bytes], note: str):
    """And nothing else happens."""
    true = index < 2 and (record, hashes, note) == (RECORDS[index], [LEAVES[1 - index]], NOTE)
    assert (fault(index, record, hashes, note) == "") is true
