"""Accuracy with 30 % malicious sites: every strategy against every attack, with and without review.

    python bench/training/attacks.py --seeds 3
    python bench/training/attacks.py --seeds 1 --strategies fed-avg krum --attacks alie ipm

Whole simulated runs: the coordinator's round loop, Opacus at every site, the examiners of the
review. Seeds are 0, 1, ...; the last sites attack. The robust strategies are told the true number
of attackers, which nobody knows in practice. A run that ends early counts with the model it had.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

from aegis.plans import ATTACKS, STRATEGIES, Attacker, Strategy, default_plan

# Besides those that ruin a run outright, gentle forms: what hides best hurts least.
SCALES = {"sign-flip": 4.0, "label-flip": 1.0, "noise": 10.0, "scale": 10.0}


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the table."""

    strategy: str
    attack: str
    review: bool
    seed: int
    sites: int
    malicious: int
    rounds: int
    epsilon: float


def run(cell: Cell) -> tuple[Cell, float, int]:
    """Returns the accuracy a run ends with, and the round."""
    import torch

    from aegis_server.training.simulation.runner import simulate

    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", message="Full backward hook")
    torch.set_num_threads(1)
    robust = cell.strategy in ("fed-median", "trimmed-mean", "krum", "multi-krum", "bulyan")
    # Bulyan assumes n >= 4f + 3: with 20 sites at most 4 of the 6.
    told = min(cell.malicious, (cell.sites - 3) // 4 if cell.strategy == "bulyan" else cell.sites)
    plan = default_plan(
        seed=cell.seed,
        review=cell.review,
        participants=cell.sites,
        strategy=Strategy(cell.strategy, malicious=told if robust else 0),
    )
    plan.rounds, plan.target_epsilon = cell.rounds, cell.epsilon
    if cell.review and robust:
        # What the review rejects is gone, now and then an honest update too: the rule is left with
        # the others, and takes three fewer than there are honest ones.
        left = cell.sites - cell.malicious - 3
        plan.min_participants = max(2, min(plan.min_participants, left))
        plan.settings.malicious = min(told, max(0, (plan.min_participants - 3) // 4))
    if cell.attack != "none":
        attacker = Attacker(cell.attack, SCALES.get(cell.attack))
        for number in range(cell.malicious):
            plan.attacks.append(attacker.message(f"site-{cell.sites - number}"))
    finished = simulate(plan, workers=1, told=lambda _: None)
    last = finished.standings[-1]
    return cell, last.accuracy, last.number


def options_of() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sites", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.3, help="of sites that attack")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    """Runs all cells and prints the table in Markdown."""
    options = options_of()
    malicious = round(options.share * options.sites)
    attacks = ["none", *options.attacks]
    cells = [
        Cell(strategy, attack, review, seed, options.sites, malicious, options.rounds, epsilon)
        for strategy in options.strategies
        for attack in attacks
        for review in (False, True)
        for seed in range(options.seeds)
        for epsilon in (options.epsilon,)
    ]
    load, began = os.getloadavg(), time.monotonic()
    found: dict[tuple[str, str, bool], list[float]] = {}
    early = 0
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for cell, accuracy, reached in pool.map(run, cells):
            found.setdefault((cell.strategy, cell.attack, cell.review), []).append(accuracy)
            early += reached < cell.rounds
    print(f"| strategy | {' | '.join(attacks)} |\n|---|{'---|' * len(attacks)}")
    for strategy in options.strategies:
        for review in (False, True):
            row = (f"{mean(found[strategy, attack, review]):.3f}" for attack in attacks)
            name = f"{strategy}, reviewed" if review else strategy
            print(f"| {name} | {' | '.join(row)} |")
    print(
        f"{malicious} of {options.sites} sites attack, {options.rounds} rounds, epsilon"
        f" {options.epsilon:g}, {options.seeds} seeds; {early} of {len(cells)} runs ended early;"
        f" {time.monotonic() - began:.0f} s, load {load[0]:.1f} to {os.getloadavg()[0]:.1f}"
        f" on {os.cpu_count()} cores"
    )
    if options.json is not None:
        table = {f"{s}/{a}/{'on' if r else 'off'}": values for (s, a, r), values in found.items()}
        options.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
