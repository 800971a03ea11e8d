"""Runs every check of `make check`, each to its end, and says which failed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "protos" / "baseline.binpb"


def checks(image: Path) -> list[list[str]]:
    """Returns the commands; buf reads the image because its sources need a vendored import."""
    commands = [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["mypy"],
        ["lint-imports"],
        ["python", "scripts/protos.py", "--check"],
        ["python", "scripts/verification_table.py", "--check"],
        ["python", "scripts/protos.py", "--image", str(image)],
        ["buf", "lint", str(image), "--path", "aegis"],
        ["buf", "format", "protos", "--diff", "--exit-code"],
    ]
    if BASELINE.exists():
        against = ["--against", str(BASELINE)]
        commands.append(["buf", "breaking", str(image), *against, "--path", "aegis"])
    else:
        print("check: no protos/baseline.binpb yet, so nothing to stay compatible with")
    return commands


def main() -> int:
    """Returns 1 when any check failed."""
    # The tools of the environment we run in, whether it is activated or not.
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for command in checks(Path(folder) / "protos.binpb"):
            name = " ".join(word for word in command if not word.startswith("/"))
            began = time.monotonic()
            status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
            mark = "ok" if status == 0 else "FAILED"
            print(f"check: {name}: {mark} ({time.monotonic() - began:.1f} s)", flush=True)
            if status != 0:
                failed.append(name)
    if failed:
        print(f"check: failed: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
