"""AuditService on real Postgres: what was recorded can be found, followed, proven and erased."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from tests.auditing import START, Written, chained, entry

from aegis.audit import checkpoints, merkle
from aegis.errors import AegisError
from aegis.serving import doors
from aegis.serving.auditlog.service import AuditService
from aegis.serving.database import Database
from aegis.serving.doors import Call, Grant
from aegis.spiffe import Caller
from aegis.v1 import audit_pb2 as pb

# As clients of `aegis.channel.connect` take them.
MESSAGE_BYTES = 4 * 1024 * 1024
RECORDS = 120


@pytest.fixture
def log(database: Database) -> Written:
    return Written(database)


@pytest.fixture
def service(log: Written) -> AuditService:
    return AuditService(log.audit, log.kept)


@pytest.fixture
def as_admin() -> Iterator[None]:
    caller = Caller("user:admin", "spiffe://aegis.local/user/admin")
    token = doors._current.set(Call("/erase", caller, Grant(3, "admin-may-everything")))
    yield
    doors._current.reset(token)


async def listed(service: AuditService, **wanted: object) -> list[int]:
    filters = pb.AuditFilter(
        **{
            name: wanted.pop(name)
            for name in list(wanted)
            if name in pb.AuditFilter.DESCRIPTOR.fields_by_name
        }
    )
    request = pb.ListAuditRecordsRequest(filter=filters, **wanted)  # type: ignore[arg-type]
    return [record.index for record in (await service.ListAuditRecords(request, None)).records]


async def refusal(call: object) -> AegisError:
    with pytest.raises(AegisError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_large_records_come_in_messages_a_client_takes(log: Written, service: AuditService):
    """One asker's large evidence does not make the log unreadable, nor lose a record."""
    large = {
        "evidence": {"findings": bytes(24 * 1024)},
        "attachments": {"request": bytes(24 * 1024)},
    }
    await log.write(*[entry(**large)] * RECORDS)
    stored = []
    async for batch in service.ExportAuditRecords(pb.ExportAuditRecordsRequest(), None):
        assert batch.ByteSize() < MESSAGE_BYTES
        stored += batch.records
    assert chained(stored) == RECORDS
    seen, token = [], ""
    while not seen or token:
        page = await service.ListAuditRecords(
            pb.ListAuditRecordsRequest(page_size=1000, page_token=token), None
        )
        assert page.ByteSize() < MESSAGE_BYTES
        seen += [record.index for record in page.records]
        token = page.next_page_token
    assert seen == list(range(RECORDS))[::-1]


async def test_records_are_found_by_what_they_say(log: Written, service: AuditService):
    """By who, what, where, how it ended, when, and any of these together."""
    await log.write(entry(), entry("deny", actor="user:bob"))
    log.clock.move(minutes=5)
    await log.write(
        entry(action="start", resource="/training/runs"),
        entry(action="start", resource="/training/runs/7", subject_id="run-7"),
        entry(action="start", resource="/training/runsaway"),
    )
    assert await listed(service, actor="user:bob") == [1]
    assert await listed(service, action="start") == [4, 3, 2]
    assert await listed(service, resource="/training/runs") == [3, 2]
    assert await listed(service, resource="/training/runs/") == [3, 2]
    assert await listed(service, resource="/") == [4, 3, 2, 1, 0]
    assert await listed(service, outcome="deny") == [1]
    assert await listed(service, outcome="deny", action="start") == []
    assert await listed(service, subject_id="run-7") == [3]
    assert await listed(service, start_time=START + timedelta(minutes=5)) == [4, 3, 2]
    assert await listed(service, end_time=START + timedelta(minutes=5)) == [1, 0]


@pytest.mark.parametrize("name", ["'; drop table aegis.audit_record; --", "%", "a\nb", "\0", "\\"])
async def test_hostile_name_is_just_a_name(log: Written, service: AuditService, name: str):
    """It is recorded, found again as it is, and matches nothing else."""
    await log.write(entry(), entry(actor=name, resource=f"/x/{name}", subject_id=name))
    assert await listed(service, actor=name) == [1]
    assert await listed(service, resource=f"/x/{name}") == [1]
    assert await listed(service, subject_id=name) == [1]


async def test_page_token_of_another_query_is_refused(log: Written, service: AuditService):
    """Also one of the same query with another filter."""
    await log.write(*[entry()] * 3)
    first = pb.ListAuditRecordsRequest(page_size=1, filter=pb.AuditFilter(outcome="allow"))
    token = (await service.ListAuditRecords(first, None)).next_page_token
    other = pb.ListAuditRecordsRequest(
        page_size=1, page_token=token, filter=pb.AuditFilter(outcome="deny")
    )
    assert (await refusal(service.ListAuditRecords(other, None))).reason == "PAGE_TOKEN_INVALID"


async def test_time_that_is_none_is_refused(service: AuditService):
    """A filter is checked like every field."""
    request = pb.ListAuditRecordsRequest()
    request.filter.start_time.seconds = 2**62
    assert (await refusal(service.ListAuditRecords(request, None))).reason == "FIELD_INVALID"


