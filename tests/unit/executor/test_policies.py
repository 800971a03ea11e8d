"""The shipped ValidatingAdmissionPolicies, evaluated as CEL, beside what the sandbox models.

The evaluator is Google's own CEL library with the extensions that Kubernetes has switched on;
it is no API server, so type checks against the schema and cost limits are not covered here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cel_expr_python import cel
from cel_expr_python.ext import ext_optional, ext_strings
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_sandbox import policies
from aegis_sandbox.access import EXECUTOR
from aegis_sandbox.scenario import deployment

MANIFEST = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "executor-policies.yaml"
MODELS = {policy.name: policy for policy in policies.POLICIES}
Object = dict[str, Any]


def shipped() -> Iterator[Object]:
    for document in yaml.safe_load_all(MANIFEST.read_text()):
        if document["kind"] == "ValidatingAdmissionPolicy":
            yield document


class Policy:
    """One shipped policy, compiled."""

    def __init__(self, document: Object) -> None:
        names = ("object", "oldObject", "request", "variables")
        environment = cel.NewEnv(
            variables=dict.fromkeys(names, cel.Type.DYN),
            extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings()],
        )
        spec = document["spec"]

        def compiled(each: Object) -> Any:
            return environment.compile(each["expression"])

        self.name = document["metadata"]["name"]
        self._conditions = [compiled(each) for each in spec["matchConditions"]]
        self._variables = {each["name"]: compiled(each) for each in spec["variables"]}
        self._validations = [(each["message"], compiled(each)) for each in spec["validations"]]

    def broken(self, old: Object, new: Object, user: str = EXECUTOR) -> list[str]:
        """The messages of the validations that say no."""
        data = {
            "object": new,
            "oldObject": old,
            "request": {"userInfo": {"username": user}},
            "variables": {},
        }
        if not all(condition.eval(data=data).plain_value() for condition in self._conditions):
            return []
        for name, expression in self._variables.items():
            value = expression.eval(data=data).plain_value()
            data["variables"] = {**data["variables"], name: value}
        return [
            message
            for message, expression in self._validations
            if expression.eval(data=data).plain_value() is not True
        ]


POLICIES = {policy.name: policy for policy in map(Policy, shipped())}


def web() -> Object:
    found = deployment("demo", "web", 3, "registry.example:5000/shop/web:1.1")
    found["metadata"]["annotations"] = {"owner": "shop", "aegis.dev/action-id": "a-1"}
    found["metadata"]["uid"] = "u"
    found["spec"]["strategy"] = {"type": "RollingUpdate"}
    pod = found["spec"]["template"]
    pod["metadata"]["annotations"] = {"inject": "no"}
    pod["spec"]["serviceAccountName"] = "web"
    pod["spec"]["volumes"] = [{"name": "c", "configMap": {"name": "c-1"}}]
    pod["spec"]["initContainers"] = [{"name": "init", "image": "init", "args": ["x"]}]
    pod["spec"]["containers"][0] |= {
        "env": [{"name": "A", "value": "1"}, {"name": "S", "valueFrom": {"secretKeyRef": {}}}],
        "ports": [{"containerPort": 80}],
        "livenessProbe": {"exec": {"command": ["true"]}},
    }
    return found


POD = ("spec", "template", "spec")
FIRST = (*POD, "containers", 0)
MARK = (("metadata", "annotations", "aegis.dev/action-id"), "a-2")
OLDER = ((*FIRST, "image"), "registry.example:5000/shop/web:1.0")
Edit = tuple[tuple[Any, ...], Any]
GONE = object()


def edited(old: Object, *edits: Edit) -> Object:
    new = copy.deepcopy(old)
    for path, value in edits:
        part: Any = new
        for step in path[:-1]:
            part = part[step] if isinstance(step, int) else part.setdefault(step, {})
        if value is GONE:
            part.pop(path[-1], None)
        else:
            part[path[-1]] = copy.deepcopy(value)
    return new


def answers(old: Object, new: Object, resource: str = "deployments") -> list[str]:
    """What both say, held to be the same."""
    told = []
    for name, model in MODELS.items():
        if resource in model.resources:
            modelled = model.broken(old, new)
            assert POLICIES[name].broken(old, new) == modelled, name
            told += modelled
    return told


FINE: dict[str, list[Edit]] = {
    "nothing": [],
    "scale": [(("spec", "replicas"), 4)],
    "our mark": [MARK],
    "restart": [MARK, ((*POD[:2], "metadata", "annotations", "aegis.dev/restarted-by"), "a-2")],
    "rollback": [MARK, OLDER],
    "rollback to a digest": [MARK, ((*FIRST, "image"), "registry.example:5000/shop/web@sha256:aa")],
    "rollback of plain environment": [MARK, ((*FIRST, "env"), [{"name": "A", "value": "2"}])],
    "rollback of configuration": [MARK, ((*POD, "volumes", 0, "configMap", "name"), "c-0")],
    "rollback of the template's labels": [
        MARK,
        OLDER,
        ((*POD[:2], "metadata", "labels", "version"), "1"),
    ],
}
THEFT: dict[str, list[Edit]] = {
    "another image": [MARK, ((*FIRST, "image"), "registry.example:5000/evil/web:1.1")],
    "another image that looks alike": [
        MARK,
        ((*FIRST, "image"), "registry.example:5000/shop/web-evil:1.1"),
    ],
    "another registry port": [MARK, ((*FIRST, "image"), "registry.example:6000/shop/web:1.1")],
    "no mark": [OLDER],
    "an old mark": [OLDER, (MARK[0], "a-1")],
    "another account": [MARK, ((*POD, "serviceAccountName"), "admin")],
    "the host's network": [MARK, ((*POD, "hostNetwork"), True)],
    "privileges": [MARK, ((*FIRST, "securityContext"), {"privileged": True})],
    "a command": [MARK, ((*FIRST, "command"), ["sh"])],
    "arguments of an init container": [MARK, ((*POD, "initContainers", 0, "args"), ["y"])],
    "a hook": [MARK, ((*FIRST, "lifecycle"), {"postStart": {"exec": {"command": ["sh"]}}})],
    "a probe that executes": [MARK, ((*FIRST, "livenessProbe", "exec", "command"), ["sh"])],
    "one more container": [MARK, ((*POD, "containers"), [{"name": "x", "image": "x"}])],
    "a container less": [MARK, ((*POD, "initContainers"), GONE)],
    "a secret in the environment": [
        MARK,
        ((*FIRST, "env"), [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "other"}}}]),
    ],
    "a secret as a volume": [
        MARK,
        ((*POD, "volumes"), [{"name": "c", "secret": {"secretName": "other"}}]),
    ],
    "the host's disk": [MARK, ((*POD, "volumes"), [{"name": "c", "hostPath": {"path": "/"}}])],
    "a port of the host": [MARK, ((*FIRST, "ports"), [{"containerPort": 80, "hostPort": 80}])],
    "nobody": [MARK, (("spec", "replicas"), 0)],
    "nobody, unsaid": [MARK, (("spec", "replicas"), GONE)],
    "too many": [(("spec", "replicas"), 11)],
    "a pause": [(("spec", "paused"), True)],
    "another strategy": [(("spec", "strategy"), {"type": "Recreate"})],
    "labels": [(("metadata", "labels", "app"), "other")],
    "somebody's annotation": [(("metadata", "annotations", "owner"), "me")],
    "somebody's annotation, away": [(("metadata", "annotations", "owner"), GONE)],
    "all annotations": [(("metadata", "annotations"), GONE)],
    "no veto any more": [(("metadata", "annotations", "aegis.dev/do-not-remediate"), "no")],
    "an injector": [((*POD[:2], "metadata", "annotations", "inject"), "yes")],
    "labels of the pods": [((*POD[:2], "metadata", "labels", "tier"), "x")],
    "an owner": [(("metadata", "ownerReferences"), [{"kind": "Node"}])],
}


def test_every_shipped_policy_is_modelled_rule_by_rule():
    """Names, resources, reasons and messages; `broken` holds the expressions to them below."""
    for document in shipped():
        spec = document["spec"]
        model = MODELS[document["metadata"]["name"]]
        (rule,) = spec["matchConstraints"]["resourceRules"]
        assert rule["operations"] == ["UPDATE"]
        assert set(rule["resources"]) == model.resources
        assert [each["message"] for each in spec["validations"]] == [m for m, _ in model.rules]
        assert {each.get("reason", "Invalid") for each in spec["validations"]} == {model.reason}
    assert POLICIES.keys() == MODELS.keys()


@pytest.mark.parametrize("name", FINE)
def test_what_the_executor_does_is_admitted(name: str):
    """Scale, restart, rollback: by the expressions and by the model."""
    assert answers(web(), edited(web(), *FINE[name])) == []


@pytest.mark.parametrize("name", THEFT)
def test_what_only_a_thief_would_do_is_denied(name: str):
    """By the expressions and by the model, with the same words."""
    assert answers(web(), edited(web(), *THEFT[name]))


@pytest.mark.parametrize("name", THEFT)
def test_everybody_else_is_left_alone(name: str):
    """The policies look at the executor's user only."""
    new = edited(web(), *THEFT[name])
    assert all(policy.broken(web(), new, "alice") == [] for policy in POLICIES.values())


