"""A matrix that cannot fail is worth nothing: executors that are wrong are found out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aegis.local.postgres import Postgres
from tests.crash.matrix import run
from tests.crash.points import points
from tests.crash.world import World, world

POINTS = {point.name: point for point in points(0, 0)}


@pytest.fixture(scope="module")
def sabotaged(postgres: Postgres) -> Iterator[World]:
    with world(postgres) as started:
        started.stack.program = "tests.crash.saboteur"
        # What never ends is not waited for.
        started.client.patience_seconds = 4.0
        yield started


@pytest.mark.parametrize(
    ("sabotage", "point", "kind", "sentence"),
    [
        ("again", "killed/after-mutate/restart_rollout", "double", "it took effect 2 times"),
        (
            "unwritten",
            "killed/after-ending/restart_rollout",
            "unexplained",
            "no attempt was written down before it",
        ),
        ("forgetful", "killed/after-claim/restart_pod", "lost", "its INTENT never ended"),
    ],
)
async def test_it_is_found(sabotaged: World, sabotage: str, point: str, kind: str, sentence: str):
    """Done twice, done without a word, never finished."""
    sabotaged.environment["AEGIS_SABOTAGE"] = sabotage
    (outcome,) = await run(sabotaged, [POINTS[point]], lambda _: None)
    found = [(each.kind, each.sentence) for each in outcome.findings]
    assert any(each == kind and told.endswith(sentence) for each, told in found), found
