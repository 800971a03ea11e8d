"""What the review is worth: whole runs with and without it, against every attack of the lab.

    python bench/review_gate.py --seeds 5
    python bench/review_gate.py --seeds 5 --attack sign-flip:2 --attack noise:5 --epsilon 2
    python bench/review_gate.py --seeds 2 --model logistic --epsilon 1

No servers: the round loop, Flower's strategy, Opacus and the attacks are those of a coordinator,
and the gate calls the review's `vet` directly. So a run here learns what `aegis train start` with
the same seed and attack learns. Seeds are 0, 1, ...; the last site attacks.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean

import torch

from aegis.plans import ATTACKS, Attacker, default_plan
from aegis.v1 import review_pb2, training_pb2
from aegis_server.training.simulation.gate import DirectGate
from aegis_server.training.simulation.runner import simulate
from aegis_server.training.strategy import Judged

Update = review_pb2.Update
# What one site can do without others.
ALONE = ("sign-flip", "label-flip", "noise", "scale")


@dataclass
class Tally:
    """How many updates were judged, and how many of them were not let in."""

    judged: int = 0
    rejected: int = 0
    held: int = 0

    def add(self, verdict: Update.Verdict.ValueType) -> None:
        self.judged += 1
        self.rejected += verdict == Update.VERDICT_REJECTED
        self.held += verdict == Update.VERDICT_HELD

    def __str__(self) -> str:
        held = f" (+{self.held} held)" if self.held else ""
        return f"{self.rejected}/{self.judged}{held}"


@dataclass
class Outcome:
    """What came of one plan over all seeds."""

    accuracies: list[float] = field(default_factory=list)
    honest: Tally = field(default_factory=Tally)
    attacker: Tally = field(default_factory=Tally)
    unfinished: int = 0


class CountingGate(DirectGate):
    """Counts what it lets in, by who sent it."""

    def __init__(self, plan: training_pb2.RunPlan, outcome: Outcome) -> None:
        super().__init__(plan)
        self._attackers = {attack.participant for attack in plan.attacks}
        self._outcome = outcome

    def judge(
        self, number: int, updates: Mapping[str, bytes], asked: Collection[str] = ()
    ) -> Judged:
        judged = super().judge(number, updates, asked)
        for name, update in judged.verdicts.items():
            lies = name in self._attackers
            (self._outcome.attacker if lies else self._outcome.honest).add(update.verdict)
        return judged


def run(plan: training_pb2.RunPlan, outcome: Outcome) -> None:
    """Runs a plan to its end as a coordinator would, and adds what came of it."""
    finished = simulate(
        plan, workers=2, told=lambda _: None, gate_of=lambda each: CountingGate(each, outcome)
    )
    outcome.unfinished += bool(finished.failure)
    outcome.accuracies.append(finished.standings[-1].accuracy)


def line(name: str, on: Outcome, off: Outcome) -> str:
    """Returns a row of the table, in Markdown."""
    caught = str(on.attacker) if on.attacker.judged else "-"
    ended = f" ({on.unfinished} ended early)" if on.unfinished else ""
    return (
        f"| {name} | {mean(off.accuracies):.3f} / {min(off.accuracies):.3f}"
        f" | {mean(on.accuracies):.3f} / {min(on.accuracies):.3f}{ended} | {on.honest} | {caught} |"
    )


def attacker_of(text: str) -> Attacker:
    """Reads KIND or KIND:SCALE."""
    kind, _, factor = text.partition(":")
    if kind not in ATTACKS:
        raise argparse.ArgumentTypeError(f"{kind} is none of {', '.join(ATTACKS)}")
    return Attacker(kind, float(factor) if factor else None)


def options_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--attack", type=attacker_of, action="append", metavar="KIND[:SCALE]")
    parser.add_argument("--epsilon", type=float, help="instead of the default plan's")
    parser.add_argument("--model", help="take the plan measured for it and the epsilon")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every accuracy and count")
    return parser.parse_args()


def main() -> None:
    options = options_of()
    logging.disable(logging.WARNING)  # Flower has one for every round
    warnings.filterwarnings("ignore", message="Full backward hook")  # rows need no gradient
    torch.set_num_threads(1)
    attackers = [None, *(options.attack or [Attacker(kind) for kind in ATTACKS])]
    load_before, began = os.getloadavg(), time.monotonic()
    results: dict[str, dict[str, object]] = {}
    print("| attack | review off: mean / min | review on: mean / min", end=" ")
    print("| honest refused | attacker rejected |\n|---|---|---|---|---|")
    for attacker in attackers:
        outcomes = {True: Outcome(), False: Outcome()}
        plan = default_plan(attacker=attacker)
        for seed in range(options.seeds):
            for review, outcome in outcomes.items():
                plan = default_plan(
                    seed=seed,
                    review=review,
                    attacker=attacker,
                    model=options.model,
                    epsilon=options.epsilon if options.model else None,
                )
                if options.epsilon is not None:
                    plan.target_epsilon = options.epsilon
                run(plan, outcome)
        name = f"{attacker.kind} × {plan.attacks[0].scale:g}" if attacker else "none"
        print(line(name, outcomes[True], outcomes[False]), flush=True)
        results[name] = {"on": asdict(outcomes[True]), "off": asdict(outcomes[False])}
    seconds = time.monotonic() - began
    load = {"before": load_before, "after": os.getloadavg(), "cores": os.cpu_count()}
    print(f"{options.seeds} seeds, {plan.rounds} rounds, epsilon {plan.target_epsilon:g};")
    print(f"{seconds:.0f} s, load {load_before[0]:.1f} to {load['after'][0]:.1f}", end=" ")
    print(f"on {os.cpu_count()} cores")
    if options.json is not None:
        document = {
            "seeds": options.seeds,
            "plan": {"rounds": plan.rounds, "epsilon": plan.target_epsilon},
            "seconds": round(seconds, 1),
            "load": load,
            "attacks": results,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
