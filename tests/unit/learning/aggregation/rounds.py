"""Rounds to try rules on: strategies for Hypothesis, and every rule with what it assumes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from aegis_learning.aggregation.bulyan import Bulyan
from aegis_learning.aggregation.fedadam import FedAdam
from aegis_learning.aggregation.fedavg import FedAvg
from aegis_learning.aggregation.fedavgm import FedAvgM
from aegis_learning.aggregation.fedprox import FedProx
from aegis_learning.aggregation.fltrust import FLTrust
from aegis_learning.aggregation.krum import Krum
from aegis_learning.aggregation.median import FedMedian
from aegis_learning.aggregation.multi_krum import MultiKrum
from aegis_learning.aggregation.rule import Rule
from aegis_learning.aggregation.trimmed_mean import TrimmedMean

# Every rule for n updates, f of them arbitrary, of d numbers.
RULES: dict[str, Callable[[int, int, int], Rule]] = {
    "fedavg": lambda n, f, d: FedAvg(),
    "fedavgm": lambda n, f, d: FedAvgM(momentum=0.9),
    "fedprox": lambda n, f, d: FedProx(proximal=0.1),
    "fedadam": lambda n, f, d: FedAdam(learning_rate=0.1),
    "median": lambda n, f, d: FedMedian(participants=n, malicious=f),
    "trimmed mean": lambda n, f, d: TrimmedMean(participants=n, malicious=f),
    "krum": lambda n, f, d: Krum(participants=n, malicious=f),
    "multi-krum": lambda n, f, d: MultiKrum(participants=n, malicious=f),
    "bulyan": lambda n, f, d: Bulyan(participants=n, malicious=f),
    "fltrust": lambda n, f, d: FLTrust(root=np.ones(d, np.float32)),
}

# Few different numbers, so that ties and equal updates are common, and some that are not.
_WHOLE = st.integers(-3, 3).map(float)
_NUMBERS = st.one_of(_WHOLE, st.floats(-100, 100, width=32, allow_subnormal=False))


@st.composite
def matrices(
    draw: st.DrawFn, *, least: int = 1, most: int = 12, each: int = 0, whole: bool = False
) -> tuple[np.ndarray, int]:
    """A matrix of updates and an f with n >= each·f + least; some rows are drawn twice.

    Whole numbers have no rounding in which a tie could get lost.
    """
    malicious = draw(st.integers(0, 2)) if each else 0
    count = draw(st.integers(each * malicious + least, max(most, each * malicious + least + 2)))
    size = draw(st.integers(1, 5))
    row = st.lists(_WHOLE if whole else _NUMBERS, min_size=size, max_size=size)
    rows = draw(st.lists(row, min_size=count, max_size=count))
    if count > 1 and draw(st.booleans()):
        rows[draw(st.integers(0, count - 1))] = rows[draw(st.integers(0, count - 1))]
    return np.array(rows, np.float32), malicious


def drawn(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Ordinary updates around a direction all have in common."""
    random = np.random.default_rng(seed)
    return (1 + random.standard_normal((count, size))).astype(np.float32)
