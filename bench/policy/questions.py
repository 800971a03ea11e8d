"""Questions about a rule set of `rules`, with the right answers.

    from questions import requests

A third each is allowed by a rule from the middle of the list, denied although another rule
allows it, and matched by no rule, though subject, tenant and kind of resource exist. `Reference`
looks at every rule that could match and uses no library: engines are held against it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from rules import ACTIONS, ANYWHERE, SEED, Rule, World


class Request(NamedTuple):
    """One question. `kind` is what it was made for: allow, deny or none."""

    subject: str
    domain: str
    resource: str
    action: str
    kind: str

    @property
    def allowed(self) -> bool:
        """The right answer."""
        return self.kind == "allow"


def fits(resource: str, pattern: str) -> bool:
    """Says whether a path fits a pattern, written once more and without any library."""
    asked, wanted = resource.split("/"), pattern.split("/")
    if wanted[-1] == "**":
        wanted.pop()
        asked = asked[: len(wanted)]
    return len(asked) == len(wanted) and all(
        want in ("*", have) for have, want in zip(asked, wanted, strict=True)
    )


def requests(world: World, count: int, seed: int = SEED) -> list[Request]:
    """Returns questions, a third each: allowed by a rule of the middle, denied, and unknown.

    Denied means that a rule allows and another denies. Unknown means that nothing matches,
    though subject, tenant and kind of resource exist.
    """
    dice = random.Random(f"{seed}/requests")
    middle = world.rules[len(world.rules) // 3 : -len(world.rules) // 3]
    denying = [rule for rule in world.rules if rule.effect == "deny"]
    wanted = dict.fromkeys(("allow", "deny", "none"), -(-count // 3))
    made: list[Request] = []
    reference = Reference(world)
    for _ in range(count * 200):
        kind = next((kind for kind, left in wanted.items() if left), None)
        if kind is None:
            break
        rule = dice.choice(denying if kind == "deny" else middle)
        asked = _asked(dice, world, rule, kind)
        if asked is not None and reference.kind(asked) == kind:
            made.append(asked)
            wanted[kind] -= 1
    dice.shuffle(made)
    return made[:count]


def _asked(dice: random.Random, world: World, rule: Rule, kind: str) -> Request | None:
    domain = dice.choice(world.tenants) if rule.domain == ANYWHERE else rule.domain
    held = world.held[rule.domain]
    members = [name for name in held if rule.role in world.roles_of(name, rule.domain)]
    if not members:
        return None
    action = dice.choice(ACTIONS) if rule.action == "*" or kind == "none" else rule.action
    resource = "".join("/" + word for word in _named(dice, rule.pattern))
    if kind == "none":
        resource += "/unknown"
    return Request(dice.choice(members), domain, resource, action, kind)


def _named(dice: random.Random, pattern: str) -> Iterator[str]:
    for word in pattern.split("/")[1:]:
        if word == "**":
            yield from (f"x{dice.randrange(10**6)}" for _ in range(dice.randint(1, 2)))
        else:
            yield f"x{dice.randrange(10**6)}" if word == "*" else word


class Reference:
    """The right answers: every rule of a domain and an action is looked at."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._of: dict[tuple[str, str], list[Rule]] = {}
        for rule in world.rules:
            self._of.setdefault((rule.domain, rule.action), []).append(rule)

    def kind(self, request: Request) -> str:
        """Returns allow, deny (of what is allowed otherwise), denied (of what is not), or none."""
        found = set()
        for domain in (request.domain, ANYWHERE):
            roles = set(self._world.roles_of(request.subject, domain))
            for action in (request.action, "*"):
                for rule in self._of.get((domain, action), ()):
                    if rule.role in roles and fits(request.resource, rule.pattern):
                        found.add(rule.effect)
        if "deny" in found:
            return "deny" if "allow" in found else "denied"
        return "allow" if found else "none"


def fresh(world: World, asked: list[Request], count: int, tag: str) -> list[Request]:
    """Returns `count` questions that nobody has asked before, if `tag` is a new one.

    They are about something below what the rules name with `**`, or about what no rule names, and
    have the answers of those they were made from.
    """
    reference = Reference(world)
    below = [each._replace(resource=each.resource + "/q") for each in asked]
    good = [each for each in below if reference.kind(each) == each.kind]
    of_kind = [[each for each in good if each.kind == kind] for kind in ("allow", "deny", "none")]
    kinds = [each for each in of_kind if each]
    made = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        template = kind[number // len(kinds) % len(kind)]
        made.append(template._replace(resource=f"{template.resource}{tag}-{number}"))
    return made