async def test_every_record_is_proven_from_the_database(log: Written, service: AuditService):
    """Proofs made of stored subtrees lead to the roots of the definition."""
    await log.write(*(entry(subject_id=str(number)) for number in range(67)))
    leaves = [each.leaf_hash for each in await log.stored()]
    for size in (1, 2, 31, 32, 33, 64, 67):
        root = merkle.root_of(leaves[:size])
        for index in (0, size // 2, size - 1):
            request = pb.GetInclusionProofRequest(index=index, tree_size=size)
            proof = await service.GetInclusionProof(request, None)
            found = merkle.root_from_inclusion(index, size, leaves[index], proof.hashes)
            assert found == root == proof.root_hash
        request = pb.GetConsistencyProofRequest(from_size=size)
        answer = await service.GetConsistencyProof(request, None)
        found = merkle.roots_from_consistency(size, 67, root, answer.hashes)
        assert (
            found == (root, merkle.root_of(leaves)) == (answer.from_root_hash, answer.to_root_hash)
        )


async def test_what_is_not_there_is_out_of_range(log: Written, service: AuditService):
    """The refusal says how large the log is."""
    await log.write(entry(), entry())
    for call in (
        service.GetAuditRecord(pb.GetAuditRecordRequest(index=2), None),
        service.GetInclusionProof(pb.GetInclusionProofRequest(index=2), None),
        service.GetInclusionProof(pb.GetInclusionProofRequest(index=1, tree_size=1), None),
        service.GetInclusionProof(pb.GetInclusionProofRequest(tree_size=3), None),
        service.GetConsistencyProof(pb.GetConsistencyProofRequest(from_size=3), None),
        service.GetConsistencyProof(pb.GetConsistencyProofRequest(to_size=3), None),
    ):
        error = await refusal(call)
        assert error.reason == "AUDIT_RANGE_INVALID"


async def test_log_nobody_keeps_here_is_unknown(service: AuditService):
    """A name is not guessed."""
    request = pb.GetAuditHeadRequest(log_id="aegis-elsewhere")
    assert (await refusal(service.GetAuditHead(request, None))).reason == "LOG_UNKNOWN"


async def test_watch_shows_what_another_process_writes(
    log: Written, service: AuditService, database: Database
):
    """From now on, and only what passes the filter."""
    await log.write(entry("deny"))
    request = pb.WatchAuditRecordsRequest(start_index=-1, filter=pb.AuditFilter(outcome="deny"))
    watching = service.WatchAuditRecords(request, None)
    first = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0.2)
    await Written(database).write(entry("allow"), entry("deny", subject_id="new"))
    seen = await asyncio.wait_for(first, 10)
    assert [record.subject_id for record in seen.records] == ["new"]
    await watching.aclose()


async def test_watch_begins_where_it_is_told(log: Written, service: AuditService):
    """A watcher that was away asks from the next record on."""
    await log.write(*(entry(subject_id=str(number)) for number in range(600)))
    watching = service.WatchAuditRecords(pb.WatchAuditRecordsRequest(start_index=2), None)
    seen: list[int] = []
    while len(seen) < 598:
        seen += [record.index for record in (await anext(watching)).records]
    assert seen == list(range(2, 600))
    await watching.aclose()


async def test_erased_text_is_gone_and_the_chain_is_whole(
    log: Written, service: AuditService, as_admin: None
):
    """Article 17: the words go, their salted hash stays, and who erased them is recorded."""
    await log.write(entry(attachments={"reason": b"Ann asked for it"}), entry())
    before = (await service.GetAuditRecord(pb.GetAuditRecordRequest(index=0), None)).record
    assert [each.content for each in before.attachments] == [b"Ann asked for it"]
    request = pb.EraseAuditAttachmentsRequest(index=0, reason="ticket 7")
    assert list((await service.EraseAuditAttachments(request, None)).names) == ["reason"]
    stored = await log.stored()
    assert chained(stored) == 3
    assert stored[0].record == before.record
    assert not stored[0].attachments
    assert b"Ann" not in b"".join(each.SerializeToString() for each in stored)
    told = pb.AuditRecord.FromString(stored[2].record)
    assert (told.kind, told.actor, told.reason, told.details["index"]) == (
        pb.AUDIT_KIND_ERASURE,
        "user:admin",
        "ticket 7",
        "0",
    )
    again = await refusal(service.EraseAuditAttachments(request, None))
    assert again.reason == "RESOURCE_NOT_FOUND"


async def test_checkpoints_are_handed_out_in_order(log: Written, service: AuditService):
    """The newest alone, or all from a size on; none before the first."""
    error = await refusal(service.GetCheckpoint(pb.GetCheckpointRequest(), None))
    assert error.reason == "RESOURCE_NOT_FOUND"
    for _ in range(3):
        await log.write(entry())
        log.clock.move(seconds=10)
        assert await log.kept.cut_if_due() is not None
    newest = (await service.GetCheckpoint(pb.GetCheckpointRequest(), None)).checkpoint
    assert checkpoints.verify(newest.note, "aegis-server", log.keys.log.public_key()).size == 3
    call = service.ExportCheckpoints(pb.ExportCheckpointsRequest(start_size=2), None)
    sizes = [each.tree_size async for batch in call for each in batch.checkpoints]
    assert sizes == [2, 3]
