"""Registered data sets, split once and for all, and how rows are dealt to simulated sites.

Features are clipped to their published ranges and mapped to [-1, 1]. Nothing is fitted: means or
deviations of private rows would leak what the accountant does not see.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aegis_learning.models import Family, family
from aegis_learning.rows import Split as Split
from aegis_learning.schema import Continuous, Schema

_SHA256 = "fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed"
_SPLIT_SEED = 20_1995
_GOLDEN_ROWS = 64
_TEST_ROWS = 114
# Dealt evenly before the Dirichlet draw, so that every site has enough rows of every class.
_EVEN_SHARE = 0.25
# What a site of a simulation has when there are too few rows to go round.
DRAWN_ROWS = 40

# Ranges in the data set's published description (UCI "Breast Cancer Wisconsin (Diagnostic)"):
# mean, standard error and worst of radius, texture, perimeter, area, smoothness, compactness,
# concavity, concave points, symmetry, fractal dimension.
_LOW = np.array(
    [
        *(6.981, 9.71, 43.79, 143.5, 0.053, 0.019, 0.0, 0.0, 0.106, 0.05),
        *(0.112, 0.36, 0.757, 6.802, 0.002, 0.002, 0.0, 0.0, 0.008, 0.001),
        *(7.93, 12.02, 50.41, 185.2, 0.071, 0.027, 0.0, 0.0, 0.156, 0.055),
    ]
)
_HIGH = np.array(
    [
        *(28.11, 39.28, 188.5, 2501.0, 0.163, 0.345, 0.427, 0.201, 0.304, 0.097),
        *(2.873, 4.885, 21.98, 542.2, 0.031, 0.135, 0.396, 0.053, 0.079, 0.03),
        *(36.04, 49.54, 251.2, 4254.0, 0.223, 1.058, 1.252, 0.291, 0.664, 0.208),
    ]
)


_MEASURES = (
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"),
    *("concave points", "symmetry", "fractal dimension"),
)
_NAMES = tuple(f"{kind} {what}" for kind in ("mean", "error", "worst") for what in _MEASURES)
SCHEMA = Schema(
    tuple(
        Continuous(name, float(low), float(high))
        for name, low, high in zip(_NAMES, _LOW, _HIGH, strict=True)
    ),
    label="diagnosis",
    classes=("malignant", "benign"),
)


class UnknownDataset(KeyError):
    """No data set has this name."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Disjoint splits; the golden rows belong to the review, the test rows to nobody.

    `train` is None unless the data set ships: then the rows are at the participants. `public` says
    that the rows are no secret, so that simulations may use them.
    """

    name: str
    schema: Schema
    golden: Split
    test: Split
    public: bool
    train: Split | None = None

    @property
    def features(self) -> int:
        """Numbers a row has."""
        return self.schema.width

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.schema.classes)

    @property
    def shared(self) -> Split:
        """The rows that embedded sites share out; raises ValueError when there are none."""
        if self.train is None:
            raise ValueError(f"the rows of {self.name} are at its participants")
        return self.train

    def family(self, name: str) -> Family:
        """Returns the model family of that name for these rows; raises `UnknownModel`."""
        return family(name, self.features, self.classes)


def load(name: str) -> Dataset:
    """Returns the data set of that name; the split never depends on a run's seed.

    Raises `UnknownDataset`.
    """
    if name != "breast-cancer":
        raise UnknownDataset(name)
    return _breast_cancer()


@lru_cache(maxsize=1)
def _breast_cancer() -> Dataset:
    table = np.loadtxt(BytesIO(_breast_cancer_file()), delimiter=",", skiprows=1)
    raw_x, raw_y = table[:, :-1], table[:, -1]
    x = (2 * (raw_x.clip(_LOW, _HIGH) - _LOW) / (_HIGH - _LOW) - 1).astype(np.float32)
    whole = Split(x, raw_y.astype(np.int64))
    random = np.random.default_rng(_SPLIT_SEED)
    order = _stratified(whole.y, random)
    golden, test, train = np.split(order, [_GOLDEN_ROWS, _GOLDEN_ROWS + _TEST_ROWS])
    return Dataset(
        name="breast-cancer",
        schema=SCHEMA,
        golden=whole.take(golden),
        test=whole.take(test),
        public=True,
        train=whole.take(train),
    )


def split_evaluation(rows: Split, golden_share: float) -> tuple[Split, Split]:
    """Returns the golden and the test rows of a data set: always the same ones of the same rows.

    Raises ValueError when a class would be missing from one of them.
    """
    order = _stratified(rows.y, np.random.default_rng(_SPLIT_SEED))
    count = round(golden_share * len(rows))
    golden, test = rows.take(order[:count]), rows.take(order[count:])
    classes = set(rows.y.tolist())
    if set(golden.y.tolist()) != classes or set(test.y.tolist()) != classes:
        raise ValueError("there are too few rows for each class to be in both parts")
    return golden, test


def _stratified(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Returns an order in which every beginning has the classes in the proportion of the whole."""
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        keys[random.permutation(rows)] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(keys, kind="stable")


