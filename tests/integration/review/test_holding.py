"""Held updates and overrides: who decides, until when, and that all of it is on record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from tests.reviewroom import (
    ACCEPTED,
    CASE,
    HELD,
    PENDING,
    REJECTED,
    RUN,
    Room,
    desks,
    named,
    serving,
)

from aegis.errors import AegisError, from_rpc_error
from aegis.serving.database import Database
from aegis.v1 import review_pb2
from aegis_policy.baseline import baseline_csv
from aegis_server.policy.revisions import Change, Revisions
from aegis_server.review.case import Case, Judgement, Ruling, Verdict
from aegis_server.review.desks import Desks
from aegis_server.review.holding.deadline import Deadline
from aegis_server.review.holding.terms import Terms
from aegis_server.review.isolation import Examining
from aegis_server.review.vetting import vet

__all__ = ["desks"]

Updates = dict[str, review_pb2.Update]


def holding_pairs(case: Case, *, begin: Callable[[str], None], without: frozenset[str]) -> Ruling:
    """The real verdicts, but that a round of two is held: each is the other's outlier."""
    ruling = vet(case, begin=begin, without=without)
    if len(case.submissions) != 2:
        return ruling
    return replace(
        ruling,
        judgements=tuple(replace(each, verdict=Verdict.HELD) for each in ruling.judgements),
    )


EXAMINING = Examining(holding_pairs, 60.0)


@pytest.fixture
async def room(database: Database, tmp_path: Path, desks: Desks) -> AsyncIterator[Room]:
    async with serving(database, tmp_path, desks, examining=EXAMINING) as served:
        yield served


async def judged(room: Room) -> Updates:
    """A round in which s3 was rejected and the others accepted."""
    await room.submit_round()
    return {each.participant: each for each in await room.review()}


async def held(room: Room) -> Updates:
    """A round of two, in which nobody can tell who the odd one is."""
    for submission in CASE.submissions[1:3]:
        await room.submit(submission.data, submission.update_id)
    return {each.participant: each for each in await room.review()}


def watching(room: Room, by: str = "") -> grpc.aio.UnaryStreamCall[object, object]:
    request = review_pb2.WatchRoundRequest(run_id=RUN, round=1, attempt=1)
    return room.stub.WatchRound(request, timeout=20, metadata=named(by))


async def watched(room: Room) -> AsyncIterator[review_pb2.WatchRoundResponse]:
    async for change in watching(room):
        assert isinstance(change, review_pb2.WatchRoundResponse)
        yield change


async def get(room: Room, update_id: str) -> review_pb2.Update:
    request = review_pb2.GetUpdateRequest(update_id=update_id)
    return (await room.stub.GetUpdate(request, timeout=10)).update


async def test_held_update_says_until_when_and_what_then(room: Room):
    """A day, then rejection, unless the settings say otherwise."""
    updates = await held(room)
    assert {each.verdict for each in updates.values()} == {HELD}
    for each in updates.values():
        waits = each.hold_until.ToDatetime(UTC) - each.review_time.ToDatetime(UTC)
        assert waits == timedelta(hours=24)
        assert each.hold_default == REJECTED


async def test_one_person_decides_about_a_held_update(room: Room):
    """With a reason, which stays with the update and in the log."""
    updates = await held(room)
    answer = await room.override(updates["s2"].update_id, ACCEPTED, "user:olga", "a small site")
    assert answer.update.verdict == ACCEPTED
    assert not answer.needs_second_person
    assert not answer.too_late_for_model
    (override,) = answer.update.overrides
    assert (getattr(override, "from"), override.to) == (HELD, ACCEPTED)
    assert (override.by, override.confirmed_by, override.reason) == (
        "user:olga",
        "",
        "a small site",
    )
    assert override.effective
    assert await get(room, answer.update.update_id) == answer.update
    (record,) = [each for each in await room.records("accepted") if each.action == "override"]
    assert (record.actor, record.rule_id) == ("user:olga", "operator-overrides-verdicts")
    assert record.details["reason"] == "a small site"
    assert (record.details["from"], record.details["to"]) == ("held", "accepted")


