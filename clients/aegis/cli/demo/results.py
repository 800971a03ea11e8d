"""What the demo measured, and the facts it must have shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to happen, whether it did, and what was seen."""

    claim: str
    held: bool
    seen: str


@dataclass(slots=True)
class Results:
    """Filled chapter by chapter; only measured values get in."""

    seed: int
    attack: str
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    epsilon: float | None = None
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0

    def measure(self, group: str, name: str, value: Any) -> None:
        """Notes a measured value as `group.name`."""
        self.numbers.setdefault(group, {})[name] = value

    def expect(self, claim: str, held: bool, seen: str) -> None:
        """Notes whether something that had to happen did."""
        self.checks.append(Check(claim, held, seen))

    @property
    def succeeded(self) -> bool:
        """True when everything that had to happen did, and something had to."""
        return bool(self.checks) and all(check.held for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Returns the document `--json` writes."""
        return {
            "seed": self.seed,
            "attack": self.attack,
            **self.numbers,
            "epsilon": self.epsilon,
            "seconds": round(self.seconds, 1),
            "succeeded": self.succeeded,
            "checks": [
                {"claim": check.claim, "held": check.held, "seen": check.seen}
                for check in self.checks
            ],
        }
