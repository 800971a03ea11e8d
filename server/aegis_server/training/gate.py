"""The review room as a gate: a coordinator submits a round's updates and asks for verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import grpc

from aegis.errors import AegisError, InvalidArgument, ResourceExhausted, from_rpc_error
from aegis.v1 import review_pb2, review_pb2_grpc
from aegis_learning import parameters

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
    ) -> None:
        self._stub = stub
        self._loop = loop
        self._run_id = run_id
        self.attempt = 1

    def judge(self, number: int, updates: Mapping[str, bytes]) -> Mapping[str, Update | AegisError]:
        """Submits every update, then asks for the verdicts; raises `AegisError`."""
        return asyncio.run_coroutine_threadsafe(self._judge(number, updates), self._loop).result()

    async def _judge(
        self, number: int, updates: Mapping[str, bytes]
    ) -> Mapping[str, Update | AegisError]:
        verdicts: dict[str, Update | AegisError] = {}
        for participant, update in updates.items():
            try:
                response = await self._stub.SubmitUpdate(
                    self._parts(number, participant, update), timeout=_SUBMIT_SECONDS
                )
                verdicts[participant] = response.update
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
                if not isinstance(refusal, InvalidArgument | ResourceExhausted):
                    raise refusal from error
                verdicts[participant] = refusal
        if not any(isinstance(verdict, Update) for verdict in verdicts.values()):
            return verdicts
        try:
            judged = await self._stub.ReviewRound(
                review_pb2.ReviewRoundRequest(
                    run_id=self._run_id, round=number, attempt=self.attempt
                ),
                timeout=_REVIEW_SECONDS,
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return verdicts | {update.participant: update for update in judged.updates}

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
