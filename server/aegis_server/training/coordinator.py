"""The process that drives one run: `python -m aegis_server.training.coordinator --run RUN_ID`.

It holds a client certificate and nothing else; where the server is and who we are comes from
AEGIS_ADDRESS, AEGIS_TLS_CERT, AEGIS_TLS_KEY and AEGIS_TLS_CA; AEGIS_SUPERLINK is the folder of the
SuperLink for sites that run Flower, if there is one. Which coordinator of the run it is
(`--attempt`) it was told when it was started: asking for that later could get it its successor's
number.

Exit status: 0 when the run has ended or is paused, or another coordinator has it, 1 when this one
failed and the server may try again.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import warnings
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from aegis.channel import Identity
from aegis.errors import AegisError, FailedPrecondition
from aegis.following import Following
from aegis.serving.lineage import die_with_parent
from aegis.v1 import review_pb2_grpc
from aegis_server.training.calls import Position, Server
from aegis_server.training.loop import coordinate
from aegis_server.training.units import embedded

if TYPE_CHECKING:
    from aegis_server.training.rounds import Rounds

log = logging.getLogger("aegis.coordinator")


def prepare(
    channel: grpc.aio.Channel,
    loop: asyncio.AbstractEventLoop,
    stack: ExitStack,
    position: Position,
) -> Rounds:
    """Returns what asks the sites of a run until `stack` is closed; takes seconds."""
    # Flower takes a while to import, torch seconds: the run is RUNNING before that, and a
    # coordinator that cannot even reach the server fails at once.
    from aegis_server.training.gate import ReviewGate
    from aegis_server.training.rounds import Rounds
    from aegis_server.training.strategies import needs_root
    from aegis_server.training.ways import grid_of

    plan, gate, grid = position.plan, None, None
    if embedded(plan) or needs_root(plan):
        import torch

        warnings.filterwarnings("ignore", message="Full backward hook")  # rows need no gradient
        # The models are small: more threads would only wait for each other.
        torch.set_num_threads(1)
    if plan.review:
        stub = review_pb2_grpc.ReviewServiceStub(channel)
        hold = plan.review_hold.ToTimedelta().total_seconds()
        gate = ReviewGate(stub, loop, run_id=position.run_id, hold_seconds=hold)
    if not embedded(plan):
        superlink = os.environ.get("AEGIS_SUPERLINK")
        folder = Path(superlink) if superlink else None
        grid = stack.enter_context(grid_of(position, channel, loop, superlink=folder))
    return Rounds(
        plan, position.noise_multiplier, gate, data=position.data, sites=position.sites, grid=grid
    )


async def run(run_id: str, attempt: int) -> int:
    """Coordinates a run and returns the exit status."""
    environment = os.environ
    identity = Identity(
        certificate=Path(environment["AEGIS_TLS_CERT"]),
        key=Path(environment["AEGIS_TLS_KEY"]),
        roots=Path(environment["AEGIS_TLS_CA"]),
    )
    async with Following(environment["AEGIS_ADDRESS"], identity) as channel:
        stack = ExitStack()
        ways = partial(prepare, channel, asyncio.get_running_loop(), stack)
        try:
            await coordinate(Server(channel, run_id, attempt), ways)
        except FailedPrecondition as error:
            log.warning("%s: %s", error.reason, error.message)
        except AegisError as error:
            log.error("%s: %s", error.reason, error.message)  # noqa: TRY400  # no traceback needed
            return 1
        finally:
            await asyncio.to_thread(stack.close)
    return 0


def main() -> None:
    """Reads the command line and the environment."""
    parser = argparse.ArgumentParser(prog="aegis-coordinator")
    parser.add_argument("--run", required=True, help="id of the run to coordinate")
    parser.add_argument(
        "--attempt", type=int, required=True, help="which coordinator of the run this is"
    )
    parser.add_argument("--parent", type=int, help="die with this parent process")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # A line for every question to a SuperLink, four times a second.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    raise SystemExit(asyncio.run(run(arguments.run, arguments.attempt)))


if __name__ == "__main__":
    main()
