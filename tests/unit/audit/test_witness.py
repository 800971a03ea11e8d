"""The witness: cosigns what continues, refuses everything else, and forgets nothing."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.auditing import START, Clock, Keys

from aegis.audit import checkpoints, merkle
from aegis.audit.checkpoints import Checkpoint
from aegis.audit.merkle import Frontier, Node
from aegis.audit.signers import cosigned_by
from aegis.errors import Aborted, AegisError, FailedPrecondition, InvalidArgument, NotFound
from aegis.spiffe import Caller
from aegis.trust import TrustBundle
from aegis_witness.heads import Heads
from aegis_witness.service import admit_peers

KEYS = Keys()


class Log:
    """A log of so many records that begins with `seed`."""

    def __init__(self, seed: str = "") -> None:
        self.leaves = [hashlib.sha256(f"{seed}{n}".encode()).digest() for n in range(40)]
        self.nodes: dict[Node, bytes] = {}
        frontier = Frontier()
        for index, leaf in enumerate(self.leaves):
            self.nodes[(0, index)] = leaf
            for height, node in enumerate(frontier.append(leaf), 1):
                self.nodes[(height, ((index + 1) >> height) - 1)] = node

    def note(self, size: int, keys: Keys = KEYS, log_id: str = "aegis-server") -> str:
        root = merkle.root_of(self.leaves[:size])
        cut = Checkpoint(log_id, size, root, hashlib.sha256(root).digest(), START)
        return checkpoints.sign(cut, keys.log)

    def proof(self, first: int, second: int) -> list[bytes]:
        async def fetch(nodes: object) -> list[bytes]:
            return [self.nodes[node] for node in nodes]  # type: ignore[attr-defined]

        return asyncio.run(merkle.gather(merkle.consistency_nodes(first, second), fetch))


LOG = Log()


@pytest.fixture
def heads(tmp_path: Path) -> Heads:
    return fresh(tmp_path)


def fresh(folder: Path) -> Heads:
    return Heads(folder, trust=KEYS.trust(), name="witness:local", key=KEYS.witness, clock=Clock())


def refused(heads: Heads, note: str, old: int = 0, proof: list[bytes] | None = None) -> AegisError:
    with pytest.raises(AegisError) as refusal:
        heads.add(note, old, proof or [])
    return refusal.value


def test_continuation_is_cosigned_and_remembered(heads: Heads, tmp_path: Path):
    """The first one is believed, every later one has to be proven; a restart forgets nothing."""
    line = heads.add(LOG.note(7), 0, [])
    assert cosigned_by(LOG.note(7) + line, KEYS.trust()) == {"witness:local": START}
    heads.add(LOG.note(20), 7, LOG.proof(7, 20))
    again = fresh(tmp_path)
    assert checkpoints.parse(again.newest("aegis-server")).checkpoint.size == 20
    again.add(LOG.note(33), 20, LOG.proof(20, 33))


def test_empty_log_is_not_cosigned(heads: Heads):
    """There is nothing to see, and nothing that could be proven to continue it."""
    error = refused(heads, LOG.note(0))
    assert (error.reason, error.metadata["check"]) == ("CHECKPOINT_INVALID", "size")
    heads.add(LOG.note(7), 0, [])


def test_same_checkpoint_is_cosigned_again(heads: Heads):
    """An answer that was lost is simply given once more."""
    heads.add(LOG.note(7), 0, [])
    heads.add(LOG.note(7), 0, [])


def test_proof_from_somewhere_else_is_answered_with_what_was_seen(heads: Heads):
    """The log learns from where to prove."""
    heads.add(LOG.note(7), 0, [])
    error = refused(heads, LOG.note(20), 3, LOG.proof(3, 20))
    assert isinstance(error, Aborted)
    assert (error.reason, error.metadata["size"]) == ("CHECKPOINT_OUTDATED", "7")


def test_log_that_got_shorter_is_not_cosigned(heads: Heads):
    """Whatever it says about itself."""
    heads.add(LOG.note(20), 0, [])
    assert refused(heads, LOG.note(7), 20).reason == "CHECKPOINT_OUTDATED"


def test_same_size_with_another_past_is_a_fork(heads: Heads, tmp_path: Path):
    """Both notes are kept: together they prove it to anybody."""
    heads.add(LOG.note(7), 0, [])
    error = refused(heads, Log("other").note(7))
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "AUDIT_FORKED"
    (evidence,) = (tmp_path / "forks").iterdir()
    assert LOG.note(7) in evidence.read_text()
    assert Log("other").note(7) in evidence.read_text()
    assert checkpoints.parse(heads.newest("aegis-server")).body in LOG.note(7)


def test_larger_log_with_another_past_is_a_fork(heads: Heads):
    """A log that was rewritten and went on has no proof that leads back."""
    heads.add(LOG.note(7), 0, [])
    other = Log("other")
    assert refused(heads, other.note(20), 7, other.proof(7, 20)).reason == "AUDIT_FORKED"


def test_proof_of_the_wrong_length_is_refused(heads: Heads):
    """It proves nothing, neither good nor bad."""
    heads.add(LOG.note(7), 0, [])
    error = refused(heads, LOG.note(20), 7, LOG.proof(7, 20)[:-1])
    assert isinstance(error, InvalidArgument)
    assert (error.reason, error.metadata["check"]) == ("CHECKPOINT_INVALID", "proof")


@pytest.mark.parametrize("note", ["garbage", LOG.note(7, Keys())])
def test_note_that_is_not_the_logs_is_refused(heads: Heads, note: str):
    """By its form or by its key."""
    assert refused(heads, note).reason == "CHECKPOINT_INVALID"


def test_note_that_a_revoked_key_signed_as_of_before_is_refused(tmp_path: Path):
    """Whoever stole the log's key can write any time into a note, and is refused all the same."""
    clock = Clock()
    trust = TrustBundle(
        tuple(replace(key, revoked_at=START + timedelta(hours=1)) for key in KEYS.trust().keys)
    )
    heads = Heads(tmp_path, trust=trust, name="witness:local", key=KEYS.witness, clock=clock)
    heads.add(LOG.note(7), 0, [])
    clock.move(hours=2)
    error = refused(heads, LOG.note(20), 7, LOG.proof(7, 20))
    assert (error.reason, error.metadata["check"]) == ("CHECKPOINT_INVALID", "key")


def test_log_nobody_told_the_witness_about_is_unknown(heads: Heads):
    """Neither cosigned nor asked for."""
    assert refused(heads, LOG.note(7, log_id="aegis-x")).reason == "LOG_UNKNOWN"
    with pytest.raises(NotFound) as refusal:
        heads.newest("../../etc/passwd")
    assert refusal.value.reason == "LOG_UNKNOWN"


def test_nothing_was_seen_before_the_first(heads: Heads):
    """It does not invent one."""
    with pytest.raises(NotFound) as refusal:
        heads.newest("aegis-server")
    assert refusal.value.reason == "RESOURCE_NOT_FOUND"


async def test_stranger_may_not_call_the_witness():
    """A certificate of the trust domain is not enough."""
    admit = admit_peers(frozenset({"server:aegis"}))
    await admit("/any", Caller("server:aegis", ""))
    with pytest.raises(AegisError) as refusal:
        await admit("/any", Caller("user:admin", ""))
    assert refusal.value.reason == "PEER_NOT_ALLOWED"
