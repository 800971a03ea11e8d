"""The lab's report as one picture: bars of accuracy and of backdoors, a curve for each attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aegis.cli.attack.tables import in_words
from aegis.cli.execution.drawing import Box, Drawing, Kind, Label, Line

_WIDTH = 960
_LEFT, _RIGHT = 150, 920
_TOP, _ROW, _BAR = 100, 52, 9
_KINDS: tuple[tuple[str, Kind, str], ...] = (
    ("off", "failed", "no review"),
    ("on", "prevented", "review, then the mean"),
    ("robust", "healed", "review, then FLTrust"),
    ("none", "open", "nobody attacks"),
)
_KEYS = (0, 100, 280, 450)
# Panels of curves.
_PANELS, _SIDE, _GAP, _HEAD = 5, 144, 42, 46
_TITLE = "What the review is worth under attack"

Part = Box | Label | Line


def chart(report: dict[str, Any]) -> Drawing:
    """Returns the picture; as tall as there are attacks."""
    attacks = [name for name in report["detection"] if name != "none"]
    curved = [name for name in attacks if "roc" in report["detection"][name]]
    foot = _TOP + _ROW * len(attacks)
    parts = [*_head(), *_bars(report, attacks, foot), *_curves(report, curved, foot + 40)]
    height = foot + 40 + (_HEAD + _SIDE + 30) * -(-len(curved) // _PANELS) + 20
    return Drawing(
        _WIDTH,
        height,
        _TITLE,
        in_words(report),
        tuple(part for part in parts if isinstance(part, Box)),
        tuple(part for part in parts if isinstance(part, Label)),
        tuple(part for part in parts if isinstance(part, Line)),
    )


def _head() -> Iterator[Part]:
    words = "Accuracy of the last model (left), and how often a backdoor works (right)"
    yield Label(20, 24, words, "strong")
    for (_, kind, words), x in zip(_KINDS, _KEYS, strict=True):
        yield Box(20 + x, 44, 12, 12, kind)
        yield Label(38 + x, 55, words)


def _bars(report: dict[str, Any], attacks: list[str], foot: int) -> Iterator[Part]:
    middle = _LEFT + (_RIGHT - _LEFT) * 0.62
    for left, right in ((_LEFT, middle - 30), (middle, _RIGHT)):
        for part in (0.0, 0.5, 1.0):
            x = left + part * (right - left)
            yield Box(x, _TOP - 8, 1, foot - _TOP + 4, "line")
            yield Label(x, _TOP - 14, f"{part:.0%}", anchor="middle", size=11)
    for at, attack in enumerate(attacks):
        y = _TOP + at * _ROW
        yield Label(_LEFT - 10, y + 22, attack, "strong", "end", 13)
        yield from _group(attack, report["accuracy"][attack], y, _LEFT, middle - 30 - _LEFT)
        yield from _group(attack, report["backdoor"][attack], y, middle, _RIGHT - middle)


def _group(
    attack: str, shares: dict[str, float | None], y: float, left: float, width: float
) -> Iterator[Part]:
    for at, (name, kind, words) in enumerate(_KINDS):
        share = shares.get(name)
        if share is not None:
            title = f"{attack}, {words}: {share:.1%}"
            yield Box(left, y + at * (_BAR + 1), max(share * width, 1), _BAR, kind, title)


def _curves(report: dict[str, Any], attacks: list[str], top: int) -> Iterator[Part]:
    if not attacks:
        return
    words = "True positives by false positives at every threshold; the square is the verdict"
    yield Label(20, top, words, "strong")
    for at, attack in enumerate(attacks):
        x = 40 + (at % _PANELS) * (_SIDE + _GAP)
        y = top + _HEAD + (at // _PANELS) * (_SIDE + _HEAD + 30)
        yield from _panel(attack, report["detection"][attack], x, y)


def _panel(attack: str, found: dict[str, Any], x: float, y: float) -> Iterator[Part]:
    foot = y + _SIDE
    yield Label(x, y - 10, attack, "strong", size=12)
    yield Label(x + _SIDE - 8, foot - 8, f"area {found['auc']:.3f}", anchor="end", size=11)
    for part in (0.0, 0.5, 1.0):
        yield Box(x, foot - part * _SIDE, _SIDE, 1, "line")
        yield Box(x + part * _SIDE, y, 1, _SIDE, "line")
        yield Label(x + part * _SIDE, foot + 16, f"{part:.0%}", anchor="middle", size=10)
    points = tuple((x + false * _SIDE, foot - true * _SIDE) for false, true in found["roc"])
    yield Line(points, "prevented", f"{attack}: area {found['auc']:.3f}")
    if found["tpr"] is not None and found["fpr"] is not None:
        title = f"{attack}, as decided: TPR {found['tpr']:.1%}, FPR {found['fpr']:.1%}"
        at = (x + found["fpr"] * _SIDE - 4, foot - found["tpr"] * _SIDE - 4)
        yield Box(*at, 8, 8, "failed", title)
