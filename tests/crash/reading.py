"""Reads a history out of a cluster's ledger and an executor's database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from aegis.v1 import audit_pb2
from tests.auditing import chained
from tests.crash.history import (
    Asked,
    Attempt,
    Budget,
    Effect,
    Ending,
    History,
    Intent,
    Paused,
    Record,
    Told,
    Verdict,
)

Query: TypeAlias = Callable[[str], list[Any]]
Row = TypeVar("Row")

_INTENTS = "select request_id::text, action_id, action, intent_at from aegis_executor.intent"
_ATTEMPTS = """
select request_id::text, number, uid, sent_at, false from aegis_executor.attempt
union all
select request_id::text, number, uid, sent_at, true from aegis_executor.undo_attempt
"""
_ENDINGS = """
select request_id::text, state, ended_at, reason, observations from aegis_executor.ending
"""
_VERDICTS = "select request_id::text, state, at from aegis_executor.verdict"
_LOG = """
select record, leaf_hash, prev_chain_hash, chain_hash from aegis_executor.audit_record
order by idx
"""


def read(
    query: Query,
    writes: Iterable[Mapping[str, Any]],
    asked: Iterable[Asked],
    told: Iterable[Told],
    *,
    paused: Iterable[Paused] = (),
    budgets: Iterable[Budget] = (),
) -> History:
    """Returns the history of these requests, with every effect the executor had on anything."""
    asked = tuple(asked)
    wanted = {each.request_id for each in asked}

    def rows(make: Callable[..., Row], statement: str) -> tuple[Row, ...]:
        return tuple(make(*row) for row in query(statement) if row[0] in wanted)

    records, broken = _records(query(_LOG))
    return History(
        effects=tuple(_effects(writes)),
        asked=asked,
        told=tuple(each for each in told if each.request_id in wanted),
        intents=rows(Intent, _INTENTS),
        attempts=rows(Attempt, _ATTEMPTS),
        endings=rows(Ending, _ENDINGS),
        verdicts=rows(Verdict, _VERDICTS),
        records=records,
        paused=tuple(paused),
        budgets=tuple(budgets),
        broken=broken,
    )


def _effects(writes: Iterable[Mapping[str, Any]]) -> Iterable[Effect]:
    names = ("audit_id", "verb", "resource", "namespace", "name", "uid")
    for write in writes:
        # What the executor tells people about an object is no change of that object.
        if write["changed"] and write["resource"] != "events":
            at = datetime.fromisoformat(write["at"])
            yield Effect(at, *(write[name] for name in names))


def _records(rows: Iterable[tuple[bytes, bytes, bytes, bytes]]) -> tuple[tuple[Record, ...], str]:
    stored = [
        audit_pb2.StoredAuditRecord(
            record=bytes(record),
            leaf_hash=bytes(leaf),
            prev_chain_hash=bytes(previous),
            chain_hash=bytes(chain),
        )
        for record, leaf, previous, chain in rows
    ]
    broken = ""
    try:
        chained(stored)
    except AssertionError as error:
        broken = f"the chain does not hold: {error}"
    records = (audit_pb2.AuditRecord.FromString(each.record) for each in stored)
    return tuple(Record(record.subject_id, record.outcome) for record in records), broken
