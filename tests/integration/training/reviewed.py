"""What the review room would have on its rows of a round that is only reported in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aegis.v1 import training_pb2
from aegis_learning import parameters

Outcome = training_pb2.ParticipantRound


async def judged(
    room: Any,
    run_id: str,
    verdicts: Mapping[str, str],
    *,
    number: int = 1,
    attempt: int = 1,
    fallback: Sequence[str] | None = None,
) -> None:
    """Leaves a round as the review does; updates are called RUN-ROUND-ATTEMPT-PARTICIPANT."""
    async with room.database.transaction() as connection:
        await connection.execute(
            "insert into aegis.review_round (run_id, round, attempt, closed_at, judged_at,"
            " fallback, fallback_participants) values (%s, %s, %s, now(), now(), %s, %s)"
            " on conflict do nothing",
            (run_id, number, attempt, fallback is not None, list(fallback or [])),
        )
        for name, verdict in verdicts.items():
            await connection.execute(
                "insert into aegis.review_update (update_id, run_id, round, attempt, participant,"
                " sha256, size_bytes, created_at, verdict, reviewed_at)"
                " values (%s, %s, %s, %s, %s, %s, 6, now(), %s,"
                " case when %s = 'pending' then null else now() end) on conflict do nothing",
                (
                    *(named(run_id, name, number, attempt), run_id, number, attempt, name),
                    *(parameters.digest(name.encode()), verdict, verdict),
                ),
            )


def named(run_id: str, participant: str, number: int = 1, attempt: int = 1) -> str:
    """Returns what `judged` calls an update."""
    return f"{run_id}-{number}-{attempt}-{participant}"


async def bear_out(room: Any, run_id: str, report: training_pb2.Round) -> None:
    """Has the review accept what a report says is in the model of a run with review."""
    run = (await room.runs.get(run_id)).run
    if not report.round or not training_pb2.RunPlan.FromString(run.plan).review:
        return
    aggregated = [p for p in report.participants if p.outcome == Outcome.OUTCOME_AGGREGATED]
    for each in aggregated:
        each.update_id = named(run_id, each.participant, report.round)
    verdicts = {each.participant: "accepted" for each in aggregated}
    await judged(room, run_id, verdicts, number=report.round)
