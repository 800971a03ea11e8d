"""Who has which role: a frozen answer behind Casbin's `RoleManager` interface.

Casbin's own managers learn: each name ever asked about stays in memory, a reload empties them
while others read, and the one for domains compares every role with every other. This one is
filled once, closes the relation, and then only reads, so any number of threads may ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from casbin.rbac import RoleManager

# Casbin walks no further than this; a longer chain would silently lose its end.
MAX_DEPTH = 9


class RoleLinks(RoleManager):  # type: ignore[misc]  # casbin carries no types
    """The roles of every member, directly or through other roles, in each domain.

    `g2` has no domain and uses an empty one.
    """

    def __init__(self) -> None:
        self._direct: dict[str, dict[str, list[str]]] = {}
        self._closed: Mapping[str, Mapping[str, frozenset[str]]] = {}

    def clear(self) -> None:
        """Forgets all links; Casbin calls it before it adds them."""
        self._direct = {}

    def add_link(self, name1: str, name2: str, *domain: str) -> None:
        """Gives `name1` the role `name2`."""
        members = self._direct.setdefault(domain[0] if domain else "", {})
        members.setdefault(name1, []).append(name2)

    def print_roles(self) -> None:
        """Casbin calls this when all links are added: closes the relation."""
        self._closed = {
            domain: {member: _reachable(member, members) for member in members}
            for domain, members in self._direct.items()
        }

    def has_link(self, name1: str, name2: str, *domain: str) -> bool:
        """Says whether `name1` is `name2` or has it as a role."""
        return name1 == name2 or name2 in self.get_roles(name1, *domain)

    def get_roles(self, name: str, *domain: str) -> frozenset[str]:
        """Returns every role of `name`, direct or not."""
        members = self._closed.get(domain[0] if domain else "", {})
        return members.get(name, frozenset())


def _reachable(member: str, members: Mapping[str, Iterable[str]]) -> frozenset[str]:
    reached: set[str] = set()
    waiting = list(members.get(member, ()))
    while waiting:
        role = waiting.pop()
        if role not in reached:
            reached.add(role)
            waiting.extend(members.get(role, ()))
    return frozenset(reached)


def fault_of_chain(start: str, members: Mapping[str, Iterable[str]]) -> str:
    """Returns what is wrong with the roles above `start`: a cycle, too long a chain, or nothing.

    Walks level by level, so its cost is bounded by `MAX_DEPTH` times the number of links.
    """
    level = set(members.get(start, ()))
    for _ in range(MAX_DEPTH):
        if start in level:
            return f"{start} would be its own role"
        level = {role for name in level for role in members.get(name, ())}
        if not level:
            return ""
    return f"more than {MAX_DEPTH} roles in a chain above {start}"
