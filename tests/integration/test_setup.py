"""scripts/setup, with a stand-in for the Python of .venv: what it does and when it does not."""

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

# Notes what it is asked; answers the probe for pip; installs as STATUS says.
PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$1" in -c) exit 0;; *) exit {status};; esac
"""


def load(path: Path) -> ModuleType:
    """Imports the script, which has no suffix."""
    loader = importlib.machinery.SourceFileLoader("aegis_setup", str(path))
    spec = importlib.util.spec_from_loader("aegis_setup", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup looks at, in a folder of its own."""
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def environment(checkout: Path, *, status: int) -> None:
    """Puts an environment there whose Python installs, or fails to."""
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(PYTHON.format(log=checkout / "asked", status=status))
    python.chmod(0o755)


def setup(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Runs it."""
    command = [sys.executable, str(checkout / "scripts" / "setup")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def asked(checkout: Path) -> list[str]:
    """What the environment's Python was asked to do since the last time we looked."""
    log = checkout / "asked"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_second_run_does_nothing(checkout: Path) -> None:
    """With the inputs unchanged not even pip is asked; with a changed pin it is."""
    environment(checkout, status=0)
    assert setup(checkout).returncode == 0
    installs = [line for line in asked(checkout) if "pip" in line and " install " in line]
    assert len(installs) == 3
    assert all("-c constraints.txt" in line for line in installs[1:])
    assert (setup(checkout).returncode, asked(checkout)) == (0, [])
    with (checkout / "constraints.txt").open("a") as file:
        file.write("# another day\n")
    assert setup(checkout).returncode == 0
    assert asked(checkout) != []


def test_failed_install_is_not_taken_for_done(checkout: Path) -> None:
    """The status is passed on, the message says what to do, and the next run tries again."""
    environment(checkout, status=1)
    done = setup(checkout)
    assert done.returncode == 1
    assert "run it again to go on" in done.stderr
    asked(checkout)
    environment(checkout, status=0)
    assert setup(checkout).returncode == 0
    assert len(asked(checkout)) > 1


def test_missing_venv_module_names_the_command(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare Debian has no ensurepip: whoever may not install packages is told which."""
    script = load(checkout / "scripts" / "setup")
    bare = checkout / "bare-python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    monkeypatch.setenv("PATH", str(checkout))
    with pytest.raises(SystemExit, match=r"apt-get install -y python3\.\d+-venv"):
        script.ensure_venv_module()


def test_constraints_hold_versions_and_nothing_of_one_machine() -> None:
    """No URL, no path, no index: the file is the same wherever it is used."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    for line in pins:
        requirement = line.partition(";")[0]
        assert "==" in requirement
        assert not {"/", "@", "--"} & set(requirement.split())
        assert "://" not in line
