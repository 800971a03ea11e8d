"""Runs and rounds as messages."""

from __future__ import annotations

from aegis.v1 import training_pb2
from aegis_server.training.store import StoredParticipant, StoredRound
from aegis_server.training.views import RunView


def run_message(view: RunView) -> training_pb2.Run:
    """Returns a run without its rounds."""
    run, last = view.run, view.last
    message = training_pb2.Run(
        run_id=run.run_id,
        plan=view.plan,
        state=training_pb2.Run.State.ValueType(run.state),
        reason=run.reason,
        actor=run.actor,
        policy_revision=run.policy_revision,
        rule_id=run.rule_id,
        noise_multiplier=run.noise_multiplier,
        epsilon=view.epsilon,
        participants=[
            training_pb2.Site(name=site.name, node_id=site.node_id, examples=site.examples)
            for site in view.sites
        ],
    )
    message.create_time.FromDatetime(run.created_at)
    message.update_time.FromDatetime(run.updated_at)
    if last is not None:
        message.rounds_completed = last.round
        message.model_sha256 = last.model_sha256
        message.accuracy = last.accuracy
    return message


def round_message(
    found: StoredRound, participants: tuple[StoredParticipant, ...]
) -> training_pb2.Round:
    """Returns a round with what became of its participants."""
    message = training_pb2.Round(
        round=found.round,
        model_sha256=found.model_sha256,
        accuracy=found.accuracy,
        loss=found.loss,
        epsilon=found.epsilon,
        steps=found.steps,
        fallback=found.fallback,
        participants=[
            training_pb2.ParticipantRound(
                participant=p.participant,
                loss=p.loss,
                accuracy=p.accuracy,
                epsilon=p.epsilon,
                examples=p.examples,
                outcome=training_pb2.ParticipantRound.Outcome.ValueType(p.outcome),
                update_id=p.update_id,
                reason=p.reason,
                seconds=p.seconds,
                bytes_sent=p.bytes_sent,
                bytes_received=p.bytes_received,
                tries=p.tries,
                steps=p.steps,
                auc=p.auc,
            )
            for p in participants
        ],
    )
    if found.scan:
        message.scan.ParseFromString(found.scan)
    message.complete_time.FromDatetime(found.completed_at)
    return message


def full_message(view: RunView) -> training_pb2.Run:
    """Returns a run with its rounds."""
    run = run_message(view)
    run.rounds.extend(round_message(found, participants) for found, participants in view.rounds)
    return run
