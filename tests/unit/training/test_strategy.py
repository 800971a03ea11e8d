"""The strategy: nothing a site sends can do more than fail that site."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Collection, Mapping

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from aegis.errors import AegisError, InvalidArgument
from aegis.v1 import review_pb2, training_pb2
from aegis_learning import parameters
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.krum import Krum
from aegis_learning.aggregation.private_mean import PrivateMean
from aegis_learning.aggregation.rule import Rule
from aegis_learning.models import family
from aegis_learning.parameters import Parameters, flatten
from aegis_server.training.asking import size_of
from aegis_server.training.grid import LocalGrid
from aegis_server.training.rounds import one_by_one
from aegis_server.training.sites import Site
from aegis_server.training.strategy import Judged, ReviewedStrategy, to_arrays

MODEL = family("logistic", 30, 2)
Outcome = training_pb2.ParticipantRound
Update = review_pb2.Update


def _constant(value: float) -> Parameters:
    return {name: np.full(shape, value, np.float32) for name, shape in MODEL.shapes.items()}


def _pickled() -> dict[str, Array]:
    arrays = {name: Array(values) for name, values in _constant(1).items()}
    arrays["layer1.bias"].data = pickle.dumps([1.0, 1.0])
    return arrays


def _sender(arrays: Mapping[str, np.ndarray | Array], **metrics: float) -> ClientApp:
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        record = ArrayRecord(
            {
                name: values if isinstance(values, Array) else Array(values)
                for name, values in arrays.items()
            }
        )
        claimed = MetricRecord({"num-examples": 1, **metrics})
        return Message(RecordDict({"arrays": record, "metrics": claimed}), reply_to=message)

    return app


def _round(
    senders: list[ClientApp],
    examples: list[int],
    gate: object = None,
    *,
    start: float = 10,
    rule: Rule | None = None,
) -> tuple[Parameters | None, dict[str, Outcome]]:
    sites = [
        Site(f"site-{n}", n, rows, app, {})
        for n, (app, rows) in enumerate(zip(senders, examples, strict=True), start=1)
    ]
    grid = LocalGrid({site.node_id: (site.app, site.config) for site in sites})
    strategy = ReviewedStrategy(sites, MODEL.shapes, gate, rule or FedAvg())  # type: ignore[arg-type]
    messages = strategy.configure_train(1, to_arrays(_constant(start)), ConfigRecord(), grid)
    replies = grid.send_and_receive(messages, timeout=5)
    arrays, _ = strategy.aggregate_train(1, replies)
    model = None if arrays is None else {name: array.numpy() for name, array in arrays.items()}
    return model, strategy.outcomes


def test_model_moves_by_the_mean_weighted_by_enrolled_rows() -> None:
    """30 rows of +1 and 10 of -1 move the model by a half."""
    model, _ = _round([_sender(_constant(1)), _sender(_constant(-1))], [30, 10])
    assert model is not None
    assert np.allclose(flatten(model), 10.5)


def test_claimed_number_of_examples_weighs_nothing() -> None:
    """A site that claims a billion rows has the weight it was enrolled with."""
    liar = _sender(_constant(-1), **{"num-examples": 1_000_000_000})
    model, _ = _round([_sender(_constant(1)), liar], [30, 10])
    assert model is not None
    assert np.allclose(flatten(model), 10.5)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (_constant(np.nan), "layer1.weight: holds NaN or infinity"),
        (_constant(-np.inf), "layer1.weight: holds NaN or infinity"),
        (_pickled(), "layer1.bias: is not a NumPy file"),
        ({}, "layer1.bias: is missing"),
        ({**_constant(1), "extra": np.zeros(1, np.float32)}, "extra"),
        ({"layer1.bias": np.zeros(2, np.float32)}, "layer1.weight"),
        ({**_constant(1), "layer1.bias": np.zeros(5, np.float32)}, "layer1.bias"),
        ({**_constant(1), "layer1.bias": np.zeros(2, np.float64)}, "float64"),
        ({**_constant(1), "layer1.bias": np.zeros(100_000, np.float32)}, "larger"),
    ],
    ids=["nan", "infinity", "pickle", "nothing", "extra", "missing", "shape", "type", "large"],
)
def test_answer_that_is_no_update_fails_its_sender_only(
    arrays: dict[str, np.ndarray | Array], reason: str
) -> None:
    """Not finite, pickled, foreign, missing, misshapen, mistyped or too large; the others go on."""
    model, outcomes = _round([_sender(_constant(1)), _sender(arrays)], [10, 10])
    assert model is not None
    assert np.allclose(flatten(model), 11)
    assert outcomes["site-1"].outcome == Outcome.OUTCOME_AGGREGATED
    assert outcomes["site-2"].outcome == Outcome.OUTCOME_FAILED
    assert reason in outcomes["site-2"].reason


def test_updates_that_overflow_the_model_give_none() -> None:
    """Each is finite and so is an update; what they add up to fails the round, not the process."""
    senders = [_sender(_constant(3e38)), _sender(_constant(3e38))]
    model, outcomes = _round(senders, [30, 10], start=3e38)
    assert model is None
    assert {outcome.outcome for outcome in outcomes.values()} == {Outcome.OUTCOME_FAILED}
    assert "NaN or infinity" in outcomes["site-1"].reason


def test_round_without_any_update_gives_no_model() -> None:
    """Silence must not look like a round."""
    model, outcomes = _round([_sender(_constant(np.inf))], [10])
    assert model is None
    assert outcomes["site-1"].outcome == Outcome.OUTCOME_FAILED


class _Verdicts:
    def __init__(self, verdicts: Mapping[str, Update | AegisError]) -> None:
        self.verdicts = verdicts
        self.asked: dict[str, bytes] = {}
        self.drawn: set[str] = set()

    def judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str] = ()
    ) -> Judged:
        self.asked.update(updates)
        self.drawn = set(asked)
        return Judged(self.verdicts)


def test_only_what_the_review_accepted_becomes_part_of_the_model() -> None:
    """Rejected, held, pending, refused and unmentioned updates are all left out."""
    finding = review_pb2.Finding(
        examiner="length", severity=review_pb2.Finding.SEVERITY_CRITICAL, text="8.4 deviations"
    )
    gate = _Verdicts(
        {
            "site-1": Update(update_id="u1", verdict=Update.VERDICT_ACCEPTED),
            "site-2": Update(update_id="u2", verdict=Update.VERDICT_REJECTED, findings=[finding]),
            "site-3": Update(update_id="u3", verdict=Update.VERDICT_HELD),
            "site-4": Update(update_id="u4", verdict=Update.VERDICT_PENDING),
            "site-5": InvalidArgument("UPDATE_NOT_FINITE", "layer1.bias: holds NaN"),
        }
    )
    model, outcomes = _round([_sender(_constant(n)) for n in range(1, 7)], [10] * 6, gate)
    assert model is not None
    assert np.allclose(flatten(model), 11)
    assert len(gate.asked) == 6
    assert [outcome.outcome for outcome in outcomes.values()] == [
        Outcome.OUTCOME_AGGREGATED,
        Outcome.OUTCOME_REJECTED,
        Outcome.OUTCOME_HELD,
        Outcome.OUTCOME_HELD,
        Outcome.OUTCOME_FAILED,
        Outcome.OUTCOME_FAILED,
    ]
    assert outcomes["site-2"].update_id == "u2"
    assert outcomes["site-2"].reason == "the review's length spoke against it"


def test_what_is_told_of_a_round_has_no_figure_of_the_review() -> None:
    """Participants read runs: a figure beside a verdict would tell them how far they may go."""
    finding = review_pb2.Finding(
        examiner="direction",
        measure="root_cosine",
        value=-0.31,
        severity=review_pb2.Finding.SEVERITY_CRITICAL,
        text="it points away from where the golden rows lead (cosine -0.31)",
    )
    rejected = Update(update_id="u1", verdict=Update.VERDICT_REJECTED, findings=[finding])
    _, outcomes = _round([_sender(_constant(1))], [10], _Verdicts({"site-1": rejected}))
    assert "direction" in outcomes["site-1"].reason
    assert not any(letter.isdigit() for letter in outcomes["site-1"].reason)


def test_gate_is_told_who_was_asked() -> None:
    """Who answered in vain and who did not, so that nobody else has a say in the round."""
    gate = _Verdicts({})
    _round([_sender(_constant(1)), _sender({})], [10, 10], gate)
    assert set(gate.asked) == {"site-1"}
    assert gate.drawn == {"site-1", "site-2"}


def test_updates_the_rule_does_not_choose_are_left_out_of_the_model() -> None:
    """Accepted by the review is not part of the model: that is told, and Krum's choice is."""
    senders = [_sender(_constant(value)) for value in (1.0, 1.0, 1.25, 9.0)]
    model, outcomes = _round(senders, [10] * 4, rule=Krum(participants=4, malicious=0))
    assert model is not None
    assert np.allclose(flatten(model), 11)
    assert sorted(outcome.outcome for outcome in outcomes.values()) == [
        Outcome.OUTCOME_AGGREGATED,
        *[Outcome.OUTCOME_LEFT_OUT] * 3,
    ]
    assert "no part" in outcomes["site-4"].reason


