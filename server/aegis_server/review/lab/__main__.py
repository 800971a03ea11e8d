"""The program behind `aegis attack run`: `python -m aegis_server.review.lab`.

Standard output gets one JSON document a line: `{"trial": …}` for each run that is done, then the
whole `{"report": …}`, or `{"error": …}`; with `--list` only `{"attacks": …}`. Exit status: 0, or 2
when there is nothing to run.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import time
from itertools import product

from aegis_server.review.lab.attacking import Attack
from aegis_server.review.lab.attacks import ALL, BY_NAME
from aegis_server.review.lab.gates import gate
from aegis_server.review.lab.summary import report
from aegis_server.review.lab.trials import SPLITS, epsilon_of, matrix, run_all, setting_name
from aegis_server.review.lab.worlds import DATA, PLANS, SITES

GATES = ("off", "on", "robust")


def main() -> int:
    """Reads the command line."""
    options = _parser().parse_args()
    if options.list:
        _say({"attacks": [_described(attack) for attack in ALL]})
        return 0
    unknown = sorted(set(options.attacks) - BY_NAME.keys())
    if unknown:
        _say({"error": f"there is no attack {', '.join(unknown)}"})
        return 2
    return _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aegis-attack-lab")
    parser.add_argument("--list", action="store_true", help="say which attacks there are")
    parser.add_argument("--attacks", nargs="+", default=list(BY_NAME))
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--split", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--dp", nargs="+", default=["off"], metavar="EPSILON|off")
    parser.add_argument("--plan", choices=PLANS, default=PLANS[0], help="where there is privacy")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--malicious", type=float, default=0.3, help="share of the sites")
    parser.add_argument("--quiet", action="store_true", help="attackers leave out their noise")
    parser.add_argument("--processes", type=int, default=2)
    return parser


def _run(options: argparse.Namespace) -> int:
    trials = matrix(
        product(
            options.data,
            [SPLITS[split] for split in options.split],
            [epsilon_of(each) for each in options.dp],
        ),
        seeds=range(options.seeds),
        attacks=options.attacks,
        gates=GATES,
        rounds=options.rounds,
        malicious=options.malicious,
        quiet=options.quiet,
        plan=options.plan,
    )
    began, load, ran = time.monotonic(), os.getloadavg()[0], []
    for each in run_all(trials, gate, processes=options.processes):
        ran.append(each)
        _say(
            {
                "trial": {
                    "done": len(ran),
                    "of": len(trials),
                    "attack": each.trial.attack,
                    "gate": each.trial.gate,
                    "world": setting_name(each.trial.setting),
                    "accuracy": each.accuracy,
                }
            }
        )
    # Trials come in the order they are done; a report must not depend on that.
    ran.sort(key=lambda each: trials.index(each.trial))
    settings = {
        "sites": SITES,
        "rounds": options.rounds,
        "seeds": options.seeds,
        "malicious": options.malicious,
        "quiet": options.quiet,
        "plan": options.plan,
        "processes": options.processes,
    }
    machine = {
        "seconds": round(time.monotonic() - began, 1),
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "cores": os.cpu_count(),
    }
    _say({"report": {"settings": settings, "machine": machine, **report(ran)}})
    return 0


def _described(attack: Attack) -> dict[str, object]:
    """Returns an attack with the first line of its file and of its class, and its numbers."""
    kind = type(attack)
    module = inspect.getdoc(inspect.getmodule(kind)) or ""
    return {
        "name": attack.name,
        "idea": module.partition("\n\n")[0].replace("\n", " "),
        "does": (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " "),
        "numbers": {
            field: getattr(attack, field)
            for field in inspect.signature(kind).parameters
            if field != "name"
        },
    }


def _say(document: dict[str, object]) -> None:
    print(json.dumps(document), flush=True)  # noqa: T201  # what we are for


if __name__ == "__main__":
    sys.exit(main())
