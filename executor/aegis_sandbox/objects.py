"""What the sandbox stores: objects under one global resourceVersion, their history, the ledger.

The ledger holds every mutating request with its effect; crash tests use it as their oracle.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import msgspec

from aegis_sandbox.status import Object, Refused

_FIRST_REVISION = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One change, as a watch tells it: ADDED, MODIFIED or DELETED."""

    revision: int
    type: str
    resource: str
    object: Object


@dataclass(frozen=True, slots=True)
class Write:
    """One mutating request; `changed` says whether it had an effect that lasts.

    `at` is the moment of that effect, or of the refusal, in ISO 8601 with microseconds.
    """

    audit_id: str
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    uid: str
    code: int
    changed: bool
    dry_run: bool
    field_manager: str
    at: str

    def to_json(self) -> Object:
        """Returns the form in which /sandbox/ledger shows it."""
        return asdict(self)


class Objects:
    """The store. One event loop, no awaits inside an operation: each is atomic.

    `window` is how many changes a watch may reach back.
    """

    def __init__(self, clock: Callable[[], datetime], *, window: int = 2000) -> None:
        self.clock = clock
        self.revision = _FIRST_REVISION
        self.ledger: list[Write] = []
        self._objects: dict[tuple[str, str, str], Object] = {}
        # By the controller's uid; else every tick would look at all pods for each deployment.
        self._controlled: dict[str, set[tuple[str, str, str]]] = {}
        self._events: deque[Event] = deque(maxlen=window)
        self._changed = asyncio.Event()

    def timestamp(self) -> str:
        """Returns now, as Kubernetes writes it."""
        return self.clock().strftime("%Y-%m-%dT%H:%M:%SZ")

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        """Returns a copy of one object, or None."""
        found = self._objects.get((resource, namespace, name))
        return _copied(found) if found is not None else None

    def list(self, resource: str, namespace: str | None = None) -> list[Object]:
        """Returns copies of all objects of a resource, by namespace and name."""
        return [_copied(found) for found in self._select(resource, namespace)]

    def controlled(self, resource: str, owner: Object) -> Sequence[Object]:
        """Returns copies of those that `owner`, in their namespace, is the controller of."""
        place = (resource, owner["metadata"]["namespace"])
        keys = self._controlled.get(owner["metadata"]["uid"], ())
        return [_copied(self._objects[key]) for key in sorted(keys) if key[:2] == place]

    def _select(self, resource: str, namespace: str | None) -> Iterator[Object]:
        wanted = (
            key for key in self._objects if key[0] == resource and namespace in (None, key[1])
        )
        for key in sorted(wanted):
            yield self._objects[key]

    def create(self, resource: str, wanted: Object) -> Object:
        """Stores a new object and returns a copy of it; Refused 409 when the name is taken."""
        stored = _copied(wanted)
        metadata = stored["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        if key in self._objects:
            raise Refused(
                409, f'{resource} "{metadata["name"]}" already exists', reason="AlreadyExists"
            )
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = self.timestamp()
        if resource in ("deployments", "replicasets", "poddisruptionbudgets"):
            metadata["generation"] = 1
        self._commit(key, stored, "ADDED")
        return _copied(stored)

    def update(self, resource: str, wanted: Object) -> Object:
        """Stores a new state of an object; one that equals the old is no change at all."""
        stored = _copied(wanted)
        metadata = stored["metadata"]
        key = (resource, metadata.get("namespace", ""), metadata["name"])
        old = self._objects[key]
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        if "generation" in old["metadata"]:
            metadata["generation"] = old["metadata"]["generation"]
            if stored.get("spec") != old.get("spec"):
                metadata["generation"] += 1
        if stored != old:
            self._commit(key, stored, "MODIFIED")
        return _copied(stored)

    def delete(self, resource: str, namespace: str, name: str) -> None:
        """Removes an object."""
        key = (resource, namespace, name)
        gone = self._objects.pop(key)
        self._let_go(key, gone)
        self._tell(gone, "DELETED", resource)

    def _commit(self, key: tuple[str, str, str], stored: Object, kind: str) -> None:
        if (old := self._objects.get(key)) is not None:
            self._let_go(key, old)
        self._objects[key] = stored
        if uid := controller_of(stored).get("uid"):
            self._controlled.setdefault(uid, set()).add(key)
        self._tell(stored, kind, key[0])

    def _let_go(self, key: tuple[str, str, str], old: Object) -> None:
        if uid := controller_of(old).get("uid"):
            self._controlled[uid].discard(key)

    def _tell(self, changed: Object, kind: str, resource: str) -> None:
        self.revision += 1
        changed["metadata"]["resourceVersion"] = str(self.revision)
        self._events.append(Event(self.revision, kind, resource, _copied(changed)))
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Returns at the next change, or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def watch(
        self, resource: str, namespace: str | None, since: int, wanted: Callable[[Object], bool]
    ) -> AsyncIterator[Event]:
        """Yields every change after revision `since`; Refused 410 once the window has moved on."""
        while True:
            changed = self._changed
            oldest = self._events[0].revision if self._events else self.revision + 1
            if since + 1 < oldest:
                raise Refused(410, f"too old resource version: {since} ({oldest})")
            for event in [event for event in self._events if event.revision > since]:
                since = event.revision
                ours = event.resource == resource and _inside(event.object, namespace)
                if ours and wanted(event.object):
                    yield event
            if since >= self.revision:
                await changed.wait()


def _copied(plain: Object) -> Object:
    # Many times faster than copy.deepcopy, and every tick copies every object.
    copy: Object = msgspec.msgpack.decode(msgspec.msgpack.encode(plain))
    return copy


def controller_of(thing: Object) -> Object:
    """Returns the reference to a thing's controller; empty when nothing controls it."""
    references = thing["metadata"].get("ownerReferences", [])
    return next((reference for reference in references if reference.get("controller")), {})


def _inside(wanted: Object, namespace: str | None) -> bool:
    return namespace is None or wanted["metadata"].get("namespace") == namespace


def labels_match(labels: dict[str, Any], selector: str) -> bool:
    """Evaluates an equality-based label selector, e.g. `app=web,tier!=cache`."""
    for term in filter(None, selector.split(",")):
        if "!=" in term:
            key, _, value = term.partition("!=")
            if labels.get(key.strip()) == value.strip():
                return False
        elif "=" in term:
            key, _, value = term.replace("==", "=").partition("=")
            if labels.get(key.strip()) != value.strip():
                return False
        else:
            raise Refused(501, "the Aegis sandbox models only key=value and key!=value selectors")
    return True