async def test_who_sent_a_held_update_does_not_accept_it_alone(room: Room):
    """Or one operator could send in a site's name what nobody but that operator looks at."""
    for submission in CASE.submissions[1:3]:
        await room.submit(submission.data, submission.update_id, by="user:olga")
    update_id = (await room.review())[0].update_id
    own = await room.override(update_id, ACCEPTED, "user:olga")
    assert (own.update.verdict, own.needs_second_person) == (HELD, True)
    with pytest.raises(AegisError) as refused:
        await room.override(update_id, ACCEPTED, "user:olga")
    assert refused.value.reason == "SECOND_PERSON_NEEDED"
    other = await room.override(update_id, ACCEPTED, "user:otto")
    assert (other.update.verdict, other.needs_second_person) == (ACCEPTED, False)


async def test_proposal_falls_at_the_deadline(room: Room):
    """What the second person would confirm was said about a verdict that is no more."""
    for submission in CASE.submissions[1:3]:
        await room.submit(submission.data, submission.update_id, by="user:olga")
    update_id = (await room.review())[0].update_id
    await room.override(update_id, ACCEPTED, "user:olga")
    later = datetime.now(UTC) + timedelta(days=2)
    await Deadline(database=room.database, audit=room.making.audit, clock=lambda: later).decide()
    late = await room.override(update_id, ACCEPTED, "user:otto")
    assert (late.update.verdict, late.needs_second_person) == (REJECTED, True)
    assert [(each.by, each.effective) for each in late.update.overrides] == [
        ("", True),
        ("user:otto", False),
    ]


async def test_one_person_rejects_what_was_accepted(room: Room):
    """The careful way needs nobody else."""
    updates = await judged(room)
    answer = await room.override(updates["s1"].update_id, REJECTED, "user:olga")
    assert (answer.update.verdict, answer.needs_second_person) == (REJECTED, False)


async def test_two_persons_accept_what_was_rejected(room: Room):
    """The first proposes, the second does it; until then the verdict stands."""
    update_id = (await judged(room))["s3"].update_id
    first = await room.override(update_id, ACCEPTED, "user:olga", "it is our test site")
    assert (first.update.verdict, first.needs_second_person) == (REJECTED, True)
    assert not first.update.overrides[0].effective
    with pytest.raises(AegisError) as refused:
        await room.override(update_id, ACCEPTED, "user:olga", "really")
    assert refused.value.reason == "SECOND_PERSON_NEEDED"
    assert refused.value.metadata["first"] == "user:olga"
    second = await room.override(update_id, ACCEPTED, "user:otto", "I know that site")
    assert (second.update.verdict, second.needs_second_person) == (ACCEPTED, False)
    (override,) = second.update.overrides
    assert (override.by, override.confirmed_by, override.effective) == (
        "user:olga",
        "user:otto",
        True,
    )
    outcomes = [r.outcome for r in await room.records() if r.action == "override"]
    assert outcomes == ["proposed", "accepted"]


@pytest.mark.parametrize("first", ["service:nightly", "automation:autopilot"])
async def test_program_is_no_person_however_much_its_rules_let_it(room: Room, first: str):
    """Neither the first nor the second: its owner would be both."""
    update_id = (await judged(room))["s3"].update_id
    with pytest.raises(AegisError) as refused:
        await room.override(update_id, ACCEPTED, first)
    assert (refused.value.reason, refused.value.metadata["first"]) == ("SECOND_PERSON_NEEDED", "")
    assert not (await get(room, update_id)).overrides
    await room.override(update_id, ACCEPTED, "user:olga")
    with pytest.raises(AegisError) as refused:
        await room.override(update_id, ACCEPTED, first)
    assert refused.value.metadata["first"] == "user:olga"
    assert (await get(room, update_id)).verdict == REJECTED


async def test_program_may_decide_what_needs_no_second_person(room: Room):
    """Its rules let it."""
    update_id = (await judged(room))["s1"].update_id
    answer = await room.override(update_id, REJECTED, "service:nightly")
    assert (answer.update.verdict, answer.needs_second_person) == (REJECTED, False)


