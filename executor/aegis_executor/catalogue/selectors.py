"""Label selectors, read as Kubernetes reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aegis_executor.catalogue.base import Object
from aegis_executor.catalogue.objects import labels_of


def selects(selector: Mapping[str, Any] | None, live: Object) -> bool:
    """True when the selector takes the object: an empty one takes all, none at all takes none.

    An operator this program does not know takes the object too: a budget must not be overlooked.
    """
    if selector is None:
        return False
    labels = labels_of(live)
    exact: Mapping[str, str] = selector.get("matchLabels") or {}
    if any(labels.get(name) != value for name, value in exact.items()):
        return False
    return all(_holds(rule, labels) for rule in selector.get("matchExpressions") or [])


def _holds(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    name, values = rule["key"], rule.get("values") or []
    match rule["operator"]:
        case "In":
            return labels.get(name) in values
        case "NotIn":
            return labels.get(name) not in values
        case "Exists":
            return name in labels
        case "DoesNotExist":
            return name not in labels
        case _:
            return True
