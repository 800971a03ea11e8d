"""The review beside published defences, in a closed loop: same worlds, same seeds, same attacks.

    python bench/review/closed_loop.py --seeds 5
    python bench/review/closed_loop.py --seeds 2 --data digits --split dirichlet --dp off \\
        --attacks stealth-backdoor alie --gates review fltrust

Rates are those of verdicts: TPR is the share of poisoned updates that were refused, FPR the share
of honest ones in rounds with an attack. ASR is how often the trigger turns test rows of other
classes. Intervals are 95 %, by Student's t over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from peers import NAMES, PEERS, make
from scipy.stats import t

from aegis_server.review.lab.attacks import BY_NAME
from aegis_server.review.lab.trials import (
    NONE,
    SPLITS,
    Ran,
    Setting,
    Trial,
    epsilon_of,
    matrix,
    run_all,
    setting_name,
)
from aegis_server.review.lab.worlds import DATA, PLANS

MEASURES = ("tpr", "fpr", "accuracy", "backdoor")
Key = tuple[Setting, str, str]


def options_of() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--malicious", type=float, default=0.3, help="share of the sites")
    parser.add_argument("--quiet", action="store_true", help="attackers leave out their noise")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--split", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--dp", nargs="+", default=["off", "8"], metavar="EPSILON|off")
    parser.add_argument("--plan", choices=PLANS, default=PLANS[0], help="where there is privacy")
    parser.add_argument("--attacks", nargs="+", choices=list(BY_NAME), default=list(BY_NAME))
    parser.add_argument("--gates", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def trials_of(options: argparse.Namespace) -> list[Trial]:
    """Returns every run the options ask for."""
    trials = matrix(
        product(
            options.data,
            [SPLITS[split] for split in options.split],
            [epsilon_of(each) for each in options.dp],
        ),
        seeds=range(options.first_seed, options.first_seed + options.seeds),
        attacks=options.attacks,
        gates=options.gates,
        rounds=options.rounds,
        malicious=options.malicious,
        quiet=options.quiet,
        plan=options.plan,
    )
    # Where nobody attacks there is nobody to know of.
    return [trial for trial in trials if (trial.gate, trial.attack) != ("oracle", NONE)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean of what is a number, and half of its 95 % interval."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return math.nan, math.nan
    if len(known) == 1:
        return float(known[0]), math.nan
    error = float(known.std(ddof=1) / math.sqrt(len(known)))
    return float(known.mean()), float(t.ppf(0.975, len(known) - 1)) * error


def percent(values: Sequence[float]) -> str:
    """Returns e.g. `93.8 ±0.4`."""
    mean, half = interval(values)
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" + ("" if math.isnan(half) else f" ±{100 * half:.1f}")


def table(setting: Setting, found: dict[Key, list[Ran]], options: argparse.Namespace) -> None:
    """Prints a kind of world: a row for each attack and gate."""
    print(f"\n### {setting_name(setting)}\n")
    print("| attack | gate | TPR % | FPR % | accuracy % | ASR % | ms/round |")
    print("|---|---|---|---|---|---|---|")
    for attack in (NONE, *options.attacks):
        for gate in options.gates:
            ran = found.get((setting, attack, gate), [])
            if not ran:
                continue
            cells = [percent([getattr(each, name) for each in ran]) for name in MEASURES]
            spent = 1e3 * float(np.median([s for each in ran for s in each.seconds]))
            print(f"| {attack} | {gate} | {' | '.join(cells)} | {spent:.1f} |")


def comparison(found: dict[Key, list[Ran]], options: argparse.Namespace) -> None:
    """Prints, by kind of world and gate, the means over all attacks, and where peers do better."""
    print("\n### Over all attacks\n")
    print("| world | gate | TPR % | FPR % | accuracy % | worst accuracy % | worst backdoor ASR % |")
    print("|---|---|---|---|---|---|---|")
    settings = list(dict.fromkeys(key[0] for key in found))
    for setting in settings:
        attacks = [name for name in options.attacks if (setting, name, options.gates[0]) in found]
        for gate in options.gates:
            means = {
                name: [mean_of(found[setting, attack, gate], name) for attack in attacks]
                for name in MEASURES
            }
            backdoors = [
                asr
                for attack, asr in zip(attacks, means["backdoor"], strict=True)
                if "backdoor" in attack or attack == "mixture"
            ]
            print(
                f"| {setting_name(setting)} | {gate} | {percent_of(means['tpr'])}"
                f" | {percent_of(means['fpr'])} | {percent_of(means['accuracy'])}"
                f" | {percent_of([min(means['accuracy'])])}"
                f" | {percent_of([max(backdoors, default=math.nan)])} |"
            )
    peers = [gate for gate in options.gates if gate in PEERS]
    if not peers or "review" not in options.gates:
        return
    print("\nAttacks under which a peer is more than a point more accurate than `review`:\n")
    for setting, attack in dict.fromkeys(key[:2] for key in found):
        ours = mean_of(found[setting, attack, "review"], "accuracy")
        best, who = max((mean_of(found[setting, attack, gate], "accuracy"), gate) for gate in peers)
        if attack != NONE and ours < best - 0.01:
            print(f"- {setting_name(setting)}, {attack}: {100 * (best - ours):.1f} points ({who})")


def mean_of(ran: Sequence[Ran], measure: str) -> float:
    """Returns the mean of a measure over seeds."""
    return interval([getattr(each, measure) for each in ran])[0]


def percent_of(means: Sequence[float]) -> str:
    """Returns the mean of means that are numbers."""
    known = [value for value in means if not math.isnan(value)]
    return f"{100 * float(np.mean(known)):.1f}" if known else "-"


def document(
    found: dict[Key, list[Ran]], options: argparse.Namespace, machine: dict[str, Any]
) -> dict[str, Any]:
    """Returns every figure of every run, for a file."""
    worlds: dict[str, Any] = {}
    for (setting, attack, gate), ran in found.items():
        figures: dict[str, Any] = {
            name: {
                "values": [_number(getattr(each, name)) for each in ran],
                "mean": _number(mean_of(ran, name)),
                "half_interval": _number(interval([getattr(each, name) for each in ran])[1]),
            }
            for name in MEASURES
        }
        figures["fallback_rounds"] = [each.fallbacks for each in ran]
        worlds.setdefault(setting_name(setting), {}).setdefault(attack, {})[gate] = figures
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    return {"options": settings, "machine": machine, "worlds": worlds}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def main() -> None:
    """Runs everything and prints the tables in Markdown."""
    options = options_of()
    trials = trials_of(options)
    load, began = os.getloadavg(), time.monotonic()
    found: dict[Key, list[Ran]] = defaultdict(list)
    contenders = partial(make, malicious=options.malicious)
    for done, ran in enumerate(run_all(trials, contenders, processes=options.processes), 1):
        found[ran.trial.setting, ran.trial.attack, ran.trial.gate].append(ran)
        if done % 50 == 0:
            spent = time.monotonic() - began
            print(f"{done} of {len(trials)} runs, {spent:.0f} s", file=sys.stderr, flush=True)
    for each in found.values():
        each.sort(key=lambda ran: ran.trial.seed)
    seconds = time.monotonic() - began
    for setting in dict.fromkeys(trial.setting for trial in trials):
        table(setting, found, options)
    comparison(found, options)
    machine = {
        "seconds": round(seconds, 1),
        "load_before": [round(each, 2) for each in load],
        "load_after": [round(each, 2) for each in os.getloadavg()],
        "cores": os.cpu_count(),
    }
    print(
        f"\n{len(trials)} runs of {options.rounds} rounds, {options.malicious:.0%} malicious,"
        f" {options.seeds} seeds; {seconds:.0f} s, load {load[0]:.1f} to"
        f" {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    if options.json is not None:
        options.json.write_text(json.dumps(document(found, options, machine), indent=2) + "\n")


if __name__ == "__main__":
    main()