def _breast_cancer_file() -> bytes:
    # Scikit-learn ships the file. Importing all of it to read 569 lines would cost every
    # coordinator two seconds, and the digest is a stricter check than any version number.
    sklearn = importlib.util.find_spec("sklearn")
    if sklearn is None or sklearn.origin is None:
        raise FileNotFoundError("the breast-cancer data set comes with scikit-learn: install it")
    file = Path(sklearn.origin).parent / "datasets" / "data" / "breast_cancer.csv"
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ValueError(f"{file} is not the data set the fixed split was made for")
    return content


def partition(
    split: Split, participants: int, alpha: float, seed: int, *, shared: bool = False
) -> list[Split]:
    """Deals every row to exactly one of `participants` sites.

    Each class is dealt in shares drawn from a Dirichlet distribution with concentration `alpha`
    (small: very uneven), after a quarter of an even share went to every site. Raises ValueError
    when there are too few rows for that to give each site two rows of each class; with `shared`,
    which only simulations may ask for, sites then draw rows others have as well (`draw`).
    """
    random = np.random.default_rng([seed & (2**64 - 1), 0x706172])
    dealt: list[list[NDArray[np.int64]]] = [[] for _ in range(participants)]
    for label in np.unique(split.y):
        rows = random.permutation(np.flatnonzero(split.y == label))
        even = max(2, int(_EVEN_SHARE * len(rows) / participants))
        if even * participants > len(rows):
            if shared:
                return draw(split, participants, alpha, seed)
            raise ValueError(f"too few rows of class {label} for {participants} participants")
        rest = rows[even * participants :]
        shares = random.dirichlet(np.full(participants, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(rest)).astype(int)
        for site, part in enumerate(np.split(rest, cuts)):
            dealt[site] += [rows[site * even : (site + 1) * even], part]
    return [split.take(np.sort(np.concatenate(rows))) for rows in dealt]


def draw(split: Split, participants: int, alpha: float, seed: int) -> list[Split]:
    """Draws `DRAWN_ROWS` rows with replacement for each site, at least two of every class.

    A site's mix of classes comes from a Dirichlet distribution with concentration `alpha`. Rows are
    at several sites, so what a row costs in privacy is no longer what one site spends.
    """
    random = np.random.default_rng([seed & (2**64 - 1), 0x647261])
    labels = np.unique(split.y)
    by_label = [np.flatnonzero(split.y == label) for label in labels]
    sites = []
    for _ in range(participants):
        mix = random.dirichlet(np.full(len(labels), alpha))
        counts = 2 + random.multinomial(DRAWN_ROWS - 2 * len(labels), mix)
        rows = [random.choice(of, count) for of, count in zip(by_label, counts, strict=True)]
        sites.append(split.take(np.sort(np.concatenate(rows))))
    return sites
