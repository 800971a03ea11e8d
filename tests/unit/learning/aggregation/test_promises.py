"""What all rules have in common, and what robust ones promise when some updates are arbitrary."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.learning.aggregation.rounds import RULES, drawn

from aegis_learning import parameters
from aegis_learning.aggregation.distances import squared
from aegis_learning.aggregation.fedadam import FedAdam
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fedavgm import FedAvgM
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.krum import Krum
from aegis_learning.aggregation.rule import Rule
from aegis_learning.aggregation.shares import bounded
from aegis_learning.aggregation.updates import Updates
from aegis_learning.models import family
from aegis_learning.parameters import Parameters

ALL = pytest.mark.parametrize("name", RULES)


@ALL
def test_result_does_not_depend_on_the_order_of_updates(name: str) -> None:
    """Bit for bit, duplicates and weights included; shares follow their updates."""
    rows = drawn(15, 20_000)
    rows[4] = rows[9]
    weights = np.arange(1.0, 16.0)
    rule = RULES[name](15, 3, 20_000)
    expected = rule.aggregate(Updates.of(rows, list(weights)))
    for seed in range(3):
        moved = np.random.default_rng(seed).permutation(15)
        result = rule.aggregate(Updates.of(rows[moved], list(weights[moved])))
        assert expected.update.tobytes() == result.update.tobytes()
        # Which of two equal updates Krum takes is no matter.
        if expected.shares and name not in {"krum", "multi-krum"}:
            assert [expected.shares[index] for index in moved] == list(result.shares)


@ALL
def test_result_is_the_same_bit_for_bit_however_updates_are_given(name: str) -> None:
    """As vectors, as a matrix in either memory order, and as a stream of blocks."""
    rows = drawn(15, 20_000)
    rule = RULES[name](15, 3, 20_000)
    expected = rule.aggregate(Updates.of(rows)).update.tobytes()

    def stream() -> Iterator[np.ndarray]:
        for start, stop in ((0, 16_384), (16_384, 20_000)):
            yield rows[:, start:stop]

    for updates in (
        Updates.of([row.copy() for row in rows]),
        Updates.of(np.asfortranarray(rows)),
        Updates.streamed(15, 20_000, stream),
    ):
        assert expected == rule.aggregate(updates).update.tobytes()


@ALL
def test_updates_are_not_changed(name: str) -> None:
    """They may be somebody else's memory, or a file opened for reading."""
    rows = drawn(15, 1_000)
    before = rows.copy()
    rows.flags.writeable = False
    RULES[name](15, 3, 1_000).aggregate(Updates.of(rows))
    assert np.array_equal(before, rows)


@ALL
def test_named_parameters_give_what_their_vectors_give(name: str) -> None:
    """Tensors in order of their names, as `parameters.flatten` has them."""
    updates = [family("mlp", 30, 2).initial(seed) for seed in range(15)]
    flat = [parameters.flatten(update) for update in updates]
    rule = RULES[name](15, 3, flat[0].size)
    expected = rule.aggregate(Updates.of(flat)).update
    assert np.allclose(expected, rule.aggregate(Updates.named(updates)).update, atol=1e-6)


