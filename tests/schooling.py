"""What a detector's job does in its process, for tests that are about the job.

In a module of its own, because such a process imports all of it.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from aegis_server.review.detection import Detector, builtin
from aegis_server.review.detectors.lessons import Exam, Learnt, Lesson
from aegis_server.review.detectors.records import HELD_BACK, Measured


def examined(exam: Exam) -> list[Measured]:
    """What the lab would say, at once."""
    assert Detector.decode(exam.file).version.startswith("v")
    return [
        Measured("sign-flip", 0.9, 0.95, 0.99, 0.92, 0.02),
        Measured("silent", math.nan, math.nan, math.nan, math.nan, 0.04),
    ]


def known(lesson: Lesson) -> Learnt:
    """Learns what ships, at once."""
    file = Detector(lesson.version, lesson.target_fpr, builtin().regimes).encode()
    nan = math.nan
    return Learnt(file, len(lesson.rows), 20, 16, Measured(HELD_BACK, nan, nan, nan, nan, 0.0))


def unteachable(lesson: Lesson) -> Learnt:
    """Learns nothing."""
    raise ValueError("there is nothing to be learnt")


def die(lesson: Lesson) -> Learnt:
    """Ends its process."""
    os._exit(9)


def learn_slowly(lesson: Lesson, *, file: str) -> Learnt:
    """Waits until a file is gone."""
    Path(f"{file}.{os.getpid()}").touch()
    while Path(file).exists():
        time.sleep(0.02)
    return known(lesson)


def once(seed: int) -> list[int]:
    """One examination is enough."""
    return [seed]
