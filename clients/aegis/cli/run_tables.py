"""Runs as tables: rounds, participants, and runs beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.text import Text

from aegis.cli.durations import spoken
from aegis.cli.session import name_of, out, show_table, when
from aegis.v1 import training_pb2

Outcome = training_pb2.ParticipantRound

# Neither asked in vain nor doubted.
_WELL = frozenset({Outcome.OUTCOME_AGGREGATED, Outcome.OUTCOME_LEFT_OUT, Outcome.OUTCOME_NOT_ASKED})


def state_of(found: training_pb2.Run) -> str:
    """Returns a run's state as people write it."""
    return name_of(training_pb2.Run.State, found.state, "STATE_")


def outcome_of(each: training_pb2.ParticipantRound) -> str:
    """Returns what became of a participant as people write it."""
    return name_of(Outcome.Outcome, each.outcome, "OUTCOME_").replace("_", " ")


def outcome_count(
    round_: training_pb2.Round, *outcomes: training_pb2.ParticipantRound.Outcome.ValueType
) -> int:
    """Returns how many participants of a round came to one of these outcomes."""
    return sum(participant.outcome in outcomes for participant in round_.participants)


def lost(round_: training_pb2.Round) -> list[training_pb2.ParticipantRound]:
    """Returns those who were asked and are not in the model for a reason of their own."""
    return [each for each in round_.participants if each.outcome not in _WELL]


def scan_of(round_: training_pb2.Round) -> str:
    """Returns what the search for a backdoor found in the round's model, in a few words."""
    if not round_.HasField("scan"):
        return ""
    if round_.scan.suspicious:
        return "model blocked"
    return f"{len(round_.scan.excluded)} taken out" if round_.scan.excluded else "none"


def headline(found: training_pb2.Run) -> None:
    """Prints which run this is and how it stands."""
    out.print(f"[bold]{found.run_id}[/] {state_of(found)} {escape(found.reason)}".rstrip())


def show_rounds(found: training_pb2.Run) -> None:
    """Prints one line a round."""
    show_table(
        "rounds",
        [
            *("round", "accuracy", "loss", "epsilon", "aggregated", "rejected", "lost"),
            *("not asked", "backdoor"),
        ],
        [
            (
                round_.round,
                f"{round_.accuracy:.3f}",
                f"{round_.loss:.3f}",
                f"{round_.epsilon:.2f}",
                outcome_count(round_, Outcome.OUTCOME_AGGREGATED),
                outcome_count(round_, Outcome.OUTCOME_REJECTED),
                len(lost(round_)) - outcome_count(round_, Outcome.OUTCOME_REJECTED),
                outcome_count(round_, Outcome.OUTCOME_NOT_ASKED),
                scan_of(round_),
            )
            for round_ in found.rounds
        ],
        spare=["not asked", "loss", "backdoor"],
    )


def show_participants(found: training_pb2.Run) -> None:
    """Prints what happened to each participant in every round."""
    show_table(
        "participants",
        [
            *("round", "participant", "outcome", "tries", "steps", "epsilon", "took"),
            *("sent", "received", "reason"),
        ],
        [
            (
                round_.round,
                each.participant,
                Text(outcome_of(each), style="" if each.outcome in _WELL else "red"),
                each.tries,
                each.steps,
                f"{each.epsilon:.2f}",
                spoken(each.seconds),
                each.bytes_sent,
                each.bytes_received,
                each.reason,
            )
            for round_ in found.rounds
            for each in round_.participants
        ],
        folding=["reason"],
        spare=["sent", "received", "took"],
    )


def show_runs(runs: Sequence[training_pb2.Run]) -> None:
    """Prints one line a run."""
    show_table(
        "runs",
        ["run", "state", "rounds", "accuracy", "epsilon", "review", "sites", "started", "by"],
        [
            (
                found.run_id,
                state_of(found),
                f"{found.rounds_completed}/{found.plan.rounds}",
                f"{found.accuracy:.3f}",
                f"{found.epsilon:.2f}",
                "on" if found.plan.review else "off",
                _sites(found.plan),
                when(found, "create_time"),
                found.actor,
            )
            for found in runs
        ],
        spare=["by", "started", "sites"],
    )


def show_comparison(compared: training_pb2.CompareRunsResponse) -> None:
    """Prints how runs did, and what their plans differ in."""
    runs = compared.runs
    rows: list[tuple[object, ...]] = [
        ("state", *(state_of(each) for each in runs)),
        ("rounds", *(f"{each.rounds_completed}/{each.plan.rounds}" for each in runs)),
        ("accuracy", *(f"{each.accuracy:.4f}" for each in runs)),
        ("best accuracy", *(f"{_best(each):.4f}" for each in runs)),
        ("epsilon", *(f"{each.epsilon:.4f}" for each in runs)),
        ("lost answers", *(sum(len(lost(round_)) for round_ in each.rounds) for each in runs)),
        ("model", *(each.model_sha256.hex()[:12] for each in runs)),
    ]
    rows += [(f"plan.{each.field}", *each.values) for each in compared.differences]
    show_table("runs", ["", *(each.run_id for each in runs)], rows)


def _best(found: training_pb2.Run) -> float:
    return max((round_.accuracy for round_ in found.rounds), default=0.0)


def _sites(plan: training_pb2.RunPlan) -> str:
    sites = plan.sites or training_pb2.SITES_EMBEDDED
    return f"{plan.participants} {name_of(training_pb2.Sites, sites, 'SITES_')}"
