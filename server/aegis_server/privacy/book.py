"""The arithmetic of one data set's ledger: plain functions of rows that were read.

What runs have cost is a vector over the orders of Renyi differential privacy; vectors add up, over
steps, runs and families of models, and only the sum becomes an epsilon. A participant bears what
is written under its own name and what is written under `ALL`: sites without identities, whose rows
nobody can tell apart from run to run.

An account counts what it costs a *record*. Noise for whole participants hides their rows: with all
of them or with none moves what is sent by the clip norm at most, so one record, which leads from
one such contribution to another, moves it by twice that. Such an entry therefore counts with half
its noise. That holds because it counts without sampling (q = 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aegis_learning import privacy

ALL = "*"
RECORD, PARTICIPANT = "record", "participant"

Cost = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Limit:
    """The most the rows of a participant may cost, as (epsilon, delta)."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Steps of one subsampled Gaussian mechanism; whom it protects is `unit`.

    Raises ValueError for what costs nothing anybody could count.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    clip_norm: float = 0.0
    delta: float = 0.0
    unit: str = RECORD

    def __post_init__(self) -> None:
        if self.unit not in (RECORD, PARTICIPANT):
            raise ValueError(f"{self.unit!r} is no unit of privacy")
        if self.unit == PARTICIPANT and self.sample_rate != 1:
            raise ValueError("noise for whole participants is counted without sampling")
        self.cost()

    def cost(self) -> Cost:
        """Returns what it costs a record, at each order of `aegis_learning.privacy.ORDERS`."""
        noise, rate = self.counted
        return privacy.rdp(noise, rate, self.steps)

    @property
    def counted(self) -> tuple[float, float]:
        """The noise and the rate it counts with."""
        halved = 2 if self.unit == PARTICIPANT else 1
        return self.noise_multiplier / halved, self.sample_rate


@dataclass(frozen=True, slots=True)
class Line:
    """Everything of one kind in a participant's current account.

    `mechanism.steps` is all of it, `open_steps` the part that open runs have reserved.
    """

    participant: str
    mechanism: Mechanism
    open_steps: int
    entries: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How one participant's account stands."""

    dataset: str
    participant: str
    account: int
    spent: float
    reserved: float
    limit: Limit
    entries: int


@dataclass(frozen=True, slots=True)
class Overdrawn:
    """Who would be overdrawn, and what they have spent of what."""

    participant: str
    spent: float
    limit: Limit


@dataclass(frozen=True, slots=True)
class Book:
    """A data set's ledger as it was read.

    `limits` and `accounts` hold the rows that are there; who has none has the limit of `ALL`, or
    `usual`, and account 1.
    """

    dataset: str
    lines: Sequence[Line]
    limits: Mapping[str, Limit]
    accounts: Mapping[str, int]
    usual: Limit
    _costs: dict[str, Cost] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for line in self.lines:
            cost = line.mechanism.cost()
            if line.participant in self._costs:
                cost = self._costs[line.participant] + cost
            self._costs[line.participant] = cost

    @property
    def known(self) -> list[str]:
        """Everybody the ledger knows by name, `ALL` first."""
        names = {*self._costs, *self.limits, *self.accounts} - {ALL}
        return [ALL, *sorted(names)]

    def limit(self, participant: str) -> Limit:
        """Returns the limit that holds for a participant."""
        return self.limits.get(participant) or self.limits.get(ALL) or self.usual

    def account(self, participant: str) -> int:
        """Returns the number of a participant's current account."""
        return self.accounts.get(participant, 1)

    def cost(self, participant: str) -> Cost:
        """Returns everything a participant's rows bear."""
        shared = self._costs.get(ALL, _NOTHING)
        if participant == ALL:
            return shared
        return shared + self._costs.get(participant, _NOTHING)

    def spent(self, participant: str) -> float:
        """Returns the epsilon of that, at the delta of the participant's limit."""
        return privacy.epsilon_of(self.cost(participant), self.limit(participant).delta)

    def borne_by(self, participant: str) -> list[Line]:
        """Returns the lines a participant's rows bear."""
        return [line for line in self.lines if line.participant in (ALL, participant)]

    def overdrawn(self, participants: Sequence[str], wanted: Cost) -> Overdrawn | None:
        """Returns the first who could not bear `wanted` as well; what `ALL` bears, everybody does.

        Participants come in the order they were given.
        """
        for name in self.known if ALL in participants else participants:
            limit = self.limit(name)
            if privacy.epsilon_of(self.cost(name) + wanted, limit.delta) > limit.epsilon:
                return Overdrawn(name, self.spent(name), limit)
        return None

    def standing(self, participant: str) -> Standing:
        """Returns how a participant stands."""
        lines, spent = self.borne_by(participant), self.spent(participant)
        settled = _total(
            privacy.rdp(*line.mechanism.counted, line.mechanism.steps - line.open_steps)
            for line in lines
        )
        limit = self.limit(participant)
        return Standing(
            dataset=self.dataset,
            participant=participant,
            account=self.account(participant),
            spent=spent,
            reserved=max(0.0, spent - privacy.epsilon_of(settled, limit.delta)),
            limit=limit,
            entries=sum(line.entries for line in lines),
        )

    def nearest(self) -> Standing:
        """Returns how the one stands who has used most of its limit."""
        worst = max(self.known, key=lambda name: self.spent(name) / self.limit(name).epsilon)
        return self.standing(worst)


_NOTHING: Cost = np.zeros_like(privacy.ORDERS)
_NOTHING.setflags(write=False)


def _total(costs: Iterable[Cost]) -> Cost:
    total = _NOTHING
    for cost in costs:
        total = total + cost
    return total
