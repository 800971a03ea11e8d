"""Pods on their way out: deletion and eviction, the latter held to the disruption budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aegis_sandbox import schema
from aegis_sandbox.asks import Answer, Ask, dry_run
from aegis_sandbox.objects import Objects
from aegis_sandbox.status import Object, Refused, conflict, missing, not_modelled, success
from aegis_sandbox.workloads import Workloads, is_available


class Evictions:
    """The two ways to end a pod."""

    def __init__(self, objects: Objects, workloads: Workloads) -> None:
        self._objects = objects
        self._workloads = workloads

    def delete_pod(self, ask: Ask) -> Answer:
        """DELETE of a pod; with a body all options come from there, the query is not read."""
        pod = self._find(ask)
        options = ask.body or {}
        if not isinstance(options, dict):
            raise Refused(400, "delete options are an object")
        _check_preconditions(pod, options)
        uid = pod["metadata"]["uid"]
        query = {} if ask.body else ask.query
        if dry_run(query, options):
            return Answer(200, pod, uid=uid)
        grace = query.get("gracePeriodSeconds", options.get("gracePeriodSeconds"))
        before = self._objects.revision
        ended = self._workloads.terminate(pod, None if grace is None else int(grace))
        return Answer(200, ended, changed=self._objects.revision != before, uid=uid)

    def evict(self, ask: Ask) -> Answer:
        """POST of a pod's eviction."""
        eviction = ask.body
        if not isinstance(eviction, dict) or eviction.get("kind", "Eviction") != "Eviction":
            raise Refused(400, "the body is no Eviction")
        headers = schema.check_fields(
            "pods/eviction", eviction, ask.query.get("fieldValidation", "")
        )
        if eviction.get("metadata", {}).get("name", ask.name) != ask.name:
            raise Refused(400, "name in URL does not match name in Eviction object")
        pod = self._find(ask)
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

    def _find(self, ask: Ask) -> Object:
        found = self._objects.get("pods", ask.namespace, ask.name)
        if found is None:
            raise missing("pods", ask.name)
        return found

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
            raise _many_budgets()
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


def _many_budgets() -> Refused:
    refused = Refused(
        500,
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does"
        " not support.",
    )
    del refused.body["reason"]  # The real one has none, unlike a server in trouble.
    return refused


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
