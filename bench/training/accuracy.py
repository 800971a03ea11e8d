"""What privacy costs in accuracy: five sites that differ, beside all rows in one place.

    nice -n 10 python bench/training/accuracy.py
    nice -n 10 python bench/training/accuracy.py --models logistic --epsilons 1 2 --seeds 40

Breast cancer, five participants, labels dealt unevenly (Dirichlet 0.3), through the round loop, the
strategy and the private training of a coordinator; the review is off. The plan of each epsilon is
what `aegis train start --epsilon E --model M` sends. Epsilon holds for the whole run, all steps of
all rounds composed at the plan's delta, and is computed again from the noise for the table.

Epsilon ∞ is the plan of epsilon 8 without noise; no server offers that. *Central* is
the same training, with the same steps, settings and noise, by one who has all the rows: what
federation itself costs. Accuracy is that on the 114 test rows; seeds 0, 1, ... decide initial
model, split between sites, sampling and noise.

The few settings of the plans were chosen with seeds from 100 on, but there is one test set: what it
has in common with itself was tuned to. The *golden* rows, 64 whose labels nothing here has seen,
say how much that was worth.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import logging
import math
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch

from aegis.plans import default_plan
from aegis.v1 import training_pb2
from aegis_learning import parameters, privacy, scores
from aegis_learning.aggregation.updates import Updates
from aegis_learning.datasets import load
from aegis_learning.parameters import Parameters
from aegis_participant.randomness import KeyStream
from aegis_participant.training import Task, train
from aegis_server.training.noise import centre_of
from aegis_server.training.plans import noise_of, planned_steps
from aegis_server.training.rounds import Rounds
from aegis_server.training.strategies import rule_of

ALPHA = 0.3


@dataclass(frozen=True)
class Line:
    """All accuracies of a model at an epsilon."""

    model: str
    target: float
    spent: float
    noise_multiplier: float
    rounds: int
    steps: int
    federated: list[float]
    golden: list[float]
    central: list[float]


def plan_of(model: str, epsilon: float, seed: int, *, centred: bool) -> training_pb2.RunPlan:
    """Returns the plan; for epsilon ∞ the settings of the largest epsilon they are known for."""
    plan = default_plan(seed=seed, review=False, model=model, epsilon=epsilon)
    plan.centred = centred
    plan.dirichlet_alpha = ALPHA
    return plan


def federated(plan: training_pb2.RunPlan, noise: float) -> tuple[float, float]:
    """Returns the accuracy of a run, on test rows and on golden rows."""
    rounds = Rounds(plan, noise, None)
    data = load(plan.dataset)
    model, state = data.family(plan.model).initial(plan.seed), None
    for number in range(1, plan.rounds + 1):
        tried = rounds.train(number, model, repeat=0, attempt=1, state=state)
        if tried.model is None:
            raise RuntimeError(tried.losses)
        model, state = tried.model, tried.state
    report = rounds.report(plan.rounds, model, [], steps=planned_steps(plan))
    golden = data.family(plan.model).logits(model, data.golden.x)
    return float(report.accuracy), scores.accuracy(golden, data.golden.y)


def central(plan: training_pb2.RunPlan, noise: float) -> float:
    """Returns the accuracy of the same training on all rows at once."""
    data = load(plan.dataset)
    family = data.family(plan.model)
    task = Task(
        model=family,
        steps=plan.local_steps,
        learning_rate=plan.learning_rate,
        sample_rate=plan.sample_rate,
        clip_norm=plan.clip_norm,
        noise_multiplier=noise,
        centre=centre_of(plan),
    )
    model: Parameters = family.initial(plan.seed)
    state = None
    for number in range(1, plan.rounds + 1):
        update = train(task, model, data.shared, KeyStream.seeded(plan.seed, number)).delta
        made = rule_of(plan, state=state).aggregate(Updates.named([update]))
        model = parameters.add(model, parameters.unflatten(made.update, family.shapes))
        state = made.state
    return scores.accuracy(family.logits(model, data.test.x), data.test.y)


def measure(model: str, epsilon: float, seeds: range, *, centred: bool) -> Line:
    """Runs every seed, federated and central."""
    runs: dict[str, list[float]] = {"federated": [], "golden": [], "central": []}
    for seed in seeds:
        plan = plan_of(model, epsilon, seed, centred=centred)
        noise = 0.0 if math.isinf(epsilon) else noise_of(plan)
        for name, accuracy in zip(("federated", "golden"), federated(plan, noise), strict=True):
            runs[name].append(accuracy)
        runs["central"].append(central(plan, noise))
    steps = planned_steps(plan)
    spent = privacy.epsilon(noise, plan.sample_rate, steps, plan.delta) if noise else math.inf
    return Line(model, epsilon, spent, noise, plan.rounds, plan.local_steps, **runs)


def row(line: Line) -> str:
    """Returns a row of the table, in Markdown."""
    epsilon = "∞" if math.isinf(line.target) else f"{line.target:g}"
    spent = "" if math.isinf(line.spent) else f"{line.spent:.3f}"
    return (
        f"| {line.model} | {epsilon} | {spent} | {line.rounds} × {line.steps} |"
        f" {line.noise_multiplier:.2f} | {spread(line.federated)} | {min(line.federated):.3f} |"
        f" {spread(line.golden)} | {spread(line.central)} |"
    )


def spread(accuracies: list[float]) -> str:
    """Returns mean ± standard deviation."""
    deviation = stdev(accuracies) if len(accuracies) > 1 else 0.0
    return f"{mean(accuracies):.3f} ± {deviation:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["logistic", "mlp"])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1, 2, 4, 8, math.inf])
    parser.add_argument("--centred", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every accuracy")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # Flower has one for every round
    warnings.filterwarnings("ignore", message="Full backward hook")
    torch.set_num_threads(1)
    before, began, lines = os.getloadavg()[0], time.monotonic(), []
    print("| model | ε | spent | rounds × steps | σ | federated | worst | on golden | central |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in options.models:
        for epsilon in options.epsilons:
            lines.append(measure(model, epsilon, range(options.seeds), centred=options.centred))
            print(row(lines[-1]), flush=True)
    rows = load("breast-cancer")
    print(f"{options.seeds} seeds, {len(rows.shared)} rows, {len(rows.test)} test rows;", end=" ")
    print(
        f"{time.monotonic() - began:.0f} s, load {before:.1f} to {os.getloadavg()[0]:.1f}", end=" "
    )
    print(f"on {os.cpu_count()} cores")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=2) + "\n")


if __name__ == "__main__":
    main()
