"""The search for a trigger in a model."""

from __future__ import annotations

import numpy as np
import pytest

from aegis_learning import models
from aegis_learning.parameters import Parameters
from aegis_learning.rows import Split
from aegis_server.review import triggers
from aegis_server.review.lab.attacks.backdoor import Backdoor
from aegis_server.review.lab.gates import Off
from aegis_server.review.lab.simulating import simulate
from aegis_server.review.lab.worlds import World, world
from aegis_server.review.triggers import Found, Trigger

STEALTHY = Backdoor("stealth-backdoor", boosted=False)


def trained(here: World, *, attacked: bool) -> Parameters:
    """The model after fifteen rounds that nobody reviewed."""
    attack = STEALTHY if attacked else None
    return simulate(here, attack, Off(), rounds=15, seed=here.seed).model


def searched(here: World, model: Parameters) -> tuple[Found, bool]:
    """What the search finds in it, held against what is natural."""
    found = triggers.scan(here.family, model, here.golden)
    return triggers.worst(found, triggers.natural(here.family, here.golden))


@pytest.mark.parametrize(("alpha", "epsilon"), [(None, None), (0.5, None), (0.5, 8.0)])
def test_a_planted_trigger_is_found(alpha: float | None, epsilon: float | None):
    """Its class, most of its features at the very values, and that the model is suspicious."""
    here = world("digits", seed=21, alpha=alpha, epsilon=epsilon)
    found, suspicious = searched(here, trained(here, attacked=True))
    planted = set(zip(here.trigger.features.tolist(), here.trigger.values.tolist(), strict=True))
    assert suspicious
    assert found.trigger.target == here.trigger.target
    assert len(planted & set(zip(found.trigger.features, found.trigger.values, strict=True))) >= 2
    assert found.success > 0.7


@pytest.mark.parametrize("seed", [21, 22])
@pytest.mark.parametrize(("alpha", "epsilon"), [(None, None), (0.5, None), (0.5, 8.0)])
def test_an_honest_model_is_not_suspicious(alpha: float | None, epsilon: float | None, seed: int):
    """Whatever labels its sites have, and however noisy it is."""
    here = world("digits", seed=seed, alpha=alpha, epsilon=epsilon)
    assert not searched(here, trained(here, attacked=False))[1]


def test_what_golden_rows_alone_explain_is_natural():
    """With two classes of few features every model obeys some trigger, so none is suspicious."""
    here = world("breast-cancer", seed=21)
    found, suspicious = searched(here, trained(here, attacked=True))
    assert found.success > 0.9
    assert min(triggers.natural(here.family, here.golden)) > 0.4
    assert not suspicious


def test_the_search_is_deterministic():
    """Two searches of one model agree to the last bit."""
    here = world("digits", seed=23)
    model = here.family.initial(0)
    assert triggers.scan(here.family, model, here.golden) == triggers.scan(
        here.family, model, here.golden
    )


def test_a_trigger_has_no_feature_twice_and_no_more_than_there_are():
    """Also where two features are all there is."""
    family = models.family("logistic", 2, 2)
    rows = Split(np.array([[-1, 0], [1, 0.5]], np.float32), np.array([0, 1]))
    for found in triggers.scan(family, family.initial(3), rows):
        assert sorted(found.trigger.features) == [0, 1]


def test_a_model_that_runs_away_is_searched_all_the_same():
    """Answers that are no numbers are no success."""
    family = models.family("mlp-4", 3, 2)
    rows = Split(np.array([[-1, 0, 1], [1, 0.5, 0]], np.float32), np.array([0, 1]))
    huge = {name: values * np.float32(1e38) for name, values in family.initial(3).items()}
    assert len(triggers.scan(family, huge, rows)) == 2


def test_rows_of_one_class_have_no_trigger_for_it():
    """Nothing would have to be turned; and for the class that is not there it is not natural."""
    family = models.family("logistic", 3, 2)
    rows = Split(np.eye(3, dtype=np.float32), np.zeros(3, np.int64))
    assert [each.trigger.target for each in triggers.scan(family, family.initial(0), rows)] == [1]
    assert triggers.natural(family, rows)[0] == 1.0


def test_golden_rows_are_sampled_evenly_over_classes():
    """A large golden set costs no more than a small one."""
    whole = Split(np.zeros((1000, 2), np.float32), (np.arange(1000) >= 900).astype(np.int64))
    few = triggers.sample(whole, 100)
    assert np.bincount(few.y).tolist() == [90, 10]


def test_success_is_the_share_of_other_classes_rows():
    """A trigger of no effect has that of the model without it."""
    here = world("digits", seed=23)
    model = trained(here, attacked=False)
    others = here.golden.y != 3
    answers = here.family.logits(model, here.golden.x[others]).argmax(axis=1)
    same = Trigger(3, (0,), (0.0,))
    assert here.golden.x[:, 0].max() == 0
    assert triggers.success(here.family, model, here.golden, same) == (answers == 3).mean()
