"""What one round of a run leaves to the next, and what comes of it: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aegis_learning.parameters import Array, Parameters
from aegis_server.review.giving import Gifts
from aegis_server.review.pushes import Vector
from aegis_server.review.triggers import Found, Trigger

_TRIGGERS_MAX = 6


@dataclass(frozen=True, slots=True)
class History:
    """What a run's rounds leave to the next; begin with one that has the rule's momentum.

    `tables` are sums by participant, `believed` the triggers somebody was excluded for, the newest
    last, `group` who was apart in the last round. `natural` is filled by the first scan, `clean` is
    the model to go back to.
    """

    momentum: float = 0.0
    rounds: int = 0
    tables: Mapping[str, Vector] = field(default_factory=dict)
    believed: tuple[Trigger, ...] = ()
    group: frozenset[str] = frozenset()
    gifts: Gifts | None = None
    natural: tuple[float, ...] = ()
    suspicious: bool = False
    clean: Array | None = None

    def believing(self, trigger: Trigger) -> History:
        """Returns it with one more trigger that is believed."""
        if trigger in self.believed:
            return self
        return replace(self, believed=(*self.believed, trigger)[-_TRIGGERS_MAX:])


@dataclass(frozen=True, slots=True)
class Scan:
    """What the search found in the model that is published; `threshold` is for the lift."""

    found: Found
    threshold: float
    suspicious: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """The move from the base to the next model, and what the rule has to remember with it.

    `members` are places of the updates in it with the share each has, as the rule has it, those of
    `shortened` not at their whole length, and `excluded` those of accepted updates with no part.
    `scan` is None without golden rows. When the run `went_back` none of the updates is in the
    model, and the rule begins anew.
    """

    delta: Array
    members: tuple[int, ...]
    shares: tuple[float, ...]
    excluded: tuple[int, ...]
    history: History
    state: Parameters | None = None
    scan: Scan | None = None
    went_back: bool = False
    shortened: tuple[int, ...] = ()
