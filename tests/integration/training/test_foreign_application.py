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

from aegis.errors import FailedPrecondition
from aegis_learning import parameters
from aegis_learning.models import family
from aegis_server.training.flower import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from aegis_server.training.flower_grid import FlowerGrid
from aegis_server.training.flower_sites import flower_sites
from aegis_server.training.strategy import to_arrays
from aegis_server.training.superlink.executing import start_own
from aegis_server.training.superlink.nodes import NodeKeys

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(600)]

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


def test_aegis_own_application_trains_at_sites_that_run_flower(federation: Federation) -> None:
    """What is installed at the site trains privately; the update is one our strategy takes."""
    sites = [federation.grounds.site(f"own{number}") for number in range(2)]
    rows = 'dataset="breast-cancer" dirichlet-alpha=1.0 seed=1 public-data=true'
    for number, site in enumerate(sites):
        federation.flower.supernode(site, number, 2, "--aegis", rows=rows)
    (federation.grounds.house / "inner").write_text(federation.link.token_address)
    with federation.grounds.control(federation.link) as control:
        until(
            lambda: {federation.node_ids().get(site.name) for site in sites} <= control.online(),
            federation.flower.logs,
            60,
        )
    model = family("mlp", 30, 2)
    config = {
        "model": "mlp",
        "features": 30,
        "classes": 2,
        "steps": 3,
        "learning-rate": 0.5,
        "sample-rate": 0.3,
        "clip-norm": 0.5,
        "noise-multiplier": 1.0,
        "proximal": 0.0,
        "simulation": False,
        "seed": 0,
        "repeat": 0,
        "server-round": 1,
    }
    with flower_sites(federation.grounds.house, {"own0": 1001, "own1": 1002}) as grid:
        content = RecordDict(
            {"arrays": to_arrays(model.initial(1)), "config": ConfigRecord(config)}
        )
        messages = [Message(content, node_id, "train") for node_id in grid.get_node_ids()]
        replies = grid.gather(messages, timeout=90, enough=2, grace=0.0)
    assert [reply.metadata.src_node_id for reply in replies] == [1001, 1002]
    for reply in replies:
        assert not reply.has_error(), federation.flower.logs()
        arrays = reply.content["arrays"]
        update = {name: array.numpy() for name, array in arrays.items()}
        assert parameters.check(update, model.shapes)
    for site in sites:
        (federation.grounds.nodes / f"{site.name}.pub").unlink()
    until(lambda: all(federation.flower.processes[s.name].poll() is not None for s in sites))


def test_a_site_without_a_node_is_missing(federation: Federation) -> None:
    """Said before a run is started."""
    (federation.grounds.house / "inner").write_text(federation.link.token_address)
    with (
        pytest.raises(FailedPrecondition, match="nobody") as refused,
        flower_sites(federation.grounds.house, {"site0": 1001, "nobody": 1002}),
    ):
        pass
    assert refused.value.reason == "PARTICIPANTS_MISSING"


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
        until(lambda: control.status(run_id).startswith("finished"), federation.flower.logs, 300)
        assert control.status(run_id) == "finished:completed"
        printed = "".join(control.logs(run_id))
    accuracy = re.search(r"accuracy after 2 rounds: ([0-9.]+)", printed)
    assert accuracy is not None, printed
    assert float(accuracy[1]) > 0.95
