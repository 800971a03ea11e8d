"""A bound on the time of a call: `asyncio.timeout`, at a tenth of its price.

It takes no reschedule and no report of its state, and a call that answers at once pays for one
timer only. It turns into TimeoutError what it has cancelled itself, and nothing else.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


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
