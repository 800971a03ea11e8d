"""What server and coordinator tell each other fits into messages, for the largest run there is."""

from __future__ import annotations

from aegis.channel import OPTIONS
from aegis.v1 import training_pb2
from aegis_server.entrance import LARGER
from aegis_server.training.coordination import brief

Outcome = training_pb2.ParticipantRound


def _round(reason: str) -> training_pb2.Round:
    return training_pb2.Round(
        round=499,
        loss=0.5,
        accuracy=0.9,
        epsilon=8.0,
        steps=2000,
        participants=[
            Outcome(
                participant=f"{'hospital-' * 6}{number}",
                loss=0.5,
                accuracy=0.9,
                auc=0.9,
                epsilon=8.0,
                examples=2**31 - 1,
                outcome=Outcome.OUTCOME_FAILED,
                update_id="update-0123456789abcdef0123456789",
                reason=reason,
                seconds=0.5,
                bytes_sent=2**27,
                bytes_received=2**27,
                tries=6,
                steps=2000,
            )
            for number in range(1000)
        ],
    )


def test_a_round_of_a_thousand_can_be_told() -> None:
    """With the longest reasons, in characters of three bytes."""
    size = _round("\u4e2d" * 200).ByteSize()
    assert 256 * 1024 < size < LARGER["/aegis.v1.CoordinatorService/CompleteRound"]


def test_the_longest_run_can_be_taken_up() -> None:
    """Five hundred rounds, of as many sites as a run of ours had."""
    most = dict(OPTIONS)["grpc.max_receive_message_length"]
    told = _round("not drawn")
    for each in told.participants:
        each.participant = each.participant.removeprefix("hospital-" * 6)
    assert 500 * told.ByteSize() > most > 500 * brief(told).ByteSize()
