"""What a review costs: time by examiner, updates a minute, and memory, by the size of the model.

    python bench/review/cost.py
    python bench/review/cost.py --parameters 10000 1000000 --updates 20 --repeats 20

A round is one base and updates that are alike as honest ones are: a common direction and noise of
their own. `shared` is what all examiners need and is computed once: decoding, matrix, products,
median and root update. Each size runs in a process of its own, so that its peak memory is its own;
what the process holds before its first review is told apart. One thread each, as at a desk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from aegis_learning import models, parameters
from aegis_server.review.case import Case, Local, Submission
from aegis_server.review.examiners import ALL
from aegis_server.review.lab.worlds import world
from aegis_server.review.population import Population
from aegis_server.review.vetting import vet
from aegis_server.workers import one_thread

# Hidden layers that make about so many parameters of the 64 features and 10 classes of digits.
HIDDEN = {10_000: "mlp-128", 1_000_000: "mlp-960-960", 10_000_000: "mlp-3090-3090"}
SHARED = ("matrix", "gram", "norms", "cosines", "median", "root")
_MIB = 1024


def case_of(size: int, updates: int, seed: int) -> Case:
    """Returns a round of honest-looking updates of a model of that size."""
    here = world("digits", seed=1)
    family = models.family(HIDDEN[size], here.family.features, here.family.classes)
    base = family.initial(seed)
    random = np.random.default_rng([seed, 0x636F])
    count = sum(values.size for values in base.values())
    common = random.standard_normal(count, np.float32)
    submissions = tuple(
        Submission(
            f"site-{site}",
            parameters.encode(
                parameters.unflatten(
                    np.float32(1e-3) * (common + random.standard_normal(count, np.float32)),
                    family.shapes,
                )
            ),
            examples=65,
            participant=f"site-{site}",
        )
        for site in range(updates)
    )
    return Case(
        family=family,
        golden=here.golden,
        base=parameters.encode(base),
        submissions=submissions,
        round=5,
        local=Local(),
    )


def measured(size: int, updates: int, repeats: int) -> dict[str, Any]:
    """Returns milliseconds an update, by examiner and of the whole, and this process' memory."""
    one_thread()
    before = _peak_mib()
    case = case_of(size, updates, seed=0)
    given = _peak_mib()
    spent: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], object]) -> None:
        began = time.perf_counter()
        work()
        spent.setdefault(name, []).append(1e3 * (time.perf_counter() - began) / updates)

    for _ in range(repeats):
        clock("whole review", lambda: vet(case))
    peak = _peak_mib()
    for _ in range(repeats):
        population = Population(case)
        clock("shared", lambda p=population: [getattr(p, name) for name in SHARED])
        for examiner in ALL:
            # By its file: two of them may speak for one examiner.
            name = getattr(examiner, "__name__", examiner.NAME).rpartition(".")[2]
            clock(name, lambda p=population, e=examiner: e.examine(p))
    return {
        "parameters": sum(int(np.prod(shape)) for shape in case.family.shapes.values()),
        "updates": updates,
        "repeats": repeats,
        "memory_mib": {"before": before, "round": given, "peak": peak},
        "milliseconds": {
            name: {
                "p50": round(float(np.percentile(values, 50)), 3),
                "p99": round(float(np.percentile(values, 99)), 3),
            }
            for name, values in spent.items()
        },
    }


def judged(size: int, updates: int, seconds: float) -> int:
    """Returns how many updates this process judges in that time; the first round warms up."""
    one_thread()
    case = case_of(size, updates, seed=0)
    vet(case)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        vet(case)
        count += updates
    return count


def _peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB, 1)


def _alone(work: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def options_of() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parameters", nargs="+", type=int, choices=list(HIDDEN), default=list(HIDDEN)
    )
    parser.add_argument("--updates", type=int, default=20, help="in a round")
    parser.add_argument("--repeats", type=int, default=20, help="a tenth for the largest model")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="for updates a minute")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    """Measures and prints tables in Markdown."""
    options = options_of()
    load, began = os.getloadavg()[0], time.monotonic()
    found = [
        _alone(
            measured,
            size,
            options.updates,
            max(2, options.repeats // 10) if size == max(HIDDEN) else options.repeats,
        )
        for size in options.parameters
    ]
    sizes = [f"{each['parameters']:,}" for each in found]
    print("Milliseconds an update, p50 / p99:\n")
    print(f"| examiner | {' | '.join(sizes)} |\n|---|{'---|' * len(sizes)}")
    for name in found[0]["milliseconds"]:
        spent = [each["milliseconds"][name] for each in found]
        cells = [f"{each['p50']:.2f} / {each['p99']:.2f}" for each in spent]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| | " + " | ".join(sizes) + " |\n|---|" + "---|" * len(sizes))
    for name in found[0]["memory_mib"]:
        cells = [f"{each['memory_mib'][name]:.0f}" for each in found]
        print(f"| MiB, {name} | {' | '.join(cells)} |")
    smallest = min(options.parameters)
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(judged, smallest, options.updates, options.seconds)
            for _ in range(options.processes)
        ]
        a_minute = sum(each.result() for each in waiting) * 60 / options.seconds
    after = os.getloadavg()[0]
    print(
        f"\n{a_minute:,.0f} updates a minute with {options.processes} processes, rounds of"
        f" {options.updates}, {sizes[options.parameters.index(smallest)]} parameters;"
        f" {time.monotonic() - began:.0f} s, load {load:.1f} to {after:.1f}"
        f" on {os.cpu_count()} cores"
    )
    if options.json is not None:
        document = {
            "sizes": found,
            "updates_per_minute": round(a_minute),
            "processes": options.processes,
            "machine": {"load": [load, after], "cores": os.cpu_count()},
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
