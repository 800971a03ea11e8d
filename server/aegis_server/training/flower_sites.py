"""A run over sites that run Flower: its application, their nodes, and the Grid to ask them by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from aegis.errors import FailedPrecondition
from aegis_participant.fab import own_application
from aegis_server.training.flower_grid import FlowerGrid
from aegis_server.training.superlink.control import Control
from aegis_server.training.superlink.executing import start_own
from aegis_server.training.superlink.nodes import NodeKeys
from aegis_server.training.superlink.settings import House


@contextmanager
def flower_sites(
    folder: Path, sites: Mapping[str, int], *, application: bytes | None = None
) -> Iterator[FlowerGrid]:
    """Starts a run at the SuperLink of a folder and is its ServerApp until the end.

    `sites` are our node ids by name, `application` is a FAB, Aegis' own if it is not given. Raises
    `FailedPrecondition` (PARTICIPANTS_MISSING) for sites without a node; httpx.HTTPError when the
    SuperLink cannot be reached.
    """
    house = House(folder)
    address, secret = house.inner_file.read_text(), house.control_secret_file.read_text()
    with Control(address, secret) as control:
        nodes = _nodes(house, control, sites)
        claim = start_own(
            control,
            address,
            house.executor_secret_file.read_bytes(),
            application or own_application(),
            {},
            lock=house.folder / "runs.lock",
        )
        with FlowerGrid(address, claim, nodes) as grid:
            yield grid


def _nodes(house: House, control: Control, sites: Mapping[str, int]) -> dict[int, int]:
    keys, registered = NodeKeys(house.nodes), control.nodes()
    found = {name: registered.get(keys.of(name) or b"") for name in sites}
    missing = sorted(name for name, node in found.items() if node is None)
    if missing:
        raise FailedPrecondition(
            "PARTICIPANTS_MISSING", f"no node key is registered for {', '.join(missing)}"
        )
    return {sites[name]: node for name, node in found.items() if node is not None}
