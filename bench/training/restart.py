"""What the death of a process in the middle of a round costs a run of real sites.

    python bench/training/restart.py --times 3 --json FILE

Three sites that are programs of their own train over mTLS with `aegis up`'s control plane, by
Aegis' own application. One of them is held up in a round, the others have answered; then
coordinator, that site, or the server is killed with SIGKILL, the site lets go, and what was
killed is started again at once (the server and the site by us, the coordinator by the server).
*Lost* is the time from the kill to the end of that round, less an undisturbed one. One run bears
all of it, and ends COMPLETED or this fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.hospitals import Hospital, House, Run, dealt, seconds_between

SITES = ("north", "south", "west")
_UNDISTURBED = 10


@dataclass
class Found:
    """Seconds lost by what was killed, seconds of an undisturbed round, and the load."""

    lost: dict[str, list[float]]
    usual: float = 0.0
    load: list[float] = field(default_factory=lambda: [round(os.getloadavg()[0], 1)])


def kill_coordinator(house: House, site: Hospital, run_id: str) -> None:
    os.kill(house.coordinator(run_id), signal.SIGKILL)
    site.release()


def kill_site(house: House, site: Hospital, run_id: str) -> None:
    site.kill()
    site.release()
    site.start()


def kill_server(house: House, site: Hospital, run_id: str) -> None:
    house.kill_server()
    site.release()
    house.restart_server()


KILLS: dict[str, Callable[[House, Hospital, str], None]] = {
    "coordinator": kill_coordinator,
    "site": kill_site,
    "server": kill_server,
}


def measure(house: House, times: int) -> Found:
    """Kills each of them so many times in one run."""
    found = Found({name: [] for name in KILLS})
    turns = [(name, SITES[turn % len(SITES)]) for turn, name in enumerate([*KILLS] * times)]
    rounds = len(turns) + 1 + _UNDISTURBED
    run_id = house.start(house.plan(SITES, rounds=rounds, target_epsilon=8.0))
    killed: list[tuple[str, int, float]] = []
    house.until_round(run_id, 1)
    last = 0
    house.hospitals[turns[0][1]].hold()
    for turn, (name, holder) in enumerate(turns):
        site = house.hospitals[holder]
        last = site.held(run_id, after=last)
        for other in SITES:
            if other != holder:
                house.hospitals[other].reached(run_id, last, "done")
        if turn + 1 < len(turns):
            house.hospitals[turns[turn + 1][1]].hold()
        killed.append((name, last, time.time()))
        KILLS[name](house, site, run_id)
    run = house.until_state(run_id, Run.STATE_COMPLETED, seconds=300)
    ends = {each.round: each.complete_time.ToNanoseconds() / 1e9 for each in run.rounds}
    found.usual = median(seconds_between(run, n) for n in range(last + 2, rounds + 1))
    for name, number, at in killed:
        found.lost[name].append(ends[number] - at - found.usual)
    found.load.append(round(os.getloadavg()[0], 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder, House(Path(folder)) as house:
        for name, rows in zip(SITES, dealt(len(SITES)), strict=True):
            house.hospital(name, rows, module="ward.own").start()
        for each in house.hospitals.values():
            each.present()
        found = measure(house, arguments.times)
    for name, lost in found.lost.items():
        each = ", ".join(f"{seconds:.1f}" for seconds in lost)
        print(f"{name:12} median {median(lost):5.1f} s lost  ({each})")
    print(f"an undisturbed round {found.usual:.2f} s; load before, after: {found.load}")
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(found), indent=1))


if __name__ == "__main__":
    main()
