"""Everything that `served` and `batch` put under load, started together.

    async with everything(world, scratch, options) as targets: ...

`options.only` names which of aegis, cerbos and echo are wanted. They stand beside each other, idle
while another is asked, and all of them end with the block.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from cerbos import cerbos, find_binary
from control_plane import body_of, control_plane
from echo import METHOD
from replay import Load
from targets import Target, free_address, started

from aegis.local import pki
from rules import SEED, World

WANTED = ("aegis", "cerbos", "echo")


@asynccontextmanager
async def everything(
    world: World, scratch: Path, options: argparse.Namespace
) -> AsyncIterator[list[Target]]:
    """Starts what was asked for; yields it."""
    certificates = scratch / "echo-pki"
    pki.ensure(certificates)
    shape = {"connections": options.connections, "streams": options.streams}
    async with AsyncExitStack() as stack:
        targets: list[Target] = []
        if "aegis" in options.only:
            environment = dict(each.split("=", 1) for each in options.server_env)
            plane = await stack.enter_async_context(
                control_plane(world, scratch / "aegis", environment=environment)
            )
            print(f"aegis took {plane.loaded_seconds:.1f} s to import {len(world.rules):,} rules")
            targets.append(plane.evaluate)
        binary = find_binary() if "cerbos" in options.only else None
        if "cerbos" in options.only and binary is None:
            print("cerbos skipped: no binary, and npm could not bring it")
        for tls in (True, False) if binary is not None else ():
            for audit in (False, True) if options.cerbos_audit else (False,):
                folder = scratch / f"cerbos-{tls}-{audit}"
                one = cerbos(
                    world, folder, binary=binary, pki=certificates if tls else None, audit=audit
                )
                targets.append(await stack.enter_async_context(one))
        for kind in ("aio", "sync") if "echo" in options.only else ():
            for tls in (True, False):
                one = echo(kind, scratch, certificates if tls else None)
                targets.append(await stack.enter_async_context(one))
        yield [replace(each, load=replace(each.load, **shape)) for each in targets]


@asynccontextmanager
async def echo(kind: str, scratch: Path, certificates: Path | None) -> AsyncIterator[Target]:
    """A bare server, which is sent what Aegis is sent."""
    address = free_address()
    script = str(Path(__file__).with_name("echo.py"))
    command = [sys.executable, script, "--kind", kind, "--address", address]
    if certificates is not None:
        command += ["--pki", str(certificates)]
    log = scratch / f"echo-{kind}-{certificates is not None}.log"
    async with started(command, address, log) as pid:
        roots = None if certificates is None else certificates / "ca.crt"
        yield Target(f"echo {kind}", Load(address, METHOD, roots), pid, body_of)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what every program that uses this may be told."""
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16, help="calls in flight of a connection")
    parser.add_argument("--only", nargs="+", choices=WANTED, default=list(WANTED))
    parser.add_argument("--cerbos-audit", action="store_true", help="also with its decision log")
    parser.add_argument("--server-env", nargs="*", default=[], help="NAME=VALUE for aegis-server")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, help="writes everything there, too")
