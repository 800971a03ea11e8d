"""The lab is the server's, so the commands start it as a program and read what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from aegis.cli.session import fail

_PROGRAM = "aegis_server.review.lab"
# Models are small: more threads of one run would only wait for each other.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def lab(arguments: Sequence[str]) -> Iterator[Iterator[dict[str, Any]]]:
    """Starts the lab and gives what it says, a document a line; ends with whoever reads."""
    program = subprocess.Popen(
        [sys.executable, "-m", _PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**_ONE_THREAD, **os.environ},
    )
    assert program.stdout is not None  # noqa: S101
    try:
        yield map(json.loads, program.stdout)
    finally:
        program.terminate()
        program.wait()


def silent() -> NoReturn:
    """The lab ended without an answer."""
    fail(
        "the lab ended without a report",
        "install what it needs: pip install 'aegis-control-plane[cli,server]'",
    )
