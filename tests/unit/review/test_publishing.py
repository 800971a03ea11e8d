"""From accepted updates to the next model, in a loop in which nothing but `publish` decides."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from tests.unit.review.test_backdoor import STEALTHY, case_of, rounds_of

from aegis_learning.aggregation import lengths
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fedavgm import FedAvgM
from aegis_learning.aggregation.rule import Aggregate, Rule
from aegis_learning.aggregation.updates import Updates
from aegis_learning.parameters import Parameters, flatten
from aegis_learning.rows import Split
from aegis_server.review import candidates, publishing
from aegis_server.review.history import History, Published
from aegis_server.review.lab.gates import Off
from aegis_server.review.lab.simulating import Decided, Outcome, Sent, simulate
from aegis_server.review.lab.worlds import World, world
from aegis_server.review.population import Population
from aegis_server.review.publishing import publish


def combining(rule: Rule):
    """The rule over updates at some places."""

    def combine(population: Population, places) -> Aggregate:
        chosen = list(places)
        weights = population.examples[chosen].tolist()
        return rule.aggregate(Updates.of(population.matrix[chosen], weights))

    return combine


@dataclass
class Publishing:
    """A gate that accepts everything and publishes."""

    here: World
    momentum: float = 0.0
    least: int = 1
    history: History = field(default_factory=History)
    state: Parameters | None = None
    published: list[Published] = field(default_factory=list)

    def decide(self, sent: Sent) -> Decided:
        """One round."""
        population = Population(case_of(self.here, sent))
        rule: Rule = FedAvg()
        if self.momentum:
            rule = FedAvgM(momentum=self.momentum, state=self.state)
            self.history = replace(self.history, momentum=self.momentum)
        done = publish(
            population,
            range(len(population)),
            combining(rule),
            self.history,
            least=self.least,
        )
        self.history, self.state = done.history, done.state
        self.published.append(done)
        refused = np.isin(np.arange(len(population)), done.excluded)
        return Decided(done.delta, refused, refused.astype(float))


def run_of(here: World, gate, *, attacked: bool = True, rounds: int = 8) -> Outcome:
    """A run of the lab with this gate."""
    return simulate(here, STEALTHY if attacked else None, gate, rounds=rounds, seed=here.seed)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_attackers_are_taken_out_with_all_they_gave(alpha: float | None):
    """The backdoor that had four rounds to grow is gone, and accuracy is what it was."""
    here = world("digits", seed=41, alpha=alpha)
    gate = Publishing(here)
    kept, lost = run_of(here, gate), run_of(here, Off())
    assert lost.backdoor > 0.5
    assert kept.backdoor < 0.1
    assert kept.accuracy > lost.accuracy - 0.03
    assert kept.fpr == 0
    last = gate.published[-1]
    assert sorted(last.excluded) == np.flatnonzero(kept.rounds[-1].attacking).tolist()
    assert last.scan is not None
    assert "6 updates that teach a backdoor were taken out" in last.scan.text
    assert not last.scan.suspicious


def test_group_without_which_the_model_is_worse_stays(monkeypatch: pytest.MonkeyPatch):
    """Here nobody may be missed at all, so nobody is taken out."""
    monkeypatch.setattr(candidates, "_MISSED", -1.0)
    here = world("digits", seed=41)
    gate = Publishing(here)
    assert run_of(here, gate).tpr == 0
    assert gate.history.believed == ()


def test_with_privacy_noise_attackers_may_be_missed_more(monkeypatch: pytest.MonkeyPatch):
    """With all they gave some averaging goes as well; without most of a class is too much."""
    here = world("digits", seed=41, epsilon=8.0)
    monkeypatch.setattr(candidates, "_MISSED", -1.0)
    gate = Publishing(here)
    assert run_of(here, gate, rounds=12).tpr > 0
    assert gate.history.believed
    monkeypatch.setattr(candidates, "_MISSED_NOISY", -1.0)
    assert run_of(here, Publishing(here), rounds=12).tpr == 0


def test_what_is_left_is_what_the_others_would_have_made():
    """After attackers were found, the model is the sum of the others' gifts alone."""
    here = world("digits", seed=41)
    gate = Publishing(here)
    done = run_of(here, gate)
    assert gate.history.gifts is not None
    gifts = gate.history.gifts.by_name
    attackers = {f"site-{i + 1}" for i in np.flatnonzero(done.rounds[-1].attacking)}
    assert not attackers & {name for name, gift in gifts.items() if gift.shares > 0}
    moved = flatten(done.model) - flatten(here.family.initial(here.seed))
    assert np.allclose(sum(gift.total for gift in gifts.values()), moved, atol=1e-4)


def test_momentum_forgets_attackers_as_well():
    """Otherwise they would come back with the next steps."""
    here = world("digits", seed=41)
    gate = Publishing(here, momentum=0.5)
    kept = run_of(here, gate)
    assert kept.backdoor < 0.1
    assert gate.published[-1].excluded
    assert gate.history.gifts is not None
    assert gate.history.gifts.known
    velocity = sum(gift.velocity for gift in gate.history.gifts.by_name.values())
    assert gate.state is not None
    assert np.allclose(velocity, gate.state["momentum"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "epsilon", "seed"),
    [("digits", None, 400), ("digits", 8.0, 41), ("breast-cancer", None, 41)],
)
def test_nobody_is_taken_out_of_an_honest_run(
    name: str, epsilon: float | None, seed: int, monkeypatch: pytest.MonkeyPatch
):
    """Neither do the few sites that have most of a class count as a group that plants something."""
    monkeypatch.setattr(lengths, "LONGEST", math.inf)
    here = world(name, seed=seed, alpha=0.5, epsilon=epsilon)
    gate = Publishing(here)
    kept = run_of(here, gate, attacked=False, rounds=10)
    assert kept.fpr == 0
    assert not any(each.scan.suspicious for each in gate.published if each.scan)
    plain = run_of(here, Off(), attacked=False, rounds=10)
    assert all((kept.model[each] == plain.model[each]).all() for each in plain.model)


