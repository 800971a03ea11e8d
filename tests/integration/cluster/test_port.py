"""The executor's port against a cluster: every read, every write, every way to be told no."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from lightkube import KubeConfig
from tests.targets import Place as Cluster
from tests.targets import Target

from aegis_executor.catalogue.base import ACTION_ID, Change, Kind, Place
from aegis_executor.kubernetes import (
    ClusterRefused,
    ClusterSilent,
    ClusterUnreachable,
    ForbiddenRequest,
    Kubernetes,
    Reach,
    client,
    configuration,
)

EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events"
MARK = {"op": "add", "path": "/metadata/annotations/" + ACTION_ID.replace("/", "~1"), "value": "a"}


def change(kind: Kind, verb: Any, live: Any, body: Any, **other: str) -> Change:
    metadata = live["metadata"]
    uid = other.get("uid", metadata["uid"])
    version = other.get("version") or metadata["resourceVersion"]
    place = Place(kind, metadata.get("namespace", ""), metadata["name"], uid)
    return Change(verb, place, version, metadata.get("generation", 0), body)


def scaled(web: Any, replicas: int, **other: str) -> Change:
    return change(Kind.DEPLOYMENT, "scale", web, {"spec": {"replicas": replicas}}, **other)


def marked(web: Any, **other: str) -> Change:
    has = web["metadata"].get("annotations") is not None
    mark = MARK if has else {**MARK, "path": "/metadata/annotations", "value": {ACTION_ID: "a"}}
    return change(Kind.DEPLOYMENT, "patch", web, [mark], **other)


def merged(web: Any, **other: str) -> Change:
    body = {"metadata": {"annotations": {ACTION_ID: "a"}}}
    return change(Kind.DEPLOYMENT, "patch", web, body, **other)


def evicted(pod: Any, **other: str) -> Change:
    return change(Kind.POD, "evict", pod, None, **other)


def deleted(pod: Any, **other: str) -> Change:
    return change(Kind.POD, "delete", pod, None, **other)


def cordoned(node: Any, value: bool = True, **other: str) -> Change:
    operation = {"op": "add", "path": "/spec/unschedulable", "value": value}
    return change(Kind.NODE, "patch", node, [operation], **other)


async def refusal(deed: Any) -> ClusterRefused:
    with pytest.raises(ClusterRefused) as caught:
        await deed
    return caught.value


# Reads


async def test_reads_find_what_is_there(target: Target):
    """One by one and in lists, by label where there are many."""
    pod = await target.pod()
    namespace, name = target.namespace, pod["metadata"]["name"]
    async with target.port() as port:
        assert (await port.deployment(namespace, "web"))["metadata"]["name"] == "web"
        assert (await port.pod(namespace, name))["metadata"]["uid"] == pod["metadata"]["uid"]
        assert len(await port.pods(namespace, {"app": "web"})) >= 3
        assert await port.pods(namespace, {"app": "other"}) == []
        assert [d["metadata"]["name"] for d in await port.deployments(namespace)] == ["web"]
        assert len(await port.replica_sets(namespace, {"app": "web"})) == 1


async def test_what_is_not_there_is_none(target: Target):
    """Gone is an answer, not an error."""
    async with target.port() as port:
        assert await port.deployment(target.namespace, "none") is None
        assert await port.pod(target.namespace, "none") is None
        assert await port.budgets(target.namespace) == []
        assert await port.autoscalers(target.namespace) == []


async def test_budgets_tell_how_many_may_go(target: Target):
    """As the controller counts them."""
    await target.settled()
    await target.budget("web", 2)
    async with target.port() as port:
        (budget,) = await port.budgets(target.namespace)
    assert budget["status"]["disruptionsAllowed"] == 1


async def test_autoscalers_tell_whom_they_scale(target: Target):
    """Who else has a say in the number of replicas."""
    path = f"/apis/autoscaling/v2/namespaces/{target.namespace}/horizontalpodautoscalers"
    scales = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    wanted = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": scales, "minReplicas": 2, "maxReplicas": 5},
    }
    await target.make(path, wanted)
    async with target.port() as port:
        (found,) = await port.autoscalers(target.namespace)
    assert found["spec"]["scaleTargetRef"] == scales


async def test_long_lists_are_read_page_by_page(target: Target, monkeypatch: pytest.MonkeyPatch):
    """Nobody is left out."""
    monkeypatch.setattr(client, "_PAGE", 1)
    await target.pod()
    async with target.port() as port:
        names = [p["metadata"]["name"] for p in await port.pods(target.namespace, {"app": "web"})]
    assert len(set(names)) == len(names) >= 3


async def test_list_without_end_is_not_taken_for_a_whole_one(
    target: Target, monkeypatch: pytest.MonkeyPatch
):
    """Half of the pods would be read as "the others are gone"."""
    monkeypatch.setattr(client, "_PAGE", 1)
    monkeypatch.setattr(client, "_PAGES_MAX", 2)
    await target.pod()
    async with target.port() as port:
        with pytest.raises(ClusterSilent):
            await port.pods(target.namespace, {"app": "web"})


async def test_list_that_expired_is_begun_anew(target: Target):
    """410: the API server forgot the moment the list was from."""
    await target.fault("instead", code=410, verb="list", resource="pods")
    async with target.port() as port:
        assert await port.pods(target.namespace, {"app": "web"})


# Dry runs


async def test_dry_run_of_a_scale_shows_the_scale(target: Target):
    """The number as it would be; nothing is stored."""
    web = await target.still()
    async with target.port() as port:
        would, warnings = await port.dry_run(scaled(web, 4))
    assert (would["kind"], would["spec"]["replicas"], warnings) == ("Scale", 4, [])
    assert (await target.get(target.web))["spec"]["replicas"] == 3


@pytest.mark.parametrize("made", [marked, merged])
async def test_dry_run_of_a_patch_shows_the_object(target: Target, made: Any):
    """With what the API server fills in; nothing is stored."""
    web = await target.still()
    async with target.port() as port:
        would, _ = await port.dry_run(made(web))
    assert would["metadata"]["annotations"][ACTION_ID] == "a"
    after = await target.get(target.web)
    assert after["metadata"]["resourceVersion"] == web["metadata"]["resourceVersion"]


@pytest.mark.parametrize("made", [evicted, deleted])
async def test_dry_run_of_a_pods_end_shows_nothing_and_ends_nothing(target: Target, made: Any):
    """None, and the pod stays."""
    pod = await target.pod()
    async with target.port(delete_pods=True) as port:
        assert await port.dry_run(made(pod)) == (None, [])
        after = await port.pod(target.namespace, pod["metadata"]["name"])
    assert "deletionTimestamp" not in after["metadata"]


# Writes


async def test_scale_is_applied_and_its_record_named(target: Target):
    """The Audit-Id is the key to the API server's own record."""
    web = await target.still()
    async with target.port() as port:
        assert await port.apply(scaled(web, 2))
    assert (await target.get(target.web))["spec"]["replicas"] == 2


