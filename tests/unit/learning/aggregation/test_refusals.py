"""What cannot be aggregated is refused by the rule itself, and says who or what is to blame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.unit.learning.aggregation.rounds import RULES, drawn

from aegis_learning.aggregation.bulyan import Bulyan
from aegis_learning.aggregation.fedadam import FedAdam
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fedavgm import FedAvgM
from aegis_learning.aggregation.fedprox import FedProx
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.krum import Krum
from aegis_learning.aggregation.median import FedMedian
from aegis_learning.aggregation.multi_krum import MultiKrum
from aegis_learning.aggregation.refusals import (
    AggregationRefused,
    AssumptionBroken,
    BadWeight,
    IllShaped,
    NobodyTrusted,
    NotFinite,
    Overflow,
    TooFewUpdates,
)
from aegis_learning.aggregation.trimmed_mean import TrimmedMean
from aegis_learning.aggregation.updates import Updates

ONES = np.ones(3, np.float32)
MOMENTS = {"momentum": ONES, "variance": ONES}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 17_000, 19_999])
@pytest.mark.parametrize("name", RULES)
def test_update_that_is_not_finite_is_refused_by_its_number(
    name: str, column: int, value: float
) -> None:
    """Wherever it is, and by every rule; also by those that would have left it out."""
    rows = drawn(15, 20_000)
    rows[7, column] = value
    with pytest.raises(NotFinite) as refused:
        RULES[name](15, 3, 20_000).aggregate(Updates.of(rows))
    assert refused.value.update == 7


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: FedAvg(share_max=0.0), "share_max"),
        (lambda: FedAvg(share_max=1.5), "share_max"),
        (lambda: FedAvg(share_max=np.nan), "share_max"),
        (lambda: FedProx(proximal=0.0), "proximal"),
        (lambda: FedProx(proximal=np.inf), "proximal"),
        (lambda: FedProx(proximal=1.0, share_max=-1.0), "share_max"),
        (lambda: FedAdam(learning_rate=0.0), "learning_rate"),
        (lambda: FedAdam(learning_rate=np.nan), "learning_rate"),
        (lambda: FedAdam(learning_rate=1.0, beta1=1.0), "beta1"),
        (lambda: FedAvgM(momentum=1.0), "server_momentum"),
        (lambda: FedAvgM(momentum=np.nan), "server_momentum"),
        (lambda: FedAvgM(momentum=0.5, share_max=0.0), "share_max"),
        (lambda: FedAvgM(momentum=0.5, state=MOMENTS), "state"),
        (lambda: FedAvgM(momentum=0.5, state={"momentum": ONES * np.nan}), "state"),
        (lambda: FedAvgM(momentum=0.5, state={"momentum": ONES.astype(np.float64)}), "state"),
        (lambda: FedAdam(learning_rate=1.0, beta2=-0.1), "beta2"),
        (lambda: FedAdam(learning_rate=1.0, tau=0.0), "tau"),
        (lambda: FedAdam(learning_rate=1.0, share_max=0.0), "share_max"),
        (lambda: FedAdam(learning_rate=1.0, state={"momentum": ONES}), "state"),
        (lambda: FedAdam(learning_rate=1.0, state=MOMENTS | {"momentum": ONES[:2]}), "state"),
        (lambda: FedAdam(learning_rate=1.0, state=MOMENTS | {"variance": -ONES}), "state"),
        (lambda: FedAdam(learning_rate=1.0, state=MOMENTS | {"momentum": ONES * np.nan}), "state"),
        (lambda: FedMedian(participants=4, malicious=2), "participants"),
        (lambda: FedMedian(participants=4, malicious=-1), "malicious"),
        (lambda: TrimmedMean(participants=4, malicious=2), "participants"),
        (lambda: TrimmedMean(participants=4, malicious=-1), "malicious"),
        (lambda: Krum(participants=6, malicious=2), "participants"),
        (lambda: Krum(participants=6, malicious=-1), "malicious"),
        (lambda: MultiKrum(participants=6, malicious=2), "participants"),
        (lambda: MultiKrum(participants=7, malicious=2, selected=6), "selected"),
        (lambda: MultiKrum(participants=7, malicious=2, selected=-1), "selected"),
        (lambda: Bulyan(participants=10, malicious=2), "participants"),
        (lambda: Bulyan(participants=10, malicious=-1), "malicious"),
        (lambda: FLTrust(root=np.zeros(3, np.float32)), "root"),
        (lambda: FLTrust(root=np.array([1, np.nan], np.float32)), "root"),
        (lambda: FLTrust(root=np.ones(3)), "root"),
        (lambda: FLTrust(root=np.ones((3, 1), np.float32)), "root"),
    ],
)
def test_rule_whose_assumption_does_not_hold_is_not_made(
    make: Callable[[], object], field: str
) -> None:
    """The field to change is named."""
    with pytest.raises(AssumptionBroken) as refused:
        make()
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("name", "needed"),
    [("median", 7), ("trimmed mean", 7), ("krum", 9), ("multi-krum", 9), ("bulyan", 15)],
)
def test_fewer_updates_than_the_rule_needs_are_refused(name: str, needed: int) -> None:
    """What was promised for f = 3 must not quietly be something else when some did not answer."""
    rule = RULES[name](15, 3, 10)
    assert needed == rule.least
    with pytest.raises(TooFewUpdates):
        rule.aggregate(Updates.of(drawn(needed - 1, 10)))
    rule.aggregate(Updates.of(drawn(needed, 10)))


@pytest.mark.parametrize(
    ("rows", "to_blame"),
    [
        ([ONES, ONES[:2]], 1),
        ([ONES, ONES.astype(np.float64)], 1),
        ([ONES, ONES, ONES.reshape(1, 3)], 2),
        ([ONES[:0]], 0),
    ],
)
def test_update_of_another_form_is_refused_by_its_number(
    rows: list[np.ndarray], to_blame: int
) -> None:
    """Length, type, dimensions."""
    with pytest.raises(IllShaped) as refused:
        Updates.of(rows)
    assert refused.value.update == to_blame


@pytest.mark.parametrize(
    "second", [{"a": ONES}, {"a": ONES, "b": ONES, "c": ONES}, {"a": ONES, "b": ONES[:2]},
               {"a": ONES, "b": ONES.astype(np.float64)}, {"a": ONES, "b": ONES.reshape(3, 1)}]
)  # fmt: skip
def test_tensors_of_another_model_are_refused(second: dict[str, np.ndarray]) -> None:
    """Missing, extra, another shape or type."""
    with pytest.raises(IllShaped) as refused:
        Updates.named([{"a": ONES, "b": ONES}, second])
    assert refused.value.update == 1


@pytest.mark.parametrize(
    "blocks",
    [
        [np.ones((3, 4), np.float32)],
        [np.ones((2, 3), np.float32)],
        [np.ones((2, 6), np.float32)],
        [np.ones((2, 4))],
        [np.ones(4, np.float32)],
    ],
)
def test_stream_that_is_not_what_it_was_said_to_be_is_refused(blocks: list[np.ndarray]) -> None:
    """Too many rows, too few or too many columns, another type, no matrix."""
    with pytest.raises(IllShaped):
        FedAvg().aggregate(Updates.streamed(2, 4, lambda: blocks))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    """Missing, negative, all zero, not finite."""
    with pytest.raises(BadWeight):
        Updates.of([ONES, ONES], weights)


def test_no_update_at_all_is_refused() -> None:
    """There is no mean of nothing."""
    with pytest.raises(TooFewUpdates):
        Updates.of([])
    with pytest.raises(TooFewUpdates):
        Updates.named([])


def test_nobody_trusted_is_a_refusal() -> None:
    """Updates of zeros and updates against the root: the model must not move."""
    with pytest.raises(NobodyTrusted):
        FLTrust(root=ONES).aggregate(Updates.of([-ONES, 0 * ONES]))


def test_root_of_another_model_is_refused() -> None:
    """It cannot be compared."""
    with pytest.raises(IllShaped):
        FLTrust(root=ONES).aggregate(Updates.of([ONES[:2]]))


def test_state_of_another_model_is_refused() -> None:
    """The moments belong to as many parameters as there are."""
    with pytest.raises(AssumptionBroken):
        FedAdam(learning_rate=1.0, state=MOMENTS).aggregate(Updates.of([ONES[:2]]))
    with pytest.raises(AssumptionBroken):
        FedAvgM(momentum=0.5, state={"momentum": ONES}).aggregate(Updates.of([ONES[:2]]))


def test_momentum_beyond_the_largest_number_is_refused() -> None:
    """Rounds add up, and every one of them was finite."""
    rule = FedAvgM(momentum=0.9, state={"momentum": np.float32(3e38) * ONES})
    with pytest.raises(Overflow):
        rule.aggregate(Updates.of([np.float32(3e38) * ONES]))


def test_square_of_an_update_that_is_no_number_is_refused() -> None:
    """Adam divides by it."""
    with pytest.raises(Overflow):
        FedAdam(learning_rate=1.0).aggregate(Updates.of([np.float32(1e38) * ONES]))


@pytest.mark.parametrize("name", ["fedavg", "median", "trimmed mean", "krum", "bulyan"])
def test_largest_numbers_there_are_have_a_result(name: str) -> None:
    """Sums of finite numbers overflow; means need not."""
    rows = np.full((15, 10), np.finfo(np.float32).max, np.float32)
    result = RULES[name](15, 3, 10).aggregate(Updates.of(rows)).update
    assert np.allclose(rows[0], result, rtol=1e-5)


def test_all_refusals_are_one_family() -> None:
    """Whoever catches the family catches them all."""
    for refusal in (AssumptionBroken, TooFewUpdates, IllShaped, NotFinite, BadWeight, Overflow):
        assert issubclass(refusal, AggregationRefused)
