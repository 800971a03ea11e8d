"""The parent as a program: what it reserves, makes and starts, in this order."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from aegis.serving.program import announce, run_until_stopped
from aegis_server.parent.addresses import Reservation
from aegis_server.parent.crew import Crew
from aegis_server.parent.metrics import SummedMetrics
from aegis_server.parent.worker import Worker
from aegis_server.settings import Settings

log = logging.getLogger(__name__)

_PREFIX = "aegis-workers-"
_YOUNG_SECONDS = 60.0
# What is the parent's own, and not for workers.
_OURS = frozenset({"AEGIS_METRICS_LISTEN", "AEGIS_READY_FILE", "PROMETHEUS_MULTIPROC_DIR"})


async def serve(settings: Settings) -> None:
    """Has `settings.workers` workers serve until SIGTERM or SIGINT.

    Raises OSError when an address is taken and `CannotServe` when workers do not start.
    """
    if settings.redis_url is None:
        log.warning("without AEGIS_REDIS_URL each worker counts calls and attempts alone")
    with ExitStack() as stack:
        listen = stack.enter_context(Reservation(settings.listen)).address
        token_listen = ""
        if settings.token_listen is not None:
            token_listen = stack.enter_context(Reservation(settings.token_listen)).address
        folder = stack.enter_context(_private_folder())
        environment = {
            **{name: value for name, value in os.environ.items() if name not in _OURS},
            "AEGIS_LISTEN": listen,
            **({"AEGIS_TOKEN_LISTEN": token_listen} if token_listen else {}),
        }
        if settings.metrics_listen is not None:
            environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder)

        def start(index: int) -> Worker:
            ready_file = folder / f"{index}.ready"
            return Worker(index, environment=environment, ready_file=ready_file)

        def tell() -> None:
            addresses = [address for address in (listen, token_listen) if address]
            announce(settings.ready_file, *addresses)
            log.info("%d workers serve at %s", settings.workers, " and ".join(addresses))

        crew = Crew(settings.workers, start=start, forget=lambda pid: metrics.forget(pid))
        metrics = SummedMetrics(
            folder,
            pids=crew.pids,
            restarts=lambda: {place.index: place.restarts for place in crew.places},
        )
        if settings.metrics_listen is not None:
            _show(metrics, settings.metrics_listen)
        try:
            await run_until_stopped(crew.run(tell))
        except ExceptionGroup as group:
            # There was one part, so there is one error.
            raise group.exceptions[0] from None


def _show(metrics: SummedMetrics, listen: str) -> None:
    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    registry.register(metrics)
    start_http_server(int(port), host, registry=registry)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for us and our workers, gone at the end; those that killed parents left go first."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            # A young one may be about to be locked.
            if time.time() - left.stat().st_mtime > _YOUNG_SECONDS:
                with _locked(left):
                    shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which a parent has for as long as it lives; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
