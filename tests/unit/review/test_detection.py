"""Detectors: trained, calibrated, written and read."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_server.review.case import Past, Verdict
from aegis_server.review.detection import (
    Detector,
    DetectorInvalid,
    Recorded,
    TooFewRows,
    builtin,
    train,
)
from aegis_server.review.detection.forest import plant
from aegis_server.review.detection.measures import MEASURES, NAMES, suspicious
from aegis_server.review.detection.observing import Observation, observe
from aegis_server.review.detection.tails import SURVIVAL, table

F = len(NAMES)


def features(random: np.random.Generator, n: int, odd: int | None = None) -> dict[str, np.ndarray]:
    """Measures of an honest round, and of one that is odd in a suspicious way."""
    drawn = {name: random.normal(size=n) for name in NAMES}
    if odd is not None:
        for name, measure in MEASURES.items():
            drawn[name][odd] = 8.0 * (measure.tail or 1)
    return drawn


def rounds_of(seed: int, rounds: int, n: int, **options) -> list[Observation]:
    """The rounds of one run, with what is remembered of the earlier ones."""
    random = np.random.default_rng(seed)
    pasts: list[tuple[Past, ...]] = [()] * n
    found = []
    for number in range(1, rounds + 1):
        drawn = features(random, n, **options)
        seen = observe(lambda members, d=drawn: d, pasts, private=False, classes=10)
        for i, each in enumerate(seen.features()):
            pasts[i] = (*pasts[i], Past(number, Verdict.ACCEPTED, 0.0, each, b""))
        found.append(seen)
    return found


def recorded(seeds: range, rounds: int = 6, n: int = 10) -> list[Recorded]:
    return [
        Recorded(f"run-{seed}", number, f"site-{i}", row)
        for seed in seeds
        for number, seen in enumerate(rounds_of(seed, rounds, n))
        for i, row in enumerate(seen.features())
    ]


@cache
def trained(target: float = 0.05) -> Detector:
    return train(recorded(range(20)), target_fpr=target, seed=3, version="test-1")


def test_fresh_honest_updates_are_suspicious_as_often_as_was_asked():
    """Rounds of runs that were not trained on, at five in a hundred: between two and ten."""
    scores = np.concatenate(
        [
            trained().suspicion(seen).scores
            for seed in range(50, 65)
            for seen in rounds_of(seed, 6, 10)
        ]
    )
    assert 0.02 < (scores >= 1).mean() < 0.10


def test_score_is_the_logarithm_of_the_false_positive_rate():
    """At 1 it is the target, at 2 its square; one odd of ten makes the others' rise by 6 %."""
    for seen in rounds_of(70, 3, 10, odd=2):
        found = trained().suspicion(seen)
        company = 1 + 0.6 * (found.scores >= 1).mean()
        np.testing.assert_allclose(found.rates, 0.05 ** (found.scores / company), rtol=1e-9)


def test_odd_update_is_found_and_the_others_are_not():
    """Eight deviations in every measure are no honest update."""
    for seen in rounds_of(71, 5, 10, odd=4):
        scores = trained().suspicion(seen).scores
        assert scores.argmax() == 4
        assert scores[4] > 2


def test_small_persistent_deviation_is_found_over_the_rounds():
    """A deviation and a half in a few measures is nothing once, and much ten times."""
    random = np.random.default_rng(72)
    pasts: list[tuple[Past, ...]] = [()] * 10
    first = last = None
    for number in range(1, 13):
        drawn = features(random, 10)
        for name in ("golden-set/pull", "golden-set/loss", "golden-set/auc"):
            drawn[name][6] += 1.6
        drawn["direction/root"][6] -= 1.6
        seen = observe(lambda members, d=drawn: d, pasts, private=False, classes=10)
        for i, each in enumerate(seen.features()):
            pasts[i] = (*pasts[i], Past(number, Verdict.ACCEPTED, 0.0, each, b""))
        last = trained().suspicion(seen).scores
        first = last if first is None else first
    assert first[6] < 1 < last[6]
    assert last.argmax() == 6


def test_attackers_on_one_side_do_not_make_honest_updates_odd():
    """Three of ten far out are outside the core, and the others are held against the core."""
    random = np.random.default_rng(73)
    drawn = features(random, 10)
    for name, measure in MEASURES.items():
        drawn[name][7:] += 6.0 * (measure.tail or 1)
    seen = observe(lambda members: drawn, [()] * 10, private=False, classes=10)
    assert not seen.core[7:].any()
    scores = trained().suspicion(seen).scores
    assert scores[7:].min() > 1
    assert (scores[:7] >= 1).sum() <= 1


def test_barred_updates_are_not_what_others_are_held_against():
    """Six copies in the middle of everything would be the most ordinary of ten."""
    drawn = features(np.random.default_rng(78), 10)
    for values in drawn.values():
        values[4:] = 0.0
    barred = np.arange(10) >= 8
    seen = observe(lambda members: drawn, [()] * 10, private=False, classes=10, barred=barred)
    assert seen.core.sum() == 6
    assert not seen.core[8:].any()