@pytest.mark.parametrize("made", [marked, merged])
async def test_patch_is_applied_under_our_name(target: Target, made: Any):
    """Both kinds of patch keep what they do not name."""
    web = await target.still()
    async with target.port() as port:
        assert await port.apply(made(web))
    after = await target.get(target.web)
    assert after["metadata"]["annotations"][ACTION_ID] == "a"
    assert after["spec"] == web["spec"]


@pytest.mark.parametrize("made", [evicted, deleted])
async def test_pod_is_ended(target: Target, made: Any):
    """It goes, and another comes."""
    pod = await target.pod()
    async with target.port(delete_pods=True) as port:
        assert await port.apply(made(pod))
        after = await port.pod(target.namespace, pod["metadata"]["name"])
    assert after is None or "deletionTimestamp" in after["metadata"]
    await target.settled()


async def test_pod_that_moved_on_since_it_was_read_is_not_deleted(target: Target):
    """It was to go past the budgets because it was not ready: by now it may be."""
    pod = await target.pod()
    async with target.port(delete_pods=True) as port:
        refused = await refusal(port.apply(deleted(pod, version="1")))
    assert refused.code == 409
    assert "deletionTimestamp" not in (await target.pod())["metadata"]


async def test_node_is_cordoned_and_uncordoned(target: Target):
    """Nothing else of it changes."""
    async with target.node() as (node, nodes), target.port(nodes=nodes) as port:
        name = node["metadata"]["name"]
        would, _ = await port.dry_run(cordoned(await port.node(name)))
        assert would["spec"]["unschedulable"] is True
        assert "unschedulable" not in (await port.node(name))["spec"]
        assert await port.apply(cordoned(await port.node(name)))
        assert (await port.node(name))["spec"]["unschedulable"] is True
        await port.apply(cordoned(await port.node(name), value=False))
        assert "unschedulable" not in (await port.node(name))["spec"]


