"""The three ways to patch: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge.

Of strategic merge only what is written down here is done; directives and lists whose merge rule
is not listed are refused, never guessed.
"""

from __future__ import annotations

import copy
from typing import Any

from aegis_sandbox.status import Object, Refused, not_modelled

JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

# Lists of maps that strategic merge joins by a key (x-kubernetes-patch-merge-key).
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
}
# Lists that are replaced as a whole.
_ATOMIC = frozenset({"command", "args", "tolerations", "envFrom", "matchExpressions"})


def apply(content_type: str, base: Object, patch: Any) -> Object:
    """Returns `base` with `patch` applied; neither is changed.

    Raises `Refused`: 415 for another content type, 422 for a patch that does not fit, 501 for
    what is not modelled.
    """
    base = copy.deepcopy(base)
    if content_type == JSON:
        if not isinstance(patch, list):
            raise Refused(400, "a JSON patch is a list of operations")
        result = _json_patch(base, patch)
    elif content_type in (MERGE, STRATEGIC):
        if not isinstance(patch, dict):
            raise Refused(400, "a merge patch is an object")
        result = _merge(base, patch) if content_type == MERGE else _strategic(base, patch)
    elif content_type.startswith("application/apply-patch"):
        raise not_modelled("server-side apply")
    else:
        raise Refused(
            415,
            "the body of the request was in an unknown format - accepted media types include: "
            f"{JSON}, {MERGE}, {STRATEGIC}",
        )
    if not isinstance(result, dict):
        raise _rejected()
    return result


def _merge(base: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


def _strategic(base: Object, patch: Object) -> Object:
    result = dict(base)
    for key, value in patch.items():
        if key.startswith("$"):
            raise not_modelled(f"the strategic merge directive {key}")
        old = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _strategic(old if isinstance(old, dict) else {}, value)
        elif isinstance(value, list):
            result[key] = _strategic_list(key, old if isinstance(old, list) else [], value)
        else:
            result[key] = value
    return result


def _strategic_list(field: str, old: list[Any], patch: list[Any]) -> list[Any]:
    if field in _ATOMIC:
        return copy.deepcopy(patch)
    merge_key = _MERGE_KEYS.get(field)
    if merge_key is None:
        raise not_modelled(f"strategic merge of the list {field}")
    result = list(old)
    for item in patch:
        if not isinstance(item, dict) or merge_key not in item:
            raise _rejected()
        places = [i for i, have in enumerate(result) if have.get(merge_key) == item[merge_key]]
        if places:
            result[places[0]] = _strategic(result[places[0]], item)
        else:
            result.append(_strategic({}, item))
    return result


def _json_patch(document: Any, operations: list[Any]) -> Any:
    for operation in operations:
        try:
            name, path = operation["op"], operation["path"]
            document = _operate(document, name, _pointer(path), operation)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise _rejected() from error
    return document


def _operate(document: Any, name: str, pointer: list[str], operation: Object) -> Any:
    if name not in ("add", "remove", "replace", "test"):
        raise not_modelled(f"the JSON patch operation {name}")
    if not pointer:
        raise not_modelled("a JSON patch of the whole document")
    parent = document
    for token in pointer[:-1]:
        parent = parent[int(token)] if isinstance(parent, list) else parent[token]
    last = pointer[-1]
    if isinstance(parent, list):
        _operate_on_list(parent, name, last, operation)
    elif name == "add":
        parent[last] = operation["value"]
    elif name == "test":
        if parent[last] != operation["value"]:
            raise ValueError("test failed")
    elif name == "replace":
        # A KeyError here is the rule: replace needs something to replace.
        _ = parent[last]
        parent[last] = operation["value"]
    else:
        del parent[last]
    return document


def _operate_on_list(parent: list[Any], name: str, last: str, operation: Object) -> None:
    if name == "add":
        place = len(parent) if last == "-" else int(last)
        if place > len(parent):
            raise IndexError(place)
        parent.insert(place, operation["value"])
    elif name == "test":
        if parent[int(last)] != operation["value"]:
            raise ValueError("test failed")
    elif name == "replace":
        parent[int(last)] = operation["value"]
    else:
        del parent[int(last)]


def _pointer(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise ValueError(path)
    return [token.replace("~1", "/").replace("~0", "~") for token in path.split("/")[1:]]


def _rejected() -> Refused:
    # The real server is just as empty-handed here: no field, no cause.
    return Refused(422, "the server rejected our request due to an error in our request")
