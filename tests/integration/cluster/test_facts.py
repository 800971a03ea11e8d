"""What Kubernetes answers, row by row: the same assertions for the sandbox and a real cluster."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from tests.targets import JSON, MERGE, STRATEGIC, Target, condition


async def test_every_answer_has_an_audit_id(target: Target):
    """The key to the API server's own record."""
    assert (await target.client.get(target.web)).headers["Audit-Id"]
    assert (await target.client.get(f"{target.web}-none")).headers["Audit-Id"]


async def test_version_is_told(target: Target):
    """Who asks learns what it talks to."""
    assert int((await target.get("/version"))["major"]) >= 1


# Scale


@pytest.mark.parametrize("query", [{}, {"dryRun": "All"}], ids=["real", "dry"])
async def test_scale_with_a_stale_version_conflicts(target: Target, query: dict[str, str]):
    """409, also when it is only tried."""
    patch = {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 2}}
    response = await target.patch(f"{target.web}/scale", patch, **query)
    assert (response.status_code, response.json()["reason"]) == (409, "Conflict")


async def test_scale_has_the_deployments_version(target: Target):
    """So any status update of a controller invalidates it."""
    await target.still()
    scale = await target.get(f"{target.web}/scale")
    found = await target.get(target.web)
    assert scale["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
    assert scale["metadata"]["uid"] == found["metadata"]["uid"]


async def test_scale_sets_the_replicas(target: Target):
    """The answer is a Scale, and the pods follow."""
    response = await target.patch(f"{target.web}/scale", {"spec": {"replicas": 2}})
    assert (response.json()["kind"], response.json()["spec"]["replicas"]) == ("Scale", 2)
    assert (await target.settled())["status"]["replicas"] == 2


@pytest.mark.parametrize("replicas", [-1, "two", 2147483648])
async def test_impossible_number_of_replicas_is_invalid(target: Target, replicas: Any):
    """422, and nothing changes."""
    response = await target.patch(f"{target.web}/scale", {"spec": {"replicas": replicas}})
    assert response.status_code == 422
    assert (await target.get(target.web))["spec"]["replicas"] == 3


async def test_scale_of_nothing_is_not_found(target: Target):
    """404 with a Status that names it."""
    response = await target.patch(f"{target.web}-none/scale", {"spec": {"replicas": 2}})
    assert (response.status_code, response.json()["details"]["name"]) == (404, "web-none")


# Patches of a deployment


async def test_patch_of_another_uid_conflicts(target: Target):
    """A patch can pin the very object."""
    response = await target.patch(target.web, {"metadata": {"uid": str(uuid.uuid4())}})
    assert response.status_code == 409
    assert "UID in precondition" in response.json()["message"]


async def test_plain_json_is_no_patch(target: Target):
    """415 for application/json."""
    response = await target.patch(target.web, {}, "application/json")
    assert (response.status_code, response.json()["reason"]) == (415, "UnsupportedMediaType")


async def test_failed_json_test_is_invalid(target: Target):
    """An empty-handed 422: which is why the executor does not use `test`."""
    patch = [{"op": "test", "path": "/metadata/name", "value": "other"}]
    response = await target.patch(target.web, patch, JSON)
    assert (response.status_code, response.json()["reason"]) == (422, "Invalid")


async def test_replaced_stale_version_conflicts(target: Target):
    """A proper 409: which is why the executor uses this."""
    patch = [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}]
    response = await target.patch(target.web, patch, JSON)
    assert (response.status_code, response.json()["reason"]) == (409, "Conflict")


