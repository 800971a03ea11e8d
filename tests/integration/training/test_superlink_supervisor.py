"""The server keeps a SuperLink: it comes back, believes the registry, and leaves nobody behind."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from tests.superlinks import DOMAIN, Grounds, Site, activation, free_port

from aegis.spiffe import certificate_id
from aegis_server.settings import FlowerSettings
from aegis_server.training.superlink.supervisor import Credentials, SuperLinks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def status(grounds: Grounds, listen: str, site: Site) -> int:
    """Returns how an activation is answered, 0 when nobody listens."""
    async with httpx.AsyncClient(verify=grounds.trusting(site)) as client:
        try:
            answer = await client.post(
                f"https://{listen}/v1/fleet/activate-node", **activation(site)
            )
        except (httpx.TransportError, ssl.SSLError):
            return 0
    return answer.status_code


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.05)


async def becomes(grounds: Grounds, listen: str, site: Site, wanted: tuple[int, ...]) -> None:
    async with asyncio.timeout(60):
        while await status(grounds, listen, site) not in wanted:
            await asyncio.sleep(0.1)


def pids(grounds: Grounds, module: str) -> list[int]:
    """Returns the processes of a module that work for this folder."""
    return [
        int(place.name)
        for place in Path("/proc").glob("[0-9]*")
        if module in _read(place / "cmdline").split("\0")
        and str(grounds.folder) in _read(place / "environ") + _read(place / "cmdline")
    ]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


async def test_the_superlink_follows_the_registry_and_comes_back(tmp_path: Path) -> None:
    """A certificate counts while the registry says so; kill -9 costs seconds; the end is the end.

    SuperExec is not its child: it stays when the SuperLink is killed.
    """
    grounds = Grounds(tmp_path)
    site = grounds.site("site0")
    number = certificate_id(x509.load_pem_x509_certificate(site.certificate.read_bytes()))
    enrolled = {number: "site0"}
    listen = f"127.0.0.1:{free_port()}"
    server = grounds.server.folder
    links = SuperLinks(
        FlowerSettings(listen=listen, folder=grounds.house, applications=True),
        Credentials(
            certificate=server / "server.crt",
            key=server / "server.key",
            roots=grounds.participants.folder / "ca.crt",
            trust_domain=DOMAIN,
        ),
        lambda: enrolled,
    )
    task = asyncio.create_task(links.run())
    try:
        # 412: it is active already.
        await becomes(grounds, listen, site, (200, 412))
        inner = (grounds.house / "inner").read_text()
        await until(lambda: pids(grounds, "aegis_server.training.superlink.executor"))
        executors = pids(grounds, "aegis_server.training.superlink.executor")
        (link,) = pids(grounds, "aegis_server.training.superlink")
        os.kill(link, signal.SIGKILL)
        await until(lambda: pids(grounds, "aegis_server.training.superlink") not in ([], [link]))
        await becomes(grounds, listen, site, (200, 412))
        assert (grounds.house / "inner").read_text() == inner
        assert set(executors) <= set(pids(grounds, "aegis_server.training.superlink.executor"))
        del enrolled[number]
        await becomes(grounds, listen, site, (401,))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert grounds.left_behind() == []


async def test_one_superlink_for_all_servers_of_a_machine(tmp_path: Path) -> None:
    """The second server waits for the end of the first."""
    grounds = Grounds(tmp_path)
    server, started = grounds.server.folder, tmp_path / "house" / "inner"

    def links() -> SuperLinks:
        return SuperLinks(
            FlowerSettings(
                listen=f"127.0.0.1:{free_port()}", folder=grounds.house, applications=False
            ),
            Credentials(
                certificate=server / "server.crt",
                key=server / "server.key",
                roots=grounds.participants.folder / "ca.crt",
                trust_domain=DOMAIN,
            ),
            dict,
        )

    first, second = asyncio.create_task(links().run()), None
    try:
        await until(lambda: pids(grounds, "aegis_server.training.superlink"))
        before = started.read_text()
        second = asyncio.create_task(links().run())
        await asyncio.sleep(1.5)
        assert started.read_text() == before
        assert len(pids(grounds, "aegis_server.training.superlink")) == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await until(lambda: started.read_text() != before)
    finally:
        for task in (first, second):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
    assert grounds.left_behind() == []
