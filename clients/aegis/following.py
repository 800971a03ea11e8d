"""A channel whose certificate and roots may be replaced while it is in use.

gRPC reads a client's certificate once, when a channel is made. `following` makes the next channel
when one of the files has changed: new calls go there, and those that are under way come to their
ends on the old one. A pair that does not fit together, as in the middle of a rotation, is left for
the next call to look at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import grpc

from aegis.channel import Identity, connect

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
# Longer than any call but a stream; a stream that is cut is begun again by who reads it.
_GRACE_SECONDS = 60.0


class Following(grpc.aio.Channel):
    """A channel for stubs, made of one real channel after the other."""

    def __init__(self, address: str, identity: Identity, *, retries: bool = True) -> None:
        self._address = address
        self._identity = identity
        self._retries = retries
        self._seen = self._versions()
        self._channel = connect(address, identity, retries=retries)
        self._looked_at = time.monotonic()
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """Returns the channel for the next call."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._look()
        return self._channel

    def _look(self) -> None:
        try:
            seen = self._versions()
            if seen == self._seen:
                return
            self._identity.check()
            fresh = connect(self._address, self._identity, retries=self._retries)
        except (OSError, ValueError) as error:
            log.warning("keeping the old certificate towards %s: %s", self._address, error)
            return
        self._seen, old, self._channel = seen, self._channel, fresh
        closing = asyncio.get_running_loop().create_task(old.close(_GRACE_SECONDS))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _versions(self) -> tuple[int, ...]:
        identity = self._identity
        stats = [p.stat() for p in (identity.certificate, identity.key, identity.roots)]
        return tuple(number for each in stats for number in (each.st_mtime_ns, each.st_ino))

    def _way(self, kind: str, method: str, more: dict[str, Any]) -> Callable[..., Any]:
        made: tuple[grpc.aio.Channel, Callable[..., Any]] | None = None

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            channel = self.current()
            if made is None or made[0] is not channel:
                made = channel, getattr(channel, kind)(method, **more)
            return made[1](*arguments, **named)

        return call

    def unary_unary(self, method: str, *_: Any, **more: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._way("unary_unary", method, more)

    def unary_stream(self, method: str, *_: Any, **more: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._way("unary_stream", method, more)

    def stream_unary(self, method: str, *_: Any, **more: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._way("stream_unary", method, more)

    def stream_stream(self, method: str, *_: Any, **more: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._way("stream_stream", method, more)

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel in use, and those that were waiting for their last calls."""
        for task in tuple(self._closing):
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close(grace)

    async def __aenter__(self) -> Following:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See `grpc.aio.Channel`."""
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See `grpc.aio.Channel`."""
        await self.current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See `grpc.aio.Channel`."""
        await self.current().channel_ready()
