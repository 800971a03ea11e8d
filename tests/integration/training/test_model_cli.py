"""`aegis model` as people use it, against a serving room."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.commands import command
from tests.integration.training.test_models import (
    FAMILY,
    a_model,
    a_reviewed_update,
    complete,
    sha,
    trained,
)

from aegis.v1 import training_pb2
from aegis_learning.models import family

Plan = Callable[..., training_pb2.RunPlan]
Outcome = training_pb2.ParticipantRound


@dataclass
class Done:
    """A command that came to its end."""

    status: int
    out: str
    err: str


async def aegis(room: Any, *arguments: str, address: str = "", by: str = "admin") -> Done:
    """Runs `aegis` as admin, or as whose certificate it is."""
    where = ("--home", room.folder, "--address", address or room.address, "--as", by)
    # It has a loop of its own, and ours has to answer it meanwhile.
    done = await asyncio.to_thread(command, *where, *arguments, environment={"COLUMNS": "120"})
    return Done(done.returncode, done.stdout, done.stderr)


@asynccontextmanager
async def breaking(room: Any, after: int, times: int) -> AsyncIterator[str]:
    """A way to the server on which the first connections break after so many bytes of answers."""
    left = times
    host, _, port = room.address.rpartition(":")

    async def carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(16_384):
                if most is not None:
                    most -= len(data)
                    if most < 0:
                        break
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        most, left = (after if left > 0 else None), left - 1
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, back, None), carry(there, writer, most))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def large(room: Any, plan: training_pb2.RunPlan) -> bytes:
    """Makes the model of round 0 one of 3 MB."""
    await trained(room, plan, [1])
    data = os.urandom(3_000_000)
    digest = await room.blobs.put(data)
    async with room.database.transaction() as connection:
        await connection.execute(
            "update aegis.model set model_sha256 = %s, size_bytes = %s", (digest, len(data))
        )
    return data


async def reviewed(room: Any, plan: training_pb2.RunPlan) -> str:
    """A run of three rounds; the second one's update was reviewed."""
    run_id = await trained(room, plan, [1])
    await a_reviewed_update(room, run_id)
    site = Outcome(
        participant="site-1",
        update_id="update-1",
        examples=10,
        outcome=Outcome.OUTCOME_AGGREGATED,
    )
    await complete(room, run_id, 1, a_model(2), [site])
    site.update_id = ""
    await complete(room, run_id, 2, a_model(3), [site])
    return run_id


async def test_models_are_listed_and_shown(room: Any, plan: Plan) -> None:
    """For people and for programs."""
    run_id = await reviewed(room, plan())
    listed = await aegis(room, "model", "list", "--run", run_id)
    assert listed.out.index(sha(a_model(3))[:12]) < listed.out.index(sha(a_model(2))[:12])
    shown = await aegis(room, "model", "show", sha(a_model(2))[:8])
    for words in (run_id, "accepted", "update-1", sha(a_model(1)), "breast-cancer", "local:"):
        assert words in shown.out
    plain = await aegis(room, "model", "show", sha(a_model(2)), "--output", "json")
    assert json.loads(plain.out)["ingredients"][0]["verdict"] == "VERDICT_ACCEPTED"


async def test_lineage_is_a_tree_and_a_picture(room: Any, plan: Plan, tmp_path: Path) -> None:
    """With every model, whose update it was made of, and which rule allowed it."""
    run_id = await reviewed(room, plan())
    picture = tmp_path / "lineage.svg"
    done = await aegis(room, "model", "lineage", sha(a_model(3))[:8], "--svg", str(picture))
    assert done.status == 0, done.err
    rule = (await room.runs.get(run_id)).run.rule_id
    for words in (run_id, rule, "initial model", "site-1, 10 rows, no review", "accepted 0.25"):
        assert words in done.out
    drawn = picture.read_text()
    ET.fromstring(drawn)
    for seed in (1, 2, 3):
        assert sha(a_model(seed))[:12] in done.out
        assert sha(a_model(seed)) in drawn
    assert "<script" not in drawn
    cut = await aegis(room, "model", "lineage", sha(a_model(3)), "--limit", "1", "-o", "json")
    assert [each["round"] for each in json.loads(cut.out)] == [2]


