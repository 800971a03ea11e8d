"""What gRPC for Python itself can do here: a server that returns what it is sent.

    python bench/policy/echo.py --kind aio --address 127.0.0.1:50051
    python bench/policy/echo.py --kind sync --address 127.0.0.1:50052 --pki FOLDER

No message is decoded, nothing is looked up, nobody is asked who they are. `aio` is grpc.aio on
uvloop, as Aegis serves; `sync` is gRPC's server with threads. With a folder of certificates it
speaks TLS. Ends on SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import uvloop

METHOD = "/bench.Echo/Say"


async def _say(request: bytes, context: object) -> bytes:
    return request


def _say_sync(request: bytes, context: object) -> bytes:
    return request


def _credentials(pki: Path) -> grpc.ServerCredentials:
    pair = (pki / "server.key").read_bytes(), (pki / "server.crt").read_bytes()
    return grpc.ssl_server_credentials([pair])


def _bind(server: grpc.Server | grpc.aio.Server, options: argparse.Namespace, say: object) -> None:
    handler = grpc.unary_unary_rpc_method_handler(say)
    service, method = METHOD.strip("/").split("/")
    handlers = grpc.method_handlers_generic_handler(service, {method: handler})
    server.add_generic_rpc_handlers((handlers,))
    if options.pki is None:
        server.add_insecure_port(options.address)
    else:
        server.add_secure_port(options.address, _credentials(options.pki))


async def _serve_aio(options: argparse.Namespace) -> None:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    _bind(server, options, _say)
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(1)


def _serve_sync(options: argparse.Namespace) -> None:
    server = grpc.server(ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 0),))
    _bind(server, options, _say_sync)
    server.start()
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    stopped.wait()
    server.stop(1).wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=["aio", "sync"], required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--pki", type=Path)
    options = parser.parse_args()
    if options.kind == "aio":
        uvloop.run(_serve_aio(options))
    else:
        _serve_sync(options)


if __name__ == "__main__":
    main()
