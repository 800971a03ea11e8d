"""Collusion: groups of participants whose updates are suspiciously like each other, over rounds.

One round may put two honest updates side by side by chance; `review.memory.likeness` says which
were. A pair keeps company when that was so in at least three of the last twenty rounds of either,
and in at least half of those rounds that both were judged in. A group is a connected component of
such pairs: who copies a copy belongs to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aegis_server.review.store import RoundKey

ROUNDS = 20
TIMES_MIN = 3
_SHARE_MIN = 0.5


@dataclass(frozen=True, slots=True)
class Sighting:
    """A participant in one judged round, and who was like it there."""

    key: RoundKey
    alike: frozenset[str]


def groups(sightings: Mapping[str, Sequence[Sighting]]) -> list[frozenset[str]]:
    """Returns the groups among participants, given the last `ROUNDS` rounds of each."""
    kept: dict[str, set[str]] = {name: set() for name in sightings}
    for name, seen in sightings.items():
        for other in {other for sighting in seen for other in sighting.alike}:
            if other in sightings and _keep_company(name, other, sightings):
                kept[name].add(other)
                kept[other].add(name)
    found: list[frozenset[str]] = []
    left = {name for name, others in kept.items() if others}
    while left:
        group: set[str] = set()
        reached = {min(left)}
        while reached:
            group |= reached
            reached = {other for name in reached for other in kept[name]} - group
        found.append(frozenset(group))
        left -= group
    return found


def _keep_company(one: str, other: str, sightings: Mapping[str, Sequence[Sighting]]) -> bool:
    theirs = {sighting.key for sighting in sightings[other]}
    together = [sighting for sighting in sightings[one] if sighting.key in theirs]
    times = sum(other in sighting.alike for sighting in together)
    return times >= TIMES_MIN and times >= _SHARE_MIN * len(together)
