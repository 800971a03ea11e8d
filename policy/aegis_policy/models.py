"""Casbin models: read strictly, and known by what they mean, not by how they are spaced.

Two of them are Aegis' own and compiled: deny outweighs every allow (the default), and the first
rule in the file that matches decides (`priority(p.eft) || deny`). Any other model is an admin's
own and is evaluated by PyCasbin, within limits: a model that could run a rule's text as program,
that could take minutes for one request, or that allows where no rule does, is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

from aegis_policy.faults import PolicyError, Violation

DEFAULT_MODEL = resources.files("aegis_policy").joinpath("model.conf").read_text("utf-8")

DENY_OVERRIDES = "some(where(p.eft==allow))&&!some(where(p.eft==deny))"
FIRST_MATCH = "priority(p.eft)||deny"
_EFFECTS = (DENY_OVERRIDES, FIRST_MATCH, "some(where(p.eft==allow))")

_SECTIONS = {
    "request_definition": re.compile(r"r"),
    "policy_definition": re.compile(r"p"),
    "role_definition": re.compile(r"g|g2"),
    "policy_effect": re.compile(r"e"),
    "matchers": re.compile(r"m"),
}
_REQUEST = ("sub", "dom", "obj", "act", "ctx")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_FUNCTION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*\(")
# Bounded, and without a way to program text: no eval, no regexMatch, no keyGet.
FUNCTIONS = frozenset(
    {"cond", "g", "g2", "globMatch", "ipMatch", "keyMatch", "keyMatch2", "keyMatch3", "resMatch"}
)
_MATCHER_BYTES_MAX = 2048


@dataclass(frozen=True)
class Model:
    """A model that may be used. `request`, `rule` and `roles` are the names of its fields."""

    text: str
    request: tuple[str, ...]
    rule: tuple[str, ...]
    # By "g" or "g2": how many fields a binding has.
    roles: Mapping[str, int]
    effect: str
    matcher: str

    @cached_property
    def compiled(self) -> bool:
        """Says whether rules of this model are compiled."""
        return self.effect in (DENY_OVERRIDES, FIRST_MATCH) and self.shape == _default().shape

    @property
    def first_match(self) -> bool:
        """Says whether the first rule that matches decides."""
        return self.effect == FIRST_MATCH

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of its text."""
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def shape(self) -> tuple[object, ...]:
        """What it means, its effect aside: two models of one shape differ in their layout."""
        return self.request, self.rule, dict(self.roles), "".join(self.matcher.split())


def read_model(text: str | None = None) -> Model:
    """Returns a model, Aegis' own for None; raises `PolicyError` naming line and column."""
    if text is None or text == DEFAULT_MODEL:
        return _default()
    return _read(text)


_cached: list[Model] = []


def _default() -> Model:
    if not _cached:
        _cached.append(_read(DEFAULT_MODEL))
    return _cached[0]


def _read(text: str) -> Model:
    found, lines = _sections(text)
    faults = []

    def fault(key: str, expected: str) -> None:
        faults.append(Violation(lines.get(key, 0), 1 if key in lines else 0, f"model: {expected}"))

    for key in ("r", "p", "e", "m"):
        if key not in found:
            fault(key, f"expected a definition of {key}")
    request, rule = _fields(found.get("r", "")), _fields(found.get("p", ""))
    roles: dict[str, int] = {k: len(_fields(found[k])) for k in ("g", "g2") if k in found}
    effect = "".join(found.get("e", "").replace("p_eft", "p.eft").split())
    for key, expected in _field_faults(request, rule, {k: found[k] for k in roles}):
        fault(key, expected)
    if effect not in _EFFECTS:
        # `!some(where (p.eft == deny))` alone allows everything that no rule speaks of.
        fault("e", "the effect has to need an allow; there are: " + "; ".join(_EFFECTS))
    for wrong in _matcher_faults(found.get("m", ""), roles):
        fault("m", wrong)
    if faults:
        raise PolicyError(faults)
    return Model(text, request, rule, roles, effect, found["m"])


def _field_faults(
    request: tuple[str, ...], rule: tuple[str, ...], roles: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    if not request or not set(request) <= set(_REQUEST):
        yield "r", f"a request has fields among {', '.join(_REQUEST)}"
    if any(_NAME.fullmatch(name) is None for name in rule) or len(set(rule)) < len(rule):
        yield "p", "expected different names such as sub, obj, act"
    for key, fields in roles.items():
        if set(_fields(fields)) != {"_"} or len(_fields(fields)) not in (2, 3):
            yield key, 'expected "_, _" or "_, _, _"'


def _matcher_faults(matcher: str, roles: Mapping[str, int]) -> list[str]:
    faults = []
    if len(matcher.encode()) > _MATCHER_BYTES_MAX:
        faults.append(f"a matcher has at most {_MATCHER_BYTES_MAX} bytes")
    for name in sorted(set(_FUNCTION.findall(matcher)) - {"or", "and", "not", "in"}):
        if name == "eval":
            faults.append("eval() splices rules into the matcher as program text")
        elif name not in FUNCTIONS:
            faults.append(f"{name} is no function here; there are {', '.join(sorted(FUNCTIONS))}")
        elif name in ("g", "g2") and name not in roles:
            faults.append(f"{name} has no role_definition")
    if re.search(r"\*\*|<<|\*\s*\d", matcher):
        faults.append("no arithmetic: it can take minutes")
    return faults


def _sections(text: str) -> tuple[dict[str, str], dict[str, int]]:
    """Returns definitions and their line numbers, by their names; raises `PolicyError`."""
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    names: re.Pattern[str] | None = None
    faults = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        if line.startswith("["):
            names = _SECTIONS.get(line.strip("[]"))
            if names is None:
                faults.append(Violation(number, 1, f"model: there is no section {line}"))
                names = re.compile(".*")
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or names is None or names.fullmatch(key) is None or key in found:
            expected = "expected name = definition, once, in its section"
            faults.append(Violation(number, 1, f"model: {expected}, found {line[:60]!r}"))
            continue
        found[key], lines[key] = value, number
    if faults:
        raise PolicyError(faults)
    return found, lines


def _fields(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()
