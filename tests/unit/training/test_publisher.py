"""How a run keeps backdoors out of its models, and says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from tests.unit.review.test_backdoor import STEALTHY, Recording

from aegis.plans import default_plan
from aegis.v1 import review_pb2, training_pb2
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.rule import Aggregate, Rule
from aegis_learning.aggregation.updates import Updates
from aegis_learning.datasets import Dataset, load
from aegis_learning.parameters import Parameters, flatten, unflatten
from aegis_learning.schema import Continuous, Schema
from aegis_server.review.lab.simulating import Sent, simulate
from aegis_server.review.lab.worlds import World, world
from aegis_server.review.population import Population
from aegis_server.training.grid import LocalGrid
from aegis_server.training.plans import noise_of
from aegis_server.training.publisher import Publisher
from aegis_server.training.rounds import Rounds
from aegis_server.training.simulation.gate import DirectGate
from aegis_server.training.sites import Site
from aegis_server.training.strategy import Judged, ReviewedStrategy, to_arrays

Outcome = training_pb2.ParticipantRound
Update = review_pb2.Update


class AllAccepted:
    """A review that is content with everybody."""

    attempt = 1

    def judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str] = ()
    ) -> Judged:
        """Returns yes."""
        yes = Update.VERDICT_ACCEPTED
        return Judged({name: Update(update_id=f"u-{name}", verdict=yes) for name in updates})


def dataset_of(here: World) -> Dataset:
    """The lab's rows as a data set of that name."""
    features = tuple(Continuous(f"p{i}", 0.0, 1.0) for i in range(here.family.features))
    schema = Schema(features, "digit", tuple(map(str, range(here.family.classes))))
    return Dataset("digits", schema, here.golden, here.test, public=True)


def plan_of(here: World, **fields: object) -> training_pb2.RunPlan:
    """A reviewed run of its model."""
    plan = default_plan(seed=3, review=True, participants=20)
    plan.model = here.family.name
    plan.MergeFrom(training_pb2.RunPlan(**fields))  # type: ignore[arg-type]
    return plan


@pytest.fixture(scope="module")
def here() -> World:
    """Where six of twenty sites plant a backdoor, none of them loudly."""
    return world("digits", seed=41)


@pytest.fixture(scope="module")
def rounds(here: World) -> Sequence[Sent]:
    """What they send in the first four rounds, in which nobody is taken out."""
    kept = Recording()
    simulate(here, STEALTHY, kept, rounds=4, seed=here.seed)
    return kept.rounds


@pytest.fixture(scope="module")
def attackers(here: World) -> set[str]:
    """Who they are."""
    done = simulate(here, STEALTHY, Recording(), rounds=1, seed=here.seed)
    return {f"site-{i + 1}" for i in np.flatnonzero(done.rounds[0].attacking)}


def updates_of(here: World, sent: Sent) -> dict[str, Parameters]:
    """A round's updates by participant."""
    pairs = zip(sent.names, sent.matrix, strict=True)
    return {name: unflatten(vector, here.family.shapes) for name, vector in sorted(pairs)}


def publisher_of(here: World, **fields: object) -> Publisher:
    """A run that begins; no noise was promised."""
    examples = dict(
        zip((f"site-{i + 1}" for i in range(20)), here.sites.rows.tolist(), strict=True)
    )
    return Publisher(plan_of(here, **fields), 0.0, dataset_of(here), examples)


def published(here: World, publisher: Publisher, sent: Sent):
    """A round of everybody's updates and their mean."""
    updates = updates_of(here, sent)
    names = list(updates)

    def combine(population: Population, places: Sequence[int]) -> Aggregate:
        rows = [float(here.sites.rows[int(names[i][5:]) - 1]) for i in places]
        return FedAvg().aggregate(Updates.of(population.matrix[list(places)], rows))

    publisher.begin(sent.number)
    return publisher.publish(sent.base, updates, names, combine, least=1)


