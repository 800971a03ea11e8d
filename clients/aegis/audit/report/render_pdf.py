"""The report as PDF, for filing. Needs the extra `report`, so only whoever wants one imports it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape

from reportlab.graphics.shapes import Drawing, Line, Rect, String
from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    KeepTogether,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    TableStyle,
)
from reportlab.platypus import Table as Grid

from aegis.audit.findings import Verdict
from aegis.audit.report.blocks import Section, Table
from aegis.audit.report.charts import Bar, Share
from aegis.audit.report.document import DISCLAIMER, ArticleResult, FrameworkResult, Report
from aegis.audit.report.sections import overview, sections, summary

_INK, _SOFT, _LINE = HexColor("#1a1f26"), HexColor("#56606c"), HexColor("#c3cad2")
_GOOD, _BAD = HexColor("#14632f"), HexColor("#a01313")
_ALLOWED, _DENIED = HexColor("#3b73b9"), HexColor("#c4501b")
_MARGIN = 16 * mm
_WIDTH = A4[0] - 2 * _MARGIN
_GAP = 6.0
_BOLD = "Helvetica-Bold"


def _style(size: float, **more: Any) -> ParagraphStyle:
    return ParagraphStyle(
        "text",
        **{"fontName": "Helvetica", "fontSize": size, "leading": size * 1.3, "textColor": _INK}
        | more,
    )


_TEXT = _style(9, spaceAfter=4)
_NOTE = _style(7.5, textColor=_SOFT, spaceAfter=4)
_TITLE = _style(18, fontName=_BOLD, spaceAfter=8)
_PART = _style(13, fontName=_BOLD, spaceBefore=14, spaceAfter=4)
_NAME = _style(9.5, fontName=_BOLD, spaceBefore=9, spaceAfter=3)


def render_pdf(report: Report) -> bytes:
    """Returns the whole report as a PDF; equal reports are equal bytes."""
    target = BytesIO()
    document = SimpleDocTemplate(
        target,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=18 * mm,
        title=f"Aegis compliance report, {report.dates}",
        author="Aegis",
        lang="en",
        invariant=1,
    )

    def foot(canvas: Any, page: Any) -> None:
        _foot(canvas, page.page, report)

    document.build(list(_story(report)), onFirstPage=foot, onLaterPages=foot)
    return target.getvalue()


def _foot(canvas: Any, number: int, report: Report) -> None:
    good = report.verification.verdict is Verdict.GOOD
    canvas.saveState()
    canvas.setFont("Helvetica" if good else _BOLD, 7.5)
    canvas.setFillColor(_SOFT if good else _BAD)
    text = f"Aegis compliance report, {report.dates}" if good else report.headline
    canvas.drawString(_MARGIN, 10 * mm, _known(text))
    canvas.setFillColor(_SOFT)
    canvas.drawRightString(A4[0] - _MARGIN, 10 * mm, f"page {number}")
    canvas.restoreState()


def _known(text: str) -> str:
    """Returns text with what the built-in fonts cannot draw spelled out."""
    text = text.replace("ε", "epsilon").replace("δ", "delta")
    return text.encode("cp1252", "backslashreplace").decode("cp1252")


def _text(text: str, style: ParagraphStyle = _TEXT, *, bold: str = "") -> Paragraph:
    strong = f"<b>{escape(_known(bold))}</b> " if bold else ""
    return Paragraph(strong + escape(_known(text)), style)


def _story(report: Report) -> Iterator[Flowable]:
    yield _text("Aegis compliance report", _style(10, textColor=_SOFT))
    yield _text(report.dates, _TITLE)
    yield _headline(report)
    yield Spacer(1, 6)
    yield _text(DISCLAIMER, _NOTE)
    yield _numbers(report)
    yield from _table(overview(report))
    for part in sections(report):
        yield from _section(part)
    for result in report.frameworks:
        yield from _framework(result)
    yield Spacer(1, 10)
    made = f"Made {report.made_at:%Y-%m-%d %H:%M:%S} UTC from a copy of the audit logs. Subjects"
    yield _text(f"{made} are policy subjects; no free text is shown.", _NOTE)


def _headline(report: Report) -> Flowable:
    good = report.verification.verdict is Verdict.GOOD
    color, size = (_GOOD, 11) if good else (_BAD, 14)
    lines: list[Flowable] = [_text(report.headline, _style(size, fontName=_BOLD, textColor=color))]
    lines += [_text(line, _style(9, textColor=color)) for line in report.alarm]
    box = Grid([[lines]], colWidths=[_WIDTH])
    box.setStyle(
        TableStyle(
            [
                ("BOX", (0, 0), (-1, -1), 1 if good else 3, color),
                ("LEFTPADDING", (0, 0), (-1, -1), 8),
                ("TOPPADDING", (0, 0), (-1, -1), 6),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 8),
            ]
        )
    )
    return box


def _numbers(report: Report) -> Flowable:
    value, name = _style(14, fontName=_BOLD), _style(7.5, textColor=_SOFT)
    cells = [[_text(number, value), _text(what, name)] for what, number in summary(report)]
    grid = Grid([cells[:4], cells[4:]], colWidths=[_WIDTH / 4] * 4)
    grid.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.5, _LINE)]))
    return grid


def _section(part: Section) -> Iterator[Flowable]:
    yield CondPageBreak(45 * mm)
    yield _text(part.title, _PART)
    yield _text(part.lead)
    if part.bars:
        yield _bars(part.bars)
        days = "day" if part.bars[0].days == 1 else f"{part.bars[0].days} days"
        yield _text(f"Blue: allowed. Orange: denied. One bar a {days}.", _NOTE)
    if part.shares:
        yield _shares(part.shares)
    for each in part.tables:
        yield from _table(each)


def _table(shown: Table) -> Iterator[Flowable]:
    title = _text(shown.title, _NAME)
    if not shown.rows:
        yield KeepTogether([title, _text(shown.empty, _NOTE)])
        return
    size = 8.0 if len(shown.columns) < 8 else 7.0
    grid = Grid(
        [
            _row([column.rstrip("#=") for column in shown.columns], shown.columns, size, _BOLD),
            *(_row(row, shown.columns, size, "Helvetica") for row in shown.rows),
        ],
        colWidths=_widths(shown, size),
        repeatRows=1,
        hAlign="LEFT",
    )
    grid.setStyle(
        TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("VALIGN", (0, 0), (-1, 0), "BOTTOM"),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("RIGHTPADDING", (0, 0), (-1, -1), _GAP),
                ("TOPPADDING", (0, 0), (-1, -1), 2),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
                ("LINEBELOW", (0, 0), (-1, 0), 0.8, _INK),
                ("LINEBELOW", (0, 1), (-1, -1), 0.3, _LINE),
            ]
        )
    )
    yield CondPageBreak(25 * mm)
    yield title
    yield grid
    if shown.note:
        yield Spacer(1, 2)
        yield _text(shown.note, _NOTE)


def _row(
    cells: list[str] | tuple[str, ...], columns: tuple[str, ...], size: float, font: str
) -> list[Paragraph]:
    # 2 is to the right.
    return [
        _text(cell, _style(size, fontName=font, alignment=2 if column.endswith("#") else 0))
        for cell, column in zip(cells, columns, strict=True)
    ]


def _widths(shown: Table, size: float) -> list[float]:
    """Returns widths that fill the page, each column at least as wide as its longest word."""
    wanted, least = [], []
    for position, column in enumerate(shown.columns):
        cells = [_known(row[position]) for row in shown.rows]
        head = _known(column.rstrip("#="))
        wide = max(stringWidth(text, _BOLD, size) for text in [head, *cells])
        words = [word for text in [head, *cells] for word in text.split()] or [""]
        word = max(stringWidth(each, _BOLD, size) for each in words)
        wanted.append(wide + _GAP + 1)
        least.append(min(word + _GAP + 1, wide + _GAP + 1, 130.0))
    if sum(least) > _WIDTH:
        return [width * _WIDTH / sum(least) for width in least]
    spare, more = _WIDTH - sum(least), sum(wanted) - sum(least)
    if more <= 0:
        return least
    part = min(1.0, spare / more)
    return [low + (high - low) * part for low, high in zip(least, wanted, strict=True)]


def _bars(found: tuple[Bar, ...]) -> Drawing:
    tall = 80.0
    most = max(bar.allowed + bar.denied for bar in found) or 1
    step = _WIDTH / len(found)
    width = min(step * 0.8, 20.0)
    drawing = Drawing(_WIDTH, tall + 16)
    drawing.add(Line(0, 14, _WIDTH, 14, strokeColor=_LINE))
    for position, bar in enumerate(found):
        left, foot = position * step + (step - width) / 2, 14.0
        for count, color in ((bar.allowed, _ALLOWED), (bar.denied, _DENIED)):
            height = tall * count / most
            drawing.add(Rect(left, foot, width, height, fillColor=color, strokeColor=None))
            foot += height
    drawing.add(String(0, 3, str(found[0].first), fontSize=7, fillColor=_SOFT))
    if len(found) > 1:
        last = str(found[-1].first)
        drawing.add(String(_WIDTH, 3, last, fontSize=7, fillColor=_SOFT, textAnchor="end"))
    return drawing


def _shares(found: tuple[Share, ...]) -> Drawing:
    row, left, wide = 16.0, 110.0, 220.0
    drawing = Drawing(_WIDTH, row * len(found))
    for position, share in enumerate(found):
        foot = row * (len(found) - 1 - position) + 4
        filled = wide * min(max(share.part, 0), 1)
        color = _DENIED if share.part >= 0.9 else _ALLOWED
        text = f"epsilon {share.spent:.3g} of {share.limit:.3g} ({share.part:.0%})"
        drawing.add(String(0, foot, _known(share.dataset), fontSize=8, fillColor=_INK))
        drawing.add(Rect(left, foot, wide, 7, fillColor=_LINE, strokeColor=None))
        drawing.add(Rect(left, foot, filled, 7, fillColor=color, strokeColor=None))
        drawing.add(String(left + wide + 8, foot, text, fontSize=8, fillColor=_INK))
    return drawing


def _framework(result: FrameworkResult) -> Iterator[Flowable]:
    yield CondPageBreak(80 * mm)
    yield _text(result.framework.name, _PART)
    yield _text(result.framework.scope, bold=f"{result.framework.source}.")
    for each in result.articles:
        yield KeepTogether(list(_article(each)))


def _article(result: ArticleResult) -> Iterator[Flowable]:
    article = result.article
    word = "none in the period" if result.status == "none" else result.status
    yield _text(f"{article.number}  {article.title} ({word})", _NAME)
    if article.facts:
        yield _text(article.shows, bold="The records show:")
        style = _style(8.5, leftIndent=12, bulletIndent=4)
        for statement in result.statements:
            yield Paragraph(escape(_known(statement.text)), style, bulletText="•")
    yield _text(article.not_covered, bold="Not covered:")
