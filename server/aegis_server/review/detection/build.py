"""Makes the detector that ships: `python -m aegis_server.review.detection.build`.

Honest runs of the lab, of both data sets, dealt evenly and unevenly, with and without privacy
noise, with it by the plan of the demo and by the one that is tuned to an epsilon, of few sites and
many, with seeds that no measurement uses. Each run is looked at as the review does, so what is
learned is what will be seen. It takes some three minutes of two cores; each run has a thread of its
own, because products are summed in one order only by a single one, and the same command is to make
the same file.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from threadpoolctl import threadpool_limits

from aegis_server.review.case import Case, Judgement, Ruling, Verdict
from aegis_server.review.detection.training import Recorded, train
from aegis_server.review.examiners import labels
from aegis_server.review.examining import Examining
from aegis_server.review.lab.gates import Review
from aegis_server.review.lab.simulating import simulate
from aegis_server.review.lab.worlds import DATA, world
from aegis_server.review.population import Population
from aegis_server.review.vetting import look
from aegis_server.workers import end_with_parent

TARGET = 0.03
#: Measurements use small numbers, benches smaller ones.
SEED = 7_000_000
_ALPHAS = (None, 0.5, 1.0)
# How many sites, and for how many rounds: small rounds are quick and need more runs.
_SIZES = ((20, 20), (20, 20), (20, 20), (20, 14), (20, 14), (10, 20), (10, 14))
# With steps over all rows the same sites are odd in every round: a run of ten shows ten sites,
# however long it is, and it takes many runs to see what is rare.
_FEW = ((10, 30),) * 4
# Plans, what their runs may cost, and their sizes. Runs are numbered in this order: add at the end.
_PLANS = (
    ("demo", (None, 8.0, 3.0), _SIZES),
    ("tuned", (8.0, 3.0), _SIZES),
    ("tuned", (8.0, 3.0), _FEW),
)


def accept(case: Case) -> Ruling:
    """Returns that all are accepted, with what a detector would have been shown."""
    population = Population.as_trained(case)
    examine = Examining()
    seen = look(population, examine, centred=bool(case.local.centre))
    features = labels.remember(seen.features(), examine(population, [labels]))
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


# Number, plan, data set, concentration, epsilon, and how many sites for how many rounds.
Kind = tuple[int, str, str, float | None, float | None, tuple[int, int]]


def honest(runs: int, processes: int) -> Iterator[Recorded]:
    """Yields the updates of that many honest runs of each kind and size, in their order."""
    kinds = (
        (plan, *kind)
        for plan, epsilons, sizes in _PLANS
        for kind in itertools.product(DATA, _ALPHAS, epsilons, sizes)
        for _ in range(runs)
    )
    numbered: list[Kind] = [(number, *kind) for number, kind in enumerate(kinds)]
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=end_with_parent
    ) as pool:
        for rows in pool.map(_run, numbered):
            yield from rows


def _run(kind: Kind) -> list[Recorded]:
    number, plan, data, alpha, epsilon, (sites, rounds) = kind
    here = world(
        data,
        seed=SEED + number,
        alpha=alpha,
        epsilon=epsilon,
        rounds=rounds,
        sites=sites,
        # A linear model now and then, whose rounds have fewer parameters than others.
        model="logistic" if number % 5 == 4 else "",
        plan=plan,
    )
    rows: list[Recorded] = []

    def judge(case: Case) -> Ruling:
        ruling = accept(case)
        rows.extend(
            Recorded(f"run-{number}", case.round, each.update_id, each.features)
            for each in ruling.judgements
        )
        return ruling

    with threadpool_limits(1):
        simulate(here, None, Review(here, judge=judge), rounds=rounds, seed=here.seed)
    return rows


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1, help="of each kind and size")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--version", default="builtin-4")
    default = Path(__file__).with_name("builtin.safetensors")
    parser.add_argument("--file", type=Path, default=default)
    options = parser.parse_args()
    with threadpool_limits(1):
        rows = list(honest(options.runs, options.processes))
        detector = train(rows, target_fpr=TARGET, seed=SEED, version=options.version)
    options.file.write_bytes(detector.encode())


if __name__ == "__main__":
    main()