@given(
    st.integers(0, 3),
    st.sampled_from([1e-3, 1.0, 1e6, 1e18, 3e38]),
    st.sampled_from(["one side", "both sides", "around zero", "copies of one honest"]),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_arbitrary_updates_cannot_leave_the_honest_range(
    malicious: int, size: float, how: str, seed: int
) -> None:
    """f of n at any size: coordinate by coordinate, the result is between honest values.

    Bulyan's mean is of those nearest to the median: no farther from it than honest values are from
    each other.
    """
    random = np.random.default_rng(seed)
    count, width = 4 * malicious + 3, 6
    honest = (1 + 0.1 * random.standard_normal((count - malicious, width))).astype(np.float32)
    evil = np.full((malicious, width), size, np.float32)
    if how == "both sides":
        evil *= random.choice([-1, 1], (malicious, width)).astype(np.float32)
    elif how == "around zero":
        evil *= random.uniform(-1, 1, (malicious, width)).astype(np.float32)
    elif how == "copies of one honest":
        evil[:] = honest[0]
    rows = np.concatenate([evil, honest])
    low, high = honest.min(axis=0), honest.max(axis=0)
    for name, beyond in (("median", 0.0), ("trimmed mean", 0.0), ("bulyan", high - low)):
        result = RULES[name](count, malicious, width).aggregate(Updates.of(rows)).update
        assert (low - beyond - 1e-5 <= result).all(), name
        assert (result <= high + beyond + 1e-5).all(), name


@pytest.mark.parametrize("size", [30.0, 1e6, 1e18, 3e38])
@pytest.mark.parametrize("name", ["krum", "multi-krum"])
def test_krum_takes_no_update_that_is_far_away(name: str, size: float) -> None:
    """f colluders with one and the same update, far from the others, are left out."""
    count, malicious = 13, 4
    rows = drawn(count, 50)
    rows[:malicious] = size
    result = RULES[name](count, malicious, 50).aggregate(Updates.of(rows))
    assert not any(result.shares[:malicious])


def test_fltrust_is_no_longer_than_its_root() -> None:
    """Whatever all participants send, a step is at most as long as that of the clean data."""
    rows = 1e30 * drawn(5, 100)
    root = np.full(100, 0.01, np.float32)
    result = FLTrust(root=root).aggregate(Updates.of(rows))
    assert np.linalg.norm(result.update) <= np.linalg.norm(root) * 1.0001


def test_update_too_short_to_scale_does_not_fail_the_round() -> None:
    """A factor beyond float32 is applied in float64."""
    rows = np.stack([np.full(4, 1e-44, np.float32), np.ones(4, np.float32)])
    result = FLTrust(root=np.ones(4, np.float32)).aggregate(Updates.of(rows))
    assert np.allclose(result.update, 1.0, rtol=0.05)


def test_distances_are_exact_where_updates_are_close_together_and_far_from_zero() -> None:
    """What ‖x‖² + ‖y‖² − 2·x·y in float32 loses altogether."""
    offset = np.float32(1000)
    rows = (offset + 0.01 * drawn(9, 5_000)).astype(np.float32)
    wide = rows.astype(np.float64)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    updates = Updates.of(rows)
    ordered = expected[np.ix_(updates.order, updates.order)]
    assert np.allclose(ordered, squared(updates), rtol=1e-4)


@pytest.mark.parametrize("evil", [1e5, -1e5, 1e15])
def test_attacker_who_looks_central_at_first_does_not_blind_krum(evil: float) -> None:
    """The centre is guessed from the first columns; the attacker is ordinary only there."""
    rows = drawn(7, 30_000)
    rows[0] = rows[1:].mean(axis=0)
    rows[0, 5_000:] = evil
    wide = rows.astype(np.float64)
    updates = Updates.of(rows)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)[np.ix_(updates.order, updates.order)]
    assert np.allclose(expected, squared(updates), rtol=1e-3)
    honest = Krum(participants=7, malicious=2).aggregate(Updates.of(rows))
    assert honest.shares[0] == 0


@given(
    st.lists(st.floats(0, 1e12), min_size=1, max_size=12).filter(any),
    st.floats(0.01, 1.0),
)
@settings(max_examples=200, deadline=None)
def test_no_share_is_larger_than_allowed(weights: list[float], share_max: float) -> None:
    """Shares add up to one; too few updates for the bound share equally."""
    shares = bounded(np.array(weights), share_max)
    heavy = np.count_nonzero(np.array(weights) / max(weights))
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    assert shares.max() <= max(share_max, 1 / heavy) * (1 + 1e-9)
    # A larger weight never gets a smaller share.
    assert (np.diff(shares[np.argsort(weights, kind="stable")]) >= -1e-12).all()


def test_participant_with_a_billion_rows_moves_the_mean_by_its_bound_at_most() -> None:
    """The others share what is left in proportion to their rows."""
    rows = np.array([[1.0], [0.0], [0.0]], np.float32)
    result = FedAvg(share_max=0.4).aggregate(Updates.of(rows, [1e9, 30, 10]))
    assert result.update == pytest.approx([0.4])
    assert result.shares == pytest.approx([0.4, 0.45 * 0.8889, 0.2], abs=0.05)


# Rules that remember, given what they remember.
REMEMBERING: dict[str, Callable[[Parameters | None], Rule]] = {
    "fedadam": lambda state: FedAdam(learning_rate=0.1, state=state),
    "fedavgm": lambda state: FedAvgM(momentum=0.9, state=state),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_state_of_a_rule_survives_being_saved(name: str) -> None:
    """Restored from its safetensors file, the next step is the same bit for bit."""
    rule = REMEMBERING[name]
    first = rule(None).aggregate(Updates.of(drawn(3, 50)))
    assert first.state is not None
    shapes = {name: values.shape for name, values in first.state.items()}
    restored = parameters.decode(parameters.encode(first.state), shapes)
    later = Updates.of(drawn(3, 50, seed=1))
    on, again = (rule(state).aggregate(later) for state in (first.state, restored))
    anew = rule(None).aggregate(later)
    assert on.update.tobytes() == again.update.tobytes()
    assert on.update.tobytes() != anew.update.tobytes()


@pytest.mark.parametrize("name", REMEMBERING)
def test_round_that_is_repeated_does_not_advance_a_rule(name: str) -> None:
    """A rule is a value: aggregating twice gives the same, and changes no state."""
    state = REMEMBERING[name](None).aggregate(Updates.of(drawn(3, 50))).state
    rule = REMEMBERING[name](state)
    once, twice = (rule.aggregate(Updates.of(drawn(3, 50, seed=1))) for _ in range(2))
    assert once.update.tobytes() == twice.update.tobytes()
