"""Whether all engines give the right answers to the same questions; nothing is timed.

    python bench/policy/agreement.py
    python bench/policy/agreement.py --sizes 100 10000 --requests 3000 --seconds 60

The measuring programs check some answers, too, before they measure; this one takes its time for it
and includes Cerbos. Exits 1 when somebody is wrong. A slow engine answers what it can in the
seconds it is given.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from cerbos import cerbos, find_binary
from children import Child, Skipped
from contenders import CONTENDERS
from languages import write_all
from questions import Request, requests

from rules import SEED, World, make_world

_LOAD_SECONDS = 300.0


def in_process(name: str, folder: Path, asked: list[Request], seconds: float) -> tuple[int, int]:
    """Returns how many questions an engine answered, and how many of them wrongly."""
    with Child(name, folder) as child:
        child.ask("load", seconds=_LOAD_SECONDS)
        answers = child.ask("answers", seconds, seconds=seconds + 60)
    pairs = zip(asked, answers, strict=False)
    return len(answers), sum(request.allowed != answer for request, answer in pairs)


async def by_cerbos(world: World, folder: Path, asked: list[Request]) -> tuple[int, int]:
    """The same for Cerbos, over gRPC."""
    binary = find_binary()
    if binary is None:
        raise Skipped("no binary, and npm could not bring it")
    async with cerbos(world, folder / "server", binary=binary, pki=None) as target:
        await target.check(asked)
    return len(asked), 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    wrong = 0
    for size in options.sizes:
        world = make_world(size, options.seed)
        asked = requests(world, options.requests, options.seed)
        with tempfile.TemporaryDirectory(prefix="aegis-bench-") as scratch:
            folder = Path(scratch)
            write_all(world, asked, folder)
            for name in (*CONTENDERS, "cerbos"):
                try:
                    if name == "cerbos":
                        counts = asyncio.run(by_cerbos(world, folder, asked))
                    else:
                        counts = in_process(name, folder, asked, options.seconds)
                except Skipped as error:
                    print(f"{size:>7,} rules  {name:14s} skipped: {error}")
                    continue
                print(f"{size:>7,} rules  {name:14s} {counts[0]:6,} answers, {counts[1]} wrong")
                wrong += counts[1]
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
