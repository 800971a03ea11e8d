"""How a coordinator reaches the participants of a run that are machines of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from aegis.errors import FailedPrecondition
from aegis.v1 import training_pb2, training_pb2_grpc
from aegis_server.training.aegis_grid import AegisGrid
from aegis_server.training.asking import Gathering
from aegis_server.training.calls import Position


@contextmanager
def grid_of(
    position: Position,
    channel: grpc.aio.Channel,
    loop: asyncio.AbstractEventLoop,
    *,
    superlink: Path | None,
) -> Iterator[Gathering]:
    """Yields the Grid of a run's plan, for as long as its rounds last.

    Raises `FailedPrecondition` (PARTICIPANTS_MISSING) where Flower's nodes are wanted and this
    server has no SuperLink, the folder of which would be `superlink`, or it knows one of them not.
    """
    plan = position.plan
    if plan.sites == training_pb2.SITES_FLOWER:
        if superlink is None:
            raise FailedPrecondition(
                "PARTICIPANTS_MISSING", "this server has no SuperLink: set AEGIS_FLOWER_LISTEN"
            )
        # Half of Flower, which other runs need not wait for.
        from aegis_server.training.flower_sites import flower_sites

        nodes = {site.name: site.node_id for site in position.sites}
        with flower_sites(superlink, nodes) as grid:
            yield grid
        return
    yield AegisGrid(
        training_pb2_grpc.CoordinatorServiceStub(channel),
        loop,
        run_id=position.run_id,
        attempt=position.attempt,
        sites=position.sites,
        delta=plan.delta,
        seconds=plan.round_deadline.ToTimedelta().total_seconds(),
    )
