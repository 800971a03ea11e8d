"""ReviewService: wire to values and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Call, Context, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import review_pb2, review_pb2_grpc
from aegis_server.review.evidence.downloads import Bundles
from aegis_server.review.evidence.service import download
from aegis_server.review.holding.overrides import Overrides
from aegis_server.review.intake import Intake
from aegis_server.review.messages import (
    brief_message,
    entry_message,
    review_message,
    update_message,
    verdict_of,
)
from aegis_server.review.rounds import Rounds
from aegis_server.review.store import RoundKey
from aegis_server.review.updates import Claim, Update, Updates
from aegis_server.review.uploads.senders import Senders
from aegis_server.review.uploads.store import Name
from aegis_server.review.uploads.turns import Turns
from aegis_server.review.uploads.uploads import Uploads

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Room:
    """What the review does: who may send, what is taken in, judged, decided otherwise, found."""

    senders: Senders
    turns: Turns
    uploads: Uploads
    intake: Intake
    rounds: Rounds
    overrides: Overrides
    updates: Updates
    bundles: Bundles


class ReviewService(review_pb2_grpc.ReviewServiceServicer):
    """Takes updates in, has rounds judged, lets people decide, shows all of it."""

    def __init__(self, room: Room, deeds: Deeds) -> None:
        self._room = room
        self._deeds = deeds

    async def SubmitUpdate(
        self, request_iterator: AsyncIterator[review_pb2.SubmitUpdateRequest], context: Context
    ) -> review_pb2.SubmitUpdateResponse:
        """See the rpc's comment. A small update whose stream breaks off leaves nothing behind."""
        by, parts, room = current_call(), aiter(request_iterator), self._room
        async with room.intake.refusals_recorded(by, None):
            claim = await _claim(parts)
        async with room.intake.refusals_recorded(by, claim):
            sender = await room.senders.permit(by, claim.participant)
            by = by._replace(grant=sender.grant)
            # Programs of our own take their turns where they are started.
            turn = room.turns.one(claim.participant) if sender.own else nullcontext()
            async with turn:
                update = await room.intake.expect(claim, own=sender.own)
                update = update or await self._upload(claim, parts, by)
        shown = brief_message(update) if sender.own else update_message(update)
        return review_pb2.SubmitUpdateResponse(update=shown)

    async def _upload(
        self, claim: Claim, parts: AsyncIterator[review_pb2.SubmitUpdateRequest], by: Call
    ) -> Update:
        name, room = _name(claim), self._room
        data = await room.uploads.collect(name, _chunks(parts), offset=claim.offset)

        async def take_in() -> Update:
            update = await room.intake.take_in(claim, data, by)
            await room.uploads.drop(name)
            return update

        try:
            return await self._deeds.finish(take_in())
        except InvalidArgument:
            # Sending these bytes once more would not make them better.
            await room.uploads.drop(name)
            raise

    async def GetUpload(
        self, request: review_pb2.GetUploadRequest, context: Context
    ) -> review_pb2.GetUploadResponse:
        """How much of it is here."""
        claim = _claim_of(request.header)
        await self._room.senders.permit(current_call(), claim.participant)
        received = await self._room.uploads.received(_name(claim))
        return review_pb2.GetUploadResponse(received_bytes=received)

    async def ReviewRound(
        self, request: review_pb2.ReviewRoundRequest, context: Context
    ) -> review_pb2.ReviewRoundResponse:
        """Verdicts of a round, in order of its participants."""
        key = RoundKey(request.run_id, request.round, request.attempt)
        asked = self._room.rounds.ask(key, current_call(), frozenset(request.participants))
        await self._deeds.finish(asked)
        judged = await self._room.rounds.judged(key)
        return review_pb2.ReviewRoundResponse(
            updates=[update_message(update) for update in judged.updates],
            review=review_message(judged),
        )

    async def WatchRound(
        self, request: review_pb2.WatchRoundRequest, context: Context
    ) -> AsyncIterator[review_pb2.WatchRoundResponse]:
        """After every change."""
        key = RoundKey(request.run_id, request.round, request.attempt)
        async for judged in self._room.rounds.watch(key):
            yield review_pb2.WatchRoundResponse(
                updates=[update_message(update) for update in judged.updates],
                review=review_message(judged),
            )

    async def GetUpdate(
        self, request: review_pb2.GetUpdateRequest, context: Context
    ) -> review_pb2.GetUpdateResponse:
        """One update."""
        update = await self._room.updates.get(request.update_id)
        return review_pb2.GetUpdateResponse(update=update_message(update))

    async def ListUpdates(
        self, request: review_pb2.ListUpdatesRequest, context: Context
    ) -> review_pb2.ListUpdatesResponse:
        """Newest first."""
        size, verdict = page_size(request.page_size), verdict_of(request.verdict)
        query = (request.run_id, request.participant, verdict.value if verdict else "")
        position = decode_token(request.page_token, "updates", *query)
        if isinstance(position, str):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        updates = await self._room.updates.page(
            run_id=request.run_id,
            participant=request.participant,
            verdict=verdict,
            before=position,
            limit=size,
        )
        token = ""
        if len(updates) == size:
            token = encode_token(updates[-1].seq, "updates", *query)
        return review_pb2.ListUpdatesResponse(
            updates=[update_message(update) for update in updates], next_page_token=token
        )

    async def DownloadUpdate(
        self, request: review_pb2.DownloadUpdateRequest, context: Context
    ) -> AsyncIterator[review_pb2.DownloadUpdateResponse]:
        """Chunk by chunk, each checked before it is sent."""
        async for piece in self._room.updates.pieces(request.update_id):
            for start in range(0, len(piece), _CHUNK):
                yield review_pb2.DownloadUpdateResponse(chunk=piece[start : start + _CHUNK])

    async def DownloadEvidence(
        self, request: review_pb2.DownloadEvidenceRequest, context: Context
    ) -> AsyncIterator[review_pb2.DownloadEvidenceResponse]:
        """The bundle, in pieces."""
        async for part in download(self._room.bundles, self._deeds, request):
            yield part

    async def OverrideVerdict(
        self, request: review_pb2.OverrideVerdictRequest, context: Context
    ) -> review_pb2.OverrideVerdictResponse:
        """By a person, or two."""
        wanted = verdict_of(request.verdict)
        if wanted is None or not request.reason.strip():
            raise _bad("reason", "must say why")
        done = await self._deeds.finish(
            self._room.overrides.override(
                request.update_id, wanted, request.reason.strip(), current_call()
            )
        )
        return review_pb2.OverrideVerdictResponse(
            update=update_message(done.update),
            needs_second_person=done.needs_second_person,
            too_late_for_model=done.too_late_for_model,
        )

    async def GetReviewQueue(
        self, request: review_pb2.GetReviewQueueRequest, context: Context
    ) -> review_pb2.GetReviewQueueResponse:
        """Oldest first."""
        rows, examiners = await self._room.rounds.waiting()
        return review_pb2.GetReviewQueueResponse(
            entries=[entry_message(row) for row in rows], examiners=examiners
        )


