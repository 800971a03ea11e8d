"""One try of a round: who is asked again, and what that is counted as."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from flwr.common.constant import ErrorCode

from aegis.plans import default_plan
from aegis.v1 import training_pb2
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.models import family
from aegis_server.training.asking import Asking, Question, Tally
from aegis_server.training.batches import Sent, reply_of
from aegis_server.training.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    RecordDict,
    TaskIdentity,
)
from aegis_server.training.relaying import Collected
from aegis_server.training.seats.store import StoredSite
from aegis_server.training.selection import Choice
from aegis_server.training.strategy import ReviewedStrategy, to_arrays

MODEL = family("logistic", 30, 2)
End = training_pb2.CollectAnswersResponse
Outcome = training_pb2.ParticipantRound
SITE = StoredSite("run-1", "hospital-a", 1001, 100)


class Told:
    """A way to sites on which every message is answered by what the test says."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked = 0

    def gather(
        self, messages: Iterable[Message], *, timeout: float, enough: int, grace: float
    ) -> list[Message]:
        """As `LocalGrid.gather`."""
        waiting = list(messages)
        self.asked += len(waiting)
        if isinstance(self.answer, Collected):
            found = [reply_of(Sent(each, 10, self.answer)) for each in waiting]
            return [reply for reply in found if reply is not None]
        return [Message(self.answer, reply_to=each) for each in waiting]


def _ask(told: Told) -> tuple[Tally, Outcome]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0
    plan = default_plan(review=False)
    plan.min_participants, plan.local_steps, plan.retries = 1, 4, 2
    strategy = ReviewedStrategy([SITE], MODEL.shapes, None, FedAvg())
    asking = Asking(plan, told, strategy, [SITE])
    model = {name: np.zeros(shape, np.float32) for name, shape in MODEL.shapes.items()}
    question = Question(1, to_arrays(model), lambda repeat: ConfigRecord(), 0, {})
    strategy.aggregate_train(1, asking.ask(question, Choice((SITE.name,))))
    return asking.tallies[SITE.name], strategy.outcomes[SITE.name]


@pytest.mark.parametrize(("spent", "counted"), [(0, 0), (4, 4)])
def test_a_refusal_counts_as_the_server_counts_its_task(spent: int, counted: int) -> None:
    """Else the server refuses the round, and whoever hands a task back ends the run."""
    told = Told(Collected(end=End.END_REFUSED, reason="STATE_CONFLICT", steps=spent))
    tally, outcome = _ask(told)
    assert (tally.steps, told.asked) == (counted, 1)
    assert outcome.outcome == Outcome.OUTCOME_REFUSED


@pytest.mark.parametrize("reason", ["<class 'KeyError'>:<'patient 4711'>", "KeyError\0 4711"])
def test_of_an_error_only_its_kind_is_told(reason: str) -> None:
    """What an exception says may be what a row holds; no text can have a NUL in the database."""
    _, outcome = _ask(Told(Error(2, reason)))
    assert outcome.reason == "its training failed: KeyError"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (ErrorCode.MESSAGE_UNAVAILABLE, "its SuperNode did not take the message up in time"),
        (ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "its answer was not fetched in time"),
        (ErrorCode.NODE_UNAVAILABLE, "its SuperNode was away"),
        (ErrorCode.INVALID_FAB, "its SuperNode could not install the application"),
        (ErrorCode.CLIENT_APP_CRASHED, "the process of its application died"),
        (ErrorCode.UNKNOWN, "its training failed: Error"),
    ],
)
def test_what_flower_says_in_the_name_of_a_site_is_told_in_our_words(code: int, told: str) -> None:
    """Its own sentences all begin with the same word, which would be all that is left."""
    _, outcome = _ask(Told(Error(code, "Error: something - in many words")))
    assert outcome.reason == told


def test_a_tensor_may_have_any_name_and_fails_its_sender_only() -> None:
    """A NUL in it would keep the round from being stored, and end the run of everybody."""
    array = Array(np.zeros(2, np.float32))
    _, outcome = _ask(Told(RecordDict({"arrays": ArrayRecord({"w\0\n\u202e": array})})))
    assert outcome.outcome == Outcome.OUTCOME_FAILED
    assert outcome.reason.isprintable()