async def test_new_pods_stay_off_a_cordoned_node(target: Target):
    """The scheduler's part; a pod that runs there stays."""
    target.needs_sandbox()
    async with target.node() as (node, nodes), target.port(nodes=nodes) as port:
        name = node["metadata"]["name"]
        await port.apply(cordoned(await port.node(name)))
        before = {p["metadata"]["uid"] for p in (await target.get(target.pods))["items"]}
        await target.patch(f"{target.web}/scale", {"spec": {"replicas": 6}})
        await target.settled()
        new = [
            p["spec"]["nodeName"]
            for p in (await target.get(target.pods))["items"]
            if p["metadata"]["uid"] not in before
        ]
    assert new
    assert name not in new


# Conflicts


@pytest.mark.parametrize("made", [lambda web, **o: scaled(web, 2, **o), marked, merged])
@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("other", [{"version": "1"}, {"uid": str(uuid.uuid4())}])
async def test_write_of_another_version_or_object_conflicts(
    target: Target, made: Any, dry: bool, other: dict[str, str]
):
    """Pinned to what was read: 409, really and when tried, and nothing changes."""
    web = await target.still()
    async with target.port() as port:
        deed = port.dry_run if dry else port.apply
        assert (await refusal(deed(made(web, **other)))).code == 409
    after = await target.get(target.web)
    assert after["metadata"]["generation"] == web["metadata"]["generation"]


@pytest.mark.parametrize("made", [evicted, deleted])
@pytest.mark.parametrize("dry", [False, True])
async def test_end_of_a_replaced_pod_conflicts(target: Target, made: Any, dry: bool):
    """Another pod under the same name is another pod."""
    pod = await target.pod()
    async with target.port(delete_pods=True) as port:
        deed = port.dry_run if dry else port.apply
        assert (await refusal(deed(made(pod, uid=str(uuid.uuid4()))))).code == 409


@pytest.mark.parametrize("made", [evicted, deleted])
async def test_end_of_a_gone_pod_is_not_found(target: Target, made: Any):
    """404 is told apart from a conflict."""
    gone = {"metadata": {"name": "gone", "namespace": target.namespace, "uid": "u"}}
    async with target.port(delete_pods=True) as port:
        assert (await refusal(port.apply(made(gone, version="1")))).code == 404


async def test_write_to_a_replaced_node_conflicts(target: Target):
    """Machines are replaced under the same name, too."""
    async with target.node() as (node, nodes), target.port(nodes=nodes) as port:
        refused = await refusal(port.apply(cordoned(node, uid=str(uuid.uuid4()))))
    assert refused.code == 409


# Denials


@pytest.mark.parametrize("dry", [False, True])
async def test_eviction_against_the_budget_names_its_cause(target: Target, dry: bool):
    """429, already when tried."""
    await target.settled()
    await target.budget("web", 3)
    pod = await target.pod()
    async with target.port() as port:
        refused = await refusal((port.dry_run if dry else port.apply)(evicted(pod)))
    assert (refused.code, refused.fields) == (429, ("DisruptionBudget",))


async def test_eviction_under_two_budgets_is_refused_and_not_in_doubt(target: Target):
    """The one 500 that is a no."""
    for name in ("web", "other"):
        await target.budget(name, 1)
    pod = await target.pod()
    async with target.port() as port:
        assert (await refusal(port.apply(evicted(pod)))).code == 500


async def test_unknown_field_is_refused_and_the_object_not_quoted(target: Target):
    """422 with the field; the API server's message holds the whole object and is dropped."""
    web = await target.still()
    body = [{"op": "add", "path": "/spec/replicaz", "value": 5}]
    async with target.port() as port:
        refused = await refusal(port.apply(change(Kind.DEPLOYMENT, "patch", web, body)))
    assert refused.code == 422
    assert refused.audit_id
    assert "registry.k8s.io" not in f"{refused} {vars(refused)}"


async def test_impossible_number_names_the_field(target: Target):
    """422; the causes' fields are kept."""
    web = await target.still()
    async with target.port() as port:
        refused = await refusal(port.apply(scaled(web, -1)))
    assert (refused.code, refused.fields) == (422, ("spec.replicas",))


async def test_namespace_without_a_role_is_forbidden(target: Target):
    """403 by the cluster, for what the executor's own reach would have let out."""
    async with target.port(namespace="kube-system") as port:
        assert (await refusal(port.deployments("kube-system"))).code == 403


