"""Hospitals that are programs of their own train together, while things die and sites lie."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from aegis.local.authority import Authority, Names, read_pair
from aegis.local.pki import PARTICIPANTS
from aegis.v1 import (
    model_pb2,
    model_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
    training_pb2,
)
from aegis_learning.datasets import load
from aegis_learning.parameters import decode
from aegis_participant.ledger import Cost, Ledger, Limit
from tests.e2e.conftest import left_behind
from tests.hospitals import DATASET, Hospital, House, dealt, seconds_between

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

Run, Outcome = training_pb2.Run, training_pb2.ParticipantRound
NAMES = ["east", "north", "south", "west"]
THREE = NAMES[1:]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """One control plane and four hospitals for all tests here; no process stays."""
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        with House(Path(folder)) as house:
            for name, rows in zip(NAMES, dealt(len(NAMES)), strict=True):
                house.hospital(name, rows).start()
            for each in house.hospitals.values():
                each.present()
            yield house
        assert left_behind(folder) == []


def three(house: House) -> list[Hospital]:
    return [house.hospitals[name] for name in THREE]


def agree(house: House, run_id: str, steps: dict[str, int]) -> None:
    """Server and sites have counted the same private steps for a run, and it is these."""
    assert steps == house.paid(run_id)
    assert steps == {name: house.hospitals[name].steps(run_id) for name in steps}


def outcomes(run: training_pb2.Run, number: int) -> dict[str, str]:
    told = next(each for each in run.rounds if each.round == number).participants
    return {each.participant: Outcome.Outcome.Name(each.outcome)[8:] for each in told}


def test_private_run_ends_with_models_figures_and_ledgers_that_agree(house: House):
    """Aegis' own application under review; every round is a model with its three ingredients."""
    plan = house.plan(THREE, ward=False, rounds=5, local_steps=6, target_epsilon=8.0)
    run_id = house.start(plan)
    run = house.until_state(run_id, Run.STATE_COMPLETED)
    assert run.accuracy > 0.85
    assert [outcomes(run, n) for n in range(1, 6)] == [dict.fromkeys(THREE, "AGGREGATED")] * 5

    agree(house, run_id, dict.fromkeys(THREE, 30))
    request = privacy_pb2.GetPrivacyLedgerRequest(dataset=DATASET)
    ledger = house.call(privacy_pb2_grpc.PrivacyServiceStub, "GetPrivacyLedger", request)
    spent = {each.participant: each.epsilon_spent for each in ledger.accounts}
    for each in three(house):
        assert each.status()["data"][DATASET]["epsilon"] == pytest.approx(spent[each.name], 1e-3)

    asked = model_pb2.GetModelLineageRequest(model_id=run.model_sha256.hex())
    lineage = house.call(model_pb2_grpc.ModelServiceStub, "GetModelLineage", asked).models
    assert [each.round for each in lineage] == [5, 4, 3, 2, 1, 0]
    for model in lineage[:-1]:
        assert [each.participant for each in model.ingredients] == THREE
        assert all(each.update_id for each in model.ingredients)

    figures = house.training("GetRunMetrics", run_id=run_id)
    assert (figures.missing, figures.unusable) == ([], [])
    assert len(figures.metrics) == 15
    assert "accuracy" not in {name for each in figures.metrics for name in each.values}


