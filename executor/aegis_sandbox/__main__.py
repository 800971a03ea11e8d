"""`python -m aegis_sandbox --home DIR`: a pretended Kubernetes API on loopback."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
from pathlib import Path

from aegis_sandbox.home import write_private
from aegis_sandbox.sandbox import sandbox

log = logging.getLogger("aegis_sandbox")


async def serve(home: Path, host: str, port: int, tick_seconds: float) -> None:
    """Serves until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with sandbox(home, host=host, port=port) as running:
        controllers = asyncio.create_task(running.run(tick_seconds))
        waiting = asyncio.create_task(stopped.wait())
        log.warning("SANDBOX, not a cluster: %s, kubeconfig %s", running.url, home / "kubeconfig")
        ready_file = os.environ.get("AEGIS_READY_FILE")
        if ready_file:
            write_private(Path(ready_file), running.url.removeprefix("https://").encode())
        done, pending = await asyncio.wait(
            {controllers, waiting}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for task in done:
            task.result()


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(prog="aegis_sandbox", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="where its files go")
    parser.add_argument("--listen", default="127.0.0.1:0", help="loopback address:port")
    parser.add_argument("--tick-seconds", type=float, default=0.25, help="pace of the controllers")
    arguments = parser.parse_args()
    host, _, port = arguments.listen.rpartition(":")
    if not port.isdigit() or not ipaddress.ip_address(host).is_loopback:
        parser.error("a sandbox listens on loopback only, e.g. 127.0.0.1:0")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(arguments.home, host, int(port), arguments.tick_seconds))


if __name__ == "__main__":
    main()