def test_a_run_that_is_repeated_is_published_the_same():
    """To the last bit."""
    here = world("digits", seed=41, alpha=0.5)
    one, two = (run_of(here, Publishing(here), rounds=6) for _ in range(2))
    assert all((one.model[name] == two.model[name]).all() for name in one.model)


def test_no_more_are_taken_out_than_the_round_can_do_without():
    """Then the model stays what it is, and is marked."""
    here = world("digits", seed=41)
    gate = Publishing(here, least=15)
    done = run_of(here, gate, rounds=12)
    assert done.tpr == 0
    scan = gate.published[-1].scan
    assert scan is not None
    assert scan.suspicious
    assert scan.found.trigger.target == here.trigger.target


def test_a_run_goes_back_when_nothing_can_be_taken_out():
    """To the last model that was clean, when the rule is no mean; it begins anew there."""
    here = world("digits", seed=41)
    populations, attacking = rounds_of(here, attacked=True, count=14)
    history = History()
    for population in populations:
        history = publish(population, range(20), _nobody_knows(), history).history
    assert history.suspicious
    assert history.believed
    clean = flatten(populations[0].base)
    population = populations[-1]
    done = publish(population, range(20), _nobody_knows(), replace(history, clean=clean))
    assert done.went_back
    assert done.state is None
    assert np.allclose(flatten(population.base) + done.delta, clean, atol=1e-6)
    assert set(done.excluded) == set(np.flatnonzero(attacking).tolist())
    assert done.scan is not None
    assert not done.scan.suspicious
    assert "the last one that was not suspicious" in done.scan.text


def _nobody_knows():
    mean = combining(FedAvg())
    memory = {"memory": np.ones(1, np.float32)}
    return lambda population, places: Aggregate(mean(population, places).update, (), memory)


def test_small_rounds_are_searched_but_nobody_is_taken_out():
    """Of seven sites nobody can tell which ones are odd."""
    here = world("digits", seed=41)
    population = rounds_of(here, attacked=True, count=1)[0][0].part(range(7))
    done = publish(population, range(7), combining(FedAvg()), History())
    assert done.excluded == ()
    assert done.scan is not None
    assert done.history.tables == {}


def test_without_golden_rows_the_rule_alone_decides(monkeypatch: pytest.MonkeyPatch):
    """There is nothing to search with."""
    monkeypatch.setattr(lengths, "LONGEST", math.inf)
    here = world("digits", seed=41)
    population = rounds_of(here, attacked=False, count=1)[0][0]
    population.golden = Split(here.golden.x[:0], here.golden.y[:0])
    combine = combining(FedAvg())
    done = publish(population, range(20), combine, History())
    assert done.scan is None
    assert (done.delta == combine(population, range(20)).update).all()


def test_only_accepted_updates_are_in_the_model():
    """Those the review rejected are looked at, and no more."""
    here = world("digits", seed=41)
    population = rounds_of(here, attacked=True, count=1)[0][0]
    done = publish(population, [1, 4, 7], combining(FedAvg()), History())
    assert done.members == (1, 4, 7)
    assert len(done.history.tables) == 20
    assert done.history.gifts is not None
    assert sorted(done.history.gifts.by_name) == ["site-2", "site-5", "site-8"]


def test_a_model_made_another_way_is_searched_too():
    """As the median of a round of which nobody knows the odd ones."""
    here = world("digits", seed=41)
    poisoned = run_of(here, Off(), rounds=15).model
    history = History(rounds=14)
    history, scan = publishing.looked(here.family, poisoned, here.golden, history)
    assert scan.suspicious
    assert history.suspicious
    assert history.rounds == 15
    assert f"answered with class {here.trigger.target}" in scan.text


def test_a_long_update_counts_with_twice_the_usual_length():
    """The mean moves by it as by one of that length, and who sent it is told."""
    here = world("digits", seed=41)
    population = rounds_of(here, attacked=False, count=1)[0][0]
    usual = float(np.median(population.norms))
    population.matrix[3] *= 10 * usual / population.norms[3]
    long = Population(population.case, population.matrix)
    done = publish(long, range(20), combining(FedAvg()), History())
    alone = long.weights[3] * long.matrix[3].astype(np.float64)
    others = long.weights @ long.matrix.astype(np.float64) - alone
    assert done.shortened == (3,)
    assert np.allclose(done.delta, others + alone / 5, atol=1e-3 * usual)


def test_the_usual_length_is_that_of_accepted_updates():
    """Those that were rejected have no say in what is long."""
    assert lengths.factors([1, 1, 9, 9, 9], [0, 1]).tolist() == [1, 1, 2 / 9, 2 / 9, 2 / 9]
    assert lengths.factors([1.0, 8.0], [0, 1]).tolist() == [1, 1 / 4]
    assert lengths.factors([1, 8, 1, 8], range(4)).tolist() == [1, 1 / 4, 1, 1 / 4]
    assert lengths.factors([0.0, 0.0], [0, 1]).tolist() == [1, 1]
    assert lengths.factors([1.0, 5.0], []).tolist() == [1, 1]
