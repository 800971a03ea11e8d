"""What a replica is told, turn by turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.replicas import Rules

from aegis.errors import Unavailable
from aegis.v1 import policy_pb2
from aegis_server.policy.watching import watch

RULES = "p, user:rita, *, /books/**, read, , allow, rita-reads\n"
Told = AsyncIterator[policy_pb2.WatchPolicyResponse]


def many(count: int) -> str:
    return "".join(f"p, user:u{n}, *, /books/{n}, read, , allow, rule-{n}\n" for n in range(count))


def told(rules: Rules, revision: int = 0, digest: bytes = b"", piece_bytes: int = 2000) -> Told:
    request = policy_pb2.WatchPolicyRequest(revision=revision, digest=digest)
    return watch(rules, request, piece_bytes=piece_bytes, sign_seconds=0.02)


async def take(messages: Told, count: int) -> list[policy_pb2.WatchPolicyResponse]:
    async with asyncio.timeout(5):
        return [await anext(messages) for _ in range(count)]


def kinds(messages: list[policy_pb2.WatchPolicyResponse]) -> list[str | None]:
    return [message.WhichOneof("news") for message in messages]


async def test_sign_roles_rules_then_signs():
    """In that order: the first answers at once, and all say what is current."""
    messages = await take(told(Rules(RULES)), 5)
    assert kinds(messages) == [None, "directory", "step", None, None]
    assert {message.current_revision for message in messages} == {1}
    times = [message.time.ToNanoseconds() for message in messages]
    assert times == sorted(times)
    assert times[0] > 0


async def test_who_has_the_rules_is_told_the_roles_only():
    """The revision and its digest are enough."""
    rules = Rules(RULES)
    messages = await take(told(rules, 1, rules.kept[0].revision.digest), 3)
    assert kinds(messages) == [None, "directory", None]
    assert rules.told == []


@pytest.mark.parametrize(
    ("revision", "right", "way"), [(1, True, "delta 1"), (1, False, "full"), (9, True, "full")]
)
async def test_difference_only_to_a_revision_that_was(revision: int, right: bool, way: str):
    """Another digest, or a number that never was, is another history."""
    rules = Rules(RULES)
    rules.replace(RULES + many(3))
    digest = rules.kept[0].revision.digest if right else bytes(32)
    (*_, step) = await take(told(rules, revision, digest), 3)
    assert rules.told == [way]
    assert step.step.from_revision == (1 if way != "full" else 0)
    assert len(step.step.added) == (3 if way != "full" else 4)


async def test_pieces_are_small_and_say_that_more_follows():
    """No message grows with the number of rules."""
    rules = Rules(many(300))
    _, _, *pieces = await take(told(rules), 16)
    steps = [piece.step for piece in pieces if piece.HasField("step")]
    assert len(steps) > 8
    assert max(step.ByteSize() for step in steps) <= 2000
    assert [step.more for step in steps] == [True] * (len(steps) - 1) + [False]
    assert [line.place for step in steps for line in step.added] == list(range(1, 301))


async def test_many_removed_lines_are_cut_as_well():
    """They have a size, too."""
    rules = Rules(RULES + many(1000))
    digest = rules.kept[0].revision.digest
    rules.replace(RULES)
    messages = await take(told(rules, 1, digest, piece_bytes=500), 40)
    steps = [message.step for message in messages if message.HasField("step")]
    assert sum(len(step.removed_places) for step in steps) == 1000
    assert max(step.ByteSize() for step in steps) <= 500


async def test_slow_reader_is_told_the_newest():
    """Ten edits while it did not read are one step."""
    rules = Rules(RULES)
    messages = told(rules)
    await take(messages, 4)
    for count in range(1, 11):
        rules.replace(RULES + many(count))
    (step,) = await take(messages, 1)
    assert (step.step.from_revision, step.step.to.revision) == (1, 11)


async def test_roles_are_told_before_a_later_time():
    """No message vouches for a moment at which a change of roles was known and not yet told."""
    rules = Rules(RULES)
    messages = told(rules)
    await take(messages, 4)
    rules.give({"user:dora": ["role:reader"], "user:nobody": []})
    rules.replace(RULES + many(1))
    directory, step = await take(messages, 2)
    assert dict(directory.directory.held).keys() == {"user:dora"}
    assert directory.current_revision == 2
    assert step.step.to.revision == 2
    assert step.time == directory.time


async def test_time_stands_still_without_postgres():
    """Signs go on and tell when the last look was; a new replica is turned away."""
    rules = Rules(RULES)
    messages = told(rules)
    await take(messages, 3)
    rules.freeze()
    first, second = await take(messages, 2)
    assert first.time == second.time
    with pytest.raises(Unavailable):
        await take(told(rules), 1)
