"""The doors every call passes: metrics → errors → caller → limit → permission → deadline → form.

One wrapper instead of six interceptors, because each would have to wrap all four call kinds. One
question with one answer goes through in a straight line, `answer`, because thousands come a second;
a stream is held by a leash on its way, `_Passage`. Handlers find the caller with `current_call()`
and raise `AegisError`; nothing else leaves a handler as a status.

`Port` puts each handler behind the doors as it is registered. As an interceptor they do the same a
call at a time, for servers that somebody else makes.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

import grpc
import protovalidate
from google.protobuf.message import Message
from grpc_status import rpc_status

from aegis.errors import (
    AegisError,
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unauthenticated,
)
from aegis.serving.deadlines import within
from aegis.serving.leashes import Leash, Leashes
from aegis.serving.metrics import CallMetrics, MethodMetrics
from aegis.spiffe import Caller, caller_of_certificate

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

log = logging.getLogger(__name__)

# Health and reflection say nothing about anybody's data and must answer probes without identity.
OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")

MAX_MESSAGE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Grant:
    """Why a call was let in: the policy revision and rule, empty where no policy is asked."""

    revision: int = 0
    rule_id: str = ""


class Call(NamedTuple):
    """The call being served; a tuple, as it is made for every call."""

    method: str
    caller: Caller
    grant: Grant


class Peer:
    """What a call shows of its sender: what TLS knows, `authorization` or "", and its host."""

    __slots__ = ("_auth_context", "_certificates", "address", "authorization")

    def __init__(
        self,
        auth_context: Callable[[], Mapping[str, Iterable[bytes]]],
        authorization: str,
        address: str,
    ) -> None:
        self.authorization = authorization
        self.address = address
        self._auth_context = auth_context
        self._certificates: tuple[bytes, ...] | None = None

    @property
    def certificate(self) -> bytes | None:
        """The one certificate (PEM), or None. Looked for when asked: most tokens come without."""
        found = self._certificates
        if found is None:
            found = self._certificates = tuple(self._auth_context().get("x509_pem_cert", ()))
        return found[0] if len(found) == 1 else None


# All three are given the method first, and raise an `AegisError` to refuse.
Authenticate: TypeAlias = Callable[[str, Peer], Awaitable[Caller]]
Limit: TypeAlias = Callable[[str, Caller], Awaitable[None]]
Admit: TypeAlias = Callable[[str, Caller], Awaitable[Grant]]
# Says that a message surely keeps the constraints of its .proto; about the others it knows nothing.
Surely: TypeAlias = Callable[[Any], bool]

_current: ContextVar[Call] = ContextVar("aegis_call")


def current_call() -> Call:
    """Returns the call this task is serving; LookupError outside a handler."""
    return _current.get()


def validate(message: Message, reason: str = "FIELD_INVALID") -> None:
    """Raises `InvalidArgument` naming every field that breaks a constraint of its .proto."""
    violations = tuple(
        FieldViolation(_field_path(violation.proto.field), violation.proto.message)
        for violation in protovalidate.collect_violations(message)
    )
    if violations:
        text = "; ".join(f"{v.field}: {v.description}" for v in violations[:3])
        raise InvalidArgument(reason, text, violations=violations)


def _check(message: Message, limit: int, surely: Surely | None) -> None:
    if message.ByteSize() > limit:
        raise ResourceExhausted(
            "REQUEST_TOO_LARGE", f"a message here has at most {limit} bytes", limit_bytes=limit
        )
    if surely is None or not surely(message):
        validate(message)


def _field_path(path: Any) -> str:
    parts = []
    for element in path.elements if path is not None else ():
        subscript = getattr(element, "subscript", None)
        position = f"[{subscript.value}]" if subscript is not None else ""
        parts.append(f"{element.field_name}{position}")
    return ".".join(parts) or "(message)"


def by_certificate(trust_domain: str) -> Authenticate:
    """Returns the proof of programs: one SPIFFE id of the trust domain, in a certificate."""

    async def authenticate(method: str, peer: Peer) -> Caller:
        if peer.certificate is None:
            raise Unauthenticated("PEER_UNIDENTIFIED", "a client certificate is required")
        return caller_of_certificate(peer.certificate, trust_domain)

    return authenticate


async def _without_limit(method: str, caller: Caller) -> None:
    """Lets every call pass."""


class Doors(grpc.aio.ServerInterceptor):
    """Puts handlers behind the doors.

    `authenticate` says who calls and raises `Unauthenticated` when nobody does; `limit` raises
    `ResourceExhausted` for who calls too often; `admit` decides whether a caller may call a method
    and raises `PermissionDenied` when not;
    `max_message_bytes` bounds each message, with exceptions by method in `larger`;
    `default_seconds` bounds a unary call whose client set no deadline; `surely` spares methods that
    are called very often the general check of their messages.
    """

    def __init__(
        self,
        *,
        admit: Admit,
        metrics: CallMetrics,
        authenticate: Authenticate,
        limit: Limit = _without_limit,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        larger: Mapping[str, int] = MappingProxyType({}),
        default_seconds: float = 30.0,
        surely: Mapping[str, Surely] = MappingProxyType({}),
    ) -> None:
        self._admit = admit
        self._metrics = metrics
        self._authenticate = authenticate
        self._limit = limit
        self.leashes = Leashes()
        self._max_message_bytes = max_message_bytes
        self._larger = larger
        self._default_seconds = default_seconds
        self._surely = surely
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    @property
    def largest_message_bytes(self) -> int:
        """The largest message any method takes."""
        return max(self._max_message_bytes, *self._larger.values(), 0)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        inner, wrapped = self._wrapped.get(method, (None, None))
        if inner is not handler:
            # Handlers stay the same for as long as the server lives.
            wrapped = self.guard(method, handler)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def guard(self, method: str, handler: Any) -> Any:
        """Returns the handler of a method, `/package.Service/Method`, behind the doors."""
        if method.startswith(OPEN_SERVICES):
            return handler
        kind = (
            "client_stream" if handler.request_streaming else "unary",
            "server_stream" if handler.response_streaming else "unary",
        )
        call_type = {
            ("unary", "unary"): "unary",
            ("client_stream", "unary"): "client_stream",
            ("unary", "server_stream"): "server_stream",
            ("client_stream", "server_stream"): "bidi_stream",
        }[kind]
        inner = (
            handler.unary_unary
            or handler.stream_unary
            or handler.unary_stream
            or handler.stream_stream
        )

        metrics = self._metrics.of(call_type, method)
        limit, surely = self._larger.get(method, self._max_message_bytes), self._surely.get(method)

        async def answer(request: Any, context: Context) -> Any:
            metrics.started.inc()
            began = time.perf_counter()
            try:
                await self.let_in(method, await self.prove(method, context))
                _check(request, limit, surely)
                response = await self._in_time(inner(request, context), context)
            except BaseException as error:
                await _end(error, context, method, metrics, began)
                raise  # only where the call was not aborted
            metrics.ended("OK", time.perf_counter() - began)
            return response

        async def answer_once(requests: Any, context: Context) -> Any:
            async with _Passage(self, method, metrics, context) as leash:
                requests = _checked(requests, limit, surely, leash)
                return await self._in_time(inner(requests, context), context)

        async def answer_many(request: Any, context: Context) -> AsyncIterator[Any]:
            async with _Passage(self, method, metrics, context) as leash:
                if isinstance(request, Message):
                    _check(request, limit, surely)
                else:
                    request = _checked(request, limit, surely, leash)
                async for response in leash.each(inner(request, context)):
                    yield response

        make = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "client_stream": grpc.stream_unary_rpc_method_handler,
            "server_stream": grpc.unary_stream_rpc_method_handler,
            "bidi_stream": grpc.stream_stream_rpc_method_handler,
        }[call_type]
        single = answer_once if handler.request_streaming else answer
        return make(
            answer_many if handler.response_streaming else single,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _in_time(
        self, deed: Coroutine[Any, Any, Any], context: Context
    ) -> Coroutine[Any, Any, Any]:
        """Returns what awaits a deed until the call's deadline."""

        def seconds() -> float:
            remaining = context.time_remaining()
            return self._default_seconds if remaining is None else remaining

        return within(seconds, deed)

    async def prove(self, method: str, context: Context) -> Caller:
        """Returns who calls; raises an `AegisError` for who cannot show that."""
        return await self._authenticate(method, _peer_of(context))

    async def let_in(self, method: str, caller: Caller) -> None:
        """Returns when they may; raises an `AegisError` when they may not."""
        await self._limit(method, caller)
        grant = await self._admit(method, caller)
        _current.set(Call(method, caller, grant))


