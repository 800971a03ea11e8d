"""The review room behind a real gRPC server, on real Postgres, with real worker processes."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import psycopg
import pytest
from tests.blobs import blobs_in
from tests.reviewroom import (
    ACCEPTED,
    CASE,
    GOOD,
    PENDING,
    REJECTED,
    RUN,
    Room,
    chunk,
    desks,
    header,
    room,
    serving,
)
from tests.unit.review.factories import FAMILY, a_round

from aegis.errors import AegisError, from_rpc_error
from aegis.serving.database import Database
from aegis.serving.pages import encode_token
from aegis.v1 import audit_pb2, review_pb2
from aegis_learning import parameters
from aegis_server.review.desks import Desks

__all__ = ["desks", "room"]

NAN = parameters.encode(
    {name: np.full(shape, np.nan, np.float32) for name, shape in FAMILY.shapes.items()}
)


async def test_update_is_taken_in_as_pending(room: Room):
    """What passes intake is stored, recorded and not yet judged."""
    update = await room.submit(GOOD)
    assert update.verdict == PENDING
    assert (update.run_id, update.round, update.attempt) == (RUN, 1, 1)
    assert update.sha256 == parameters.digest(GOOD)
    assert update.size_bytes == len(GOOD)
    assert not update.HasField("review_time")
    (record,) = await room.records()
    assert (record.kind, record.outcome) == (audit_pb2.AUDIT_KIND_REVIEW, "received")
    assert (record.actor, record.rule_id) == ("service:coordinator", "coordinator-submits-updates")
    assert record.subject_id == update.update_id
    assert record.details["sha256"] == parameters.digest(GOOD).hex()


async def test_taken_in_is_written_down_whether_its_participant_has_enrolled(room: Room):
    """A simulation's site has a participant's name at most."""
    assert room.runs.base is not None
    for enrolled, participant in ((True, "s1"), (False, "s2")):
        room.runs.base = replace(room.runs.base, enrolled=enrolled)
        await room.submit(GOOD, participant)
    async with room.database.transaction() as connection:
        cursor = await connection.execute("select participant, enrolled from aegis.review_update")
        assert dict(await cursor.fetchall()) == {"s1": True, "s2": False}


async def test_same_bytes_again_return_the_stored_update(room: Room):
    """A retry of a submission whose answer was lost changes nothing."""
    first = await room.submit(GOOD)
    assert await room.submit(GOOD) == first
    assert len(await room.records()) == 1


async def test_simultaneous_submissions_of_one_update_store_it_once(room: Room):
    """Retries that overlap find each other."""
    updates = await asyncio.gather(*(room.submit(GOOD) for _ in range(6)))
    assert len({update.update_id for update in updates}) == 1
    assert len(await room.records("received")) == 1


async def test_other_bytes_under_the_same_name_are_refused(room: Room):
    """A participant has one update in a round."""
    await room.submit(GOOD)
    with pytest.raises(AegisError) as refused:
        await room.submit(CASE.submissions[1].data)
    assert refused.value.reason == "REQUEST_ID_REUSED"


async def test_another_attempt_is_another_round(room: Room):
    """A coordinator that starts again sends again."""
    first = await room.submit(GOOD, attempt=1)
    second = await room.submit(GOOD, attempt=2)
    assert first.update_id != second.update_id


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(pickle.dumps({"w": [1.0]}), "UPDATE_FORMAT_INVALID", id="pickle"),
        pytest.param(parameters.encode({}), "UPDATE_SHAPE_MISMATCH", id="no tensor"),
        pytest.param(NAN, "UPDATE_NOT_FINITE", id="nan"),
    ],
)
async def test_what_is_no_update_of_the_model_is_refused(room: Room, data: bytes, reason: str):
    """Refused with its reason, recorded, and no byte of it kept."""
    before = room.stored_blobs()
    with pytest.raises(AegisError) as refused:
        await room.submit(data)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.reason == reason
    (record,) = await room.records()
    assert (record.outcome, record.reason) == ("refused", reason)
    assert record.details["participant"] == "s1"
    assert room.stored_blobs() == before
    assert not (await room.list()).updates


async def test_bytes_that_are_not_those_announced_are_refused(room: Room):
    """Size and digest are the sender's own words."""
    streams = {
        "other digest": [header(sha256=bytes(32)), chunk(GOOD)],
        "stream ends early": [header(), chunk(GOOD[:-1])],
        "no chunk at all": [header()],
        "more than announced": [header(), chunk(GOOD), chunk(b"x")],
    }
    refusals = {name: await room.refusal(*parts) for name, parts in streams.items()}
    assert refusals == dict.fromkeys(streams, "DIGEST_MISMATCH")
    assert [record.reason for record in await room.records()] == ["DIGEST_MISMATCH"] * 4
    assert not (await room.list()).updates


