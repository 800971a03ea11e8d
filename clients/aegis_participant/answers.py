"""Answers a site has given, by task: the same task again gets the same bytes and costs nothing.

An answer is on the disk before the first byte of it leaves, so an answer that is not here was never
given, unless it was so long ago that others have taken its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NUMBER_MAX = 256
BYTES_MAX = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a task: a serialised RecordDict, or the kind of an error.

    `task_sha256` is the digest of the content it answers.
    """

    task_id: str
    task_sha256: bytes
    content: bytes
    steps: int
    seconds: float
    error: str = ""


class Answers:
    """A folder with one file an answer: a line of JSON, and the content behind it."""

    def __init__(
        self, folder: Path, *, number_max: int = NUMBER_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._number_max = number_max
        self._bytes_max = bytes_max
        for left in folder.glob("*.new"):
            left.unlink(missing_ok=True)

    def find(self, task_id: str) -> Answer | None:
        """Returns the answer to a task, or None when there is none that is whole."""
        try:
            data = self._file(task_id).read_bytes()
        except FileNotFoundError:
            return None
        head, _, content = data.partition(b"\n")
        try:
            line = json.loads(head)
            answer = Answer(
                task_id=str(line["task"]),
                task_sha256=bytes.fromhex(line["task_sha256"]),
                content=content,
                steps=int(line["steps"]),
                seconds=float(line["seconds"]),
                error=str(line["error"]),
            )
        except (ValueError, KeyError, TypeError):
            return None
        return answer if hashlib.sha256(content).hexdigest() == line["sha256"] else None

    def steps(self) -> Iterator[tuple[str, int]]:
        """Yields the tasks that have an answer here, and the steps it says were taken."""
        for file in self._folder.glob("*.answer"):
            try:
                with file.open("rb") as opened:
                    line = json.loads(opened.readline())
                yield str(line["task"]), int(line["steps"])
            except (ValueError, KeyError, TypeError):
                continue

    def keep(self, answer: Answer) -> None:
        """Stores an answer and lets the oldest go; raises OSError, and then it is not kept."""
        line = {
            "task": answer.task_id,
            "task_sha256": answer.task_sha256.hex(),
            "sha256": hashlib.sha256(answer.content).hexdigest(),
            "steps": answer.steps,
            "seconds": answer.seconds,
            "error": answer.error,
        }
        fresh = self._folder / f"{secrets.token_hex(8)}.new"
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.write(answer.content)
                file.flush()
                os.fsync(descriptor)
            fresh.replace(self._file(answer.task_id))
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._make_room(self._file(answer.task_id))

    def _make_room(self, newest: Path) -> None:
        stats = {file: file.stat() for file in self._folder.glob("*.answer")}
        oldest = sorted(stats, key=lambda file: (file != newest, -stats[file].st_mtime_ns))
        room = self._bytes_max
        for place, file in enumerate(oldest):
            room -= stats[file].st_size
            if file != newest and (place >= self._number_max or room < 0):
                file.unlink(missing_ok=True)

    def _file(self, task_id: str) -> Path:
        # The server chose the task's id: it shall not choose a path.
        return self._folder / f"{hashlib.sha256(task_id.encode()).hexdigest()}.answer"
