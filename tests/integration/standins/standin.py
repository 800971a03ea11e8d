"""A program that starts, serves health over mTLS and drains like ours, and does nothing else."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from aegis.serving.tls import TlsFiles, server_credentials


async def serve(name: str) -> None:
    """Serves until SIGTERM.

    STANDIN_BROKEN names the program that fails to start, STANDIN_DEAF the one that does not stop.
    """
    if os.environ.get("STANDIN_BROKEN") == name:
        sys.exit(f"{name}: the port is taken")
    stopped = asyncio.Event()
    if os.environ.get("STANDIN_DEAF") != name:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if "AEGIS_TLS_CERT" in os.environ:
        names = ("AEGIS_TLS_CERT", "AEGIS_TLS_KEY", "AEGIS_TLS_CA")
        credentials = server_credentials(TlsFiles(*(Path(os.environ[n]) for n in names)))
        port = server.add_secure_port(os.environ["AEGIS_LISTEN"], credentials)
    else:
        port = server.add_insecure_port(os.environ.get("AEGIS_LISTEN", "127.0.0.1:0"))
    await server.start()
    print(f"{name} serves", flush=True)
    Path(os.environ["AEGIS_READY_FILE"]).write_text(f"127.0.0.1:{port}")
    await stopped.wait()
    await server.stop(0.1)
    print(f"{name} drained", flush=True)
