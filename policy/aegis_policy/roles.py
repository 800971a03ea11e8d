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

# Between a subject and each role it holds beside the rules; no canonical name has it.
_HOLDS = "\0"


def holding(subject: str, roles: Iterable[str]) -> str:
    """Returns the subject as `RoleLinks` knows it with roles that no rule gives it."""
    return _HOLDS.join((subject, *sorted(set(roles))))


class RoleLinks(RoleManager):  # type: ignore[misc]  # casbin carries no types
    """The roles of every member, directly or through other roles, in each domain.

    One for `g` and `g2` together: what a role has everywhere (`g2`, the empty domain) also reaches
    those who have that role in one domain only. Kept apart, a deny bound to a role by `g2` would
    not hold a member by `g`.
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
        """Casbin calls this when all links of `g`, then of `g2`, are added: closes the relation."""
        everywhere = self._direct.get("", {})
        self._closed = {
            domain: {member: _reachable(member, everywhere, members) for member in members}
            for domain, members in self._direct.items()
        }

    def has_link(self, name1: str, name2: str, *domain: str) -> bool:
        """Says whether `name1`, maybe with `holding`, is `name2` or has it as a role."""
        if _HOLDS not in name1:
            return name1 == name2 or name2 in self.get_roles(name1, *domain)
        return name1.partition(_HOLDS)[0] == name2 or name2 in self.get_roles(name1, *domain)

    def get_roles(self, name: str, *domain: str) -> frozenset[str]:
        """Returns every role of `name`, maybe with `holding`, direct or not."""
        if _HOLDS in name:
            subject, *held = name.split(_HOLDS)
            return frozenset(held).union(
                *(self.get_roles(each, *domain) for each in (subject, *held))
            )
        everywhere = self._closed.get("", {}).get(name, frozenset())
        here = self._closed.get(domain[0], {}) if domain else {}
        if not here:
            return everywhere
        if name in here:
            return here[name]
        # Its roles come from everywhere, but those may have more of them in this domain.
        return everywhere.union(*(here[role] for role in everywhere if role in here))


def _reachable(member: str, *links: Mapping[str, Iterable[str]]) -> frozenset[str]:
    reached: set[str] = set()
    waiting = [member]
    while waiting:
        name = waiting.pop()
        for role in (role for members in links for role in members.get(name, ())):
            if role not in reached:
                reached.add(role)
                waiting.append(role)
    return frozenset(reached)


def fault_of_chain(start: str, *links: Mapping[str, Iterable[str]]) -> str:
    """Returns what is wrong with the roles above `start`: a cycle, too long a chain, or nothing.

    Walks level by level, so its cost is bounded by `MAX_DEPTH` times the number of links.
    """
    level = {start}
    for _ in range(MAX_DEPTH + 1):
        level = {role for name in level for members in links for role in members.get(name, ())}
        if start in level:
            return f"{start} would be its own role"
        if not level:
            return ""
    return f"more than {MAX_DEPTH} roles in a chain above {start}"
