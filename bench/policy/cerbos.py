"""A Cerbos server on the rules of `rules`, with and without TLS.

    async with cerbos(world, folder, pki=None) as target: ...

Its binary is looked for in AEGIS_BENCH_CERBOS, on the PATH and in a cache folder, into which `npm`
installs @cerbos/cerbos-linux-x64 when it is in none of them. What a request looks like is asked of
the server itself, by reflection, so nothing of Cerbos is kept here. Its record of decisions is off
unless `audit` says so; then it writes a line for each into a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from cerbos_policies import policies, roles
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from questions import Request
from replay import Load
from targets import Target, free_address, started

from rules import World

_PACKAGE = "@cerbos/cerbos-linux-x64"
_SERVICE, _METHOD = "cerbos.svc.v1.CerbosService", "CheckResources"
_ALLOW = 1


def find_binary() -> Path | None:
    """Returns the server's binary, or None where there is none and npm cannot bring it."""
    given = os.environ.get("AEGIS_BENCH_CERBOS") or shutil.which("cerbos")
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aegis-bench"
    binary = cache / "node_modules" / _PACKAGE / "cerbos-linux-x64"
    if not binary.exists() and shutil.which("npm"):
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", str(cache), "--no-audit", "--no-fund", _PACKAGE]
        subprocess.run(command, check=False, capture_output=True, timeout=300)
    return binary if binary.exists() else None


@asynccontextmanager
async def cerbos(
    world: World, folder: Path, *, binary: Path, pki: Path | None, audit: bool = False
) -> AsyncIterator[Target]:
    """Starts one and yields it; with a folder of certificates it speaks TLS."""
    store, address = folder / "policies", free_address()
    store.mkdir(parents=True)
    for name, text in policies(world):
        (store / name).write_text(text)
    server: dict[str, object] = {"grpcListenAddr": address, "httpListenAddr": free_address()}
    if pki is not None:
        server["tls"] = {"cert": str(pki / "server.crt"), "key": str(pki / "server.key")}
    configuration = {
        "server": server,
        "telemetry": {"disabled": True},
        "storage": {
            "driver": "disk",
            "disk": {"directory": str(store), "watchForChanges": False},
        },
        "audit": {
            "enabled": audit,
            "accessLogsEnabled": False,
            "decisionLogsEnabled": audit,
            "backend": "file",
            "file": {"path": str(folder / "decisions.log")},
        },
    }
    (folder / "cerbos.yaml").write_text(json.dumps(configuration))
    command = [str(binary), "server", f"--config={folder / 'cerbos.yaml'}", "--log-level=error"]
    async with started(command, address, folder / "cerbos.log") as pid:
        roots = None if pki is None else pki / "ca.crt"
        question, answer = await asyncio.to_thread(_messages, address, roots)

        def allowed(body: bytes) -> bool:
            read = answer()
            read.ParseFromString(body)
            return all(each == _ALLOW for each in read.results[0].actions.values())

        yield Target(
            name="cerbos, logging" if audit else "cerbos",
            load=Load(address, f"/{_SERVICE}/{_METHOD}", roots),
            pid=pid,
            encode=lambda request: _body(question(), world, request),
            allowed=allowed,
        )


def _messages(address: str, roots: Path | None) -> tuple[Callable[[], Message], ...]:
    """Returns what makes an empty question and an empty answer."""
    if roots is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(roots.read_bytes()))
    with channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(_SERVICE).FindMethodByName(_METHOD)
        return tuple(map(message_factory.GetMessageClass, (method.input_type, method.output_type)))


def _body(message: Message, world: World, request: Request) -> bytes:
    message.principal.id = request.subject
    message.principal.roles.extend(roles(world, request))
    entry = message.resources.add()
    entry.actions.append(request.action)
    words = request.resource.split("/")[1:]
    entry.resource.kind, entry.resource.policy_version = words[0], request.domain
    entry.resource.id = request.resource
    for word in words:
        entry.resource.attr["s"].list_value.values.add().string_value = word
    return message.SerializeToString()