def test_gate_stands_in_front_of_every_rule() -> None:
    """What was rejected does not count for n either: too few are left, so there is no model."""
    accepted = Update(update_id="u", verdict=Update.VERDICT_ACCEPTED)
    rejected = Update(update_id="u", verdict=Update.VERDICT_REJECTED)
    gate = _Verdicts({"site-1": accepted, "site-2": accepted, "site-3": rejected})
    senders = [_sender(_constant(1.0)) for _ in range(3)]
    model, outcomes = _round(senders, [10] * 3, gate, rule=Krum(participants=3, malicious=0))
    assert model is None
    assert outcomes["site-1"].outcome == Outcome.OUTCOME_LEFT_OUT
    assert "needs 3" in outcomes["site-1"].reason
    assert outcomes["site-3"].outcome == Outcome.OUTCOME_REJECTED


def test_round_in_which_nobody_is_trusted_gives_no_model() -> None:
    """Everybody points away from the root update."""
    root = -flatten(_constant(1.0))
    senders = [_sender(_constant(1.0)) for _ in range(2)]
    model, outcomes = _round(senders, [10, 10], rule=FLTrust(root=root))
    assert model is None
    assert "root update" in outcomes["site-1"].reason


def test_site_that_never_answers_is_missing() -> None:
    """The strategy knows whom it asked."""
    sites = [Site("site-1", 1, 10, _sender(_constant(1)), {})]
    grid = LocalGrid({1: (sites[0].app, {})})
    strategy = ReviewedStrategy(sites, MODEL.shapes, None, FedAvg())
    strategy.configure_train(1, to_arrays(_constant(0)), ConfigRecord(), grid)
    assert strategy.aggregate_train(1, []) == (None, None)
    assert strategy.outcomes["site-1"].outcome == Outcome.OUTCOME_MISSING


