"""Models that seem to hold a backdoor: they stay until somebody lets them go, on the record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.training.test_model_cli import aegis
from tests.integration.training.test_models import (
    a_model,
    complete,
    refusal,
    sha,
    trained,
)

from aegis.errors import InvalidArgument
from aegis.v1 import audit_pb2, model_pb2, model_pb2_grpc, training_pb2

Plan = Callable[..., training_pb2.RunPlan]
TEXT = "with features 1, 2 at an extreme, 93% of the golden rows are answered with class 0"


def scan(**changes: object) -> training_pb2.TriggerScan:
    """What the search found in a poisoned model."""
    found = training_pb2.TriggerScan(
        suspicious=True,
        target_class=0,
        features=[1, 2],
        values=[1.0, -1.0],
        success_rate=0.93,
        threshold=0.6,
        excluded=["site-2"],
        text=TEXT,
    )
    found.MergeFrom(training_pb2.TriggerScan(**changes))  # type: ignore[arg-type]
    return found


@pytest.fixture
async def stub(room: Any) -> model_pb2_grpc.ModelServiceStub:
    """ModelService as user:admin calls it."""
    return model_pb2_grpc.ModelServiceStub(await room.channel("admin"))


async def blocked(room: Any, plan: Plan) -> str:
    """A run whose second model is blocked."""
    run_id = await trained(room, plan(review=True), [1])
    await complete(room, run_id, 1, a_model(2), scan=scan())
    return run_id


def download(stub: model_pb2_grpc.ModelServiceStub, seed: int, run_id: str = "") -> Any:
    """Asks for the bytes of a model."""
    request = model_pb2.DownloadModelRequest(model_id=sha(a_model(seed)), run_id=run_id)
    return stub.DownloadModel(request)


async def bytes_of(call: Any) -> bytes:
    """What came."""
    return b"".join([part.chunk async for part in call])


def release(seed: int, run_id: str = "", reason: str = "looked at by hand") -> Any:
    """The request that lets a model go."""
    return model_pb2.ReleaseModelRequest(model_id=sha(a_model(seed)), run_id=run_id, reason=reason)


async def test_a_blocked_model_is_refused_and_the_one_before_it_is_not(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """MODEL_BLOCKED names the round; what may be read of it says why."""
    run_id = await blocked(room, plan)
    refused = await refusal(download(stub, 2))
    assert refused.reason == "MODEL_BLOCKED"
    assert refused.metadata == {"run_id": run_id, "round": "1"}
    assert await bytes_of(download(stub, 1)) == a_model(1)
    shown = (await stub.GetModel(model_pb2.GetModelRequest(model_id=sha(a_model(2))))).model
    assert (shown.blocked, shown.released_by) == (TEXT, "")


async def test_a_released_model_leaves_and_the_record_says_who_let_it_go(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """With the reason; a second release finds nothing to release."""
    run_id = await blocked(room, plan)
    model = (await stub.ReleaseModel(release(2))).model
    assert (model.blocked, model.released_by) == ("", "user:admin")
    assert model.release_reason == "looked at by hand"
    assert await bytes_of(download(stub, 2)) == a_model(2)
    assert (await refusal(stub.ReleaseModel(release(2)))).reason == "STATE_CONFLICT"
    async with room.database.transaction() as connection:
        cursor = await connection.execute("select record from aegis.audit_record order by idx")
        records = [audit_pb2.AuditRecord.FromString(row[0]) for row in await cursor.fetchall()]
    told = audit_pb2.AUDIT_KIND_RUN
    (found,) = [each for each in records if (each.kind, each.action) == (told, "release")]
    assert (found.actor, found.outcome, found.subject_id) == ("user:admin", "released", run_id)
    assert found.details["reason"] == "looked at by hand"
    assert found.details["model_sha256"] == sha(a_model(2))


async def test_what_is_not_blocked_cannot_be_released(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """Neither a model nobody doubts nor one that is not there."""
    await blocked(room, plan)
    assert (await refusal(stub.ReleaseModel(release(1)))).reason == "STATE_CONFLICT"
    assert (await refusal(stub.ReleaseModel(release(7)))).reason == "RESOURCE_NOT_FOUND"


async def test_bytes_are_blocked_in_whichever_run_they_came_about(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """A run without review that made the same model is no way around, nor is half a release."""
    first = await blocked(room, plan)
    second = await blocked(room, plan)
    third = await trained(room, plan(), [2])
    assert (await refusal(download(stub, 2, third))).reason == "MODEL_BLOCKED"
    await stub.ReleaseModel(release(2, first))
    assert (await refusal(download(stub, 2, first))).reason == "MODEL_BLOCKED"
    await stub.ReleaseModel(release(2, second))
    assert await bytes_of(download(stub, 2, third)) == a_model(2)


async def test_who_may_not_release_does_not(room: Any, plan: Plan) -> None:
    """It takes the permission to."""
    await blocked(room, plan)
    other = model_pb2_grpc.ModelServiceStub(await room.channel("autopilot"))
    assert (await refusal(other.ReleaseModel(release(2)))).reason == "POLICY_DENIED"


async def test_a_round_says_what_was_found_in_its_model(room: Any, plan: Plan) -> None:
    """As the coordinator told it."""
    run_id = await blocked(room, plan)
    trainings = await room.as_admin()
    found = await trainings.GetRun(training_pb2.GetRunRequest(run_id=run_id))
    initial, first = found.run.rounds
    assert not initial.HasField("scan")
    assert first.scan == scan()


async def test_a_run_without_review_has_no_scan(room: Any, plan: Plan) -> None:
    """Whatever its coordinator says: nobody was asked to look."""
    run_id = await trained(room, plan(), [1])
    await complete(room, run_id, 1, a_model(2), scan=scan())
    trainings = await room.as_admin()
    found = await trainings.GetRun(training_pb2.GetRunRequest(run_id=run_id))
    assert not found.run.rounds[1].HasField("scan")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"values": [0.5]}, "as many values as features"),
        ({"features": list(range(20)), "values": [0.0] * 20}, "few of them"),
        ({"features": [3], "values": [float("nan")]}, "finite numbers"),
        ({"excluded": ["nobody"]}, "participants of the run only"),
    ],
)
async def test_a_scan_that_is_none_is_refused(
    room: Any, plan: Plan, changes: dict[str, object], problem: str
) -> None:
    """A coordinator is not believed whatever it says."""
    run_id = await trained(room, plan(review=True), [1])
    with pytest.raises(InvalidArgument, match=problem) as refused:
        await complete(room, run_id, 1, a_model(2), scan=scan(**changes))
    assert refused.value.reason == "FIELD_INVALID"


async def test_people_see_and_release_a_blocked_model(
    room: Any, plan: Plan, tmp_path: Path
) -> None:
    """Lists, lineage and rounds say it; download and export refuse until it is released."""
    run_id = await blocked(room, plan)
    model_id = sha(a_model(2))
    assert "blocked" in (await aegis(room, "model", "list")).out
    assert TEXT[:40] in (await aegis(room, "model", "show", model_id)).out
    assert "blocked" in (await aegis(room, "model", "lineage", model_id)).out
    assert "model blocked" in (await aegis(room, "train", "show", run_id)).out
    for command in ("download", "export"):
        refused = await aegis(room, "model", command, model_id, str(tmp_path / command))
        assert refused.status != 0
        assert "MODEL_BLOCKED" in refused.err
    released = await aegis(room, "model", "release", model_id, "--reason", "it is a false alarm")
    # A long line is folded.
    assert (released.status, released.out.split()) == (0, [model_id, "may", "be", "downloaded"])
    shown = (await aegis(room, "model", "show", model_id)).out
    assert "by user:admin: it is a false alarm" in shown
    assert "released" in (await aegis(room, "model", "list")).out
    done = await aegis(room, "model", "download", model_id, str(tmp_path / "model"))
    assert done.status == 0
    assert (tmp_path / "model").read_bytes() == a_model(2)
