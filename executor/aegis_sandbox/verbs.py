"""The verbs of the modelled resources: what a request does once it is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis_sandbox import patches, schema
from aegis_sandbox.objects import Objects
from aegis_sandbox.status import Object, Refused, conflict, invalid, missing, not_modelled, success
from aegis_sandbox.workloads import Workloads, is_available

_NAME_BYTES_MAX = 128


@dataclass(frozen=True, slots=True)
class Ask:
    """An authorised request; `name` and `namespace` are empty where the path has none."""

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


class Verbs:
    """Reads and writes of one sandbox."""

    def __init__(self, objects: Objects, workloads: Workloads) -> None:
        self._objects = objects
        self._workloads = workloads

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
        """POST of a namespace, deployment or disruption budget."""
        wanted = ask.body
        if not isinstance(wanted, dict) or not isinstance(wanted.get("metadata"), dict):
            raise Refused(400, "the object provided is unrecognized")
        if "/" in ask.resource or not isinstance(wanted["metadata"].get("name"), str):
            raise Refused(422, "name or generateName is required")
        headers = {}
        if ask.resource != "namespaces":
            wanted["metadata"]["namespace"] = ask.namespace
            headers = schema.check_fields(
                ask.resource, wanted, ask.query.get("fieldValidation", "")
            )
        if ask.resource != "namespaces" and not wanted.get("spec"):
            raise invalid(ask.resource, "", ("FieldValueRequired", "spec", "Required value"))
        if ask.resource == "deployments":
            schema.check_deployment(schema.with_defaults(wanted), None)
        if dry_run(ask.query):
            return Answer(201, wanted, headers)
        created = self._objects.create(ask.resource, wanted)
        return Answer(201, created, headers, changed=True, uid=created["metadata"]["uid"])

    def patch_deployment(self, ask: Ask) -> Answer:
        """PATCH of a deployment."""
        old = self.find("deployments", ask)
        wanted = self._patched(ask, old)
        headers = schema.check_fields("deployments", wanted, ask.query.get("fieldValidation", ""))
        if not wanted.get("spec"):
            raise invalid("deployments", ask.name, ("FieldValueRequired", "spec", "Required value"))
        schema.check_deployment(schema.with_defaults(wanted), old)
        for kept in ("creationTimestamp", "generation"):
            wanted["metadata"][kept] = old["metadata"][kept]
        wanted["status"] = old["status"]
        if dry_run(ask.query):
            return Answer(200, wanted, headers, uid=old["metadata"]["uid"])
        return self._stored(old, wanted, headers)

    def patch_scale(self, ask: Ask) -> Answer:
        """PATCH of a deployment's scale."""
        old = self.find("deployments", ask)
        wanted = self._patched(ask, _scale_of(old))
        headers = schema.check_fields(
            "deployments/scale", wanted, ask.query.get("fieldValidation", "")
        )
        replicas = wanted.get("spec", {}).get("replicas", 0)
        schema.check_replicas("scales", ask.name, replicas)
        if dry_run(ask.query):
            return Answer(200, wanted, headers, uid=old["metadata"]["uid"])
        scaled = {**old, "spec": {**old["spec"], "replicas": replicas}}
        answer = self._stored(old, scaled, headers)
        answer.body = _scale_of(answer.body)
        return answer

    def delete_pod(self, ask: Ask) -> Answer:
        """DELETE of a pod."""
        pod = self.find("pods", ask)
        options = ask.body or {}
        if not isinstance(options, dict):
            raise Refused(400, "delete options are an object")
        _check_preconditions(pod, options)
        uid = pod["metadata"]["uid"]
        if dry_run(ask.query, options):
            return Answer(200, pod, uid=uid)
        grace = ask.query.get("gracePeriodSeconds", options.get("gracePeriodSeconds"))
        before = self._objects.revision
        ended = self._workloads.terminate(pod, None if grace is None else int(grace))
        return Answer(200, ended, changed=self._objects.revision != before, uid=uid)

    def delete_deployment(self, ask: Ask) -> Answer:
        """DELETE of a deployment; what it owns goes with the next tick."""
        old = self.find("deployments", ask)
        self._objects.delete("deployments", ask.namespace, ask.name)
        return Answer(200, success(200), changed=True, uid=old["metadata"]["uid"])

    def evict(self, ask: Ask) -> Answer:
        """POST of a pod's eviction, held to the disruption budgets."""
        eviction = ask.body
        if not isinstance(eviction, dict) or eviction.get("kind", "Eviction") != "Eviction":
            raise Refused(400, "the body is no Eviction")
        headers = schema.check_fields(
            "pods/eviction", eviction, ask.query.get("fieldValidation", "")
        )
        if eviction.get("metadata", {}).get("name", ask.name) != ask.name:
            raise Refused(400, "name in URL does not match name in Eviction object")
        pod = self.find("pods", ask)
        options = eviction.get("deleteOptions") or {}
        _check_preconditions(pod, options)
        dry = dry_run(ask.query, options)
        self._spend_disruption(pod, dry=dry)
        uid = pod["metadata"]["uid"]
        if dry:
            return Answer(201, success(201), headers, uid=uid)
        before = self._objects.revision
        self._workloads.terminate(pod, options.get("gracePeriodSeconds"))
        return Answer(201, success(201), headers, changed=self._objects.revision != before, uid=uid)

    def _spend_disruption(self, pod: Object, *, dry: bool) -> None:
        going = "deletionTimestamp" in pod["metadata"] or pod["status"].get("phase") == "Pending"
        labels = pod["metadata"]["labels"]
        budgets = [
            budget
            for budget in self._objects.list("poddisruptionbudgets", pod["metadata"]["namespace"])
            if budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ]
        if going or not budgets:
            return
        if len(budgets) > 1:
            raise Refused(
                500,
                "this pod has more than one PodDisruptionBudget, which the eviction"
                " subresource does not support",
            )
        budget = budgets[0]
        always = budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
        status = budget.get("status", {})
        if not is_available(pod):
            enough = status.get("currentHealthy", 0) >= status.get("desiredHealthy", 1)
            if always or enough:
                return
        if status.get("disruptionsAllowed", 0) < 1:
            name = budget["metadata"]["name"]
            raise Refused(
                429,
                "Cannot evict pod as it would violate the pod's disruption budget.",
                causes=[("DisruptionBudget", "", f"The disruption budget {name} needs its pods")],
            )
        if not dry:
            budget["status"]["disruptionsAllowed"] -= 1
            self._objects.update("poddisruptionbudgets", budget)

    def _patched(self, ask: Ask, old: Object) -> Object:
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
        if (
            metadata.setdefault("resourceVersion", kept["resourceVersion"])
            != kept["resourceVersion"]
        ):
            message = (
                "the object has been modified; please apply your changes to the latest version"
            )
            raise conflict(ask.resource, ask.name, message)
        metadata["namespace"] = kept["namespace"]
        return wanted

    def _stored(self, old: Object, wanted: Object, headers: dict[str, str]) -> Answer:
        stored = self._objects.update("deployments", wanted)
        changed = stored["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
        return Answer(200, stored, headers, changed=changed, uid=old["metadata"]["uid"])


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


def _check_preconditions(pod: Object, options: Mapping[str, Any]) -> None:
    preconditions = options.get("preconditions") or {}
    if not preconditions.keys() <= {"uid", "resourceVersion"}:
        raise not_modelled("these preconditions")
    for key, wanted in preconditions.items():
        have = pod["metadata"][key]
        if wanted != have:
            message = (
                f"Precondition failed: {key} in precondition: {wanted}, in object meta: {have}"
            )
            raise conflict("pods", pod["metadata"]["name"], message)
