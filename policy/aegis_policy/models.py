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
from aegis_policy.matchers import Matcher, MatcherError, read_matcher

DEFAULT_MODEL = resources.files("aegis_policy").joinpath("model.conf").read_text("utf-8")

DENY_OVERRIDES = "some(where (p.eft == allow)) && !some(where (p.eft == deny))"
FIRST_MATCH = "priority(p.eft) || deny"
# Spelled as PyCasbin compares them, space by space.
_EFFECTS = {
    "".join(effect.split()): effect
    for effect in (DENY_OVERRIDES, FIRST_MATCH, "some(where (p.eft == allow))")
}

_SECTIONS = {
    "request_definition": re.compile(r"r"),
    "policy_definition": re.compile(r"p"),
    "role_definition": re.compile(r"g|g2"),
    "policy_effect": re.compile(r"e"),
    "matchers": re.compile(r"m"),
}
_REQUEST = ("sub", "dom", "obj", "act", "ctx")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_FIELDS = range(1, 33)
_BYTES_MAX = 16_384


@dataclass(frozen=True)
class Model:
    """A model that may be used. `request`, `rule` and `roles` are the names of its fields."""

    text: str
    request: tuple[str, ...]
    rule: tuple[str, ...]
    # By "g" or "g2": how many fields a binding has.
    roles: Mapping[str, int]
    effect: str
    matcher: Matcher

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
        return self.request, self.rule, dict(self.roles), self.matcher.text

    def to_conf(self) -> str:
        """Returns what was understood, as Casbin reads it: what was checked is what runs."""
        roles = "".join(f"{k} = {', '.join('_' * n)}\n" for k, n in self.roles.items())
        return (
            f"[request_definition]\nr = {', '.join(self.request)}\n"
            f"[policy_definition]\np = {', '.join(self.rule)}\n"
            + (f"[role_definition]\n{roles}" if roles else "")
            + f"[policy_effect]\ne = {self.effect}\n[matchers]\nm = {self.matcher.text}\n"
        )


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


@dataclass(frozen=True, slots=True)
class _Definition:
    """The text right of a "=", with its line and column."""

    text: str
    line: int
    column: int


def _read(text: str) -> Model:
    if len(text.encode(errors="replace")) > _BYTES_MAX:
        raise PolicyError([Violation(0, 0, f"model: at most {_BYTES_MAX} bytes")])
    found = _definitions(text)
    faults = []

    def fault(key: str, expected: str, offset: int = 0) -> None:
        at = found.get(key)
        line, column = (at.line, at.column + offset) if at else (0, 0)
        faults.append(Violation(line, column, f"model: {expected}"))

    for key in ("r", "p", "e", "m"):
        if key not in found:
            fault(key, f"expected a definition of {key}")
    fields = {key: _fields(at.text) for key, at in found.items() if key not in ("e", "m")}
    for key, expected in _field_faults(fields):
        fault(key, expected)
    effect = _effect(found["e"].text) if "e" in found else ""
    if not effect and "e" in found:
        # `!some(where (p.eft == deny))` alone allows everything that no rule speaks of.
        effects = "; ".join(_EFFECTS.values())
        fault("e", f"the effect has to need an allow; there are: {effects}")
    matcher = Matcher("", ())
    try:
        matcher = _matcher(found["m"].text, fields) if "m" in found else matcher
    except MatcherError as error:
        fault("m", error.message, error.offset)
    if faults:
        raise PolicyError(faults)
    roles = {key: len(names) for key, names in fields.items() if key in ("g", "g2")}
    return Model(text, fields["r"], fields["p"], roles, effect, matcher)


def _effect(text: str) -> str:
    return _EFFECTS.get("".join(text.replace("p_eft", "p.eft").split()), "")


def _matcher(text: str, fields: Mapping[str, tuple[str, ...]]) -> Matcher:
    matcher = read_matcher(text, fields)
    if "cond" in fields.get("p", ()) and all(call.name != "cond" for call in matcher.calls):
        # A rule would count whatever its condition says.
        raise MatcherError("rules have a field cond, so the matcher needs cond(p.cond, ...)", 0)
    return matcher


def _field_faults(fields: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    if "g2" in fields and "g" not in fields:
        yield "g2", "PyCasbin finds g2 only where there is g"
    for key, names in fields.items():
        if key == "r":
            if not set(names) <= set(_REQUEST) or len(set(names)) < len(names) or not names:
                yield key, f"a request has different fields among {', '.join(_REQUEST)}"
        elif key == "p":
            if not all(map(_NAME.fullmatch, names)) or len({*names}) not in _FIELDS:
                yield key, f"expected 1 to {_FIELDS[-1]} names such as sub, obj, act"
            elif len(set(names)) < len(names):
                yield key, "expected different names"
        elif set(names) != {"_"} or len(names) not in (2, 3):
            yield key, 'expected "_, _" or "_, _, _"'


def _definitions(text: str) -> dict[str, _Definition]:
    """Returns definitions by their names; raises `PolicyError`.

    A "#" begins a comment anywhere, as in Go; PyCasbin would take it into the last field.
    """
    found: dict[str, _Definition] = {}
    names: re.Pattern[str] | None = None
    faults = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.partition("#")[0].strip()
        if not line or line.startswith(";"):
            continue
        column = raw.index(line) + 1
        if line.startswith("["):
            names = _SECTIONS.get(line[1:-1]) if line.endswith("]") else None
            if names is None:
                faults.append(Violation(number, column, f"model: no section {line[:60]!r}"))
                names = re.compile(".*")
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or names is None or names.fullmatch(key) is None or key in found:
            expected = "expected name = definition, once, in its section"
            faults.append(Violation(number, column, f"model: {expected}, found {line[:60]!r}"))
        elif value.endswith("\\"):
            faults.append(Violation(number, column, "model: a definition stands in one line"))
        else:
            begins = line.index("=") + 1
            gap = len(line[begins:]) - len(line[begins:].lstrip())
            found[key] = _Definition(value, number, column + begins + gap)
    if faults:
        raise PolicyError(faults)
    return found


def _fields(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()
