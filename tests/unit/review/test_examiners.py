"""Examiners that look at the shape of updates, on rounds made for them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from tests.unit.review.factories import a_round, measured, population

from aegis_learning import gradients, models, parameters
from aegis_server.review import sketches
from aegis_server.review.case import Local, Past, Verdict
from aegis_server.review.examiners import (
    ALL,
    direction,
    fingerprint,
    length,
    mixture,
    noise,
    past,
    spectral,
    twins,
)
from aegis_server.review.findings import Severity
from aegis_server.review.population import Population


def noisy(seed: int, sites: int, size: int = 400, deviation: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, deviation, (sites, size))


def strengths(examination, measure: str) -> list[float]:
    return [next(f.strength for f in each if f.measure == measure) for each in examination.findings]


def test_length_is_compared_after_correction_for_examples():
    """A site with a quarter of the rows adds four times the noise, and is not an outlier."""
    rows = [200, 200, 200, 200, 50]
    vectors = noisy(0, 5) / np.array(rows)[:, None]
    corrected = measured(length.examine(population(*vectors, examples=rows)), "norm_z")
    blind = measured(length.examine(population(*vectors, examples=[0] * 5)), "norm_z")
    assert corrected[4] < 1
    assert blind[4] > 4


def test_equal_lengths_of_unequal_sites_are_ordinary():
    """Without much noise, lengths do not depend on the rows, and the round shows it."""
    vectors = noisy(0, 5)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = length.examine(population(*vectors, examples=[20, 60, 120, 200, 400]))
    assert max(measured(found, "norm_z")) < 1


def test_without_noise_length_alone_rejects_nobody():
    """Lengths then follow the labels a site has; among few, nothing else would find it."""
    vectors = noisy(0, 8) * np.array([1, 1, 1, 1, 1, 1, 1, 5])[:, None]
    private, open_, few = (
        strengths(length.examine(population(*rows, noise=noise)), "norm_z")[-1]
        for rows, noise in ((vectors, 0.5), (vectors, 0.0), (vectors[3:], 0.0))
    )
    assert private > 1
    assert open_ == 0.75
    assert few > 1


def test_layer_that_stands_out_is_named():
    """A backdoor often lives in one layer: the finding says which."""
    vectors = noisy(3, 5, size=402)
    vectors[4, :2] *= 1e5  # the bias: names are in order
    found = length.examine(population(*vectors))
    finding = next(f for f in found.findings[4] if f.measure == "layer_norm_z")
    assert "is layer1.bias:" in finding.text
    assert finding.severity is Severity.WARNING


def test_opposite_direction_shows_in_cosine_and_signs():
    """Minus the others' direction has cosine -1 to them, and none of their signs."""
    found = direction.examine(
        population([1, 2, 3, 4], [1.1, 2, 3, 4], [1, 2.1, 3, 4], [-1, -2, -3, -4])
    )
    assert measured(found, "cosine_to_median")[3] == pytest.approx(-1, abs=0.01)
    assert measured(found, "sign_agreement")[3] == 0
    against = {f.measure: f.severity for f in found.findings[3]}
    # Enough to support another examiner, never to reject alone.
    assert against["cosine_to_median"] is Severity.WARNING
    assert against["sign_agreement"] is Severity.WARNING


def test_root_cosine_needs_no_peers():
    """The golden rows' own update has cosine one to itself, and minus one to its opposite."""
    root = population(*noisy(1, 2, 8)).root
    found = direction.examine(population(root, -root, 3 * root))
    np.testing.assert_allclose(found.features["direction/root"], [1, -1, 1], atol=1e-5)


def test_direction_to_others_leaves_oneself_and_outsiders_out():
    """Computed from products alone, it is what the vectors themselves give."""
    vectors = noisy(4, 6, 20)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    members = np.array([True, True, False, True, True, False])
    found = direction.to_others(unit @ unit.T, members)
    for i in range(6):
        mean = unit[members & (np.arange(6) != i)].mean(axis=0)
        assert found[i] == pytest.approx(unit[i] @ mean / np.linalg.norm(mean))


def test_coordinates_that_were_left_out_do_not_change_directions(monkeypatch: pytest.MonkeyPatch):
    """Large updates are compared on a sample of their numbers."""
    vectors = noisy(5, 4, 20_000) + 1
    whole = direction.examine(population(*vectors))
    monkeypatch.setattr("aegis_server.review.population._SAMPLED", 5_000)
    some = direction.examine(population(*vectors))
    for measure in ("cosine_to_median", "sign_agreement"):
        assert measured(some, measure) == pytest.approx(measured(whole, measure), abs=0.03)


