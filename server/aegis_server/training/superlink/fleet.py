"""The door of the sites: the Fleet routes, with the node key of the participant who asks.

An ASGI filter before Flower's application. What it lets through is exactly what a SuperNode sends;
everything else has the same answer, so that the door says nothing about the house. A wrong or
revoked participant is told 401, which ends a stock SuperNode; 403 would look to it like a run that
is over.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from google.protobuf.message import DecodeError

from aegis.spiffe import Caller
from aegis_server.training.superlink.internals import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    PushMessagesRequest,
)
from aegis_server.training.superlink.nodes import NodeKeys
from aegis_server.training.superlink.peer import KIND, PEER

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Refusal = Callable[[Caller], str | None]

_FLEET = "/v1/fleet/"
# What a SuperNode calls once it is registered, which only we do.
ROUTES = frozenset(
    f"{_FLEET}{name}"
    for name in (
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-fab",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "send-node-heartbeat",
    )
)
_PUSH_MESSAGES = f"{_FLEET}push-messages"
_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode("ascii")
_BODY_SECONDS = 60.0
_AT_ONCE = 16


class _Refused(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class FleetDoor:
    """Lets through the Fleet calls of participants who use their own node key.

    `refusal` says why a participant's certificate does not count, or None; it is asked at every
    request, so a participant that is revoked is out with its next one. Bodies above
    `body_bytes_max` are refused before they are whole.
    """

    def __init__(
        self,
        application: Application,
        keys: NodeKeys,
        *,
        refusal: Refusal,
        body_bytes_max: int,
    ) -> None:
        self._application = application
        self._keys = keys
        self._refusal = refusal
        self._body_bytes_max = body_bytes_max
        self._inside: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or refuses it."""
        if scope["type"] != "http":
            return  # a socket that is not accepted is closed
        caller: Caller | None = scope.get("state", {}).get(PEER)
        participant = caller.subject.removeprefix(KIND) if caller else ""
        try:
            _require_route(scope)
            self._check(scope, caller, participant)
            self._inside[participant] += 1
            try:
                body = await _whole(receive, self._body_bytes_max)
                if scope["path"] == _PUSH_MESSAGES:
                    _require_own_messages(body)
                await self._application(scope, _Replayed(body, receive), send)
            finally:
                self._inside[participant] -= 1
        except _Refused as refused:
            log.warning(
                "refused %s %.80r of %s: %s",
                scope["method"],
                scope["path"],
                participant or "nobody",
                refused,
            )
            await _answer(send, refused.status)

    def _check(self, scope: Scope, caller: Caller | None, participant: str) -> None:
        if caller is None:
            raise _Refused(401, "the certificate names no participant")
        if (why := self._refusal(caller)) is not None:
            raise _Refused(401, why)
        if not _shows(scope["headers"], self._keys.of(participant)):
            raise _Refused(401, "the node key is not this participant's")
        if self._inside[participant] >= _AT_ONCE:
            raise _Refused(503, "too many requests at once")
        if _announced(scope["headers"]) > self._body_bytes_max:
            raise _Refused(413, "the body is too large")


def _require_route(scope: Scope) -> None:
    path = str(scope["path"])
    if scope["method"] != "POST" or path not in ROUTES or scope.get("root_path"):
        raise _Refused(404, "no route of the fleet")
    # What Flower routes by must be what came over the wire: no escapes, no query.
    if scope["raw_path"] != path.encode("ascii") or scope["query_string"]:
        raise _Refused(404, "not the route's own spelling")


def without_fleet(application: Application) -> Application:
    """Returns the application without its Fleet routes, which ask for no certificate here."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and str(scope["path"]).startswith(_FLEET):
            await _answer(send, 404)
        else:
            await application(scope, receive, send)

    return serve


def _shows(headers: list[tuple[bytes, bytes]], expected: bytes | None) -> bool:
    shown = [value for name, value in headers if name == _KEY_HEADER]
    if expected is None or len(shown) != 1:
        return False
    try:
        key = base64.b64decode(shown[0], validate=True)
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(key, expected)


def _announced(headers: list[tuple[bytes, bytes]]) -> int:
    sizes = [value for name, value in headers if name == b"content-length"]
    return int(sizes[0]) if sizes and sizes[0].isdigit() else 0


async def _whole(receive: Receive, most: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            more = True
            while more:
                part = await receive()
                if part["type"] != "http.request":
                    raise _Refused(400, "it left before its request was whole")
                body += part.get("body", b"")
                more = part.get("more_body", False)
                if len(body) > most:
                    raise _Refused(413, "the body is too large")
    except TimeoutError:
        raise _Refused(408, "the body took too long") from None
    return bytes(body)


def _require_own_messages(body: bytes) -> None:
    # Flower holds the caller to `node`; who sent a message it reads from the message.
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        raise _Refused(400, "not a request of Flower") from None
    senders = {message.metadata.src_node_id for message in request.messages_list}
    if len(request.messages_list) != 1 or senders != {request.node.node_id}:
        raise _Refused(401, "it pushes a message of another node")


class _Replayed:
    """The body as one part; after it, whatever else comes (a client that leaves)."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> MutableMapping[str, Any]:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _answer(send: Send, status: int) -> None:
    body = json.dumps({"detail": "refused"}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
