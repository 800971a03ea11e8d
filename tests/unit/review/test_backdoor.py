"""Who pushes the model toward a backdoor: the probe of updates, and its examiner."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning import gradients, parameters
from aegis_server.review import pushes, triggers
from aegis_server.review.case import Case, Submission
from aegis_server.review.examiners import backdoor
from aegis_server.review.lab.attacks.backdoor import Backdoor
from aegis_server.review.lab.gates import Off
from aegis_server.review.lab.simulating import Decided, Sent, simulate
from aegis_server.review.lab.worlds import World, world
from aegis_server.review.population import Population

STEALTHY = Backdoor("stealth-backdoor", boosted=False)


def case_of(here: World, sent: Sent) -> Case:
    """A round of the lab as the review gets it."""
    shapes = here.family.shapes
    submissions = tuple(
        Submission(
            name,
            parameters.encode(parameters.unflatten(vector, shapes)),
            int(rows),
            name,
            float(std),
        )
        for name, vector, rows, std in zip(
            sent.names, sent.matrix, sent.rows, sent.noise, strict=True
        )
    )
    return Case(
        here.family,
        here.golden,
        parameters.encode(sent.base),
        submissions,
        round=sent.number,
        local=here.local,
    )


class Recording:
    """Reviews nothing and keeps the rounds."""

    def __init__(self) -> None:
        self.rounds: list[Sent] = []

    def decide(self, sent: Sent) -> Decided:
        """The mean of all of them."""
        self.rounds.append(sent)
        return Off().decide(sent)


def rounds_of(here: World, *, attacked: bool, count: int) -> tuple[list[Population], np.ndarray]:
    """The first rounds of a run that nobody reviews, and who attacks in it."""
    kept = Recording()
    done = simulate(here, STEALTHY if attacked else None, kept, rounds=count, seed=here.seed)
    populations = [Population(case_of(here, each)) for each in kept.rounds]
    return populations, done.rounds[-1].attacking


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_attackers_are_told_from_honest_sites_in_one_round(alpha: float | None):
    """All of them and nobody else, though nothing is boosted and labels are unevenly dealt."""
    here = world("digits", seed=31, alpha=alpha)
    populations, attacking = rounds_of(here, attacked=True, count=4)
    examination = backdoor.examine(populations[-1])
    push = examination.features["backdoor/push"]
    assert push[attacking].min() > push[~attacking].max()
    rejected = [any(found.strength >= 1 for found in each) for each in examination.findings]
    assert rejected == attacking.tolist()
    text = examination.findings[int(np.argmax(attacking))][0].text
    assert f"answer class {here.trigger.target}" in text


@pytest.mark.parametrize("seed", [31, 32, 33])
@pytest.mark.parametrize("name", ["digits", "breast-cancer"])
def test_honest_rounds_have_no_finding(name: str, seed: int):
    """Also where sites have few rows, and of one class mostly."""
    here = world(name, seed=seed, alpha=0.5)
    for population in rounds_of(here, attacked=False, count=4)[0]:
        examination = backdoor.examine(population)
        assert all(found.strength < 1 for each in examination.findings for found in each)


def test_the_golden_rows_explain_what_labels_do_and_not_what_triggers_do():
    """Of an update on golden rows nothing is left, of one on triggered rows a good part."""
    here = world("digits", seed=31)
    base = here.family.initial(0)
    explained = pushes.explanation(here.family, base, here.golden)
    assert np.allclose(explained @ explained.T, np.eye(len(explained)), atol=1e-4)

    def left(rows) -> float:
        vector = parameters.flatten(gradients.loss_gradient(here.family, base, rows))
        rest = vector - explained.T @ (explained @ vector)
        return float(np.linalg.norm(rest) / np.linalg.norm(vector))

    few = here.golden.take(np.flatnonzero(here.golden.y == 3))
    marked = here.trigger.on(here.golden.x)
    poisoned = type(few)(marked, np.full(len(marked), here.trigger.target))
    assert left(few) < 0.3
    assert left(poisoned) > 2 * left(few)


def test_too_few_updates_say_nothing():
    """Below eight there is no deviation of the others to speak of."""
    here = world("digits", seed=31)
    population = rounds_of(here, attacked=True, count=1)[0][0].part(range(7))
    examination = backdoor.examine(population)
    assert examination.findings == [[]] * 7
    assert examination.features == {}


def test_noise_averages_out_over_rounds():
    """Under privacy noise one round tells little, the sum of ten tells all."""
    here = world("digits", seed=31, epsilon=8.0)
    populations, attacking = rounds_of(here, attacked=True, count=10)
    bounds = triggers.extremes(here.golden)
    noises = backdoor.noises_of(populations[0])
    trigger = triggers.Trigger(
        here.trigger.target,
        tuple(here.trigger.features.tolist()),
        tuple(here.trigger.values.tolist()),
    )
    tables = [pushes.effects(each) for each in populations]

    def ranked(table) -> float:
        z = pushes.pushed(pushes.even(table, noises), trigger, bounds)
        return float((z[attacking][:, None] > z[~attacking]).mean())

    assert min(map(ranked, tables)) < 0.9
    assert ranked(sum(tables)) == 1.0


def test_noise_of_small_sites_is_evened_out():
    """A site of a tenth of the rows adds ten times the noise; nobody else's changes."""
    tables = np.ones((3, 2, 2))
    even = pushes.even(tables, np.array([1.0, 1.0, 10.0]))
    assert even[:, 0, 0].tolist() == [1.0, 1.0, 0.1]
    assert (pushes.even(tables, np.zeros(3)) == tables).all()


def test_the_probe_is_deterministic():
    """Two looks at one round agree to the last bit."""
    here = world("digits", seed=31)
    population = rounds_of(here, attacked=True, count=1)[0][0]
    assert (pushes.effects(population) == pushes.effects(population)).all()


@pytest.mark.parametrize("at_once", [1, 3 * 2410, 1 << 23])
def test_what_updates_do_is_what_each_does_alone(at_once: int, monkeypatch: pytest.MonkeyPatch):
    """However many are computed together, and one that overflows does not touch the others."""
    here = world("digits", seed=31)
    population = rounds_of(here, attacked=True, count=1)[0][0]
    population.matrix[1] *= np.float32(1e36)
    population.matrix[2] = 0.0
    monkeypatch.setattr(pushes, "_AT_ONCE", at_once)
    found = pushes.effects(population)
    basis = pushes.explanation(here.family, population.base, here.golden)
    rows, bounds = triggers.sample(here.golden, 48).x, triggers.extremes(here.golden)

    def table(vector) -> np.ndarray:
        moved = parameters.unflatten(vector.astype(np.float32), here.family.shapes)
        return pushes.table(here.family, moved, rows, bounds)

    start = parameters.flatten(population.base)
    for i, update in enumerate(population.matrix):
        if i != 1:
            alone = table(start + update - basis.T @ (basis @ update)) - table(start)
            assert found[i] == pytest.approx(alone, abs=1e-5)
    assert np.isfinite(found).all()
