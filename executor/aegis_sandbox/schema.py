"""Which fields exist and what may stand in them.

The tree of fields comes from lightkube-models, which is generated from Kubernetes' OpenAPI; the
rules on values are the few that the modelled writes can break.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from lightkube.models.apps_v1 import Deployment
from lightkube.models.autoscaling_v1 import Scale
from lightkube.models.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.models.core_v1 import Node
from lightkube.models.events_v1 import Event
from lightkube.models.policy_v1 import Eviction, PodDisruptionBudget
from msgspec import inspect

from aegis_sandbox.status import Object, Refused, invalid, not_modelled

_MODELS: dict[str, type[msgspec.Struct]] = {
    "deployments": Deployment,
    "deployments/scale": Scale,
    "events": Event,
    "horizontalpodautoscalers": HorizontalPodAutoscaler,
    "nodes": Node,
    "pods/eviction": Eviction,
    "poddisruptionbudgets": PodDisruptionBudget,
}
_INT32_MAX = 2**31 - 1
_NOTE_CHARACTERS_MAX = 1024


def check_fields(resource: str, wanted: Object, validation: str) -> dict[str, str]:
    """Checks names and types of all fields; drops unknown ones and returns headers that warn.

    `validation` is the request's fieldValidation: Strict refuses unknown fields with 422, Warn
    (the default) only warns, Ignore is silent.
    """
    if validation not in ("", "Strict", "Warn", "Ignore"):
        raise invalid(resource, "", ("FieldValueNotSupported", "fieldValidation", validation))
    model = _MODELS[resource]
    metadata = wanted.get("metadata")
    name = str(metadata.get("name", "")) if isinstance(metadata, dict) else ""
    try:
        msgspec.convert(wanted, model)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        place = path.rstrip("`").lstrip(".")
        raise invalid(resource, name, ("FieldValueInvalid", place, text)) from error
    found = list(_unknown(wanted, _tree(model), ""))
    for _, parent, field in found:
        # What the API does not know it does not store, whoever was warned.
        parent.pop(field, None)
    unknown = sorted(path for path, *_ in found)
    if not unknown or validation == "Ignore":
        return {}
    if validation == "Strict":
        # The real server puts the whole object into this message, secrets and all. So does the
        # sandbox: a client that stores messages has to be found out here.
        message = f"{resource} {wanted!r}: strict decoding error: unknown field"
        raise Refused(
            422,
            message,
            details={"name": name, "kind": resource},
            causes=[("FieldValueInvalid", path, "unknown field") for path in unknown],
        )
    return {"Warning": ", ".join(f'299 - "unknown field \\"{path}\\""' for path in unknown)}


@cache
def _tree(model: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(model)


def _unknown(
    value: Any, kind: inspect.Type, path: str
) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields path, parent and name of every field that the model does not have."""
    if isinstance(kind, inspect.UnionType):
        for option in kind.types:
            yield from _unknown(value, option, path)
    elif isinstance(kind, inspect.ListType) and isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _unknown(inner, kind.item_type, f"{path}[{position}]")
    elif isinstance(kind, inspect.StructType | inspect.DictType) and isinstance(value, dict):
        for name, inner in value.items():
            where = f"{path}.{name}" if path else name
            known = _field(kind, name)
            if known is not None:
                yield from _unknown(inner, known, where)
            elif where not in ("kind", "apiVersion"):
                yield where, value, name


def _field(kind: inspect.StructType | inspect.DictType, name: str) -> inspect.Type | None:
    if isinstance(kind, inspect.DictType):
        return kind.value_type
    return next((field.type for field in kind.fields if field.encode_name == name), None)


def check_replicas(resource: str, name: str, replicas: int) -> None:
    """Refuses a number of replicas that Kubernetes would refuse."""
    if not 0 <= replicas <= _INT32_MAX:
        message = f"Invalid value: {replicas}: must be between 0 and {_INT32_MAX}"
        raise invalid(resource, name, ("FieldValueInvalid", "spec.replicas", message))


def check_deployment(wanted: Object, old: Object | None) -> None:
    """Refuses a deployment whose values do not go together (422) or are not modelled (501)."""
    name, spec = wanted["metadata"]["name"], wanted["spec"]
    check_replicas("deployments", name, spec["replicas"])
    if spec["strategy"].get("type") != "RollingUpdate":
        raise not_modelled("another strategy than RollingUpdate")
    if old is not None and spec["selector"] != old["spec"]["selector"]:
        cause = ("FieldValueInvalid", "spec.selector", "field is immutable")
        raise invalid("deployments", name, cause)
    if "matchExpressions" in spec["selector"]:
        raise not_modelled("matchExpressions")
    wanted_labels = spec["selector"].get("matchLabels", {})
    labels = spec["template"].get("metadata", {}).get("labels", {})
    if not wanted_labels or not wanted_labels.items() <= labels.items():
        cause = (
            "FieldValueInvalid",
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        )
        raise invalid("deployments", name, cause)
    containers = spec["template"].get("spec", {}).get("containers", [])
    if not containers:
        cause = ("FieldValueRequired", "spec.template.spec.containers", "Required value")
        raise invalid("deployments", name, cause)
    for position, container in enumerate(containers):
        if not container.get("image"):
            field = f"spec.template.spec.containers[{position}].image"
            raise invalid("deployments", name, ("FieldValueRequired", field, "Required value"))


def check_event(wanted: Object) -> None:
    """Refuses an event (events.k8s.io) that does not say what its kind has to say."""
    name = wanted["metadata"]["name"]
    for needed in ("eventTime", "reportingController", "reportingInstance", "action", "reason"):
        if not wanted.get(needed):
            raise invalid("events", name, ("FieldValueRequired", needed, "Required value"))
    if wanted.get("type") not in ("Normal", "Warning"):
        raise invalid("events", name, ("FieldValueInvalid", "type", "has invalid value"))
    if len(wanted.get("note", "")) > _NOTE_CHARACTERS_MAX:
        raise invalid("events", name, ("FieldValueTooLong", "note", "can have at most 1024 bytes"))
    about = wanted.get("regarding", {}).get("namespace", "default")
    if about != wanted["metadata"]["namespace"]:
        message = "does not match regarding.namespace"
        raise invalid("events", name, ("FieldValueInvalid", "metadata.namespace", message))


def with_defaults(wanted: Object) -> Object:
    """Returns a deployment with the defaults that the controllers rely on filled in."""
    spec = wanted["spec"]
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    strategy.setdefault("type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    pod = spec["template"].setdefault("spec", {})
    pod.setdefault("restartPolicy", "Always")
    pod.setdefault("terminationGracePeriodSeconds", 30)
    pod.setdefault("dnsPolicy", "ClusterFirst")
    for container in pod.get("containers", []):
        container.setdefault("imagePullPolicy", "IfNotPresent")
    return wanted