async def test_two_persons_at_once_decide_once(room: Room):
    """The row lock makes one the first and the other the second, whoever that is."""
    update_id = (await judged(room))["s3"].update_id
    answers = await asyncio.gather(
        room.override(update_id, ACCEPTED, "user:olga"),
        room.override(update_id, ACCEPTED, "user:otto"),
    )
    assert sorted(answer.needs_second_person for answer in answers) == [False, True]
    assert len((await get(room, update_id)).overrides) == 1


@pytest.mark.parametrize(
    ("participant", "to"), [("s3", REJECTED), ("s1", ACCEPTED)], ids=["rejected", "accepted"]
)
async def test_what_is_so_already_is_not_decided_again(
    room: Room, participant: str, to: review_pb2.Update.Verdict.ValueType
):
    """Somebody else was quicker, or nothing is to do."""
    updates = await judged(room)
    with pytest.raises(AegisError) as refused:
        await room.override(updates[participant].update_id, to, "user:olga")
    assert refused.value.reason == "STATE_CONFLICT"


async def test_pending_update_is_not_overridden(room: Room):
    """There is nothing to decide otherwise than."""
    update = await room.submit(CASE.submissions[0].data)
    assert update.verdict == PENDING
    with pytest.raises(AegisError) as refused:
        await room.override(update.update_id, ACCEPTED, "user:olga")
    assert (refused.value.reason, refused.value.metadata["state"]) == ("STATE_CONFLICT", "PENDING")


async def test_override_without_a_reason_is_refused(room: Room):
    """Spaces are none."""
    updates = await held(room)
    for reason in ("", "   "):
        with pytest.raises(AegisError) as refused:
            await room.override(updates["s2"].update_id, ACCEPTED, "user:olga", reason)
        assert refused.value.reason == "FIELD_INVALID"


async def test_unknown_update_is_not_overridden(room: Room):
    """An id nobody handed out."""
    with pytest.raises(AegisError) as refused:
        await room.override("upd-0", ACCEPTED, "user:olga")
    assert refused.value.reason == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize("who", ["user:vera", "participant:s2", "service:coordinator"])
async def test_only_who_may_override_does(room: Room, who: str):
    """Neither a viewer, nor the sender, nor the program that trains."""
    updates = await held(room)
    with pytest.raises(AegisError) as refused:
        await room.override(updates["s2"].update_id, ACCEPTED, who)
    assert refused.value.reason == "POLICY_DENIED"
    assert (await get(room, updates["s2"].update_id)).verdict == HELD


async def test_policy_sees_from_which_verdict_to_which(room: Room):
    """A rule may leave the rejected ones to nobody; the newest rules are asked."""
    updates = await judged(room)
    rule = (
        "p, role:operator, *, /review/updates, override, ctx.from == 'rejected', deny,"
        " rejected-stays-rejected\n"
    )
    making = room.making
    await Revisions(
        room.database, audit=making.audit, decisions=making.decisions, clock=making.clock
    ).import_rules(Change(baseline_csv() + rule, "user:admin", "a test"))
    with pytest.raises(AegisError) as refused:
        await room.override(updates["s3"].update_id, ACCEPTED, "user:olga")
    assert refused.value.metadata["rule_id"] == "rejected-stays-rejected"
    await room.override(updates["s1"].update_id, REJECTED, "user:olga")


async def test_override_after_the_model_was_made_says_so(room: Room):
    """The record changes, the model does not."""
    updates = await held(room)
    assert room.runs.base is not None
    room.runs.base = replace(room.runs.base, made=True)
    answer = await room.override(updates["s2"].update_id, REJECTED, "user:olga")
    assert answer.too_late_for_model


