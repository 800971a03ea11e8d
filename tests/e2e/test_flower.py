"""Hospitals that run Flower train under review: `aegis up`, SuperNodes, and docs/flower.md."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aegis.v1 import model_pb2, model_pb2_grpc, training_pb2
from aegis_server.training.superlink.control import Control
from aegis_server.training.superlink.settings import House as Link
from tests.e2e.conftest import left_behind
from tests.hospitals import DATASET, Hospital, House, dealt
from tests.processes import Process, until
from tests.superlinks import free_port

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(600)]

Run, Outcome = training_pb2.Run, training_pb2.ParticipantRound
NAMES = ["north", "south"]
SECONDS = 120


def with_node_key(site: Hospital) -> bytes:
    """Makes the key of a site's SuperNode, as ssh-keygen does; returns its public half."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    (site.folder / "node.key").write_bytes(private)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@contextmanager
def supernode(site: Hospital, link: str) -> Iterator[None]:
    """The SuperNode of a site, with its rows."""
    folder = site.folder
    rows = f"file='{folder}.csv' schema='{folder}/schemas/{DATASET}.json'"
    command = [
        *(sys.executable, "-m", "aegis_participant.supernode"),
        *("--certificate", "site.crt", "--key", "site.key", "--aegis", "--"),
        *("--superlink", link, "--root-certificates", "roots.crt"),
        *("--auth-supernode-private-key", "node.key", "--port", str(free_port())),
        *("--node-config", rows),
    ]
    environment = {**Process.clean(), "FLWR_HOME": str(folder / "flower"), "OMP_NUM_THREADS": "1"}
    with site.log.open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def serves(link: Link) -> bool:
    """Says whether the SuperLink is there."""
    log = link.folder / "superlink.log"
    return log.exists() and "sites at" in log.read_text()


def registered(link: Link) -> bool:
    """Says whether the SuperLink knows both keys: a SuperNode that comes earlier is sent away."""
    log = (link.folder / "superlink.log").read_text()
    return all(f"{name} is node" in log for name in NAMES)


def online(link: Link) -> int:
    """How many SuperNodes the SuperLink sees."""
    secret = link.control_secret_file.read_text()
    with Control(link.inner_file.read_text(), secret) as control:
        return len(control.online())


def trained(house: House) -> training_pb2.Run:
    """The run that `aegis train start` has started and followed to its end."""
    plan = ("--sites", "flower", "--dataset", DATASET, "--participants", "2")
    promise = ("--min-participants", "2", "--epsilon", "8", "--delta", "1e-5", "--rounds", "1")
    patience = ("--deadline", "300s")
    started = house.aegis("train", "start", *plan, *promise, *patience, "--no-watch")
    return house.until_state(started["run_id"], Run.STATE_COMPLETED, seconds=300)


def test_hospitals_with_supernodes_train_a_model_whose_updates_were_reviewed() -> None:
    """A private run over our SuperLink, from the invitation to the lineage of its model."""
    listen = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="aegis-e2e-") as folder:
        with House(Path(folder), AEGIS_FLOWER_LISTEN=listen) as house:
            link = Link(house.home / "blobs" / "superlink")
            north, south = (
                house.hospital(name, rows) for name, rows in zip(NAMES, dealt(2), strict=True)
            )
            until(lambda: serves(link), house.words, SECONDS)
            for each in (north, south):
                (link.nodes / f"{each.name}.pub").write_bytes(with_node_key(each))
            until(lambda: registered(link), house.words, SECONDS)
            with supernode(north, listen), supernode(south, listen):
                until(lambda: online(link) == 2, house.words, SECONDS, every=0.5)
                run = trained(house)
            assert [Outcome.Outcome.Name(p.outcome) for p in run.rounds[1].participants] == [
                "OUTCOME_AGGREGATED"
            ] * 2
            assert 0 < run.epsilon <= 8
            steps = run.rounds[1].steps
            assert house.paid(run.run_id) == dict.fromkeys(NAMES, steps)
            asked = model_pb2.GetModelLineageRequest(model_id=run.model_sha256.hex())
            lineage = house.call(model_pb2_grpc.ModelServiceStub, "GetModelLineage", asked).models
            ingredients = {each.participant: each.update_id for each in lineage[0].ingredients}
            assert set(ingredients) == set(NAMES)
            assert all(ingredients.values())
        assert left_behind(folder) == []