def test_nearest_mixture_is_that_of_least_squares():
    """Cosines to the cone, from products alone, are those scipy's solver finds."""
    from scipy.optimize import nnls

    random = np.random.default_rng(3)
    directions, vectors = random.normal(size=(4, 30)), random.normal(size=(6, 30))
    vectors[0] = directions[0] + 2 * directions[2]
    vectors[1] = -vectors[0]
    found = mixture.nearest(
        vectors @ directions.T, directions @ directions.T, (vectors**2).sum(axis=1)
    )
    for vector, cosine in zip(vectors, found, strict=True):
        near = directions.T @ nnls(directions.T, vector)[0]
        assert cosine == pytest.approx(np.linalg.norm(near) / np.linalg.norm(vector), abs=1e-4)
    assert found[0] == pytest.approx(1)


def test_site_with_one_class_is_on_the_cone_and_a_poisoned_one_is_not():
    """Whatever the labels of a site, its first step is a mix of its classes' slopes."""
    here = population(*noisy(2, 3, 8))
    steps = []
    for rows in (here.golden, here.golden.take(np.flatnonzero(here.golden.y == 1))):
        slope = gradients.loss_gradient(here.family, here.base, rows)
        steps.append(-parameters.flatten(slope))
    found = mixture.examine(population(*steps, -steps[0])).features
    assert found["mixture/inside"][:2].min() > 0.99
    assert found["mixture/cone"][2] < -0.5 < 0 < found["mixture/cone"][:2].min()


def test_cone_is_that_of_steps_around_the_centre():
    """A site that trains around one goes along its classes' slopes there, not along those here."""
    centre = (2.0, -1.0, 3.0)
    plain = population(*noisy(2, 3, 8))

    def around(*vectors) -> Population:
        case = population(*vectors).case
        return Population(dataclasses.replace(case, local=Local(1, 0.5, centre)))

    rows = plain.golden.take(np.flatnonzero(plain.golden.y == 1))
    step = around(np.ones(8)).downhill(rows)
    assert mixture.examine(around(step)).features["mixture/inside"][0] > 0.999
    assert mixture.examine(population(step)).features["mixture/inside"][0] < 0.98
    root = around(np.ones(8)).root
    np.testing.assert_allclose(root, 0.5 * around(root).downhill(plain.golden), atol=1e-5)


def test_longer_than_any_rows_would_make_it_decides():
    """The steepest class, for as long as sites train, and the promised noise on top."""
    slopes = population(*noisy(2, 2, 8))
    of_class = [slopes.golden.take(np.flatnonzero(slopes.golden.y == label)) for label in (0, 1)]
    limit = (4 * 0.5) * max(
        float(np.linalg.norm(parameters.flatten(each)))
        for each in (gradients.loss_gradient(slopes.family, slopes.base, r) for r in of_class)
    )
    unit = np.ones(8) / np.sqrt(8)
    found = mixture.examine(population(limit * unit, 5 * limit * unit))
    assert measured(found, "far") == pytest.approx([1, 5], rel=1e-3)
    assert strengths(found, "far")[1] > 1 > strengths(found, "far")[0]
    noise = 10 * limit
    noisy_round = mixture.examine(population(limit * unit, 5 * limit * unit, noise=noise))
    assert max(strengths(noisy_round, "far")) < 1


def test_colluders_stand_out_along_the_first_singular_direction():
    """Three of ten that share a direction have the largest projections (DnC)."""
    vectors = noisy(6, 10)
    vectors[7:] += 3 * noisy(7, 1)
    projection = spectral.examine(population(*vectors)).features["spectral/projection"]
    assert projection[7:].min() > 1.5 * projection[:7].max()


def test_distance_is_to_the_nearest_half():
    """A lonely update is farther from its nearest than the others are (Krum)."""
    vectors = noisy(8, 6, deviation=0.1) + 1
    vectors[5] = noisy(9, 1)
    distance = spectral.examine(population(*vectors)).features["spectral/distance"]
    assert distance[5] > 2 * distance[:5].max()


def test_copies_are_critical_for_both():
    """Much nearer to each other than two updates usually are: one of them copied."""
    vectors = noisy(10, 4)
    vectors[1] = 2 * vectors[0]
    found = twins.examine(population(*vectors))
    severities = [
        next(f.severity for f in each if f.measure == "largest_cosine") for each in found.findings
    ]
    assert severities[:2] == [Severity.CRITICAL] * 2
    assert severities[2:] == [Severity.INFO] * 2