async def test_unknown_field_is_dropped_with_a_warning(target: Target):
    """By default 200, and nothing happens."""
    before = await target.still()
    response = await target.patch(target.web, {"spec": {"replicaz": 5}})
    assert response.status_code == 200
    assert "unknown field" in response.headers["Warning"]
    after = await target.get(target.web)
    assert "replicaz" not in after["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_unknown_field_is_refused_when_strict(target: Target):
    """422 with fieldValidation=Strict; its message quotes the object, so it must not be kept."""
    patch = {"spec": {"replicaz": 5}}
    response = await target.patch(target.web, patch, fieldValidation="Strict")
    assert response.status_code == 422
    assert "registry.k8s.io" in response.json()["message"]


async def test_dry_run_stores_nothing(target: Target):
    """200 with the result; the version has not moved."""
    before = await target.still()
    patch = {"metadata": {"annotations": {"a": "b"}}}
    response = await target.patch(target.web, patch, dryRun="All")
    assert response.json()["metadata"]["annotations"]["a"] == "b"
    after = await target.get(target.web)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_dry_run_true_is_invalid(target: Target):
    """The word is All."""
    assert (await target.patch(target.web, {}, dryRun="true")).status_code == 422


async def test_same_value_again_is_no_change(target: Target):
    """An action id as the value makes a retry idempotent."""
    target.needs_controllers()
    patch = {"spec": {"template": {"metadata": {"annotations": {"restarted": "a-1"}}}}}
    await target.patch(target.web, patch, STRATEGIC)
    await target.settled()
    before = await target.until(
        target.web, lambda found: found["status"].get("terminatingReplicas", 0) == 0
    )
    assert (await target.patch(target.web, patch, STRATEGIC)).status_code == 200
    after = await target.get(target.web)
    for key in ("generation", "resourceVersion"):
        assert after["metadata"][key] == before["metadata"][key]


@pytest.mark.parametrize(("kind", "containers"), [(STRATEGIC, 2), (MERGE, 1)])
async def test_sidecar_survives_only_a_strategic_merge(target: Target, kind: str, containers: int):
    """A merge patch replaces the list."""
    image = "registry.k8s.io/pause:3.8"
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}}
    response = await target.patch(target.web, patch, kind, dryRun="All")
    found = response.json()["spec"]["template"]["spec"]["containers"]
    assert (len(found), found[0]["image"]) == (containers, image)


async def test_readiness_alone_says_done_too_early(target: Target):
    """Straight after a patch the old numbers stand and the generation is not observed."""
    await target.settled()
    patch = {"spec": {"template": {"metadata": {"annotations": {"restarted": "now"}}}}}
    told = (await target.patch(target.web, patch, STRATEGIC)).json()
    assert told["status"]["readyReplicas"] == told["spec"]["replicas"]
    assert told["status"]["observedGeneration"] < told["metadata"]["generation"]


async def test_selector_is_immutable(target: Target):
    """422: it would orphan every pod."""
    patch = {"spec": {"selector": {"matchLabels": {"app": "other"}}}}
    assert (await target.patch(target.web, patch)).status_code == 422


# Rollouts


async def test_rollback_renumbers_the_old_replica_set(target: Target):
    """1, 2, back: the first ReplicaSet is now 3, remembers 1, and kept its name and hash."""
    await target.settled()
    first = await _replica_sets(target)
    old = (await target.get(target.web))["spec"]["template"]
    image = {"name": "web", "image": "registry.k8s.io/pause:3.8"}
    await target.patch(
        target.web, {"spec": {"template": {"spec": {"containers": [image]}}}}, STRATEGIC
    )
    await target.settled()
    back = [{"op": "replace", "path": "/spec/template", "value": old}]
    await target.patch(target.web, back, JSON)
    await target.settled()
    after = await _replica_sets(target)
    (name,) = first
    assert after.keys() > first.keys()
    annotations = after[name]["metadata"]["annotations"]
    assert annotations["deployment.kubernetes.io/revision"] == "3"
    assert annotations["deployment.kubernetes.io/revision-history"] == "1"
    labels = after[name]["metadata"]["labels"]
    assert labels["pod-template-hash"] == first[name]["metadata"]["labels"]["pod-template-hash"]
    assert "pod-template-hash" not in old["metadata"]["labels"]


async def test_rollout_that_cannot_finish_is_told(target: Target):
    """Progressing=False with its reason, and Available stays True."""
    target.needs_controllers()
    image = {"name": "web", "image": "registry.example/does-not-exist:1"}
    spec = {"progressDeadlineSeconds": 1, "template": {"spec": {"containers": [image]}}}
    await target.patch(target.web, {"spec": spec}, STRATEGIC)
    stuck = await target.until(
        target.web, lambda found: condition(found, "Progressing")["status"] == "False"
    )
    assert condition(stuck, "Progressing")["reason"] == "ProgressDeadlineExceeded"
    assert condition(stuck, "Available")["status"] == "True"


