"""Accuracy, loss and epsilon of a run by round, as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aegis.cli.execution.drawing import Box, Drawing, Kind, Label
from aegis.v1 import training_pb2

_WIDTH, _HEIGHT = 960, 340
_LEFT, _PANEL, _GAP = 28, 280, 32
_TOP, _FOOT = 112, 296
# More bars than that would be thinner than a pixel.
_BARS_MAX = 120
_PANELS: tuple[tuple[str, Kind], ...] = (
    ("accuracy", "healed"),
    ("loss", "failed"),
    ("epsilon", "prevented"),
)


def curves(run_id: str, rounds: Sequence[training_pb2.RoundMetrics]) -> Drawing:
    """Returns a panel for each figure, a bar for each round, or for the last of several."""
    every = max(1, -(-len(rounds) // _BARS_MAX))
    # From the end, so that the newest round is always there.
    shown = list(rounds[::-1][::every][::-1])
    words = in_words(rounds)
    parts = [
        part
        for at, (name, kind) in enumerate(_PANELS)
        for part in _panel(name, kind, shown, _LEFT + at * (_PANEL + _GAP))
    ]
    head = (
        Label(_LEFT, 36, f"Run {run_id}", "title", size=20),
        Label(_LEFT, 60, words, size=13),
    )
    return Drawing(
        _WIDTH,
        _HEIGHT,
        f"Run {run_id}",
        words,
        tuple(each for each in parts if isinstance(each, Box)),
        (*head, *(each for each in parts if isinstance(each, Label))),
    )


def in_words(rounds: Sequence[training_pb2.RoundMetrics]) -> str:
    """Returns how the newest model does."""
    if not rounds:
        return "no round is stored yet"
    last = rounds[-1]
    return (
        f"after round {last.round}: accuracy {last.accuracy:.3f}, loss {last.loss:.3f},"
        f" epsilon {last.epsilon:.2f}"
    )


def _panel(
    name: str, kind: Kind, rounds: Sequence[training_pb2.RoundMetrics], left: float
) -> Iterator[Box | Label]:
    values = [float(getattr(each, name)) for each in rounds]
    # Accuracy is a part of one whole; the others are as large as they are.
    most = 1.0 if name == "accuracy" else max(values, default=0.0) or 1.0
    yield Label(left, _TOP - 16, name, "strong", size=13)
    yield Label(left + _PANEL, _TOP - 16, f"{most:.3g}", anchor="end")
    for part in (0.0, 0.5, 1.0):
        yield Box(left, _FOOT - part * (_FOOT - _TOP), _PANEL, 1, "line")
    if not rounds:
        return
    step = _PANEL / len(rounds)
    for at, (each, value) in enumerate(zip(rounds, values, strict=True)):
        height = (_FOOT - _TOP) * min(max(value / most, 0.0), 1.0)
        title = f"round {each.round}: {name} {value:.4f}"
        yield Box(left + at * step, _FOOT - height, max(step * 0.8, 0.5), height, kind, title)
    yield Label(left, _FOOT + 18, str(rounds[0].round))
    yield Label(left + _PANEL, _FOOT + 18, f"round {rounds[-1].round}", anchor="end")
