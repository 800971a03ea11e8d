"""How the guards stand, for people to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from aegis_executor.guards.breakers import Breaker, by_target, open_breakers
from aegis_executor.guards.history import History
from aegis_executor.guards.limits import begun, levels
from aegis_executor.guards.numbers import Numbers
from aegis_executor.guards.pauses import Pause
from aegis_executor.guards.storm import Storm


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a limit is used; `free_at` where nothing is left."""

    name: str
    used: int
    limit: int
    free_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """Everything that may hold an action back, at one moment."""

    pauses: Sequence[Pause]
    breakers: Sequence[Breaker]
    storm: Storm
    budgets: Sequence[Budget]
    epoch: int
    local_pause: str


def board(history: History, numbers: Numbers, epoch: int, dependencies: Sequence[Breaker]) -> Board:
    """Returns how things stand; breakers and budgets of targets only where something is used."""
    return Board(
        pauses=history.pauses,
        breakers=[*open_breakers(history, numbers), *dependencies],
        storm=history.storm or Storm("BLIND", history.now, "nobody could look for too long"),
        budgets=_budgets(history, numbers),
        epoch=epoch,
        local_pause=history.local_pause,
    )


def _budgets(history: History, numbers: Numbers) -> list[Budget]:
    found: dict[str, Budget] = {}
    done_to, scopes = by_target(history.deeds), set[str]()
    for key in sorted(done_to) or [("", "", "")]:
        name = "/".join(part for part in key if part)
        for level in reversed(levels(key[0], key, numbers)):
            own = level.name == "target"
            scope = f"target {name}" if own else level.name
            if scope in scopes or (not done_to and scope != "global"):
                continue
            scopes.add(scope)
            past = replace(history, deeds=done_to[key]) if own else history
            under_way = sum(level.inside(deed) for deed in past.under_way)
            used, free_at = begun(level, past)
            for budget in (
                Budget(f"concurrent.{scope}", under_way, level.concurrent),
                Budget(f"hour.{scope}", used, level.hourly, free_at),
            ):
                if budget.used or scope == "global":
                    found[budget.name] = budget
    return list(found.values())
