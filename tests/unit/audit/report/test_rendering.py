"""The three forms: the same numbers, nothing from outside, nothing a record could smuggle in."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.reporting import MAY, SERVER, record, reported

from aegis.audit.findings import Verdict
from aegis.audit.report.blocks import ROWS_MAX, table
from aegis.audit.report.charts import BARS_MAX, bars
from aegis.audit.report.facts import DayCount, Period
from aegis.audit.report.gathering import gather
from aegis.audit.report.render_html import render_html
from aegis.audit.report.render_json import render_json
from aegis.audit.report.render_pdf import render_pdf
from aegis.audit.report.sections import sections, summary

HOSTILE = "user:<script>alert(1)</script>&\"'–\u202e漢"


def text_of(pdf: bytes) -> str:
    """What the pages say, in the order it is drawn."""
    shown = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        try:
            page = zlib.decompress(base64.a85decode(b"<~" + stream.strip(), adobe=True))
        except (ValueError, zlib.error):
            continue
        for piece in re.findall(rb"\(((?:\\.|[^\\)])*)\) Tj", page):
            plain = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), piece)
            shown.append(re.sub(rb"\\(.)", rb"\1", plain).decode("cp1252"))
    return " ".join(" ".join(shown).split())


def test_html_asks_for_nothing():
    """No address, no script, no handler: it reads the same without a network."""
    page = render_html(reported()).decode()
    assert not re.search(r"https?:|//[a-z]|<script|<link|<img|<iframe|@import|url\(", page)
    assert not re.search(r"\son[a-z]+=", page)
    assert "default-src 'none'" in page


def test_hostile_subject_is_only_text():
    """Whoever gets a name into the record gets no code into the report."""
    denied = record("ACCESS", "read", "deny", actor=HOSTILE, rule_id="<b>rule</b>")
    report = reported(gather([(SERVER, denied)], MAY))
    page = render_html(report).decode()
    assert "<script" not in page
    assert "<b>rule" not in page
    assert "user:&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;" in page
    assert "\\u202e漢" in page
    text = text_of(render_pdf(report)).replace(" ", "")
    assert "user:<script>alert(1)</script>" in text
    assert "\\u202e\\u6f22" in text


@pytest.mark.parametrize("verdict", [v for v in Verdict if v is not Verdict.GOOD])
def test_record_that_does_not_verify_is_said_first(verdict: Verdict):
    """Before any number, in each form, and in the PDF at the foot of every page."""
    report = reported(verdict=verdict, frameworks=("gdpr",))
    page = render_html(report).decode()
    assert page.index(report.headline) < page.index("At a glance")
    assert 'role="alert"' in page
    assert "aegis-server, record 7: the record&#x27;s bytes were altered" in page
    plain = json.loads(render_json(report))
    assert list(plain)[1] == "headline"
    assert plain["verification"]["exit_status"] == int(verdict) != 0
    pdf = render_pdf(report)
    assert text_of(pdf).count(report.headline.split(".")[0]) > pdf.count(b"/Type /Page\n") > 1


def test_html_and_pdf_show_the_same_tables():
    """Every cell of every table is in both; Greek letters are spelled out on paper."""
    report = reported()
    page, text = render_html(report).decode(), text_of(render_pdf(report)).replace(" ", "")
    for part in sections(report):
        for shown in part.tables:
            for cell in (cell for row in shown.rows for cell in row):
                assert f">{cell}</td>" in page, cell
                assert cell.replace(" ", "") in text, cell
    for _, value in summary(report):
        assert f"<dd>{value}</dd>" in page
        assert value in text


def test_numbers_of_the_first_page():
    """What somebody reads who reads nothing else."""
    assert dict(summary(reported())) == {
        "records in the period": "55",
        "policy decisions": "13",
        "of them denials": "5",
        "training runs": "2",
        "updates rejected or held": "2",
        "actions decided": "3",
        "changes of rules": "2",
        "refused logins": "2",
    }


def test_free_text_is_in_no_form():
    """Reasons people wrote stay in the record."""
    report = reported()
    for content in (render_html(report), render_json(report), text_of(render_pdf(report)).encode()):
        assert b"forget me" not in content
        assert b"ada's name" not in content


def test_json_is_stable_and_has_the_documented_keys():
    """Equal reports are equal bytes; the keys are those of docs/compliance.md."""
    first = render_json(reported())
    assert first == render_json(reported())
    plain = json.loads(first)
    assert list(plain) == [
        "report_version",
        "headline",
        "disclaimer",
        "made_at",
        "period",
        "verification",
        "records",
        "facts",
        "frameworks",
    ]
    assert plain["report_version"] == 1
    assert plain["period"] == {
        "start": "2026-05-01T00:00:00+00:00",
        "end": "2026-06-01T00:00:00+00:00",
    }
    assert list(plain["facts"]) == [
        "logs",
        "peers",
        "decisions",
        "policy_changes",
        "runs",
        "datasets",
        "participants",
        "reviews",
        "actions",
        "identity",
        "key_changes",
        "erasures",
    ]
    assert plain["facts"]["logs"][0]["longest_gap"] == 820800.0
    assert plain["facts"]["datasets"][0]["spent"] == 7.5
    assert plain["verification"]["logs"][0]["witnessed_size"] == {"w:one": 60}
    hipaa = plain["frameworks"][0]
    assert (hipaa["id"], hipaa["articles"][0]["status"]) == ("hipaa", "not covered")


def test_pdf_is_a_pdf_and_stable():
    """The same report twice is the same file."""
    pdf = render_pdf(reported())
    assert pdf.startswith(b"%PDF-")
    assert pdf == render_pdf(reported())


def test_empty_period_is_told_in_every_form():
    """Tables without rows say so."""
    report = reported(gather([], MAY))
    assert "No decision in the period." in render_html(report).decode()
    assert "No decision in the period." in text_of(render_pdf(report))
    assert json.loads(render_json(report))["records"] == 0


def test_long_table_says_how_much_is_left_out():
    """A hundred rows for people; the JSON has all of them."""
    shown = table("t", "name|count#", [(f"n{n}", n) for n in range(ROWS_MAX + 5)], "none")
    assert len(shown.rows) == ROWS_MAX
    assert shown.note == "5 more are in the JSON."


def test_long_period_has_wider_bars():
    """However long the period is, the picture stays readable and loses no decision."""
    year = Period(MAY.start, MAY.start + timedelta(days=365))
    first = MAY.start.date()
    days = tuple(DayCount(first + timedelta(days=each), 2, 1) for each in range(365))
    found = bars(days, year)
    assert len(found) <= BARS_MAX
    assert (sum(bar.allowed for bar in found), sum(bar.denied for bar in found)) == (730, 365)
    assert bars((), year) == ()


def test_period_of_hours_is_told_to_the_second():
    """Whole days are told as days."""
    assert reported().dates == "2026-05-01 up to, not including, 2026-06-01 (UTC)"
    hour = Period(MAY.start + timedelta(hours=1), MAY.end)
    report = replace(reported(), facts=gather([], hour))
    assert report.dates.startswith("2026-05-01 01:00:00 up to")