async def test_paused_deployment_takes_the_patch_and_rolls_nothing(target: Target):
    """The generation is observed, the pods are the old ones: refuse beforehand."""
    target.needs_controllers()
    await target.patch(target.web, {"spec": {"paused": True}})
    pod = await target.pod()
    patch = {"spec": {"template": {"metadata": {"annotations": {"restarted": "now"}}}}}
    told = (await target.patch(target.web, patch, STRATEGIC)).json()
    generation = told["metadata"]["generation"]
    after = await target.until(
        target.web, lambda found: found["status"]["observedGeneration"] >= generation
    )
    assert condition(after, "Progressing")["reason"] == "DeploymentPaused"
    assert len(await _replica_sets(target)) == 1
    assert (await target.client.get(f"{target.pods}/{pod['metadata']['name']}")).status_code == 200


# Pods


async def test_evicted_pod_is_replaced(target: Target):
    """201 with a Status; another pod takes its place."""
    pod = await target.pod()
    response = await target.evict(pod)
    assert (response.status_code, response.json()["kind"]) == (201, "Status")
    path = f"{target.pods}?labelSelector=app=web"
    uid = pod["metadata"]["uid"]
    await target.until(
        path, lambda found: uid not in {p["metadata"]["uid"] for p in found["items"]}
    )
    await target.settled()


async def test_eviction_of_another_uid_conflicts(target: Target):
    """The replacement of a pod is another pod, even under the same name."""
    response = await target.evict(await target.pod(), uid=str(uuid.uuid4()))
    assert (response.status_code, response.json()["reason"]) == (409, "Conflict")


async def test_eviction_of_nothing_is_not_found(target: Target):
    """404."""
    gone = {"metadata": {"name": "web-gone", "uid": str(uuid.uuid4())}}
    assert (await target.evict(gone)).status_code == 404


async def test_eviction_can_be_tried(target: Target):
    """Dry run is in the delete options."""
    pod = await target.pod()
    assert (await target.evict(pod, dryRun=["All"])).status_code == 201
    after = await target.get(f"{target.pods}/{pod['metadata']['name']}")
    assert "deletionTimestamp" not in after["metadata"]


async def test_eviction_against_the_budget_is_refused(target: Target):
    """429 with its cause, and no Retry-After."""
    await target.budget("web", 3)
    response = await target.evict(await target.pod())
    assert (response.status_code, response.json()["reason"]) == (429, "TooManyRequests")
    assert response.json()["details"]["causes"][0]["reason"] == "DisruptionBudget"
    assert "Retry-After" not in response.headers


async def test_overlapping_budgets_are_an_error_without_a_reason(target: Target):
    """500, and yet a clear no: a server in trouble would give a reason."""
    for name in ("web", "other"):
        await target.budget(name, 1)
    response = await target.evict(await target.pod())
    assert response.status_code == 500
    assert not response.json().get("reason")
    assert response.json()["message"].startswith("This pod has more than one PodDisruptionBudget")


@pytest.mark.parametrize("key", ["uid", "resourceVersion"])
async def test_delete_with_a_wrong_precondition_conflicts(target: Target, key: str):
    """409, and the pod stays."""
    name = (await target.pod())["metadata"]["name"]
    options = {"preconditions": {key: "1" if key == "resourceVersion" else str(uuid.uuid4())}}
    response = await target.client.request("DELETE", f"{target.pods}/{name}", json=options)
    assert response.status_code == 409


async def test_deleted_pod_is_shown_on_its_way_out(target: Target):
    """200 with the pod and its deletionTimestamp; 404 once it is gone."""
    name = (await target.pod())["metadata"]["name"]
    response = await target.client.delete(f"{target.pods}/{name}")
    assert response.status_code == 200
    assert response.json()["metadata"]["deletionTimestamp"]
    async with asyncio.timeout(60):
        while (await target.client.get(f"{target.pods}/{name}")).status_code != 404:
            await asyncio.sleep(0.02)
    assert (await target.client.delete(f"{target.pods}/{name}")).status_code == 404


# Watches


async def test_watch_tells_changes_from_a_version_on(target: Target):
    """MODIFIED, with the object as it then was."""
    version = (await target.still())["metadata"]["resourceVersion"]
    await target.patch(target.web, {"metadata": {"annotations": {"a": "b"}}})
    event = await _first_event(target, version)
    assert event["type"] == "MODIFIED"
    assert event["object"]["metadata"]["annotations"]["a"] == "b"


async def test_watch_from_too_long_ago_is_expired(target: Target):
    """HTTP 200, and then an ERROR event with 410."""
    event = await _first_event(target, "1")
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


