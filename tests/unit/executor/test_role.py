"""The rights that are shipped, those the sandbox grants, and what the executor asks: the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from aegis_executor import kubernetes
from aegis_sandbox.access import EXECUTOR_RULES, executor_user
from aegis_sandbox.scenario import EXECUTOR_NAMESPACES

MANIFEST = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "executor-role.yaml"
GROUPS = {"pods": "", "deployments": "apps", "replicasets": "apps"}

Rights = set[tuple[str, str, str]]


def documents(kind: str) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(MANIFEST.read_text()) if d["kind"] == kind]


def rights_of(role: dict[str, Any]) -> Rights:
    """(API group, resource, verb) for everything a Role grants."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def rights_of_sandbox() -> Rights:
    return {
        (GROUPS[resource.partition("/")[0]], resource, verb)
        for resource, verbs in EXECUTOR_RULES
        for verb in verbs
    }


def right_of(method: str, pattern: str) -> tuple[str, str, str]:
    """The right that Kubernetes asks for a request on the gate's list."""
    group, rest = pattern.split(rf"/namespaces/(?P<namespace>{kubernetes._NAME})/")
    resource, *names = rest.replace(kubernetes._NAME, "NAME").split("/")
    if len(names) == 2:
        resource = f"{resource}/{names[1]}"
    verb = {"GET": "get" if names else "list", "PATCH": "patch", "POST": "create"}[method]
    return ("" if group == "/api/v1" else group.split("/")[2], resource, verb)


def test_manifest_grants_what_the_sandbox_grants():
    """An executor that works in the sandbox works with the Role, and the other way round."""
    roles = documents("Role")
    assert roles
    for role in roles:
        assert rights_of(role) == rights_of_sandbox()


def test_rights_are_those_of_the_requests_the_gate_lets_through():
    """Nothing is granted that the executor could never use, nothing is missing."""
    assert {right_of(*allowed) for allowed in kubernetes._ALLOWED} == rights_of_sandbox()


def test_manifest_holds_no_wildcard_and_no_secret():
    """In every rule of every kind of role, whatever is added later."""
    for document in yaml.safe_load_all(MANIFEST.read_text()):
        for rule in document.get("rules", []):
            assert set(rule) == {"apiGroups", "resources", "verbs"}
            words = [word for values in rule.values() for word in values]
            assert not any("*" in word or "secret" in word for word in words)


def test_rights_are_bound_to_the_executors_account_in_its_namespaces_only():
    """Roles, never ClusterRoles, each bound to the account whose name the sandbox's user has."""
    (account,) = documents("ServiceAccount")
    name, home = account["metadata"]["name"], account["metadata"]["namespace"]
    assert executor_user(()).name == f"system:serviceaccount:{home}:{name}"
    kinds = {d["kind"] for d in yaml.safe_load_all(MANIFEST.read_text())}
    assert kinds == {"ServiceAccount", "Role", "RoleBinding"}
    roles, bindings = documents("Role"), documents("RoleBinding")
    places = [role["metadata"]["namespace"] for role in roles]
    assert places == [b["metadata"]["namespace"] for b in bindings] == list(EXECUTOR_NAMESPACES)
    for role, binding in zip(roles, bindings, strict=True):
        assert binding["roleRef"]["kind"] == "Role"
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        subject = {"kind": "ServiceAccount", "name": name, "namespace": home}
        assert binding["subjects"] == [subject]