@pytest.mark.parametrize("default", [Verdict.REJECTED, Verdict.ACCEPTED])
async def test_deadline_decides_what_nobody_did(
    database: Database, tmp_path: Path, desks: Desks, default: Verdict
):
    """As the settings said when it was held; recorded as decided by the deadline."""
    terms = Terms(seconds=3600, default=default)
    async with serving(database, tmp_path, desks, terms=terms, examining=EXAMINING) as room:
        updates = await held(room)
        await room.override(updates["s3"].update_id, REJECTED, "user:olga")
        assert await room.making.deadline().decide() == 0

        def later() -> datetime:
            return datetime.now(UTC) + timedelta(minutes=61)

        deadline = Deadline(database=database, audit=room.making.audit, clock=later)
        assert await deadline.decide() == 1
        assert await deadline.decide() == 0
        update = await get(room, updates["s2"].update_id)
        assert update.verdict == (ACCEPTED if default is Verdict.ACCEPTED else REJECTED)
        (override,) = update.overrides
        assert (override.by, override.effective) == ("", True)
        assert "deadline" in override.reason
        (record,) = [r for r in await room.records() if r.actor == "server:aegis"]
        assert (record.action, record.outcome) == ("override", default.value)
        assert record.subject_id == update.update_id


def holding_all(case: Case, *, begin: Callable[[str], None], without: frozenset[str]) -> Ruling:
    """No quorum: s3 would have been rejected, of s2 an examiner saw nothing."""
    scores = {"s2": 0.0, "s3": 1.7}
    return Ruling(
        tuple(
            Judgement(each.update_id, Verdict.HELD, scores[each.participant], ())
            for each in case.submissions
        )
    )


async def test_deadline_accepts_nothing_that_would_have_been_rejected(
    database: Database, tmp_path: Path, desks: Desks
):
    """Or it would be enough to take the quorum from a round and wait."""
    terms, examining = Terms(3600, Verdict.ACCEPTED), Examining(holding_all, 60.0)
    async with serving(database, tmp_path, desks, terms=terms, examining=examining) as room:
        updates = await held(room)
        assert updates["s2"].hold_default == ACCEPTED
        assert updates["s3"].hold_default == REJECTED
        later = datetime.now(UTC) + timedelta(minutes=61)
        deadline = Deadline(database=database, audit=room.making.audit, clock=lambda: later)
        assert await deadline.decide() == 2
        assert (await get(room, updates["s2"].update_id)).verdict == ACCEPTED
        assert (await get(room, updates["s3"].update_id)).verdict == REJECTED


async def test_two_servers_at_the_deadline_decide_once(room: Room):
    """The row locks let one of them."""

    def later() -> datetime:
        return datetime.now(UTC) + timedelta(days=2)

    await held(room)
    both = [
        Deadline(database=room.database, audit=room.making.audit, clock=later) for _ in range(2)
    ]
    assert sum(await asyncio.gather(*(each.decide() for each in both))) == 2
    assert len([r for r in await room.records() if r.action == "override"]) == 2


async def test_round_is_watched_until_nothing_is_held(room: Room):
    """As it stands, after every change, and no longer."""
    updates = await held(room)
    seen = []
    async for change in watched(room):
        verdicts = {each.participant: each.verdict for each in change.updates}
        seen.append((verdicts["s2"], verdicts["s3"]))
        assert change.review.run_id == RUN
        if len(seen) == 1:
            await room.override(updates["s2"].update_id, ACCEPTED, "user:olga")
        elif len(seen) == 2:
            await room.override(updates["s3"].update_id, REJECTED, "user:otto")
    assert seen == [(HELD, HELD), (ACCEPTED, HELD), (ACCEPTED, REJECTED)]


async def test_round_in_which_nothing_is_held_is_shown_once(room: Room):
    """There is nothing to wait for."""
    await judged(room)
    assert len([change async for change in watched(room)]) == 1


async def test_round_that_is_not_judged_is_not_watched(room: Room):
    """There is nothing to see."""
    await room.submit_round()
    with pytest.raises(grpc.RpcError) as refused:
        async for _ in watched(room):
            pass
    assert from_rpc_error(refused.value).reason == "RESOURCE_NOT_FOUND"


async def test_participant_does_not_watch(room: Room):
    """It would see everybody's figures."""
    await judged(room)
    with pytest.raises(grpc.RpcError) as refused:
        async for _ in watching(room, by="participant:s1"):
            pass
    assert from_rpc_error(refused.value).reason == "POLICY_DENIED"
