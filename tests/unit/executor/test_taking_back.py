"""What the executor itself has against taking a change back, whatever the object says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.factories import Signers

from aegis.errors import AegisError, FailedPrecondition, PermissionDenied
from aegis_executor.__main__ import _recheck
from aegis_executor.admission import Admission, Limits
from aegis_executor.catalogue.base import Kind, Place, Remedy
from aegis_executor.catalogue.cordon_node import UncordonNode
from aegis_executor.catalogue.scale_deployment import ScaleDeployment
from aegis_executor.guards import Asked
from aegis_executor.verification.store import Applied

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
UNCORDON = UncordonNode(Place(Kind.NODE, "", "n-1", "node-1"))


class FakeGuards:
    """Pauses one action."""

    def __init__(self, paused: str = "") -> None:
        self.paused = paused
        self.asked: list[str] = []

    async def recheck(self, asked: Asked) -> None:
        self.asked.append(asked.verb)
        if asked.verb == self.paused:
            raise FailedPrecondition("EXECUTION_PAUSED", "stop")


def applied(action: str) -> Any:
    told = dict.fromkeys(Applied.__dataclass_fields__)
    return Applied(**{**told, "request_id": "r-1", "action": action})  # type: ignore[arg-type]


async def refusal(undo: Remedy, action: str, guards: FakeGuards, *actions: str) -> AegisError:
    admission = Admission(
        trust=Signers.fresh().trust(NOW),
        name="executor:local",
        cluster="sandbox",
        audience="aegis",
        limits=Limits(frozenset({"demo"}), frozenset(actions), 10, nodes={"n-1"}),
        clock=lambda: NOW,
    )
    with pytest.raises(AegisError) as caught:
        await _recheck(guards, admission, applied(action), undo)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("paused", ["cordon_node", "uncordon_node"])
async def test_pause_of_what_was_done_or_of_what_takes_it_back_holds(paused: str):
    """A cordon is taken back by an uncordoning: whoever stopped either meant this."""
    guards = FakeGuards(paused)
    error = await refusal(UNCORDON, "cordon_node", guards, "cordon_node", "uncordon_node")
    assert error.reason == "EXECUTION_PAUSED"


async def test_action_that_is_not_enabled_takes_nothing_back():
    """The executor's own limits hold for everything it sends."""
    error = await refusal(UNCORDON, "cordon_node", FakeGuards(), "cordon_node")
    assert error.reason == "ACTION_NOT_ENABLED"


async def test_bounds_hold_for_taking_back():
    """20 replicas were there before the executor was told that 10 are the most."""
    undo = ScaleDeployment(Place(Kind.DEPLOYMENT, "demo", "web", "d-1"), 20)
    error = await refusal(undo, "scale_deployment", FakeGuards(), "scale_deployment")
    assert isinstance(error, PermissionDenied)
    assert error.reason == "BOUNDS_EXCEEDED"
