"""Flower's SuperExec beside the SuperLink: it starts the ServerApp of every run.

`python -m aegis_server.training.superlink.executor --house DIR --inner HOST:PORT`. It is a process
of its own, so that a SuperLink that is killed and started again finds the ServerApps where they
were; and with it end all that it has started.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from aegis.serving.lineage import die_with_parent, run_group
from aegis_server.training.superlink.settings import House


def main() -> int:
    """Runs SuperExec until it is told to end; returns its exit status."""
    parser = argparse.ArgumentParser(prog="aegis-superexec")
    parser.add_argument("--house", type=Path, required=True, help="folder of the SuperLink")
    parser.add_argument("--inner", required=True, help="host:port of its inner port")
    parser.add_argument("--parent", type=int, help="die with this parent process")
    parser.add_argument("--leader", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    house = House(arguments.house)
    house.prepare()
    if arguments.leader:
        return _lead(house, arguments.inner)
    here = Path(sys.executable).parent
    environment = {
        **os.environ,
        **house.environment(),
        # It finds Flower's other programs by their names.
        "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    command = [
        *(sys.executable, "-m", "aegis_server.training.superlink.executor", "--leader"),
        *("--house", str(house.folder), "--inner", arguments.inner),
        *("--parent", str(os.getpid())),
    ]
    return run_group(command, environment=environment)


def _lead(house: House, inner: str) -> int:
    from flwr.supercore.cli.flower_superexec import flower_superexec

    sys.argv = [
        *("flower-superexec", "--insecure", "--runtime-api-address", inner),
        *("--superexec-auth-secret-file", str(house.executor_secret_file)),
    ]
    flower_superexec()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
