"""Where sites go over a run, whatever labels they have: with the lab's worlds, and no peers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.review.factories import a_round
from tests.unit.review.test_backdoor import case_of

from aegis_learning import parameters
from aegis_server.review.case import Case, Past, Verdict
from aegis_server.review.examiners import labels
from aegis_server.review.examining import Examined
from aegis_server.review.findings import Examination, Finding
from aegis_server.review.lab.simulating import Sent
from aegis_server.review.lab.sites import train
from aegis_server.review.lab.worlds import World, world
from aegis_server.review.population import Population
from aegis_server.review.vetting import vet

NOISY = {"alpha": 0.5, "epsilon": 8.0}


class Run:
    """Sites that train round after round, some of them against the others."""

    def __init__(self, here: World, backward=(), flipped=()) -> None:
        self.here, self.backward = here, list(backward)
        y = here.sites.y.copy()
        y[list(flipped)] = here.family.classes - 1 - y[list(flipped)]
        self.sites = replace(here.sites, y=y)
        self.honest = [i for i in range(len(y)) if i not in {*backward, *flipped}]
        self.model, self.random = here.family.initial(1), np.random.default_rng(1)
        self.past: dict[int, tuple[Past, ...]] = {}
        self.round = 0

    def case(self) -> Case:
        """The next round; the model goes on with the honest."""
        here, base = self.here, self.model
        matrix = train(here.family, base, self.sites, here.plan, self.random)
        self.model = parameters.add(
            base, parameters.unflatten(matrix[self.honest].mean(axis=0), here.family.shapes)
        )
        matrix[self.backward] *= -1
        self.round += 1
        rows = here.sites.rows
        names = tuple(f"p{i}" for i in range(len(rows)))
        case = case_of(here, Sent(self.round, base, matrix, rows, here.plan.noise(rows), names))
        pasts = [self.past.get(i, ()) for i in range(len(rows))]
        submissions = [replace(s, past=p) for s, p in zip(case.submissions, pasts, strict=True)]
        return replace(case, submissions=tuple(submissions))

    def examined(self, rounds: int) -> Examination:
        """What is found in the last of so many rounds."""
        for _ in range(rounds):
            found = labels.examine(Population.as_trained(self.case()))
            examined = Examined(found.findings, found.features)
            kept = labels.remember([{} for _ in self.sites.rows], examined)
            for i, features in enumerate(kept):
                seen = Past(self.round, Verdict.ACCEPTED, 0.0, features, b"")
                self.past[i] = (*self.past.get(i, ()), seen)
        return found


def found_by(examination: Examination, *measures: str) -> list[int]:
    """Whom these measures alone would reject."""
    return [
        i
        for i, each in enumerate(examination.findings)
        if any(f.strength >= 1 and f.measure in measures for f in each)
    ]


@pytest.mark.parametrize("data", ["digits", "breast-cancer"])
def test_honest_sites_are_found_nowhere_whatever_their_labels(data: str):
    """Some have one class only, and with noise every round looks like none."""
    for epsilon in (None, 8.0):
        run = Run(world(data, seed=31, alpha=0.5, epsilon=epsilon))
        assert found_by(run.examined(8), "backward", "wrong") == []


def test_who_goes_backward_under_noise_is_found_after_some_rounds():
    """One round says little, eight say it of four in five."""
    run = Run(world("digits", seed=31, **NOISY), backward=range(6))
    first = found_by(run.examined(1), "backward")
    later = found_by(run.examined(7), "backward")
    assert set(later) <= set(range(6))
    assert len(first) < len(later) >= 5


def test_who_trains_on_wrong_labels_is_found_without_a_detector():
    """In a round of five, of which one is wrong."""
    here = world("breast-cancer", seed=31, sites=5)
    found = Run(here, flipped=[2]).examined(3)
    assert found_by(found, "wrong") == [2]
    assert found.findings[2][1].text.startswith(
        "over the run it leads where rows with wrong labels"
    )


def test_around_a_centre_noise_is_told_from_a_heading():
    """The first layer's biases have most of the noise here, and no more than others there."""
    here = world("breast-cancer", seed=31, alpha=0.5, epsilon=3.0, plan="tuned")
    assert here.local.centre
    run = Run(here)
    case = run.case()
    trained = Population.as_trained(case)
    logits = here.family.logits
    x = here.golden.x
    around = (x - np.array(here.local.centre)).astype(np.float32)
    np.testing.assert_allclose(
        logits(trained.base, around), logits(run.here.family.initial(1), x), atol=1e-4
    )
    np.testing.assert_allclose(trained.golden.x, around)
    spread = trained.matrix.std(axis=0)
    bias = trained.layers["layer1.bias"]
    assert spread[bias].mean() == pytest.approx(spread.mean(), rel=0.3)
    assert Population(case).matrix.std(axis=0)[bias].mean() > 1.5 * spread.mean()
    assert found_by(run.examined(6), "backward", "wrong") == []


