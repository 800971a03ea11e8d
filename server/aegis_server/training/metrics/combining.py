"""The metrics of a run: what the server knows, and what participants wrote, in one answer.

Where both have a figure the server's counts, and the participant's is told beside it as
`reported_NAME`. Participants weigh as many rows as they were enrolled with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aegis.errors import NotFound
from aegis.serving.database import Database
from aegis.v1 import training_pb2
from aegis_server.objects.places import Place
from aegis_server.training.metrics import store
from aegis_server.training.metrics.reading import Found, object_name, read_all
from aegis_server.training.metrics.store import Measured, MeasuredRound

# Of one answer; a run may have 1,000 participants and 500 rounds.
PARTICIPANTS_MAX = 2000

Outcome = training_pb2.ParticipantRound
_ANSWERED = frozenset(
    {
        Outcome.OUTCOME_AGGREGATED,
        Outcome.OUTCOME_REJECTED,
        Outcome.OUTCOME_HELD,
        Outcome.OUTCOME_LEFT_OUT,
    }
)
_ASKED = _ANSWERED | {Outcome.OUTCOME_FAILED, Outcome.OUTCOME_MISSING, Outcome.OUTCOME_REFUSED}
_KNOWN = ("epsilon", "steps", "seconds", "bytes_sent", "bytes_received", "tries", "examples")
# Exact figures about rows: the server has them of simulations only.
_OF_ROWS = ("loss", "accuracy", "auc")


@dataclass(frozen=True, slots=True)
class OfParticipant:
    """What is known of one participant in one round; `source` names the object, if there is one."""

    participant: str
    round: int
    values: Mapping[str, float]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one figure over participants; the mean is by their enrolled rows."""

    mean: float
    least: float
    most: float
    count: int


@dataclass(frozen=True, slots=True)
class OfRound:
    """A round: the model after it, and its participants together."""

    measured: MeasuredRound
    summaries: Mapping[str, Summary]


@dataclass(frozen=True, slots=True)
class Combined:
    """`missing` and `unusable` name objects; `last` is the last round told, unless it is all."""

    rounds: tuple[OfRound, ...]
    participants: tuple[OfParticipant, ...]
    missing: tuple[str, ...]
    unusable: tuple[str, ...]
    last: int | None


class RunMetrics:
    """What `GetRunMetrics` answers from; without a place nobody wrote anything."""

    def __init__(self, database: Database, place: Place | None) -> None:
        self._database = database
        self._place = place

    async def of(self, run_id: str, *, after: int = -1) -> Combined:
        """Returns the metrics of the rounds behind number `after`, as many as one answer holds.

        Raises `NotFound`, or `Unavailable` (STORAGE_UNAVAILABLE).
        """
        async with self._database.transaction() as connection:
            plan = await store.plan_of(connection, run_id)
            if plan is None:
                raise NotFound("RESOURCE_NOT_FOUND", f"there is no run {run_id}", resource=run_id)
            rounds = await store.rounds_after(connection, run_id, after)
            told = _as_many_as_fit(rounds)
            measured = (
                await store.participants_between(connection, run_id, told[0].round, told[-1].round)
                if told
                else []
            )
        parsed = training_pb2.RunPlan.FromString(plan)
        found = await self._found(run_id, parsed, measured)
        participants = [
            _combined(each, found.get(_name(run_id, each)), public=parsed.simulation)
            for each in measured
            if each.outcome in _ASKED
        ]
        return Combined(
            rounds=tuple(_round(each, participants, measured) for each in told),
            participants=tuple(participants),
            missing=tuple(
                name
                for each in measured
                if each.outcome in _ANSWERED
                and (name := _name(run_id, each)) in found
                and found[name].missing
            ),
            unusable=tuple(
                f"{each.name}: {each.problem}" for each in found.values() if each.problem
            ),
            last=told[-1].round if len(told) < len(rounds) else None,
        )

    async def _found(
        self, run_id: str, plan: training_pb2.RunPlan, measured: Sequence[Measured]
    ) -> dict[str, Found]:
        # Only sites of their own write objects; of the others the server knows everything.
        if self._place is None or plan.sites != training_pb2.SITES_ENROLLED:
            return {}
        names = [_name(run_id, each) for each in measured if each.outcome in _ASKED]
        return await read_all(self._place, names)


def _name(run_id: str, each: Measured) -> str:
    return object_name(run_id, each.participant, each.round)


def _as_many_as_fit(rounds: Sequence[MeasuredRound]) -> list[MeasuredRound]:
    told: list[MeasuredRound] = []
    asked = 0
    for each in rounds:
        asked += each.asked
        if told and asked > PARTICIPANTS_MAX:
            break
        told.append(each)
    return told


def _combined(each: Measured, found: Found | None, *, public: bool) -> OfParticipant:
    names = (*_KNOWN, *_OF_ROWS) if public else _KNOWN
    ours = {name: float(getattr(each, name)) for name in names}
    theirs = found.values if found is not None else {}
    values = {(f"reported_{name}" if name in ours else name): theirs[name] for name in theirs}
    source = found.name if found is not None and theirs else ""
    return OfParticipant(each.participant, each.round, {**values, **ours}, source)


def _round(
    of: MeasuredRound, participants: Iterable[OfParticipant], measured: Iterable[Measured]
) -> OfRound:
    rows = {each.participant: each.examples for each in measured if each.round == of.round}
    figures: dict[str, list[tuple[float, int]]] = {}
    for each in participants:
        if each.round == of.round:
            for name, value in each.values.items():
                figures.setdefault(name, []).append((value, rows[each.participant]))
    return OfRound(of, {name: _summary(pairs) for name, pairs in sorted(figures.items())})


def _summary(pairs: Sequence[tuple[float, int]]) -> Summary:
    values = [value for value, _ in pairs]
    whole = sum(rows for _, rows in pairs)
    # Each part before the sum: a figure near the largest number must not become infinite.
    mean = sum(value * ((rows / whole) if whole else 1 / len(pairs)) for value, rows in pairs)
    return Summary(mean, min(values), max(values), len(values))
