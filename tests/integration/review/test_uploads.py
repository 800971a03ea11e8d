"""Uploads that break off, flood, pretend and lie, on real Postgres behind the real doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from tests.reviewroom import (
    ACCEPTED,
    CASE,
    GOOD,
    RUN,
    Room,
    chunk,
    desks,
    header,
    named,
    room,
    serving,
)

from aegis.errors import AegisError, from_rpc_error
from aegis.serving.database import Database
from aegis.v1 import review_pb2
from aegis_learning import parameters
from aegis_server.review.desks import Desks
from aegis_server.review.standing import store as standing_store
from aegis_server.review.uploads.uploads import PART_BYTES, Uploads

__all__ = ["desks", "room"]

# Just above one part, so that it goes through Postgres.
WIDE = "mlp-9000"
CHUNK = 64 * 1024


@pytest.fixture
def large(room: Room) -> bytes:
    """An update of a model that is larger than a part; the room's run is about that model."""
    assert room.runs.base is not None
    room.runs.base = replace(room.runs.base, model=WIDE)
    data = parameters.encode(room.runs.base.family.initial(3))
    assert len(data) > PART_BYTES
    return data


def header_of(data: bytes, **fields: object) -> review_pb2.SubmitUpdateRequest:
    values = {"sha256": parameters.digest(data), "size_bytes": len(data)} | fields
    return header(**values)


def chunks(data: bytes) -> list[review_pb2.SubmitUpdateRequest]:
    return [chunk(data[start : start + CHUNK]) for start in range(0, len(data), CHUNK)]


async def break_off(room: Room, data: bytes, after: int) -> None:
    """Sends the first bytes of an update and goes away."""

    async def half() -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        yield header_of(data)
        for part in chunks(data[:after]):
            yield part
        await asyncio.sleep(60)

    call = room.stub.SubmitUpdate(half(), timeout=60)
    waiting = asyncio.ensure_future(call)
    while len(data) > PART_BYTES and await received(room, data) < PART_BYTES:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    call.cancel()
    await asyncio.wait([waiting])
    await asyncio.sleep(0.2)
    await room.deeds.drain()


async def received(room: Room, data: bytes) -> int:
    request = review_pb2.GetUploadRequest(header=header_of(data).header)
    return (await room.stub.GetUpload(request, timeout=10)).received_bytes


async def quarantine(room: Room, name: str, state: str) -> None:
    """A quarantine of a participant, that somebody decided about unless it is proposed."""
    now = datetime.now(UTC)
    async with room.database.transaction() as connection:
        await standing_store.insert_quarantine(
            connection,
            quarantine_id=f"qua-{name}",
            participant=name,
            cause="reputation",
            reason="all of it was rejected",
            update_ids=[],
            now=now,
        )
        if state != "proposed":
            await standing_store.decide_quarantine(
                connection, f"qua-{name}", state=state, by="user:olga", reason="seen", now=now
            )


async def parts_stored(database: Database) -> int:
    async with database.transaction() as connection:
        cursor = await connection.execute("select count(*) from aegis.review_upload_part")
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def test_upload_goes_on_where_it_broke_off(room: Room, large: bytes):
    """What was sent is asked for, not sent again; the digest is checked over the whole."""
    await break_off(room, large, 17 * CHUNK)
    stored = await received(room, large)
    assert stored == 17 * CHUNK
    update = await room.send(header_of(large, offset=stored), *chunks(large[stored:]))
    assert update.sha256 == parameters.digest(large)
    assert await parts_stored(room.database) == 0
    assert await received(room, large) == 0


async def test_upload_that_goes_on_with_other_bytes_is_refused(room: Room, large: bytes):
    """The whole has to be what was announced, however many streams it came in; nothing stays."""
    await break_off(room, large, 17 * CHUNK)
    with pytest.raises(AegisError) as refused:
        await room.send(
            header_of(large, offset=17 * CHUNK), *chunks(bytes(len(large) - 17 * CHUNK))
        )
    assert refused.value.reason == "DIGEST_MISMATCH"
    assert await parts_stored(room.database) == 0


