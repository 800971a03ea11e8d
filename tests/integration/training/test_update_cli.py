"""`aegis update` as people use it, against a serving room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.integration.training.test_model_cli import Done, aegis
from tests.integration.training.test_models import FAMILY, trained

from aegis.v1 import review_pb2, review_pb2_grpc, training_pb2
from aegis_learning import parameters
from aegis_learning.models import family
from aegis_server.training import store

Plan = Callable[..., training_pb2.RunPlan]


@pytest.fixture
async def run_id(room: Any, plan: Plan) -> str:
    """A run that waits for the updates of round 1."""
    return await trained(room, plan(), [1])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An update of the run's model."""
    update = {n: np.full(s, 0.01, np.float32) for n, s in FAMILY.shapes.items()}
    path = tmp_path / "update.safetensors"
    path.write_bytes(parameters.encode(update))
    return path


async def submitted(room: Any, run_id: str, file: Path, participant: str = "site-1") -> Done:
    return await aegis(
        room,
        *("update", "submit", str(file), "--run", run_id, "--round", "1"),
        *("--participant", participant, "--output", "json"),
    )


async def test_update_is_submitted_and_downloaded(room: Any, run_id: str, file: Path) -> None:
    """What comes back is what was sent; an existing file is left alone."""
    done = await submitted(room, run_id, file)
    assert done.status == 0, done.err
    update = json.loads(done.out)
    assert (update["verdict"], update["participant"]) == ("VERDICT_PENDING", "site-1")
    copy = file.with_name("copy")
    done = await aegis(room, "update", "download", update["update_id"], str(copy))
    assert done.status == 0, done.err
    assert copy.read_bytes() == file.read_bytes()
    again = await aegis(room, "update", "download", update["update_id"], str(copy))
    assert again.status == 2
    assert "exists already" in again.err


async def test_refusal_names_its_reason(room: Any, run_id: str, file: Path) -> None:
    """A pickle stays closed, a stranger outside, and another base is told from ours."""
    file.write_bytes(b"\x80\x04pickle")
    refused = await submitted(room, run_id, file)
    assert (refused.status, "UPDATE_FORMAT_INVALID" in refused.err) == (1, True)
    refused = await submitted(room, run_id, file, "site-9")
    assert (refused.status, "PARTICIPANT_UNKNOWN" in refused.err) == (1, True)
    refused = await aegis(
        room,
        *("update", "submit", str(file), "--run", run_id, "--round", "1"),
        *("--participant", "site-1", "--base", "00" * 32),
    )
    assert (refused.status, "UPDATE_BASE_MISMATCH" in refused.err) == (1, True)


async def test_held_update_is_listed_and_decided(room: Any, run_id: str, file: Path) -> None:
    """By a person, with a reason that stays."""
    update = json.loads((await submitted(room, run_id, file)).out)
    async with room.database.transaction() as connection:
        await connection.execute(
            # Sent by the site, because nobody accepts alone what they sent themselves.
            "update aegis.review_update set verdict = 'held', reviewed_at = now(),"
            " sent_by = 'participant:site-1',"
            " hold_until = now() + interval '1 hour', hold_default = 'rejected'"
        )
        await connection.execute(
            "update aegis.review_round set closed_at = now(), judged_at = now()"
        )
    queue = json.loads((await aegis(room, "update", "queue", "--output", "json")).out)
    assert [(e["state"], e["updates"]) for e in queue["entries"]] == [("STATE_HELD", 1)]
    held = json.loads((await aegis(room, "update", "held", "--output", "json")).out)
    assert [each["update_id"] for each in held] == [update["update_id"]]
    assert "then rejected" in (await aegis(room, "update", "show", update["update_id"])).out
    for verdict, count in (("held", 1), ("rejected", 0)):
        listed = await aegis(room, "update", "list", "--verdict", verdict, "--output", "json")
        assert len(json.loads(listed.out)) == count
    done = await aegis(
        room, "update", "override", update["update_id"], "accept", "--reason", "a new scanner"
    )
    assert done.status == 0, done.err
    assert "accepted" in done.out
    shown = await aegis(room, "update", "show", update["update_id"])
    assert "user:admin: accepted (a new scanner)" in shown.out
    assert "then rejected" not in shown.out
    assert "held updates: none" in (await aegis(room, "update", "held")).out
    watched = await aegis(
        room, "update", "watch", "--run", run_id, "--round", "1", "--output", "json"
    )
    assert json.loads(watched.out)["updates"][0]["verdict"] == "VERDICT_ACCEPTED"


async def test_submission_goes_on_where_another_broke_off(
    room: Any, plan: Plan, tmp_path: Path
) -> None:
    """The command asks what is here already, and sends the rest."""
    wide = family("mlp-9000", 30, 2)
    run_id = await room.start(plan(model="mlp-9000"))
    await _first_round(room, run_id, parameters.encode(wide.initial(1)))
    data = parameters.encode(wide.initial(2))
    header = review_pb2.SubmitUpdateRequest.Header(
        run_id=run_id,
        round=1,
        attempt=1,
        participant="site-1",
        sha256=parameters.digest(data),
        size_bytes=len(data),
    )

    async def half() -> AsyncIterator[review_pb2.SubmitUpdateRequest]:
        yield review_pb2.SubmitUpdateRequest(header=header)
        for start in range(0, 17 * 65536, 65536):
            yield review_pb2.SubmitUpdateRequest(chunk=data[start : start + 65536])

    review = review_pb2_grpc.ReviewServiceStub(await room.channel("admin"))
    with pytest.raises(grpc.RpcError):
        await review.SubmitUpdate(half(), timeout=20)
    file = tmp_path / "wide.safetensors"
    file.write_bytes(data)
    done = await submitted(room, run_id, file)
    assert done.status == 0, done.err
    assert json.loads(done.out)["size_bytes"] == str(len(data))


async def test_update_is_a_participants_own_by_default(
    room: Any, enrolled: Plan, file: Path
) -> None:
    """Its certificate says whose; somebody who is no participant has to say it."""
    for name in ("north", "south", "west"):
        await room.enrol(name)
    run_id = await room.start(enrolled(names=["north", "south", "west"]))
    await _first_round(room, run_id, parameters.encode(FAMILY.initial(1)))
    submit = ("update", "submit", str(file), "--run", run_id, "--round", "1", "--output", "json")
    done = await aegis(room, *submit, by="south")
    assert done.status == 0, done.err
    assert json.loads(done.out)["participant"] == "south"
    again = await aegis(room, *submit, "--participant", "south", by="south")
    assert json.loads(again.out)["update_id"] == json.loads(done.out)["update_id"]
    refused = await aegis(room, *submit)
    assert refused.status == 2
    assert "user:admin is no participant" in refused.err
    assert "--participant" in refused.err


async def _first_round(room: Any, run_id: str, model: bytes) -> None:
    async with room.database.transaction() as connection:
        await store.next_attempt(connection, run_id, datetime.now(UTC))
    report = training_pb2.Round(
        round=0, accuracy=0.5, loss=0.7, model_sha256=parameters.digest(model)
    )
    await room.progress.complete_round(
        run_id, attempt=1, report=report, model=model, actor="service:coordinator"
    )


async def test_commands_end_when_there_is_no_such_update(room: Any) -> None:
    """A refusal is a message and exit code 1."""
    done = await asyncio.gather(
        aegis(room, "update", "show", "upd-0"),
        aegis(room, "update", "override", "upd-0", "reject", "--reason", "x"),
    )
    assert [each.status for each in done] == [1, 1]