async def test_what_is_out_of_reach_is_not_even_sent(target: Target):
    """Another namespace, a node, a deletion: refused by the gate."""
    pod = await target.pod()
    async with target.port() as port:
        for deed in (
            port.pod("kube-system", "x"),
            port.node("node-a"),
            port.apply(deleted(pod)),
            port.deployment(target.namespace, "web?x=/.."),
        ):
            with pytest.raises(ForbiddenRequest):
                await deed
    assert (await target.pod())["metadata"]["uid"]


# Events


async def test_event_stands_on_the_object_once(target: Target):
    """The same action and reason again leaves one."""
    place = Place(Kind.DEPLOYMENT, target.namespace, "web")
    uid = (await target.get(target.web))["metadata"]["uid"]
    async with target.port() as port:
        for _ in range(2):
            await port.record_event(place, uid, "AegisScaled", "3 to 4", "action-1")
    found = (await target.get(EVENTS.format(target.namespace)))["items"]
    (ours,) = [e for e in found if e.get("reportingController") == "aegis.dev/executor"]
    assert ours["regarding"]["uid"] == uid
    assert (ours["reason"], ours["note"], ours["type"]) == ("AegisScaled", "3 to 4", "Normal")
    assert ours["metadata"]["annotations"][ACTION_ID] == "action-1"


async def test_event_of_a_node_is_kept_in_default(target: Target):
    """Where Kubernetes keeps events of what has no namespace."""
    action = uuid.uuid4().hex
    async with target.node() as (node, nodes), target.port(nodes=nodes) as port:
        place = Place(Kind.NODE, "", node["metadata"]["name"])
        await port.record_event(place, node["metadata"]["uid"], "AegisCordoned", "", action)
    found = (await target.get(EVENTS.format("default")))["items"]
    assert action in {(e["metadata"].get("annotations") or {}).get(ACTION_ID) for e in found}


@pytest.mark.parametrize("namespace", ["kube-system", "elsewhere"])
async def test_event_that_cannot_be_left_fails_nothing(target: Target, namespace: str):
    """Forbidden by the cluster, or by the gate: an action does not hang on it."""
    place = Place(Kind.DEPLOYMENT, namespace, "web")
    async with target.port(namespace="kube-system") as port:
        await port.record_event(place, "u", "AegisScaled", "x" * 5000, "action-1")


# Who we are


async def test_pods_own_account_is_used_and_a_new_token_is_read(
    place: Cluster, target: Target, account: Path
):
    """As in a pod: CA and token in a folder; the kubelet renews the token, nobody restarts."""
    told = json.loads(place.executor.read_text())
    token = told["users"][0]["user"]["token"]
    url = KubeConfig.from_file(place.executor).get().cluster.server
    reach = Reach(frozenset({target.namespace}))
    port = Kubernetes(configuration(None, url, account=account), reach=reach)
    with pytest.raises(ClusterUnreachable):
        await port.deployment(target.namespace, "web")
    (account / "token").write_text("expired")
    assert (await refusal(port.deployment(target.namespace, "web"))).code == 401
    (account / "token").write_text(f"{token}\n")
    assert await port.deployment(target.namespace, "web")
    await port.close()


def test_answer_of_another_kind_says_nothing():
    """Whoever answers a question about a pod with something else is not the API server."""
    with pytest.raises(ClusterSilent):
        client._of_kind("Pod", {"kind": "Status"})


def test_kubeconfig_without_a_user_is_refused(tmp_path: Path):
    """An executor that is nobody could only ever fail."""
    context = {"name": "c", "context": {"cluster": "c"}}
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}
    path = tmp_path / "kubeconfig"
    document = {"current-context": "c", "contexts": [context], "clusters": [cluster]}
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="names no user"):
        configuration(path, "")


@pytest.mark.parametrize(
    "wrong", [{"server": "http://127.0.0.1:1"}, {"insecure-skip-tls-verify": True}]
)
def test_cluster_that_does_not_prove_itself_is_refused(tmp_path: Path, wrong: dict[str, Any]):
    """At the start, before any token is sent."""
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:1", **wrong}}
    users = [{"name": "u", "user": {"token": "t"}}]
    document = {"contexts": [context], "clusters": [cluster], "users": users}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({"current-context": "c", **document}))
    with pytest.raises(ValueError, match="prove itself"):
        configuration(path, "")