async def test_list_from_the_future_times_out(target: Target):
    """504 with Retry-After, after a wait."""
    path = target.web.rpartition("/")[0]
    response = await target.client.get(path, params={"resourceVersion": "999999999999"})
    assert (response.status_code, response.json()["reason"]) == (504, "Timeout")
    assert response.headers["Retry-After"] == "1"


async def test_list_comes_in_pages_of_one_moment(target: Target):
    """What is made meanwhile is not on a later page."""
    path = target.web.rpartition("/")[0]
    spec = {**(await target.get(target.web))["spec"], "replicas": 0}
    names = ["a", "b"]
    for name in names:
        new = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}}
        await target.make(path, {**new, "spec": spec})
    first = await target.get(f"{path}?limit=2")
    assert [item["metadata"]["name"] for item in first["items"]] == names
    new = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "z"}}
    await target.make(path, {**new, "spec": spec})
    rest = await target.get(f"{path}?limit=2&continue={first['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in rest["items"]] == ["web"]
    assert not rest["metadata"].get("continue")
    for name in (*names, "z"):
        await target.client.delete(f"{path}/{name}")


# Nodes


async def test_cordon_is_one_field_and_false_is_not_written(target: Target):
    """As `kubectl cordon` and `uncordon` do it."""
    async with target.node() as (node, _):
        path = f"/api/v1/nodes/{node['metadata']['name']}"
        response = await target.patch(path, {"spec": {"unschedulable": True}})
        assert response.json()["spec"]["unschedulable"] is True
        response = await target.patch(path, {"spec": {"unschedulable": False}})
        assert "unschedulable" not in response.json()["spec"]


# Events


@pytest.mark.parametrize("missing", ["eventTime", "reportingController", "action", "reason"])
async def test_event_has_to_say_who_did_what(target: Target, missing: str):
    """422 with the field that is missing."""
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": target.namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Normal",
        "reason": "AegisScaled",
        "action": "AegisScaled",
        "regarding": {"kind": "Deployment", "namespace": target.namespace, "name": "web"},
        "reportingController": "aegis.dev/executor",
        "reportingInstance": "aegis-executor",
    }
    del event[missing]
    path = f"/apis/events.k8s.io/v1/namespaces/{target.namespace}/events"
    response = await target.client.post(path, json=event)
    assert response.status_code == 422


# Who may


async def test_everybody_may_ask_what_they_may_do(target: Target):
    """An access review answers for the token that asks."""
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    asked = {"namespace": target.namespace, "group": "apps", "resource": "deployments"}
    answers = []
    for attributes in (
        {**asked, "verb": "patch"},
        {**asked, "verb": "patch", "subresource": "scale"},
        {**asked, "verb": "delete"},
        {**asked, "verb": "get", "group": "", "resource": "secrets"},
        {**asked, "verb": "patch", "namespace": "kube-system"},
    ):
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        response = await target.executor.post(path, json=review)
        assert response.status_code == 201
        answers.append(response.json()["status"]["allowed"])
    assert answers == [True, True, False, False, False]


@pytest.mark.parametrize("token", ["", "Bearer wrong"])
async def test_stranger_is_unauthorized(target: Target, token: str):
    """401 with no token or a wrong one."""
    headers = {"Authorization": token} if token else {}
    request = target.client.build_request("GET", target.web, headers=headers)
    response = await target.client.send(request, auth=None)
    assert (response.status_code, response.json()["reason"]) == (401, "Unauthorized")


async def test_ungranted_and_unknown_namespaces_look_the_same(target: Target):
    """403, never 404: nothing leaks."""
    for namespace in ("default", "kube-system", "there-is-no-such"):
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
        response = await target.executor.get(path)
        assert (response.status_code, response.json()["reason"]) == (403, "Forbidden")


async def _replica_sets(target: Target) -> dict[str, dict[str, Any]]:
    path = f"/apis/apps/v1/namespaces/{target.namespace}/replicasets?labelSelector=app=web"
    return {found["metadata"]["name"]: found for found in (await target.get(path))["items"]}


async def _first_event(target: Target, version: str) -> dict[str, Any]:
    query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "10"}
    path = target.web.rpartition("/")[0]
    async with target.client.stream("GET", path, params=query) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            return json.loads(line)
    raise AssertionError("the watch ended without an event")