class _Passage:
    """One stream, from its first byte to its status: who it is, and what came of it."""

    __slots__ = ("_began", "_context", "_doors", "_held", "_method", "_metrics")

    def __init__(self, doors: Doors, method: str, metrics: MethodMetrics, context: Context) -> None:
        self._doors = doors
        self._method = method
        self._metrics = metrics
        self._context = context
        self._held = ExitStack()
        self._began = 0.0

    async def __aenter__(self) -> Leash:
        self._metrics.started.inc()
        self._began = time.perf_counter()
        try:
            caller = await self._doors.prove(self._method, self._context)
            # Held from the moment that its proof was good: what is revoked while the call is
            # let in would otherwise end every stream but this one.
            leash = self._held.enter_context(self._doors.leashes.hold(caller))
            await self._doors.let_in(self._method, caller)
        except BaseException as error:
            await self._leave(error)
            raise  # only where the call was not aborted
        return leash

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(error)

    async def _leave(self, error: BaseException | None) -> None:
        self._held.close()
        await _end(error, self._context, self._method, self._metrics, self._began)


async def _end(
    error: BaseException | None,
    context: Context,
    method: str,
    metrics: MethodMetrics,
    began: float,
) -> None:
    """Counts a call that has ended; aborts it with what its caller may know of an error."""
    code = grpc.StatusCode.OK
    try:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            code = grpc.StatusCode.CANCELLED
        elif isinstance(error, grpc.aio.AbortError):
            code = grpc.StatusCode.UNKNOWN
        elif isinstance(error, Exception):
            refusal = as_aegis_error(error, method)
            code = refusal.code
            await context.abort_with_status(rpc_status.to_status(refusal.to_status()))
    finally:
        metrics.ended(code.name, time.perf_counter() - began)


