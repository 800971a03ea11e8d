"""What a request asks once it is authorised, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis_sandbox import patches
from aegis_sandbox.status import Object, Refused, conflict, invalid

_NAME_BYTES_MAX = 128


@dataclass(frozen=True, slots=True)
class Ask:
    """An authorised request; `name` and `namespace` are empty where the path has none."""

    user: str
    resource: str
    namespace: str
    name: str
    query: Mapping[str, str]
    content_type: str
    body: Any


@dataclass(slots=True)
class Answer:
    """What came of it; `changed` is true when something lasting happened."""

    code: int
    body: Object
    headers: dict[str, str] = field(default_factory=dict)
    changed: bool = False
    uid: str = ""


def dry_run(query: Mapping[str, str], options: Mapping[str, Any] | None = None) -> bool:
    """Reads dryRun from the query or from delete options; Refused 422 unless it is `All`."""
    wanted = query.get("dryRun")
    asked = [wanted] if wanted is not None else list((options or {}).get("dryRun") or [])
    for value in asked:
        if value != "All":
            raise invalid("options", "", ("FieldValueNotSupported", "dryRun", value))
    return bool(asked)


def patched(ask: Ask, old: Object) -> Object:
    """Returns `old` with the ask's patch applied.

    Refused 409 when the patch names another uid or resourceVersion, else as `patches.apply`.
    """
    manager = ask.query.get("fieldManager", "")
    if len(manager.encode()) > _NAME_BYTES_MAX or not manager.isprintable():
        raise invalid("options", "", ("FieldValueInvalid", "fieldManager", "too long"))
    wanted = patches.apply(ask.content_type, old, ask.body)
    metadata, kept = wanted.get("metadata"), old["metadata"]
    if not isinstance(metadata, dict) or metadata.get("name") != kept["name"]:
        raise Refused(400, "the name of the object does not match the name on the URL")
    if metadata.setdefault("uid", kept["uid"]) != kept["uid"]:
        message = (
            f"Precondition failed: UID in precondition: {metadata['uid']},"
            f" UID in object meta: {kept['uid']}"
        )
        raise conflict(ask.resource, ask.name, message)
    version = kept["resourceVersion"]
    if metadata.setdefault("resourceVersion", version) != version:
        message = "the object has been modified; please apply your changes to the latest version"
        raise conflict(ask.resource, ask.name, message)
    if "namespace" in kept:
        metadata["namespace"] = kept["namespace"]
    for fixed in ("creationTimestamp", "generation"):
        if fixed in kept:
            metadata[fixed] = kept[fixed]
    return wanted
