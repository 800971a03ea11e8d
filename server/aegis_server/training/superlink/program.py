"""The two ports of one SuperLink, in one process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial

import uvicorn

from aegis.serving.lineage import die_with_parent
from aegis.spiffe import Caller
from aegis_server.training.superlink import internals
from aegis_server.training.superlink.control import Control, SecretAuthn
from aegis_server.training.superlink.fleet import FleetDoor, Refusal, without_fleet
from aegis_server.training.superlink.members import Members
from aegis_server.training.superlink.nodes import NodeKeys, Register
from aegis_server.training.superlink.peer import protocol_for, server_context
from aegis_server.training.superlink.settings import Address, House, LinkSettings

log = logging.getLogger(__name__)

_REGISTER_SECONDS = 2.0
_CONNECTIONS_MAX = 512
_GRACE_SECONDS = 5


class _Server(uvicorn.Server):
    """Leaves signals to the program, which has two of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def address(self) -> Address:
        host, port, *_ = self.servers[0].sockets[0].getsockname()
        return Address(host, port)


def application(house: House) -> internals.FastAPI:
    """Returns Flower's application: no installer, no ServerApp as our child, secrets everywhere."""
    control, executor = house.control_secret_file, house.executor_secret_file
    config = internals.SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=0,
        insecure=True,
        certificates=None,
        superexec_auth_secret=executor.read_bytes(),
        authn_plugin=SecretAuthn(control.read_text()),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        # Also refuses registration by the sites themselves.
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(house.database),
        isolation="process",
        runtime_dependency_install=False,
    )
    return internals.create_app(config, internals.SuperLinkLifespan)


async def serve(settings: LinkSettings, *, refusal: Refusal) -> None:
    """Serves until SIGTERM or SIGINT; raises OSError when a port cannot be had."""
    house, keys = settings.house, NodeKeys(settings.house.nodes)
    app = application(house)
    door = FleetDoor(app, keys, refusal=refusal, body_bytes_max=settings.body_bytes_max)
    inner = _Server(
        uvicorn.Config(
            without_fleet(app),
            host=settings.inner.host,
            port=settings.inner.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    outer = _Server(_outer(settings, door))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # The inner port first: it has the lifespan of the application.
    async with _serving(inner), _serving(outer):
        address = str(inner.address())
        with Control(address, house.control_secret_file.read_text()) as control:
            register = Register(keys, control)
            await asyncio.to_thread(register.settle)
            _tell(settings, [str(outer.address()), address])
            await _until(stop, (inner, outer), register)


def _outer(settings: LinkSettings, door: FleetDoor) -> uvicorn.Config:
    context = partial(
        server_context,
        certificate=str(settings.certificate),
        key=str(settings.key),
        roots=str(settings.roots),
        revoked=str(settings.revoked) if settings.revoked else None,
    )
    return uvicorn.Config(
        door,
        host=settings.listen.host,
        port=settings.listen.port,
        http=protocol_for(settings.trust_domain),
        ws="none",
        lifespan="off",
        interface="asgi3",
        ssl_context_factory=lambda _config, _default: context(),
        # Whoever sends "x-forwarded-for" is not a proxy of ours.
        proxy_headers=False,
        server_header=False,
        log_config=None,
        access_log=False,
        limit_concurrency=_CONNECTIONS_MAX,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


@contextlib.asynccontextmanager
async def _serving(server: _Server) -> AsyncIterator[None]:
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if task.done():
                # uvicorn prints why and raises SystemExit where a port is taken.
                raise OSError("a port of the SuperLink cannot be served") from task.exception()
            await asyncio.sleep(0.02)
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(task, return_exceptions=True)


async def _until(stop: asyncio.Event, servers: tuple[_Server, ...], register: Register) -> None:
    while not stop.is_set() and not any(server.should_exit for server in servers):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REGISTER_SECONDS):
                await stop.wait()
                return
        try:
            await asyncio.to_thread(register.settle)
        except Exception:
            # A node that is not registered yet waits two seconds more; runs go on.
            log.exception("the nodes could not be registered")


def _tell(settings: LinkSettings, addresses: list[str]) -> None:
    log.info("sites at %s, this machine at %s", *addresses)
    if settings.ready_file is not None:
        fresh = settings.ready_file.with_suffix(".new")
        fresh.write_text("\n".join(addresses))
        fresh.replace(settings.ready_file)


def _everybody(caller: Caller) -> None:
    """Refuses nobody: the node keys in the house say who is enrolled."""


def _log_once() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Flower writes its lines in colour beside ours.
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.setLevel(logging.WARNING)
    for name in ("alembic", "httpx", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)


def main() -> int:
    """Runs the program until it is told to end; returns its exit status.

    `--parent PID` has Linux end it with that process.
    """
    parser = argparse.ArgumentParser(prog="aegis-superlink")
    parser.add_argument("--parent", type=int, help="die with this parent process")
    die_with_parent(parser.parse_args().parent)
    _log_once()
    try:
        settings = LinkSettings.from_environment()
    except ValueError as error:
        print(f"aegis-superlink: {error}", file=sys.stderr)  # noqa: T201
        return 2
    settings.house.prepare()
    os.environ.update(settings.house.environment())
    try:
        members = Members(settings.members) if settings.members else None
        refusal = members.refusal if members else _everybody
        asyncio.run(serve(settings, refusal=refusal))
    except OSError as error:
        log.error("%s", error)  # noqa: TRY400  # no traceback needed
        return 1
    return 0
