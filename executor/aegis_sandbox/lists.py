"""Lists, in pages where that is asked for, and watches."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from aegis_sandbox.http import Request, Response
from aegis_sandbox.objects import Objects, labels_match
from aegis_sandbox.routes import GROUPS, Route
from aegis_sandbox.status import Object, Refused, not_modelled

_FUTURE_WAIT_SECONDS = 3.0
_PAGED_LISTS_MAX = 32


class Lists:
    """Answers `list` and `watch`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        # What is still to come of a list that was begun: later pages show the same moment.
        self._rests: OrderedDict[str, tuple[str, list[Object]]] = OrderedDict()

    async def page(self, request: Request, route: Route) -> Response:
        """One page, or all; Refused 410 for a page of a list that is forgotten."""
        asked = request.query.get("resourceVersion", "")
        if asked.isdigit() and int(asked) > self._objects.revision:
            await asyncio.sleep(_FUTURE_WAIT_SECONDS)
            if int(asked) > self._objects.revision:
                raise Refused(
                    504, "Timeout: Too large resource version", headers={"Retry-After": "1"}
                )
        if "fieldSelector" in request.query:
            raise not_modelled("field selectors")
        group, kind = GROUPS[route.resource]
        version, items = self._begun(request, route)
        metadata: Object = {"resourceVersion": version}
        limit = int(request.query.get("limit") or 0)
        if limit and len(items) > limit:
            metadata["continue"] = token = secrets.token_urlsafe(12)
            metadata["remainingItemCount"] = len(items) - limit
            self._keep(token, version, items[limit:])
            items = items[:limit]
        body = {
            "kind": f"{kind}List",
            "apiVersion": group.partition("/")[2],
            "metadata": metadata,
            "items": items,
        }
        return Response(200, body)

    def _begun(self, request: Request, route: Route) -> tuple[str, list[Object]]:
        token = request.query.get("continue")
        if token is None:
            wanted = _selected(request)
            found = self._objects.list(route.resource, route.namespace)
            return str(self._objects.revision), [o for o in found if wanted(o)]
        if token not in self._rests:
            raise Refused(410, "The provided continue parameter is too old")
        return self._rests[token]

    def _keep(self, token: str, version: str, rest: list[Object]) -> None:
        self._rests[token] = version, rest
        while len(self._rests) > _PAGED_LISTS_MAX:
            self._rests.popitem(last=False)

    def watch(self, request: Request, route: Route) -> Response:
        """Changes as JSON lines until `timeoutSeconds`."""
        asked = request.query.get("resourceVersion", "")
        since = int(asked) if asked.isdigit() and asked != "0" else None
        seconds = float(request.query.get("timeoutSeconds", "1800"))
        return Response(200, stream=self._lines(route, since, _selected(request), seconds))

    async def _lines(
        self, route: Route, since: int | None, wanted: Callable[[Object], bool], seconds: float
    ) -> AsyncIterator[Object]:
        if since is None:
            since = self._objects.revision
            for found in self._objects.list(route.resource, route.namespace):
                if wanted(found):
                    yield {"type": "ADDED", "object": found}
        try:
            async with asyncio.timeout(seconds):
                changes = self._objects.watch(route.resource, route.namespace, since, wanted)
                async for event in changes:
                    yield {"type": event.type, "object": event.object}
        except Refused as refused:
            # The status line is long gone: the error travels as the last event.
            yield {"type": "ERROR", "object": refused.body}
        except TimeoutError:
            return


def _selected(request: Request) -> Callable[[Object], bool]:
    selector = request.query.get("labelSelector", "")
    return lambda found: labels_match(found["metadata"].get("labels", {}), selector)
