"""The sandbox's API server: path → resource and verb → user may? → verb → Status or object."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from aegis_sandbox.access import Access, User
from aegis_sandbox.control import Control
from aegis_sandbox.http import Request, Response
from aegis_sandbox.objects import Objects, Write, labels_match
from aegis_sandbox.status import Object, Refused, not_modelled
from aegis_sandbox.verbs import Answer, Ask, Verbs, dry_run

log = logging.getLogger(__name__)

VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0-aegis-sandbox",
    "platform": "sandbox",
}
_PATH = re.compile(
    r"/(?P<group>api/v1|apis/apps/v1|apis/policy/v1)"
    r"(?:/namespaces/(?P<namespace>[a-z0-9-]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[a-z0-9.-]+)(?:/(?P<sub>[a-z]+))?)?"
)
_GROUPS = {
    "namespaces": ("api/v1", "Namespace"),
    "pods": ("api/v1", "Pod"),
    "deployments": ("apis/apps/v1", "Deployment"),
    "replicasets": ("apis/apps/v1", "ReplicaSet"),
    "poddisruptionbudgets": ("apis/policy/v1", "PodDisruptionBudget"),
}
_FUTURE_WAIT_SECONDS = 3.0


class ApiServer:
    """Answers every request of one sandbox; the handler of `http.Listener`."""

    def __init__(self, *, objects: Objects, verbs: Verbs, access: Access, control: Control) -> None:
        self._objects = objects
        self._access = access
        self._control = control
        self._verbs: dict[tuple[str, str], Callable[[Ask], Answer]] = {
            ("get", "pods"): verbs.get,
            ("get", "deployments"): verbs.get,
            ("get", "replicasets"): verbs.get,
            ("get", "deployments/scale"): verbs.get_scale,
            ("create", "namespaces"): verbs.create,
            ("create", "deployments"): verbs.create,
            ("create", "poddisruptionbudgets"): verbs.create,
            ("create", "pods/eviction"): verbs.evict,
            ("patch", "deployments"): verbs.patch_deployment,
            ("patch", "deployments/scale"): verbs.patch_scale,
            ("delete", "pods"): verbs.delete_pod,
            ("delete", "deployments"): verbs.delete_deployment,
        }

    async def __call__(self, request: Request) -> Response:
        """Answers one request; every answer carries an Audit-Id and says it is a sandbox."""
        audit_id = str(uuid.uuid4())
        headers = {"Audit-Id": audit_id, "Server": "aegis-sandbox"}
        try:
            response = await self._answer(request, audit_id)
        except Refused as refused:
            response = Response(refused.code, refused.body, refused.headers)
        except Exception:
            log.exception("defect in %s %s", request.method, request.path)
            defect = Refused(500, "the sandbox has a defect")
            response = Response(defect.code, defect.body)
        return Response(
            response.code, response.body, {**headers, **response.headers}, response.stream
        )

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
        match = _PATH.fullmatch(request.path)
        if match is None or (match["resource"] == "namespaces" and match["namespace"]):
            raise Refused(404, "the server could not find the requested resource")
        resource, namespace = match["resource"], match["namespace"]
        if match["sub"]:
            resource = f"{resource}/{match['sub']}"
        watching = request.query.get("watch", "") in ("1", "true")
        verb = _verb(request.method, named=bool(match["name"]), watching=watching)
        self._access.check(user, verb, resource, namespace)
        if _GROUPS.get(match["resource"], ("",))[0] != match["group"]:
            raise not_modelled(f"{match['group']} {match['resource']}")
        if verb == "list":
            return await self._list(request, resource, namespace)
        if verb == "watch":
            return self._watch(request, resource, namespace)
        if (verb, resource) not in self._verbs:
            raise not_modelled(f"{verb} {resource}")
        ask = Ask(
            resource=resource,
            namespace=namespace or "",
            name=match["name"] or "",
            query=request.query,
            content_type=request.headers.get("content-type", "").partition(";")[0],
            body=_parsed(request.body),
        )
        if verb == "get":
            return _response(self._verbs[verb, resource](ask))
        return await self._write(user, verb, ask, audit_id)

    async def _write(self, user: User, verb: str, ask: Ask, audit_id: str) -> Response:
        fault = None if user.admin else self._control.take_fault()
        if fault is not None and fault.where != "after":
            await asyncio.sleep(fault.seconds)
        code, answer = 0, None
        try:
            lost = fault is not None and fault.where == "instead"
            answer = self._verbs[verb, ask.resource](ask) if not lost else _lose()
            code = answer.code
        except Refused as refused:
            code = refused.code
            raise
        finally:
            self._objects.ledger.append(_entry(user, verb, ask, audit_id, code, answer))
        if fault is not None and fault.where == "after":
            await asyncio.sleep(fault.seconds)
        return _response(answer)

    async def _list(self, request: Request, resource: str, namespace: str | None) -> Response:
        asked = request.query.get("resourceVersion", "")
        if asked.isdigit() and int(asked) > self._objects.revision:
            await asyncio.sleep(_FUTURE_WAIT_SECONDS)
            if int(asked) > self._objects.revision:
                raise Refused(
                    504, "Timeout: Too large resource version", headers={"Retry-After": "1"}
                )
        if "fieldSelector" in request.query:
            raise not_modelled("field selectors")
        wanted = _selected(request)
        if resource not in _GROUPS:
            raise not_modelled(f"list {resource}")
        group, kind = _GROUPS[resource]
        body = {
            "kind": f"{kind}List",
            "apiVersion": group.partition("/")[2],
            "metadata": {"resourceVersion": str(self._objects.revision)},
            "items": [o for o in self._objects.list(resource, namespace) if wanted(o)],
        }
        return Response(200, body)

    def _watch(self, request: Request, resource: str, namespace: str | None) -> Response:
        asked = request.query.get("resourceVersion", "")
        seconds = float(request.query.get("timeoutSeconds", "1800"))
        lines = self._lines(
            resource,
            namespace,
            int(asked) if asked.isdigit() and asked != "0" else None,
            _selected(request),
            seconds,
        )
        return Response(200, stream=lines)

    async def _lines(
        self,
        resource: str,
        namespace: str | None,
        since: int | None,
        wanted: Callable[[Object], bool],
        seconds: float,
    ) -> AsyncIterator[Object]:
        if since is None:
            since = self._objects.revision
            for found in self._objects.list(resource, namespace):
                if wanted(found):
                    yield {"type": "ADDED", "object": found}
        try:
            async with asyncio.timeout(seconds):
                async for event in self._objects.watch(resource, namespace, since, wanted):
                    yield {"type": event.type, "object": event.object}
        except Refused as refused:
            # The status line is long gone: the error travels as the last event.
            yield {"type": "ERROR", "object": refused.body}
        except TimeoutError:
            return


def _lose() -> Answer:
    raise Refused(504, "the sandbox was told to lose this request")


def _verb(method: str, *, named: bool, watching: bool) -> str:
    if method == "GET":
        if named:
            return "get"
        return "watch" if watching else "list"
    verbs = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
    if method not in verbs:
        raise Refused(405, f"{method} is not supported")
    return verbs[method]


def _parsed(body: bytes) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the body is not JSON") from error


def _selected(request: Request) -> Callable[[Object], bool]:
    selector = request.query.get("labelSelector", "")
    return lambda found: labels_match(found["metadata"].get("labels", {}), selector)


def _response(answer: Answer | None) -> Response:
    if answer is None:
        raise Refused(500, "the sandbox has a defect")
    return Response(answer.code, answer.body, answer.headers)


def _entry(
    user: User, verb: str, ask: Ask, audit_id: str, code: int, answer: Answer | None
) -> Write:
    options = (ask.body or {}).get("deleteOptions") if isinstance(ask.body, dict) else None
    try:
        dry = dry_run(ask.query, options)
    except Refused:
        dry = False
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
        dry_run=dry,
        field_manager=ask.query.get("fieldManager", ""),
    )
