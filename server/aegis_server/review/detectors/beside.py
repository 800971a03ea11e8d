"""Two detectors' measurements side by side: does the new one find as much as the one in use?

Of both, the share of poisoned updates that is found where one in twenty honest ones is counted out:
the threshold a detector happens to have does not come into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aegis_server.review.detectors.records import HELD_BACK, Measured, mean

DROP_MAX = 0.05
# 0.9 - 0.85 is more than 0.05.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Beside:
    """True-positive rates at 5 % false positives, by attack: of a detector, and of another."""

    rates: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, one: Sequence[Measured], other: Sequence[Measured]) -> Beside:
        """Returns what both were measured under; what is NaN for one of them is left out."""
        known = {each.attack: each.tpr_at_5_fpr for each in other if _counts(each)}
        return cls(
            {
                each.attack: (each.tpr_at_5_fpr, known[each.attack])
                for each in one
                if _counts(each) and each.attack in known
            }
        )

    @property
    def means(self) -> tuple[float, float]:
        """The mean of both over the attacks; NaN where nothing was compared."""
        return mean(one for one, _ in self.rates.values()), mean(
            other for _, other in self.rates.values()
        )

    def worse_by(self, drop_max: float) -> bool:
        """Whether the mean is further below the other's; not when nothing was compared."""
        one, other = self.means
        return other - one > drop_max + _ROUNDING

    def told(self, *, drop: float) -> str:
        """Returns which attacks are found that much more rarely, the worst first."""
        by_drop = sorted(self.rates.items(), key=lambda each: each[1][0] - each[1][1])
        return ", ".join(
            f"{attack} {one:.1%} instead of {other:.1%}"
            for attack, (one, other) in by_drop
            if other - one > drop + _ROUNDING
        )


def _counts(measured: Measured) -> bool:
    return measured.attack != HELD_BACK and not math.isnan(measured.tpr_at_5_fpr)
