"""The local decision point against a server that tells it what it decides by."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from tests.integration.decisions.conftest import RULES
from tests.replicas import Hands, Stand, in_threads, until

from aegis.decisions import Decision, LocalDecisionPoint, StaleSnapshot
from aegis.errors import (
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from aegis.v1 import policy_pb2

Alter = Callable[[policy_pb2.WatchPolicyResponse], Awaitable[policy_pb2.WatchPolicyResponse | None]]


def point(channel: grpc.aio.Channel, **changes: Any) -> LocalDecisionPoint:
    return LocalDecisionPoint(channel, **{"max_age_seconds": 10.0, **changes})


def reads(deciding: LocalDecisionPoint, subject: str = "user:rita", **more: Any) -> Decision:
    return deciding.decide(subject=subject, resource="/books/1", action="read", **more)


async def ready(deciding: LocalDecisionPoint, revision: int = 0) -> None:
    async with asyncio.timeout(5):
        await deciding.ready(at_least_revision=revision)


async def test_decides_by_the_servers_rules(stand: Stand, channel: grpc.aio.Channel):
    """Allowed by the rule that allows, with the revision; a stranger is not."""
    async with point(channel) as deciding:
        await ready(deciding)
        decision = reads(deciding)
        assert (decision.allowed, decision.rule_id, decision.revision) == (True, "readers-read", 1)
        assert not reads(deciding, "user:stranger")


async def test_nothing_is_decided_before_everything_is_there(
    stand: Stand, channel: grpc.aio.Channel
):
    """Neither before the first message, nor with the rules alone: a role may hold a deny."""

    async def without_directory(
        message: policy_pb2.WatchPolicyResponse,
    ) -> policy_pb2.WatchPolicyResponse:
        if message.HasField("directory"):
            message.ClearField("directory")
        return message

    stand.service.alter = without_directory  # type: ignore[method-assign]
    async with point(channel) as deciding:
        with pytest.raises(StaleSnapshot):
            reads(deciding)
        await until(lambda: deciding.standing().revision == 1)
        with pytest.raises(StaleSnapshot) as caught:
            reads(deciding)
        assert caught.value.age_seconds == float("inf")


async def test_roles_of_the_directory_count(stand: Stand, channel: grpc.aio.Channel):
    """A role given there allows, one that is banned there denies, and taking it back counts."""
    stand.rules.give({"user:dora": ["role:reader"]})
    async with point(channel) as deciding:
        await ready(deciding)
        assert reads(deciding, "user:dora").allowed
        stand.rules.give({"user:dora": ["role:reader", "role:banned"]})
        await until(lambda: not reads(deciding, "user:dora"))
        assert reads(deciding, "user:dora").rule_id == "banned-do-nothing"
        stand.rules.give({})
        await until(lambda: reads(deciding, "user:dora").rule_id == "")


async def test_an_edit_comes_as_a_delta(stand: Stand, channel: grpc.aio.Channel):
    """Only the difference travels, lines keep their order, and `ready` waits for the revision."""
    async with point(channel) as deciding:
        await ready(deciding)
        number = stand.rules.replace("g2, user:otto, role:reader\n" + RULES.replace("rita", "ruth"))
        await ready(deciding, number)
        assert reads(deciding, "user:otto").revision == number
        assert reads(deciding, "user:ruth").allowed
        assert not reads(deciding, "user:rita")
        assert stand.rules.told == ["full", "delta 1"]


async def test_a_broken_stream_is_resumed(stand: Stand, channel: grpc.aio.Channel):
    """A server that comes back is asked for what changed, and decisions went on meanwhile."""
    async with point(channel) as deciding:
        await ready(deciding)
        await stand.stop()
        assert reads(deciding).allowed
        number = stand.rules.replace(RULES.replace("rita", "ruth"))
        await stand.start()
        await ready(deciding, number)
        assert reads(deciding, "user:ruth").allowed
        assert stand.rules.told == ["full", "delta 1"]
        assert [asked.revision for asked in stand.service.watched][-1] == 1


async def test_another_history_under_the_same_number_comes_in_full(
    stand: Stand, channel: grpc.aio.Channel
):
    """After a restored backup the digest differs: no delta leads there."""
    async with point(channel) as deciding:
        await ready(deciding)
        await stand.stop()
        stand.rules.kept.clear()
        stand.rules.replace(RULES.replace("rita", "ruth"))
        await stand.start()
        await until(lambda: deciding.standing().problem == "" and reads(deciding, "user:ruth"))
        assert not reads(deciding, "user:rita")
        assert stand.rules.told == ["full", "full"]


async def test_rules_that_are_not_those_of_the_digest_are_dropped(
    stand: Stand, channel: grpc.aio.Channel
):
    """A delta with one altered line: all is dropped, refused meanwhile, and asked for in full."""
    async with point(channel) as deciding:
        await ready(deciding)
        seen: list[str] = []

        async def alter(message: policy_pb2.WatchPolicyResponse) -> policy_pb2.WatchPolicyResponse:
            if message.step.from_revision:
                message.step.added[0].fields[0] = "user:mallory"
            elif message.HasField("step"):
                # Dropped at one moment, told at the next.
                await until(lambda: deciding.standing().problem)
                assert deciding.standing().revision == 0
                with pytest.raises(StaleSnapshot):
                    reads(deciding)
                seen.append(deciding.standing().problem)
            return message

        stand.service.alter = alter  # type: ignore[method-assign]
        await ready(deciding, stand.rules.replace(RULES.replace("rita", "ruth")))
        assert "not those of revision 2" in seen[0]
        assert not reads(deciding, "user:mallory")
        assert stand.rules.told == ["full", "delta 1", "full"]


async def test_half_of_a_step_changes_nothing(stand: Stand, channel: grpc.aio.Channel):
    """Pieces are collected; while the rest is missing, the old rules answer, and they age."""
    lines = [f"p, user:u{n}, *, /books/{n}, read, , allow, rule-{n}\n" for n in range(100)]
    stand.service.piece_bytes = 1000
    go_on = asyncio.Event()
    hands = Hands()
    async with point(channel, clock=hands) as deciding:
        await ready(deciding)
        pieces = 0

        async def alter(message: policy_pb2.WatchPolicyResponse) -> policy_pb2.WatchPolicyResponse:
            nonlocal pieces
            pieces += message.HasField("step")
            if pieces > 3:
                await go_on.wait()
            return message

        stand.service.alter = alter  # type: ignore[method-assign]
        number = stand.rules.replace(RULES + "".join(lines))
        await until(lambda: pieces > 3)
        assert reads(deciding, "user:u1").revision == 1
        assert not reads(deciding, "user:u1")
        hands.skipped += 11
        with pytest.raises(StaleSnapshot):
            reads(deciding)
        go_on.set()
        await ready(deciding, number)
        assert reads(deciding, "user:u1").allowed
        assert pieces > 5


async def test_a_stream_cut_within_a_step_starts_that_step_anew(
    stand: Stand, channel: grpc.aio.Channel
):
    """The pieces that came are forgotten with their stream."""
    lines = [f"p, user:u{n}, *, /books/{n}, read, , allow, rule-{n}\n" for n in range(100)]
    stand.service.piece_bytes = 1000
    stand.rules.replace(RULES + "".join(lines))
    pieces = 0

    async def alter(
        message: policy_pb2.WatchPolicyResponse,
    ) -> policy_pb2.WatchPolicyResponse | None:
        nonlocal pieces
        pieces += message.HasField("step")
        return None if pieces == 4 and message.HasField("step") else message

    stand.service.alter = alter  # type: ignore[method-assign]
    async with point(channel) as deciding:
        await ready(deciding)
        assert reads(deciding, "user:u1").allowed
        assert stand.rules.told == ["full", "full"]


async def test_a_silent_server_means_no_more_decisions(stand: Stand, channel: grpc.aio.Channel):
    """The bound counts from the last sign of life; when the server is back, so are decisions."""
    hands = Hands()
    async with point(channel, clock=hands) as deciding:
        await ready(deciding)
        await stand.stop()
        hands.skipped += 8
        assert reads(deciding).allowed
        hands.skipped += 3
        with pytest.raises(StaleSnapshot) as caught:
            reads(deciding)
        assert 11 <= caught.value.age_seconds < 16
        assert isinstance(caught.value, Unavailable)
        await stand.start()
        await ready(deciding)
        assert reads(deciding).allowed


async def test_a_server_that_lost_its_database_keeps_nobody_fresh(
    stand: Stand, channel: grpc.aio.Channel
):
    """Its signs of life go on, but tell the time of its last look, and that is what counts."""
    async with point(channel, max_age_seconds=0.5) as deciding:
        await ready(deciding)
        stand.rules.freeze()
        with pytest.raises(StaleSnapshot):
            async with asyncio.timeout(3):
                while True:
                    assert reads(deciding).allowed
                    await asyncio.sleep(0.01)
        await until(lambda: "cannot be read" in deciding.standing().problem)


async def test_messages_that_were_held_up_are_as_old_as_they_are(
    stand: Stand, channel: grpc.aio.Channel
):
    """What sat in a buffer for a while does not become new by being read."""
    hands = Hands()
    async with point(channel, clock=hands) as deciding:
        await ready(deciding)
        # Our clock has moved on by so much more than the server's in what comes now.
        hands.skipped += 9
        await asyncio.sleep(0.3)
        assert 8 < deciding.standing().age_seconds < 10
        hands.skipped += 2
        with pytest.raises(StaleSnapshot):
            reads(deciding)
        await ready(deciding)


async def test_a_swap_under_load_mixes_no_revisions(stand: Stand, channel: grpc.aio.Channel):
    """Every answer given by threads meanwhile is the one of the revision it names."""
    wrong: list[Decision] = []
    seen: set[int] = set()
    over = False

    async with point(channel, report=False) as deciding:
        await ready(deciding)

        def ask() -> None:
            while not over:
                decision = reads(deciding, "user:rita")
                seen.add(decision.revision)
                if decision.allowed != (decision.revision % 2 == 1):
                    wrong.append(decision)

        threads = in_threads(2, ask)
        for number in range(2, 12):
            csv = RULES if number % 2 else RULES.replace("rita", "ruth")
            assert stand.rules.replace(csv) == number
            await ready(deciding, number)
        over = True
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(seen) > 5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"subject": "rita"}, "subject"),
        ({"subject": "role:reader"}, "subject"),
        ({"resource": "books"}, "resource"),
        ({"resource": "/books/../x"}, "resource"),
        ({"action": "Read"}, "action"),
        ({"domain": "No!"}, "domain"),
        ({"attributes": {"n": float("nan")}}, "attributes.n"),
        ({"attributes": {"n": 10**400}}, "attributes.n"),
        ({"attributes": {"a": {"b": [1, object()]}}}, "attributes.a.b[1]"),
        ({"attributes": {"t": "x" * 200_000}}, "attributes.t"),
        ({"attributes": {"t": "\ud800"}}, "attributes.t"),
        ({"attributes": {f"a{n}": 1 for n in range(65)}}, "attributes"),
    ],
)
async def test_bad_questions_are_refused_as_by_the_server(
    stand: Stand, channel: grpc.aio.Channel, changes: dict[str, Any], field: str
):
    """FIELD_INVALID, naming the field."""
    async with point(channel) as deciding:
        await ready(deciding)
        asked = {"subject": "user:rita", "resource": "/books/1", "action": "read", **changes}
        with pytest.raises(InvalidArgument) as caught:
            deciding.decide(**asked)
        assert caught.value.reason == "FIELD_INVALID"
        assert [violation.field for violation in caught.value.violations] == [field]
        assert deciding.standing().unreported == 0


async def test_whoever_may_not_replicate_is_told(stand: Stand, channel: grpc.aio.Channel):
    """`ready` does not wait for what will not come."""
    stand.service.failures = [PermissionDenied("POLICY_DENIED", "you may not")]
    async with point(channel) as deciding:
        with pytest.raises(PermissionDenied, match="you may not"):
            await ready(deciding)
        await until(lambda: deciding.standing().problem == "")
        await ready(deciding)


async def test_a_model_of_its_own_is_not_replicated(stand: Stand, channel: grpc.aio.Channel):
    """Told by the server, or by the revision itself."""
    stand.service.failures = [FailedPrecondition("POLICY_NOT_COMPILED", "ask me instead")]
    async with point(channel) as deciding:
        with pytest.raises(FailedPrecondition):
            await ready(deciding)

        async def alter(message: policy_pb2.WatchPolicyResponse) -> policy_pb2.WatchPolicyResponse:
            if message.HasField("step"):
                message.step.to.model_digest = bytes(32)
            return message

        stand.service.alter = alter  # type: ignore[method-assign]
        await until(lambda: "model of its own" in deciding.standing().problem)
        with pytest.raises(StaleSnapshot, match="model of its own"):
            reads(deciding)


async def test_decisions_are_reported(stand: Stand, channel: grpc.aio.Channel):
    """With what was asked, what it came to, and an id each; more than fit into one call."""
    async with point(channel) as deciding:
        await ready(deciding)
        first = reads(deciding, attributes={"shelf": 3, "tags": ["a", None]})
        made = [first, *(reads(deciding) for _ in range(1500))]
    reported = stand.service.reported
    assert [each.decision_id for each in reported] == [each.decision_id for each in made]
    numbers = [int(each.decision_id[-12:], 16) for each in made]
    assert numbers == list(range(1, len(made) + 1))
    assert len({each.decision_id[:-12] for each in made}) == 1
    assert uuid.UUID(first.decision_id).version == 8
    told = reported[0]
    assert (told.effect, told.rule_id, told.revision) == (1, "readers-read", 1)
    assert (told.request.subject, told.request.domain) == ("user:rita", "aegis")
    assert dict(told.request.attributes)["shelf"] == 3
    assert abs(told.time.seconds - time.time()) < 60


async def test_reports_are_sent_again_with_the_same_ids(stand: Stand, channel: grpc.aio.Channel):
    """A full log or a lost answer costs nothing but time."""
    stand.service.report_failures = [
        ResourceExhausted("DECISION_LOG_FULL", "later"),
        Unavailable("DATABASE_UNAVAILABLE", "later"),
    ]
    async with point(channel) as deciding:
        await ready(deciding)
        made = [reads(deciding).decision_id for _ in range(10)]
        await until(lambda: len(stand.service.reported) == 10)
        assert [each.decision_id for each in stand.service.reported] == made
        await until(lambda: deciding.standing().unreported == 0)
        assert deciding.standing().dropped == 0


async def test_without_a_record_no_decision(stand: Stand, channel: grpc.aio.Channel):
    """By default, what cannot be kept for the log is not decided."""
    async with point(channel, unreported_max=5) as deciding:
        await ready(deciding)
        stand.service.report_failures = [ResourceExhausted("DECISION_LOG_FULL", "later")] * 5
        for _ in range(5):
            reads(deciding)
        with pytest.raises(ResourceExhausted) as caught:
            reads(deciding)
        assert caught.value.reason == "DECISION_LOG_FULL"
        await until(lambda: deciding.standing().unreported == 0, 20)
        assert reads(deciding).allowed


async def test_the_oldest_are_dropped_where_that_was_chosen(
    stand: Stand, channel: grpc.aio.Channel
):
    """And counted."""
    async with point(channel, unreported_max=5, when_unreported="drop") as deciding:
        await ready(deciding)
        made = [reads(deciding).decision_id for _ in range(12)]
        assert deciding.standing().dropped == 7
    assert [each.decision_id for each in stand.service.reported] == made[-5:]


async def test_one_report_the_server_never_takes_does_not_stop_the_others(
    stand: Stand, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
):
    """It is found by halving, dropped and counted."""
    async with point(channel) as deciding:
        await ready(deciding)
        made = [reads(deciding).decision_id for _ in range(20)]
        taken = stand.service.ReportDecisions

        async def picky(request: policy_pb2.ReportDecisionsRequest, context: Any) -> Any:
            if made[7] in {each.decision_id for each in request.decisions}:
                raise InvalidArgument("FIELD_INVALID", "not that one")
            return await taken(request, context)

        await stand.stop()
        monkeypatch.setattr(stand.service, "ReportDecisions", picky)
        await stand.start()
        await until(lambda: deciding.standing().unreported == 0, 10)
        assert deciding.standing().dropped == 1
    reported = [each.decision_id for each in stand.service.reported]
    assert reported == made[:7] + made[8:]


async def test_nothing_is_decided_after_the_end(stand: Stand, channel: grpc.aio.Channel):
    """Nobody follows any more."""
    async with point(channel) as deciding:
        await ready(deciding)
    with pytest.raises(StaleSnapshot):
        reads(deciding)


FORKS = """
import os, time
from types import SimpleNamespace
from aegis.decisions import LocalDecisionPoint
from aegis.decisions.reading import Known

way = lambda *_, **__: None
channel = SimpleNamespace(unary_unary=way, unary_stream=way, stream_stream=way)
point = LocalDecisionPoint(channel, max_age_seconds=60, clock=time.monotonic)
point._known = Known(made_at=time.monotonic())
child = os.fork()
if child:
    os.wait()
print(point.standing().age_seconds < 60, flush=True)
"""


def test_a_child_process_knows_nothing():
    """It has the rules in its memory, but nobody who follows them."""
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_denial_is_false():
    """`if point.decide(...)` does what it looks like."""
    assert not Decision(False, "", 1, "", None)
    assert Decision(True, "", 1, "", None)


@pytest.mark.parametrize("bound", [0, -1, float("inf"), float("nan")])
async def test_a_bound_has_to_be_one(channel: grpc.aio.Channel, bound: float):
    """For ever is no bound."""
    with pytest.raises(ValueError, match="max_age_seconds"):
        point(channel, max_age_seconds=bound)