def test_a_strategy_leaves_out_who_teaches_a_backdoor(
    here: World, rounds: Sequence[Sent], attackers: set[str]
) -> None:
    """Accepted one by one, they are REJECTED together, with a reason, and the scan names them."""
    publisher = publisher_of(here)
    for sent in rounds[:-1]:
        published(here, publisher, sent)
    last = rounds[-1]
    publisher.begin(last.number)
    strategy, model = aggregated(here, publisher, last, FedAvg())
    rejected = {n for n, o in strategy.outcomes.items() if o.outcome == Outcome.OUTCOME_REJECTED}
    assert rejected == attackers
    assert {strategy.outcomes[name].reason for name in attackers} == {
        "it teaches the model a backdoor"
    }
    assert strategy.scan is not None
    assert set(strategy.scan.excluded) == attackers
    assert not strategy.scan.suspicious
    assert not strategy.forgets
    honest = strategy.outcomes.keys() - attackers
    assert {strategy.outcomes[n].outcome for n in honest} == {Outcome.OUTCOME_AGGREGATED}
    # The model is what the honest alone would have made of all rounds, not only of this one.
    kept = [i for i, name in enumerate(last.names) if name not in attackers]
    weights = last.rows[kept] / last.rows[kept].sum()
    means = sum(np.tensordot(weights, sent.matrix[kept], axes=1) for sent in rounds)
    assert np.allclose(flatten(model), flatten(rounds[0].base) + means, atol=1e-4)


def aggregated(
    here: World, publisher: Publisher, sent: Sent, rule: Rule
) -> tuple[ReviewedStrategy, Parameters]:
    """The strategy after a round in which sites sent that, and the model it made."""
    sites = [
        Site(name, number, int(here.sites.rows[number - 1]), _sender(update), {})
        for name, update in updates_of(here, sent).items()
        for number in [int(name[5:])]
    ]
    grid = LocalGrid({site.node_id: (site.app, site.config) for site in sites})
    strategy = ReviewedStrategy(sites, here.family.shapes, AllAccepted(), rule, publisher)
    messages = strategy.configure_train(sent.number, to_arrays(sent.base), ConfigRecord(), grid)
    arrays, _ = strategy.aggregate_train(sent.number, grid.send_and_receive(messages, timeout=30))
    assert arrays is not None
    return strategy, {name: array.numpy() for name, array in arrays.items()}


def test_a_site_is_told_that_its_update_was_shortened(here: World, rounds: Sequence[Sent]) -> None:
    """It is part of the model, but for its length."""
    sent = replace(rounds[0], matrix=rounds[0].matrix.copy())
    sent.matrix[4] *= 30
    publisher = publisher_of(here)
    publisher.begin(1)
    strategy, model = aggregated(here, publisher, sent, FedAvg())
    outcome = strategy.outcomes["site-5"]
    assert outcome.outcome == Outcome.OUTCOME_AGGREGATED
    assert outcome.reason == "longer than others: shortened"
    assert [name for name, each in strategy.outcomes.items() if each.reason] == ["site-5"]
    norms = np.linalg.norm(sent.matrix, axis=1)
    assert np.linalg.norm(flatten(model) - flatten(sent.base)) < 2 * np.median(norms)


def _sender(update: Parameters) -> ClientApp:
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        content = RecordDict({"arrays": to_arrays(update), "metrics": MetricRecord({"loss": 1.0})})
        return Message(content, reply_to=message)

    return app


def test_a_try_that_is_repeated_counts_once(here: World, rounds: Sequence[Sent]) -> None:
    """Otherwise whoever makes rounds fail would fill the memory."""
    once, twice = publisher_of(here), publisher_of(here)
    for sent in rounds:
        first = published(here, once, sent)
    for sent in rounds:
        published(here, twice, sent)
        last = published(here, twice, sent)
    assert first.history.rounds == last.history.rounds == 4
    assert first.excluded == last.excluded != ()
    assert (first.delta == last.delta).all()


def test_the_plan_says_how_many_have_to_stay(here: World, rounds: Sequence[Sent]) -> None:
    """A round that would fail without the excluded keeps them, and its model is marked later."""
    publisher = publisher_of(here, min_participants=18)
    assert [published(here, publisher, sent).excluded for sent in rounds] == [()] * 4


@pytest.mark.parametrize("review", [True, False])
def test_models_of_reviewed_runs_are_scanned(review: bool) -> None:
    """In a simulation as anywhere; a run without review has no scan."""
    plan = default_plan(seed=3, review=review)
    plan.local_steps = 1
    gate = DirectGate(plan) if review else None
    run = Rounds(plan, noise_of(plan), gate)

    model = load(plan.dataset).family(plan.model).initial(plan.seed)
    if gate is not None:
        gate.base = model
    tried = run.train(1, model, repeat=0, attempt=1)
    assert tried.model is not None
    assert (tried.scan is not None) == review
    if tried.scan is not None:
        assert not tried.scan.suspicious
        assert "of the golden rows of other classes" in tried.scan.text
