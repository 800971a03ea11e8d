"""How long the privacy ledger takes, beside Opacus' accountants over the same segments.

    python bench/training/ledger.py --segments 50 --participants 1000

A segment is a kind of step (noise, rate) with how many were taken. "Query" is what a reservation
asks of one participant: add the vectors up and turn the sum into an epsilon; "first" is the first
time a process sees those kinds. Opacus' RDPAccountant computes every segment anew at each call, as
its users have it. "Reserve" is the whole check of a run that all participants take part in, without
the database. CPU milliseconds of this process, the median of several.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
from opacus.accountants import RDPAccountant

from aegis_learning import privacy
from aegis_server.privacy.book import Book, Limit, Line, Mechanism
from aegis_server.privacy.certificate import Composition, epsilon_prv

DELTA = 1e-3


def _segments(count: int, random: np.random.Generator) -> list[tuple[float, float, int]]:
    noise = random.uniform(1.5, 6.0, count).round(4)
    rate = random.uniform(0.01, 0.3, count).round(3)
    steps = random.integers(5, 200, count)
    return [(float(n), float(q), int(t)) for n, q, t in zip(noise, rate, steps, strict=True)]


def _milliseconds(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.process_time()
        work()
        taken.append(1e3 * (time.process_time() - began))
    return statistics.median(taken)


def _batch(work: Callable[[], object], size: int) -> Callable[[], object]:
    return lambda: [work() for _ in range(size)]


def _book(segments: list[tuple[float, float, int]], participants: int) -> Book:
    lines = [
        Line(f"site-{number}", Mechanism(*segments[(number + k) % len(segments)]), 0, 1)
        for number in range(participants)
        for k in range(min(4, len(segments)))
    ]
    return Book("rows", lines, {}, {}, Limit(1e6, DELTA))


def main() -> None:
    """Prints one line a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--segments", type=int, default=50)
    parser.add_argument("--participants", type=int, default=1000)
    parser.add_argument("--prv", type=int, default=5, help="segments of the PRV certificate")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Optimal order")
    segments = _segments(arguments.segments, np.random.default_rng(1))
    theirs = RDPAccountant()
    theirs.history = list(segments)

    def ours() -> float:
        cost = sum(Mechanism(*segment).cost() for segment in segments)
        return privacy.epsilon_of(np.asarray(cost), DELTA)

    first = _milliseconds(ours, 1)
    query = _milliseconds(_batch(ours, 100), 9) / 100
    opacus = _milliseconds(lambda: theirs.get_epsilon(delta=DELTA), 5)
    difference = abs(ours() - theirs.get_epsilon(delta=DELTA))
    print(f"{arguments.segments} segments, epsilon {ours():.4f}, |ours - Opacus| {difference:.1e}")
    print(f"query         {query:10.3f} ms")
    print(f"first         {first:10.1f} ms")
    print(f"Opacus RDP    {opacus:10.1f} ms   {opacus / query:,.0f} times the query")

    book = _book(segments, arguments.participants)
    names, wanted = [f"site-{n}" for n in range(arguments.participants)], segments[0]
    built = _milliseconds(lambda: _book(segments, arguments.participants), 5)
    check = _milliseconds(lambda: book.overdrawn(names, Mechanism(*wanted).cost()), 5)
    print(f"book of {arguments.participants} participants, 4 kinds each: {built:.1f} ms to add up")
    print(f"reserve for all of them: {check:.1f} ms, {1e3 * check / len(names):.0f} µs each")

    task = Composition(segments[: arguments.prv], DELTA)
    epsilon_prv(task)
    prv, bound = _milliseconds(lambda: epsilon_prv(task), 1), epsilon_prv(task)
    print(f"certificate of {arguments.prv}: {prv:.0f} ms, {bound:.3f} beside {task.epsilon:.3f}")
    print("load " + " ".join(f"{each:.1f}" for each in os.getloadavg()))


if __name__ == "__main__":
    main()
