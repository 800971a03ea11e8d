"""Breakers: too much that did not help, and nothing is tried until somebody approves a try.

A breaker is not stored. It follows from what was done and how it ended, so it cannot be forgotten
by a restart, be reset by a mechanical success, or stay open for a reason nobody can find.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, TypeVar

from aegis_executor.catalogue.base import Gate
from aegis_executor.guards.gates import Asked, passes
from aegis_executor.guards.history import Deed, History
from aegis_executor.guards.numbers import BreakerNumbers, Numbers

State: TypeAlias = Literal["CLOSED", "OPEN", "HALF_OPEN"]
Scope: TypeAlias = Callable[[Deed], bool]
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Breaker:
    """One breaker; open without a probe time only where a person has to resolve `cause`."""

    name: str
    state: State
    cause: str = ""
    since: datetime | None = None
    probe_at: datetime | None = None

    def gate(self, asked: Asked, history: History, scope: Scope) -> Gate:
        """Returns whether it lets one through."""
        name = f"breaker.{self.name}"
        if self.state == "CLOSED":
            return passes(name, "closed")
        refused = {"reason": "BREAKER_OPEN", "metadata": {"breaker": self.name}}
        if self.state == "OPEN" or self.probe_at is None:
            return Gate(name, False, message=self.cause, retry_at=self.probe_at, **refused)  # type: ignore[arg-type]
        if not asked.approved:
            message = f"{self.cause}; one approved action may try"
            return Gate(name, False, message=message, **refused)  # type: ignore[arg-type]
        if any(deed.at >= self.probe_at for deed in history.under_way if scope(deed)):
            message = f"{self.cause}; one is trying already"
            return Gate(name, False, message=message, **refused)  # type: ignore[arg-type]
        return passes(name, f"half open, this one tries: {self.cause}")


class _Tally:
    """Counts outcomes in a sliding window; `tripped` says why they are too bad."""

    def __init__(self, window: timedelta, tripped: Callable[[int, int], str]) -> None:
        self._window = window
        self._tripped = tripped
        # When each was over, and whether it did not help.
        self._outcomes: deque[tuple[datetime, bool]] = deque()
        self._bad = 0

    def add(self, deed: Deed) -> str:
        over_at, bad = deed.over_at, not deed.good
        self._outcomes.append((over_at, bad))
        self._bad += bad
        since = over_at - self._window
        while self._outcomes[0][0] <= since:
            self._bad -= self._outcomes.popleft()[1]
        return self._tripped(self._bad, len(self._outcomes))


class _Run:
    """Counts those in a row that did not help."""

    def __init__(self, numbers: BreakerNumbers) -> None:
        self._most = numbers.consecutive
        self._bad = 0

    def add(self, deed: Deed) -> str:
        self._bad = 0 if deed.good else self._bad + 1
        return f"{self._bad} in a row did not help" if self._bad >= self._most else ""


def _of_share(numbers: BreakerNumbers) -> _Tally:
    def tripped(bad: int, total: int) -> str:
        if total < numbers.outcomes_min or bad < numbers.share * total:
            return ""
        return f"{bad} of {total} did not help within {numbers.window_seconds:g} s"

    return _Tally(timedelta(seconds=numbers.window_seconds), tripped)


def judged(
    name: str,
    deeds: Iterable[Deed],
    count: Callable[[], _Tally | _Run],
    life: timedelta,
    now: datetime,
) -> Breaker:
    """Returns where a breaker stands after these deeds, whatever their order.

    It opens for `life`; then one that is begun may show that it helps again.
    """
    deeds = list(deeds)
    # Nearly always so, and good ones alone never open it.
    if all(deed.good for deed in deeds):
        return Breaker(name, "CLOSED")
    tally, opened, cause = count(), None, ""
    for deed in sorted(deeds, key=lambda deed: deed.over_at):
        if opened is None:
            cause = tally.add(deed)
            opened = deed.over_at if cause else None
        elif not deed.good:
            opened = deed.over_at
        elif deed.at >= opened + life:
            tally, opened = count(), None
    if opened is None:
        return Breaker(name, "CLOSED")
    state: State = "OPEN" if now < opened + life else "HALF_OPEN"
    return Breaker(name, state, cause, opened, opened + life)


def _target(
    key: tuple[str, str, str], deeds: Sequence[Deed], numbers: Numbers, now: datetime
) -> Breaker:
    name = "target " + "/".join(part for part in key if part)
    for deed in deeds:
        if deed.state == "UNKNOWN" and not deed.resolved:
            cause = f"nobody knows what became of {deed.request_id}: somebody has to resolve it"
            return Breaker(name, "OPEN", cause, deed.over_at)
    return judged(name, _outcomes(deeds), lambda: _Run(numbers.breakers), _life(numbers), now)


def _shared(name: str, outcomes: Iterable[Deed], numbers: Numbers, now: datetime) -> Breaker:
    return judged(name, outcomes, lambda: _of_share(numbers.breakers), _life(numbers), now)


def _outcomes(deeds: Iterable[Deed]) -> list[Deed]:
    return [deed for deed in deeds if deed.counts and not deed.under_way]


def _life(numbers: Numbers) -> timedelta:
    return timedelta(seconds=numbers.breakers.open_seconds)


def breaker_gates(asked: Asked, history: History, numbers: Numbers) -> list[Gate]:
    """Target, action, namespace, everything: each has to let it through."""
    place = asked.place
    key = asked.target
    scopes: Mapping[str, Scope] = {
        f"action {asked.verb}": lambda deed: deed.verb == asked.verb,
        f"namespace {place.namespace}": lambda deed: deed.namespace == place.namespace,
        "global": lambda deed: True,
    }
    here = [deed for deed in history.deeds if deed.target == key]
    target = _target(key, here, numbers, history.now)
    gates = [target.gate(asked, history, lambda deed: deed.target == key)]
    outcomes = _outcomes(history.deeds)
    for name, scope in scopes.items():
        breaker = _shared(name, filter(scope, outcomes), numbers, history.now)
        gates.append(breaker.gate(asked, history, scope))
    return gates


def open_breakers(history: History, numbers: Numbers) -> list[Breaker]:
    """Returns every breaker that is not closed."""
    now, outcomes = history.now, _outcomes(history.deeds)
    found = [_shared("global", outcomes, numbers, now)]
    for verb, some in sorted(_grouped(outcomes, lambda deed: deed.verb).items()):
        found.append(_shared(f"action {verb}", some, numbers, now))
    for namespace, some in sorted(_grouped(outcomes, lambda deed: deed.namespace).items()):
        found.append(_shared(f"namespace {namespace}", some, numbers, now))
    for key, some in sorted(by_target(history.deeds).items()):
        found.append(_target(key, some, numbers, now))
    return [breaker for breaker in found if breaker.state != "CLOSED"]


def by_target(deeds: Iterable[Deed]) -> Mapping[tuple[str, str, str], Sequence[Deed]]:
    """Returns what was done to each target, in the order given."""
    return _grouped(deeds, lambda deed: deed.target)


def _grouped(deeds: Iterable[Deed], of: Callable[[Deed], Key]) -> Mapping[Key, Sequence[Deed]]:
    found: dict[Key, list[Deed]] = {}
    for deed in deeds:
        found.setdefault(of(deed), []).append(deed)
    return found
