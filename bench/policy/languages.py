"""One rule set in the languages of the engines that are compared.

    from languages import write_all

Each gets what its own documentation would have an author write, with the work done beforehand
that an author could do: Cedar tests the cheap scope (role, action, tenant) before a path; Rego
looks rules up by tenant, action and role in a data document, with all roles of a person listed;
Cerbos has a policy for each tenant and kind of resource, and is told all roles with each request.
Casbin's rows go as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from cerbos_policies import policies
from questions import Request

from rules import ANYWHERE, Rule, World

REGO = """package bench

import rego.v1

default allow := false

allow if {
    matched("allow")
    not matched("deny")
}

matched(effect) if {
    some domain in [input.dom, "*"]
    some role in object.get(data.roles, [domain, input.sub], [])
    some action in [input.act, "*"]
    some rule in data.rules[effect][domain][action][role]
    fits(rule)
}

fits(rule) if rule.path == input.obj

fits(rule) if {
    rule.rest == false
    count(rule.segments) == count(input.segments)
    agree(rule)
}

fits(rule) if {
    rule.rest == true
    count(rule.segments) <= count(input.segments)
    agree(rule)
}

agree(rule) if {
    every at, want in rule.segments { want in ["*", input.segments[at]] }
}
"""


def casbin(world: World) -> Iterator[str]:
    """Yields the lines of a rule file as Aegis and Casbin read them."""
    for rule in world.rules:
        yield ", ".join(("p", *rule[:4], "", *rule[4:]))
    for domain, members in world.held.items():
        for member, roles in members.items():
            for role in roles:
                yield (
                    f"g2, {member}, {role}"
                    if domain == ANYWHERE
                    else f"g, {member}, {role}, {domain}"
                )
    for member, above in world.above.items():
        scopes = [ANYWHERE] if _of_platform(world, member) else world.tenants
        for role in above:
            for domain in scopes:
                yield (
                    f"g2, {member}, {role}"
                    if domain == ANYWHERE
                    else f"g, {member}, {role}, {domain}"
                )


def _of_platform(world: World, role: str) -> bool:
    return any(role in world.roles_of(member, ANYWHERE) for member in world.held[ANYWHERE])


def cedar(world: World) -> Iterator[str]:
    """Yields one policy a rule. Roles are entities of a tenant, the resource is the tenant."""
    for rule in world.rules:
        word = "permit" if rule.effect == "allow" else "forbid"
        action = "action" if rule.action == "*" else f'action == Action::"{rule.action}"'
        resource = "resource" if rule.domain == ANYWHERE else f'resource == Tenant::"{rule.domain}"'
        yield (
            f'@id("{rule.id}") {word} (principal in Role::"{rule.role}@{rule.domain}", {action}, '
            f"{resource}) when {{ {_cedar_path(rule.pattern)} }};"
        )


def _cedar_path(pattern: str) -> str:
    words = pattern.split("/")[1:]
    if "*" not in pattern:
        return f'context.path == "{pattern}"'
    rest = words[-1] == "**"
    if rest:
        words.pop()
        if "*" not in words:
            prefix = "/" + "/".join(words)
            return f'context.path like "{prefix}/*" || context.path == "{prefix}"'
    tests = [f"context.n {'>=' if rest else '=='} {len(words)}"]
    tests += [f'context.s{at} == "{word}"' for at, word in enumerate(words) if word != "*"]
    return " && ".join(tests)


def cedar_entities(world: World) -> list[dict[str, object]]:
    """Returns people and roles with their parents."""
    parents: dict[tuple[str, str], list[str]] = {}
    for domain, members in world.held.items():
        for member, roles in members.items():
            parents.setdefault(("User", member), []).extend(f"{role}@{domain}" for role in roles)
        for role, above in world.above.items():
            parents[("Role", f"{role}@{domain}")] = [f"{each}@{domain}" for each in above]
    return [
        {
            "uid": {"type": kind, "id": name},
            "attrs": {},
            "parents": [{"type": "Role", "id": role} for role in roles],
        }
        for (kind, name), roles in parents.items()
    ]


def cedar_request(request: Request) -> dict[str, object]:
    """Returns a question as cedarpy takes it."""
    words = request.resource.split("/")[1:]
    context: dict[str, object] = {f"s{at}": word for at, word in enumerate(words)}
    return {
        "principal": {"type": "User", "id": request.subject},
        "action": {"type": "Action", "id": request.action},
        "resource": {"type": "Tenant", "id": request.domain},
        "context": context | {"path": request.resource, "n": len(words)},
    }


def rego_data(world: World) -> dict[str, object]:
    """Returns the data document that `REGO` looks rules up in."""
    found: dict[str, object] = {}
    for rule in world.rules:
        at = found
        for key in (rule.effect, rule.domain, rule.action):
            at = at.setdefault(key, {})
        at.setdefault(rule.role, []).append(_rego_rule(rule))
    roles = {
        domain: {member: world.roles_of(member, domain) for member in members}
        for domain, members in world.held.items()
    }
    return {"rules": found, "roles": roles}


def _rego_rule(rule: Rule) -> dict[str, object]:
    words = rule.pattern.split("/")[1:]
    if "*" not in rule.pattern:
        return {"path": rule.pattern}
    rest = words[-1] == "**"
    return {"segments": words[:-1] if rest else words, "rest": rest}


def rego_input(request: Request) -> dict[str, object]:
    """Returns a question as `REGO` reads it."""
    return {
        "sub": request.subject,
        "dom": request.domain,
        "act": request.action,
        "obj": request.resource,
        "segments": request.resource.split("/")[1:],
    }


WRITERS: dict[str, Callable[[World], str]] = {
    "rules.csv": lambda world: "\n".join(casbin(world)) + "\n",
    "rules.cedar": lambda world: "\n".join(cedar(world)) + "\n",
    "entities.json": lambda world: json.dumps(cedar_entities(world)),
    "data.json": lambda world: json.dumps(rego_data(world)),
    "rules.rego": lambda world: REGO,
}


def write_all(world: World, asked: list[Request], out: Path) -> None:
    """Writes every language into `out`, Cerbos' policies below `out`/cerbos."""
    (out / "cerbos").mkdir(parents=True, exist_ok=True)
    for name, text in WRITERS.items():
        (out / name).write_text(text(world))
    for name, text in policies(world):
        (out / "cerbos" / name).write_text(text)
    (out / "requests.json").write_text(json.dumps(asked))
