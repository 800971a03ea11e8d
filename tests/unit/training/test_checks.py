"""Plans that cannot be kept are refused by field, before anything is recorded."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from aegis.errors import InvalidArgument
from aegis.plans import default_plan
from aegis.v1 import training_pb2
from aegis_learning.datasets import load
from aegis_server.training.plans import noise_of, planned_steps
from aegis_server.training.seats.settling import embedded_sites, require_delta
from aegis_server.training.seats.store import StoredSite

ENROLLED = training_pb2.SITES_ENROLLED


def _plan(**fields: Any) -> training_pb2.RunPlan:
    plan = default_plan()
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(plan, name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(plan, name).CopyFrom(value)
        else:
            setattr(plan, name, value)
    return plan


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sites": ENROLLED}, "simulation"),
        ({"sites": training_pb2.SITES_FLOWER}, "simulation"),
        ({"names": ["north"]}, "names"),
        ({"names": ["north"], "sites": ENROLLED, "simulation": False}, "names"),
        ({"app": training_pb2.App(name="theirs", sha256=b"\1" * 32)}, "app"),
        ({"participants": 900, "simulation": False}, "participants"),
        ({"per_round": 2}, "per_round"),
        ({"per_round": 6}, "per_round"),
        ({"grace": Duration(seconds=61)}, "grace"),
        ({"quarantine_rounds": 2}, "quarantine_rounds"),
        ({"rounds_each": 14}, "rounds_each"),
        ({"rounds_each": 8, "per_round": 3}, "rounds_each"),
        ({"update_clip_norm": 1.0}, "update_clip_norm"),
        (
            {"privacy_unit": training_pb2.PRIVACY_UNIT_PARTICIPANT, "review": False},
            "update_clip_norm",
        ),
    ],
)
def test_field_that_cannot_be_met_is_named(fields: dict[str, Any], field: str) -> None:
    """One violation, of that field."""
    with pytest.raises(InvalidArgument) as refused:
        noise_of(_plan(**fields))
    assert [violation.field for violation in refused.value.violations] == [f"plan.{field}"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"per_round": 3},
        {"per_round": 3, "rounds_each": 9},
        {"rounds_each": 15},
        {"grace": Duration(seconds=60)},
        {"quarantine_after": 2, "quarantine_rounds": 2},
        {"sites": ENROLLED, "simulation": False, "per_round": 7},
        {"sites": ENROLLED, "simulation": False, "names": list("abcde")},
    ],
)
def test_plan_that_can_be_kept_is_not_refused(fields: dict[str, Any]) -> None:
    """The defaults, and what goes with them."""
    assert noise_of(_plan(**fields)) > 0


def test_embedded_sites_need_rows_that_are_here() -> None:
    """A registered data set has its rows at participants."""
    elsewhere = dataclasses.replace(load("breast-cancer"), train=None)
    with pytest.raises(InvalidArgument, match="at participants"):
        noise_of(_plan(), elsewhere)
    assert noise_of(_plan(sites=ENROLLED, simulation=False), elsewhere) > 0


def test_cap_on_rounds_of_one_participant_needs_less_noise() -> None:
    """It pays for the rounds it may be in, and for no others."""
    capped = _plan(per_round=3, rounds_each=9)
    assert planned_steps(capped) == 9 * capped.local_steps
    assert noise_of(capped) < noise_of(_plan(per_round=3))


def test_delta_stays_below_one_row_of_every_participant() -> None:
    """1/78 is above a thousandth, 1/1000 is not; and with participants it is how many they are."""
    plan = _plan()
    require_delta(plan, embedded_sites("run-1", plan, load("breast-cancer")))
    large = [StoredSite("run-1", "north", 1, 10), StoredSite("run-1", "south", 2, 1000)]
    with pytest.raises(InvalidArgument) as refused:
        require_delta(plan, large)
    assert [violation.field for violation in refused.value.violations] == ["plan.delta"]
    plan.privacy_unit = training_pb2.PRIVACY_UNIT_PARTICIPANT
    require_delta(plan, large)
    plan.delta = 0.5
    with pytest.raises(InvalidArgument, match="2 participants"):
        require_delta(plan, large)
