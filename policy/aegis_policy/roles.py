"""Who has which role: links that never change, closed for one subject at a time.

A link of `g2` counts everywhere, one of `g` in its domain, and both together: what a role has
everywhere also reaches those who have that role in one domain only. Kept apart, a deny bound to a
role by `g2` would not hold a member by `g`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TypeAlias

# Casbin walks no further than this; a longer chain would silently lose its end.
MAX_DEPTH = 9
# The scope of links that count in every domain.
EVERYWHERE = ""

# Scope, then member, then the roles it has there by a link of its own.
Links: TypeAlias = Mapping[str, Mapping[str, tuple[str, ...]]]
Link: TypeAlias = tuple[str, str, str]  # scope, member, role

# In place of the height of a name that is being climbed.
_CLIMBING = -1.0
_NONE: Mapping[str, tuple[str, ...]] = {}


class Roles:
    """The links of one rule set; `with_links` makes the next one and shares what stays."""

    __slots__ = ("_everywhere", "_links")

    def __init__(self, links: Links) -> None:
        self._links = links
        self._everywhere = links.get(EVERYWHERE, _NONE)

    def of(self, subject: str, domain: str, held: Iterable[str] = ()) -> frozenset[str]:
        """Returns every role of a subject in a domain, directly or through others.

        `held` are roles it has beside these links.
        """
        here = self._links.get(domain, _NONE)
        reached = set(held)
        waiting = [subject, *reached]
        while waiting:
            name = waiting.pop()
            for roles in (self._everywhere.get(name, ()), here.get(name, ())):
                for role in roles:
                    if role not in reached:
                        reached.add(role)
                        waiting.append(role)
        return frozenset(reached)

    def path(self, subject: str, role: str, domain: str, held: Iterable[str] = ()) -> list[str]:
        """Returns a shortest way from a subject to a role, both included; empty when none leads."""
        here = self._links.get(domain, _NONE)
        came_from = {subject: ""} | dict.fromkeys(held, subject)
        waiting = [*came_from]
        for name in waiting:  # grows while it is read: level by level
            if name == role:
                way = [name]
                while way[-1] != subject:
                    way.append(came_from[way[-1]])
                return way[::-1]
            for above in (*self._everywhere.get(name, ()), *here.get(name, ())):
                if above not in came_from:
                    came_from[above] = name
                    waiting.append(above)
        return []

    def with_links(self, removed: Iterable[Link], added: Iterable[Link]) -> Roles:
        """Returns these links with some fewer and some more."""
        links = {**self._links}
        copied: set[str] = set()

        def own(scope: str) -> dict[str, tuple[str, ...]]:
            if scope not in copied:
                copied.add(scope)
                links[scope] = {**links.get(scope, _NONE)}
            return links[scope]  # type: ignore[return-value]

        for scope, member, role in removed:
            members = own(scope)
            left = tuple(each for each in members.get(member, ()) if each != role)
            if left:
                members[member] = left
            else:
                members.pop(member, None)
        for scope, member, role in added:
            members = own(scope)
            members[member] = (*members.get(member, ()), role)
        return Roles(links)

    def faults(self) -> Iterator[tuple[str, str, str]]:
        """Yields scope, member and what is wrong, for members in a cycle or too long a chain."""
        for scope, members in self._links.items():
            here = members if scope != EVERYWHERE else _NONE
            heights: dict[str, float] = {}
            for member in members:
                if self._height(member, here, heights) > MAX_DEPTH:
                    circle = member in self.of(member, scope)
                    wrong = f"more than {MAX_DEPTH} roles in a chain above {member}"
                    yield scope, member, f"{member} would be its own role" if circle else wrong

    def _height(
        self, start: str, here: Mapping[str, tuple[str, ...]], heights: dict[str, float]
    ) -> float:
        """Returns the length of the longest chain above a name; infinite where it is a circle.

        `heights` are those that are known already: each name is climbed once.
        """
        if start in heights:
            return heights[start]
        way: list[tuple[str, Iterator[str]]] = [(start, self._above(start, here))]
        heights[start] = _CLIMBING
        best = [0.0]
        while way:
            name, above = way[-1]
            role = next(above, None)
            if role is None:
                way.pop()
                heights[name] = height = best.pop()
                if best:
                    best[-1] = max(best[-1], height + 1)
            elif role not in heights:
                heights[role] = _CLIMBING
                way.append((role, self._above(role, here)))
                best.append(0.0)
            else:
                # Whoever is being climbed is below itself.
                height = math.inf if heights[role] == _CLIMBING else heights[role]
                best[-1] = max(best[-1], height + 1)
        return heights[start]

    def _above(self, name: str, here: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
        return chain(self._everywhere.get(name, ()), here.get(name, ()))
