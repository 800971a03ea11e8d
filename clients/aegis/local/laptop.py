"""The numbers of an executor in front of the sandbox: as strict as elsewhere, only sooner over.

A real cluster gets the executor's own defaults; nobody should wait ten minutes on a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

GUARDS = """\
# The guards of this home's executor, written once and then yours: change them, and start again.
#
# They are for a sandbox on one machine, where one person tries things out: every guard is there and
# refuses, but its times are seconds and minutes where a cluster has minutes and hours. Use this for
# no real cluster; the defaults are meant for one (docs/operations.md, "Guards of the executor").

cool_down_seconds = 30       # the same action on the same target; 600 by default
relapse_seconds = 120        # what comes back within it is the same incident; 3600
attempts = 3                 # for one incident, as by default: then a person has to look
memory_seconds = 3600        # so an incident that took them is forgotten in an hour, not in a day

[concurrent]                 # under way at once, as by default
target = 1
namespace = 2
global = 5

[hourly]                     # begun within any hour; 3, 10 and 30 by default
target = 12
namespace = 40
global = 80

[storm]                      # a third of six workloads ill at once is no third of a cluster
quiet_seconds = 10           # before it recovers; 300
ramp_seconds = 5             # each step of the ramp; 300
look_seconds = 1
grace_seconds = 10           # short of pods for longer is ill; 30
blind_seconds = 10           # nobody could look for longer; 30

[breakers]                   # two of a target, or too many altogether, that did not help
consecutive = 2
share = 0.4                  # of an action, a namespace, everything; 0.2
outcomes_min = 5
window_seconds = 600         # 3600
open_seconds = 60            # before one approved action may try; 900
"""

# The sandbox's pods are ready a second after they were made.
VERIFICATION: Mapping[str, str] = MappingProxyType(
    {
        "AEGIS_EXECUTOR_STABILISE_SECONDS": "1",
        "AEGIS_EXECUTOR_WINDOW_SECONDS": "15",
        "AEGIS_EXECUTOR_LOOK_SECONDS": "0.5",
    }
)


def settings(home: Path) -> dict[str, str]:
    """Returns them as the executor's environment; writes the file where it is missing."""
    file = home / "guards.toml"
    if not file.exists():
        file.write_text(GUARDS)
    return {**VERIFICATION, "AEGIS_EXECUTOR_GUARDS": str(file)}
