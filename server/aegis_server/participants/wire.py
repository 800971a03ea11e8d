"""Participants and what they hold, as messages."""

from __future__ import annotations

from datetime import datetime, timedelta

from aegis.v1 import dataset_pb2, participant_pb2
from aegis_server.participants.holdings.store import StoredHolding
from aegis_server.participants.participants import View

# Streams say something at least so often, or are gone.
_SILENCE = timedelta(seconds=60)


def participant(view: View, now: datetime) -> participant_pb2.Participant:
    """Returns the message of a participant, with the holdings it has declared."""
    stored = view.participant
    seen = stored.stream_seen_at
    message = participant_pb2.Participant(
        name=stored.name,
        state=participant_pb2.Participant.State.ValueType(stored.state),
        node_id=stored.node_id,
        holdings=[holding(each) for each in view.holdings if each.rows is not None],
        invited_by=stored.invited_by,
        reason=stored.reason,
        connected=seen is not None and now - seen < _SILENCE and stored.revoked_at is None,
        software=stored.software,
    )
    times = {
        "invite_time": stored.invited_at,
        "enrol_time": stored.enrolled_at,
        "revoke_time": stored.revoked_at,
        "seen_time": seen,
        "certificate_end_time": stored.certificate_ends_at,
    }
    for field, moment in times.items():
        if moment is not None:
            getattr(message, field).FromDatetime(moment)
    if seen is not None:
        message.clock_offset.FromTimedelta(timedelta(seconds=stored.clock_offset_seconds))
    return message


def holding(stored: StoredHolding) -> dataset_pb2.Holding:
    """Returns the message of a declared holding."""
    message = dataset_pb2.Holding(
        participant=stored.participant,
        dataset=stored.dataset,
        rows=stored.rows or 0,
        class_counts=stored.class_counts,
        noised=stored.noised,
        provenance=stored.provenance,
        examples=stored.examples,
    )
    if stored.declared_at is not None:
        message.declare_time.FromDatetime(stored.declared_at)
    return message
