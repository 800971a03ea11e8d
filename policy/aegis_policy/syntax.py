"""The condition language: text to syntax tree.

    condition  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation   = "not" negation | comparison
    comparison = operand [ ("==" | "!=" | "<" | "<=" | ">" | ">=" | "in") operand ]
    operand    = string | number | "true" | "false" | list | path | call | "(" condition ")"
    list       = "[" [ literal { "," literal } ] "]"
    path       = "ctx" "." name { "." name }
    call       = name "(" operand { "," operand } ")"

Closed on purpose: no arithmetic, no regular expressions, no other names, nothing that could take
long or reach anything. Python's own parser is not involved.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn, TypeAlias

MAX_BYTES = 1024
MAX_DEPTH = 16
MAX_NODES = 64

Comparator: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">=", "in"]
COMPARATORS: tuple[Comparator, ...] = ("==", "!=", "<=", ">=", "<", ">", "in")


class ConditionError(ValueError):
    """A condition does not parse; `offset` counts characters from its start."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Constant:
    """A string, number or truth value."""

    value: str | int | float | bool
    offset: int


@dataclass(frozen=True, slots=True)
class Values:
    """A list of constants."""

    items: tuple[Constant, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Path:
    """`ctx.a.b`: an attribute of the request."""

    names: tuple[str, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Call:
    """One of the built-in predicates."""

    name: str
    arguments: tuple[Node, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two operands and how they are compared."""

    comparator: Comparator
    left: Node
    right: Node
    offset: int


@dataclass(frozen=True, slots=True)
class Negation:
    """`not`."""

    operand: Node
    offset: int


@dataclass(frozen=True, slots=True)
class Junction:
    """`and` or `or` over two or more conditions, looked at from left to right."""

    word: Literal["and", "or"]
    operands: tuple[Node, ...]
    offset: int


Node: TypeAlias = Constant | Values | Path | Call | Comparison | Negation | Junction


class _Token(NamedTuple):
    kind: str
    text: str
    offset: int


_TOKEN = re.compile(
    r"""(?P<space>[ ]+)
    |(?P<string>"[^"\\]*"|'[^'\\]*')
    |(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>==|!=|<=|>=|[<>()\[\],.])""",
    re.VERBOSE,
)
_RESERVED = frozenset({"and", "or", "not", "in", "true", "false", "ctx"})


def parse(source: str) -> Node:
    """Returns the syntax tree of a condition; raises `ConditionError`."""
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise ConditionError("half a character is no text", error.start) from None
    if size > MAX_BYTES:
        raise ConditionError(f"a condition has at most {MAX_BYTES} bytes", 0)
    parser = _Parser(_tokens(source), len(source))
    tree = parser.condition()
    parser.expect_end()
    return tree


def _tokens(source: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            quote = source[at] in "\"'"
            raise ConditionError(
                "a string without its closing quote, or with a backslash"
                if quote
                else f"{source[at]!r} means nothing here",
                at,
            )
        if match.lastgroup and match.lastgroup != "space":
            tokens.append(_Token(match.lastgroup, match.group(), at))
        at = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens, bounded in depth and in nodes."""

    def __init__(self, tokens: list[_Token], length: int) -> None:
        self._tokens = tokens
        self._at = 0
        self._end = _Token("end", "the end", length)
        self._depth = 0
        self._nodes = 0

    def condition(self) -> Node:
        return self._junction("or", lambda: self._junction("and", self._negation))

    def expect_end(self) -> None:
        if self._next.kind != "end":
            self._fail(f'expected "and", "or" or the end, found {self._next.text}')

    def _junction(self, word: Literal["and", "or"], operand: Callable[[], Node]) -> Node:
        offset = self._next.offset
        operands = [operand()]
        while self._take(word):
            operands.append(operand())
        if len(operands) == 1:
            return operands[0]
        return self._counted(Junction(word, tuple(operands), offset))

    def _negation(self) -> Node:
        token = self._next
        if self._take("not"):
            return self._counted(Negation(self._deeper(self._negation), token.offset))
        return self._comparison()

    def _comparison(self) -> Node:
        left = self._deeper(self._operand)
        token = self._next
        for comparator in COMPARATORS:
            if self._take(comparator):
                right = self._deeper(self._operand)
                return self._counted(Comparison(comparator, left, right, token.offset))
        return left

    def _operand(self) -> Node:
        token = self._next
        if self._take("("):
            tree = self.condition()
            self._require(")")
            return tree
        if self._take("["):
            return self._list(token.offset)
        if self._take("ctx"):
            return self._path(token.offset)
        if token.kind == "word" and token.text not in _RESERVED:
            self._at += 1
            return self._call(token)
        return self._constant()

    def _list(self, offset: int) -> Node:
        items: list[Constant] = []
        while not self._take("]"):
            if items:
                self._require(",")
            items.append(self._constant())
        return self._counted(Values(tuple(items), offset))

    def _path(self, offset: int) -> Node:
        names = []
        while self._take("."):
            if self._next.kind != "word":
                self._fail(f"expected a name after the dot, found {self._next.text}")
            names.append(self._next.text)
            self._at += 1
        if not names:
            self._fail('expected "ctx." and a name')
        return self._counted(Path(tuple(names), offset))

    def _call(self, name: _Token) -> Node:
        if not self._take("("):
            raise ConditionError(
                f"{name.text} is unknown; attributes are written ctx.{name.text}, text in quotes",
                name.offset,
            )
        arguments = [self._deeper(self._operand)]
        while self._take(","):
            arguments.append(self._deeper(self._operand))
        self._require(")")
        return self._counted(Call(name.text, tuple(arguments), name.offset))

    def _constant(self) -> Constant:
        kind, text, offset = self._next
        value: str | int | float | bool
        if kind == "string":
            value = text[1:-1]
        elif kind == "number":
            if not math.isfinite(float(text)):
                self._fail("a number that is too large")
            value = int(text) if text.lstrip("-").isdigit() else float(text)
        elif text in ("true", "false"):
            value = text == "true"
        else:
            self._fail(f"expected a value, found {text}")
        self._at += 1
        constant = Constant(value, offset)
        self._counted(constant)
        return constant

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else self._end

    def _take(self, text: str) -> bool:
        token = self._next
        if token.text != text or token.kind not in ("word", "sign"):
            return False
        self._at += 1
        return True

    def _deeper(self, read: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH}")
        node = read()
        self._depth -= 1
        return node

    def _require(self, text: str) -> None:
        if not self._take(text):
            self._fail(f'expected "{text}", found {self._next.text}')

    def _counted(self, node: Node) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._fail(f"more than {MAX_NODES} parts")
        return node

    def _fail(self, message: str) -> NoReturn:
        raise ConditionError(message, self._next.offset)
