"""Counts of training and review: runs, the privacy ledger, participants, verdicts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from aegis.audit.report.facts import (
    Count,
    DatasetBudget,
    ParticipantFacts,
    ReviewFacts,
    RunFacts,
    VerdictCount,
)
from aegis.audit.report.reading import evidence_of, number_of, reason_of, tally
from aegis.v1 import audit_pb2, training_pb2

_VERDICTS = ("accepted", "rejected", "held")


@dataclass(slots=True)
class _Run:
    """What is known of a run so far; `touched` once a record of it is in the period."""

    actor: str
    plan: training_pb2.RunPlan
    noise_multiplier: float
    state: str = "starting"
    rounds: int = 0
    epsilon: float = 0.0
    touched: bool = False


@dataclass(slots=True)
class _Ledger:
    """The last of what the server wrote about a data set's budget."""

    limit: float | None = None
    delta: float | None = None
    spent_before: float | None = None
    spent: float | None = None
    refused: int = 0


@dataclass(slots=True)
class _Part:
    """What one site did on one data set."""

    runs: set[str] = field(default_factory=set)
    aggregated: int = 0
    left_out: int = 0


class RunCounts:
    """Takes every RUN record before the period's end; those before its start only set the scene."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._ledgers: dict[str, _Ledger] = {}
        self._parts: dict[tuple[str, str], _Part] = {}

    def take(self, record: audit_pb2.AuditRecord, *, inside: bool) -> None:
        """Takes the next record, of the period or of what was before it."""
        if record.action == "start" and record.subject_id:
            self._started(record)
        run = self._runs.get(record.subject_id)
        self._budget(record, run, inside=inside)
        # A round that was refused has changed nothing.
        refused = record.action == "complete_round" and record.outcome == "refused"
        if run is None or refused:
            return
        run.touched |= inside
        if record.action == "complete_round":
            run.rounds = max(run.rounds, int(number_of(record, "round") or 0))
            if inside:
                self._took_part(record, run.plan.dataset)
        elif record.action != "start":
            run.state = record.outcome
        run.epsilon = number_of(record, "epsilon") or run.epsilon

    def _started(self, record: audit_pb2.AuditRecord) -> None:
        try:
            plan = training_pb2.RunPlan.FromString(evidence_of(record, "plan"))
        except DecodeError:
            plan = training_pb2.RunPlan(dataset=record.details.get("dataset", ""))
        noise = number_of(record, "noise_multiplier") or 0.0
        self._runs[record.subject_id] = _Run(record.actor, plan, noise)

    def _budget(self, record: audit_pb2.AuditRecord, run: _Run | None, *, inside: bool) -> None:
        dataset = record.details.get("dataset", "")
        if not dataset and run is not None:
            dataset = run.plan.dataset
        if not dataset:
            return
        ledger = self._ledgers.setdefault(dataset, _Ledger())
        spent = number_of(record, "budget_spent_epsilon")
        if spent is not None:
            ledger.limit = number_of(record, "budget_limit_epsilon")
            ledger.delta = number_of(record, "budget_delta")
            ledger.spent = spent
            if not inside:
                ledger.spent_before = spent
        if inside and (record.action, record.outcome) == ("start", "refused"):
            ledger.refused += 1

    def _took_part(self, record: audit_pb2.AuditRecord, dataset: str) -> None:
        try:
            found = json.loads(evidence_of(record, "participants.json") or b"{}")
        except ValueError:
            return
        for outcome, names in sorted(found.items()):
            for name in names:
                part = self._parts.setdefault((str(name), dataset), _Part())
                part.runs.add(record.subject_id)
                if outcome == "aggregated":
                    part.aggregated += 1
                else:
                    part.left_out += 1

    def runs(self) -> tuple[RunFacts, ...]:
        """Returns the runs of the period, in the order they began."""
        return tuple(_facts_of(run_id, run) for run_id, run in self._runs.items() if run.touched)

    def datasets(self) -> tuple[DatasetBudget, ...]:
        """Returns the ledgers of the data sets that a run has named, by name."""
        return tuple(self._dataset(name, self._ledgers[name]) for name in sorted(self._ledgers))

    def _dataset(self, name: str, ledger: _Ledger) -> DatasetBudget:
        runs = [run for run in self._runs.values() if run.touched and run.plan.dataset == name]
        simulated = sum(run.plan.simulation for run in runs)
        return DatasetBudget(
            dataset=name,
            limit=ledger.limit,
            delta=ledger.delta,
            spent_before=ledger.spent_before,
            spent=ledger.spent,
            runs_charged=len(runs) - simulated,
            runs_simulated=simulated,
            runs_refused=ledger.refused,
        )

    def participants(self) -> tuple[ParticipantFacts, ...]:
        """Returns who took part, by name."""
        found = []
        for (name, dataset), part in sorted(self._parts.items()):
            charged = [run for run in map(self._runs.get, part.runs) if run is not None]
            epsilons = [run.epsilon for run in charged if not run.plan.simulation]
            found.append(
                ParticipantFacts(
                    participant=name,
                    dataset=dataset,
                    runs=len(part.runs),
                    rounds_aggregated=part.aggregated,
                    rounds_left_out=part.left_out,
                    epsilon_largest=max(epsilons, default=0.0),
                )
            )
        return tuple(found)


def _facts_of(run_id: str, run: _Run) -> RunFacts:
    plan = run.plan
    return RunFacts(
        run_id=run_id,
        actor=run.actor,
        dataset=plan.dataset,
        model=plan.model,
        state=run.state,
        review=plan.review,
        simulation=plan.simulation,
        participants=plan.participants,
        rounds_planned=plan.rounds,
        rounds_completed=run.rounds,
        target_epsilon=plan.target_epsilon,
        delta=plan.delta,
        noise_multiplier=run.noise_multiplier,
        clip_norm=plan.clip_norm,
        sample_rate=plan.sample_rate,
        local_steps=plan.local_steps,
        epsilon=run.epsilon,
    )


class ReviewCounts:
    """Takes the REVIEW records of the period."""

    def __init__(self) -> None:
        self._received = 0
        self._overridden = 0
        self._verdicts: dict[str, Counter[str]] = {}
        self._refusals: Counter[str] = Counter()

    def take(self, record: audit_pb2.AuditRecord) -> None:
        """Takes the next record."""
        if record.outcome == "received":
            self._received += 1
        elif record.outcome == "refused":
            self._refusals[reason_of(record) or "unnamed"] += 1
        elif record.outcome in _VERDICTS:
            participant = record.details.get("participant", "")
            self._verdicts.setdefault(participant, Counter())[record.outcome] += 1
            self._overridden += record.action != "judge"

    def facts(self, runs: tuple[RunFacts, ...]) -> ReviewFacts:
        """Returns the counts; `runs` are those of the period."""
        accepted, rejected, held = (
            sum(found[verdict] for found in self._verdicts.values()) for verdict in _VERDICTS
        )
        return ReviewFacts(
            received=self._received,
            accepted=accepted,
            rejected=rejected,
            held=held,
            overridden=self._overridden,
            refusals=tuple(Count(name, count) for name, count in tally(self._refusals)),
            participants=tuple(
                VerdictCount(name, found["accepted"], found["rejected"], found["held"])
                for name, found in sorted(self._verdicts.items())
            ),
            runs_without_review=sum(not run.review for run in runs),
        )
