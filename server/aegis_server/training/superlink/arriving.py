"""Replies of SuperNodes on their way from the SuperLink: fetched object by object, and bounded.

Flower's own Grid waits for two hours for the objects of a reply that was announced and never
brought, lets one that cannot be unpacked end the ServerApp, and believes the reply itself in whose
name it comes and what it answers. Here a reply that is not whole is looked for again with the next
poll, one that is none fails its sender, and who sent it is what the SuperLink has checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aegis_server.training.flower import CLIENT_APP_RAISED, Error, Message, RecordDict
from aegis_server.training.superlink.internals import (
    MessageMessage,
    ObjectTree,
    PullObjectResponse,
    inflate_object_from_contents,
    iterate_object_tree,
)

_OBJECTS_MAX = 10_000

# Asks the SuperLink for an object.
PullObject = Callable[[str], PullObjectResponse]


@dataclass(slots=True)
class Arriving:
    """One reply, as far as it is here; at most `bytes_max` of it are taken."""

    announced: MessageMessage
    tree: ObjectTree
    bytes_max: int
    objects: dict[str, bytes] = field(default_factory=dict)

    def fetch(self, pull: PullObject) -> RecordDict | Error | None:
        """Returns what the reply holds, or why that cannot be used; None while some is missing."""
        ids = dict.fromkeys(each.object_id for each in iterate_object_tree(self.tree))
        if len(ids) > _OBJECTS_MAX:
            return _error("REQUEST_TOO_LARGE")
        size = sum(map(len, self.objects.values()))
        for object_id in ids:
            if object_id in self.objects:
                continue
            found = pull(object_id)
            if not found.object_found:
                return _error("UPDATE_FORMAT_INVALID")
            if not found.object_available:
                return None
            size += len(found.object_content)
            if size > self.bytes_max:
                return _error("REQUEST_TOO_LARGE")
            self.objects[object_id] = found.object_content
        return self._content()

    def _content(self) -> RecordDict | Error:
        try:
            whole = inflate_object_from_contents(self.announced.metadata.message_id, self.objects)
            if isinstance(whole, Message):
                return whole.error if whole.has_error() else whole.content
        except Exception:
            # Flower promises no error in particular for what a stranger sent.
            return _error("UPDATE_FORMAT_INVALID")
        return _error("UPDATE_FORMAT_INVALID")


def _error(reason: str) -> Error:
    return Error(CLIENT_APP_RAISED, reason)
