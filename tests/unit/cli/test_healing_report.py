"""How the self-healing report is drawn: bars, round numbers, and a picture in three forms."""

from __future__ import annotations

import struct
from xml.etree import ElementTree as ET

import pytest
from tests.healing import healing_report

from aegis.cli.durations import duration, spoken
from aegis.cli.execution.bars import bar, spark
from aegis.cli.execution.chart import chart
from aegis.cli.execution.drawing import page, png, svg
from aegis.cli.execution.healing import refusals, rows, slices
from aegis.cli.execution.stacks import ticks
from aegis.v1 import execution_pb2

Report = execution_pb2.GetHealingReportResponse
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("part", "drawn"),
    [(0, "····"), (0.5, "██··"), (0.3125, "█▎··"), (1, "████"), (7, "████"), (-1, "····")],
)
def test_bar_is_as_long_as_its_part(part: float, drawn: str):
    """To an eighth of a column, and never longer than there is room."""
    assert bar(part, 4) == drawn


def test_spark_shows_whatever_is_there():
    """One among thousands is seen, and nothing is a gap."""
    assert spark([0, 1, 4000, 8000]) == " ▁▄█"
    assert spark([1, 2], most=4) == "▂▄"
    assert spark([0, 0]) == "  "
    assert spark([]) == ""


@pytest.mark.parametrize("most", [0, 1, 4, 5, 6, 11, 26, 99, 101, 1234, 999_999])
def test_scale_ends_in_a_round_number_above_everything(most: int):
    """With at most five steps, all of them equal."""
    scale = ticks(most)
    assert scale[0] == 0
    assert scale[-1] >= max(most, 1)
    assert 2 <= len(scale) <= 6
    step = scale[1]
    assert scale == [step * each for each in range(len(scale))]
    assert str(step).rstrip("0") in ("1", "2", "5")


def test_states_of_a_row_add_up_to_its_total():
    """Also those that this program is too old to know: they are open."""
    report = Report(rows=[Report.Row(action="x", total=5, states={"VERIFIED": 2, "NEW": 3})])
    ((_, total, *counts),) = [row[:9] for row in rows(report)]
    assert sum(map(int, counts)) == int(total) == 5
    for name, total, *more in (row[:9] for row in rows(healing_report())):
        assert sum(map(int, more)) == int(total), name


def test_all_actions_come_last_and_the_busiest_guard_first():
    """Whatever order the server sends."""
    report = healing_report()
    assert [row[0] for row in rows(report)] == ["restart_pod", "scale_deployment", "all"]
    assert refusals(report) == [("BUDGET_EXHAUSTED", 4), ("GITOPS_OWNED", 1)]


def test_neighbouring_buckets_are_put_together():
    """When there is no room for each; none is lost."""
    report = Report()
    for minute in range(100):
        bucket = report.buckets.add(healed=1, open=minute % 2)
        bucket.start_time.seconds = 60 * minute
    found = slices(report, 30)
    assert len(found) == 25
    assert {each.healed for each in found} == {4}
    assert sum(each.total for each in found) == 150
    assert slices(Report(), 30) == []


def test_every_action_is_in_the_picture():
    """The bars have the heights of their counts, stacked without a gap."""
    report = healing_report()
    drawing = chart(report)
    bars = [box for box in drawing.boxes if box.title]
    assert len(bars) == 3 + 3 + 1
    unit = bars[0].height
    counts = [int(box.title.split(": ")[1].split()[0]) for box in bars]
    assert [round(box.height / unit) for box in bars] == counts
    assert sum(counts) == sum(b.healed + b.failed + b.prevented for b in report.buckets)
    assert bars[0].y == pytest.approx(bars[1].y + bars[1].height)


def test_picture_stays_inside_its_frame():
    """Every box, however much there is."""
    report = healing_report()
    for number in range(12):
        report.refusals.add(reason=f"REASON_{number}", count=number + 1)
    for each in range(500):
        report.buckets.add(healed=each % 7).start_time.seconds = 1_700_000_000 + each * 3600
    drawing = chart(report)
    for box in drawing.boxes:
        assert 0 <= box.x <= box.x + box.width <= drawing.width
        assert 0 <= box.y <= box.y + box.height <= drawing.height
    assert any("more by other checks" in label.text for label in drawing.labels)


def test_picture_of_nothing_says_so():
    """There is something to look at nevertheless."""
    texts = [label.text for label in chart(Report()).labels]
    assert "no actions" in texts
    assert "nothing was refused" in texts


def test_svg_is_told_to_those_who_do_not_see_it():
    """A title, a description, and a title for each bar; nothing is loaded."""
    root = ET.fromstring(svg(chart(healing_report())))
    assert root.get("role") == "img"
    assert root.findtext(f"{SVG}title", "").startswith("Self-healing, 2023-11-14 22:13")
    assert root.findtext(f"{SVG}desc", "").startswith("6 healed")
    titles = [each.text for each in root.iter(f"{SVG}title")]
    assert "2023-11-14 22:13: 1 healed" in titles
    assert not [each for each in root.iter() if "href" in str(each.attrib)]


def test_words_of_a_server_are_only_text():
    """Whatever a reason is called, it is no markup."""
    report = Report(refusals=[Report.Refusals(reason="<script>&", count=1)])
    drawing = chart(report)
    ET.fromstring(svg(drawing))
    whole = page(drawing, "", [("<b>", ["<i>"], [["<script>"]])])
    assert "<script>" not in whole
    assert "&lt;b&gt;" in whole


def test_equal_reports_are_equal_files():
    """So that a picture in a repository changes only when its numbers do."""
    first, second = (chart(healing_report()) for _ in range(2))
    assert svg(first) == svg(second)
    assert png(first) == png(second)


def test_png_has_twice_the_pixels():
    """Sharp on a good screen."""
    drawing = chart(healing_report())
    assert struct.unpack(">II", png(drawing)[16:24]) == (drawing.width * 2, drawing.height * 2)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)]
)
def test_lengths_of_time_are_read_as_people_type_them(text: str, seconds: int):
    """With one unit."""
    assert duration(text, "--for").seconds == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.35, "350ms"), (41, "41s"), (123, "2m 3s"), (3600, "1h"), (90_061, "1d 1h")],
)
def test_lengths_of_time_are_told_in_two_units(seconds: float, text: str):
    """The largest ones."""
    assert spoken(seconds) == text
