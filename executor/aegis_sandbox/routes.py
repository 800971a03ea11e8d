"""Paths and methods of the Kubernetes API: which resource, which verb, of which group."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aegis_sandbox.status import Refused, not_modelled

_PATH = re.compile(
    r"/(?P<group>api/v1|apis/[a-z0-9.]+/v[a-z0-9]+)"
    r"(?:/namespaces/(?P<namespace>[a-z0-9-]+))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[a-z0-9.-]+)(?:/(?P<sub>[a-z]+))?)?"
)
ACCESS_REVIEWS = "selfsubjectaccessreviews"
# Resource → where it is served, and its kind.
GROUPS = {
    "namespaces": ("api/v1", "Namespace"),
    "nodes": ("api/v1", "Node"),
    "pods": ("api/v1", "Pod"),
    "deployments": ("apis/apps/v1", "Deployment"),
    "replicasets": ("apis/apps/v1", "ReplicaSet"),
    "poddisruptionbudgets": ("apis/policy/v1", "PodDisruptionBudget"),
    "horizontalpodautoscalers": ("apis/autoscaling/v2", "HorizontalPodAutoscaler"),
    "events": ("apis/events.k8s.io/v1", "Event"),
    ACCESS_REVIEWS: ("apis/authorization.k8s.io/v1", "SelfSubjectAccessReview"),
}
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request leads; `resource` has the subresource, `namespace` is None cluster-wide."""

    group: str
    resource: str
    namespace: str | None
    name: str
    verb: str

    def check_modelled(self) -> None:
        """Refused 501 for a resource the sandbox does not have."""
        if GROUPS.get(self.resource.partition("/")[0], ("",))[0] != self.group:
            raise not_modelled(f"{self.group} {self.resource}")


def route(method: str, path: str, *, watching: bool) -> Route:
    """Reads method and path; Refused 404 or 405 for what is no request of this API."""
    match = _PATH.fullmatch(path)
    if match is None or (match["resource"] in ("namespaces", "nodes") and match["namespace"]):
        raise Refused(404, "the server could not find the requested resource")
    resource = match["resource"] + (f"/{match['sub']}" if match["sub"] else "")
    verb = _verb(method, named=bool(match["name"]), watching=watching)
    return Route(match["group"], resource, match["namespace"], match["name"] or "", verb)


def group_of(resource: str) -> str:
    """Returns the API group of a resource as access reviews and Roles name it."""
    place = GROUPS.get(resource, ("",))[0]
    return place.split("/")[1] if place.startswith("apis/") else ""


def _verb(method: str, *, named: bool, watching: bool) -> str:
    if method == "GET":
        if named:
            return "get"
        return "watch" if watching else "list"
    if method not in _VERBS:
        raise Refused(405, f"{method} is not supported")
    return _VERBS[method]
