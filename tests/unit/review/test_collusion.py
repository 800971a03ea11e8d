"""Collusion: who is alike in a round, who keeps company over rounds; honest runs and colluders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.unit.review.factories import DATASET, FAMILY, honest_update

from aegis_learning import datasets, parameters
from aegis_learning.parameters import Array, flatten, unflatten
from aegis_server.review import sketches
from aegis_server.review.memory.likeness import alike
from aegis_server.review.standing.collusion import Sighting, groups
from aegis_server.review.store import RoundKey

ROUNDS = 8
Attack = Callable[[Array, int, np.random.Generator], Array]


def copies(updates: Array, bad: int, random: np.random.Generator) -> Array:
    """The first one's update, each in a tenth of noise of its own."""
    return jittered(updates[0], bad, random)


def little_is_enough(updates: Array, bad: int, random: np.random.Generator) -> Array:
    """A deviation beside the mean of the honest (Baruch et al. 2019), each with some noise."""
    honest = updates[bad:]
    return jittered(honest.mean(axis=0) - honest.std(axis=0), bad, random)


def nothing(updates: Array, bad: int, random: np.random.Generator) -> Array:
    """Honest after all."""
    return updates[:bad]


def jittered(vector: Array, number: int, random: np.random.Generator) -> Array:
    noise = random.normal(size=(number, len(vector))).astype(np.float32)
    noise *= 0.1 * np.linalg.norm(vector) / np.linalg.norm(noise, axis=1, keepdims=True)
    found: Array = vector + noise
    return found


def run(
    seed: int, *, sites: int = 10, bad: int = 3, attack: Attack = nothing, concentration: float
) -> list[frozenset[str]]:
    """Returns who keeps company after some rounds in which the first `bad` of the sites attack."""
    random = np.random.default_rng(seed)
    splits = datasets.partition(DATASET.shared, sites, concentration, seed)
    base, sightings = FAMILY.initial(seed), {f"s{at}": list[Sighting]() for at in range(sites)}
    for number in range(1, ROUNDS + 1):
        updates = np.stack([flatten(honest_update(base, each, random)) for each in splits])
        sent = np.concatenate([attack(updates, bad, random), updates[bad:]])
        for at, others in enumerate(alike(sketches.sketches(sent))):
            seen = Sighting(RoundKey("run-1", number, 1), frozenset(f"s{each}" for each in others))
            sightings[f"s{at}"].append(seen)
        step = unflatten(updates.mean(axis=0), FAMILY.shapes)
        base = parameters.add(base, step)
    return groups(sightings)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sites", [5, 10])
@pytest.mark.parametrize("concentration", [1000.0, 0.5], ids=["iid", "uneven"])
def test_honest_sites_are_never_called_colluders(seed: int, sites: int, concentration: float):
    """Sites that see much the same send much the same, each with noise of its own."""
    assert run(seed, sites=sites, concentration=concentration) == []


@pytest.mark.parametrize("attack", [copies, little_is_enough])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("concentration", [1000.0, 0.5], ids=["iid", "uneven"])
def test_colluders_are_a_group_and_nobody_else_is(attack: Attack, seed: int, concentration: float):
    """Noise of a tenth does not hide that three of ten send one vector."""
    found = run(seed, attack=attack, concentration=concentration)
    assert found == [frozenset({"s0", "s1", "s2"})]


def test_round_of_four_calls_nobody_alike():
    """Two of four are half: which half is the ordinary one, nobody can say."""
    random = np.random.default_rng(1)
    vectors = random.normal(size=(4, 500)).astype(np.float32)
    vectors[1] = vectors[0]
    assert alike(sketches.sketches(vectors)) == [[], [], [], []]
    more = np.concatenate([vectors, random.normal(size=(1, 500)).astype(np.float32)])
    assert alike(sketches.sketches(more)) == [[1], [0], [], [], []]


def test_update_without_direction_is_like_nobody():
    """Zeros, and updates that no examiner could sketch, have no neighbours and break nothing."""
    vectors = np.random.default_rng(1).normal(size=(8, 500)).astype(np.float32)
    vectors[0] = vectors[1] = 0
    vectors[3] = vectors[2]
    found = alike([*sketches.sketches(vectors), b"", b""])
    assert found == [[], [], [3], [2], [], [], [], [], [], []]


def test_length_hides_no_copy():
    """The same direction at ten times the length is the same update."""
    vectors = np.random.default_rng(1).normal(size=(6, 500)).astype(np.float32)
    vectors[1] = 10 * vectors[0]
    assert alike(sketches.sketches(vectors))[:2] == [[1], [0]]


def sightings(**seen: list[set[str]]) -> dict[str, list[Sighting]]:
    """Each participant's rounds, from round 1 on, with who was like it."""
    return {
        name: [
            Sighting(RoundKey("run-1", number, 1), frozenset(others))
            for number, others in enumerate(rounds, start=1)
        ]
        for name, rounds in seen.items()
    }


def test_twice_is_chance_three_times_is_company():
    """A pair has to be seen together in three rounds."""
    assert groups(sightings(a=[{"b"}] * 2, b=[{"a"}] * 2)) == []
    assert groups(sightings(a=[{"b"}] * 3, b=[{"a"}] * 3)) == [frozenset({"a", "b"})]


def test_pair_that_is_mostly_unlike_keeps_no_company():
    """Three of seven rounds are less than half."""
    rare = [{"b"}] * 3 + [set()] * 4
    assert groups(sightings(a=rare, b=[{"a"}] * 3 + [set()] * 4)) == []
    assert groups(sightings(a=rare[:6], b=[{"a"}] * 3 + [set()] * 3)) == [frozenset({"a", "b"})]


def test_only_rounds_of_both_count():
    """A colluder that is not asked in most rounds is found in those it is asked in."""
    assert groups(sightings(a=[{"b"}] * 3 + [set()] * 9, b=[{"a"}] * 3)) == [frozenset({"a", "b"})]


def test_friends_of_friends_are_one_group():
    """A chain of copies is one group though its ends are not alike; others are another."""
    found = groups(
        sightings(
            a=[{"b"}] * 3,
            b=[{"a", "c"}] * 3,
            c=[{"b"}] * 3,
            d=[{"e"}] * 3,
            e=[{"d"}] * 3,
            f=[set()],
        )
    )
    assert sorted(found, key=min) == [frozenset("abc"), frozenset("de")]
