"""Asks the server; the questions of one moment travel together.

A call costs a server what dozens of decisions cost it. What the tasks of one event loop ask in the
same tick therefore goes into one `BatchEvaluate`, without anybody having to collect anything:

    await asyncio.gather(*(client.check(...) for resource in resources))

Each caller gets its own answer or its own error, and whoever stops waiting does not disturb the
others.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import TypeAlias

import grpc

from aegis.decisions.values import (
    DEFAULT_DOMAIN,
    AtLeast,
    Decision,
    FullyCurrent,
    bad,
    cleaned,
)
from aegis.errors import AegisError, FieldViolation, Internal, from_rpc_error, from_status
from aegis.v1 import policy_pb2, policy_pb2_grpc
from aegis_policy import RequestError, check_request

_BATCH = 1000
# Below the 256 KiB that the server's doors let in.
_BATCH_BYTES = 224 * 1024
# These may be the fault of one question; asked apart, the others get their answers.
_OF_A_QUESTION = frozenset({"FIELD_INVALID", "REQUEST_TOO_LARGE"})
_PLACE = re.compile(r"^requests\[\d+\]\.")

Wanted: TypeAlias = AtLeast | FullyCurrent | None


@dataclass(frozen=True, slots=True)
class _Asked:
    request: policy_pb2.EvaluateRequest
    answer: asyncio.Future[Decision]


class DecisionClient:
    """Decisions of the server at the other end of `channel`, for the tasks of one event loop.

    `timeout_seconds` is the deadline of each check.
    """

    def __init__(self, channel: grpc.aio.Channel, *, timeout_seconds: float = 5.0) -> None:
        self._stub = policy_pb2_grpc.PolicyServiceStub(channel)
        self._timeout_seconds = timeout_seconds
        self._asked: dict[Wanted, list[_Asked]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> DecisionClient:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Breaks off what is under way; the channel stays open."""
        calls = tuple(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def check(
        self,
        *,
        subject: str,
        resource: str,
        action: str,
        domain: str = DEFAULT_DOMAIN,
        attributes: Mapping[str, object] | None = None,
        consistency: Wanted = None,
    ) -> Decision:
        """Returns the decision; a denial is one, not an error.

        Raises `InvalidArgument` (FIELD_INVALID) for a question that is not canonical, without
        asking it, and whatever keeps the server from an answer.
        """
        request = _request(subject, domain or DEFAULT_DOMAIN, resource, action, attributes)
        loop = asyncio.get_running_loop()
        asked = _Asked(request, loop.create_future())
        if not self._asked:
            # Behind everything that is ready to run by now, so that all of it can ask, too.
            loop.call_soon(self._begin)
        self._asked.setdefault(consistency, []).append(asked)
        return await asked.answer

    def _begin(self) -> None:
        everything, self._asked = self._asked, {}
        for consistency, asked in everything.items():
            for batch in _batches(asked):
                call = asyncio.create_task(self._settle(batch, consistency))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

    async def _settle(self, batch: list[_Asked], consistency: Wanted) -> None:
        """Gives every question of the batch its answer or its error."""
        try:
            response = await self._evaluate(batch, consistency)
        except asyncio.CancelledError:
            for asked in batch:
                asked.answer.cancel()
            raise
        except grpc.RpcError as error:
            if len(batch) > 1 and from_rpc_error(error).reason in _OF_A_QUESTION:
                middle = len(batch) // 2
                await self._settle(batch[:middle], consistency)
                await self._settle(batch[middle:], consistency)
                return
            for asked in batch:
                # One for each: a traceback grows with every place an error is raised at.
                _refuse(asked, from_rpc_error(error))
            return
        for index, asked in enumerate(batch):
            if asked.answer.done():
                continue
            if response.statuses and response.statuses[index].code:
                _refuse(asked, from_status(response.statuses[index]))
            else:
                asked.answer.set_result(_decision(response.responses[index]))

    async def _evaluate(
        self, batch: list[_Asked], consistency: Wanted
    ) -> policy_pb2.BatchEvaluateResponse:
        request = policy_pb2.BatchEvaluateRequest(
            requests=[asked.request for asked in batch], consistency=_consistency(consistency)
        )
        response = await self._stub.BatchEvaluate(request, timeout=self._timeout_seconds)
        if len(response.responses) != len(batch) or len(response.statuses) not in (0, len(batch)):
            for asked in batch:
                _refuse(asked, Internal("INTERNAL", "the server did not answer every question"))
        return response


def _request(
    subject: str,
    domain: str,
    resource: str,
    action: str,
    attributes: Mapping[str, object] | None,
) -> policy_pb2.EvaluateRequest:
    try:
        check_request(subject, domain, resource, action)
    except RequestError as error:
        raise bad(error.field, error.expected) from None
    request = policy_pb2.EvaluateRequest(
        subject=subject, domain=domain, resource=resource, action=action
    )
    if attributes:
        request.attributes.update(cleaned(attributes))
    return request


def _batches(asked: Iterable[_Asked]) -> Iterator[list[_Asked]]:
    """Cuts what was asked into pieces that one call takes; leaves out who no longer waits."""
    batch: list[_Asked] = []
    size = 0
    for each in asked:
        if each.answer.done():
            continue
        more = each.request.ByteSize()
        if batch and (len(batch) == _BATCH or size + more > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += more
    if batch:
        yield batch


def _refuse(asked: _Asked, error: AegisError) -> None:
    """Hands out an error in the words of the one question it is about."""
    if asked.answer.done():
        return
    error.message = _PLACE.sub("", error.message)
    error.args = (error.message,)
    error.violations = tuple(
        FieldViolation(_PLACE.sub("", violation.field), violation.description)
        for violation in error.violations
    )
    asked.answer.set_exception(error)


def _consistency(wanted: Wanted) -> policy_pb2.Consistency | None:
    match wanted:
        case AtLeast(revision=revision):
            return policy_pb2.Consistency(at_least_revision=revision)
        case FullyCurrent():
            return policy_pb2.Consistency(fully_current=True)
        case _:
            return None


def _decision(response: policy_pb2.EvaluateResponse) -> Decision:
    ends = response.HasField("valid_until")
    return Decision(
        allowed=response.effect == policy_pb2.EFFECT_ALLOW,
        rule_id=response.rule_id,
        revision=response.revision,
        decision_id=response.decision_id,
        valid_until=response.valid_until.ToDatetime(UTC) if ends else None,
    )
