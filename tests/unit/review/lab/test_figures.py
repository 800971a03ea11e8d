"""Curves, the report of many runs, and what a detector is worth."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aegis_server.review.lab.attacks import BY_NAME
from aegis_server.review.lab.curves import curve
from aegis_server.review.lab.gates import gate
from aegis_server.review.lab.measuring import measure, measured
from aegis_server.review.lab.simulating import Decided, Outcome, RoundOutcome, Sent, simulate
from aegis_server.review.lab.summary import report
from aegis_server.review.lab.trials import Ran, Trial, epsilon_of, matrix, run, run_all
from aegis_server.review.lab.worlds import World, world


def test_area_is_the_chance_that_a_poisoned_update_scores_higher():
    """Counted over all pairs, ties half."""
    random = np.random.default_rng(1)
    honest, poisoned = random.integers(0, 6, 40) / 1.0, random.integers(2, 8, 25) / 1.0
    found = curve(honest, poisoned)
    assert found is not None
    above = (poisoned[:, None] > honest).mean() + (poisoned[:, None] == honest).mean() / 2
    assert found.area == pytest.approx(above)
    assert found.points(10)[0] == (0, 0)
    assert found.points(10)[-1] == (1, 1)


def test_rate_at_a_false_positive_rate_lets_no_more_of_them_through():
    """Two of a hundred honest updates score highest of all."""
    honest = np.concatenate([np.zeros(98), [5.0, 5.0]])
    poisoned = np.array([4.0, 4.0, 0.0, 0.0])
    found = curve(honest, poisoned)
    assert found is not None
    assert found.at(0.01) == 0
    assert found.at(0.05) == 0.5


def test_one_kind_of_updates_has_no_curve():
    """There is nothing to tell apart."""
    assert curve(np.ones(3), np.zeros(0)) is None


def _outcome(attacking: list[bool], refused: list[bool], scores: list[float]) -> Outcome:
    one = RoundOutcome(
        np.array(attacking), np.array(refused), np.array(scores), 0.9, fallback=False, seconds=0.1
    )
    quiet = RoundOutcome(
        np.zeros(4, bool), np.ones(4, bool), np.zeros(4), 0.9, fallback=False, seconds=0.1
    )
    return Outcome((one, quiet), 0.9, 0.0, {})


def test_false_positives_are_counted_in_attacked_rounds():
    """The other round refused everybody, and nobody attacked in it."""
    outcome = _outcome([True, True, False, False], [True, False, True, False], [2, 1, 1, 0])
    assert (outcome.tpr, outcome.fpr) == (0.5, 0.5)
    found = measured("sign-flip", [outcome, outcome])
    assert (found.tpr, found.fpr) == (0.5, 0.5)
    assert 0 < found.auc < 1


def test_detector_is_measured_in_runs_of_its_own():
    """Every figure a promotion asks for, for each attack asked about."""

    class Shipped:
        def encode(self) -> bytes:
            return b""

    found = measure(Shipped(), seeds=[1], quick=True, attacks=[BY_NAME["sign-flip-4"]])
    assert [each.attack for each in found] == ["sign-flip-4"]
    assert found[0].tpr_at_1_fpr <= found[0].tpr_at_5_fpr <= 1
    assert found[0].auc > 0.9


def test_trials_are_those_that_mean_something():
    """Nobody breaks a promise that nobody made."""
    trials = matrix(
        [("digits", None, None), ("digits", None, 8.0)],
        seeds=range(2),
        attacks=["silent", "alie"],
        gates=["off", "on"],
        rounds=4,
        malicious=0.3,
        quiet=False,
        plan="tuned",
    )
    assert len(trials) == 2 * 2 * 2 + 2 * 2 * 3
    assert {t.plan for t in trials} == {"tuned"}
    assert {t.epsilon for t in trials if t.attack == "silent"} == {8.0}
    assert (epsilon_of("off"), epsilon_of("8")) == (None, 8.0)


def _trials(rounds: int = 3) -> list[Trial]:
    return matrix(
        [("breast-cancer", None, None)],
        seeds=[1],
        attacks=["backdoor"],
        gates=["off", "on", "robust"],
        rounds=rounds,
        malicious=0.3,
        quiet=False,
    )


def test_report_has_what_the_command_promises():
    """Detection and accuracy by attack; JSON without NaN."""
    ran = [run(trial, gate) for trial in _trials()]
    found = json.loads(json.dumps(report(ran), allow_nan=False))
    assert {"tpr", "fpr", "tpr_at_5_fpr", "auc", "roc"} <= found["detection"]["backdoor"].keys()
    assert found["accuracy"]["backdoor"].keys() == {"off", "on", "none", "robust"}
    assert found["accuracy"]["backdoor"]["none"] == found["accuracy"]["none"]["off"]
    assert found["detection"]["none"]["tpr"] is None
    assert found["worlds"].keys() == {"breast-cancer, IID, no DP"}
    assert found["cost"]["rounds"] == 6


def _same(one: Ran, two: Ran) -> bool:
    return (one.accuracy, one.backdoor) == (two.accuracy, two.backdoor) and bool(
        (one.honest == two.honest).all()
    )


def test_processes_change_nothing_but_the_time():
    """Every trial is its own seed."""
    trials = [trial for trial in _trials() if trial.gate == "off"]
    alone = {each.trial: each for each in run_all(trials, gate, processes=1)}
    for each in run_all(trials, gate, processes=2):
        assert _same(each, alone[each.trial])


def test_a_gate_that_lets_nothing_in_leaves_the_model_alone():
    """The loop is closed: the next round starts from where the last one was left."""
    here = world("breast-cancer", seed=1)
    seen = []

    class Shut:
        def decide(self, sent: Sent) -> Decided:
            seen.append(sent.base)
            n, d = sent.matrix.shape
            return Decided(np.zeros(d, np.float32), np.ones(n, bool), np.ones(n))

    outcome = simulate(here, None, Shut(), rounds=3, seed=1)
    assert all((each["layer1.weight"] == seen[0]["layer1.weight"]).all() for each in seen)
    assert outcome.fpr == 1


def test_worlds_of_one_seed_are_one_world():
    """Contenders are compared on it."""
    one, two = (world("digits", seed=1, alpha=0.5) for _ in range(2))
    assert isinstance(one, World)
    assert (one.trigger.features == two.trigger.features).all()
    assert one.trigger.target == two.trigger.target
