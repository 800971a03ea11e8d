"""Each rule does what its paper says, for every number, tie and duplicate Hypothesis thinks of."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.learning.aggregation import references
from tests.unit.learning.aggregation.rounds import drawn, matrices

from aegis_learning.aggregation.bulyan import Bulyan, around_median, select
from aegis_learning.aggregation.distances import squared
from aegis_learning.aggregation.fedadam import FedAdam
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fedavgm import FedAvgM
from aegis_learning.aggregation.fedprox import FedProx
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.krum import Krum
from aegis_learning.aggregation.median import FedMedian
from aegis_learning.aggregation.multi_krum import MultiKrum
from aegis_learning.aggregation.refusals import NobodyTrusted
from aegis_learning.aggregation.trimmed_mean import TrimmedMean
from aegis_learning.aggregation.updates import Updates

Matrix = tuple[np.ndarray, int]


def _close(expected: list[Fraction] | list[float], actual: np.ndarray, scale: float = 1.0) -> bool:
    wanted = np.array([float(value) for value in expected])
    return bool(np.allclose(wanted, actual, rtol=1e-5, atol=1e-6 * scale))


def _scale(rows: np.ndarray) -> float:
    return float(1 + np.abs(rows).max())


@given(matrices(), st.data())
@settings(max_examples=60, deadline=None)
def test_fedavg_is_the_mean_weighted_by_rows(found: Matrix, data: st.DataObject) -> None:
    """With any weights that are not all zero; FedProx does the same on the server."""
    rows, _ = found
    weights = data.draw(st.lists(st.integers(0, 500), min_size=len(rows), max_size=len(rows)))
    weights[0] += 1
    expected = references.mean(references.exact(rows), [Fraction(weight) for weight in weights])
    for rule in (FedAvg(), FedProx(proximal=0.5)):
        result = rule.aggregate(Updates.of(rows, weights))
        assert _close(expected, result.update, _scale(rows))
        assert result.shares == pytest.approx([w / sum(weights) for w in weights])


@given(matrices(each=2))
@settings(max_examples=60, deadline=None)
def test_median_is_the_middle_of_every_coordinate(found: Matrix) -> None:
    """Of an even number, the mean of the two in the middle."""
    rows, malicious = found
    rule = FedMedian(participants=len(rows), malicious=malicious)
    expected = references.median(references.exact(rows))
    assert _close(expected, rule.aggregate(Updates.of(rows)).update, _scale(rows))


@given(matrices(each=2))
@settings(max_examples=60, deadline=None)
def test_trimmed_mean_leaves_out_both_ends(found: Matrix) -> None:
    """f at either end of every coordinate."""
    rows, malicious = found
    rule = TrimmedMean(participants=len(rows), malicious=malicious)
    expected = references.trimmed(references.exact(rows), malicious)
    assert _close(expected, rule.aggregate(Updates.of(rows)).update, _scale(rows))


@pytest.mark.parametrize("count", [2, 3, 16, 31, 49, 55, 56, 57, 58, 100])
def test_network_and_sort_agree_with_numpy_at_every_size(count: int) -> None:
    """On both sides of where sorting takes over, over more than one block."""
    rows = drawn(count, 40_000, seed=count)
    ordered = np.sort(rows.astype(np.float64), axis=0)
    cut = (count - 1) // 3
    median = FedMedian(participants=count).aggregate(Updates.of(rows)).update
    trimmed = TrimmedMean(participants=count, malicious=cut).aggregate(Updates.of(rows)).update
    assert np.array_equal(np.median(rows, axis=0), median)
    assert np.allclose(ordered[cut : count - cut].mean(axis=0), trimmed, atol=1e-6)


@given(matrices(each=2, least=3))
@settings(max_examples=60, deadline=None)
def test_krum_chooses_the_smallest_score(found: Matrix) -> None:
    """The result is one of the updates, and no other has a smaller score."""
    rows, malicious = found
    result = Krum(participants=len(rows), malicious=malicious).aggregate(Updates.of(rows))
    (chosen,) = np.flatnonzero(result.shares)
    scores = [float(s) for s in references.krum_scores(references.exact(rows), malicious)]
    assert np.array_equal(rows[chosen], result.update)
    assert scores[chosen] <= min(scores) * (1 + 1e-4) + 1e-6 * _scale(rows) ** 2


@given(matrices(each=2, least=3), st.data())
@settings(max_examples=60, deadline=None)
def test_multi_krum_is_the_mean_of_the_smallest_scores(found: Matrix, data: st.DataObject) -> None:
    """m of them, n - f unless it is said; nobody outside has a smaller score than one inside."""
    rows, malicious = found
    selected = data.draw(st.integers(0, len(rows) - malicious))
    rule = MultiKrum(participants=len(rows), malicious=malicious, selected=selected)
    result = rule.aggregate(Updates.of(rows))
    inside = [bool(share) for share in result.shares]
    scores = [float(s) for s in references.krum_scores(references.exact(rows), malicious)]
    assert (selected or len(rows) - malicious) == sum(inside)
    worst = max(score for score, taken in zip(scores, inside, strict=True) if taken)
    best = min((s for s, taken in zip(scores, inside, strict=True) if not taken), default=worst)
    assert worst <= best * (1 + 1e-4) + 1e-6 * _scale(rows) ** 2
    assert np.allclose(rows[inside].mean(axis=0), result.update, atol=1e-5 * _scale(rows))


@given(matrices(each=4, least=3, whole=True))
@settings(max_examples=60, deadline=None)
def test_bulyan_selects_by_krum_and_averages_around_the_median(found: Matrix) -> None:
    """Each update moved to the selection had the best score of those left; n - 2f, then n - 4f."""
    rows, malicious = found
    updates = Updates.of(rows)
    chosen = [updates.order[position] for position in select(squared(updates), malicious)]
    left = list(range(len(rows)))
    for choice in chosen:
        values = references.krum_scores(references.exact(rows[left]), malicious)
        scores = dict(zip(left, map(float, values), strict=True))
        assert scores[choice] <= min(scores.values()) * (1 + 1e-4) + 1e-6 * _scale(rows) ** 2
        left.remove(choice)
    assert 2 * malicious == len(left)
    selection = references.exact(rows[chosen])
    expected = references.closest_to_median(selection, len(rows) - 4 * malicious)
    result = Bulyan(participants=len(rows), malicious=malicious).aggregate(Updates.of(rows))
    assert _close(expected, result.update)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=15), st.data())
@settings(max_examples=200, deadline=None)
def test_window_around_the_median_is_exact_on_whole_numbers(
    column: list[int], data: st.DataObject
) -> None:
    """Also when more are dropped than kept."""
    dropped = data.draw(st.integers(0, len(column) - 1))
    rows = [np.array([value], np.float32) for value in sorted(column)]
    out = np.empty(1, np.float32)
    around_median(rows, dropped, out)
    exact = references.exact([[value] for value in column])
    assert _close(references.closest_to_median(exact, len(column) - dropped), out)


@given(matrices(), st.data())
@settings(max_examples=60, deadline=None)
def test_fltrust_scales_to_the_root_and_weighs_by_likeness(
    found: Matrix, data: st.DataObject
) -> None:
    """What points away from the root or nowhere is left out; when that is all, it is refused."""
    rows, _ = found
    size = rows.shape[1]
    root = data.draw(st.lists(st.integers(-3, 3).map(float), min_size=size, max_size=size))
    root[0] += 5.0
    rule = FLTrust(root=np.array(root, np.float32))
    expected = references.fltrust([[float(v) for v in row] for row in rows], root)
    if expected is None:
        with pytest.raises(NobodyTrusted):
            rule.aggregate(Updates.of(rows))
        return
    try:
        actual = rule.aggregate(Updates.of(rows)).update
    except NobodyTrusted:
        # What little trust there was came from the rounding of right angles.
        return
    length = np.linalg.norm(root)
    assert np.linalg.norm(actual) <= length * (1 + 1e-4)
    cosines = rows @ np.array(root) / (np.linalg.norm(rows, axis=1) + 1e-30)
    if np.clip(cosines, 0, None).max() > 1e-3:
        assert np.allclose(expected, actual, atol=1e-3 * length)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_fedadam_takes_the_steps_of_the_paper_round_after_round(
    rounds: int, size: int, seed: int
) -> None:
    """The state each round gives back is what the next one needs, also through a file."""
    random = np.random.default_rng(seed)
    deltas = random.standard_normal((rounds, size)).astype(np.float32)
    settings_ = {"learning_rate": 0.05, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}
    expected = references.adam([[float(v) for v in d] for d in deltas], 0.05, 0.9, 0.99, 1e-3)
    state = None
    for delta, step in zip(deltas, expected, strict=True):
        result = FedAdam(**settings_, state=state).aggregate(Updates.of([delta]))
        assert np.allclose(step, result.update, rtol=1e-4, atol=1e-7)
        state = result.state


@given(st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.9]), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_momentum_takes_the_steps_of_the_paper_round_after_round(
    rounds: int, size: int, momentum: float, seed: int
) -> None:
    """Each step is the sum of all updates so far, those of t rounds ago times β to the t."""
    random = np.random.default_rng(seed)
    deltas = random.standard_normal((rounds, size)).astype(np.float32)
    state = None
    for number in range(rounds):
        rule = FedAvgM(momentum=momentum, state=state)
        result = rule.aggregate(Updates.of([deltas[number]]))
        expected = sum(momentum ** (number - t) * deltas[t] for t in range(number + 1))
        assert np.allclose(expected, result.update, rtol=1e-4, atol=1e-6)
        state = result.state