def test_where_most_go_backward_nobody_is_found():
    """It may be the golden rows that are of another kind."""
    run = Run(world("digits", seed=31), backward=range(11))
    assert found_by(run.examined(3), "backward", "wrong") == []


def test_early_rounds_count_as_far_as_there_was_somewhere_to_go():
    """Near the optimum slopes say nothing, so what went before outweighs it."""
    run = Run(world("breast-cancer", seed=31))
    sums = [run.examined(1).features["run/weight"][0] for _ in range(8)]
    weights = np.diff([0.0, *sums])
    assert weights[0] > 80 * weights[-1] > 0


def test_nobody_is_found_where_the_golden_rows_have_nowhere_to_go():
    """In a hundred rounds, most of them near the optimum; six of twenty came when it was near."""
    here = world("breast-cancer", seed=34)
    run = Run(here)
    for at in range(10):
        found = run.examined(10)
        if at == 2:
            run.past = {i: past for i, past in run.past.items() if i >= 6}
        assert found_by(found, "backward", "wrong") == []


def test_whom_it_fails_on_keeps_the_last_sums():
    """Not the others' median, which would be a credit."""
    run = Run(world("digits", seed=31, **NOISY))
    found = labels.examine(Population(run.case()))
    examined = Examined(found.findings, found.features)
    examined.failed[2] = [Finding(labels.NAME, "failed", 1.0, 1.0, 0.0, "")]
    examined.failed[3] = [Finding("length", "failed", 1.0, 1.0, 0.0, "")]
    kept = labels.remember([{"x": 1.0} for _ in run.sites.rows], examined)
    assert kept[2] == {"x": 1.0}
    assert kept[3].keys() == kept[4].keys() > {"x"}


def test_sums_come_back_from_the_database_as_they_are():
    """JSON has no floats of its own: a large one comes back as an integer of any length."""
    run = Run(world("digits", seed=31, **NOISY), backward=[0])
    for i in range(len(run.sites.rows)):
        sums = {"run/weight": 10**24, "run/squares": 10**48, "run/wrong": 0}
        sums["run/backward"] = 10**30 if i else -(10**30)
        run.past[i] = (Past(1, Verdict.ACCEPTED, 0.0, sums, b""),)
    assert found_by(labels.examine(Population(run.case())), "backward") == [0]


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
@pytest.mark.parametrize("base", [0.0, 3e38])
def test_numbers_without_bounds_are_no_error(base: float):
    """Around a centre they may be more than float32 holds; nobody else is held for that."""
    case = a_round(sites=8)
    centre = tuple(case.golden.x.mean(axis=0, dtype=float).tolist())
    case = replace(case, local=replace(case.local, centre=centre))
    family = case.family
    vast = {name: np.full(shape, 3e38, np.float32) for name, shape in family.shapes.items()}
    first = replace(case.submissions[0], data=parameters.encode(vast))
    start = {name: np.full(shape, base, np.float32) for name, shape in family.shapes.items()}
    ruling = vet(
        replace(case, base=parameters.encode(start), submissions=(first, *case.submissions[1:]))
    )
    assert all(f.measure != "failed" for each in ruling.judgements for f in each.findings)
    if not base:
        verdicts = [each.verdict for each in ruling.judgements]
        assert verdicts == [Verdict.REJECTED, *[Verdict.ACCEPTED] * 7]


def test_a_past_without_sums_is_no_error():
    """Of before there was such an examiner, or of when it failed: the last that has them counts."""
    run = Run(world("digits", seed=31, **NOISY), backward=[0])
    run.past[0] = (Past(1, Verdict.ACCEPTED, 0.0, {}, b""),)
    case = run.case()
    judged = vet(case).judgements
    assert all(
        {"run/backward", "run/wrong", "run/weight", "run/squares"} <= set(e.features)
        for e in judged
    )
    alone = labels.examine(Population(case)).features["run/backward"]
    assert [e.features["run/backward"] for e in judged] == pytest.approx(alone)
