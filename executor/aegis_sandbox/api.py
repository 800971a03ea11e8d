"""The sandbox's API server: path → resource and verb → user may? → verb → Status or object."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from aegis_sandbox.access import Access, User
from aegis_sandbox.asks import Answer, Ask, dry_run
from aegis_sandbox.control import Control, Fault
from aegis_sandbox.evictions import Evictions
from aegis_sandbox.http import Dropped, Request, Response
from aegis_sandbox.lists import Lists
from aegis_sandbox.objects import Objects, Write
from aegis_sandbox.routes import ACCESS_REVIEWS, Route, route
from aegis_sandbox.status import Refused, not_modelled
from aegis_sandbox.verbs import Verbs

log = logging.getLogger(__name__)

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0-aegis-sandbox",
    "platform": "sandbox",
}
_LISTED = frozenset(
    {
        "deployments",
        "events",
        "horizontalpodautoscalers",
        "namespaces",
        "nodes",
        "poddisruptionbudgets",
        "pods",
        "replicasets",
    }
)
_CREATED = ("deployments", "events", "horizontalpodautoscalers", "namespaces")


class ApiServer:
    """Answers every request of one sandbox; the handler of `http.Listener`."""

    def __init__(
        self,
        *,
        objects: Objects,
        verbs: Verbs,
        evictions: Evictions,
        access: Access,
        control: Control,
    ) -> None:
        self._objects = objects
        self._lists = Lists(objects)
        self._access = access
        self._control = control
        reads = ("pods", "deployments", "replicasets", "nodes")
        self._verbs: dict[tuple[str, str], Callable[[Ask], Answer]] = {
            **{("get", resource): verbs.get for resource in reads},
            **{("create", resource): verbs.create for resource in _CREATED},
            ("create", "poddisruptionbudgets"): verbs.create,
            ("get", "deployments/scale"): verbs.get_scale,
            ("create", "pods/eviction"): evictions.evict,
            ("patch", "deployments"): verbs.patch_deployment,
            ("patch", "deployments/scale"): verbs.patch_scale,
            ("patch", "nodes"): verbs.patch_node,
            ("delete", "pods"): evictions.delete_pod,
            ("delete", "deployments"): verbs.delete,
            ("delete", "poddisruptionbudgets"): verbs.delete,
        }

    async def __call__(self, request: Request) -> Response:
        """Answers one request; every answer carries an Audit-Id and says it is a sandbox."""
        audit_id = str(uuid.uuid4())
        headers = {"Audit-Id": audit_id, "Server": "aegis-sandbox"}
        try:
            response = await self._answer(request, audit_id)
        except Dropped:
            raise
        except Refused as refused:
            response = Response(refused.code, refused.body, refused.headers)
        except Exception:
            log.exception("defect in %s %s", request.method, request.path)
            defect = Refused(500, "the sandbox has a defect")
            response = Response(defect.code, defect.body)
        return dataclasses.replace(response, headers={**headers, **response.headers})

    async def _answer(self, request: Request, audit_id: str) -> Response:
        user = self._access.identify(request.headers.get("authorization", ""))
        if request.path == "/version":
            return Response(200, VERSION)
        if request.path.startswith("/sandbox/"):
            if not user.admin:
                raise Refused(403, "only the sandbox's administrator may do this")
            return Response(200, self._control.answer(request))
        return await self._kubernetes(user, request, audit_id)

    async def _kubernetes(self, user: User, request: Request, audit_id: str) -> Response:
        watching = request.query.get("watch", "") in ("1", "true")
        asked = route(request.method, request.path, watching=watching)
        if asked.resource == ACCESS_REVIEWS:
            # Everybody may ask what they may do.
            asked.check_modelled()
            return self._review(user, asked, request)
        self._access.check(user, asked.verb, asked.resource, asked.namespace, asked.name)
        asked.check_modelled()
        if asked.verb in ("list", "watch"):
            return await self._many(request, asked, self._fault(user, asked))
        if (asked.verb, asked.resource) not in self._verbs:
            raise not_modelled(f"{asked.verb} {asked.resource}")
        ask = _ask(user, asked, request)
        fault = self._fault(user, asked, dry=_is_dry(asked.verb, ask))
        if asked.verb == "get":
            verb = self._verbs[asked.verb, asked.resource]
            return await _suffered(fault, lambda: _response(verb(ask)))
        return await self._write(user, asked.verb, ask, audit_id, fault)

    def _fault(self, user: User, asked: Route, *, dry: bool = False) -> Fault | None:
        if user.admin:
            return None
        return self._control.take_fault(asked.verb, asked.resource, dry=dry)

    def _review(self, user: User, asked: Route, request: Request) -> Response:
        if asked.verb != "create":
            raise not_modelled(f"{asked.verb} {asked.resource}")
        return Response(201, self._access.review(user, _parsed(request.body)))

    async def _many(self, request: Request, asked: Route, fault: Fault | None) -> Response:
        if asked.resource not in _LISTED:
            raise not_modelled(f"list {asked.resource}")
        if asked.verb == "watch":
            return await _suffered(fault, lambda: self._lists.watch(request, asked))
        listed = await self._lists.page(request, asked)
        return await _suffered(fault, lambda: listed)

    async def _write(
        self, user: User, verb: str, ask: Ask, audit_id: str, fault: Fault | None
    ) -> Response:
        written = False

        def write(code: int, answer: Answer | None) -> None:
            nonlocal written
            written = True
            entry = _entry(user, verb, ask, audit_id, code, answer, self._objects.clock())
            self._objects.ledger.append(entry)

        def act() -> Response:
            try:
                answer = self._verbs[verb, ask.resource](ask)
            except Refused as refused:
                write(refused.code, None)
                raise
            write(answer.code, answer)
            return _response(answer)

        try:
            return await _suffered(fault, act)
        finally:
            if not written:  # The fault came first, or it is a defect.
                write(fault.code if fault is not None else 0, None)


async def _suffered(fault: Fault | None, act: Callable[[], Response]) -> Response:
    """Answers, with whatever was ordered to go wrong with this request."""
    if fault is None:
        return act()
    if fault.where != "after":
        await asyncio.sleep(fault.seconds)
    if fault.where == "reset":
        raise Dropped
    if fault.where == "instead":
        raise Refused(fault.code, "the sandbox was told to answer so", headers=fault.headers)
    response = act()
    if fault.where == "after":
        await asyncio.sleep(fault.seconds)
    if fault.where == "lost":
        raise Dropped
    return dataclasses.replace(response, cut=fault.where == "cut")


def _ask(user: User, asked: Route, request: Request) -> Ask:
    return Ask(
        user=user.name,
        resource=asked.resource,
        namespace=asked.namespace or "",
        name=asked.name,
        query=request.query,
        content_type=request.headers.get("content-type", "").partition(";")[0],
        body=_parsed(request.body),
    )


def _parsed(body: bytes) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON") from error


def _response(answer: Answer) -> Response:
    return Response(answer.code, answer.body, answer.headers)


def _is_dry(verb: str, ask: Ask) -> bool:
    body = ask.body if isinstance(ask.body, dict) else {}
    options = body if verb == "delete" else body.get("deleteOptions")
    try:
        return dry_run(ask.query, options if isinstance(options, dict) else None)
    except Refused:
        return False


def _entry(
    user: User,
    verb: str,
    ask: Ask,
    audit_id: str,
    code: int,
    answer: Answer | None,
    at: datetime,
) -> Write:
    return Write(
        audit_id=audit_id,
        user=user.name,
        verb=verb,
        resource=ask.resource,
        namespace=ask.namespace,
        name=ask.name,
        uid=answer.uid if answer is not None else "",
        code=code,
        changed=answer is not None and answer.changed,
        dry_run=_is_dry(verb, ask),
        field_manager=ask.query.get("fieldManager", ""),
        at=at.isoformat(),
    )
