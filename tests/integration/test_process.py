"""Child processes: how they end, what is said of it, and what goes with them."""

import signal
import sys
from pathlib import Path

import pytest

from aegis.local.process import Program, birth, ended, wait_until


def program(tmp_path: Path, script: str) -> Program:
    """A Python script as a program, its log in tmp_path."""
    return Program(
        "it", [sys.executable, "-c", script], environment={}, log=tmp_path / "logs" / "it.log"
    )


def lines(child: Program, count: int) -> list[str]:
    """Waits for so many lines in its log, and returns them."""
    assert wait_until(lambda: len(child.log.read_text().splitlines()) >= count, 10)
    return child.log.read_text().splitlines()


def test_program_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    """Waiting is bounded: who does not go is made to."""
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(60)"
    )
    child = program(tmp_path, script)
    lines(child, 1)
    child.stop(grace_seconds=0.2)
    assert child.exit_status() == -signal.SIGKILL


@pytest.mark.parametrize("how", ["stop", "kill", "crash"])
def test_descendants_go_with_the_program(tmp_path: Path, how: str) -> None:
    """Whatever it started and left in its group is swept away, however it ended."""
    script = (
        "import subprocess, sys, time;"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(c.pid, flush=True);"
    ) + ("1 / 0" if how == "crash" else "time.sleep(60)")
    child = program(tmp_path, script)
    grandchild = int(lines(child, 1)[0])
    if how == "crash":
        assert wait_until(lambda: child.exit_status() == 1, 10)
        assert "ZeroDivisionError: division by zero" in child.failed().log_tail
    else:
        child.stop() if how == "stop" else child.kill()
    assert wait_until(lambda: birth(grandchild) is None, 5)


def test_log_tail_holds_this_run_only(tmp_path: Path) -> None:
    """Last words of an earlier run are not taken for those of this one."""
    for word in ("first", "second"):
        child = program(tmp_path, f"import sys; sys.exit({word!r})")
        assert wait_until(lambda child=child: child.exit_status() is not None, 10)
    assert child.failed().log_tail == ("second",)
    assert str(child.failed()) == "it ended with status 1\n    second"


@pytest.mark.parametrize(
    ("status", "words"),
    [(None, "ended"), (3, "ended with status 3"), (-9, "was killed by SIGKILL")],
)
def test_exit_status_is_told_in_words(status: int | None, words: str) -> None:
    """People read names, not negative numbers."""
    assert ended(status) == words
