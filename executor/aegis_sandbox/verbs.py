"""The verbs of the modelled resources: what a request does once it is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aegis_sandbox import schema
from aegis_sandbox.asks import Answer, Ask, dry_run, patched
from aegis_sandbox.objects import Objects
from aegis_sandbox.policies import Policies
from aegis_sandbox.status import Object, Refused, invalid, missing, success

_CLUSTER_SCOPED = frozenset({"namespaces", "nodes"})
# What is created without a spec.
_NO_SPEC = frozenset({"events", "namespaces", "nodes"})


class Verbs:
    """Reads and writes of one sandbox."""

    def __init__(self, objects: Objects, policies: Policies) -> None:
        self._objects = objects
        self._policies = policies

    def find(self, resource: str, ask: Ask) -> Object:
        """Returns the object asked for; Refused 404."""
        found = self._objects.get(resource, ask.namespace, ask.name)
        if found is None:
            raise missing(resource, ask.name)
        return found

    def get(self, ask: Ask) -> Answer:
        """GET of an object."""
        return Answer(200, self.find(ask.resource, ask))

    def get_scale(self, ask: Ask) -> Answer:
        """GET of a deployment's scale."""
        return Answer(200, _scale_of(self.find("deployments", ask)))

    def create(self, ask: Ask) -> Answer:
        """POST of an object."""
        wanted = ask.body
        if not isinstance(wanted, dict) or not isinstance(wanted.get("metadata"), dict):
            raise Refused(400, "the object provided is unrecognized")
        if "/" in ask.resource or not isinstance(wanted["metadata"].get("name"), str):
            raise Refused(422, "name or generateName is required")
        headers = {}
        if ask.resource not in _CLUSTER_SCOPED:
            _check_namespace(ask, wanted)
            headers = schema.check_fields(
                ask.resource, wanted, ask.query.get("fieldValidation", "")
            )
        if ask.resource not in _NO_SPEC and not wanted.get("spec"):
            raise invalid(ask.resource, "", ("FieldValueRequired", "spec", "Required value"))
        check = _CREATION_CHECKS.get(ask.resource)
        if check is not None:
            check(wanted)
        if dry_run(ask.query):
            return Answer(201, wanted, headers)
        created = self._objects.create(ask.resource, wanted)
        return Answer(201, created, headers, changed=True, uid=created["metadata"]["uid"])

    def patch_deployment(self, ask: Ask) -> Answer:
        """PATCH of a deployment."""
        old = self.find("deployments", ask)
        wanted = patched(ask, old)
        headers = schema.check_fields("deployments", wanted, ask.query.get("fieldValidation", ""))
        if not wanted.get("spec"):
            raise invalid("deployments", ask.name, ("FieldValueRequired", "spec", "Required value"))
        schema.check_deployment(schema.with_defaults(wanted), old)
        wanted["status"] = old["status"]
        self._policies.admit(ask, old, wanted)
        return self._stored(ask, old, wanted, headers)

    def patch_scale(self, ask: Ask) -> Answer:
        """PATCH of a deployment's scale."""
        old = self.find("deployments", ask)
        wanted = patched(ask, _scale_of(old))
        headers = schema.check_fields(
            "deployments/scale", wanted, ask.query.get("fieldValidation", "")
        )
        replicas = wanted.get("spec", {}).get("replicas", 0)
        schema.check_replicas("scales", ask.name, replicas)
        self._policies.admit(ask, _scale_of(old), wanted)
        if dry_run(ask.query):
            return Answer(200, wanted, headers, uid=old["metadata"]["uid"])
        scaled = {**old, "spec": {**old["spec"], "replicas": replicas}}
        answer = self._stored(ask, old, scaled, headers)
        answer.body = _scale_of(answer.body)
        return answer

    def patch_node(self, ask: Ask) -> Answer:
        """PATCH of a node; its status is another subresource."""
        old = self.find("nodes", ask)
        wanted = patched(ask, old)
        headers = schema.check_fields("nodes", wanted, ask.query.get("fieldValidation", ""))
        wanted["status"] = old["status"]
        if not wanted.get("spec", {}).get("unschedulable", True):
            del wanted["spec"]["unschedulable"]  # false is not written
        self._policies.admit(ask, old, wanted)
        return self._stored(ask, old, wanted, headers)

    def delete(self, ask: Ask) -> Answer:
        """DELETE of an object that nothing holds back; what it owns goes with the next tick."""
        old = self.find(ask.resource, ask)
        self._objects.delete(ask.resource, ask.namespace, ask.name)
        return Answer(200, success(200), changed=True, uid=old["metadata"]["uid"])

    def _stored(self, ask: Ask, old: Object, wanted: Object, headers: dict[str, str]) -> Answer:
        uid = old["metadata"]["uid"]
        if dry_run(ask.query):
            return Answer(200, wanted, headers, uid=uid)
        stored = self._objects.update(ask.resource.partition("/")[0], wanted)
        changed = stored["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
        return Answer(200, stored, headers, changed=changed, uid=uid)


def _check_namespace(ask: Ask, wanted: Object) -> None:
    if wanted["metadata"].setdefault("namespace", ask.namespace) != ask.namespace:
        raise Refused(
            400, "the namespace of the provided object does not match the namespace on the URL"
        )


def _check_new_deployment(wanted: Object) -> None:
    schema.check_deployment(schema.with_defaults(wanted), None)


_CREATION_CHECKS: dict[str, Callable[[Any], None]] = {
    "deployments": _check_new_deployment,
    "events": schema.check_event,
}


def _scale_of(deployment: Object) -> Object:
    metadata = deployment["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = deployment["spec"]["selector"]["matchLabels"]
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept},
        "spec": {"replicas": deployment["spec"]["replicas"]},
        "status": {
            "replicas": deployment.get("status", {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }
