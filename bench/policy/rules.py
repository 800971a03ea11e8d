"""Rule sets of 100 to 100,000 rules that every engine can be given, and questions about them.

    python bench/policy/rules.py --rules 1000 --out /tmp/rules     the files of all languages

Tenants with roles that inherit from each other, people who hold some of them, and rules on paths:
half of them name one resource, the rest use `*` for a segment or `**` for all that follows. One
rule in ten denies, and one deny outweighs every allow. A few platform roles hold in every tenant,
as a support team's do. The same seed gives the same set.

Roles of a tenant (`g`) and of the platform (`g2`) are not mixed in one chain: there PyCasbin and
Aegis differ on purpose, and this compares speed.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SEED = 20260301
ANYWHERE = "*"
ACTIONS = ("read", "write", "create", "delete", "start", "stop", "approve", "export")
# Below each first segment: the fixed words of a path, {} being a name.
SHAPES = {
    "projects": ("projects", "{}", "models", "{}"),
    "clusters": ("clusters", "{}", "namespaces", "{}", "pods", "{}"),
    "datasets": ("datasets", "{}", "versions", "{}"),
    "runs": ("runs", "{}"),
    "reports": ("reports", "{}", "{}"),
}
_LADDER = ("role:lead", "role:writer", "role:reader")
_PLATFORM = ("role:sre", "role:support", "role:observer")
_DENY_SHARE = 0.1
_ANY_ACTION_SHARE = 0.05
_PLATFORM_RULES_MAX = 100


class Rule(NamedTuple):
    """One `p` line; conditions are left empty."""

    role: str
    domain: str
    pattern: str
    action: str
    effect: str
    id: str


@dataclass(slots=True)
class World:
    """Rules, who holds which role, and the roles above a role.

    `held` is by tenant, or ANYWHERE, then by member; `above` by role, the same in each tenant.
    """

    rules: list[Rule] = field(default_factory=list)
    held: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    above: dict[str, list[str]] = field(default_factory=dict)

    @property
    def tenants(self) -> list[str]:
        """All tenants, in their order."""
        return [domain for domain in self.held if domain != ANYWHERE]

    def roles_of(self, subject: str, domain: str) -> list[str]:
        """Returns the roles a subject has in one domain alone, inherited ones after direct ones."""
        roles = list(self.held[domain].get(subject, ()))
        for role in roles:
            roles += [each for each in self.above.get(role, ()) if each not in roles]
        return roles


def make_world(size: int, seed: int = SEED) -> World:
    """Returns a set of exactly `size` rules; tenants and rules a tenant grow with its root."""
    # Nothing here is a secret.
    dice = random.Random(f"{seed}/{size}")
    tenants = [f"t{number:03d}" for number in range(max(2, round(size**0.5 / 3)))]
    platform = min(_PLATFORM_RULES_MAX, max(2, size // 50))
    each = -(-(size - platform) // len(tenants))
    world = World(held={domain: {} for domain in (*tenants, ANYWHERE)})
    world.above = {"role:lead": ["role:writer"], "role:writer": ["role:reader"]}
    world.above |= {"role:sre": ["role:support"], "role:support": ["role:observer"]}
    teams = [f"role:team-{number}" for number in range(max(2, each // 12))]
    names = [f"n{number}" for number in range(max(4, each // 4))]
    _people(dice, world, tenants, teams, max(6, size // 10 // len(tenants)))
    places = [ANYWHERE] * platform + [tenants[n % len(tenants)] for n in range(size - platform)]
    dice.shuffle(places)
    wide: dict[str, list[tuple[str, ...]]] = {domain: [] for domain in world.held}
    seen: set[tuple[str, ...]] = set()
    for number, domain in enumerate(places):
        roles = _PLATFORM if domain == ANYWHERE else (*_LADDER, *teams)
        denies = bool(wide[domain]) and dice.random() < _DENY_SHARE
        row = _exception(dice, dice.choice(wide[domain]), names) if denies else ()
        while not row or row in seen:
            denies, row = False, _row(dice, domain, roles, names)
        seen.add(row)
        if not denies and row[2].endswith("*"):
            wide[domain].append(row)
        world.rules.append(Rule(*row, "deny" if denies else "allow", f"rule-{number}"))
    return world


def _people(
    dice: random.Random, world: World, tenants: list[str], teams: list[str], count: int
) -> None:
    for domain in tenants:
        for number in range(count):
            more = dice.sample([*_LADDER, *teams], dice.randint(0, 3))
            roles = dict.fromkeys((dice.choice(_LADDER), *more))
            world.held[domain][f"user:{domain}-{number}"] = list(roles)
        # Somebody of another tenant works here, too.
        world.held[domain].setdefault(f"user:{dice.choice(tenants)}-0", [dice.choice(teams)])
    for number, role in enumerate(_PLATFORM * 2):
        world.held[ANYWHERE][f"user:platform-{number}"] = [role]
    for number, domain in enumerate(tenants[: len(_PLATFORM)]):
        world.held[ANYWHERE][f"user:{domain}-1"] = [_PLATFORM[number]]


def _row(
    dice: random.Random, domain: str, roles: Sequence[str], names: Sequence[str]
) -> tuple[str, str, str, str]:
    action = "*" if dice.random() < _ANY_ACTION_SHARE else dice.choice(ACTIONS)
    shape = SHAPES[dice.choice(list(SHAPES))]
    places = [at for at, word in enumerate(shape) if word == "{}"]
    path = [dice.choice(names) if word == "{}" else word for word in shape]
    style = dice.random()
    if style > 0.8:  # all below one of its names
        path = [*path[: dice.choice(places) + 1], "**"]
    elif style > 0.65:
        path[-1] = "*"
    elif style > 0.5:
        path[dice.choice(places)] = "*"
    return dice.choice(roles), domain, "/" + "/".join(path), action


def _exception(
    dice: random.Random, wide: tuple[str, ...], names: Sequence[str]
) -> tuple[str, str, str, str]:
    """Returns what is denied of something that is allowed: one name of it."""
    role, domain, pattern, action = wide
    words = pattern.split("/")
    if words[-1] == "**":
        words[-1:] = [dice.choice(names), "**"]
    else:
        words[-1] = dice.choice(names)
    return role, domain, "/".join(words), action


def main() -> None:
    from languages import write_all
    from questions import requests

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    world = make_world(options.rules, options.seed)
    asked = requests(world, options.requests, options.seed)
    write_all(world, asked, options.out)
    kinds = {kind: sum(each.kind == kind for each in asked) for kind in ("allow", "deny", "none")}
    print(f"{len(world.rules)} rules in {len(world.tenants)} tenants, {kinds} -> {options.out}")


if __name__ == "__main__":
    main()
