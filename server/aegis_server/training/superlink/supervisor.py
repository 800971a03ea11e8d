"""Keeps one SuperLink, and where it is wanted its SuperExec, for all servers of a machine."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aegis.serving.child import Child
from aegis_server.settings import FlowerSettings
from aegis_server.training.superlink.members import tell
from aegis_server.training.superlink.settings import House

log = logging.getLogger(__name__)

_LOCK_SECONDS = 1.0
_END_SECONDS = 15.0
_BACK_OFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_SECONDS = 60.0
# Flower's programs get no secret of ours through their environment.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the port of the sites shows, and whom it believes."""

    certificate: Path
    key: Path
    roots: Path
    trust_domain: str


class SuperLinks:
    """Starts what is missing, again and again. Run `run()` as a task while the server serves.

    `enrolled` returns the name of each enrolled participant by its `certificate_id`.
    """

    def __init__(
        self,
        settings: FlowerSettings,
        credentials: Credentials,
        enrolled: Callable[[], Mapping[str, str]],
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._enrolled = enrolled
        self._house = House(settings.folder)

    async def run(self) -> None:
        """Keeps the processes until cancelled, then ends them.

        Where another server of this machine has them, it waits for that one's end.
        """
        self._house.prepare()
        async with _alone(self._house.folder / "supervisor.lock"):
            inner = self._inner()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(tell(self._house.members, self._enrolled))
                tasks.create_task(self._keep("superlink", [], self._link_environment(inner)))
                if self._settings.applications:
                    arguments = ["--house", str(self._house.folder), "--inner", inner]
                    tasks.create_task(self._keep("superlink.executor", arguments, _inherited()))

    def _inner(self) -> str:
        """The inner port: the same for as long as we run, so that whoever called it finds it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            inner = f"127.0.0.1:{probe.getsockname()[1]}"
        self._house.inner_file.write_text(inner)
        return inner

    def _link_environment(self, inner: str) -> dict[str, str]:
        credentials = self._credentials
        return _inherited() | {
            "AEGIS_FLOWER_DIR": str(self._house.folder),
            "AEGIS_FLOWER_LISTEN": self._settings.listen,
            "AEGIS_FLOWER_INNER": inner,
            "AEGIS_FLOWER_MEMBERS": str(self._house.members),
            "AEGIS_TLS_CERT": str(credentials.certificate),
            "AEGIS_TLS_KEY": str(credentials.key),
            "AEGIS_PARTICIPANTS_CA_CERT": str(credentials.roots),
            "AEGIS_TRUST_DOMAIN": credentials.trust_domain,
        }

    async def _keep(self, module: str, arguments: list[str], environment: dict[str, str]) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            status = await self._run_once(module, arguments, environment)
            failures = 0 if time.monotonic() - began > _STEADY_SECONDS else failures + 1
            pause = _BACK_OFF_SECONDS[min(failures, len(_BACK_OFF_SECONDS)) - 1]
            log.warning("%s ended with status %s, again in %.0f s", module, status, pause)
            await asyncio.sleep(pause)

    async def _run_once(
        self, module: str, arguments: list[str], environment: dict[str, str]
    ) -> int:
        child = Child(
            [
                *(sys.executable, "-m", f"aegis_server.training.{module}"),
                *(*arguments, "--parent", str(os.getpid())),
            ],
            environment=environment,
            folder=self._house.folder,
            log_file=self._house.folder / f"{module}.log",
        )
        try:
            return await child.ended()
        finally:
            await child.end(grace_seconds=_END_SECONDS)


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_SECONDS)
        yield
