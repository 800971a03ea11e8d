"""Lengths of time as people type them: `90s`, `15m`, `2h`, `7d`."""

from __future__ import annotations

import re
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from aegis.cli.session import fail

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str, option: str) -> Duration:
    """Returns a length of time; ends the command when `option` does not say one."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        fail(f"{option} {text!r} is no length of time", "write 90s, 15m, 2h or 7d")
    wanted = Duration()
    wanted.FromTimedelta(timedelta(**{_UNITS[found[2]]: int(found[1])}))
    return wanted


def spoken(seconds: float) -> str:
    """Returns a length of time in its two largest units, e.g. `1m 20s` or `350ms`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    left, words = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count}{unit}")
    return " ".join(words[:2])
