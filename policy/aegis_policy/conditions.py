"""Conditions of rules: checked once, compiled once to plain functions, never `eval`.

A condition that cannot be answered (an attribute is missing, or has another type than it is
compared with) is the caller's to decide: `holds` raises `Unanswerable`, and the engine then lets
an allow rule not match and a deny rule match. Types are strict for that reason: were `5 == "off"`
simply false, a wrong type would step around a deny.
"""

from __future__ import annotations

import ipaddress
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias

from aegis_policy.syntax import (
    Call,
    Comparison,
    ConditionError,
    Constant,
    Junction,
    Negation,
    Node,
    Path,
    Values,
    parse,
)
from aegis_policy.windows import Period, Weekly


class Unanswerable(Exception):
    """An attribute is missing or has the wrong type."""


@dataclass(slots=True)
class Moment:
    """What conditions look at during one decision; collects when their answers would change."""

    attributes: Mapping[str, object]
    now: datetime
    valid_until: datetime | None = None

    def note_change(self, instant: datetime | None) -> None:
        """Remembers the earliest instant at which some clock that was read changes its answer."""
        if instant is not None and (self.valid_until is None or instant < self.valid_until):
            self.valid_until = instant


# Addresses of IPv4 are written ::ffff:0:0/96 in IPv6.
_MAPPED_BITS = 96
Test: TypeAlias = Callable[[Moment], bool]
Operand: TypeAlias = Callable[[Moment], object]
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled condition. `attributes` are the first names of the `paths` it may read."""

    source: str
    attributes: frozenset[str]
    paths: frozenset[tuple[str, ...]]
    _test: Test = field(repr=False)

    def holds(self, moment: Moment) -> bool:
        """Returns its truth; raises `Unanswerable`."""
        return self._test(moment)


def compile_condition(source: str) -> Condition:
    """Returns the condition; raises `ConditionError` when it does not parse or cannot be right."""
    tree = parse(source)
    paths = frozenset(_paths(tree))
    test = _test(tree)
    if not paths and not _reads_clock(tree):
        raise ConditionError("never depends on the request: leave the condition empty instead", 0)
    return Condition(source, frozenset(path[0] for path in paths), paths, test)


def _children(node: Node) -> tuple[Node, ...]:
    match node:
        case Junction(operands=children) | Call(arguments=children):
            return children
        case Comparison(left=left, right=right):
            return (left, right)
        case Negation(operand=child):
            return (child,)
        case _:
            return ()


def _paths(node: Node) -> set[tuple[str, ...]]:
    paths = {node.names} if isinstance(node, Path) else set()
    return paths.union(*(_paths(child) for child in _children(node)))


def value_at(moment: Moment, path: Sequence[str]) -> str:
    """Returns what a path leads to, as text for people; "missing" where it leads nowhere."""
    try:
        return str(_attribute(path, moment))
    except Unanswerable:
        return "missing"


def _reads_clock(node: Node) -> bool:
    return (isinstance(node, Call) and node.name in ("between", "weekly")) or any(
        _reads_clock(child) for child in _children(node)
    )


def _test(node: Node) -> Test:
    """Compiles a node where a truth value is wanted."""
    match node:
        case Junction(word=word, operands=operands):
            tests = [_test(operand) for operand in operands]
            return partial(_all if word == "and" else _any, tests)
        case Negation(operand=child):
            return partial(_not, _test(child))
        case Comparison():
            return _comparison(node)
        case Call():
            return _call(node)
        case Path() | Constant(value=bool()):
            return partial(_truth, _operand(node))
        case _:
            raise ConditionError("expected a condition, found a value", node.offset)


def _all(tests: Sequence[Test], moment: Moment) -> bool:
    return all(test(moment) for test in tests)


def _any(tests: Sequence[Test], moment: Moment) -> bool:
    return any(test(moment) for test in tests)


def _not(test: Test, moment: Moment) -> bool:
    return not test(moment)


def _truth(value: Operand, moment: Moment) -> bool:
    truth = value(moment)
    if not isinstance(truth, bool):
        raise Unanswerable("expected true or false")
    return truth


def _operand(node: Node) -> Operand:
    """Compiles a node where a value is wanted."""
    match node:
        case Constant(value=value):
            return lambda _: value
        case Values(items=items):
            values = tuple(item.value for item in items)
            return lambda _: values
        case Path(names=names):
            return partial(_attribute, names)
        case _:
            return _test(node)


def _attribute(names: Sequence[str], moment: Moment) -> object:
    value: object = moment.attributes
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            raise Unanswerable(f"ctx.{'.'.join(names)} is missing")
        value = value[name]
    return value


def _comparison(node: Comparison) -> Test:
    left, right = _operand(node.left), _operand(node.right)
    _refuse_impossible(node)
    match node.comparator:
        case "==":
            return lambda moment: _same(left(moment), right(moment))
        case "!=":
            return lambda moment: not _same(left(moment), right(moment))
        case "in":
            return lambda moment: _member(left(moment), right(moment))
        case comparator:
            return partial(_ordered, _ORDER[comparator], left, right)


def _refuse_impossible(node: Comparison) -> None:
    """Raises for a comparison that no request could ever answer."""
    left, right = _known_kind(node.left), _known_kind(node.right)
    if node.comparator == "in":
        if right not in ("", "list") or left == "list":
            raise ConditionError('"in" wants a value and a list', node.offset)
        for item in node.right.items if isinstance(node.right, Values) else ():
            if left and _kind(item.value) != left:
                raise ConditionError(f"compares {left} with {_kind(item.value)}", item.offset)
        return
    if left and right and left != right:
        raise ConditionError(f"compares {left} with {right}", node.offset)
    if "list" in (left, right):
        raise ConditionError('lists are only compared with "in"', node.offset)
    if node.comparator not in ("==", "!=") and "truth" in (left, right):
        raise ConditionError("truth values have no order", node.offset)


def _known_kind(node: Node) -> str:
    """Returns what a node's value will be, or an empty string when only the request knows."""
    match node:
        case Constant(value=value):
            return _kind(value)
        case Values():
            return "list"
        case Path():
            return ""
        case _:
            return "truth"


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return "number"
    if isinstance(value, str):
        return "text"
    raise Unanswerable("neither text, a finite number nor a truth value")


