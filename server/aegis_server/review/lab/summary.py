"""The report of the lab as JSON: figures by attack, over all kinds of worlds and in each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from aegis_server.review.lab.curves import curve
from aegis_server.review.lab.trials import NONE, Ran, setting_name


def report(ran: Sequence[Ran]) -> dict[str, Any]:
    """Returns `detection`, `accuracy`, `backdoor`, `cost`, and the first three by `worlds`.

    `accuracy.{attack}` has `none` (nobody attacks, no review), `off`, `on` and `robust`, and so has
    `backdoor.{attack}`; there, `none` is how often the trigger works by itself. `detection.none` is
    the review of runs in which nobody attacks: all of it is false positives.
    """
    settings = sorted({each.trial.setting for each in ran}, key=setting_name)
    worlds = {
        setting_name(setting): _figures([each for each in ran if each.trial.setting == setting])
        for setting in settings
    }
    return {**_figures(ran), "worlds": worlds, "cost": _cost(ran)}


def _figures(ran: Sequence[Ran]) -> dict[str, Any]:
    attacks = list(dict.fromkeys(each.trial.attack for each in ran))
    attacks.sort(key=lambda name: name != NONE)
    accuracy: dict[str, dict[str, float | None]] = {}
    backdoor: dict[str, dict[str, float | None]] = {}
    for attack in attacks:
        gates = {"none": _of(ran, NONE, "off")} if attack != NONE else {}
        gates |= {name: _of(ran, attack, name) for name in ("off", "on", "robust")}
        known = {name: of for name, of in gates.items() if of}
        accuracy[attack] = {name: _mean(e.accuracy for e in of) for name, of in known.items()}
        backdoor[attack] = {name: _mean(e.backdoor for e in of) for name, of in known.items()}
    return {
        "detection": {attack: _detection(_of(ran, attack, "on")) for attack in attacks},
        "accuracy": accuracy,
        "backdoor": backdoor,
    }


def _detection(ran: Sequence[Ran]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tpr": _mean(each.tpr for each in ran),
        "fpr": _mean(each.fpr for each in ran),
        "fallback_rounds": _mean(each.fallbacks for each in ran),
    }
    roc = curve(
        np.concatenate([each.honest for each in ran]),
        np.concatenate([each.poisoned for each in ran]),
    )
    if roc is not None:
        found |= {
            "tpr_at_1_fpr": round(roc.at(0.01), 4),
            "tpr_at_5_fpr": round(roc.at(0.05), 4),
            "auc": round(roc.area, 4),
            "roc": roc.points(),
        }
    return found


def _cost(ran: Sequence[Ran]) -> dict[str, float]:
    """Returns milliseconds of a round's review and of an update's, and how many were measured."""
    rounds = 1e3 * np.array([s for each in ran if each.trial.gate == "on" for s in each.seconds])
    updates = sum(len(e.honest) + len(e.poisoned) for e in ran if e.trial.gate == "on")
    return {
        "round_ms_p50": round(float(np.percentile(rounds, 50)), 2),
        "round_ms_p99": round(float(np.percentile(rounds, 99)), 2),
        "update_ms_mean": round(float(rounds.sum()) / updates, 3),
        "rounds": len(rounds),
    }


def _of(ran: Sequence[Ran], attack: str, gate: str) -> list[Ran]:
    return [each for each in ran if (each.trial.attack, each.trial.gate) == (attack, gate)]


def _mean(values: Iterable[float]) -> float | None:
    """Returns the mean of what is a number; None when nothing is, because JSON has no NaN."""
    known = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(known)), 4) if known else None
