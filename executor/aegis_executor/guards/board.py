"""How the guards stand, for people to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from aegis_executor.guards.breakers import Breaker, open_breakers
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
    targets = sorted({deed.target for deed in history.deeds})
    for key in targets or [("", "", "")]:
        name = "/".join(part for part in key if part)
        for level in reversed(levels(key[0], key, numbers)):
            scope = f"target {name}" if level.name == "target" else level.name
            if not targets and scope != "global":
                continue
            under_way = sum(level.inside(deed) for deed in history.under_way)
            used, free_at = begun(level, history)
            for budget in (
                Budget(f"concurrent.{scope}", under_way, level.concurrent),
                Budget(f"hour.{scope}", used, level.hourly, free_at),
            ):
                if budget.used or scope == "global":
                    found.setdefault(budget.name, budget)
    return list(found.values())
