"""Makes the detector that ships: `python -m aegis_server.review.detection.build`.

Honest runs of the lab, of both data sets, dealt evenly and unevenly, with and without privacy
noise, of few sites and many, with seeds that no measurement uses. Each run is looked at as the
review does, so what is learned is what will be seen. It takes some minutes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

from aegis_server.review.case import Case, Judgement, Ruling, Verdict
from aegis_server.review.detection.training import Recorded, train
from aegis_server.review.examining import Examining
from aegis_server.review.lab.gates import Review
from aegis_server.review.lab.simulating import simulate
from aegis_server.review.lab.worlds import DATA, world
from aegis_server.review.population import Population
from aegis_server.review.vetting import look

TARGET = 0.03
#: Measurements use small numbers, benches smaller ones.
SEED = 7_000_000
_ALPHAS = (None, 0.5, 1.0)
_EPSILONS = (None, 8.0, 3.0)
# How many sites, and for how many rounds: small rounds are quick and need more runs.
_SIZES = ((20, 20), (20, 20), (20, 20), (20, 14), (20, 14), (10, 20), (10, 14))


def accept(case: Case) -> Ruling:
    """Returns that all are accepted, with what a detector would have been shown."""
    population = Population(case)
    features = look(population, Examining()).features()
    return Ruling(
        tuple(
            Judgement(
                each.update_id,
                Verdict.ACCEPTED,
                0.0,
                (),
                features=features[i],
                sketch=population.sketches[i],
            )
            for i, each in enumerate(case.submissions)
        )
    )


def honest(runs: int) -> Iterator[Recorded]:
    """Yields the updates of that many honest runs of each kind and size."""
    kinds = itertools.product(DATA, _ALPHAS, _EPSILONS, _SIZES, range(runs))
    for number, (data, alpha, epsilon, (sites, rounds), _) in enumerate(kinds):
        here = world(
            data,
            seed=SEED + number,
            alpha=alpha,
            epsilon=epsilon,
            rounds=rounds,
            sites=sites,
            # A linear model now and then, whose rounds have fewer parameters than others.
            model="logistic" if number % 5 == 4 else "",
        )
        rows: list[Recorded] = []

        def judge(case: Case, run: str = f"run-{number}", rows: list[Recorded] = rows) -> Ruling:
            ruling = accept(case)
            rows += [
                Recorded(run, case.round, each.update_id, each.features)
                for each in ruling.judgements
            ]
            return ruling

        simulate(here, None, Review(here, judge=judge), rounds=rounds, seed=here.seed)
        yield from rows


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1, help="of each kind and size")
    parser.add_argument("--version", default="builtin-1")
    default = Path(__file__).with_name("builtin.safetensors")
    parser.add_argument("--file", type=Path, default=default)
    options = parser.parse_args()
    rows = list(honest(options.runs))
    detector = train(rows, target_fpr=TARGET, seed=SEED, version=options.version)
    options.file.write_bytes(detector.encode())


if __name__ == "__main__":
    main()
