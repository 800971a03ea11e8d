"""The rpcs that read the decision log, and the one that takes what replicas decided."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.doors import Context
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import policy_admin_pb2, policy_pb2
from aegis_policy import Engine
from aegis_server.policy.decisionlog import store
from aegis_server.policy.decisionlog.entry import Entry
from aegis_server.policy.decisionlog.log import DecisionLog
from aegis_server.policy.decisionlog.simulation import (
    FLIPS_MAX,
    REQUESTS_DEFAULT,
    Flipped,
    simulate,
)
from aegis_server.policy.decisionlog.store import Filter, Row

_EXPORT_ROWS = 500
# Clients take messages of 4 MiB.
_BYTES = 2 * 1024 * 1024
_SIMULATED = timedelta(days=7)
# A replica's clock may be a little ahead, and it may have been cut off for some time.
_AHEAD = timedelta(minutes=5)
_LATE = timedelta(days=1)


Part = TypeVar("Part", bound=Message)


class DecisionLogMethods:
    """ListDecisions, ExportDecisions, SimulatePolicy: for PolicyAdminService to inherit."""

    _decision_log: DecisionLog
    _clock: Callable[[], datetime]
    _held_roles: Callable[[str], tuple[str, ...]]
    # The engine of the rules in force.
    _current: Callable[[], Engine]
    # Raises `InvalidArgument` (POLICY_INVALID); run in a thread.
    _engine_of: Callable[[policy_admin_pb2.PolicyDraft], Engine]

    async def ListDecisions(
        self, request: policy_admin_pb2.ListDecisionsRequest, context: Context
    ) -> policy_admin_pb2.ListDecisionsResponse:
        """The newest first."""
        chosen, size = _filter(request.filter), page_size(request.page_size)
        query = ("ListDecisions", chosen)
        before = _position(decode_token(request.page_token, *query))
        async with self._decision_log.database.transaction() as connection:
            rows = await store.newest(connection, chosen, limit=size + 1, before=before)
        records = _fitting([_record(row) for row in rows[:size]])
        response = policy_admin_pb2.ListDecisionsResponse(decisions=records)
        if len(records) < len(rows):
            last = rows[len(records) - 1]
            position = f"{last.at.isoformat()} {last.decision_id}"
            response.next_page_token = encode_token(position, *query)
        return response

    async def ExportDecisions(
        self, request: policy_admin_pb2.ExportDecisionsRequest, context: Context
    ) -> AsyncIterator[policy_admin_pb2.ExportDecisionsResponse]:
        """The oldest first, up to this moment; each answer is a transaction of its own."""
        chosen = _filter(request.filter, until=self._clock())
        after: tuple[datetime, uuid.UUID] | None = None
        while True:
            async with self._decision_log.database.transaction() as connection:
                rows = await store.oldest(
                    connection, chosen, limit=_EXPORT_ROWS, after=after, one_in=request.one_in
                )
            if not rows:
                return
            records = _fitting([_record(row) for row in rows])
            yield policy_admin_pb2.ExportDecisionsResponse(decisions=records)
            last = rows[len(records) - 1]
            after = last.at, last.decision_id

    async def SimulatePolicy(
        self, request: policy_admin_pb2.SimulatePolicyRequest, context: Context
    ) -> policy_admin_pb2.SimulatePolicyResponse:
        """Decides what was asked again by a draft."""
        now = self._clock()
        since = _time(request, "since") or now - _SIMULATED
        draft = await asyncio.to_thread(self._engine_of, request.draft)
        found = await simulate(
            self._decision_log.database,
            draft,
            current=self._current(),
            since=since,
            until=now,
            limit=request.limit or REQUESTS_DEFAULT,
            held_roles=self._held_roles,
        )
        return policy_admin_pb2.SimulatePolicyResponse(
            requests=found.requests,
            decisions=found.decisions,
            flips=_fitting([_flip(each) for each in found.flips[:FLIPS_MAX]]),
            flipped_requests=len(found.flips),
            flipped_decisions=sum(each.asked.times for each in found.flips),
            without_attributes=found.without_attributes,
        )


async def report(
    decision_log: DecisionLog,
    decisions: Sequence[policy_pb2.ReportedDecision],
    *,
    caller: str,
    entries_of: Callable[[policy_pb2.EvaluateRequest], tuple[str, dict[str, object]]],
    now: datetime,
) -> None:
    """Takes the decisions that a caller's replica made; returns once they are stored.

    `entries_of` reads domain and attributes of a request, as for Evaluate. Raises
    `InvalidArgument` (FIELD_INVALID) for a time that cannot be right, and `ResourceExhausted`
    (DECISION_LOG_FULL).
    """
    entries = []
    for index, decision in enumerate(decisions):
        at = decision.time.ToDatetime(UTC)
        if not now - _LATE <= at <= now + _AHEAD:
            field = f"decisions[{index}].time"
            violation = FieldViolation(field, "expected a time of the last day")
            text = f"{field}: by this server's clock that is not of the last day"
            raise InvalidArgument("FIELD_INVALID", text, violations=[violation])
        asked = decision.request
        domain, attributes = entries_of(asked)
        entries.append(
            Entry(
                at=at,
                decision_id=str(uuid.UUID(decision.decision_id)),
                caller=caller,
                subject=asked.subject,
                domain=domain,
                resource=asked.resource,
                action=asked.action,
                attributes=attributes,
                allowed=decision.effect == policy_pb2.EFFECT_ALLOW,
                rule_id=decision.rule_id,
                revision=decision.revision,
                source="local",
                microseconds=decision.microseconds,
            )
        )
    await decision_log.take(entries)


def _filter(wanted: policy_admin_pb2.DecisionFilter, until: datetime | None = None) -> Filter:
    end = _time(wanted, "end_time")
    return Filter(
        subject=wanted.subject,
        caller=wanted.caller,
        domain=wanted.domain,
        resource=wanted.resource,
        action=wanted.action,
        rule_id=wanted.rule_id,
        effect=wanted.effect,
        start=_time(wanted, "start_time"),
        end=min(filter(None, (end, until)), default=None),
    )


def _time(message: Message, field: str) -> datetime | None:
    """Returns a time, or None when it is not set; raises `InvalidArgument` for one beyond ours."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    try:
        return stamp.ToDatetime(UTC)
    except (OverflowError, ValueError):
        violation = FieldViolation(field, "expected a time between the years 1 and 9999")
        raise InvalidArgument(
            "FIELD_INVALID", f"{field}: not a time", violations=[violation]
        ) from None


