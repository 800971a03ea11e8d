"""The healing report: what was healed, what was not, and what was prevented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from aegis.errors import FieldViolation, InvalidArgument
from aegis.serving.database import Database
from aegis.v1 import execution_pb2
from aegis_server.execution.healing import store
from aegis_server.execution.healing.store import Healed, Slice, Total
from aegis_server.execution.states import NOT_HEALED, S, name_of

Report = execution_pb2.GetHealingReportResponse

_USUAL = timedelta(hours=24)
_USUAL_BUCKETS = 24
_BUCKETS_MAX = 1000
_SECOND = timedelta(seconds=1)
_PREVENTED = frozenset({S.STATE_DENIED, S.STATE_REFUSED, S.STATE_REJECTED})
# They came to nothing, and nobody prevented or tried anything.
_NEITHER = frozenset({S.STATE_DRY_RUN, S.STATE_EXPIRED, S.STATE_CANCELLED})


class Reports:
    """Counts actions where they are stored."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    async def report(self, request: execution_pb2.GetHealingReportRequest) -> Report:
        """Returns the report; raises `InvalidArgument` (FIELD_INVALID)."""
        start, end, width = _times(request, self._clock())
        async with self._database.transaction() as connection:
            totals = await store.totals(connection, start, end)
            healed = await store.times(connection, start, end)
            slices = await store.slices(connection, start, end, width)
            refused = await store.refusals(connection, start, end)
        answer = Report(
            buckets=_buckets(slices, start, end, width),
            rows=_rows(totals, healed),
            refusals=[Report.Refusals(reason=name, count=count) for name, count in refused],
        )
        answer.start_time.FromDatetime(start)
        answer.end_time.FromDatetime(end)
        return answer


def _times(
    request: execution_pb2.GetHealingReportRequest, now: datetime
) -> tuple[datetime, datetime, timedelta]:
    try:
        end = request.end_time.ToDatetime(UTC) if request.HasField("end_time") else now
        start = (
            request.start_time.ToDatetime(UTC) if request.HasField("start_time") else end - _USUAL
        )
    except (ValueError, OverflowError) as error:
        raise _bad("start_time", "this is no time") from error
    if start >= end:
        raise _bad("start_time", "it has to be before end_time")
    # Rounded up, or there would be one more, of a microsecond.
    width = max(-((start - end) // _USUAL_BUCKETS), _SECOND)
    if request.HasField("bucket"):
        width = request.bucket.ToTimedelta()
    if (end - start) / width > _BUCKETS_MAX:
        raise _bad("bucket", f"at most {_BUCKETS_MAX} buckets")
    return start, end, width


def _rows(totals: Iterable[Total], healed: Iterable[Healed]) -> list[Report.Row]:
    """Returns a row for all, and one for each type."""
    counts: dict[str, Counter[int]] = {"": Counter()}
    for verb, state, count in totals:
        counts[""][state] += count
        if verb:
            counts.setdefault(verb, Counter())[state] += count
    rows = {verb: _row(verb, found) for verb, found in counts.items()}
    for each in healed:
        row = rows[each.verb]
        row.time_to_heal_p50.FromTimedelta(each.p50)
        row.time_to_heal_p95.FromTimedelta(each.p95)
    return list(rows.values())


def _row(verb: str, found: Counter[int]) -> Report.Row:
    states = {
        name_of(execution_pb2.Action.State.ValueType(state)).upper(): count
        for state, count in found.items()
    }
    return Report.Row(action=verb, total=found.total(), states=states)


def _buckets(
    slices: Sequence[Slice], start: datetime, end: datetime, width: timedelta
) -> list[Report.Bucket]:
    buckets: list[Report.Bucket] = []
    # Counted, for behind the last one the calendar may end.
    for number in range(-((start - end) // width)):
        bucket = Report.Bucket()
        bucket.start_time.FromDatetime(start + number * width)
        buckets.append(bucket)
    for each in slices:
        bucket = buckets[round((each.start - start) / width)]
        if each.state == S.STATE_VERIFIED:
            bucket.healed += each.number
        elif each.state in NOT_HEALED:
            bucket.failed += each.number
        elif each.state in _PREVENTED:
            bucket.prevented += each.number
        elif each.state not in _NEITHER:
            bucket.open += each.number
    return buckets


def _bad(field: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        "FIELD_INVALID", f"{field}: {expected}", violations=[FieldViolation(field, expected)]
    )
