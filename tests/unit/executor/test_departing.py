"""How late a change may leave, and from when it cannot arrive any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aegis.errors import Aborted
from aegis_executor.departing import Departure

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(("settle", "within"), [(65, 5), (2, 2), (0, 1)])
def test_what_leaves_in_time_has_time_to_arrive(settle: float, within: float):
    """The last moment to send plus the longest way there is when it is called dead."""
    departure = Departure(settle)
    departure.check(NOW, after(within))
    with pytest.raises(Aborted, match="must not be sent") as caught:
        departure.check(NOW, after(within + 0.1))
    assert caught.value.reason == "FENCED"
    assert not departure.over(NOW, after(within + settle - 0.1))
    assert departure.over(NOW, after(within + settle))
