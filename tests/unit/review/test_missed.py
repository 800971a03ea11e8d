"""Who is rare among the others, and missed on the golden rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tests.unit.review.factories import DATASET, FAMILY

from aegis_learning import datasets, gradients, parameters
from aegis_learning.datasets import Split
from aegis_server.review import missed
from aegis_server.review.case import Case, Ruling, Submission, Verdict
from aegis_server.review.findings import Finding
from aegis_server.review.lab.gates import Review
from aegis_server.review.lab.simulating import simulate
from aegis_server.review.lab.worlds import world
from aegis_server.review.population import Population
from aegis_server.review.vetting import vet

ORDINARY = (Finding("detector", "form", 0.2, 1.0, 0.2, "ordinary"),)
RARE = (Finding("detector", "form", 1.7, 1.0, 1.7, "rare"), Finding("x", "y", 0.5, 1, 0.5, "odd"))
PARTS = datasets.partition(DATASET.shared, 12, 100.0, 1)


def of_class(rows: Split, label: int) -> Split:
    return rows.take(np.flatnonzero(rows.y == label))


def flipped(rows: Split) -> Split:
    return Split(rows.x, 1 - rows.y)


def a_round(sites: Sequence[Split], noise: float = 0.0) -> Population:
    """What sites with these rows make of one and the same model."""
    base = FAMILY.initial(1)
    submissions = []
    for i, rows in enumerate(sites):
        after = gradients.descend(FAMILY, base, rows, steps=4, learning_rate=0.5)
        update = parameters.encode(parameters.subtract(after, base))
        submissions.append(Submission(f"u{i}", update, len(rows), f"p{i}", noise))
    return Population(Case(FAMILY, DATASET.golden, parameters.encode(base), tuple(submissions)))


def verdicts(population: Population, rare: Sequence[int], found=RARE) -> list[int]:
    """Who of the rare still is rejected."""
    n = len(population)
    findings = [found if i in rare else ORDINARY for i in range(n)]
    after = missed.reinstated(population, findings)
    assert all(after[i] == ORDINARY for i in range(n) if i not in rare)
    return [i for i in range(n) if any(each.strength >= 1 for each in after[i])]


def test_second_camp_is_accepted():
    """Eight sites have one class and four the other: a mean of the eight knows one class only."""
    camps = [of_class(rows, int(i >= 8)) for i, rows in enumerate(PARTS)]
    population = a_round(camps)
    assert verdicts(population, range(8, 12)) == []
    (rare, odd, told) = missed.reinstated(population, [ORDINARY] * 8 + [RARE] * 4)[-1]
    assert (rare.value, odd.strength, told.measure) == (1.7, 0.5, "missed")
    assert told.value > missed.MISSED
    assert "with the 4 of this kind" in told.text


@pytest.mark.parametrize("examiner", ["length", "golden-set", "backdoor", "noise"])
def test_what_is_found_without_statistics_stands(examiner: str):
    """Somebody who is missed and sends a copy has sent a copy."""
    camps = [of_class(rows, int(i >= 8)) for i, rows in enumerate(PARTS)]
    found = (*RARE, Finding(examiner, "decides", 2.0, 1.0, 2.0, "found"))
    assert verdicts(a_round(camps), [10, 11], found) == [10, 11]


@pytest.mark.parametrize("what", [lambda rows: rows, flipped])
def test_who_makes_the_mean_no_better_is_not_missed(what):
    """Neither who repeats what the others say nor who says the opposite."""
    sites = [what(rows) if i >= 8 else rows for i, rows in enumerate(PARTS)]
    assert verdicts(a_round(sites), range(8, 12)) == [8, 9, 10, 11]


def test_attacker_in_the_second_camp_stays_out():
    """Only those come back with whom the mean is better."""
    camps = [of_class(rows, int(i >= 8)) for i, rows in enumerate(PARTS)]
    camps[11] = flipped(of_class(PARTS[11], 1))
    assert verdicts(a_round(camps), range(8, 12)) == [11]


def test_with_privacy_noise_nobody_is_missed():
    """A mean of more updates has less of it, so it would do better with anybody."""
    camps = [of_class(rows, int(i >= 8)) for i, rows in enumerate(PARTS)]
    assert verdicts(a_round(camps, noise=0.01), [9]) == [9]


def test_without_golden_rows_nobody_is_missed():
    """There is nothing to miss them on."""
    population = a_round([of_class(rows, int(i >= 8)) for i, rows in enumerate(PARTS)])
    population.golden = Split(population.golden.x[:0], population.golden.y[:0])
    assert verdicts(population, [9]) == [9]


def test_verdict_says_that_it_was_missed():
    """Honest sites of two classes, dealt unevenly: they are accepted, and told why."""
    here = world("breast-cancer", seed=5, alpha=0.5)
    rulings: list[Ruling] = []

    def judge(case: Case) -> Ruling:
        rulings.append(vet(case))
        return rulings[-1]

    simulate(here, None, Review(here, judge=judge), rounds=8, seed=5)
    back = [
        each
        for ruling in rulings
        for each in ruling.judgements
        if any(found.measure == missed.MEASURE for found in each.findings)
    ]
    assert back
    assert {each.verdict for each in back} == {Verdict.ACCEPTED}
    assert all(each.score < 1 and "not missed" in each.would_change[0] for each in back)