def test_too_few_updates_are_not_judged_by_statistics():
    """Among seven nobody knows what is usual, and all are held against all."""
    for seen in rounds_of(74, 2, 7, odd=1):
        assert trained().suspicion(seen).scores.tolist() == [0.0] * 7
        assert seen.core.all()


def test_order_of_updates_does_not_matter():
    """Scores move with the updates."""
    drawn = features(np.random.default_rng(75), 9, odd=3)
    order = np.random.default_rng(1).permutation(9)
    turned = {name: values[order] for name, values in drawn.items()}
    straight, mixed = (
        trained().suspicion(observe(lambda members, d=d: d, [()] * 9, private=False, classes=10))
        for d in (drawn, turned)
    )
    np.testing.assert_allclose(mixed.scores, straight.scores[order])


def test_training_again_gives_the_same_file():
    """Whatever the order of the rows."""
    rows = recorded(range(4))
    a, b = (train(some, target_fpr=0.05, seed=3, version="v") for some in (rows, rows[::-1]))
    assert a.encode() == b.encode()


def test_detector_reads_back_as_it_was_written():
    """The same bytes, and the same scores."""
    again = Detector.decode(trained().encode())
    assert again.encode() == trained().encode()
    assert (again.version, again.target) == ("test-1", 0.05)
    for seen in rounds_of(76, 3, 10, odd=0):
        np.testing.assert_array_equal(
            again.suspicion(seen).scores, trained().suspicion(seen).scores
        )


def test_too_few_rows_are_refused():
    """What is rare cannot be said from a handful."""
    with pytest.raises(TooFewRows):
        train(recorded(range(1), rounds=2), target_fpr=0.05, seed=1, version="v")
    with pytest.raises(TooFewRows):
        train([], target_fpr=0.05, seed=1, version="v")


def test_centred_rounds_are_a_kind_of_their_own():
    """Where a detector has seen any; else they are judged as other rounds with noise."""
    kinds = {"round/private": 1.0}
    plain = [replace(row, features=row.features | kinds) for row in recorded(range(6))]
    kinds["round/centred"] = 1.0
    centred = [
        replace(row, run_id="c" + row.run_id, features=row.features | kinds)
        for row in recorded(range(6, 12))
    ]
    both, one = (
        train(rows, target_fpr=0.05, seed=3, version="test-1") for rows in (plain + centred, plain)
    )
    assert set(both.regimes) == {"private-many", "centred-many"}
    seen = replace(rounds_of(70, 3, 10)[-1], private=True, centred=True)
    assert seen.features()[0]["round/centred"] == 1
    other = replace(seen, centred=False)
    assert (both.suspicion(seen).scores != both.suspicion(other).scores).any()
    assert (one.suspicion(seen).scores == one.suspicion(other).scores).all()
    assert (both.suspicion(other).scores == one.suspicion(other).scores).all()


def test_rounds_of_uneven_sites_are_a_kind_of_their_own():
    """Where a detector has seen any; else they are judged as those of even ones."""
    even = recorded(range(6))
    uneven = [
        replace(row, run_id="u" + row.run_id, features=row.features | {"round/evenness": 0.7})
        for row in recorded(range(6, 12))
    ]
    both, one, only = (
        train(rows, target_fpr=0.05, seed=3, version="test-1")
        for rows in (even + uneven, even, uneven)
    )
    assert set(both.regimes) == {"open-many", "open-many-uneven"}
    seen = replace(rounds_of(70, 3, 10)[-1], evenness=0.6)
    other = replace(seen, evenness=0.99)
    assert (both.suspicion(seen).scores != both.suspicion(other).scores).any()
    assert (one.suspicion(seen).scores == both.suspicion(other).scores).all()
    assert (only.suspicion(other).scores == both.suspicion(seen).scores).all()


@pytest.mark.parametrize(
    ("shares", "evenness"), [(None, 1.0), ([0.25] * 4, 1.0), ([0.7, 0.1, 0.1, 0.1], 1 / 2.08)]
)
def test_evenness_is_how_many_equal_shares_would_be_worth_as_much(
    shares: list[float] | None, evenness: float
):
    """Over how many there are: it is known from enrolment, not from what is sent."""
    seen = observe(
        lambda members: dict.fromkeys(NAMES, np.zeros(4)),
        [()] * 4,
        private=False,
        classes=2,
        shares=None if shares is None else np.array(shares),
    )
    assert seen.evenness == pytest.approx(evenness)
    assert seen.features()[0]["round/evenness"] == seen.evenness


def test_row_of_an_earlier_program_is_of_no_centred_and_no_uneven_round():
    """It did not say."""
    rows, unknown = recorded(range(6)), ("round/centred", "round/evenness")
    earlier = [
        replace(row, features={k: v for k, v in row.features.items() if k not in unknown})
        for row in rows
    ]
    made = [train(r, target_fpr=0.05, seed=3, version="test-1") for r in (rows, earlier)]
    assert made[0].encode() == made[1].encode()