EDITS = st.sampled_from([edit for edits in (*FINE.values(), *THEFT.values()) for edit in edits])


@settings(max_examples=200, deadline=None)
@given(before=st.lists(EDITS, max_size=4), after=st.lists(EDITS, max_size=4))
def test_expressions_and_model_agree_on_any_mixture(before: list[Edit], after: list[Edit]):
    """Whatever is combined, from whatever state, both give the same list of answers."""
    old = edited(web(), *before)
    answers(old, edited(web(), *after))
    answers(old, edited(old, *after))


@pytest.mark.parametrize(
    ("before", "after", "fine"),
    [(3, 4, True), (3, 1, True), (3, 0, False), (3, None, False), (3, 11, False), (20, 20, True)],
)
def test_scale_is_bounded_as_the_deployment_is(before: int, after: int | None, fine: bool):
    """The way round a limit on one of the two is closed."""
    old = {"spec": {"replicas": before}}
    new: Object = {"spec": {} if after is None else {"replicas": after}}
    assert (answers(old, new, "deployments/scale") == []) is fine


NODE = {
    "metadata": {"name": "node-a", "labels": {"zone": "a"}, "annotations": {"cri": "x"}},
    "spec": {"podCIDR": "10.244.0.0/24"},
}


@pytest.mark.parametrize(
    ("edits", "fine"),
    [
        ([(("spec", "unschedulable"), True), MARK], True),
        ([(("spec", "unschedulable"), True)], True),
        ([(("spec", "taints"), [{"key": "x", "effect": "NoExecute"}])], False),
        ([(("spec", "podCIDR"), "10.0.0.0/8")], False),
        ([(("metadata", "labels", "zone"), "b")], False),
        ([(("metadata", "annotations", "cri"), "y")], False),
    ],
)
def test_of_a_node_only_schedulability_changes(edits: list[Edit], fine: bool):
    """A cordon passes; labels and taints would move other people's pods."""
    assert (answers(NODE, edited(NODE, *edits), "nodes") == []) is fine
