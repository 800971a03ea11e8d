"""The review room as a gate: a coordinator submits a round's updates and asks for verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial

from aegis.errors import AegisError, InvalidArgument
from aegis.v1 import review_pb2, review_pb2_grpc
from aegis_learning import parameters
from aegis_server.training.calls import persistent

Update = review_pb2.Update

_CHUNK = 64 * 1024
_SUBMIT_SECONDS = 30.0
_REVIEW_SECONDS = 300.0


class ReviewGate:
    """The review room, asked through its stub.

    Its calls run on the event loop the stub belongs to; `judge` is called from another thread.
    `attempt` is part of every update's name, because a repeated round has other updates.
    """

    def __init__(
        self,
        stub: review_pb2_grpc.ReviewServiceStub,
        loop: asyncio.AbstractEventLoop,
        *,
        run_id: str,
        patience_seconds: float = 60.0,
    ) -> None:
        self._stub = stub
        self._loop = loop
        self._run_id = run_id
        self._patience = patience_seconds
        self.attempt = 1

    def judge(self, number: int, updates: Mapping[str, bytes]) -> Mapping[str, Update | AegisError]:
        """Submits every update, then asks for the verdicts; raises `AegisError`.

        A server that is away or full for a while is asked again: it is no update's fault, and to
        begin the round anew would cost every participant its steps.
        """
        return asyncio.run_coroutine_threadsafe(self._judge(number, updates), self._loop).result()

    async def _judge(
        self, number: int, updates: Mapping[str, bytes]
    ) -> Mapping[str, Update | AegisError]:
        verdicts: dict[str, Update | AegisError] = {}
        for participant, update in updates.items():
            try:
                verdicts[participant] = await persistent(
                    partial(self._submit, number, participant, update), seconds=self._patience
                )
            except AegisError as refusal:
                its_fault = isinstance(refusal, InvalidArgument)
                if not its_fault and refusal.reason != "REQUEST_TOO_LARGE":
                    raise
                verdicts[participant] = refusal
        if not any(isinstance(verdict, Update) for verdict in verdicts.values()):
            return verdicts
        judged = await persistent(partial(self._review, number), seconds=self._patience)
        return verdicts | {update.participant: update for update in judged.updates}

    async def _submit(self, number: int, participant: str, update: bytes) -> Update:
        parts = self._parts(number, participant, update)
        response = await self._stub.SubmitUpdate(parts, timeout=_SUBMIT_SECONDS)
        return response.update

    async def _review(self, number: int) -> review_pb2.ReviewRoundResponse:
        request = review_pb2.ReviewRoundRequest(
            run_id=self._run_id, round=number, attempt=self.attempt
        )
        return await self._stub.ReviewRound(request, timeout=_REVIEW_SECONDS)

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