@pytest.mark.parametrize("target", [0.0, -1.0, 0.5, float("nan")])
def test_rate_that_is_none_is_refused(target: float):
    """A detector that finds half of the honest suspicious is none."""
    with pytest.raises(ValueError, match="rate"):
        train(recorded(range(1)), target_fpr=target, seed=1, version="v")


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), None])
def test_row_without_its_numbers_is_refused(broken: float | None):
    """Recorded updates come from a database."""
    rows = recorded(range(6))
    lacking = dict(rows[7].features)
    if broken is None:
        del lacking["length/norm"]
    else:
        lacking["length/norm"] = broken
    rows[7] = Recorded("run-0", rows[7].round, rows[7].participant, lacking)
    with pytest.raises(ValueError, match="length/norm"):
        train(rows, target_fpr=0.05, seed=1, version="v")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_damaged_file_is_refused_or_the_same(data: st.DataObject):
    """One changed byte anywhere: no other error, and never another detector."""
    good = trained().encode()
    position = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255))
    damaged = good[:position] + bytes([byte]) + good[position + 1 :]
    try:
        found = Detector.decode(damaged)
    except DetectorInvalid:
        return
    # Only version, target and spaces are outside the digest of the numbers.
    assert found.regimes.keys() == trained().regimes.keys()


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"\x80\x04.", b"\0" * 8, b"\xff" * 5_000_000])
def test_anything_else_is_refused(data: bytes):
    """A pickle least of all."""
    with pytest.raises(DetectorInvalid):
        Detector.decode(data)


def forged(change) -> bytes:
    """A file whose digest is right and whose numbers are not."""
    from aegis_server.review.detection import files

    good = trained().encode()
    tensors = dict(safetensors.numpy.load(good))
    about = json.loads(
        json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])["__metadata__"]["aegis"]
    )
    change(tensors, about)
    about["sha256"] = files._digest(tensors)
    return safetensors.numpy.save(tensors, {"aegis": json.dumps(about)})


def circle(tensors: dict, about: dict) -> None:
    tensors["open-many/now/left"] = np.zeros_like(tensors["open-many/now/left"])


def outside(tensors: dict, about: dict) -> None:
    right = tensors["open-many/now/right"].copy()
    right[0] = len(right)
    tensors["open-many/now/right"] = right


def shrinking(tensors: dict, about: dict) -> None:
    quantiles = tensors["open-many/now/quantiles"]
    tensors["open-many/now/quantiles"] = quantiles[:, ::-1].copy()


def without_end(tensors: dict, about: dict) -> None:
    tensors["open-many/now/scales"] = np.full(F, np.inf, np.float32)


def other_measures(tensors: dict, about: dict) -> None:
    about["measures"] = about["measures"][::-1]


def no_rate(tensors: dict, about: dict) -> None:
    about["target"] = 0.0


def missing(tensors: dict, about: dict) -> None:
    del tensors["open-many/size-0/total/scales"]


@pytest.mark.parametrize(
    "change", [circle, outside, shrinking, without_end, other_measures, no_rate, missing]
)
def test_forged_file_is_refused(change):
    """A tree in a circle would judge for ever; each of the others judges wrongly."""
    Detector.decode(forged(lambda tensors, about: None))
    with pytest.raises(DetectorInvalid):
        Detector.decode(forged(change))


def test_forest_scores_as_the_library_that_trained_it():
    """Scored in numpy from flat arrays: what scikit-learn's own `score_samples` gives."""
    from sklearn.ensemble import IsolationForest

    random = np.random.default_rng(5)
    rows = random.normal(size=(500, F))
    theirs = IsolationForest(n_estimators=20, max_samples=64, random_state=9).fit(
        rows.astype(np.float32)
    )
    fresh = 2 * random.normal(size=(50, F))
    np.testing.assert_allclose(
        plant(rows, 9).score(fresh), -theirs.score_samples(fresh.astype(np.float32)), rtol=1e-4
    )


def test_table_knows_shares_and_goes_on_beyond_them():
    """-log of the share above, and straight on where nobody has been."""
    values = np.random.default_rng(6).exponential(size=(20_000, 1))
    made = table(values)
    for share in (0.5, 0.1, 0.01, 0.0001):
        at = -np.log(share)
        assert made.surprise(np.array([[at]]))[0, 0] == pytest.approx(at, rel=0.1, abs=0.05)
        assert made.value(at, 0) == pytest.approx(at, rel=0.1, abs=0.05)
    assert len(SURVIVAL) == made.quantiles.shape[1]


def test_suspicious_side_of_each_measure():
    """Low cosines and high losses are suspicious; of a length, both sides."""
    low = suspicious(-np.ones((1, F)))[0]
    assert low[NAMES.index("direction/root")] == 1
    assert low[NAMES.index("golden-set/loss")] == -1
    assert low[NAMES.index("length/norm")] == 1


def test_builtin_detector_is_small_and_whole():
    """It ships with the package and knows each kind and size of round."""
    data = builtin().encode()
    assert len(data) < 500_000
    assert set(builtin().regimes) == {
        f"{kind}-{classes}{sites}"
        for kind in ("open", "private", "centred")
        for classes in ("two", "many")
        for sites in ("", "-uneven")
    }
    assert all(set(regime.sizes) == {0, 1} for regime in builtin().regimes.values())
