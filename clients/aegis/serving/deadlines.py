"""A bound on the time of a call: `asyncio.timeout`, at a tenth of its price.

It takes no reschedule and no report of its state. It turns into TimeoutError what it has cancelled
itself, and nothing else. `within` is the same for one coroutine, and what never waits pays nothing:
nobody could end it anyway.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Deadline:
    """Cancels the task that entered it after so many seconds; leaving it raises TimeoutError."""

    __slots__ = ("_before", "_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is for a task")
        self._task = task
        self._before = task.cancelling()
        self._timer = task.get_loop().call_later(self._seconds, self._expire)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        # Somebody else may have cancelled the task as well: then it ends as they want.
        ours = self._expired and self._task.uncancel() <= self._before
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


@types.coroutine
def within(seconds: Callable[[], float], deed: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    """Awaits a deed, for as long as `seconds` says at its first wait; TimeoutError after that."""
    try:
        awaited = deed.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    with Deadline(seconds()):
        while True:
            try:
                yield awaited
            except GeneratorExit:
                deed.close()
                raise
            except BaseException as error:  # the deed's to see, as in `await`
                try:
                    awaited = deed.throw(error)
                except StopIteration as done:
                    return done.value  # type: ignore[no-any-return]
            else:
                answer: T = yield from deed
                return answer
