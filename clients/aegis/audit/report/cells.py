"""How values are written in a table, for people."""

from __future__ import annotations

from datetime import datetime


def cell(value: object) -> str:
    """Returns a value as text; what is not known is a dash."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else visible(str(value))


def visible(text: str) -> str:
    """Returns text without characters that hide, break or turn around what is beside them."""
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)


def number(value: float) -> str:
    """Returns a float with four significant digits, without an exponent people stumble over."""
    if value and abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4g}"
