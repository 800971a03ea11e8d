"""Addresses that the workers share, held by their parent so that nobody else does.

SO_REUSEPORT would let a second server of the same user join the port, and each would get half of
the calls. So the parent takes the address for itself first, which fails where anybody is, and only
then opens what it holds to sockets that say SO_REUSEPORT. It never listens: connections go to the
workers alone. While it lives no other parent can take the address, whether workers run or not.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self


class Reservation:
    """One address, from host:port; port 0 takes any free one. A context manager.

    Raises OSError when the address is taken, or none.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._held: list[socket.socket] = []
        number = int(port)
        try:
            found = _resolved(host, number)
            for family, where in found:
                held = _take(family, (where, number), alone=len(found) == 1)
                self._held.append(held)
                number = held.getsockname()[1]
        except OSError as error:
            self.close()
            raise OSError(error.errno, f"{address} cannot be had: {error.strerror}") from error
        self.address = f"{host}:{number}"

    def close(self) -> None:
        """Gives the address back."""
        for held in self._held:
            held.close()

    def __enter__(self) -> Self:
        """Holds it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives it back."""
        self.close()


def _resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(
        host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, str(where[0])) for family, _, _, _, where in found))


def _take(family: socket.AddressFamily, where: tuple[str, int], *, alone: bool) -> socket.socket:
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            # Everywhere means IPv4 as well, as it does for gRPC, unless that is taken beside it.
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not alone))
        # Connections of an earlier server that are not forgotten yet are no reason to refuse.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(where)
        # From here on it is ours: who comes by the same way is refused, and only workers get in.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        taken.close()
        raise
    return taken