async def test_stream_out_of_form_is_refused(room: Room):
    """Header first, once, within its constraints; then chunks, none empty, none too large."""
    streams = {
        "nothing": [],
        "no header": [chunk(GOOD)],
        "second header": [header(), chunk(GOOD[:9]), header()],
        "empty chunk": [header(), chunk(b"")],
        "empty part": [header(), review_pb2.SubmitUpdateRequest()],
        "oversize chunk": [header(), chunk(bytes(65537))],
        "round zero": [header(round=0)],
        "participant with slashes": [header(participant="../etc")],
        "short digest": [header(sha256=b"short")],
    }
    for name, parts in streams.items():
        with pytest.raises(AegisError) as refused:
            await room.send(*parts)
        assert (name, refused.value.reason) == (name, "FIELD_INVALID")
        assert [violation.field.split(".")[0] for violation in refused.value.violations] == [
            "chunk" if name in ("empty chunk", "oversize chunk") else "header"
        ]
    assert not (await room.list()).updates


async def test_update_larger_than_its_model_is_refused_before_it_is_read(room: Room):
    """The announcement is enough: no chunk is waited for."""
    with pytest.raises(AegisError) as refused:
        await room.send(header(size_bytes=10_000_000))
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.reason == "REQUEST_TOO_LARGE"
    assert int(refused.value.metadata["limit_bytes"]) < 10_000
    assert [record.reason for record in await room.records()] == ["REQUEST_TOO_LARGE"]


async def test_limit_of_the_server_holds_for_large_models(
    database: Database, tmp_path: Path, desks: Desks
):
    """Whatever the model, no update is larger than the setting."""
    async with serving(database, tmp_path, desks, bytes_max=100) as room:
        with pytest.raises(AegisError) as refused:
            await room.submit(GOOD)
        assert refused.value.metadata["limit_bytes"] == "100"


async def test_update_for_an_unknown_run_is_refused(room: Room):
    """No run, no base, nothing to compare with."""
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, run_id="run-2")
    assert refused.value.reason == "RESOURCE_NOT_FOUND"
    assert [record.outcome for record in await room.records()] == ["refused"]


async def test_update_for_a_try_that_nobody_began_is_refused(room: Room):
    """Each name keeps other bytes, so a sender that makes names up would fill the store."""
    assert room.runs.base is not None
    room.runs.base = replace(room.runs.base, attempts=2)
    await room.submit(GOOD, by="participant:s1")
    stored = room.stored_blobs()
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, by="participant:s1", attempt=3)
    assert refused.value.reason == "RESOURCE_NOT_FOUND"
    assert room.stored_blobs() == stored


async def test_client_that_leaves_half_way_leaves_nothing_behind(room: Room):
    """A broken stream is neither an update nor a refusal."""

    async def half() -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        yield header()
        yield chunk(GOOD[:100])
        await asyncio.sleep(60)

    call = room.stub.SubmitUpdate(half(), timeout=0.3)
    with pytest.raises(grpc.RpcError):
        await call
    assert (await room.list()).updates == []
    assert await room.records() == []


