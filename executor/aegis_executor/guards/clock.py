"""Whether the kernel says that its clock is right.

Every age here is judged by the wall clock, so an hour's error is an hour in which an old request
is fresh. The kernel knows whether something keeps the clock; it is asked without any tool.
"""

from __future__ import annotations

import ctypes

_TIME_ERROR = 5
_STA_UNSYNC = 0x0040


class _Timex(ctypes.Structure):
    """The beginning of `struct timex`; adjtimex(2). The rest is room for the kernel to write."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def synchronised() -> bool:
    """Returns what the kernel says; False where it does not say."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return False
    timex = _Timex()  # modes 0: only asks
    return judged(adjtimex(ctypes.byref(timex)), timex.status)


def judged(answer: int, status: int) -> bool:
    """Tells what adjtimex(2) answered."""
    return answer not in (-1, _TIME_ERROR) and not status & _STA_UNSYNC