async def _claim(parts: AsyncIterator[review_pb2.SubmitUpdateRequest]) -> Claim:
    first = await anext(parts, None)
    if first is None or first.WhichOneof("part") != "header":
        raise _bad("header", "must come first")
    return _claim_of(first.header)


def _claim_of(header: review_pb2.SubmitUpdateRequest.Header) -> Claim:
    return Claim(
        key=RoundKey(header.run_id, header.round, header.attempt),
        participant=header.participant,
        sha256=header.sha256,
        size_bytes=header.size_bytes,
        base_sha256=header.base_sha256,
        offset=header.offset,
    )


def _name(claim: Claim) -> Name:
    return Name(claim.key, claim.participant, claim.sha256, claim.size_bytes)


async def _chunks(parts: AsyncIterator[review_pb2.SubmitUpdateRequest]) -> AsyncIterator[bytes]:
    async for part in parts:
        if part.WhichOneof("part") != "chunk":
            raise _bad("header", "must come once, then chunks only")
        if not part.chunk:
            # Endless empty chunks would keep the stream open for nothing.
            raise _bad("chunk", "must not be empty")
        yield part.chunk


def _bad(field: str, description: str) -> InvalidArgument:
    violation = FieldViolation(field, description)
    return InvalidArgument("FIELD_INVALID", f"{field}: {description}", violations=[violation])
