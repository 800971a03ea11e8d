"""The picture of a run."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from aegis.cli.curves import curves
from aegis.cli.execution.drawing import png, svg
from aegis.v1 import training_pb2


def rounds(count: int) -> list[training_pb2.RoundMetrics]:
    return [
        training_pb2.RoundMetrics(
            round=number,
            accuracy=number / 1000,
            loss=1 / (1 + number),
            epsilon=number / 10,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 120, 500])
def test_every_number_of_rounds_is_drawn_within_the_picture(count: int):
    """The newest round is always there."""
    drawing = curves("run-1", rounds(count))
    for box in drawing.boxes:
        assert 0 <= box.x <= box.x + box.width <= drawing.width
        assert 0 <= box.y <= box.y + box.height <= drawing.height
    ET.fromstring(svg(drawing))
    if count:
        assert f"round {count - 1}: accuracy" in svg(drawing)


def test_picture_is_also_a_png():
    """With Pillow."""
    assert png(curves("run-1", rounds(3))).startswith(b"\x89PNG")
