"""A rule set of `rules` as Cerbos policies, and a person's roles as Cerbos is told them.

    from cerbos_policies import policies, roles

One resource policy for each tenant and kind of resource, so that Cerbos finds the few rules that
matter by its own index. It resolves no roles: whoever asks names all of them, inherited ones too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from questions import Request

from rules import ANYWHERE, SHAPES, Rule, World


def policies(world: World) -> Iterator[tuple[str, str]]:
    """Yields file name and text of a policy for each tenant and kind of resource.

    A tenant is a policy version. Rules of the platform are in each of them, because the nearest
    scope of Cerbos would win over them where a deny has to.
    """
    everywhere: dict[str, list[Rule]] = {}
    of: dict[tuple[str, str], list[Rule]] = {}
    for rule in world.rules:
        kind = rule.pattern.split("/")[1]
        if rule.domain == ANYWHERE:
            everywhere.setdefault(kind, []).append(rule)
        else:
            of.setdefault((rule.domain, kind), []).append(rule)
    for domain in world.tenants:
        for kind in SHAPES:
            rules = of.get((domain, kind), []) + everywhere.get(kind, [])
            policy = {
                "apiVersion": "api.cerbos.dev/v1",
                "resourcePolicy": {
                    "resource": kind,
                    "version": domain,
                    "rules": [_rule(rule) for rule in rules],
                },
            }
            # JSON is YAML, and is written without a library.
            yield f"{domain}-{kind}.yaml", json.dumps(policy, indent=1)


def _rule(rule: Rule) -> dict[str, object]:
    """Returns a rule of Cerbos.

    It asks role by role, and one that allows is enough: a deny bound to another role would not
    count. So a deny is bound to all roles and asks for its own in the condition.
    """
    name, path = role_name(rule.role, rule.domain), _path(rule.pattern)
    allows = rule.effect == "allow"
    condition = path if allows else f'"{name}" in P.roles && ({path})'
    return {
        "actions": [rule.action],
        "effect": "EFFECT_ALLOW" if allows else "EFFECT_DENY",
        "roles": [name] if allows else ["*"],
        "condition": {"match": {"expr": condition}},
    }


def role_name(role: str, domain: str) -> str:
    """Returns a role's name there: only those of the platform keep apart from a tenant's."""
    return role.replace(":", "-" if domain != ANYWHERE else "-platform-")


def _path(pattern: str) -> str:
    words = pattern.split("/")[1:]
    if "*" not in pattern:
        return f'R.id == "{pattern}"'
    rest = words[-1] == "**"
    if rest:
        words.pop()
        if "*" not in words:
            prefix = "/" + "/".join(words)
            return f'R.id.startsWith("{prefix}/") || R.id == "{prefix}"'
    tests = [f"size(R.attr.s) {'>=' if rest else '=='} {len(words)}"]
    tests += [f'R.attr.s[{at}] == "{word}"' for at, word in enumerate(words) if word != "*"]
    return " && ".join(tests)


def roles(world: World, request: Request) -> list[str]:
    """Returns all roles of who asks, as a request to Cerbos names them."""
    return [
        role_name(role, domain)
        for domain in (request.domain, ANYWHERE)
        for role in world.roles_of(request.subject, domain)
    ]
