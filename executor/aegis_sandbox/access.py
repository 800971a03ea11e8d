"""Tokens, users and Role rules: who may do what in the sandbox."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, replace
from typing import Any

from aegis_sandbox.routes import group_of
from aegis_sandbox.status import Object, Refused

Rules = tuple[tuple[str, frozenset[str]], ...]


@dataclass(frozen=True, slots=True)
class Role:
    """What a Role grants in one namespace: resources (`pods/eviction`) with their verbs.

    Without a namespace it is a ClusterRole on what has none; `names` are then the only objects.
    """

    namespace: str | None
    rules: Rules
    names: frozenset[str] | None = None

    def allows(self, verb: str, resource: str, namespace: str | None, name: str) -> bool:
        """True when a rule names the resource and the verb, in this very namespace."""
        return (
            namespace == self.namespace
            and (self.names is None or name in self.names)
            and any(resource == named and verb in verbs for named, verbs in self.rules)
        )


def _rules(**verbs: str) -> Rules:
    return tuple(
        (resource.replace("__", "/"), frozenset(words.split())) for resource, words in verbs.items()
    )


# The same rights as the Role that is shipped for real clusters: no wildcard, no secrets.
EXECUTOR_RULES = _rules(
    pods="get list",
    pods__eviction="create",
    deployments="get list patch",
    deployments__scale="patch",
    replicasets="list",
    poddisruptionbudgets="list",
    horizontalpodautoscalers="list",
    events="create",
)
# And as the two components for who wants more.
DELETE_RULES = _rules(pods="delete")
NODE_RULES = _rules(nodes="get patch")
NODE_EVENT_RULES = _rules(events="create")


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a token; `admin` may do everything, also under /sandbox."""

    name: str
    token: str
    roles: tuple[Role, ...] = ()
    admin: bool = False

    def may(self, verb: str, resource: str, namespace: str | None, name: str = "") -> bool:
        """True when a role grants it."""
        return self.admin or any(
            role.allows(verb, resource, namespace, name) for role in self.roles
        )


EXECUTOR = "system:serviceaccount:aegis-system:aegis-executor"


def executor_user(namespaces: tuple[str, ...], nodes: tuple[str, ...] = ()) -> User:
    """Makes the executor's user, with its rights in the namespaces and on the nodes."""
    roles = [Role(namespace, EXECUTOR_RULES + DELETE_RULES) for namespace in namespaces]
    if nodes:
        roles.append(Role(None, NODE_RULES, frozenset(nodes)))
        roles.append(Role("default", NODE_EVENT_RULES))
    return User(EXECUTOR, secrets.token_urlsafe(32), tuple(roles))


def admin_user() -> User:
    """Makes the administrator of the sandbox."""
    return User("sandbox-admin", secrets.token_urlsafe(32), admin=True)


class Access:
    """Finds the user of a token and says no."""

    def __init__(self, users: tuple[User, ...]) -> None:
        self._users = users

    def grant(self, name: str, namespace: str) -> None:
        """Gives a user the executor's rights in one more namespace."""
        role = Role(namespace, EXECUTOR_RULES + DELETE_RULES)
        self._users = tuple(
            replace(user, roles=(*user.roles, role)) if user.name == name else user
            for user in self._users
        )

    def identify(self, authorization: str) -> User:
        """Returns the user of a bearer token; Refused 401 for none or a wrong one."""
        scheme, _, token = authorization.partition(" ")
        if scheme == "Bearer":
            for user in self._users:
                if hmac.compare_digest(user.token.encode(), token.encode()):
                    return user
        raise Refused(401, "Unauthorized")

    def check(
        self, user: User, verb: str, resource: str, namespace: str | None, name: str = ""
    ) -> None:
        """Refused 403 when it is not granted, whether the namespace exists or not."""
        if not user.may(verb, resource, namespace, name):
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            raise Refused(
                403,
                f'{resource} is forbidden: User "{user.name}" cannot {verb} resource'
                f' "{resource}"{where}',
                details={"kind": resource},
            )

    def review(self, user: User, review: Any) -> Object:
        """Answers a SelfSubjectAccessReview."""
        spec = review.get("spec") if isinstance(review, dict) else None
        asked = spec.get("resourceAttributes") if isinstance(spec, dict) else None
        if not isinstance(asked, dict):
            raise Refused(501, "the Aegis sandbox reviews resourceAttributes only")
        resource, sub = str(asked.get("resource", "")), asked.get("subresource")
        allowed = group_of(resource) == asked.get("group", "") and user.may(
            str(asked.get("verb", "")),
            f"{resource}/{sub}" if sub else resource,
            asked.get("namespace") or None,
            str(asked.get("name", "")),
        )
        return {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": spec,
            "status": {"allowed": allowed},
        }
