"""The executor's process holds credentials; what it does not need, it must not load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import aegis_{name}.__main__
print(json.dumps(sorted({{module.partition(".")[0] for module in sys.modules}})))
"""


@pytest.mark.parametrize("name", ["executor", "sandbox"])
def test_process_never_loads_what_it_does_not_need(name: str):
    """No policy engine, no numerics, no torch, no federation, nothing of the server."""
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(name=name)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    loaded = set(json.loads(output))
    assert f"aegis_{name}" in loaded
    assert loaded.isdisjoint(
        {"casbin", "torch", "numpy", "redis", "flwr", "aegis_server", "aegis_policy"}
    )
