"""Why a rule, or the updates it was given, cannot be used.

`update` is the position of the one to blame, in the order the caller gave them.
"""

from __future__ import annotations


class AggregationRefused(ValueError):
    """One of the others here."""


class AssumptionBroken(AggregationRefused):
    """The rule promises nothing with these settings; `field` is the one to change."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class TooFewUpdates(AggregationRefused):
    """The rule needs more updates than it was given."""

    def __init__(self, given: int, needed: int) -> None:
        super().__init__(f"{given} updates were given, the rule needs {needed}")
        self.given = given
        self.needed = needed


class IllShaped(AggregationRefused):
    """An update is not a vector of float32 as long as the others, or not of their tensors."""

    def __init__(self, update: int, message: str) -> None:
        super().__init__(f"update {update}: {message}")
        self.update = update


class NotFinite(AggregationRefused):
    """An update holds NaN or infinity."""

    def __init__(self, update: int) -> None:
        super().__init__(f"update {update}: holds NaN or infinity")
        self.update = update


class BadWeight(AggregationRefused):
    """A weight is negative or not finite, or all of them are zero."""


class Overflow(AggregationRefused):
    """Every update is finite, but what they add up to is not."""


class NobodyTrusted(AggregationRefused):
    """No update points where the root update does, so there is nothing to average."""
