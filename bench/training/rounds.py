"""What a round costs: Aegis with sites of its own, beside Flower's SuperLink and SuperNodes.

    python bench/training/rounds.py --rounds 5 --json FILE
    python bench/training/rounds.py --only aegis

*Aegis* is `aegis up`, three sites that have joined it and run as programs of their own, and a
governed run over mutual TLS, without review and with it; seconds from one stored round to the next,
the first from the stored initial model. *Stock* is `flower-superlink` with TLS and SuperNode
authentication, its SuperExec, and one `flower-supernode` a site, as Flower's documentation starts
them, with the ClientApp that Aegis' sites run (MLP on breast cancer, five DP-SGD steps) and a mean
of updates; seconds from asking to the last answer. *Application* is tests/apps/quickstart on the
stock stack, FedAvg with evaluation, as Flower's strategy counts its seconds; over our stream,
`pytest -s tests/integration/training/test_application_on_sites.py` prints them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from house import House
from stock_link import StockLink

STEPS = 5
SITES = 3
HERE = Path(__file__).parent


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


@contextmanager
def stock() -> Iterator[StockLink]:
    """Starts Flower's own stack."""
    with (
        tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder,
        StockLink(Path(folder), SITES) as link,
    ):
        yield link


def own(rounds: int) -> Line:
    """Measures the ClientApp of Aegis' sites."""
    before = os.getloadavg()[0]
    with stock() as link:
        config = {"num-server-rounds": rounds, "sites": SITES, "local-steps": STEPS}
        printed = link.run(HERE / "stock", config)
    found = re.findall(r"ROUND \d+ ([0-9.]+) (\d+)", printed)
    if not found or any(int(answers) != SITES for _, answers in found):
        raise RuntimeError(f"a site did not answer:\n{printed}")
    return Line.of("stock, our ClientApp", [float(seconds) for seconds, _ in found], before)


def application(rounds: int) -> Line:
    """Measures an application of somebody else, whose rounds evaluate as well."""
    before = os.getloadavg()[0]
    with stock() as link:
        printed = link.run(
            HERE.parents[1] / "tests" / "apps" / "quickstart",
            {"num-server-rounds": rounds, "min-nodes": SITES},
        )
    seconds = re.search(r"Strategy execution finished in ([0-9.]+)s", printed)
    if seconds is None:
        raise RuntimeError(f"no rounds:\n{printed}")
    return Line.of("stock, an application", [float(seconds[1]) / rounds] * rounds, before)


def aegis(rounds: int) -> list[Line]:
    """Measures Aegis: the server, a coordinator, three site programs, mutual TLS everywhere."""
    lines = []
    with (
        tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder,
        House(Path(folder), SITES) as house,
    ):
        for review in ("--no-review", "--review"):
            before = os.getloadavg()[0]
            plan = ("--local-steps", str(STEPS), "--model", "mlp", "--epsilon", "3", review)
            lines.append(Line.of(f"Aegis, {review[2:]}", house.rounds(rounds, *plan), before))
    return lines


WAYS = {
    "own": lambda rounds: [own(rounds)],
    "application": lambda rounds: [application(rounds)],
    "aegis": aegis,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=WAYS, action="append", help="default: all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    lines = [line for name in arguments.only or WAYS for line in WAYS[name](arguments.rounds)]
    stock_later = next((line.later_seconds for line in lines if "our ClientApp" in line.way), 0.0)
    print(f"{'':24} first   later  times faster  load before, after")
    for line in lines:
        print(
            f"{line.way:24}{line.first_seconds:6.2f}s {line.later_seconds:6.2f}s"
            f"{stock_later / line.later_seconds:12.1f}    {line.load[0]}, {line.load[1]}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))


if __name__ == "__main__":
    main()