class _Says:
    """A gate that says what a test tells it to."""

    attempt = 1

    def __init__(self, judged: Judged) -> None:
        self.judged = judged

    def judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str] = ()
    ) -> Judged:
        return self.judged


def _updates(*verdicts: Update.Verdict.ValueType) -> dict[str, Update | AegisError]:
    return {
        f"site-{n}": Update(update_id=f"u{n}", verdict=verdict)
        for n, verdict in enumerate(verdicts, start=1)
    }


def test_update_that_came_another_way_counts_with_its_enrolled_weight() -> None:
    """For a participant that was asked in vain; instead of the answer of one that was not."""
    verdicts = _updates(Update.VERDICT_ACCEPTED, Update.VERDICT_ACCEPTED)
    outside = {"site-2": parameters.encode(_constant(-1)), "site-9": b"of somebody not drawn"}
    gate = _Says(Judged(verdicts, outside))
    broken = _sender({})
    model, outcomes = _round([_sender(_constant(1)), broken], [30, 10], gate)
    assert model is not None
    assert np.allclose(flatten(model), 10.5)
    assert outcomes["site-2"].outcome == Outcome.OUTCOME_AGGREGATED
    assert "site-9" not in outcomes


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Update.VERDICT_HELD, Outcome.OUTCOME_HELD),
        (Update.VERDICT_REJECTED, Outcome.OUTCOME_REJECTED),
    ],
)
def test_verdict_on_an_update_that_came_another_way_is_its_senders_outcome(
    verdict: Update.Verdict.ValueType, outcome: Outcome.Outcome.ValueType
) -> None:
    """What its answer looked like is of no interest any more; a stranger has no outcome."""
    verdicts = {**_updates(Update.VERDICT_ACCEPTED, verdict), "site-9": Update(verdict=verdict)}
    _, outcomes = _round([_sender(_constant(1)), _sender({})], [30, 10], _Says(Judged(verdicts)))
    assert (outcomes["site-2"].outcome, outcomes["site-2"].reason) == (outcome, "")
    assert outcomes["site-2"].update_id == "u2"
    assert "site-9" not in outcomes


