"""A gRPC port: mTLS, health, reflection in development, limits, and a graceful end.

Beside it, a port for callers without a certificate may be opened on the same server: TLS without
mTLS, for who proves itself by a token in each call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from aegis.serving.doors import Doors
from aegis.serving.tls import TlsFiles, server_credentials

log = logging.getLogger(__name__)

_HEALTH_SECONDS = 2.0
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class _Methods(grpc.GenericRpcHandler):
    """Handlers by the full names of their methods."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of a call, or None."""
        return self.handlers.get(handler_call_details.method)


class GuardedServer(grpc.aio.Server):
    """A server of gRPC that puts each handler behind the doors as it is registered.

    An interceptor would be asked again at every call, for a twentieth of what gRPC itself costs.

    gRPC is not told the names of methods: grpc.aio keeps a task for each that it knows, which waits
    for its next call, and whenever one came it waits for all of them anew. An echo that knows the
    names of 75 methods gives 0.83 of the answers.
    """

    def __init__(self, doors: Doors, options: Sequence[tuple[str, int]]) -> None:
        self._doors = doors
        self._methods = _Methods()
        self._server = grpc.aio.server(handlers=[self._methods], options=options)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Does nothing: `add_SERVICE_to_server` registers the same handlers by name as well."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        """Registers the methods of a service."""
        for name, handler in method_handlers.items():
            method = f"/{service_name}/{name}"
            self._methods.handlers[method] = self._doors.guard(method, handler)

    def add_insecure_port(self, address: str) -> int:
        """Raises RuntimeError: nobody is served without TLS."""
        raise RuntimeError(f"{address} would be without TLS")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Binds an address; returns its port."""
        return self._server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """Serves."""
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        """Lets calls finish for so many seconds, then aborts them."""
        await self._server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Returns when it has stopped, or after so many seconds."""
        return await self._server.wait_for_termination(timeout)


# gRPC passes over a name it does not know without a word.
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1024),
    # Old connections keep old certificates: this bounds how long.
    ("grpc.max_connection_age_ms", 30 * 60 * 1000),
    ("grpc.max_connection_age_grace_ms", 60 * 1000),
    # Clients whose stream has nothing to say for a while ask each minute whether it is there.
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
)


class Port:
    """One `grpc.aio` server on one address, or two.

    Register services on `.server`, then `open`. `services` are the full names that health knows
    and reflection shows. `shared` lets workers of one parent, which reserved the addresses, listen
    side by side.
    """

    def __init__(
        self,
        *,
        doors: Doors,
        tls: TlsFiles,
        services: Sequence[str],
        reflect: bool = False,
        shared: bool = False,
    ) -> None:
        self.server = GuardedServer(
            doors,
            options=(
                *OPTIONS,
                # Two programs must never share a port by accident.
                ("grpc.so_reuseport", int(shared)),
                # The doors refuse what is too large with a reason; this, what is far too large.
                ("grpc.max_receive_message_length", 2 * doors.largest_message_bytes),
            ),
        )
        self.address = ""
        self.token_address = ""
        self._tls = tls
        self._services = tuple(services)
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        if reflect:
            names = (*services, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self.server)

    async def open(self, address: str, token_address: str | None = None) -> str:
        """Listens on host:port, 0 meaning any free port; returns the address it is bound to.

        `token_address` is for callers without a certificate; where both are bound, `address` and
        `token_address` of this object say. Raises RuntimeError when an address is taken.
        """
        self.address = self._bind(address, client_certificates=True)
        if token_address is not None:
            self.token_address = self._bind(token_address, client_certificates=False)
        await self.server.start()
        await self.set_healthy(True)
        return self.address

    def _bind(self, address: str, *, client_certificates: bool) -> str:
        credentials = server_credentials(self._tls, client_certificates=client_certificates)
        host, _, _ = address.rpartition(":")
        return f"{host}:{self.server.add_secure_port(address, credentials)}"

    async def set_healthy(self, healthy: bool) -> None:
        """Tells every watcher; one that does not read cannot hold us up."""
        status = _SERVING if healthy else _NOT_SERVING
        for name in ("", *self._services):
            try:
                async with asyncio.timeout(_HEALTH_SECONDS):
                    await self._health.set(name, status)
            except TimeoutError:
                log.warning("a health watcher does not read; %s was not announced", name or "all")

    async def close(self, grace_seconds: float) -> None:
        """Announces the end, lets calls finish for so long, then aborts them."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self._health.enter_graceful_shutdown()
        except TimeoutError:
            log.warning("a health watcher does not read")
        await self.server.stop(grace_seconds)