def test_run_goes_on_where_it_was_whatever_is_killed(house: House):
    """Coordinator, site and server, each in the middle of a round; no answer is asked for twice."""
    north, south, west = three(house)
    rounds = 5
    run_id = house.start(house.plan(THREE, rounds=rounds))
    try:
        house.until_round(run_id, 1)
        west.hold()
        at_coordinator = west.held(run_id)
        for each in (north, south):
            each.reached(run_id, at_coordinator, "done")
        os.kill(house.coordinator(run_id), signal.SIGKILL)
        west.release()
        south.hold()
        at_site = south.held(run_id, after=at_coordinator)
        south.kill()
        south.release()
        south.start()
        west.hold()
        at_server = west.held(run_id, after=at_site)
        for each in (north, south):
            each.reached(run_id, at_server, "done")
        house.kill_server()
        west.release()
        house.restart_server()
        run = house.until_state(run_id, Run.STATE_COMPLETED)
    finally:
        for each in (north, south, west):
            each.release()
    every = list(range(1, rounds + 1))
    for each in (north, west):
        assert each.diary(run_id, "begun") == every
    assert south.diary(run_id, "begun") == sorted([*every, at_site])
    for each in (north, south, west):
        assert each.diary(run_id, "done") == every
    agree(house, run_id, dict.fromkeys(THREE, 2 * rounds))
    assert [(n, r, 0, 2, True) for n in THREE for r in every] == house.tasks(run_id)
    killed = {"coordinator": at_coordinator, "site": at_site, "server": at_server}
    usual = min(seconds_between(run, number) for number in every[1:])
    for what, number in killed.items():
        sys.stderr.write(
            f"{what}: {seconds_between(run, number) - usual:.1f} s lost in round {number}\n"
        )


def test_revoked_site_is_left_out_of_the_round_it_is_in(house: House):
    """Its stream ends, its program says why and ends; the others do not wait for it."""
    guest = house.hospital("guest", dealt(5)[0]).start().present()
    north, west = house.hospitals["north"], house.hospitals["west"]
    run_id = house.start(house.plan(["guest", "north", "west"], rounds=3))
    try:
        house.until_round(run_id, 1)
        guest.hold()
        number = guest.held(run_id)
        west.hold()
        revoked = house.aegis("participant", "revoke", "guest", "--reason", "a test", "--yes")
        assert revoked["state"] == "STATE_REVOKED"
        assert guest.ended() == 3
        west.release()
        run = house.until_state(run_id, Run.STATE_COMPLETED)
    finally:
        west.release()
    assert "this participation was ended by the control plane, for good" in guest.log.read_text()
    assert guest.status()["state"] == "ended"
    assert seconds_between(run, number) < 30  # of sixty that it may take
    left = {"north": "AGGREGATED", "west": "AGGREGATED"}
    for later in range(number, 4):
        told = outcomes(run, later)
        assert told.pop("guest") != "AGGREGATED"
        assert told == left
    assert [each.diary(run_id, "done") for each in (north, west)] == [[1, 2, 3]] * 2
    assert house.paid(run_id) == {"guest": 2 * number, "north": 6, "west": 6}
    assert guest.steps(run_id) == 2 * number


def test_site_whose_own_budget_ends_leaves_the_run_and_nobody_else(house: House):
    """It refuses in the second round, which its ledger and the server's know nothing of."""
    south = house.hospitals["south"]
    plan = house.plan(THREE, rounds=3)
    created = house.training("CreateRun", request_id=str(uuid.uuid4()), plan=plan).run
    south.stop()
    south.limit(_between(south, Cost(created.noise_multiplier, plan.sample_rate, 2)))
    south.start().present()
    try:
        house.training("StartRun", request_id=str(uuid.uuid4()), run_id=created.run_id)
        run = house.until_state(created.run_id, Run.STATE_COMPLETED)
    finally:
        south.stop()
        south.limit(900.0)
        south.start().present()
    assert [outcomes(run, number)["south"] for number in (1, 2, 3)] == [
        "AGGREGATED",
        "REFUSED",
        "REFUSED",
    ]
    refused = next(each for each in run.rounds[2].participants if each.participant == "south")
    assert "PRIVACY_BUDGET_EXHAUSTED" in refused.reason
    agree(house, run.run_id, {"north": 6, "south": 2, "west": 6})


def _between(site: Hospital, cost: Cost) -> float:
    """A limit that one more task at a site is within, and a second is not."""
    copy = site.folder / "ledger.copy"
    shutil.copy(site.folder / "ledger", copy)
    limits = {DATASET: Limit(1000.0, 1e-5)}
    with Ledger(copy, limits, clock=lambda: datetime.now(UTC)) as ledger:
        spent = []
        for task in ("first", "second"):
            ledger.reserve(task, DATASET, cost, run_id="run", number=1)
            spent.append(ledger.epsilon(DATASET))
    return sum(spent) / 2