async def test_round_is_judged_together(room: Room):
    """The attacker is rejected with critical findings, its peers are accepted."""
    await room.submit_round()
    updates = await room.review()
    assert [each.participant for each in updates] == ["s1", "s2", "s3", "s4", "s5"]
    assert [each.verdict for each in updates] == [
        REJECTED if each.participant == "s3" else ACCEPTED for each in updates
    ]
    rejected = updates[2]
    assert rejected.score >= 1
    assert rejected.findings[0].severity == review_pb2.Finding.SEVERITY_CRITICAL
    assert rejected.findings[0].value > rejected.findings[0].threshold
    assert {"golden-set", "length", "direction"} < {found.examiner for found in rejected.findings}
    assert rejected.HasField("review_time")


async def test_verdicts_are_recorded_with_the_findings_as_evidence(room: Room):
    """The record holds the exact findings the verdict rests on."""
    await room.submit_round()
    updates = await room.review()
    records = {r.subject_id: r for r in await room.records() if r.action == "judge"}
    assert len(records) == 5
    for update in updates:
        record = records[update.update_id]
        assert record.outcome == ("rejected" if update.verdict == REJECTED else "accepted")
        (evidence,) = record.evidence
        found = json.loads(evidence.content)
        assert [(f["measure"], f["value"]) for f in found] == [
            (f.measure, f.value) for f in update.findings
        ]
    assert records[updates[2].update_id].reason == "length/norm_z"


async def test_judging_again_returns_the_same_verdicts(room: Room):
    """A round is judged once."""
    await room.submit_round()
    first = await room.review()
    assert await room.review() == first
    assert sum(record.action == "judge" for record in await room.records()) == 5


async def test_simultaneous_judges_write_one_verdict(room: Room):
    """The row lock lets one write; all return what it wrote."""
    await room.submit_round()
    answers = await asyncio.gather(*(room.review() for _ in range(4)))
    assert all(answer == answers[0] for answer in answers)
    assert sum(record.action == "judge" for record in await room.records()) == 5


async def test_judged_round_takes_no_more_updates(room: Room):
    """A late update is refused; the same bytes again still return what is stored."""
    for submission in CASE.submissions[:4]:
        await room.submit(submission.data, submission.update_id)
    await room.review()
    with pytest.raises(AegisError) as refused:
        await room.submit(CASE.submissions[4].data, "s5")
    assert refused.value.reason == "STATE_CONFLICT"
    assert refused.value.metadata["state"] == "JUDGED"
    assert (await room.submit(GOOD)).verdict == ACCEPTED


async def test_run_that_has_ended_takes_no_more_updates(room: Room):
    """Nobody would ever judge them; what it took before is still found and still judged."""
    await room.submit_round()
    assert room.runs.base is not None
    room.runs.base = replace(room.runs.base, open=False)
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, "s6")
    assert (refused.value.reason, refused.value.metadata["state"]) == ("STATE_CONFLICT", "ENDED")
    assert (await room.submit(GOOD)).verdict == PENDING
    assert [u.verdict for u in await room.review()].count(ACCEPTED) == 4


async def test_round_without_updates_cannot_be_judged(room: Room):
    """There is no verdict about nothing."""
    with pytest.raises(AegisError) as refused:
        await room.review()
    assert refused.value.reason == "RESOURCE_NOT_FOUND"


CROWD = a_round(sites=12, **{f"s{n}": "sign-flip" for n in range(6, 13)})


async def test_crowd_that_was_not_asked_has_no_say_in_a_round(room: Room):
    """Five were drawn, and seven attackers of the run send by themselves: no quorum is lost."""
    assert room.runs.base is not None
    room.runs.base = replace(
        room.runs.base,
        params_sha256=await blobs_in(room.blobs).put(CROWD.base),
        examples={each.participant: each.examples for each in CROWD.submissions},
    )
    for each in CROWD.submissions:
        await room.submit(each.data, each.participant)
    drawn = [f"s{n}" for n in range(1, 6)]
    found = {each.participant: each for each in await room.review(1, *drawn)}
    assert {found[name].verdict for name in drawn} == {ACCEPTED}
    uninvited = [each for name, each in found.items() if name not in drawn]
    assert {each.verdict for each in uninvited} == {REJECTED}
    assert {each.findings[0].measure for each in uninvited} == {"not_asked"}
    records = await room.records("rejected")
    assert {each.subject_id for each in records} == {each.update_id for each in uninvited}
    again = await room.review(1)
    assert [each.verdict for each in again] == [each.verdict for each in found.values()]


