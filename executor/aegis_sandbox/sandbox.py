"""One sandbox put together: store, controllers, API server, files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aegis_sandbox import home as files
from aegis_sandbox.access import Access, admin_user, executor_user
from aegis_sandbox.api import ApiServer
from aegis_sandbox.control import Control
from aegis_sandbox.controllers import Controllers
from aegis_sandbox.evictions import Evictions
from aegis_sandbox.http import Listener
from aegis_sandbox.objects import Objects
from aegis_sandbox.policies import Policies
from aegis_sandbox.scenario import EXECUTOR_NAMESPACES, EXECUTOR_NODES, seed
from aegis_sandbox.verbs import Verbs


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that is listening; `url` is where."""

    url: str
    objects: Objects
    controllers: Controllers

    async def run(self, tick_seconds: float) -> None:
        """Lets the controllers work until cancelled; sleeps longer while nothing happens."""
        while True:
            if self.controllers.tick():
                await self.objects.wait(tick_seconds)
            else:
                await self.objects.wait(max(1.0, tick_seconds))


def _now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def sandbox(
    home: Path, *, host: str = "127.0.0.1", port: int = 0, clock: Callable[[], datetime] = _now
) -> AsyncIterator[Sandbox]:
    """Serves a freshly seeded sandbox and writes its files to `home`.

    kubeconfig: the executor's rights. admin.kubeconfig: everything. control.json: address, CA and
    token for /sandbox/.
    """
    objects = Objects(clock)
    controllers = Controllers(objects)
    seed(objects, controllers)
    executor, admin = executor_user(EXECUTOR_NAMESPACES, EXECUTOR_NODES), admin_user()
    access = Access((executor, admin))
    server = ApiServer(
        objects=objects,
        verbs=Verbs(objects, Policies(objects)),
        evictions=Evictions(objects, controllers.workloads),
        access=access,
        control=Control(objects, controllers.workloads, access),
    )
    context = files.server_context(home)
    listener = Listener(server)
    url = f"https://{host}:{await listener.open(host, port, context)}"
    authority = home / "ca.crt"
    for name, user in (("kubeconfig", executor), ("admin.kubeconfig", admin)):
        files.write_kubeconfig(
            home / name, url=url, authority=authority, user=user, namespace=EXECUTOR_NAMESPACES[0]
        )
    control = {"sandbox": True, "url": url, "ca": str(authority), "token": admin.token}
    files.write_private(home / "control.json", json.dumps(control).encode())
    try:
        yield Sandbox(url, objects, controllers)
    finally:
        await listener.close()
