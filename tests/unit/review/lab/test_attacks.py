"""Each attack is what its paper says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aegis_learning.parameters import flatten
from aegis_server.review.lab.attacking import View
from aegis_server.review.lab.attacks import ALL, BY_NAME, PRIVATE_ONLY
from aegis_server.review.lab.attacks.backdoor import triggered
from aegis_server.review.lab.attacks.min_max import farthest
from aegis_server.review.lab.sites import train
from aegis_server.review.lab.worlds import World, world

LIARS = np.arange(6)


@pytest.fixture(scope="module")
def private() -> World:
    return world("breast-cancer", seed=1, epsilon=8.0)


def _view(here: World, number: int = 1, seed: int = 1) -> View:
    base, random = here.family.initial(1), np.random.default_rng(seed)
    honest = train(here.family, base, here.sites, here.plan, random)
    return View(
        round=number,
        family=here.family,
        base=base,
        honest=honest[LIARS],
        sites=here.sites.take(LIARS),
        total=len(here.sites.rows),
        plan=here.plan,
        trigger=here.trigger,
        previous=honest.mean(axis=0),
        random=random,
    )


@pytest.fixture(scope="module")
def view() -> View:
    return _view(world("breast-cancer", seed=1))


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_every_attack_sends_an_update_for_each_attacker(attack, private: World):
    """Finite numbers, no two of them the same vector, and the same ones for the same draw."""
    sent = attack.poison(_view(private))
    assert sent.shape == (6, flatten(private.family.initial(1)).size)
    assert np.isfinite(sent).all()
    assert len(np.unique(sent, axis=0)) == 6
    assert (sent == attack.poison(_view(private))).all()


def test_names_are_unique():
    """Reports are keyed by them."""
    assert len(BY_NAME) == len(ALL)
    assert BY_NAME.keys() >= PRIVATE_ONLY


def test_label_flip_trains_on_the_opposite_class(view: View):
    """With two classes it points away from where honest training goes."""
    sent = BY_NAME["label-flip"].poison(view)
    towards = view.honest.mean(axis=0)
    assert (sent @ towards < 0).all()
    assert (view.honest @ towards > 0).all()


@pytest.mark.parametrize(("name", "factor"), [("sign-flip", -1), ("sign-flip-4", -4)])
def test_sign_flip_turns_the_honest_update_round(view: View, name: str, factor: float):
    """And makes it longer."""
    assert (BY_NAME[name].poison(view) == np.float32(factor) * view.honest).all()


def test_scaling_keeps_the_direction(view: View):
    """Ten times as long."""
    assert (BY_NAME["scaling"].poison(view) == 10 * view.honest).all()


def test_gaussian_noise_is_twice_as_long_and_points_nowhere(view: View):
    """Orthogonal to the honest update, as far as chance goes."""
    sent = BY_NAME["gaussian"].poison(view)
    lengths = np.linalg.norm(view.honest, axis=1)
    np.testing.assert_allclose(np.linalg.norm(sent, axis=1), 2 * lengths, rtol=1e-4)
    cosines = (sent * view.honest).sum(axis=1) / (2 * lengths**2)
    assert (np.abs(cosines) < 0.25).all()


def test_backdoor_marks_rows_and_relabels_them(view: View):
    """Trigger and target together, on about the share asked for; the other rows stay."""
    marked = triggered(view.sites, view.trigger, 0.5, np.random.default_rng(1))
    changed = (marked.x != view.sites.x).any(axis=2)
    assert (marked.x[changed][:, view.trigger.features] == view.trigger.values).all()
    assert (marked.y[changed] == view.trigger.target).all()
    assert (marked.y[~changed] == view.sites.y[~changed]).mean() > 0.9
    assert 0.35 < changed.mean() < 0.65


def test_boosted_backdoor_is_the_stealthy_one_times_sites_over_attackers(view: View):
    """Model replacement."""
    stealthy = BY_NAME["stealth-backdoor"].poison(replace(view, random=np.random.default_rng(5)))
    boosted = BY_NAME["backdoor"].poison(replace(view, random=np.random.default_rng(5)))
    np.testing.assert_allclose(boosted, stealthy * (20 / 6), rtol=1e-5)


def test_alie_shifts_the_mean_by_z_deviations(view: View):
    """The attackers' own deviations add up to nothing."""
    centre = BY_NAME["alie"].poison(view).mean(axis=0)
    expected = view.honest.mean(axis=0) - 1.5 * view.honest.std(axis=0)
    np.testing.assert_allclose(centre, expected, atol=1e-6)


@pytest.mark.parametrize(("name", "factor"), [("ipm-0.5", -0.5), ("ipm-5", -5.0)])
def test_inner_product_manipulation_turns_the_mean_round(view: View, name: str, factor: float):
    """By this much, in the mean of the attackers."""
    centre = BY_NAME[name].poison(view).mean(axis=0)
    np.testing.assert_allclose(centre, factor * view.honest.mean(axis=0), atol=1e-6)


def test_min_max_goes_as_far_as_it_can_hide(view: View):
    """No farther from an honest update than those are from each other, and no nearer."""
    sent = BY_NAME["min-max"].poison(view)
    honest = view.honest.astype(np.float64)
    widest = farthest(honest, honest)
    assert farthest(sent.astype(np.float64), honest) == pytest.approx(widest, rel=1e-3)
    assert np.linalg.norm(sent.mean(axis=0) - honest.mean(axis=0)) > 0.1 * widest


def test_free_rider_sends_the_last_rounds_move_with_noise(view: View):
    """It trains nothing; in the first round it has next to nothing to send."""
    sent = BY_NAME["free-rider"].poison(view)
    assert view.previous is not None
    noise = sent - view.previous
    size = np.sqrt((view.previous.astype(np.float64) ** 2).mean())
    assert noise.std() == pytest.approx(0.1 * size, rel=0.1)
    first = BY_NAME["free-rider"].poison(replace(view, previous=None))
    assert np.abs(first).max() < 1e-3


def test_free_rider_promises_noise_and_adds_it(private: World):
    """Where the plan asks for more noise than its disguise."""
    here = _view(private)
    sent = BY_NAME["free-rider"].poison(here)
    promised = private.plan.noise(here.sites.rows)
    np.testing.assert_allclose((sent - here.previous).std(axis=1), promised, rtol=0.2)


def test_silent_leaves_out_its_noise_and_nothing_else(private: World):
    """Far shorter than what honest sites send; without privacy it is honest."""
    sent = BY_NAME["silent"].poison(_view(private))
    honest = _view(private).honest
    assert np.linalg.norm(sent, axis=1).max() < 0.5 * np.linalg.norm(honest, axis=1).min()
    plain = _view(world("breast-cancer", seed=1))
    assert (BY_NAME["silent"].poison(plain) == plain.honest).all()


def test_mixture_attacks_every_other_round_in_two_ways():
    """Half of the attackers as ALIE, the others as the stealthy backdoor."""
    here = world("breast-cancer", seed=1)
    odd, even = _view(here, 1), _view(here, 2)
    assert (BY_NAME["mixture"].poison(even) == even.honest).all()
    sent = BY_NAME["mixture"].poison(odd)
    shifted = BY_NAME["alie"].poison(odd.part(slice(0, 3)))
    np.testing.assert_allclose(sent[:3], shifted, atol=1e-6)
    assert (sent[3:] != odd.honest[3:]).any(axis=1).all()