def test_fallback_makes_the_median_of_those_it_names() -> None:
    """Nobody knows who the odd ones are: each coordinate stays among the honest ones."""
    held = Update.VERDICT_HELD
    gate = _Says(
        Judged(
            _updates(held, held, held, Update.VERDICT_ACCEPTED),
            fallback=("site-1", "site-2", "site-3"),
            why="three of four",
        )
    )
    senders = [_sender(_constant(value)) for value in (1.0, 2.0, 900.0, -5.0)]
    model, outcomes = _round(senders, [10, 10, 1000, 10], gate)
    assert model is not None
    assert np.allclose(flatten(model), 12)
    told = [outcome.outcome for outcome in outcomes.values()]
    assert told == [Outcome.OUTCOME_AGGREGATED] * 3 + [Outcome.OUTCOME_LEFT_OUT]
    assert "median" in outcomes["site-1"].reason


def test_noise_that_hides_participants_is_not_reviewed() -> None:
    """Who is accepted depends on everybody's update, and so would the sum the noise is added to."""
    rule = PrivateMean(clip_norm=1.0, noise_multiplier=1.0, noise=lambda n: np.zeros(n, np.float32))
    with pytest.raises(ValueError, match="no review"):
        ReviewedStrategy([], MODEL.shapes, _Says(Judged({})), rule)
    ReviewedStrategy([], MODEL.shapes, None, rule)


class _Counting:
    """Accepts everything, and counts which answers and which bytes are there meanwhile."""

    def __init__(self) -> None:
        self.answers: list[weakref.ref[ArrayRecord]] = []
        self.there = -1

    def judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str] = ()
    ) -> Judged:
        self.there = sum(each() is not None for each in self.answers)
        read = [(name, len(data)) for name, data in updates.items()]
        assert len(updates) == len(read)
        accepted = Update.VERDICT_ACCEPTED
        return Judged({name: Update(update_id=name, verdict=accepted) for name, _ in read})


def test_answers_are_let_go_of_once_they_are_read() -> None:
    """Each is as large as the model: while a round is judged only the updates are kept."""
    senders = [_sender(_constant(1), loss=1.0) for _ in range(5)]
    sites = [Site(f"site-{n}", n, 10, app, {}) for n, app in enumerate(senders, start=1)]
    grid = LocalGrid({site.node_id: (site.app, site.config) for site in sites})
    gate = _Counting()
    strategy = ReviewedStrategy(sites, MODEL.shapes, gate, FedAvg())
    messages = strategy.configure_train(1, to_arrays(_constant(10)), ConfigRecord(), grid)
    replies = list(grid.send_and_receive(messages, timeout=5))
    gc.collect()
    gc.disable()
    try:
        for reply in replies:
            assert size_of(reply) > 4 * flatten(_constant(1)).size
            gate.answers.append(weakref.ref(reply.content["arrays"]))
        del reply
        arrays, _ = strategy.aggregate_train(1, one_by_one(replies))
    finally:
        gc.enable()
    # The last one is still in somebody's hand.
    assert gate.there <= 1
    assert arrays is not None
    assert {each.outcome for each in strategy.outcomes.values()} == {Outcome.OUTCOME_AGGREGATED}
