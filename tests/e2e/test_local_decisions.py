"""The page for service authors works as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from aegis.local.state import server_address

PAGE = Path(__file__).parents[2] / "docs" / "local-decisions.md"


def test_local_decision_point_of_the_page_decides(home: Path):
    """Copied out and pointed at another port, it follows the rules and names the one."""
    match = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
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
    assert done.stdout == "True by automation-evaluates\n", done.stderr
