"""The lab's report in words and rows; `report` is the JSON of `aegis_server.review.lab`.

TPR and FPR are those of the verdicts; "at 5 % FPR" is the TPR of the scores with the threshold
there. Accuracy without review (off), with it before the mean (on) or before FLTrust (robust), and
when nobody attacks (clean). ASR is how often the trigger works.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

HEADINGS = [
    *("attack", "TPR %", "FPR %", "at 5 % FPR", "AUC"),
    *("accuracy % off", "on", "robust", "clean"),
    *("ASR % off", "ASR % on"),
]


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Returns a row for each attack, as in `HEADINGS`; the runs that nobody attacks first."""
    return [_row(report, attack) for attack in report["detection"]]


def in_words(report: dict[str, Any]) -> str:
    """Returns what was run and how long it took."""
    settings, machine = report["settings"], report["machine"]
    attackers = round(settings["sites"] * settings["malicious"])
    seeds = "1 seed" if settings["seeds"] == 1 else f"{settings['seeds']} seeds"
    cost = report["cost"]
    return (
        f"{attackers} of {settings['sites']} sites attack, {settings['rounds']} rounds,"
        f" {seeds}, {', '.join(report['worlds'])}. A round's review takes"
        f" {cost['round_ms_p50']:.0f} ms (p99 {cost['round_ms_p99']:.0f});"
        f" all of it {machine['seconds']:.0f} s on {machine['cores']} cores, load"
        f" {machine['load'][0]:.1f} to {machine['load'][1]:.1f}"
    )


def tables(report: dict[str, Any]) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Yields title, headings and rows: all worlds together, each world, the cost."""
    yield "All worlds", HEADINGS, rows(report)
    if len(report["worlds"]) > 1:
        for name, figures in report["worlds"].items():
            yield name, HEADINGS, rows(figures)
    cost = report["cost"]
    yield (
        "Cost of the review, in milliseconds",
        ["a round, p50", "a round, p99", "an update, mean", "rounds measured"],
        [[*(f"{cost[k]:.2f}" for k in list(cost)[:3]), str(cost["rounds"])]],
    )


def _row(report: dict[str, Any], attack: str) -> list[str]:
    found, accuracy = report["detection"][attack], report["accuracy"][attack]
    success = report["backdoor"][attack]
    return [
        attack,
        *(_percent(found.get(name)) for name in ("tpr", "fpr", "tpr_at_5_fpr")),
        f"{found['auc']:.3f}" if "auc" in found else "-",
        *(_percent(accuracy.get(name)) for name in ("off", "on", "robust", "none")),
        *(_percent(success.get(name)) for name in ("off", "on")),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
