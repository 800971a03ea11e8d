"""StandingService: wire to values and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.deeds import Deeds
from aegis.serving.doors import Context, Grant, current_call
from aegis.serving.pages import decode_token, encode_token, page_size
from aegis.v1 import review_pb2, standing_pb2, standing_pb2_grpc
from aegis_server.access import Access, Needs
from aegis_server.review.analytics.analytics import Analytics, Found, in_words
from aegis_server.review.analytics.store import CountRow, ThreatRow
from aegis_server.review.standing.quarantines import Decision, Quarantines
from aegis_server.review.standing.standings import QUARANTINES, Judged, Standing, Standings
from aegis_server.review.standing.store import QuarantineRow

_Decide = standing_pb2.DecideQuarantineRequest
_Response = standing_pb2.GetReviewAnalyticsResponse
_NEEDS = Needs(QUARANTINES, "decide")
_DECISIONS = {
    _Decide.DECISION_ENFORCE: Decision.ENFORCE,
    _Decide.DECISION_REFUSE: Decision.REFUSE,
    _Decide.DECISION_LIFT: Decision.LIFT,
}


class StandingService(standing_pb2_grpc.StandingServiceServicer):
    """Shows what is thought of participants, and lets quarantines be decided."""

    def __init__(
        self,
        standings: Standings,
        quarantines: Quarantines,
        analytics: Analytics,
        access: Access,
        deeds: Deeds,
    ) -> None:
        self._standings = standings
        self._quarantines = quarantines
        self._analytics = analytics
        self._access = access
        self._deeds = deeds

    async def GetStanding(
        self, request: standing_pb2.GetStandingRequest, context: Context
    ) -> standing_pb2.GetStandingResponse:
        """One participant, with its judged updates."""
        standing, entries = await self._standings.get(request.participant)
        return standing_pb2.GetStandingResponse(
            standing=_standing(standing), entries=[_entry(each) for each in entries]
        )

    async def ListStandings(
        self, request: standing_pb2.ListStandingsRequest, context: Context
    ) -> standing_pb2.ListStandingsResponse:
        """The least trusted first."""
        size = page_size(request.page_size)
        found = await self._standings.page(after=_place(request.page_token), limit=size)
        token = ""
        if len(found) == size:
            last = found[-1].row
            token = encode_token(f"{last.reputation!r} {last.participant}", "standings")
        return standing_pb2.ListStandingsResponse(
            standings=[_standing(each) for each in found], next_page_token=token
        )

    async def ListQuarantines(
        self, request: standing_pb2.ListQuarantinesRequest, context: Context
    ) -> standing_pb2.ListQuarantinesResponse:
        """Newest first."""
        size = page_size(request.page_size)
        query = ("quarantines", request.participant)
        position = decode_token(request.page_token, *query)
        if isinstance(position, str):
            raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token")
        found = await self._quarantines.page(
            participant=request.participant, before=position, limit=size
        )
        token = encode_token(found[-1].seq, *query) if len(found) == size else ""
        return standing_pb2.ListQuarantinesResponse(
            quarantines=[_quarantine(each) for each in found], next_page_token=token
        )

    async def DecideQuarantine(
        self, request: standing_pb2.DecideQuarantineRequest, context: Context
    ) -> standing_pb2.DecideQuarantineResponse:
        """Enforced, refused or lifted."""
        call = current_call()

        async def permit(attributes: Mapping[str, object]) -> Grant:
            return await self._access.require(
                call.caller, _NEEDS, method=call.method, attributes=attributes, current=True
            )

        decided = await self._deeds.finish(
            self._quarantines.decide(
                request.quarantine_id,
                _DECISIONS[request.decision],
                reason=request.reason,
                by=call.caller.subject,
                permit=permit,
            )
        )
        return standing_pb2.DecideQuarantineResponse(quarantine=_quarantine(decided))

    async def GetReviewAnalytics(
        self, request: standing_pb2.GetReviewAnalyticsRequest, context: Context
    ) -> standing_pb2.GetReviewAnalyticsResponse:
        """Counts under every heading, and threats."""
        found = await self._analytics.of(
            _datetime(request, "start"), _datetime(request, "end"), request.run_id
        )
        return _analytics(found)


def _place(token: str) -> tuple[float, str] | None:
    position = decode_token(token, "standings")
    if position is None:
        return None
    value, _, name = str(position).partition(" ")
    try:
        return float(value), name
    except ValueError as error:
        raise InvalidArgument("PAGE_TOKEN_INVALID", "this is no page token") from error


def _standing(standing: Standing) -> standing_pb2.Standing:
    row = standing.row
    return standing_pb2.Standing(
        participant=row.participant,
        reputation=row.reputation,
        judged=row.judged,
        accepted=row.accepted,
        rejected=row.rejected,
        held=row.held,
        drift=row.drift,
        colludes_with=row.colludes_with,
        last_time=_time(row.last_at),
        quarantine=_quarantine(standing.quarantine) if standing.quarantine else None,
    )


def _entry(judged: Judged) -> standing_pb2.GetStandingResponse.Entry:
    row = judged.row
    return standing_pb2.GetStandingResponse.Entry(
        run_id=row.run_id,
        round=row.round,
        update_id=row.update_id,
        verdict=review_pb2.Update.Verdict.Value(f"VERDICT_{row.verdict.upper()}"),
        score=row.score,
        reputation=judged.reputation,
        time=_time(row.created_at),
    )


def _quarantine(row: QuarantineRow) -> standing_pb2.Quarantine:
    return standing_pb2.Quarantine(
        quarantine_id=row.quarantine_id,
        participant=row.participant,
        state=standing_pb2.Quarantine.State.Value(f"STATE_{row.state.upper()}"),
        reason=row.reason,
        update_ids=row.update_ids,
        decided_by=row.decided_by,
        decision_reason=row.decision_reason,
        propose_time=_time(row.proposed_at),
        decide_time=_time(row.decided_at) if row.decided_at is not None else None,
    )


def _analytics(found: Found) -> _Response:
    return _Response(
        start=_time(found.scope.start),
        end=_time(found.scope.end),
        total=_counts([found.total])[0],
        by_day=_counts(found.by("day")),
        by_participant=_counts(found.by("participant")),
        by_attack=_counts(found.by("attack")),
        by_examiner=_counts(found.by("examiner")),
        seconds_p50=found.seconds_p50,
        seconds_p99=found.seconds_p99,
        threats=[_threat(each) for each in found.threats],
    )


def _counts(rows: Iterable[CountRow]) -> list[_Response.Count]:
    return [
        _Response.Count(
            key=row.key,
            judged=row.judged,
            accepted=row.accepted,
            rejected=row.rejected,
            held=row.held,
            overridden=row.overridden,
        )
        for row in rows
    ]


def _threat(row: ThreatRow) -> _Response.Threat:
    return _Response.Threat(
        time=_time(row.at),
        kind=row.kind,
        participants=row.participants,
        run_id=row.run_id,
        round=row.round,
        score=row.score,
        text=in_words(row),
    )


def _datetime(request: standing_pb2.GetReviewAnalyticsRequest, field: str) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    try:
        stamp: Timestamp = getattr(request, field)
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        text = "this is no time"
        raise InvalidArgument(
            "FIELD_INVALID", f"{field}: {text}", violations=[FieldViolation(field, text)]
        ) from error


def _time(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