async def test_download_is_the_model(room: Any, plan: Plan, tmp_path: Path) -> None:
    """Nothing but the file stays; it is never written over."""
    await trained(room, plan(), [1])
    file = tmp_path / "model.safetensors"
    done = await aegis(room, "model", "download", sha(a_model(1))[:8], str(file))
    assert done.status == 0, done.err
    assert file.read_bytes() == a_model(1)
    assert [each.name for each in tmp_path.glob("model.safetensors*")] == [file.name]
    again = await aegis(room, "model", "download", sha(a_model(1)), str(file))
    assert (again.status, "is there already" in again.err) == (2, True)


async def test_broken_download_goes_on_where_it_was(room: Any, plan: Plan, tmp_path: Path) -> None:
    """Three times the connection breaks after a megabyte; nobody has to start again."""
    data = await large(room, plan())
    file = tmp_path / "model.safetensors"
    async with breaking(room, after=1_000_000, times=3) as address:
        done = await aegis(room, "model", "download", sha(data), str(file), address=address)
    assert done.status == 0, done.err
    assert file.read_bytes() == data


async def test_later_download_goes_on_with_what_an_earlier_one_left(
    room: Any, plan: Plan, tmp_path: Path
) -> None:
    """FILE.part is believed once the whole has the model's SHA-256."""
    data = await large(room, plan())
    file, part = tmp_path / "m", tmp_path / "m.part"
    part.write_bytes(data[:2_999_000])
    # A way that breaks after 500 kB at every try would never bring 3 MB at once.
    async with breaking(room, after=500_000, times=100) as address:
        done = await aegis(room, "model", "download", sha(data), str(file), address=address)
    assert done.status == 0, done.err
    assert file.read_bytes() == data
    assert not part.exists()


@pytest.mark.parametrize("left", ["other", "longer"])
async def test_part_of_something_else_is_not_taken_for_the_model(
    room: Any, plan: Plan, tmp_path: Path, left: str
) -> None:
    """Other bytes are found out at the end and removed; more than there are, before."""
    await trained(room, plan(), [1])
    file, part = tmp_path / "m", tmp_path / "m.part"
    part.write_bytes(b"other bytes" if left == "other" else bytes(len(a_model(1)) + 1))
    done = await aegis(room, "model", "download", sha(a_model(1)), str(file))
    assert not part.exists()
    if left == "longer":
        assert file.read_bytes() == a_model(1)
        return
    assert (done.status, file.exists()) == (2, False)
    assert "SHA-256" in done.err
    again = await aegis(room, "model", "download", sha(a_model(1)), str(file))
    assert (again.status, file.read_bytes()) == (0, a_model(1))


async def test_exported_model_loads_with_torch_as_its_readme_says(
    room: Any, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code in the readme is run, and gives the family's own answers."""
    await reviewed(room, plan())
    folder = tmp_path / "exported"
    done = await aegis(room, "model", "export", sha(a_model(3))[:8], str(folder))
    assert done.status == 0, done.err
    names = {"README.md", "lineage.json", "model.safetensors"}
    assert {each.name for each in folder.iterdir()} == names
    lineage = json.loads((folder / "lineage.json").read_text())
    assert [each["model_id"] for each in lineage] == [sha(a_model(n)) for n in (3, 2, 1)]
    foreign, ours = (
        block.partition("\n```")[0]
        for block in (folder / "README.md").read_text().split("```python\n")[1:]
    )
    monkeypatch.chdir(folder)
    scope: dict[str, Any] = {}
    exec(foreign, scope)
    rows = np.random.default_rng(0).uniform(-1, 1, (5, 30)).astype(np.float32)
    import torch

    answers = scope["net"](torch.from_numpy(rows)).detach().numpy()
    expected = family("mlp", 30, 2).logits(FAMILY.initial(3), rows)
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-5)
    state = scope["net"].state_dict()
    exec(ours, scope)
    scope["net"].load_state_dict(state)
    again = await aegis(room, "model", "export", sha(a_model(3)), str(folder))
    assert (again.status, "holds a model already" in again.err) == (2, True)


@pytest.mark.parametrize("command", ["show", "lineage", "download", "export"])
async def test_refusals_are_sentences(room: Any, tmp_path: Path, command: str) -> None:
    """An unknown model and a name that is none; nothing is left behind."""
    more = [str(tmp_path / "x")] if command in ("download", "export") else []
    unknown = await aegis(room, "model", command, "0" * 64, *more)
    assert (unknown.status, "RESOURCE_NOT_FOUND" in unknown.err) == (1, True)
    nothing = await aegis(room, "model", command, "newest", *more)
    assert (nothing.status, "FIELD_INVALID" in nothing.err) == (1, True)
    assert not list(tmp_path.glob("x*"))
