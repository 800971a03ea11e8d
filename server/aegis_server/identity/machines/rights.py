"""What one may hand out: nobody becomes more by making an account or a key.

Who may make accounts and keys could otherwise make one that may more than its maker, and call with
that. So the role admin is given by administrators only, and a key that is bound by scopes makes
keys that are bound by some of the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aegis.errors import PermissionDenied
from aegis.spiffe import Caller
from aegis_server.access import DOMAIN
from aegis_server.policy.decisions import Decisions

_ADMIN = "role:admin"
_EVERYTHING = "*:/**"


class Rights:
    """Asks the rules in use."""

    def __init__(self, decisions: Decisions) -> None:
        self._decisions = decisions

    def known_to_rules(self, subject: str) -> bool:
        """Says whether some rule names a subject: whoever got its name would have its rights."""
        return self._decisions.snapshot.engine.knows(subject)

    def check_roles(self, caller: Caller, path: str, roles: Collection[str]) -> None:
        """Raises `PermissionDenied` (POLICY_DENIED) unless the caller may hand out these roles.

        A role that inherits from admin is as much as admin.
        """
        mine = self._decisions.roles_of(caller.subject, DOMAIN)
        if self._hold_admin(roles) and _ADMIN not in mine:
            raise PermissionDenied(
                "POLICY_DENIED",
                "only who has the role admin gives it, or opens an account that has it",
                subject=caller.subject,
                resource=path,
                action="write",
                rule_id="",
            )

    def check_gift(self, caller: Caller, path: str, roles: Collection[str]) -> None:
        """As `check_roles`, for an account that no scope bounds: of a person, or with keys already.

        Raises `PermissionDenied` (SCOPE_INSUFFICIENT) as well, for a key that has less than every
        scope: it would become administrator through somebody else.
        """
        self.check_roles(caller, path, roles)
        if caller.scopes is None or _EVERYTHING in caller.scopes or not self._hold_admin(roles):
            return
        raise PermissionDenied(
            "SCOPE_INSUFFICIENT",
            "an API key with scopes does not give the role admin",
            resource=path,
            action="write",
        )

    def _hold_admin(self, roles: Collection[str]) -> bool:
        engine = self._decisions.snapshot.engine
        named = [f"role:{role}" for role in roles]
        return _ADMIN in engine.roles_of("service:unknown", DOMAIN, named)


def check_scopes(caller: Caller, path: str, scopes: Sequence[str]) -> None:
    """Raises `PermissionDenied` (SCOPE_INSUFFICIENT) for scopes beyond the caller's own."""
    if caller.scopes is None or (scopes and set(scopes) <= set(caller.scopes)):
        return
    raise PermissionDenied(
        "SCOPE_INSUFFICIENT",
        "an API key with scopes makes keys with some of the same scopes only",
        resource=path,
        action="write",
    )
