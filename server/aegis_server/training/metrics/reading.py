"""Objects that participants wrote: numbers by name, bounded, and nothing else is believed.

Every participant writes objects of its own, RUN/PARTICIPANT/ROUND.json, and nobody lists them: who
took part is in the database, so what somebody else put there is never looked at.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from aegis_server.objects.places import ObjectMissing, Place

BYTES_MAX = 16 * 1024
NAMES_MAX = 64
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
# Blobs are read in the same threads.
_AT_ONCE = 4


class Unusable(Exception):
    """What lies there is not what a participant may write; the message says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was under a name: its values, or why there are none; `missing` when nothing was."""

    name: str
    values: dict[str, float]
    problem: str = ""
    missing: bool = False


def object_name(run_id: str, participant: str, number: int) -> str:
    """Returns where a participant writes its metrics of a round."""
    return f"{run_id}/{participant}/{number}.json"


async def read_all(place: Place, names: Iterable[str]) -> dict[str, Found]:
    """Reads objects, a few at once; raises `Unavailable` when the place does not answer."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def read(name: str) -> Found:
        async with gate:
            return await asyncio.to_thread(_read, place, name)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(name)) for name in names]
    except ExceptionGroup as failed:
        # They fail for one reason: the place is away.
        raise failed.exceptions[0] from failed
    return {task.result().name: task.result() for task in tasks}


def _read(place: Place, name: str) -> Found:
    try:
        return Found(name, parse(place.get(name, length=BYTES_MAX + 1)))
    except ObjectMissing:
        return Found(name, {}, missing=True)
    except Unusable as error:
        return Found(name, {}, problem=str(error))
    except OSError as error:
        return Found(name, {}, problem=f"cannot be read: {type(error).__name__}")


def parse(data: bytes) -> dict[str, float]:
    """Returns the numbers of an object; raises `Unusable`."""
    if len(data) > BYTES_MAX:
        raise Unusable(f"more than {BYTES_MAX} bytes")
    try:
        found = json.loads(data, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise Unusable("not JSON") from error
    if not isinstance(found, dict) or len(found) > NAMES_MAX:
        raise Unusable(f"not an object of at most {NAMES_MAX} numbers")
    return {_name(name): _number(value) for name, value in found.items()}


def _not_finite(word: str) -> NoReturn:
    raise Unusable(f"{word} is no finite number")


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise Unusable("a name that is none")
    return name


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable("a value that is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unusable("a value that is not finite")
    return number
