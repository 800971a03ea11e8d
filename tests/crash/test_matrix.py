"""A few points of the crash matrix; `make crash-matrix` runs them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aegis.local.postgres import Postgres
from tests.crash.checking import check
from tests.crash.matrix import run
from tests.crash.points import Point, points, quick
from tests.crash.world import World, world


@pytest.fixture(scope="module")
def shared(postgres: Postgres) -> Iterator[World]:
    with world(postgres) as started:
        yield started


@pytest.mark.parametrize("point", quick(), ids=lambda point: point.name)
async def test_nothing_is_done_twice_lost_or_unexplained(shared: World, point: Point):
    """Killed there and started again, all who know of it tell the same story."""
    (outcome,) = await run(shared, [point], lambda _: None)
    assert outcome.findings == ()


def test_nor_over_everything_that_happened(shared: World):
    """The audit log verifies, and no effect on anything is anybody's but a request's."""
    assert check(shared.everything()) == []


def test_moments_are_drawn_from_the_seed():
    """A run can be had again."""
    first, again, other = (list(points(seed, 2)) for seed in (1, 1, 2))
    assert [p.name for p in first] == [p.name for p in again] == [p.name for p in other]
    drawn = [[p.seconds for p in each if p.group == "drawn"] for each in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]
