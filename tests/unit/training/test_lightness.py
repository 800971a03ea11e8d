"""What a coordinator has to load before it can go on with a run."""

from __future__ import annotations

import subprocess
import sys


def test_coordinator_of_real_sites_loads_no_torch() -> None:
    """Nothing trains in its process, and PyTorch would be seconds of every restart."""
    modules = ("rounds", "ways", "gate", "loop", "coordinator")
    imports = "; ".join(f"import aegis_server.training.{name}" for name in modules)
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
