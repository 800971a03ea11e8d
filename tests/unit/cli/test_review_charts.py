"""The pictures of the review: verdicts and threats over time."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from aegis.cli.execution.drawing import Drawing, png, svg
from aegis.cli.review.charts import analytics_chart, in_words, security_chart
from aegis.v1 import standing_pb2

Found = standing_pb2.GetReviewAnalyticsResponse
START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = ("sign-flip", "label-flip", "free-rider", "scaling", "a-kind-with-a-very-long-name")


def found(days: int, *, every: int = 1) -> Found:
    """A time in which something was judged every so many days."""
    answer = Found()
    answer.start.FromDatetime(START)
    answer.end.FromDatetime(START + timedelta(days=max(days, 1)))
    for day in range(0, days, every):
        at = START + timedelta(days=day)
        answer.by_day.add(key=f"{at:%Y-%m-%d}", judged=12, accepted=9, rejected=2, held=1)
        for number in range(1 + day % 3):
            kind, name = KINDS[(day + number) % len(KINDS)], "site-" + "x" * 50 + str(number)
            answer.threats.add(kind=kind, participants=[name]).time.FromDatetime(at)
    answer.total.judged, answer.total.rejected = 12 * len(answer.by_day), 2 * len(answer.by_day)
    for kind in KINDS:
        answer.by_attack.add(key=kind, judged=3)
        answer.by_examiner.add(key=kind, judged=9)
    return answer


@pytest.mark.parametrize("draw", [analytics_chart, security_chart])
@pytest.mark.parametrize("days", [0, 1, 30, 92, 93, 365])
def test_any_time_is_drawn_inside_the_picture(draw: Callable[[Found], Drawing], days: int):
    """Every box, however long the time is."""
    drawing = draw(found(days))
    for box in drawing.boxes:
        assert 0 <= box.x <= box.x + box.width <= drawing.width
        assert 0 <= box.y <= box.y + box.height <= drawing.height + 0.001
    ET.fromstring(svg(drawing))


@pytest.mark.parametrize("days", [30, 365])
def test_every_update_is_in_the_bars(days: int):
    """Days that share a bar are added up; none is lost."""
    counts = [
        int(box.title.split(": ")[1].split()[0])
        for box in analytics_chart(found(days)).boxes
        if box.title
    ]
    assert sum(counts) == 12 * days


def test_day_without_updates_is_a_gap():
    """Time goes on where nothing happens: bars keep their distance in days."""
    bars = [box for box in analytics_chart(found(11, every=5)).boxes if "accepted" in box.title]
    first, second, third = (box.x for box in bars)
    assert second - first == pytest.approx(third - second)
    assert second - first == pytest.approx(5 * 596 / 11)


@pytest.mark.parametrize("draw", [analytics_chart, security_chart])
def test_bar_of_a_day_is_named_by_its_date(draw: Callable[[Found], Drawing]):
    """Also when there is one, which has no time of day."""
    labels = [label.text for label in draw(found(1)).labels]
    assert "01-01" in labels
    assert "00:00" not in labels


def test_kinds_that_come_up_least_share_a_colour():
    """Four colours are told apart; what they mean is written beside them."""
    drawing = security_chart(found(30))
    labels = [label.text for label in drawing.labels]
    assert "others" in labels
    assert {box.kind for box in drawing.boxes if box.title} == {
        *("failed", "prevented", "healed", "open")
    }
    assert all(len(text) <= 80 for text in labels)


def test_picture_of_nothing_says_so():
    """There is something to look at nevertheless."""
    assert "nothing was judged" in [label.text for label in analytics_chart(Found()).labels]
    assert "no threats" in [label.text for label in security_chart(Found()).labels]
    assert in_words(Found()) == "no update was judged"


def test_pictures_are_also_pngs():
    """With Pillow."""
    assert png(analytics_chart(found(3))).startswith(b"\x89PNG")
    assert png(security_chart(found(3))).startswith(b"\x89PNG")
