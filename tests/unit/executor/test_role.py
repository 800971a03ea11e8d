"""The rights that are shipped, those the sandbox grants, and what the executor asks: the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from aegis_executor.kubernetes import gate
from aegis_executor.settings import PROTECTED_NAMESPACES
from aegis_sandbox import access
from aegis_sandbox.policies import REPLICAS_MAX
from aegis_sandbox.routes import group_of
from aegis_sandbox.scenario import EXECUTOR_NAMESPACES, EXECUTOR_NODES

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes"
ROLE = FOLDER / "executor-role.yaml"
NODES = FOLDER / "components" / "nodes" / "role.yaml"
DELETE = FOLDER / "components" / "delete-pods" / "role.yaml"
EVERYTHING = sorted(p for p in FOLDER.rglob("*.yaml") if p.name != "kustomization.yaml")

Rights = set[tuple[str, str, str]]


def documents(path: Path, kind: str = "") -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text()) if kind in ("", d["kind"])]


def rights_of(role: dict[str, Any]) -> Rights:
    """(API group, resource, verb) for everything a Role grants."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def rights_of_sandbox(rules: access.Rules) -> Rights:
    return {
        (group_of(resource.partition("/")[0]), resource, verb)
        for resource, verbs in rules
        for verb in verbs
    }


def rights_of_gate(routes: gate.Routes) -> Rights:
    """The rights that Kubernetes asks for the requests on the gate's list."""
    return {right_of(method, path) for method, path in routes}


def right_of(method: str, path: str) -> tuple[str, str, str]:
    found = re.fullmatch(
        r"/(?:api|apis/([^/]+))/v\d(?:/namespaces/{namespace})?/(\w+)(/{name})?(?:/(\w+))?", path
    )
    assert found, path
    group, resource, named, sub = found.groups()
    reading = "get" if named else "list"
    verb = {"GET": reading, "PATCH": "patch", "POST": "create", "DELETE": "delete"}[method]
    return (group or "", f"{resource}/{sub}" if sub else resource, verb)


def test_manifest_grants_what_the_sandbox_grants():
    """An executor that works in the sandbox works with the Role, and the other way round."""
    roles = documents(ROLE, "Role")
    assert roles
    for role in roles:
        assert rights_of(role) == rights_of_sandbox(access.EXECUTOR_RULES)


def test_rights_are_those_of_the_requests_the_gate_lets_through():
    """Nothing is granted that the executor could never use, nothing is missing."""
    assert rights_of_gate(gate.ROUTES) == rights_of_sandbox(access.EXECUTOR_RULES)


def test_more_rights_are_components_of_their_own():
    """Nodes and deletion: for who asks for them, and again exactly what the gate then lets out."""
    (cluster_role,), (events,) = documents(NODES, "ClusterRole"), documents(NODES, "Role")
    assert rights_of(cluster_role) == rights_of_sandbox(access.NODE_RULES)
    assert rights_of(cluster_role) == rights_of_gate(gate.NODE_ROUTES)
    assert cluster_role["rules"][0]["resourceNames"] == list(EXECUTOR_NODES)
    assert rights_of(events) == rights_of_gate(gate.NODE_EVENT_ROUTES)
    assert events["metadata"]["namespace"] == gate.NODE_EVENT_NAMESPACE
    for role in documents(DELETE, "Role"):
        assert rights_of(role) == rights_of_sandbox(access.DELETE_RULES)
        assert rights_of(role) == rights_of_gate(gate.DELETE_ROUTES)


def test_manifests_hold_no_wildcard_and_no_secret():
    """In every rule of every kind of role, whatever is added later."""
    for path in EVERYTHING:
        for document in documents(path):
            for rule in document.get("rules", []):
                assert set(rule) <= {"apiGroups", "resources", "verbs", "resourceNames"}
                words = [word for values in rule.values() for word in values]
                assert not any("*" in word or "secret" in word for word in words)