def test_two_runs_share_the_sites_and_one_of_them_pauses(house: House):
    """Both are at work at the same moment; a pause costs the paused one nothing."""
    sites = three(house)
    for each in sites:
        each.hold()
    try:
        one, other = (house.start(house.plan(THREE, rounds=3, seed=seed)) for seed in (1, 2))
        for each in sites:
            each.reached(one, 1)
            each.reached(other, 1)
        house.training("PauseRun", run_id=other)
    finally:
        for each in sites:
            each.release()
    house.until_state(one, Run.STATE_COMPLETED)
    paused = house.until_state(other, Run.STATE_PAUSED)
    assert paused.rounds_completed == 1
    house.training("ResumeRun", run_id=other)
    house.until_state(other, Run.STATE_COMPLETED)
    for run_id in (one, other):
        agree(house, run_id, dict.fromkeys(THREE, 6))
        assert [each.diary(run_id, "done") for each in sites] == [[1, 2, 3]] * 3


def test_who_was_never_enrolled_gets_no_model(house: House):
    """A certificate of the very authority that signs for participants does not do."""
    folder, north = house.folder / "stranger", house.hospitals["north"].folder
    folder.mkdir()
    for name in ("site.toml", "roots.crt"):
        shutil.copy(north / name, folder)
    shutil.copytree(north / "schemas", folder / "schemas")
    pair = read_pair(house.home / "pki", PARTICIPANTS)
    assert pair is not None
    Authority(folder, pair).issue(
        "site", Names("spiffe://aegis.local/participant/stranger"), datetime.now(UTC), [], days=1
    )
    settings = folder / "site.toml"
    settings.write_text(settings.read_text().replace('name = "north"', 'name = "stranger"'))
    stranger = Hospital(house, "stranger", folder, 0).start()
    assert stranger.ended() == 3
    assert "does not know this site by its certificate" in stranger.log.read_text()
    assert stranger.status()["connected_since"] is None
    assert not any((folder / "answers").iterdir())
    everybody = house.plan([], participants=3)
    asked = house.training("CreateRun", request_id=str(uuid.uuid4()), plan=everybody).run
    assert [each.name for each in asked.participants] == NAMES


def test_sites_that_lie_are_left_out_or_weighed_by_what_they_enrolled(house: House):
    """NaN and wrong shapes fail their senders; a claim of a billion rows weighs nothing more."""
    east, north, south, west = (house.hospitals[name] for name in NAMES)
    plan = house.plan(NAMES, rounds=1, review=False)
    house.forget_rule("no-run-without-review")
    try:
        north.poison("nan")
        south.poison("shape")
        west.poison("same 0.01")
        east.poison("same -0.03")
        run_id = house.start(plan)
        run = house.until_state(run_id, Run.STATE_COMPLETED)
    finally:
        for each in (east, north, south, west):
            each.poison("")
    assert outcomes(run, 1) == {
        "east": "AGGREGATED",
        "north": "FAILED",
        "south": "FAILED",
        "west": "AGGREGATED",
    }
    told = {each.participant: each for each in run.rounds[1].participants}
    assert "not an update of this model: " in told["north"].reason
    assert "shape" in told["south"].reason
    assert {name: each.examples for name, each in told.items()} == {
        name: house.hospitals[name].examples for name in NAMES
    }
    shapes = load(DATASET).family(plan.model).shapes
    before, after = (decode(house.model(each.model_sha256), shapes) for each in run.rounds)
    moved = np.concatenate([(after[name] - before[name]).ravel() for name in shapes])
    w, e = west.examples, east.examples
    assert moved == pytest.approx((0.01 * w - 0.03 * e) / (w + e), abs=1e-6)
    agree(house, run_id, dict.fromkeys(NAMES, 2))