def _position(token: int | str | None) -> tuple[datetime, uuid.UUID] | None:
    if token is None:
        return None
    try:
        at, decision_id = str(token).split(" ")
        return datetime.fromisoformat(at), uuid.UUID(decision_id)
    except ValueError:
        raise InvalidArgument("PAGE_TOKEN_INVALID", "this page token is not from here") from None


def _fitting(parts: list[Part]) -> list[Part]:
    """Returns the first parts, at least one, that fit into a message together."""
    total = 0
    for count, part in enumerate(parts):
        total += part.ByteSize()
        if count and total > _BYTES:
            return parts[:count]
    return parts


def _record(row: Row) -> policy_admin_pb2.DecisionRecord:
    record = policy_admin_pb2.DecisionRecord(
        decision_id=str(row.decision_id),
        caller=row.caller,
        request=_request(row),
        attributes_digest=bytes(row.attributes_digest),
        effect=policy_pb2.Effect.ValueType(row.effect),
        rule_id=row.rule_id,
        revision=row.revision,
        source=policy_pb2.DecisionSource.ValueType(row.source),
        microseconds=row.microseconds,
    )
    record.time.FromDatetime(row.at)
    return record


def _request(row: Row) -> policy_pb2.EvaluateRequest:
    request = policy_pb2.EvaluateRequest(
        subject=row.subject, domain=row.domain, resource=row.resource, action=row.action
    )
    if row.attributes is not None:
        request.attributes.update(json.loads(row.attributes))
    return request


def _flip(flip: Flipped) -> policy_admin_pb2.Flip:
    row = flip.asked.newest
    made = policy_admin_pb2.Flip(
        request=_request(row),
        before=policy_pb2.Effect.ValueType(row.effect),
        before_rule_id=row.rule_id,
        after=policy_pb2.EFFECT_ALLOW if flip.allowed else policy_pb2.EFFECT_DENY,
        after_rule_id=flip.rule_id,
        times=flip.asked.times,
    )
    made.last_asked.FromDatetime(row.at)
    return made
