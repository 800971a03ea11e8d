"""Lines of a rule file: cut at their commas, and put together again."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aegis_policy.faults import PolicyError, Violation

_KINDS = ("p", "g", "g2")


class Line(NamedTuple):
    """One rule (`p`) or binding (`g`, `g2`) as it is stored."""

    kind: str
    fields: tuple[str, ...]


def to_csv(lines: Iterable[Line]) -> str:
    """Returns lines as a file, in their order."""
    return "".join(map(_written, lines))


def _written(line: Line) -> str:
    plain = ",".join(line.fields)
    # Most lines have nothing to quote, and that is seen at once.
    if '"' in plain or " " in plain or plain.count(",") >= len(line.fields):
        return ", ".join((line.kind, *map(_quoted, line.fields))) + "\n"
    return f"{line.kind}, {', '.join(line.fields)}\n"


def _quoted(text: str) -> str:
    plain = '"' not in text and "," not in text and text == text.strip(" ")
    return text if plain else '"' + text.replace('"', '""') + '"'


class Field(NamedTuple):
    """A field of a line, and the column it begins in, from 1 on."""

    text: str
    column: int


def read_line(raw: str) -> Line:
    """Cuts one line into its fields; raises `PolicyError` where that cannot be done.

    What the fields mean, and whether they fit the other lines, is for whoever reads the whole file.
    """
    fault = fault_of_text(raw)
    if fault is not None:
        raise PolicyError([Violation(1, *fault)])
    try:
        kind, *fields = split(raw)
    except Unquotable as error:
        raise PolicyError([Violation(1, error.column, error.expected)]) from None
    if kind.text not in _KINDS:
        expected = f'expected "p", "g" or "g2", found {kind.text!r}'
        raise PolicyError([Violation(1, kind.column, expected)])
    return Line(kind.text, tuple(each.text for each in fields))


def fault_of_text(raw: str) -> tuple[int, str] | None:
    """Returns column and fault of characters that a reader of the file could not see."""
    if raw.isascii() and raw.isprintable():
        return None
    for column, character in enumerate(raw, start=1):
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            return column, f"U+{ord(character):04X} is invisible and not allowed"
    if not unicodedata.is_normalized("NFC", raw):
        return 1, "expected Unicode normal form C"
    return None


class Unquotable(Exception):
    """A line that cannot be cut: where, and what was expected."""

    def __init__(self, column: int, expected: str) -> None:
        super().__init__(expected)
        self.column = column
        self.expected = expected


_QUOTED = re.compile(r'"((?:[^"]|"")*)" *')
_PLAIN = re.compile(r"[^,]*")
_SPACES = re.compile(" *")


def split(raw: str) -> Iterator[Field]:
    """Cuts a line at its commas, outside quotes; raises `Unquotable`."""
    at = 0
    if '"' not in raw:
        for part in raw.split(","):
            text = part.lstrip(" ")
            yield Field(text.rstrip(" "), at + 1 + len(part) - len(text))
            at += len(part) + 1
        return
    while True:
        at = _SPACES.match(raw, at).end()  # type: ignore[union-attr]  # it always matches
        quoted = raw.startswith('"', at)
        match = (_QUOTED if quoted else _PLAIN).match(raw, at)
        if match is None:
            raise Unquotable(at + 1, "a quoted field without its closing quote")
        text = match[1].replace('""', '"') if quoted else match[0].rstrip(" ")
        if not quoted and '"' in text:
            raise Unquotable(at + 1, 'a field with a quote in it goes in quotes, " written ""')
        yield Field(text, at + 1 + quoted)
        at = match.end()
        if at == len(raw):
            return
        if raw[at] != ",":
            raise Unquotable(at + 1, "expected a comma after the closing quote")
        at += 1
