"""What a condition says, apart from how it is written; and the periods that bound its life."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from datetime import datetime
from functools import lru_cache

from aegis_policy.lint.survey import Finding, Rule
from aegis_policy.syntax import (
    Call,
    Comparison,
    Constant,
    Junction,
    Negation,
    Node,
    Path,
    Values,
    parse,
)
from aegis_policy.windows import Period

_parse = lru_cache(maxsize=1024)(parse)


def meaning(condition: str) -> Hashable:
    """Returns the same for conditions that differ only in layout, quotes or the order of a list.

    What `and` and `or` join keeps its order: a deny matches when the first of two has no answer,
    and does not when the first is false.
    """
    return _meaning(_parse(condition)) if condition else ""


def _meaning(node: Node) -> Hashable:
    match node:
        case Constant(value=value):
            return type(value).__name__, value
        case Values(items=items):
            return "list", frozenset(_meaning(item) for item in items)
        case Path(names=names):
            return "path", names
        case Negation(operand=operand):
            return "not", _meaning(operand)
        case Comparison(comparator=comparator, left=left, right=right):
            return comparator, _meaning(left), _meaning(right)
        case Call(name=name, arguments=parts) | Junction(word=name, operands=parts):
            return name, tuple(_meaning(part) for part in parts)


def texts(condition: str) -> Iterator[str]:
    """Returns the texts in quotes of a condition."""
    return _texts(_parse(condition)) if condition else iter(())


def _texts(node: Node) -> Iterator[str]:
    match node:
        case Constant(value=str() as text):
            yield text
        case Values(items=parts) | Call(arguments=parts) | Junction(operands=parts):
            for part in parts:
                yield from _texts(part)
        case Negation(operand=operand):
            yield from _texts(operand)
        case Comparison(left=left, right=right):
            yield from _texts(left)
            yield from _texts(right)


def periods(condition: str) -> list[Period]:
    """Returns the periods outside of which a condition never holds."""
    return list(_periods(_parse(condition))) if "between" in condition else []


def _periods(node: Node) -> Iterator[Period]:
    match node:
        case Junction(word="and", operands=operands):
            for operand in operands:
                yield from _periods(operand)
        case Call(name="between", arguments=(Constant(value=str(begin)), Constant(value=str(end)))):
            yield Period.parse(begin, end)


def is_over(condition: str, now: datetime) -> bool:
    """Says whether a condition can never hold again."""
    return any(period.end <= now for period in periods(condition))


def window_findings(rules: Iterable[Rule], now: datetime) -> Iterator[Finding]:
    """Returns the rules whose time is over, and those whose time has not come."""
    for rule in rules:
        bounds = periods(rule.condition)
        if not bounds:
            continue
        begin = max(period.begin for period in bounds)
        end = min(period.end for period in bounds)
        if end <= now:
            text = f"its time ended at {end:%Y-%m-%d %H:%M} UTC: remove it, or give it a new one"
            yield rule.found("warning", "expired-rule", text)
        elif end <= begin:
            yield rule.found("warning", "expired-rule", "no instant is in all of its periods")
        elif begin > now:
            text = f"its time begins at {begin:%Y-%m-%d %H:%M} UTC"
            yield rule.found("note", "not-yet-active", text)
