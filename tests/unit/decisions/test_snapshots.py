"""Steps: what makes a snapshot out of one, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pytest

from aegis.decisions.snapshots import Assembly, BrokenStep, Snapshot, Step, UnusableRules
from aegis.v1 import policy_pb2
from aegis_policy import Line, to_csv

ALLOW = Line("p", ("user:rita", "*", "/books/**", "read", "", "allow", "rita-reads"))
DENY = Line("p", ("user:rita", "*", "/books/2", "read", "", "deny", "not-that-one"))
LATER = Line("p", ("user:rita", "*", "/books/2", "read", "", "deny", "nor-so"))
ZERO = bytes(32)


def revision(
    number: int, lines: Mapping[int, Line], before: bytes = ZERO
) -> policy_pb2.PolicyRevision:
    csv = to_csv(lines[place] for place in sorted(lines))
    digest = hashlib.sha256(before + hashlib.sha256(csv.encode()).digest()).digest()
    return policy_pb2.PolicyRevision(revision=number, digest=digest, prev_digest=before)


def full(lines: Mapping[int, Line], number: int = 1) -> Step:
    return Step(0, revision(number, lines), (), tuple(lines.items()))


def held() -> Snapshot:
    return full({1: ALLOW, 5: DENY}).apply(None)


def delta(removed: Sequence[int], added: Mapping[int, Line], after: Mapping[int, Line]) -> Step:
    return Step(1, revision(2, after, held().digest), removed, tuple(added.items()))


def asked(snapshot: Snapshot, resource: str) -> tuple[bool, str]:
    answer = snapshot.engine.decide(
        subject="user:rita", domain="aegis", resource=resource, action="read"
    )
    return answer.allowed, answer.rule_id


def test_full_step_is_decided_by():
    """In the order of the places, whatever order the lines came in."""
    lines = {9: LATER, 1: ALLOW, 5: DENY}
    snapshot = full(lines).apply(None)
    assert asked(snapshot, "/books/1") == (True, "rita-reads")
    assert asked(snapshot, "/books/2") == (False, "not-that-one")


def test_delta_leaves_the_held_snapshot_alone():
    """Removed and added lines make another one; the old one answers as before."""
    before = held()
    after = delta([5], {9: LATER}, {1: ALLOW, 9: LATER}).apply(before)
    assert asked(after, "/books/2") == (False, "nor-so")
    assert asked(before, "/books/2") == (False, "not-that-one")
    assert (before.revision, after.revision) == (1, 2)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (delta([5], {}, {1: ALLOW, 5: DENY}), "not those of revision 2"),
        (delta([], {9: LATER}, {1: ALLOW}), "not those of revision 2"),
        (delta([7], {}, {1: ALLOW, 5: DENY}), "place 7 is removed"),
        (delta([], {5: LATER}, {1: ALLOW, 5: LATER}), "given twice"),
        (Step(1, revision(2, {1: ALLOW}, ZERO), [5], ()), "does not follow"),
        (Step(3, revision(4, {1: ALLOW}), [5], ()), "which is not held"),
    ],
)
def test_step_that_leads_elsewhere_is_broken(step: Step, words: str):
    """Nothing of it is used."""
    with pytest.raises(BrokenStep, match=words):
        step.apply(held())


def test_lines_that_nobody_can_read_are_unusable():
    """The digest is right, but this engine does not know what a line means."""
    odd = Line("p", ("user:rita", "*", "/books/**", "read", "", "maybe", "rita-reads"))
    with pytest.raises(UnusableRules, match="allow"):
        full({1: odd}).apply(None)


def test_model_of_its_own_is_unusable():
    """Its rules mean something that is not known here."""
    step = full({1: ALLOW})
    step.to.model_digest = ZERO
    with pytest.raises(UnusableRules, match="model of its own"):
        step.apply(None)


def piece(
    number: int, lines: Mapping[int, Line], *, more: bool
) -> policy_pb2.WatchPolicyResponse.Step:
    added = [
        policy_pb2.PlacedLine(place=place, kind=line.kind, fields=line.fields)
        for place, line in lines.items()
    ]
    to = policy_pb2.PolicyRevision(revision=number)
    return policy_pb2.WatchPolicyResponse.Step(to=to, added=added, more=more)


def test_pieces_become_one_step():
    """Only the last one completes it, and the next step starts empty."""
    assembly = Assembly()
    assert assembly.add(piece(1, {1: ALLOW}, more=True)) is None
    step = assembly.add(piece(1, {5: DENY}, more=False))
    assert step is not None
    assert step.added == [(1, ALLOW), (5, DENY)]
    following = assembly.add(piece(2, {}, more=False))
    assert following is not None
    assert following.added == []


def test_pieces_of_two_steps_do_not_mix():
    """Half of one and half of another is neither."""
    assembly = Assembly()
    assembly.add(piece(1, {1: ALLOW}, more=True))
    with pytest.raises(BrokenStep, match="mixed"):
        assembly.add(piece(2, {5: DENY}, more=False))
