"""The README's client works as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from aegis.local.state import server_address

README = Path(__file__).parents[2] / "README.md"


def test_client_in_the_readme_prints_a_decision(home: Path):
    """Copied out and pointed at another port, it evaluates and names the rule."""
    match = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert match is not None
    code = match[1].replace("127.0.0.1:8443", str(server_address(home)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"AEGIS_HOME": str(home)},
    )
    assert done.stdout == "EFFECT_ALLOW by automation-evaluates\n", done.stderr