@pytest.mark.parametrize("offset", [1, 16 * CHUNK, 18 * CHUNK])
async def test_upload_that_goes_on_elsewhere_is_refused(room: Room, large: bytes, offset: int):
    """A gap or an overlap would make other bytes of it; what is here stays."""
    await break_off(room, large, 17 * CHUNK)
    with pytest.raises(AegisError) as refused:
        await room.send(header_of(large, offset=offset), *chunks(large[offset:]))
    assert refused.value.reason == "FIELD_INVALID"
    assert refused.value.violations[0].field == "header.offset"
    assert await received(room, large) == 17 * CHUNK


async def test_upload_that_begins_anew_forgets_the_first_try(room: Room, large: bytes):
    """A sender that lost its place sends all of it."""
    await break_off(room, large, 17 * CHUNK)
    assert (await room.submit(large, chunk=CHUNK)).size_bytes == len(large)
    assert await parts_stored(room.database) == 0


async def test_large_stream_that_ends_early_is_refused_and_can_go_on(room: Room, large: bytes):
    """Truncated is not what was announced; what came need not come again."""
    with pytest.raises(AegisError) as refused:
        await room.send(header_of(large), *chunks(large[: 17 * CHUNK]))
    assert refused.value.reason == "DIGEST_MISMATCH"
    assert await received(room, large) == 17 * CHUNK
    await room.send(header_of(large, offset=17 * CHUNK), *chunks(large[17 * CHUNK :]))


async def test_small_upload_is_never_kept(room: Room):
    """What fits into one part is sent again; the database does not hear of it."""
    await break_off(room, GOOD, 100)
    assert await received(room, GOOD) == 0
    assert await parts_stored(room.database) == 0
    with pytest.raises(AegisError) as refused:
        await room.send(header(offset=100), chunk(GOOD[100:]))
    assert refused.value.reason == "FIELD_INVALID"


async def test_two_streams_of_one_upload_do_not_mix(room: Room, large: bytes):
    """The newer one wins or both are whole, but never are there bytes of two in one update."""
    outcomes = await asyncio.gather(
        *(room.submit(large, chunk=CHUNK) for _ in range(3)), return_exceptions=True
    )
    stored = [each for each in outcomes if isinstance(each, review_pb2.Update)]
    assert stored
    assert {each.sha256 for each in stored} == {parameters.digest(large)}
    assert {e.reason for e in outcomes if isinstance(e, AegisError)} <= {
        "FIELD_INVALID",
        "DIGEST_MISMATCH",
    }
    assert len((await room.list()).updates) == 1


async def test_unfinished_uploads_of_one_participant_are_bounded(room: Room, large: bytes):
    """Nobody fills the database with beginnings."""
    for attempt in range(1, 5):
        first = review_pb2.SubmitUpdateRequest(header=header_of(large, attempt=attempt).header)

        async def half(
            first: review_pb2.SubmitUpdateRequest = first,
        ) -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
            yield first
            for part in chunks(large[: 17 * CHUNK]):
                yield part
            await asyncio.sleep(60)

        with pytest.raises(grpc.RpcError):
            await room.stub.SubmitUpdate(half(), timeout=1.5)
    await room.deeds.drain()
    with pytest.raises(AegisError) as refused:
        await room.submit(large, chunk=CHUNK, attempt=5)
    assert refused.value.reason == "UPLOADS_TOO_MANY"
    other = parameters.encode(parameters.scale(parameters.decode(large, shapes(room)), 0.5))
    assert (await room.submit(other, "s2", chunk=CHUNK)).participant == "s2"


def shapes(room: Room) -> parameters.Shapes:
    assert room.runs.base is not None
    return room.runs.base.family.shapes


async def test_upload_nobody_goes_on_with_is_forgotten_after_an_hour(room: Room, large: bytes):
    """Beginnings do not pile up."""
    await break_off(room, large, 17 * CHUNK)

    def later() -> datetime:
        return datetime.now(UTC) + timedelta(minutes=61)

    uploads = Uploads(room.database, room.deeds, clock=later)
    assert await uploads.forget_old() == 1
    assert await parts_stored(room.database) == 0
    assert await received(room, large) == 0


async def test_header_that_claims_10_gb_is_refused_before_a_byte_is_read(room: Room):
    """The answer comes although no chunk ever does, and nothing is kept."""

    async def endless() -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        yield header(size_bytes=10_000_000_000)
        await asyncio.sleep(60)

    with pytest.raises(grpc.RpcError) as refused:
        await room.stub.SubmitUpdate(endless(), timeout=10)
    assert from_rpc_error(refused.value).reason == "REQUEST_TOO_LARGE"
    assert await parts_stored(room.database) == 0


