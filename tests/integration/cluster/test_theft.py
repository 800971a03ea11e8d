"""The executor's credentials in other hands: what RBAC and the admission policies leave of them."""

from __future__ import annotations

from typing import Any

import pytest
from tests import targets
from tests.targets import STRATEGIC, Place, Target

ACTION_ID = "aegis.dev/action-id"


def containers(**first: Any) -> dict[str, Any]:
    container = {"name": "web", **first}
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


def with_mark(patch: dict[str, Any], value: str = "a-2") -> dict[str, Any]:
    return {**patch, "metadata": {"annotations": {ACTION_ID: value}}}


DENIED = {
    "another image": with_mark(containers(image="registry.example/miner:1")),
    "a command": with_mark(containers(command=["sh"])),
    "privileges": with_mark(containers(securityContext={"privileged": True})),
    "another account": with_mark(
        {"spec": {"template": {"spec": {"serviceAccountName": "default-admin"}}}}
    ),
    "the host's network": with_mark({"spec": {"template": {"spec": {"hostNetwork": True}}}}),
    "a rollback without its mark": containers(image="registry.k8s.io/pause:3.8"),
    "labels": {"metadata": {"labels": {"app": "other"}}},
    "a veto lifted": {"metadata": {"annotations": {"aegis.dev/do-not-remediate": "no"}}},
    "a pause": {"spec": {"paused": True}},
    "an injector": {"spec": {"template": {"metadata": {"annotations": {"inject": "yes"}}}}},
}
RESTART = {"spec": {"template": {"metadata": {"annotations": {"aegis.dev/restarted-by": "a-1"}}}}}


@pytest.mark.parametrize("query", [{}, {"dryRun": "All"}], ids=["real", "dry"])
@pytest.mark.parametrize("theft", DENIED)
async def test_theft_is_denied(target: Target, theft: str, query: dict[str, str]):
    """403 by a policy, also under dry run, and nothing changes."""
    before = await target.still()
    response = await target.steal(target.web, DENIED[theft], STRATEGIC, **query)
    assert (response.status_code, response.json()["reason"]) == (403, "Forbidden")
    assert "denied request" in response.json()["message"]
    after = await target.get(target.web)
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


@pytest.mark.parametrize("replicas", [0, 11])
@pytest.mark.parametrize("way", ["", "/scale"], ids=["deployment", "scale"])
async def test_replicas_are_bounded_on_both_ways(target: Target, way: str, replicas: int):
    """422: the limit on /scale cannot be walked round by patching the deployment."""
    response = await target.steal(f"{target.web}{way}", {"spec": {"replicas": replicas}})
    assert (response.status_code, response.json()["reason"]) == (422, "Invalid")
    assert (await target.get(target.web))["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"replicas": 4}},
        RESTART,
        with_mark(containers(image="registry.k8s.io/pause:3.8")),
    ],
    ids=["scale", "restart", "rollback"],
)
async def test_what_the_executor_does_passes(target: Target, patch: dict[str, Any]):
    """The policies are in nobody's way."""
    response = await target.steal(target.web, patch, STRATEGIC)
    assert response.status_code == 200, response.text


async def test_everybody_else_is_left_alone(target: Target):
    """The policies look at one user only."""
    response = await target.patch(target.web, DENIED["another image"], STRATEGIC, dryRun="All")
    assert response.status_code == 200


async def test_owner_may_allow_any_rollback_in_a_namespace(place: Place):
    """By a label that the executor has no right to set; the other rules stay."""
    async with targets.prepared(place, {"aegis.dev/rollback": "any"}) as target:
        patch = DENIED["another image"]
        response = await target.steal(target.web, patch, STRATEGIC, dryRun="All")
        assert response.status_code == 200, response.text
        response = await target.steal(target.web, DENIED["labels"], STRATEGIC, dryRun="All")
        assert response.status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/{}/secrets"),
        ("GET", "/api/v1/namespaces/kube-system/pods"),
        ("GET", "/api/v1/nodes"),
        ("POST", "/api/v1/namespaces/{}/pods"),
        ("DELETE", "/apis/apps/v1/namespaces/{}/deployments/web"),
        ("PATCH", "/api/v1/namespaces/{}"),
    ],
)
async def test_what_no_role_grants_is_forbidden(target: Target, method: str, path: str):
    """403 by RBAC, whatever there is."""
    response = await target.executor.request(
        method,
        path.format(target.namespace),
        headers={"Content-Type": "application/merge-patch+json"},
        content=b"{}" if method != "GET" else None,
    )
    assert (response.status_code, response.json()["reason"]) == (403, "Forbidden")


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}},
        {"metadata": {"labels": {"zone": "b"}}},
    ],
    ids=["taint", "label"],
)
async def test_node_is_not_moved(target: Target, patch: dict[str, Any]):
    """A taint would throw every pod off; a label would draw some on."""
    async with target.node() as (node, _):
        path = f"/api/v1/nodes/{node['metadata']['name']}"
        assert (await target.steal(path, patch)).status_code == 403