def _same(left: object, right: object) -> bool:
    if _kind(left) != _kind(right):
        raise Unanswerable(f"compares {_kind(left)} with {_kind(right)}")
    return left == right


def _ordered(
    compare: Callable[[Any, Any], bool], left: Operand, right: Operand, moment: Moment
) -> bool:
    first, second = left(moment), right(moment)
    if _kind(first) != _kind(second) or isinstance(first, bool):
        raise Unanswerable("only numbers with numbers and text with text have an order")
    return compare(first, second)


def _member(value: object, values: object) -> bool:
    if not isinstance(values, (list, tuple)):
        raise Unanswerable("expected a list")
    # Every member is looked at, so that a member of another type is never passed over.
    found = [_same(value, member) for member in values]
    return True in found


def _call(node: Call) -> Test:
    compilers: dict[str, tuple[int, Callable[[Call], Test]]] = {
        "between": (2, partial(_window, Period.parse)),
        "weekly": (4, partial(_window, Weekly.parse)),
        "cidr": (2, _cidr),
        "startswith": (2, _startswith),
    }
    if node.name not in compilers:
        known = ", ".join(compilers)
        raise ConditionError(f"{node.name} is no function; there are {known}", node.offset)
    count, compiler = compilers[node.name]
    if len(node.arguments) != count:
        raise ConditionError(f"{node.name} takes {count} arguments", node.offset)
    return compiler(node)


def _texts(nodes: Sequence[Node]) -> list[str]:
    texts = []
    for node in nodes:
        if not isinstance(node, Constant) or not isinstance(node.value, str):
            raise ConditionError("expected a text in quotes", node.offset)
        texts.append(node.value)
    return texts


def _window(read: Callable[..., Period | Weekly], node: Call) -> Test:
    texts = _texts(node.arguments)
    try:
        return partial(_inside, read(*texts))
    except ValueError as error:
        raise ConditionError(str(error), node.offset) from None


def _inside(window: Period | Weekly, moment: Moment) -> bool:
    moment.note_change(window.next_change(moment.now))
    return window.contains(moment.now)


def _cidr(node: Call) -> Test:
    address, network = node.arguments
    (text,) = _texts([network])
    try:
        net = ipaddress.ip_network(text)
    except ValueError:
        raise ConditionError(
            'expected a network such as "10.0.0.0/8", without host bits', network.offset
        ) from None
    mapped = net.network_address.ipv4_mapped if isinstance(net, ipaddress.IPv6Network) else None
    if mapped is not None and net.prefixlen >= _MAPPED_BITS:
        net = ipaddress.IPv4Network((mapped, net.prefixlen - _MAPPED_BITS))
    return partial(_in_network, _text_operand(address), net)


def _in_network(
    address: Operand, network: ipaddress.IPv4Network | ipaddress.IPv6Network, moment: Moment
) -> bool:
    text = address(moment)
    try:
        ip = ipaddress.ip_address(text if isinstance(text, str) else "")
    except ValueError:
        raise Unanswerable("expected an IP address") from None
    # ::ffff:10.0.0.1 is 10.0.0.1 in other clothes; a rule about one is a rule about both.
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return ip in network or (mapped is not None and mapped in network)


def _startswith(node: Call) -> Test:
    text, prefix = (_text_operand(argument) for argument in node.arguments)
    return partial(_begins, text, prefix)


def _begins(text: Operand, prefix: Operand, moment: Moment) -> bool:
    whole, start = text(moment), prefix(moment)
    if not isinstance(whole, str) or not isinstance(start, str):
        raise Unanswerable("expected two texts")
    return whole.startswith(start)


def _text_operand(node: Node) -> Operand:
    if _known_kind(node) not in ("", "text"):
        raise ConditionError("expected a text or an attribute", node.offset)
    return _operand(node)