async def test_update_that_starts_from_another_model_is_refused(room: Room):
    """The sender says what it starts from, and is told what the round does."""
    assert room.runs.base is not None
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, base_sha256=bytes(32))
    assert refused.value.reason == "UPDATE_BASE_MISMATCH"
    assert refused.value.metadata["expected"] == room.runs.base.params_sha256.hex()
    await room.submit(GOOD, base_sha256=room.runs.base.params_sha256)


async def test_update_for_a_round_whose_model_is_made_is_refused(room: Room):
    """Nobody would ever judge it."""
    assert room.runs.base is not None
    room.runs.base = replace(room.runs.base, made=True)
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD)
    assert (refused.value.reason, refused.value.metadata["state"]) == ("STATE_CONFLICT", "MADE")


async def test_update_of_who_takes_no_part_is_refused(room: Room):
    """Whoever brings it: it has no weight in the round."""
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, "s7")
    assert refused.value.reason == "PARTICIPANT_UNKNOWN"
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, "s7", by="participant:s7")
    assert refused.value.reason == "PARTICIPANT_UNKNOWN"


async def test_participant_submits_its_own_update(room: Room):
    """From outside of Flower, before the round is judged; it is judged with the others."""
    own = await room.submit(GOOD, by="participant:s1")
    assert own.participant == "s1"
    for submission in CASE.submissions[1:]:
        await room.submit(submission.data, submission.update_id)
    judged = {each.participant: each for each in await room.review()}
    assert judged["s1"].update_id == own.update_id
    assert judged["s1"].verdict == ACCEPTED
    (record, *_) = await room.records("received")
    assert (record.actor, record.rule_id) == ("participant:s1", "participant-submits-own-updates")


async def test_participant_submits_nothing_for_another(room: Room):
    """It would take the other's place in the round."""
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, "s2", by="participant:s1")
    assert refused.value.reason == "POLICY_DENIED"
    request = review_pb2.GetUploadRequest(header=header(participant="s2").header)
    with pytest.raises(grpc.RpcError) as unseen:
        await room.stub.GetUpload(request, timeout=10, metadata=named("participant:s1"))
    assert from_rpc_error(unseen.value).reason == "POLICY_DENIED"


async def test_viewer_submits_nothing(room: Room):
    """Without "submit" there is no way in; the refusal is on record."""
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, by="user:vera")
    assert refused.value.reason == "POLICY_DENIED"
    (record,) = await room.records("refused")
    assert (record.actor, record.reason) == ("user:vera", "POLICY_DENIED")


async def test_participant_in_quarantine_cannot_submit_for_itself(room: Room):
    """Somebody locked it out; on record, and others, who answer for what they send, still may."""
    await quarantine(room, "s1", "in_force")
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, by="participant:s1")
    error = refused.value
    assert (error.reason, error.metadata["state"]) == ("STATE_CONFLICT", "QUARANTINED")
    (record,) = await room.records("refused")
    assert (record.actor, record.reason) == ("participant:s1", "STATE_CONFLICT")
    assert (await room.submit(GOOD)).participant == "s1"


async def test_participant_whose_quarantine_is_only_proposed_or_was_lifted_submits(room: Room):
    """Nobody has decided against it, or somebody has for it."""
    await quarantine(room, "s1", "proposed")
    await quarantine(room, "s2", "lifted")
    for name in ("s1", "s2"):
        assert (await room.submit(GOOD, name, by=f"participant:{name}")).participant == name


async def test_participant_is_no_site_of_a_simulation(room: Room):
    """It may have the name of one, and sends nothing in its place."""
    assert room.runs.base is not None
    room.runs.base = replace(room.runs.base, enrolled=False)
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, by="participant:s1")
    assert refused.value.reason == "PARTICIPANT_UNKNOWN"
    assert (await room.submit(GOOD)).participant == "s1"


async def test_participant_learns_no_figure_of_its_own_update(room: Room):
    """It may ask what became of its update by sending it again, and how often it likes."""
    await room.submit_round()
    judged = {each.participant: each for each in await room.review()}
    attack = CASE.submissions[2].data
    shown = await room.submit(attack, "s3", by="participant:s3")
    assert shown.verdict == judged["s3"].verdict
    assert judged["s3"].score > 1
    assert (shown.score, list(shown.would_change), shown.false_positive_rate) == (0, [], 0)
    (finding,) = shown.findings
    assert finding.examiner == judged["s3"].findings[0].examiner
    assert finding == review_pb2.Finding(examiner=finding.examiner)