def test_large_sites_without_noise_are_no_copies():
    """They are all as near to each other as copies would be."""
    vectors = 1 + noisy(11, 6, deviation=0.003)
    assert max(strengths(twins.examine(population(*vectors)), "largest_cosine")) < 0.5


def test_update_of_zeros_is_a_free_riders():
    """Nothing was trained, and the finding alone is enough."""
    vectors = noisy(12, 4)
    vectors[3] = 0
    found = twins.examine(population(*vectors))
    assert strengths(found, "length") == [0, 0, 0, 1]


def test_last_step_sent_back_is_found():
    """A free-rider has no rows, so it sends what the model did last."""
    now = noisy(14, 5)
    step = noisy(13, 1)[0]
    now[4] = step + 0.01 * now[4]
    here = population(*now)
    earlier = parameters.flatten(here.base) - step
    before = parameters.encode(parameters.unflatten(earlier.astype(np.float32), here.family.shapes))
    found = twins.examine(Population(dataclasses.replace(here.case, before=before, round=2)))
    assert strengths(found, "repeated_step")[4] > 1
    assert max(strengths(found, "repeated_step")[:4]) < 0.5
    assert strengths(twins.examine(here), "repeated_step") == [0.0] * 5


def test_site_whose_update_was_the_last_step_may_resemble_itself():
    """Krum makes the model of one update, and unsampled rows give nearly the same again."""
    now = noisy(14, 5)
    step = noisy(13, 1)[0]
    now[4] = step + 0.01 * now[4]
    here = population(*now)
    earlier = parameters.flatten(here.base) - step
    before = parameters.encode(parameters.unflatten(earlier.astype(np.float32), here.family.shapes))
    own = Past(1, Verdict.ACCEPTED, 0.0, {}, sketches.sketch(step.astype(np.float32)))
    submissions = list(here.case.submissions)
    submissions[4] = dataclasses.replace(submissions[4], past=(own,))
    case = dataclasses.replace(here.case, before=before, round=2, submissions=tuple(submissions))
    found = twins.examine(Population(case))
    assert max(strengths(found, "repeated_step")) < 0.5


def test_promised_noise_is_found_and_missing_noise_too():
    """Who adds half of the noise that was promised falls below it; signal never does."""
    vectors = noisy(15, 6, 2000, 0.5) + 0.3
    vectors[5] -= 0.5 * (vectors[5] - 0.3)
    found = noise.examine(population(*vectors, noise=0.5))
    assert strengths(found, "noise_ratio")[:5] == [0.0] * 5
    assert strengths(found, "noise_ratio")[5] > 1
    assert measured(found, "noise_ratio")[:5] == pytest.approx([1.0] * 5, abs=0.1)


def test_mixture_of_others_holds_no_noise_of_its_own():
    """However noisy they are."""
    vectors = noisy(16, 6, 2000, 0.5)
    vectors[5] = vectors[:3].sum(axis=0)
    found = noise.examine(population(*vectors, noise=0.5))
    assert strengths(found, "noise_ratio")[5] > 1


def test_promise_is_not_tested_where_chance_decides():
    """A model of few numbers cannot be told from one with less noise; nothing promised, neither."""
    assert noise.examine(population(*noisy(17, 4, 30), noise=1.0)).findings == [[]] * 4
    assert noise.examine(population(*noisy(17, 4))).findings == [[]] * 4


def test_linear_fingerprint_is_weight_times_distance_from_the_mean():
    """Exact SHAP values of a linear model, of the label's logit above the other's."""
    family = models.family("logistic", 3, 2)
    params = family.initial(5)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    rows = fingerprint.Split(x, np.arange(8) % 2)
    found = fingerprint.fingerprint(family, params, rows, x)
    weight = params["layer1.weight"]
    expected = (weight[1] - weight[0]) * (x[1::2] - x.mean(axis=0))
    np.testing.assert_allclose(found[1], expected.mean(axis=0), rtol=1e-4, atol=1e-6)


def test_expected_gradients_add_up_to_the_answer():
    """Attributions of a row sum to its answer less the references' mean one, give or take."""
    family = models.family("mlp-8", 6, 3)
    params = family.initial(1)
    random = np.random.default_rng(2)
    x = random.uniform(-1, 1, (900, 6)).astype(np.float32)
    rows = fingerprint.Split(x, np.zeros(900, np.int64))
    found = fingerprint.fingerprint(family, params, rows, np.zeros((1, 6), np.float32))
    margins = family.logits(params, x) @ np.array([1, -0.5, -0.5])
    assert found[0].sum() == pytest.approx(margins.mean(), abs=0.02)