async def _checked(
    requests: AsyncIterator[Message], limit: int, surely: Surely | None, leash: Leash
) -> AsyncIterator[Message]:
    async for request in leash.each(requests):
        _check(request, limit, surely)
        yield request


def _peer_of(context: Context) -> Peer:
    authorization, found = "", 0
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            authorization, found = str(value), found + 1
    if found > 1:
        raise Unauthenticated("TOKEN_INVALID", "more than one authorization", check="metadata")
    return Peer(context.auth_context, authorization, _host_of(context.peer() or ""))


@lru_cache(maxsize=4096)
def _host_of(peer: str) -> str:
    """Returns the host of "ipv4:127.0.0.1:51234", "ipv6:%5B::1%5D:51234" or "unix:…"."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def as_aegis_error(error: Exception, method: str) -> AegisError:
    """Returns what the caller may know of an exception; the rest goes to the log."""
    if isinstance(error, AegisError):
        if error.__cause__ is not None:
            log.warning("%s refused: %s: %s", method, error.reason, error.message, exc_info=error)
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("DEADLINE_REQUIRED", "the call took longer than its deadline")
    incident = uuid.uuid4().hex[:12]
    log.error("incident %s in %s", incident, method, exc_info=error)
    return Internal("INTERNAL", f"internal error, incident {incident}", incident=incident)