async def test_round_of_nobody_who_was_asked_stays_open(room: Room):
    """What came unasked waits: in the next try its sender may be drawn."""
    await room.submit(GOOD)
    with pytest.raises(AegisError) as refused:
        await room.review(1, "s2")
    assert refused.value.reason == "RESOURCE_NOT_FOUND"
    assert (await room.submit(GOOD)).verdict == PENDING


async def test_judgement_that_broke_off_is_made_by_the_next_call(room: Room):
    """The round stays closed in between, so what is judged is what was there."""
    await room.submit_round()
    room.runs.base, base = None, room.runs.base
    with pytest.raises(AegisError):
        await room.review()
    room.runs.base = base
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, "s6")
    assert refused.value.metadata["state"] == "CLOSED"
    assert [u.verdict for u in await room.review()].count(ACCEPTED) == 4


async def test_judgement_survives_a_caller_that_leaves(room: Room, database_url: str):
    """The verdict is written even when nobody waits for it any more."""
    await room.submit_round()
    async with await psycopg.AsyncConnection.connect(database_url) as blocker:
        await blocker.execute("select 1 from aegis.review_round for update")
        request = review_pb2.ReviewRoundRequest(run_id=RUN, round=1, attempt=1)
        with pytest.raises(grpc.RpcError) as gone:
            # The lock above holds the handler until well after its caller gave up.
            await room.stub.ReviewRound(request, timeout=0.5)
        assert gone.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await room.deeds.drain()
    verdicts = [update.verdict for update in (await room.list()).updates]
    assert verdicts.count(ACCEPTED) == 4
    assert verdicts.count(REJECTED) == 1


async def test_damaged_update_is_never_judged(room: Room):
    """Bytes that changed on disk are an incident, not a verdict."""
    await room.submit_round()
    for path in room.blobs.rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(AegisError) as failed:
        await room.review()
    assert failed.value.reason == "DATA_DAMAGED"
    assert {update.verdict for update in (await room.list()).updates} == {PENDING}


async def test_one_update_is_shown_with_its_findings(room: Room):
    """GetUpdate returns what ReviewRound said."""
    await room.submit_round()
    updates = await room.review()
    request = review_pb2.GetUpdateRequest(update_id=updates[2].update_id)
    assert (await room.stub.GetUpdate(request, timeout=10)).update == updates[2]


async def test_unknown_update_is_not_found(room: Room):
    """An id nobody handed out."""
    with pytest.raises(grpc.RpcError) as missing:
        await room.stub.GetUpdate(review_pb2.GetUpdateRequest(update_id="upd-0"), timeout=10)
    assert from_rpc_error(missing.value).reason == "RESOURCE_NOT_FOUND"


async def test_pages_show_every_update_once_newest_first(room: Room):
    """Following the tokens gives the whole list."""
    await room.submit_round()
    found, token = [], ""
    while True:
        page = await room.list(page_size=2, page_token=token, run_id=RUN)
        found += [update.participant for update in page.updates]
        token = page.next_page_token
        if not token:
            break
    assert found == ["s5", "s4", "s3", "s2", "s1"]
    assert (await room.list(run_id="run-2")).updates == []


async def test_page_token_of_another_query_or_nobody_is_refused(room: Room):
    """A token continues the query that handed it out, no other; nobody else can make one."""
    await room.submit_round()
    token = (await room.list(page_size=2, run_id=RUN)).next_page_token
    for wrong in (token, "x", "AAAA", "bm90IGpzb24", encode_token("five", "updates", "")):
        with pytest.raises(AegisError) as refused:
            await room.list(page_size=2, page_token=wrong)
        assert refused.value.reason == "PAGE_TOKEN_INVALID"
