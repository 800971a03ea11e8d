"""How a decision is come by: at once, shared, as new as it was asked for."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.policy.rooms import Room
from tests.integration.policy.test_decision_cache import NOON, RULES, Server, reads, running

from aegis.errors import AegisError, InvalidArgument, Unavailable
from aegis_policy import Engine
from aegis_policy.models import DEFAULT_MODEL
from aegis_server.policy.decisions import Consistency, Question, Snapshot

# Another model in words only: PyCasbin evaluates it, and gives the same answers.
OWN_MODEL = DEFAULT_MODEL.replace(
    '(p.act == "*" || p.act == r.act)', '(p.act == r.act || p.act == "*")'
)
ANN_READS = Question("user:ann", "aegis", "/runs/1", "read")
ADMIN_WRITES = "p, user:admin, *, /**, *, , allow, admin\n"


async def test_compiled_rules_are_never_behind_redis(redis_url: str):
    """A round trip costs more than the evaluation it would save."""
    server = Server(redis_url, cache_use="auto")
    async with running(server):
        sources = [(await server.decisions.decide(reads("user:ann"))).source for _ in range(2)]
        assert sources == ["engine", "memory"]
        server.forget()
        assert (await server.decisions.decide(reads("user:ann"))).source == "engine"
        assert server.counted("hit") == server.counted("miss") == server.counted("written") == 0


async def test_costly_rules_share_their_answers_through_redis(redis_url: str):
    """PyCasbin looks at every rule: what one server found out spares the others that."""
    rules = RULES + "".join(
        f"p, role:other, *, /x/{n}, read, , allow, other-{n}\n" for n in range(600)
    )
    servers = [Server(redis_url, cache_use="auto") for _ in range(2)]
    async with running(*servers):
        for server in servers:
            server.decisions.adopt(Snapshot(8, b"e" * 32, Engine.from_csv(rules, OWN_MODEL)))
        assert (await servers[0].decisions.decide(reads("user:ann"))).source == "engine"
        async with asyncio.timeout(5):
            while servers[0].counted("written") < 1:
                await asyncio.sleep(0.005)
        answer = await servers[1].decisions.decide(reads("user:ann"))
        assert (answer.allowed, answer.rule_id, answer.source) == (True, "readers-read", "redis")


async def test_same_question_asked_by_many_at_once_is_evaluated_once(redis_url: str):
    """Who comes while the answer is looked for gets it as well; one that leaves takes nothing."""
    server = Server(redis_url, cache_use="redis")
    async with running(server):
        asked = [asyncio.create_task(server.decisions.decide(reads("user:ann"))) for _ in range(50)]
        await asyncio.sleep(0)
        asked[0].cancel()
        answers = await asyncio.gather(*asked[1:])
        assert {answer.rule_id for answer in answers} == {"readers-read"}
        assert len({answer.decision_id for answer in answers}) == 49
        assert server.counted("miss") == 1


async def test_attributes_of_another_type_are_another_question(redis_url: str):
    """1, 1.0 and true are equal to Python, and three different things to a condition."""
    server = Server(redis_url, cache_use="auto")
    rules = "p, user:ann, *, /a, read, ctx.level == 1, allow, one\n"
    server.decisions.adopt(Snapshot(9, b"f" * 32, Engine.from_csv(rules)))
    found = [
        (await server.decisions.decide(Question("user:ann", "aegis", "/a", "read", {"level": v})))
        for v in (True, 1, 1.0, "1", [1])
    ]
    assert [answer.allowed for answer in found] == [False, True, True, False, False]
    assert {answer.source for answer in found} == {"engine"}
    await server.cache.close()


async def test_bad_question_does_not_hinder_the_others_of_its_batch(redis_url: str):
    """Each has its own answer, or its own error, at its own place."""
    server = Server(redis_url, cache_use="auto")
    early = InvalidArgument("FIELD_INVALID", "unreadable")
    answers = await server.decisions.decide_all(
        [reads("user:ann"), reads("user:ann", "/../x"), early, reads("user:bob")]
    )
    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == ["Decision", "InvalidArgument", "InvalidArgument", "Decision"]
    assert isinstance(answers[1], AegisError)
    assert answers[1].violations[0].field == "resource"
    await server.cache.close()


async def test_revision_that_is_asked_for_is_waited_for(server: Room, database):
    """A server that is behind catches up before it answers, and never answers older."""
    other = Room(database)
    await other.decisions.open()
    imported = await server.import_(RULES + ADMIN_WRITES)
    assert other.decisions.snapshot.revision < imported
    answer = await other.decisions.decide(ANN_READS, consistency=Consistency(at_least=imported))
    assert (answer.revision, answer.allowed) == (imported, True)
    await server.import_(
        RULES.replace("/runs/*, read, , allow", "/x/*, read, , allow") + ADMIN_WRITES
    )
    answer = await other.decisions.decide(ANN_READS, consistency=Consistency(current=True))
    assert (answer.revision, answer.allowed) == (imported + 1, False)


async def test_revision_of_the_future_is_refused_after_a_moment(server: Room):
    """Nobody can wait for what does not exist; the error says which revision there is."""
    with pytest.raises(Unavailable) as caught:
        await server.decisions.decide(ANN_READS, consistency=Consistency(at_least=99))
    assert caught.value.reason == "REVISION_AHEAD"
    assert caught.value.metadata == {"wanted": "99", "revision": "1"}
    with pytest.raises(Unavailable, match="revision 99"):
        await server.decisions.decide_all([ANN_READS], consistency=Consistency(at_least=99))


async def test_answers_of_a_window_end_with_it_in_memory_too(redis_url: str):
    """What a rule allows at night is not remembered in the morning."""
    server = Server(redis_url, cache_use="auto")
    server.now = NOON.replace(hour=23)
    first = await server.decisions.decide(reads("user:night"))
    assert first.valid_until is not None
    server.now = first.valid_until
    second = await server.decisions.decide(reads("user:night"))
    assert (first.allowed, second.allowed, second.source) == (True, False, "engine")
    await server.cache.close()
