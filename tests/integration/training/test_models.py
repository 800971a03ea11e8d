"""Where models come from, and how their bytes are handed out."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from aegis.errors import AegisError, from_rpc_error
from aegis.v1 import model_pb2, model_pb2_grpc, review_pb2, training_pb2
from aegis_learning import parameters
from aegis_learning.models import family
from aegis_server.checkpoints import models
from aegis_server.training import store

Plan = Callable[..., training_pb2.RunPlan]
Outcome = training_pb2.ParticipantRound
FAMILY = family("mlp", 30, 2)


def a_model(seed: int) -> bytes:
    return parameters.encode(FAMILY.initial(seed))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
async def stub(room: Any) -> model_pb2_grpc.ModelServiceStub:
    """ModelService as user:admin calls it."""
    return model_pb2_grpc.ModelServiceStub(await room.channel("admin"))


async def trained(room: Any, plan: training_pb2.RunPlan, seeds: list[int]) -> str:
    """A run of which the model of each round is that of a seed."""
    run_id: str = await room.start(plan)
    async with room.database.transaction() as connection:
        await store.next_attempt(connection, run_id, datetime.now(UTC))
    for number, seed in enumerate(seeds):
        await complete(room, run_id, number, a_model(seed))
    return run_id


async def complete(
    room: Any,
    run_id: str,
    number: int,
    model: bytes,
    participants: list[Outcome] | None = None,
    scan: training_pb2.TriggerScan | None = None,
) -> None:
    given = {each.participant: each for each in participants or []}
    everybody = [
        given.get(name, Outcome(participant=name, outcome=Outcome.OUTCOME_MISSING))
        for name in ("site-1", "site-2", "site-3", *given)
    ]
    for each in everybody:
        each.steps = 2
    report = training_pb2.Round(
        round=number,
        steps=2 * number,
        accuracy=0.5 + number / 10,
        loss=0.7,
        model_sha256=parameters.digest(model),
        participants={each.participant: each for each in everybody}.values() if number else [],
        scan=scan,
    )
    await room.progress.complete_round(
        run_id, attempt=1, report=report, model=model, actor="service:coordinator"
    )


async def refusal(call: Any) -> AegisError:
    with pytest.raises(grpc.RpcError) as refused:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            async for _ in call:
                pass
        else:
            await call
    return from_rpc_error(refused.value)


async def a_reviewed_update(room: Any, run_id: str) -> bytes:
    """An update as the review leaves it: accepted."""
    sha256 = hashlib.sha256(b"update").digest()
    async with room.database.transaction() as connection:
        await connection.execute(
            "insert into aegis.review_round (run_id, round, attempt, closed_at, judged_at)"
            " values (%s, 1, 1, now(), now())",
            (run_id,),
        )
        await connection.execute(
            "insert into aegis.review_update (update_id, run_id, round, attempt, participant,"
            " sha256, size_bytes, created_at, verdict, score, reviewed_at)"
            " values ('update-1', %s, 1, 1, 'site-1', %s, 6, now(), 'accepted', 0.25, now())",
            (run_id, sha256),
        )
    return sha256


# Where a model comes from.


async def test_every_stored_round_is_a_model_with_its_origin(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """Plan, policy, code, key and parent are told of each."""
    the_plan = plan()
    run_id = await trained(room, the_plan, [1, 2])
    request = model_pb2.GetModelRequest(model_id=sha(a_model(2)))
    model = (await stub.GetModel(request)).model
    run = (await room.runs.get(run_id)).run
    assert (model.run_id, model.round, model.parent_id) == (run_id, 1, sha(a_model(1)))
    assert (model.dataset, model.family, model.actor) == ("breast-cancer", "mlp", "user:admin")
    assert (model.accuracy, model.loss) == (pytest.approx(0.6), pytest.approx(0.7))
    assert model.epsilon > 0
    assert model.size_bytes == len(a_model(2))
    assert model.plan_sha256 == sha(the_plan.SerializeToString(deterministic=True))
    assert (model.policy_revision, model.rule_id) == (run.policy_revision, run.rule_id)
    assert (model.code_version, model.key_id) == (models.code_version(), room.blobs.key_id)
    assert model.create_time.ToDatetime(UTC) <= datetime.now(UTC)


async def test_ingredients_are_the_aggregated_updates_and_their_reviews(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """Neither a rejected update nor a missing one is part of a model."""
    run_id = await trained(room, plan(), [1])
    sha256 = await a_reviewed_update(room, run_id)
    sites = [
        Outcome(
            participant="site-1",
            update_id="update-1",
            examples=10,
            outcome=Outcome.OUTCOME_AGGREGATED,
        ),
        Outcome(participant="site-2", examples=20, outcome=Outcome.OUTCOME_REJECTED),
        Outcome(participant="site-3", examples=30, outcome=Outcome.OUTCOME_AGGREGATED),
    ]
    await complete(room, run_id, 1, a_model(2), sites)
    request = model_pb2.GetModelRequest(model_id=sha(a_model(2)))
    reviewed, unreviewed = (await stub.GetModel(request)).model.ingredients
    assert (reviewed.participant, reviewed.update_id, reviewed.examples) == (
        "site-1",
        "update-1",
        10,
    )
    assert reviewed.update_sha256 == sha256.hex()
    assert (reviewed.verdict, reviewed.score) == (review_pb2.Update.VERDICT_ACCEPTED, 0.25)
    assert reviewed.HasField("review_time")
    assert unreviewed == model_pb2.Ingredient(participant="site-3", examples=30)


async def test_lineage_leads_back_to_the_initial_model(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """Each is the parent of the one before it; a limit cuts the chain."""
    await trained(room, plan(), [1, 2, 3, 4])
    request = model_pb2.GetModelLineageRequest(model_id=sha(a_model(3)))
    chain = list((await stub.GetModelLineage(request)).models)
    assert [each.model_id for each in chain] == [sha(a_model(seed)) for seed in (3, 2, 1)]
    assert [each.parent_id for each in chain] == [each.model_id for each in chain[1:]] + [""]
    request.limit = 2
    assert len((await stub.GetModelLineage(request)).models) == 2


async def test_lineage_ends_before_a_model_that_was_not_recorded(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """As rounds that were stored before there were checkpoints."""
    run_id = await trained(room, plan(), [1, 2, 3])
    async with room.database.transaction() as connection:
        await connection.execute(
            "delete from aegis.model where run_id = %s and round = 1", (run_id,)
        )
    request = model_pb2.GetModelLineageRequest(model_id=sha(a_model(3)))
    chain = list((await stub.GetModelLineage(request)).models)
    assert [each.round for each in chain] == [2]
    assert chain[0].parent_id == sha(a_model(2))


async def test_same_bytes_of_two_runs_are_told_apart(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """The newest is meant unless a run is named; the other is told."""
    first = await trained(room, plan(), [1, 2])
    second = await trained(room, plan(), [1, 3])
    model_id = sha(a_model(1))
    model = (await stub.GetModel(model_pb2.GetModelRequest(model_id=model_id))).model
    assert (model.run_id, list(model.other_runs)) == (second, [first])
    request = model_pb2.GetModelRequest(model_id=model_id, run_id=first)
    named = (await stub.GetModel(request)).model
    assert (named.run_id, list(named.other_runs)) == (first, [])


async def test_model_that_stays_as_it_was_is_a_model_of_each_round(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """A strategy may trust nobody; the chain still has every round."""
    await trained(room, plan(), [1, 1, 1])
    request = model_pb2.GetModelLineageRequest(model_id=sha(a_model(1)))
    assert [m.round for m in (await stub.GetModelLineage(request)).models] == [2, 1, 0]


async def test_round_that_is_stored_again_is_one_model(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """A coordinator that repeats itself records nothing twice."""
    run_id = await trained(room, plan(), [1, 2])
    await complete(room, run_id, 1, a_model(2))
    assert len((await stub.ListModels(model_pb2.ListModelsRequest())).models) == 2


# Finding it.


@pytest.mark.parametrize("digits", [8, 9, 63, 64])
async def test_model_is_found_by_its_first_digits(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub, digits: int
) -> None:
    """Eight are enough, odd numbers of them too."""
    await trained(room, plan(), [1, 2])
    request = model_pb2.GetModelRequest(model_id=sha(a_model(2))[:digits])
    assert (await stub.GetModel(request)).model.round == 1


@pytest.mark.refuses("FIELD_INVALID")
async def test_digits_of_several_models_are_refused(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """Whoever asks is told to give more, not handed one of them."""
    await trained(room, plan(), [1, 2])
    twin = sha(a_model(1))[:10] + "0" * 54
    async with room.database.transaction() as connection:
        await connection.execute(
            "update aegis.model set model_sha256 = %s where round = 1", (bytes.fromhex(twin),)
        )
    for call in (
        stub.GetModel(model_pb2.GetModelRequest(model_id=twin[:10])),
        stub.GetModelLineage(model_pb2.GetModelLineageRequest(model_id=twin[:10])),
        stub.DownloadModel(model_pb2.DownloadModelRequest(model_id=twin[:10])),
    ):
        refused = await refusal(call)
        assert refused.reason == "FIELD_INVALID"
        assert [each.field for each in refused.violations] == ["model_id"]
        assert "more digits" in refused.message


@pytest.mark.refuses("RESOURCE_NOT_FOUND")
async def test_unknown_model_is_not_found(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """Nor one of a run that did not make it."""
    await trained(room, plan(), [1])
    unknown = "0" * 64
    known_elsewhere = model_pb2.GetModelRequest(model_id=sha(a_model(1)), run_id="run-of-nobody")
    for call in (
        stub.GetModel(model_pb2.GetModelRequest(model_id=unknown)),
        stub.GetModel(known_elsewhere),
        stub.GetModelLineage(model_pb2.GetModelLineageRequest(model_id=unknown)),
        stub.DownloadModel(model_pb2.DownloadModelRequest(model_id=unknown)),
    ):
        assert (await refusal(call)).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.refuses("FIELD_INVALID")
@pytest.mark.parametrize("model_id", ["", "abcdef0", "A" * 64, "g" * 64, "a" * 65, "../aa/aaaa"])
async def test_id_that_is_no_digest_is_refused(
    stub: model_pb2_grpc.ModelServiceStub, model_id: str
) -> None:
    """Fewer than eight digits would fit too many."""
    refused = await refusal(stub.GetModel(model_pb2.GetModelRequest(model_id=model_id)))
    assert refused.reason == "FIELD_INVALID"


async def test_models_are_listed_newest_first_page_by_page(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """Of all runs, or of one."""
    first = await trained(room, plan(), [1, 2, 3])
    second = await trained(room, plan(), [1, 4])
    seen: list[tuple[str, int]] = []
    request = model_pb2.ListModelsRequest(page_size=2)
    while True:
        page = await stub.ListModels(request)
        seen += [(each.run_id, each.round) for each in page.models]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [(second, 1), (second, 0), (first, 2), (first, 1), (first, 0)]
    of_one = await stub.ListModels(model_pb2.ListModelsRequest(run_id=first))
    assert [each.round for each in of_one.models] == [2, 1, 0]


@pytest.mark.refuses("PAGE_TOKEN_INVALID")
async def test_token_of_another_query_is_refused(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """A position in one list says nothing of another."""
    run_id = await trained(room, plan(), [1, 2])
    page = await stub.ListModels(model_pb2.ListModelsRequest(page_size=1))
    for token in (page.next_page_token, "invented"):
        request = model_pb2.ListModelsRequest(run_id=run_id, page_token=token)
        assert (await refusal(stub.ListModels(request))).reason == "PAGE_TOKEN_INVALID"


# Handing it out.


async def the_bytes(call: AsyncIterator[model_pb2.DownloadModelResponse]) -> tuple[Any, bytes]:
    first, *rest = [part async for part in call]
    assert all(0 < len(part.chunk) <= 256 * 1024 for part in rest)
    assert not any(part.HasField("model") for part in rest)
    return first.model, b"".join(part.chunk for part in rest)


async def test_download_is_the_model_from_any_offset(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """The first message says what it is; at the end there is nothing left."""
    await trained(room, plan(), [1])
    data = a_model(1)
    for offset in (0, 1, len(data) - 1, len(data)):
        request = model_pb2.DownloadModelRequest(model_id=sha(data)[:8], offset=offset)
        model, rest = await the_bytes(stub.DownloadModel(request))
        assert (model.model_id, model.size_bytes) == (sha(data), len(data))
        assert rest == data[offset:]


async def test_large_model_comes_in_small_messages(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """At most 256 KiB each, from within a chunk of the envelope too."""
    await trained(room, plan(), [1])
    data = os.urandom(3_000_000)
    digest = await room.blobs.put(data)
    async with room.database.transaction() as connection:
        await connection.execute(
            "update aegis.model set model_sha256 = %s, size_bytes = %s", (digest, len(data))
        )
    for offset in (0, 1_500_000):
        request = model_pb2.DownloadModelRequest(model_id=sha(data), offset=offset)
        _, rest = await the_bytes(stub.DownloadModel(request))
        assert rest == data[offset:]


@pytest.mark.refuses("FIELD_INVALID")
async def test_offset_beyond_the_end_is_refused(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """And a negative one."""
    await trained(room, plan(), [1])
    for offset in (len(a_model(1)) + 1, 2**62, -1):
        request = model_pb2.DownloadModelRequest(model_id=sha(a_model(1)), offset=offset)
        refused = await refusal(stub.DownloadModel(request))
        assert refused.reason == "FIELD_INVALID"
        assert [each.field for each in refused.violations] == ["offset"]


@pytest.mark.refuses("DATA_DAMAGED")
async def test_damaged_model_is_not_handed_out(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub
) -> None:
    """Nor one whose file is gone; neither is a code of another kind."""
    await trained(room, plan(), [1])
    name = sha(a_model(1))
    file = room.folder / "blobs" / name[:2] / name
    request = model_pb2.DownloadModelRequest(model_id=name)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for _ in range(2):
        refused = await refusal(stub.DownloadModel(request))
        assert (refused.reason, refused.code) == ("DATA_DAMAGED", grpc.StatusCode.DATA_LOSS)
        assert refused.metadata == {"sha256": name}
        file.unlink(missing_ok=True)


@pytest.mark.refuses("STORAGE_FULL")
async def test_full_disk_stores_no_round_and_loses_none(
    room: Any, plan: Plan, stub: model_pb2_grpc.ModelServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator is told, and completes the same round once there is room."""
    run_id = await trained(room, plan(), [1])

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr(os, "fsync", full)
        with pytest.raises(AegisError) as refused:
            await complete(room, run_id, 1, a_model(2))
    assert refused.value.reason == "STORAGE_FULL"
    assert len((await stub.ListModels(model_pb2.ListModelsRequest())).models) == 1
    await complete(room, run_id, 1, a_model(2))
    assert len((await stub.ListModels(model_pb2.ListModelsRequest())).models) == 2


@pytest.mark.refuses("POLICY_DENIED")
async def test_who_may_not_download_may_not(room: Any, plan: Plan) -> None:
    """An automation has no business with models."""
    await trained(room, plan(), [1])
    stub = model_pb2_grpc.ModelServiceStub(await room.channel("autopilot"))
    request = model_pb2.DownloadModelRequest(model_id=sha(a_model(1)))
    assert (await refusal(stub.DownloadModel(request))).reason == "POLICY_DENIED"


async def test_two_rounds_at_once_are_one_model(room: Any, plan: Plan) -> None:
    """Whoever comes second finds the round stored."""
    run_id = await trained(room, plan(), [1])
    await asyncio.gather(*(complete(room, run_id, 1, a_model(2)) for _ in range(4)))
    async with room.database.transaction() as connection:
        cursor = await connection.execute("select count(*) from aegis.model where round = 1")
        assert await cursor.fetchone() == (1,)
