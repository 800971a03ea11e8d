"""Commands of `aegis` as people give them, without the second that a process for each would take.

The streams, the environment and the exit status are those of a process; what is not is how the
program is started, which `aegis up`, `aegis demo` and whatever runs beside something else show.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from click import Command
from click.testing import CliRunner, Result
from typer.main import get_command

from aegis.cli.main import app


def aegis(*arguments: str) -> list[str]:
    """The command line of `aegis` as a process, in this environment."""
    return [sys.executable, "-c", "from aegis.cli.main import main; main()", *arguments]


def invoke(
    words: Sequence[str],
    *,
    stdin: str | None = None,
    environment: Mapping[str, str | None] | None = None,
) -> Result:
    """Gives a command, and returns all that came of it, an exception too."""
    return CliRunner().invoke(_commands(), words, input=stdin, env=environment)


@cache
def _commands() -> Command:
    # A hundred commands with all their options: as long as running one.
    return get_command(app)


def command(
    *arguments: str | Path, stdin: str = "", environment: Mapping[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Gives a command and waits for its end; what it raises, which nobody should see, it raises.

    `environment` is added to ours, without the names of which it says None. One at a time: it has
    the standard streams of this process for itself.
    """
    words = [str(each) for each in arguments]
    give = partial(invoke, words, stdin=stdin, environment=environment)
    done = _beside(give) if _in_a_loop() else give()
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def _in_a_loop() -> bool:
    return asyncio._get_running_loop() is not None


def _beside(give: Callable[[], Result]) -> Result:
    # A command has a loop of its own, which a thread can have only one of.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(give).result()