def test_fingerprint_tells_who_teaches_something_else():
    """Flipped labels teach the model to look at features the other way."""
    case = a_round(sites=6, s4="label-flip")
    found = fingerprint.examine(Population(case))
    cosine = found.features["fingerprint/cosine"]
    assert cosine.argmin() == 3


def test_probes_have_every_class_as_far_as_there_are_rows():
    """The first rows of each class, in turn; they come in the order of the golden set."""
    labels = np.array([0] * 90 + [1] * 5 + [2] * 30)
    positions = fingerprint.probes(labels)
    assert positions.tolist() == [*range(23), *range(90, 95), *range(95, 117)]
    assert np.bincount(labels[fingerprint.probes(labels, 16)]).tolist() == [6, 5, 5]


def test_path_is_what_remains_when_noise_averages_out():
    """One round says nothing of who goes the other way; ten rounds do."""
    random = np.random.default_rng(18)
    signal = random.normal(size=800)
    signs = np.array([1, 1, 1, 1, 1, -1])

    def sent() -> np.ndarray:
        return 0.2 * signs[:, None] * signal + random.normal(size=(6, 800))

    here = population(*sent())
    pasts = [sketches.sketches(sent().astype(np.float32)) for _ in range(10)]
    submissions = tuple(
        dataclasses.replace(
            each, past=tuple(Past(r, Verdict.ACCEPTED, 0.0, {}, p[i]) for r, p in enumerate(pasts))
        )
        for i, each in enumerate(here.case.submissions)
    )
    remembering = Population(dataclasses.replace(here.case, submissions=submissions))
    others = past.examine(remembering).features["past/others"]
    assert others[5] < -0.2
    assert others[:5].min() > 0.1


ODD_ROUNDS = {
    "one update": [np.ones(8)],
    "two updates": [np.ones(8), -np.ones(8)],
    "zeros only": [np.zeros(8)] * 5,
    "all equal": [np.ones(8)] * 5,
    "denormal": list(noisy(19, 5, 8, 1e-42)),
    "huge": [*noisy(20, 5, 8), np.full(8, 3e38)],
    "huge and opposite": [np.full(8, 3e38), np.full(8, -3e38), *noisy(21, 4, 8)],
}


@pytest.mark.parametrize("examiner", ALL, ids=lambda examiner: examiner.__name__.split(".")[-1])
@pytest.mark.parametrize("kind", ODD_ROUNDS)
def test_odd_round_gives_finite_numbers(examiner, kind: str):
    """No examiner raises or speaks of NaN, whatever finite numbers were sent."""
    with np.errstate(all="ignore"):
        found = examiner.examine(population(*ODD_ROUNDS[kind], noise=0.1))
    assert len(found.findings) == len(ODD_ROUNDS[kind])
    assert all(math.isfinite(f.value * f.strength) for each in found.findings for f in each)
    assert all(np.isfinite(values).all() for values in found.features.values())
    assert all(values.shape == (len(found.findings),) for values in found.features.values())


@pytest.mark.parametrize("examiner", ALL, ids=lambda examiner: examiner.__name__.split(".")[-1])
def test_order_of_updates_changes_nothing(examiner):
    """What is found about an update does not depend on its place."""
    case = a_round(sites=6, s2="sign-flip")
    order = np.array([4, 2, 0, 5, 3, 1])
    turned = dataclasses.replace(case, submissions=tuple(case.submissions[i] for i in order))
    straight, mixed = examiner.examine(Population(case)), examiner.examine(Population(turned))
    for name, values in straight.features.items():
        np.testing.assert_allclose(mixed.features[name], values[order], rtol=1e-5, atol=1e-6)
    for place, i in enumerate(order):
        for a, b in zip(straight.findings[i], mixed.findings[place], strict=True):
            assert a.value == pytest.approx(b.value, rel=1e-5, abs=1e-6)


def test_update_rows_are_views_of_one_matrix():
    """A round of large updates is in memory once."""
    here = population(*noisy(22, 3))
    assert all(np.shares_memory(v, here.matrix) for update in here.updates for v in update.values())
    assert here.matrix.dtype == np.float32
    np.testing.assert_array_equal(parameters.flatten(here.updates[1]), here.matrix[1])