async def test_participant_has_two_uploads_at_once(room: Room):
    """The third waits, and nobody else does."""
    going = asyncio.Event()

    async def slow(attempt: int) -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        yield header(attempt=attempt)
        yield chunk(GOOD[:100])
        await going.wait()
        yield chunk(GOOD[100:])

    as_s1 = named("participant:s1")
    calls = [room.stub.SubmitUpdate(slow(n), timeout=20, metadata=as_s1) for n in (1, 2)]
    started = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0.5)
    with pytest.raises(AegisError) as refused:
        await room.submit(GOOD, attempt=3, by="participant:s1")
    assert refused.value.reason == "UPLOADS_TOO_MANY"
    assert refused.value.retry_seconds == 1
    await room.submit(GOOD, attempt=3)
    await room.submit(CASE.submissions[1].data, "s2", by="participant:s2")
    going.set()
    assert {(await each).update.participant for each in started} == {"s1"}


async def test_participant_that_floods_is_slowed_down_alone(
    database: Database, tmp_path: Path, desks: Desks
):
    """Of its own updates only, and while the counter is away nobody is."""

    async def rate(of: str) -> float:
        return 7.0 if of == "s1" else 0.0

    async with serving(database, tmp_path, desks, rate=rate) as room:
        with pytest.raises(AegisError) as refused:
            await room.submit(GOOD, by="participant:s1")
        assert refused.value.reason == "UPLOADS_TOO_MANY"
        assert refused.value.retry_seconds == 7
        await room.submit(CASE.submissions[1].data, "s2", by="participant:s2")
        await room.submit(GOOD, "s1")


async def test_update_is_downloaded_as_it_was_sent(room: Room):
    """Byte by byte; a participant may not."""
    update = await room.submit(GOOD)
    request = review_pb2.DownloadUpdateRequest(update_id=update.update_id)
    parts = [part.chunk async for part in room.stub.DownloadUpdate(request, timeout=10)]
    assert b"".join(parts) == GOOD
    with pytest.raises(grpc.RpcError) as refused:
        async for _ in room.stub.DownloadUpdate(
            request, timeout=10, metadata=named("participant:s1")
        ):
            pass
    assert from_rpc_error(refused.value).reason == "POLICY_DENIED"


async def test_update_waits_for_whichever_try_of_its_round_is_judged(room: Room):
    """Who sends from outside cannot know how often the coordinator began the round."""
    own = await room.submit(GOOD, by="participant:s1")
    for submission in CASE.submissions[1:]:
        await room.submit(submission.data, submission.update_id, attempt=3)
    judged = {each.participant: each for each in await room.review(3)}
    assert judged["s1"].update_id == own.update_id
    assert judged["s1"].verdict == ACCEPTED
    again = await room.submit(GOOD, by="participant:s1")
    assert (again.update_id, again.attempt) == (own.update_id, 3)


async def test_update_of_this_try_stands_before_one_of_an_earlier(room: Room):
    """A participant has one update in a round."""
    await room.submit(CASE.submissions[1].data, "s1", by="participant:s1")
    for submission in CASE.submissions:
        await room.submit(submission.data, submission.update_id, attempt=2)
    judged = {each.participant: each for each in await room.review(2)}
    assert judged["s1"].sha256 == parameters.digest(GOOD)
    assert len(judged) == 5


async def test_updates_are_listed_by_participant_and_verdict(room: Room):
    """A page token goes on with the query that made it."""
    await room.submit_round()
    await room.review()
    assert [u.participant for u in (await room.list(participant="s2")).updates] == ["s2"]
    rejected = await room.list(verdict=review_pb2.Update.VERDICT_REJECTED, run_id=RUN)
    assert [u.participant for u in rejected.updates] == ["s3"]
    token = (await room.list(verdict=ACCEPTED, page_size=2)).next_page_token
    with pytest.raises(AegisError):
        await room.list(page_size=2, page_token=token)
    assert len((await room.list(verdict=ACCEPTED, page_size=2, page_token=token)).updates) == 2
