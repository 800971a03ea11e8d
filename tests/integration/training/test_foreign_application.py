"""Sites that run Flower: their SuperNodes, our SuperLink, and an application of somebody else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from flwr.cli.build import build_fab_from_disk
from tests.processes import Process, until
from tests.superlinks import Flower, Grounds

from aegis_server.training.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from aegis_server.training.flower_grid import FlowerGrid
from aegis_server.training.superlink.executing import start_own
from aegis_server.training.superlink.nodes import NodeKeys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

APP = Path(__file__).parents[2] / "apps" / "quickstart"


@dataclass
class Federation:
    """A SuperLink and three SuperNodes; site2 has been told that another application is good."""

    grounds: Grounds
    link: Process
    flower: Flower
    fab: bytes

    def node_ids(self) -> dict[str, int]:
        """Flower's node id of each site, by name."""
        keys = NodeKeys(self.grounds.nodes).all()
        with self.grounds.control(self.link) as control:
            nodes = control.nodes()
        return {name: nodes[key] for name, key in keys.items() if key in nodes}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    grounds = Grounds(tmp_path_factory.mktemp("federation"))
    sites = [grounds.site(f"site{number}") for number in range(3)]
    fab = build_fab_from_disk(APP)
    good, other = hashlib.sha256(fab).hexdigest(), hashlib.sha256(b"another").hexdigest()
    link = grounds.start()
    flower = Flower(grounds, link)
    federation = Federation(grounds, link, flower, fab)
    try:
        for number, site in enumerate(sites):
            flower.supernode(site, number, 3, "--app", other if number == 2 else good)
        with grounds.control(link) as control:
            until(lambda: len(control.online()) == 3, flower.logs)
        yield federation
    finally:
        flower.end()
        federation.link.stop()
    assert grounds.left_behind() == []


def test_our_own_loop_drives_an_application_it_did_not_write(federation: Federation) -> None:
    """A coordinator takes up the run, and asks nodes by our names for them.

    Two of three are enough; the third does not run code that is not on its list, and is missing
    when its grace is over.
    """
    names = federation.node_ids()
    nodes = {1001 + number: names[f"site{number}"] for number in range(3)}
    with federation.grounds.control(federation.link) as control:
        claim = start_own(
            control,
            federation.link.token_address,
            (federation.grounds.house / "executor.secret").read_bytes(),
            federation.fab,
            {"local-steps": 5},
            lock=federation.grounds.house / "lock",
        )
        with FlowerGrid(federation.link.token_address, claim, nodes) as grid:
            assert list(grid.get_node_ids()) == [1001, 1002, 1003]
            arrays = ArrayRecord({"weights": Array(np.zeros(30)), "bias": Array(np.zeros(1))})
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
            messages = [Message(content, node_id, "train") for node_id in nodes]
            replies = grid.gather(messages, timeout=90, enough=2, grace=1.0)
        assert [reply.metadata.src_node_id for reply in replies] == [1001, 1002]
        assert not any(reply.has_error() for reply in replies), replies
        trained = replies[0].content["arrays"]["weights"].numpy()
        assert np.isfinite(trained).all()
        assert np.abs(trained).sum() > 0
        until(lambda: control.status(claim.run_id) == "finished:completed")
    assert "is not one that may run here" in federation.flower.log("site2")


def test_a_site_whose_key_is_taken_away_leaves(federation: Federation) -> None:
    """Its SuperNode is told so with its next request, and ends itself and what it started."""
    (federation.grounds.nodes / "site2.pub").unlink()
    until(lambda: federation.flower.processes["site2"].poll() is not None)
    with federation.grounds.control(federation.link) as control:
        until(lambda: len(control.nodes()) == 2)


def test_somebody_elses_application_trains_unchanged_and_outlives_the_superlink(
    federation: Federation,
) -> None:
    """Flower's own ServerApp process and FedAvg over our two ports.

    The SuperLink is killed between the rounds: the ServerApp waits for the next one at the same
    addresses, and so do the SuperNodes.
    """
    federation.flower.executor()
    with federation.grounds.control(federation.link) as control:
        run_id = control.start(federation.fab, {"num-server-rounds": 2, "min-nodes": 2})
        first, flower = "Sending: evaluate message", federation.flower
        until(lambda: all(first in flower.log(s) for s in ("site0", "site1")), flower.logs, 120)
    federation.link.kill()
    federation.link = federation.grounds.start(
        AEGIS_FLOWER_LISTEN=federation.link.address,
        AEGIS_FLOWER_INNER=federation.link.token_address,
    )
    with federation.grounds.control(federation.link) as control:
        until(lambda: control.status(run_id).startswith("finished"), federation.flower.logs, 180)
        assert control.status(run_id) == "finished:completed"
        printed = "".join(control.logs(run_id))
    accuracy = re.search(r"accuracy after 2 rounds: ([0-9.]+)", printed)
    assert accuracy is not None, printed
    assert float(accuracy[1]) > 0.95
