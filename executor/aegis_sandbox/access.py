"""Tokens, users and Role rules: who may do what in the sandbox."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

from aegis_sandbox.status import Refused


@dataclass(frozen=True, slots=True)
class Role:
    """What a Role grants in one namespace: resources (`pods/eviction`) with their verbs."""

    namespace: str
    rules: tuple[tuple[str, frozenset[str]], ...]

    def allows(self, verb: str, resource: str, namespace: str | None) -> bool:
        """True when a rule names the resource and the verb, in this very namespace."""
        return namespace == self.namespace and any(
            resource == named and verb in verbs for named, verbs in self.rules
        )


def _rules(**verbs: str) -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple(
        (resource.replace("__", "/"), frozenset(words.split())) for resource, words in verbs.items()
    )


# The same rights as the Role that is shipped for real clusters: no wildcard, no secrets.
EXECUTOR_RULES = _rules(
    pods="get",
    pods__eviction="create",
    deployments="get patch",
    deployments__scale="patch",
    replicasets="list",
)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a token; `admin` may do everything, also under /sandbox."""

    name: str
    token: str
    roles: tuple[Role, ...] = ()
    admin: bool = False

    def may(self, verb: str, resource: str, namespace: str | None) -> bool:
        """True when a role grants it."""
        return self.admin or any(role.allows(verb, resource, namespace) for role in self.roles)


def executor_user(namespaces: tuple[str, ...]) -> User:
    """Makes the executor's user, with a Role in each of the namespaces."""
    return User(
        "system:serviceaccount:aegis-system:aegis-executor",
        secrets.token_urlsafe(32),
        tuple(Role(namespace, EXECUTOR_RULES) for namespace in namespaces),
    )


def admin_user() -> User:
    """Makes the administrator of the sandbox."""
    return User("sandbox-admin", secrets.token_urlsafe(32), admin=True)


class Access:
    """Finds the user of a token and says no."""

    def __init__(self, users: tuple[User, ...]) -> None:
        self._users = users

    def identify(self, authorization: str) -> User:
        """Returns the user of a bearer token; Refused 401 for none or a wrong one."""
        scheme, _, token = authorization.partition(" ")
        if scheme == "Bearer":
            for user in self._users:
                if hmac.compare_digest(user.token.encode(), token.encode()):
                    return user
        raise Refused(401, "Unauthorized")

    def check(self, user: User, verb: str, resource: str, namespace: str | None) -> None:
        """Refused 403 when it is not granted, whether the namespace exists or not."""
        if not user.may(verb, resource, namespace):
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            raise Refused(
                403,
                f'{resource} is forbidden: User "{user.name}" cannot {verb} resource'
                f' "{resource}"{where}',
                details={"kind": resource},
            )
