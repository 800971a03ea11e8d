"""Matchers of own models: a closed grammar, of which PyCasbin gets to see nothing else.

    matcher   = test { ("&&" | "||") test }
    test      = [ "!" ] ( comparison | call | "(" matcher ")" )
    comparison = operand ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) operand
              | operand "in" "[" operand { "," operand } "]"
    call      = name "(" operand { "," operand } ")"
    operand   = "r." field | "p." field | text in quotes

Casbin's Python evaluator takes far more: attributes, comprehensions, arithmetic, `%` on texts.
What is listed here always comes to true or false, and its cost follows the length of its texts.
`and`, `or` and `not` may be written for the signs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from aegis_policy.paths import fault_of_pattern

MAX_BYTES = 2048
MAX_DEPTH = 16

_GAP = r"[ \t]*"
_OPERAND = r"""(?:[rp]\.[a-z][a-z0-9_]*|'[^'"\\]*'|"[^'"\\]*")"""
_OPERANDS = rf"{_OPERAND}(?:{_GAP},{_GAP}{_OPERAND})*"
_TOKEN = re.compile(
    rf"(?P<name>[A-Za-z_][A-Za-z0-9_]*){_GAP}\({_GAP}(?P<arguments>{_OPERANDS}){_GAP}\)"
    rf"|(?P<item>{_OPERAND})[ \t]+in{_GAP}(?:\[(?P<list>{_GAP}{_OPERANDS}{_GAP})\]"
    rf"|\((?P<tuple>{_GAP}{_OPERAND}{_GAP},{_GAP}(?:{_OPERANDS}{_GAP},?{_GAP})?)\))"
    rf"|(?P<left>{_OPERAND}){_GAP}(?P<comparator>[=!<>]=|<|>){_GAP}(?P<right>{_OPERAND})"
    r"|(?P<junction>&&|\|\||(?:and|or)\b)|(?P<negation>!|not\b)|(?P<bracket>[()])"
)
_CALLED = re.compile(rf"([A-Za-z_][A-Za-z0-9_.]*){_GAP}\(")
_SIGNS = {"and": "&&", "or": "||", "not": "!"}
# PyCasbin rewrites these wherever they stand, between quotes, too.
_REWRITTEN = re.compile(r"&&|\|\||[!#]|\b[rp]\d*\.")


class Call(NamedTuple):
    """A function with what it is called with; a text has its quotes."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matcher:
    """A matcher in the one way it is spelled, and what it calls."""

    text: str
    calls: tuple[Call, ...]

    def patterns(self) -> Iterator[tuple[str, str]]:
        """Returns functions that match with the operand that is their pattern."""
        for call in self.calls:
            if call.name in PATTERNS:
                yield call.name, call.arguments[1]


class MatcherError(ValueError):
    """A matcher that is not used; `offset` counts characters from its start."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


def read_matcher(text: str, fields: Mapping[str, tuple[str, ...]]) -> Matcher:
    """Reads a matcher; raises `MatcherError`.

    `fields` has the names of fields by "r" and "p", and of bindings by "g" and "g2".
    """
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise MatcherError(f"a matcher has at most {MAX_BYTES} bytes", 0)
    written: list[str] = []
    calls: list[Call] = []
    # For every bracket that is open, whether it or one around it is negated.
    negated: list[bool] = []
    # The word before decides what may follow: a test, or what joins it to the next.
    wants_test = True
    for token, at in _tokens(text):
        sign = _SIGNS.get(token[0], token[0])
        if (sign in ("&&", "||", ")")) is wants_test or (sign == ")" and not negated):
            raise MatcherError("expected a test" if wants_test else "expected && or ||", at)
        below_not = written[-1:] == ["!"]
        if sign == "!" and below_not:
            raise MatcherError("nothing is negated twice", at)
        if sign == "(":
            negated.append(below_not or negated[-1:] == [True])
        elif sign == ")":
            negated.pop()
        elif token["name"] == "cond" and (below_not or negated[-1:] == [True]):
            # It is false where it has no answer, which must not help who asks.
            raise MatcherError("cond is not negated: a condition has its own not", at)
        if len(negated) > MAX_DEPTH:
            raise MatcherError(f"at most {MAX_DEPTH} brackets inside each other", at)
        written.append(_checked(token, at, fields, calls))
        wants_test = sign in ("&&", "||", "(", "!")
    if wants_test or negated:
        wrong = "expected a test" if wants_test else "a bracket is not closed"
        raise MatcherError(wrong, len(text))
    return Matcher(" ".join(written), tuple(calls))


def _tokens(text: str) -> Iterator[tuple[re.Match[str], int]]:
    at = len(text) - len(text.lstrip(" \t"))
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise MatcherError(_why_none(text[at:]), at)
        yield match, at
        at = match.end()
        at += len(text[at:]) - len(text[at:].lstrip(" \t"))


def _why_none(rest: str) -> str:
    """Says why nothing of the grammar stands at the beginning of a text."""
    called = _CALLED.match(rest)
    if called is not None and called[1] not in FUNCTIONS:
        return _no_function(called[1])
    if re.match(rf"{_OPERAND}[ \t]+in\b", rest):
        return '"in" wants a list such as ["a"]: in a text, PyCasbin would look for a part of it'
    if called is not None:
        return f"{called[1]} takes fields and texts in quotes, with commas between"
    return "expected fields (r.NAME, p.NAME) and texts compared, or a function; nothing else"


def _no_function(name: str) -> str:
    if name == "eval":
        return "eval() splices rules into the matcher as program text"
    return f"{name} is no function here; there are {', '.join(sorted(FUNCTIONS))}"


def _checked(
    token: re.Match[str], at: int, fields: Mapping[str, tuple[str, ...]], calls: list[Call]
) -> str:
    """Returns a token as it is spelled here; raises for a name that means nothing."""
    if token["name"] is not None:
        call = Call(token["name"], _operands(token["arguments"]))
        fault = _fault_of_operands(call.arguments, fields, context=call.name == "cond")
        if fault := fault or _fault_of_call(call, fields):
            raise MatcherError(fault, at)
        calls.append(call)
        return f"{call.name}({', '.join(call.arguments)})"
    if token["item"] is not None:
        values = _operands(token["list"] or token["tuple"])
        operands: tuple[str, ...] = (*_operands(token["item"]), *values)
        spelled = f"{operands[0]} in [{', '.join(values)}]"
    elif token["left"] is not None:
        operands = (*_operands(token["left"]), *_operands(token["right"]))
        spelled = f"{operands[0]} {token['comparator']} {operands[1]}"
    else:
        return _SIGNS.get(token[0], token[0])
    if fault := _fault_of_operands(operands, fields, context=False):
        raise MatcherError(fault, at)
    return spelled


def _operands(text: str) -> tuple[str, ...]:
    """Returns operands; texts in double quotes, which none has inside."""
    return tuple(found.replace("'", '"') for found in re.findall(_OPERAND, text))


def _fault_of_operands(
    operands: tuple[str, ...], fields: Mapping[str, tuple[str, ...]], *, context: bool
) -> str:
    for operand in operands:
        if operand.startswith('"'):
            if found := _REWRITTEN.search(operand):
                return f"PyCasbin rewrites {found[0]} between quotes, too"
            continue
        kind, _, name = operand.partition(".")
        if name not in fields.get(kind, ()):
            return f"there is no field {operand}; {kind} has {', '.join(fields.get(kind, ()))}"
        if operand == "r.ctx" and not context:
            # Nothing else notes which attributes it reads, and until when its answer holds.
            return "only cond(p.cond, p.eft, r.ctx) reads r.ctx"
    return ""


def _fault_of_call(call: Call, fields: Mapping[str, tuple[str, ...]]) -> str:
    if call.name not in FUNCTIONS:
        return _no_function(call.name)
    if call.name in ("g", "g2") and call.name not in fields:
        return f"{call.name} has no role_definition"
    # PyCasbin would ignore a domain that is too much, and find nothing without one.
    wanted = 3 if call.name == "cond" else len(fields.get(call.name, "ab"))
    if len(call.arguments) != wanted:
        return f"{call.name} takes {wanted} arguments"
    if call.name == "cond":
        effects = ("p.eft",) if "eft" in fields.get("p", ()) else ('"allow"', '"deny"')
        if call.arguments not in {("p.cond", effect, "r.ctx") for effect in effects}:
            return f"expected cond(p.cond, {effects[0]}, r.ctx)"
    if call.name in PATTERNS:
        return _fault_of_pattern(call.name, call.arguments[1])
    return ""


def _fault_of_pattern(function: str, operand: str) -> str:
    if operand.startswith("r."):
        return "a pattern comes from the rule, never from who asks"
    return PATTERNS[function](operand[1:-1]) if operand.startswith('"') else ""


def _fault_of_regex(pattern: str) -> str:
    """Returns what would make a program of a pattern that keyMatch2 and keyMatch3 hand to `re`."""
    if re.search(r"[()\[\]+?|\\^$]", pattern):
        return "no signs of regular expressions: they can take minutes"
    if re.search(r"\{[^}/]*(?:[{/]|$)|\{[0-9,]*\}|^\}|^[^{]*\}", pattern):
        return "a variable is {name}, inside one segment"
    if pattern == "*":
        return ""
    if re.search(r"(?<!/)\*", pattern):
        return '"*" comes after "/" and stands for everything below it'
    if pattern.count("*") > 1 or any(part.count("{") > 1 for part in pattern.split("/")):
        return 'at most one "*", and one variable a segment: more can take minutes'
    return ""


def _fault_of_glob(pattern: str) -> str:
    """Returns what globMatch would take for something else, or take minutes for."""
    if re.search(r"[()\[\]+?|\\^$!{},]", pattern):
        return 'of all signs only "*" and "**" are used in globs: others can take minutes'
    segments = pattern.split("/")
    if segments.count("**") > 1 or any(p != "**" and p.count("*") > 1 for p in segments):
        return 'at most one "*" a segment, and one "**" as a whole one: more can take minutes'
    return ""


def _fault_of_network(pattern: str) -> str:
    try:
        ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return "expected an IP address or a network"
    return ""


def _fault_of_prefix(pattern: str) -> str:
    """A pattern of keyMatch: everything behind its first star is ignored, so there is nothing."""
    return "keyMatch ignores what comes behind a star" if "*" in pattern[:-1] else ""


# By function, what finds the fault of a pattern.
PATTERNS: Mapping[str, Callable[[str], str]] = {
    "globMatch": _fault_of_glob,
    "ipMatch": _fault_of_network,
    "keyMatch": _fault_of_prefix,
    "keyMatch2": _fault_of_regex,
    "keyMatch3": _fault_of_regex,
    "resMatch": fault_of_pattern,
}
# Bounded, and without a way to program text: no eval, no regexMatch, no keyGet.
FUNCTIONS = frozenset({"cond", "g", "g2", *PATTERNS})
