"""What one decision costs in process: Aegis beside PyCasbin, FastEnforcer, Cedar and Rego.

    python bench/policy/engines.py
    python bench/policy/engines.py --sizes 100 1000 --seconds 0.5 --rounds 3
    python bench/policy/engines.py --engines aegis pycasbin --json engines.json

Every engine has the same rules (see `rules`) in its own language and a process of its own; they
take turns, so a busy machine is busy for all of them, and ratios are those of a round. First all
answer the same questions, and an engine that answers one of them wrongly ends the run. A slow
engine makes at least three decisions a turn; what takes too long to load or to answer is left out,
and said. Questions are brought into each engine's form beforehand, and Python's garbage collector
is on, as it is in a program. p50 and p99 are wall time, cpu is the processor's, all in microseconds
a decision; kept and peak are the growth of resident memory by loading and by all decisions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from children import Child, Grown, Loaded, Skipped, Timed
from contenders import CONTENDERS, read_requests
from languages import write_all
from questions import requests

from rules import SEED, make_world

_PATIENCE = 20.0
_MIB = 1 << 20


@dataclass(slots=True)
class Row:
    """An engine at one size."""

    loaded: Loaded | None = None
    checked: int = 0
    turns: list[Timed] = field(default_factory=list)
    memory: Grown | None = None
    skipped: str = ""

    def p50s(self) -> list[float]:
        """The median of each turn, in microseconds."""
        return [statistics.median(turn.nanoseconds) / 1e3 for turn in self.turns]

    def summary(self) -> dict[str, object]:
        """Everything that is printed, and more."""
        if self.skipped or self.loaded is None or self.memory is None:
            return {"skipped": self.skipped}
        took = [each for turn in self.turns for each in turn.nanoseconds]
        kinds = [kind for turn in self.turns for kind in turn.kinds]
        of_kind = {
            kind: statistics.median(t for t, k in zip(took, kinds, strict=True) if k == kind) / 1e3
            for kind in sorted(set(kinds))
        }
        return {
            "p50_us": statistics.median(self.p50s()),
            "p50_us_of_rounds": self.p50s(),
            "p50_us_of_kind": of_kind,
            "p99_us": _percentile(took, 0.99) / 1e3,
            "cpu_us": sum(turn.cpu_seconds for turn in self.turns) / len(took) * 1e6,
            "decisions": len(took),
            "answers_checked": self.checked,
            "load": asdict(self.loaded),
            "memory": asdict(self.memory) if self.memory else None,
        }


def _percentile(values: list[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def check(child: Child, folder: Path, seconds: float) -> int:
    """Compares answers with the right ones; returns how many, and ends the run at a wrong one."""
    answers = child.ask("answers", seconds, seconds=seconds + _PATIENCE)
    for request, answer in zip(read_requests(folder), answers, strict=False):
        if answer != request.allowed:
            raise SystemExit(f"{child.name} answers {answer} to {request}")
    return len(answers)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Row]:
    """Loads all engines at one size and lets them take turns."""
    rows = {name: Row() for name in options.engines}
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for name, row in rows.items():
            child = stack.enter_context(Child(name, folder))
            try:
                row.loaded = child.ask("load", seconds=options.load_seconds)
                row.checked = check(child, folder, options.check_seconds)
                children[name] = child
            except Skipped as error:
                row.skipped = str(error)
        order = list(children)
        for number in range(options.rounds):
            order = order[1:] + order[:1]
            for name in order:
                if rows[name].skipped:
                    continue
                first = sum(len(turn.nanoseconds) for turn in rows[name].turns)
                try:
                    turn = children[name].ask(
                        "timed", options.seconds, first, seconds=options.seconds + _PATIENCE
                    )
                except Skipped as error:
                    rows[name].skipped = f"round {number + 1}: {error}"
                else:
                    rows[name].turns.append(turn)
        for name, child in children.items():
            if not rows[name].skipped:
                rows[name].memory = child.ask("memory", seconds=_PATIENCE)
    return rows


def show(size: int, rows: dict[str, Row]) -> dict[str, object]:
    """Prints one size; returns it for the file."""
    print(
        f"{size:>7,} rules        p50 us     p99 us     cpu us     x aegis  decisions"
        "  checked    load s  kept MiB  peak MiB"
    )
    base = rows.get("aegis", Row()).p50s()
    shown: dict[str, object] = {}
    for name, row in rows.items():
        shown[name] = found = row.summary()
        if row.skipped or row.loaded is None or row.memory is None:
            print(f"  {name:14s} skipped: {row.skipped}")
            continue
        pairs = zip(row.p50s(), base, strict=False)
        ratios = [mine / its for mine, its in pairs]
        found["times_aegis"] = statistics.median(ratios) if ratios else None
        ratio = f"{statistics.median(ratios):,.1f}" if ratios else "-"
        print(
            f"  {name:14s} {found['p50_us']:10.1f} {found['p99_us']:10.1f} {found['cpu_us']:10.1f}"
            f" {ratio:>11s} {found['decisions']:10,} {row.checked:8,} {row.loaded.seconds:9.2f}"
            f" {row.memory.kept_bytes / _MIB:9.1f} {row.memory.peak_bytes / _MIB:9.1f}"
        )
    return shown


def conclude(results: dict[int, dict[str, Row]]) -> None:
    """Prints how each engine grows from the smallest size to the largest, and the memory there."""
    first, last = min(results), max(results)
    for name, row in results[last].items():
        before = results[first][name]
        if first != last and row.turns and before.turns and not (row.skipped or before.skipped):
            growth = statistics.median(row.p50s()) / statistics.median(before.p50s())
            print(f"{name}: p50 at {last:,} rules is {growth:.2f} times that at {first:,}")
    mine, its = results[last].get("aegis"), results[last].get("pycasbin")
    # Less than a few MiB is what an allocator had left over.
    if mine and its and mine.memory and its.memory and its.memory.kept_bytes > 4 * _MIB:
        share = mine.memory.kept_bytes / its.memory.kept_bytes
        print(f"aegis keeps {share:.2f} of the memory of pycasbin at {last:,} rules")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--engines", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--load-seconds", type=float, default=180.0, help="patience with a load")
    parser.add_argument("--check-seconds", type=float, default=3.0, help="for checking answers")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", type=Path, help="writes everything there, too")
    options = parser.parse_args()
    results: dict[int, dict[str, Row]] = {}
    document: dict[str, object] = {"cores": os.cpu_count(), "load_before": os.getloadavg()}
    print(f"load {os.getloadavg()}, {os.cpu_count()} cores, {options.rounds} rounds")
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix="aegis-bench-") as scratch:
            world = make_world(size, options.seed)
            asked = requests(world, options.requests, options.seed)
            write_all(world, asked, Path(scratch))
            results[size] = measure(Path(scratch), options)
        document[str(size)] = show(size, results[size])
        print(f"  load {os.getloadavg()}")
    conclude(results)
    document["load_after"] = os.getloadavg()
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
