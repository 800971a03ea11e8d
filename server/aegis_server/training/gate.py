"""The review room as a gate: a coordinator submits a round's updates and asks for verdicts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Mapping
from functools import partial

import grpc

from aegis.errors import AegisError, DeadlineExceeded, InvalidArgument, Unavailable, from_rpc_error
from aegis.v1 import review_pb2, review_pb2_grpc
from aegis_learning import parameters
from aegis_server.training.calls import persistent
from aegis_server.training.strategy import Judged

log = logging.getLogger("aegis.coordinator")

Update = review_pb2.Update
Round = review_pb2.ReviewRoundResponse | review_pb2.WatchRoundResponse

_CHUNK = 64 * 1024
_SUBMIT_SECONDS = 30.0
_REVIEW_SECONDS = 300.0
_DOWNLOAD_SECONDS = 60.0
# A review that is busy decides nothing and loses nothing; others may have much to examine.
_BUSY_SECONDS = 3600.0
_PAUSE_SECONDS = 2.0

# What keeps one update out and says nothing of the others, whatever its gRPC code.
_ITS_FAULT = frozenset({"PARTICIPANT_UNKNOWN", "REQUEST_TOO_LARGE", "UPLOADS_TOO_MANY"})
# It has sent an update by itself, and the first one counts.
_SENT_BEFORE = "REQUEST_ID_REUSED"


class ReviewGate:
    """The review room, asked through its stub.

    Its calls run on the event loop the stub belongs to; `judge` is called from another thread.
    `attempt` is part of every update's name, because a repeated round has other updates.
    `hold_seconds` are how long a person is waited for who decides about what is HELD.
    """

    def __init__(
        self,
        stub: review_pb2_grpc.ReviewServiceStub,
        loop: asyncio.AbstractEventLoop,
        *,
        run_id: str,
        patience_seconds: float = 60.0,
        hold_seconds: float = 0.0,
    ) -> None:
        self._stub = stub
        self._loop = loop
        self._run_id = run_id
        self._patience = patience_seconds
        self._hold = hold_seconds
        self.attempt = 1

    def judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str] = ()
    ) -> Judged:
        """Submits every update, then asks for the verdicts; raises `AegisError`.

        Whoever was not `asked` has no say, so that a crowd cannot outnumber who was drawn.

        A server that is away or full for a while is asked again: it is no update's fault, and to
        begin the round anew would cost every participant its steps.
        """
        judging = self._judge(number, updates, asked)
        return asyncio.run_coroutine_threadsafe(judging, self._loop).result()

    async def _judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str]
    ) -> Judged:
        refused: dict[str, Update | AegisError] = {}
        taken: set[str] = set()
        for participant, update in updates.items():
            try:
                await persistent(
                    partial(self._submit, number, participant, update), seconds=self._patience
                )
                taken.add(participant)
            except AegisError as refusal:
                if refusal.reason == _SENT_BEFORE:
                    continue
                if not isinstance(refusal, InvalidArgument) and refusal.reason not in _ITS_FAULT:
                    raise
                refused[participant] = refusal
        judged = await self._reviewed(number, asked, held_for=self._hold)
        if judged is None:
            return Judged(refused)
        verdicts = {each.participant: each for each in judged.updates}
        open_ones = {name for name, each in verdicts.items() if _nobody_decided(each)}
        # Whom a person has rejected meanwhile is not unknown any more.
        fallback = tuple(
            name
            for name in judged.review.fallback_participants
            if open_ones
            and name in verdicts
            and (name in open_ones or verdicts[name].verdict != Update.VERDICT_REJECTED)
        )
        counting = {n for n, each in verdicts.items() if each.verdict == Update.VERDICT_ACCEPTED}
        wanted = counting | set(fallback)
        outside = {
            name: await persistent(partial(self._download, verdicts[name]), seconds=self._patience)
            for name in sorted(wanted - taken)
        }
        return Judged(
            {**refused, **verdicts}, outside, fallback, judged.review.reason if fallback else ""
        )

    async def _submit(self, number: int, participant: str, update: bytes) -> Update:
        parts = self._parts(number, participant, update)
        response = await self._stub.SubmitUpdate(parts, timeout=_SUBMIT_SECONDS)
        return response.update

    async def _reviewed(
        self, number: int, asked: Collection[str], *, held_for: float
    ) -> Round | None:
        """Returns the judged round, once nothing in it is held or that was waited for in vain.

        None when nobody sent an update.
        """
        busy_until = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                judged: Round = await persistent(
                    partial(self._review, number, asked), seconds=self._patience
                )
                break
            except AegisError as error:
                if error.reason == "RESOURCE_NOT_FOUND":
                    return None
                late = error.reason == "REVIEW_BUSY" or isinstance(error, DeadlineExceeded)
                if not late or time.monotonic() > busy_until:
                    raise
                log.warning("round %d: %s; asking again", number, error.message)
        until = time.monotonic() + held_for
        while any(each.verdict == Update.VERDICT_HELD for each in judged.updates):
            left = until - time.monotonic()
            if left <= 0:
                break
            log.info("round %d: updates are held for a person, for %.0f s", number, left)
            judged = await self._watched(number, judged, left)
        return judged

    async def _watched(self, number: int, judged: Round, seconds: float) -> Round:
        request = review_pb2.WatchRoundRequest(
            run_id=self._run_id, round=number, attempt=self.attempt
        )
        try:
            async for changed in self._stub.WatchRound(request, timeout=seconds):
                judged = changed
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            if isinstance(failure, Unavailable):
                await asyncio.sleep(min(_PAUSE_SECONDS, seconds))
            elif not isinstance(failure, DeadlineExceeded):
                raise failure from error
        return judged

    async def _review(self, number: int, asked: Collection[str]) -> review_pb2.ReviewRoundResponse:
        request = review_pb2.ReviewRoundRequest(
            run_id=self._run_id, round=number, attempt=self.attempt, participants=asked
        )
        return await self._stub.ReviewRound(request, timeout=_REVIEW_SECONDS)

    async def _download(self, update: Update) -> bytes:
        request = review_pb2.DownloadUpdateRequest(update_id=update.update_id)
        data = bytearray()
        async for part in self._stub.DownloadUpdate(request, timeout=_DOWNLOAD_SECONDS):
            data += part.chunk
        if parameters.digest(bytes(data)) != update.sha256:
            raise Unavailable("DATA_DAMAGED", "an update did not arrive as it was stored")
        return bytes(data)

    async def _parts(
        self, number: int, participant: str, update: bytes
    ) -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        header = review_pb2.SubmitUpdateRequest.Header(
            run_id=self._run_id,
            round=number,
            attempt=self.attempt,
            participant=participant,
            sha256=parameters.digest(update),
            size_bytes=len(update),
        )
        yield review_pb2.SubmitUpdateRequest(header=header)
        for start in range(0, len(update), _CHUNK):
            yield review_pb2.SubmitUpdateRequest(chunk=update[start : start + _CHUNK])


def _nobody_decided(update: Update) -> bool:
    """Says whether no examiner and no person could: it is HELD, or was until its deadline."""
    decided = [each for each in update.overrides if each.effective]
    return update.verdict == Update.VERDICT_HELD or bool(decided and not decided[-1].by)
