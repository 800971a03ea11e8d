"""Backdoors that are not boosted: without a gate, with review, and with what publishes models.

    python bench/review/backdoors.py --seeds 700 701 702
    python bench/review/backdoors.py --seeds 700 701 --data digits --split dirichlet --adaptive

Closed loops of the lab: twenty sites, six of them attack, twenty rounds. `review` is what judges
updates without the backdoor examiner, and the mean of what it accepts; `published` has both the
examiner and `publishing.publish`. Thresholds were set on other seeds (200 to 611). With --adaptive
attackers try other triggers, shares and ways.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from aegis_learning.parameters import Array
from aegis_server.review.case import Ruling
from aegis_server.review.lab.attacking import Attack, View
from aegis_server.review.lab.attacks.backdoor import Backdoor
from aegis_server.review.lab.gates import Off, Review
from aegis_server.review.lab.simulating import Gate, simulate
from aegis_server.review.lab.worlds import World, world
from aegis_server.review.population import Population
from aegis_server.review.vetting import vet

GATES = ("none", "review", "published")
ROUNDS = 20


@dataclass(slots=True)
class Unpublished(Review):
    """The review, and the mean of what it accepts."""

    def moved(
        self, population: Population, ruling: Ruling, accepted: list[int]
    ) -> tuple[Array, list[int]]:
        if not accepted or (ruling.fallback and ruling.members):
            return Review.moved(self, population, ruling, accepted)
        return self.mean(population, accepted).update, accepted


@dataclass(frozen=True, slots=True)
class EveryOther:
    """Attacks in every other round only."""

    name: str = "every-other-round"

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        return _STEALTHY.poison(view) if view.round % 2 else view.honest


@dataclass(frozen=True, slots=True)
class Distributed:
    """Each attacker teaches one feature of the trigger (Xie et al. 2020, "DBA")."""

    name: str = "distributed"

    def poison(self, view: View) -> Array:
        """See `Attack`."""
        sent = []
        for i in range(len(view)):
            alone, trigger = view.part(slice(i, i + 1)), view.trigger
            place = slice(i % len(trigger.features), i % len(trigger.features) + 1)
            part = replace(trigger, features=trigger.features[place], values=trigger.values[place])
            sent.append(_STEALTHY.poison(replace(alone, trigger=part)))
        return np.concatenate(sent)


_STEALTHY = Backdoor("stealth-backdoor", boosted=False)


@dataclass(frozen=True, slots=True)
class Way:
    """How an attacker goes about it."""

    name: str
    attack: Attack = _STEALTHY
    malicious: float = 0.3
    marked: Callable[[World], World] = lambda here: here


def marked(
    here: World, *, features: int = 3, ordinary: bool = False, middle: bool = False
) -> World:
    """Returns the world with another trigger: ordinary features, or values half way."""
    random = np.random.default_rng([here.seed, features, ordinary, middle])
    x = np.concatenate([here.sites.split(i).x for i in range(len(here.sites.rows))])
    spread = np.argsort(x.var(axis=0), kind="stable")
    half = len(spread) // 2
    pool = spread[half:] if ordinary else spread[:half]
    chosen = np.sort(random.choice(pool, features, replace=False))
    mean = x[:, chosen].mean(axis=0)
    extreme = np.where(x.max() - mean > mean - x.min(), x.max(), x.min())
    values = (extreme + mean) / 2 if middle else extreme
    trigger = replace(here.trigger, features=chosen, values=values.astype(np.float32))
    return replace(here, trigger=trigger)


ADAPTIVE = (
    Way("rare features, three"),
    Way("ordinary features, three", marked=partial(marked, ordinary=True)),
    Way("one feature", marked=partial(marked, features=1)),
    Way("five features", marked=partial(marked, features=5)),
    Way("ten features", marked=partial(marked, features=10)),
    Way("half-way values", marked=partial(marked, middle=True)),
    Way("5 % of rows poisoned", Backdoor("few", boosted=False, share=0.05)),
    Way("every other round", EveryOther()),
    Way("distributed", Distributed()),
    Way("5 % attack", malicious=0.05),
    Way("10 % attack", malicious=0.1),
    Way("20 % attack", malicious=0.2),
    Way("40 % attack", malicious=0.4),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run."""

    data: str
    alpha: float | None
    epsilon: float | None
    seed: int
    gate: str
    way: int | None


def gate_of(name: str, here: World) -> Gate:
    """Returns a fresh gate."""
    if name == "none":
        return Off()
    if name == "review":
        return Unpublished(here, judge=partial(vet, without={"backdoor"}))
    return Review(here)


def run(cell: Cell) -> dict[str, float]:
    """Returns what came of a run."""
    here = world(cell.data, seed=cell.seed, alpha=cell.alpha, epsilon=cell.epsilon, rounds=ROUNDS)
    way = ADAPTIVE[cell.way or 0]
    here = way.marked(here)
    done = simulate(
        here,
        way.attack if cell.way is not None else None,
        gate_of(cell.gate, here),
        rounds=ROUNDS,
        seed=cell.seed,
        malicious=way.malicious,
    )
    return {
        "accuracy": done.accuracy,
        "success": done.backdoor,
        "tpr": done.tpr,
        "fpr": done.fpr,
    }


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """Yields all runs."""
    alphas = {"iid": None, "dirichlet": 0.5}
    ways = range(len(ADAPTIVE)) if options.adaptive else [0]
    for data in options.data:
        for epsilon in options.epsilon:
            for split in options.split:
                for way in [None, *ways]:
                    for gate in options.gates:
                        for seed in options.seeds:
                            private = epsilon if epsilon > 0 else None
                            yield Cell(data, alphas[split], private, seed, gate, way)


def main() -> None:
    """Reads the command line, runs everything, prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[700, 701, 702])
    parser.add_argument("--data", nargs="+", default=["digits", "breast-cancer"])
    parser.add_argument("--split", nargs="+", default=["iid", "dirichlet"])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.0, 8.0], help="0 is none")
    parser.add_argument("--gates", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--adaptive", action="store_true")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found: dict[Cell, dict[str, float]] = {}
    planned = list(cells(options))
    with ProcessPoolExecutor(options.processes) as pool:
        for cell, figures in zip(planned, pool.map(run, planned), strict=True):
            found[cell] = figures
            if options.json is not None:
                told = [{**vars_of(each), **figures} for each, figures in found.items()]
                options.json.write_text(json.dumps(told) + "\n")
    heads = ("world", "attack", "gate", "accuracy", "trigger works", "TPR", "FPR")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for first in planned:
        if first.seed != options.seeds[0]:
            continue
        row = [found[replace(first, seed=seed)] for seed in options.seeds]
        print(line(first, row))


def vars_of(cell: Cell) -> dict[str, object]:
    """Returns a cell for JSON."""
    return {name: getattr(cell, name) for name in Cell.__slots__}


def line(cell: Cell, row: Sequence[dict[str, float]]) -> str:
    """Returns a line of the table: means over seeds, in per cent."""
    figures = [
        f"{100 * value:.1f}" if np.isfinite(value) else ""
        for name in ("accuracy", "success", "tpr", "fpr")
        for value in [float(np.mean([each[name] for each in row]))]
    ]
    split = "IID" if cell.alpha is None else f"Dirichlet({cell.alpha:g})"
    private = f", ε = {cell.epsilon:g}" if cell.epsilon else ""
    attack = "none" if cell.way is None else ADAPTIVE[cell.way].name
    return f"| {cell.data}, {split}{private} | {attack} | {cell.gate} | {' | '.join(figures)} |"


if __name__ == "__main__":
    main()