def test_only_named_nodes_are_granted_cluster_wide():
    """A ClusterRole without names would be every node there is."""
    for path in EVERYTHING:
        for role in documents(path, "ClusterRole"):
            assert path == NODES
            assert all(rule["resourceNames"] for rule in role["rules"])


def test_rights_are_bound_to_the_executors_account_in_its_namespaces_only():
    """Each binding names the account whose name the sandbox's user has."""
    (account,) = documents(ROLE, "ServiceAccount")
    name, home = account["metadata"]["name"], account["metadata"]["namespace"]
    assert f"system:serviceaccount:{home}:{name}" == access.EXECUTOR
    assert {d["kind"] for d in documents(ROLE)} == {"ServiceAccount", "Role", "RoleBinding"}
    for path, places in (
        (ROLE, EXECUTOR_NAMESPACES),
        (DELETE, EXECUTOR_NAMESPACES),
        (NODES, ("default",)),
    ):
        roles, bindings = documents(path, "Role"), documents(path, "RoleBinding")
        assert [role["metadata"]["namespace"] for role in roles] == list(places)
        assert [binding["metadata"]["namespace"] for binding in bindings] == list(places)
    subject = {"kind": "ServiceAccount", "name": name, "namespace": home}
    for path in (ROLE, DELETE, NODES):
        for binding in documents(path):
            if binding["kind"].endswith("Binding"):
                assert binding["subjects"] == [subject]
                kind = binding["kind"].removesuffix("Binding")
                target = (binding["roleRef"]["kind"], binding["roleRef"]["name"])
                assert target in {(kind, r["metadata"]["name"]) for r in documents(path, kind)}


def test_no_protected_namespace_is_granted():
    """What Aegis must not be able to restart: the cluster, and Aegis."""
    for path in EVERYTHING:
        for role in documents(path, "Role"):
            assert role["metadata"]["namespace"] not in PROTECTED_NAMESPACES


def test_policies_name_the_executors_user_and_deny():
    """Every policy is bound, fails closed, and looks at this one user only."""
    path = FOLDER / "executor-policies.yaml"
    policies = documents(path, "ValidatingAdmissionPolicy")
    bindings = documents(path, "ValidatingAdmissionPolicyBinding")
    names = [policy["metadata"]["name"] for policy in policies]
    assert [b["spec"]["policyName"] for b in bindings] == names
    assert [b["metadata"]["name"] for b in bindings] == names
    assert all(b["spec"]["validationActions"] == ["Deny"] for b in bindings)
    for policy in policies:
        assert policy["spec"]["failurePolicy"] == "Fail"
        condition = policy["spec"]["matchConditions"][0]["expression"]
        assert condition == f"request.userInfo.username == '{access.EXECUTOR}'"


def test_deployment_tells_the_executor_what_the_roles_grant():
    """The same namespaces, and the same bound of replicas as the policy."""
    (deployment,) = documents(FOLDER / "executor.yaml", "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    told = {e["name"]: e["value"] for e in container["env"]}
    assert told["AEGIS_EXECUTOR_NAMESPACES"] == ",".join(EXECUTOR_NAMESPACES)
    assert told["AEGIS_EXECUTOR_MAX_REPLICAS"] == str(REPLICAS_MAX)
    assert "AEGIS_KUBECONFIG" not in told  # so it uses its service account


def test_executors_pod_is_locked_down():
    """The Pod Security Standard `restricted`, and a file system it cannot write."""
    (deployment,) = documents(FOLDER / "executor.yaml", "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "readinessProbe", "livenessProbe", "resources"} <= set(container)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_network_lets_only_the_server_in_and_three_things_out():
    """Every rule names its peers and ports: an empty peer would be everybody."""
    (policy,) = documents(FOLDER / "executor-network.yaml")
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = spec["ingress"]
    server = {"app.kubernetes.io/name": "aegis-server"}
    assert ingress["from"] == [{"podSelector": {"matchLabels": server}}]
    assert all(rule["to"] and rule["ports"] for rule in spec["egress"])
    ports = [port["port"] for rule in spec["egress"] for port in rule["ports"]]
    assert ports == [6443, 5432, 9090, 53, 53]
