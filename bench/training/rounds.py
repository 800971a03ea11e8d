"""What a round costs: Aegis beside Flower's own SuperLink, with the same work at the sites.

    python bench/training/rounds.py --rounds 5 --json FILE
    python bench/training/rounds.py --only stock

*Stock* is `flower-superlink` with TLS and SuperNode authentication, its SuperExec, and one
`flower-supernode` a site, as Flower's documentation starts them; the application's ClientApp is the
one Aegis' sites run (MLP on breast cancer, DP-SGD), its ServerApp a mean. The first round holds
what is done once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.training.stock_link import StockLink

STEPS = 5
SITES = 3


@dataclass(frozen=True)
class Line:
    """One way of doing it."""

    way: str
    first_seconds: float
    later_seconds: float
    rounds: list[float]
    load: tuple[float, float]

    @classmethod
    def of(cls, way: str, rounds: list[float], load_before: float) -> Line:
        load = round(load_before, 1), round(os.getloadavg()[0], 1)
        return cls(way, rounds[0], median(rounds[1:] or rounds), rounds, load)


def stock(rounds: int) -> Line:
    """Measures Flower's own stack."""
    before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder,
        StockLink(Path(folder), SITES) as link,
    ):
        config = {"num-server-rounds": rounds, "sites": SITES, "local-steps": STEPS}
        return Line.of("stock SuperLink and SuperNodes", link.rounds(config), before)


WAYS = {"stock": stock}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=WAYS, action="append", help="default: all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    lines = [WAYS[name](arguments.rounds) for name in arguments.only or WAYS]
    slowest = max(line.later_seconds for line in lines)
    print(f"{'':44} first   later  times faster  load before, after")
    for line in lines:
        print(
            f"{line.way:44}{line.first_seconds:6.2f}s {line.later_seconds:6.2f}s"
            f"{slowest / line.later_seconds:12.1f}   {line.load[0]}, {line.load[1]}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))


if __name__ == "__main__":
    main()
