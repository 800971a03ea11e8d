"""What a coordinator is given, and what it is asked for behind a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aegis_learning.datasets import Dataset
from aegis_server.training.seats.store import StoredSite
from aegis_server.training.states import State
from aegis_server.training.store import StoredRound, StoredRun
from aegis_server.training.views import Rounds


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a coordinator goes on.

    `model` is the model after `last`, empty before round 0, and `state` what the strategy
    remembered then. `spent` are the private steps each participant was asked for, and `steps` the
    most of any; `quarantined` by the review room are those that may not be asked.
    """

    run: StoredRun
    last: StoredRound | None
    steps: int
    data: Dataset
    model: bytes
    state: bytes = b""
    sites: tuple[StoredSite, ...] = ()
    rounds: Rounds = ()
    spent: Mapping[str, int] = field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a coordinator is asked to do behind a round, and whom not to ask in the next."""

    stop: bool = False
    pause: bool = False
    quarantined: frozenset[str] = frozenset()

    @classmethod
    def of(cls, run: StoredRun, quarantined: Iterable[str]) -> Wishes:
        """Reads them from the run's state."""
        return cls(
            run.state == State.STATE_STOPPING,
            run.state == State.STATE_PAUSING,
            frozenset(quarantined),
        )
