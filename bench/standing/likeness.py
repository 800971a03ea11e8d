"""Who is called a colluder: in honest runs nobody, in others who sends copies hidden in noise.

    python bench/standing/likeness.py --seeds 12 --first-seed 100

Runs of the attack lab's simulator without a gate: digits and breast cancer, rows dealt evenly or by
Dirichlet(0.5), with and without private noise (epsilon 8), twelve rounds. Honest: rounds with any
pair that is alike, and runs in which somebody keeps company. Colluders: two of five, or two fifths,
send the first one's update, each with a fifth of noise of its own; the share of runs in which
exactly they are found. The thresholds were set on seeds 0 to 11, so those say nothing about others.
"""

from __future__ import annotations

import argparse

import numpy as np

from aegis_learning import parameters
from aegis_learning.parameters import Array, unflatten
from aegis_server.review import sketches
from aegis_server.review.lab.sites import train
from aegis_server.review.lab.worlds import world
from aegis_server.review.memory.likeness import alike
from aegis_server.review.standing.collusion import Sighting, groups
from aegis_server.review.store import RoundKey

_ROUNDS = 12
_NOISE = 0.2


def run(
    name: str, *, seed: int, sites: int, alpha: float | None, epsilon: float | None, bad: int
) -> tuple[int, list[frozenset[str]]]:
    """Returns the rounds in which anybody was alike, and the groups after all of them."""
    where = world(name, seed=seed, alpha=alpha, epsilon=epsilon, sites=sites)
    random, base = np.random.default_rng(seed + 100), where.family.initial(seed)
    seen: dict[str, list[Sighting]] = {f"s{at}": [] for at in range(sites)}
    rounds = 0
    for number in range(1, _ROUNDS + 1):
        updates = train(where.family, base, where.sites, where.plan, random).astype(np.float32)
        sent = updates.copy()
        sent[:bad] = copies(updates[0], bad, random)
        found = alike(sketches.sketches(sent))
        rounds += any(found)
        for at, others in enumerate(found):
            key = RoundKey("run", number, 1)
            seen[f"s{at}"].append(Sighting(key, frozenset(f"s{each}" for each in others)))
        step = unflatten(updates[bad:].mean(axis=0), where.family.shapes)
        base = parameters.add(base, step)
    return rounds, groups(seen)


def copies(vector: Array, number: int, random: np.random.Generator) -> Array:
    """The vector so many times, each with noise of its own."""
    noise = random.normal(size=(number, len(vector)))
    noise *= _NOISE * np.linalg.norm(vector) / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(vector + noise, np.float32)


def line(name: str, alpha: float | None, epsilon: float | None, sites: int, seeds: range) -> str:
    """Returns a line of the table."""
    bad = round(0.4 * sites)
    colluders = frozenset(f"s{at}" for at in range(bad))
    rounds = kept = exactly = runs = 0
    for seed in seeds:
        settings = {"seed": seed, "sites": sites, "alpha": alpha, "epsilon": epsilon}
        try:
            alike_in, found = run(name, bad=0, **settings)  # type: ignore[arg-type]
        except ValueError:
            continue  # too few rows for so many sites
        rounds, kept, runs = rounds + alike_in, kept + bool(found), runs + 1
        exactly += run(name, bad=bad, **settings)[1] == [colluders]  # type: ignore[arg-type]
    dealt = "evenly" if alpha is None else f"Dirichlet({alpha:g})"
    noise = "none" if epsilon is None else f"epsilon {epsilon:g}"
    honest = f"{rounds}/{runs * _ROUNDS} | {kept}/{runs}"
    return f"| {name} | {dealt} | {noise} | {sites} | {honest} | {exactly}/{runs} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=12, help="how many")
    parser.add_argument("--first-seed", type=int, default=100)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print("| rows | dealt | noise | sites | honest rounds | honest runs | colluders found |")
    print("|---|---|---|---|---|---|---|")
    for name in ("digits", "breast-cancer"):
        for epsilon in (8.0, None):
            for alpha in (None, 0.5):
                for sites in (5, 20):
                    print(line(name, alpha, epsilon, sites, seeds), flush=True)


if __name__ == "__main__":
    main()
