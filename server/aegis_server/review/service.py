"""ReviewService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import review_pb2, review_pb2_grpc
from aegis_server.review.findings import Finding, Severity
from aegis_server.review.rounds import Rounds
from aegis_server.review.store import RoundKey
from aegis_server.review.updates import Claim, Update, Updates
from aegis_server.review.vetting import Verdict

_VERDICTS = {
    Verdict.PENDING: review_pb2.Update.VERDICT_PENDING,
    Verdict.ACCEPTED: review_pb2.Update.VERDICT_ACCEPTED,
    Verdict.REJECTED: review_pb2.Update.VERDICT_REJECTED,
    Verdict.HELD: review_pb2.Update.VERDICT_HELD,
}
_SEVERITIES = {
    Severity.INFO: review_pb2.Finding.SEVERITY_INFO,
    Severity.WARNING: review_pb2.Finding.SEVERITY_WARNING,
    Severity.CRITICAL: review_pb2.Finding.SEVERITY_CRITICAL,
}


class ReviewService(review_pb2_grpc.ReviewServiceServicer):
    """Takes updates in, has rounds judged, shows both."""

    def __init__(self, updates: Updates, rounds: Rounds, deeds: Deeds) -> None:
        self._updates = updates
        self._rounds = rounds
        self._deeds = deeds

    async def SubmitUpdate(
        self, request_iterator: AsyncIterator[review_pb2.SubmitUpdateRequest], context: Context
    ) -> review_pb2.SubmitUpdateResponse:
        """See the rpc's comment. A stream that breaks off leaves nothing behind."""
        by = current_call()
        parts = aiter(request_iterator)
        async with self._updates.refusals_recorded(by, None):
            claim = await _claim(parts)
        async with self._updates.refusals_recorded(by, claim):
            await self._updates.expect(claim)
            data = await _data(parts, claim.size_bytes)
            update = await self._deeds.finish(self._updates.take_in(claim, data, by))
        return review_pb2.SubmitUpdateResponse(update=_message(update))

    async def ReviewRound(
        self, request: review_pb2.ReviewRoundRequest, context: Context
    ) -> review_pb2.ReviewRoundResponse:
        """Verdicts of a round, in order of its participants."""
        key = RoundKey(request.run_id, request.round, request.attempt)
        updates = await self._deeds.finish(self._rounds.review(key, current_call()))
        return review_pb2.ReviewRoundResponse(updates=[_message(update) for update in updates])

    async def GetUpdate(
        self, request: review_pb2.GetUpdateRequest, context: Context
    ) -> review_pb2.GetUpdateResponse:
        """One update."""
        return review_pb2.GetUpdateResponse(
            update=_message(await self._updates.get(request.update_id))
        )

    async def ListUpdates(
        self, request: review_pb2.ListUpdatesRequest, context: Context
    ) -> review_pb2.ListUpdatesResponse:
        """Newest first."""
        size = page_size(request.page_size)
        position = decode_token(request.page_token, "updates", request.run_id)
        if isinstance(position, str):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        updates = await self._updates.page(run_id=request.run_id, before=position, limit=size)
        token = ""
        if len(updates) == size:
            token = encode_token(updates[-1].seq, "updates", request.run_id)
        return review_pb2.ListUpdatesResponse(
            updates=[_message(update) for update in updates], next_page_token=token
        )


async def _claim(parts: AsyncIterator[review_pb2.SubmitUpdateRequest]) -> Claim:
    first = await anext(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise _bad("header", "must come first")
    header = first.header
    return Claim(
        key=RoundKey(header.run_id, header.round, header.attempt),
        participant=header.participant,
        sha256=header.sha256,
        size_bytes=header.size_bytes,
    )


async def _data(parts: AsyncIterator[review_pb2.SubmitUpdateRequest], size_bytes: int) -> bytes:
    """Reads the chunks; the announced size, checked before, is all the memory they can take."""
    data = bytearray()
    async for part in parts:
        if part.WhichOneof("part") != "chunk":
            raise _bad("header", "must come once, then chunks only")
        if not part.chunk:
            # Endless empty chunks would keep the stream open for nothing.
            raise _bad("chunk", "must not be empty")
        data += part.chunk
        if len(data) > size_bytes:
            raise InvalidArgument(
                "DIGEST_MISMATCH", f"more bytes came than the announced {size_bytes}"
            )
    return bytes(data)


def _bad(field: str, description: str) -> InvalidArgument:
    violation = FieldViolation(field, description)
    return InvalidArgument("FIELD_INVALID", f"{field}: {description}", violations=[violation])


def _message(update: Update) -> review_pb2.Update:
    message = review_pb2.Update(
        update_id=update.update_id,
        run_id=update.key.run_id,
        round=update.key.round,
        attempt=update.key.attempt,
        participant=update.participant,
        sha256=update.sha256,
        size_bytes=update.size_bytes,
        verdict=_VERDICTS[update.verdict],
        score=update.score,
        findings=[_finding_message(finding) for finding in update.findings],
    )
    message.create_time.FromDatetime(update.created_at)
    if update.reviewed_at is not None:
        message.review_time.FromDatetime(update.reviewed_at)
    return message


def _finding_message(finding: Finding) -> review_pb2.Finding:
    return review_pb2.Finding(
        examiner=finding.examiner,
        measure=finding.measure,
        value=finding.value,
        threshold=finding.threshold,
        severity=_SEVERITIES[finding.severity],
        text=finding.text,
    )
