"""Metrics of a run: written by many at once, read, combined and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.blobs import aws
from tests.integration.training.test_model_cli import aegis
from tests.integration.training.test_models import a_model, refusal

from aegis.errors import NotFound, Unavailable
from aegis.v1 import training_pb2
from aegis_learning import parameters
from aegis_server.objects.folder import Folder
from aegis_server.objects.places import Bucket, Place
from aegis_server.objects.s3 import S3
from aegis_server.training import store
from aegis_server.training.metrics import combining, counting
from aegis_server.training.metrics.combining import RunMetrics
from aegis_server.training.metrics.counting import Counts
from aegis_server.training.metrics.store import Measured, MeasuredRound

Plan = Callable[..., training_pb2.RunPlan]
Outcome = training_pb2.ParticipantRound


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with aws() as address:
        yield address


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where participants write."""
    if request.param == "folder":
        return Folder(tmp_path / "metrics")
    endpoint = request.getfixturevalue("endpoint")
    bucket = Bucket(f"metrics-{uuid.uuid4().hex[:12]}", "aegis/")
    boto3.client("s3", endpoint_url=endpoint).create_bucket(
        Bucket=bucket.name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    return S3(bucket, endpoint=endpoint)


async def ran(room: Any, plan: training_pb2.RunPlan, rounds: int, sites: int) -> str:
    """A run whose rounds were stored with these sites; the last one of each is missing."""
    run_id: str = await room.start(plan)
    async with room.database.transaction() as connection:
        await store.next_attempt(connection, run_id, datetime.now(UTC))
    for number in range(rounds + 1):
        model = a_model(number)
        report = training_pb2.Round(
            round=number,
            steps=2 * number,
            accuracy=0.5 + number / 10,
            loss=0.7,
            model_sha256=parameters.digest(model),
            participants=[
                Outcome(
                    participant=f"site-{site}",
                    examples=10 * site,
                    loss=0.6,
                    accuracy=0.75,
                    steps=2,
                    outcome=Outcome.OUTCOME_MISSING
                    if site == sites
                    else Outcome.OUTCOME_AGGREGATED,
                )
                for site in range(1, sites + 1)
                if number
            ],
        )
        await room.progress.complete_round(
            run_id, attempt=1, report=report, model=model, actor="service:coordinator"
        )
    return run_id


async def enrolled(room: Any, run_id: str) -> None:
    """Makes it a run of sites of their own."""
    async with room.database.transaction() as connection:
        run = await store.run_of(connection, run_id)
        plan = training_pb2.RunPlan.FromString(run.plan)
        plan.sites, plan.simulation = training_pb2.SITES_ENROLLED, False
        await connection.execute(
            "update aegis.run set plan = %s where run_id = %s",
            (plan.SerializeToString(deterministic=True), run_id),
        )


async def test_server_has_the_figures_of_embedded_sites(room: Any, plan: Plan) -> None:
    """Nobody else measured them; whoever was missing has no loss of its own."""
    run_id = await ran(room, plan(), rounds=2, sites=3)
    stub = await room.as_admin()
    answer = await stub.GetRunMetrics(training_pb2.GetRunMetricsRequest(run_id=run_id))
    assert [each.round for each in answer.rounds] == [0, 1, 2]
    assert [(each.participant, each.round) for each in answer.metrics] == [
        (f"site-{site}", number) for number in (1, 2) for site in (1, 2, 3)
    ]
    first = answer.metrics[0]
    assert (first.values["loss"], first.values["examples"], first.object) == (0.6, 83.0, "")
    assert (list(answer.missing), list(answer.unusable), answer.next_after_round) == ([], [], 0)
    last = answer.rounds[2]
    assert (last.accuracy, last.summaries["loss"].participants) == (pytest.approx(0.7), 3)


async def test_twenty_write_at_once_and_nobody_is_overwritten(
    room: Any,
    plan: Plan,
    place: Place,
) -> None:
    """Each into objects of its own, some twice: what is there first stays."""
    run_id = await ran(room, plan(participants=20), rounds=2, sites=20)
    await enrolled(room, run_id)

    def write(task: tuple[int, int, int]) -> bool:
        site, number, tries = task
        body = json.dumps({"loss": site + tries / 100, "round": number}).encode()
        return place.put(f"{run_id}/site-{site}/{number}.json", body)

    tasks = [(site, number, 0) for site in range(1, 21) for number in (1, 2)]
    with ThreadPoolExecutor(20) as sites:
        assert all(sites.map(write, tasks))
        assert not any(sites.map(write, [(site, number, 1) for site, number, _ in tasks]))
    found = await RunMetrics(room.database, place).of(run_id)
    assert [(each.participant, each.values["loss"]) for each in found.participants] == [
        (f"site-{site}", float(site)) for _ in (1, 2) for site in range(1, 21)
    ]
    assert (found.missing, found.unusable) == ((), ())
    assert found.participants[0].source == f"{run_id}/site-1/1.json"
    # Weighed by the rows each site was dealt.
    rows = [each.values["examples"] for each in found.participants[:20]]
    assert sum(rows) == 391
    expected = sum(n * weight for n, weight in enumerate(rows, 1)) / 391
    assert found.rounds[1].summaries["loss"].mean == pytest.approx(expected)
    assert (found.rounds[1].summaries["loss"].least, found.rounds[1].summaries["loss"].most) == (
        1.0,
        20.0,
    )


async def test_missing_and_unusable_objects_are_told_and_the_rest_is_combined(
    room: Any,
    plan: Plan,
    place: Place,
) -> None:
    """One site writes nonsense, one nothing, one is not of this run."""
    run_id = await ran(room, plan(participants=4), rounds=1, sites=4)
    await enrolled(room, run_id)
    place.put(f"{run_id}/site-1/1.json", b'{"loss": 0.5}')
    place.put(f"{run_id}/site-2/1.json", b'{"loss": NaN}')
    place.put(f"{run_id}/site-9/1.json", b'{"loss": 9}')
    place.put(f"{run_id}/site-1/7.json", b'{"loss": 9}')
    found = await RunMetrics(room.database, place).of(run_id)
    assert found.missing == (f"{run_id}/site-3/1.json",)
    assert found.unusable == (f"{run_id}/site-2/1.json: NaN is no finite number",)
    losses = {each.participant: each.values.get("loss") for each in found.participants}
    assert losses == {"site-1": 0.5, "site-2": None, "site-3": None, "site-4": None}


async def test_word_of_a_participant_never_replaces_what_the_server_knows(
    room: Any,
    plan: Plan,
    tmp_path: Path,
) -> None:
    """Epsilon, steps and weight are the server's; what was written stands beside them."""
    run_id = await ran(room, plan(), rounds=1, sites=2)
    await enrolled(room, run_id)
    place = Folder(tmp_path / "metrics")
    place.put(f"{run_id}/site-1/1.json", b'{"epsilon": 0.0, "examples": 1e9, "seconds": 4}')
    values = (await RunMetrics(room.database, place).of(run_id)).participants[0].values
    assert values["epsilon"] > 0
    assert (values["examples"], values["reported_examples"]) == (83.0, 1e9)
    assert (values["reported_epsilon"], values["reported_seconds"]) == (0.0, 4.0)
    assert "loss" not in values


async def test_large_run_is_told_in_parts(
    room: Any,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole rounds at a time, and every one of them once."""
    run_id = await ran(room, plan(rounds=5), rounds=5, sites=3)
    monkeypatch.setattr(combining, "PARTICIPANTS_MAX", 6)
    stub = await room.as_admin()
    request = training_pb2.GetRunMetricsRequest(run_id=run_id)
    parts = []
    while True:
        answer = await stub.GetRunMetrics(request)
        parts.append([each.round for each in answer.rounds])
        if not answer.next_after_round:
            break
        request.after_round = answer.next_after_round
    assert parts == [[0, 1, 2], [3, 4], [5]]
    done = await aegis(room, "train", "metrics", run_id, "--output", "json")
    assert [each["round"] for each in json.loads(done.out)["rounds"]] == [0, 1, 2, 3, 4, 5]


@pytest.mark.refuses("RESOURCE_NOT_FOUND")
async def test_run_that_is_not_there_has_no_metrics(room: Any) -> None:
    """Not an empty answer."""
    with pytest.raises(NotFound):
        await RunMetrics(room.database, None).of("run-nothing")
    stub = await room.as_admin()
    call = stub.GetRunMetrics(training_pb2.GetRunMetricsRequest(run_id="run-nothing"))
    assert (await refusal(call)).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.refuses("STORAGE_UNAVAILABLE")
async def test_place_that_is_away_is_not_taken_for_missing_metrics(
    room: Any,
    plan: Plan,
    endpoint: str,
) -> None:
    """Half an answer would be a wrong one."""
    run_id = await ran(room, plan(), rounds=1, sites=2)
    await enrolled(room, run_id)
    nobodys = S3(Bucket("nobodys", ""), endpoint=endpoint)
    with pytest.raises(Unavailable) as refused:
        await RunMetrics(room.database, nobodys).of(run_id)
    assert refused.value.reason == "STORAGE_UNAVAILABLE"


async def test_metrics_are_shown_and_drawn(room: Any, plan: Plan, tmp_path: Path) -> None:
    """A table, each participant, and two pictures."""
    run_id = await ran(room, plan(), rounds=2, sites=3)
    svg, png = tmp_path / "run.svg", tmp_path / "run.png"
    done = await aegis(
        room, "train", "metrics", run_id, "--participants", "--svg", str(svg), "--png", str(png)
    )
    assert done.status == 0, done.err
    assert "0.700" in done.out
    assert "site-3" in done.out
    assert "round 2: epsilon" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")


async def test_stored_rounds_are_counted_once(room: Any, plan: Plan) -> None:
    """A round that is sent again is the same round."""
    run_id = await ran(room, plan(), rounds=2, sites=3)
    await ran_again(room, run_id)
    value = room.registry.get_sample_value
    assert value("aegis_training_rounds_total") == 3
    assert value("aegis_training_round_seconds_count") == 2
    of = "aegis_training_participants_total"
    assert value(of, {"outcome": "aggregated"}) == 4
    assert value(of, {"outcome": "missing"}) == 2
    assert value("aegis_training_round_accuracy", {"run": run_id}) == pytest.approx(0.7)
    assert value("aegis_training_round_loss", {"run": run_id}) == pytest.approx(0.7)
    assert value("aegis_training_round_epsilon", {"run": run_id}) > 0


async def ran_again(room: Any, run_id: str) -> None:
    """The coordinator did not hear the answer of the last round."""
    report = training_pb2.Round(round=2, steps=4, model_sha256=parameters.digest(a_model(2)))
    await room.progress.complete_round(
        run_id, attempt=1, report=report, model=a_model(2), actor="service:coordinator"
    )


def a_round(number: int) -> MeasuredRound:
    return MeasuredRound(f"run-{number}", 1, 0.9, 0.1, 2.0, datetime.now(UTC), None, 1)


def test_only_the_last_runs_have_series_of_their_own():
    """And no participant ever has."""
    registry = CollectorRegistry()
    counts = Counts(registry)
    measured = Measured(1, "site-1", 1, 10, 0.0, 0.0, 0.0, 1.0, 2, 0.5, 100, 200, 1)
    for number in range(counting.RUNS_MAX + 5):
        counts.completed(a_round(number), [measured])
    page = generate_latest(registry).decode()
    assert page.count("aegis_training_round_accuracy{") == counting.RUNS_MAX
    assert 'run="run-4"' not in page
    assert 'run="run-5"' in page
    assert "site-1" not in page
    assert 'aegis_training_bytes_total{direction="received"} 3700.0' in page
    assert 'aegis_training_bytes_total{direction="sent"} 7400.0' in page
    assert "aegis_training_answer_seconds_count 37.0" in page


def test_worker_counts_without_a_warning(tmp_path: Path):
    """Where values lie in files, the oldest cannot be taken out."""
    code = (
        "import warnings\n"
        "from tests.integration.training.test_metrics import a_round, Counts\n"
        "from prometheus_client import CollectorRegistry\n"
        "warnings.simplefilter('error')\n"
        "counts = Counts(CollectorRegistry())\n"
        "for number in range(40): counts.completed(a_round(number), [])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
