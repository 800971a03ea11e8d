"""The report as one HTML file: no script, no request, readable on paper and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.resources import files

from aegis.audit.findings import Verdict
from aegis.audit.report.blocks import Section, Table
from aegis.audit.report.charts import Bar, Share
from aegis.audit.report.document import DISCLAIMER, ArticleResult, FrameworkResult, Report
from aegis.audit.report.sections import overview, sections, summary

# Nothing may be loaded or run, whatever a record holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_WIDTH, _HEIGHT = 720, 150
_STATUS = {"none": "none in the period"}


def render_html(report: Report) -> bytes:
    """Returns the whole report as a page."""
    return "\n".join(_page(report)).encode()


def _page(report: Report) -> Iterator[str]:
    title = f"Aegis compliance report, {report.dates}"
    style = (files(__package__) / "report.css").read_text(encoding="utf-8")
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>"
    yield '<a class="skip" href="#main">Skip to the report</a>'
    yield "<header>"
    yield f"<p class=kind>Aegis compliance report</p><h1>{escape(report.dates)}</h1>"
    yield from _headline(report)
    yield f"<p class=disclaimer>{escape(DISCLAIMER)}</p>"
    yield "</header>"
    parts = sections(report)
    yield from _contents(report, parts)
    yield '<main id="main">'
    yield from _overview(report)
    for part in parts:
        yield from _section(part)
    for result in report.frameworks:
        yield from _framework(result)
    yield "</main>"
    yield f"<footer><p>Made {report.made_at:%Y-%m-%d %H:%M:%S} UTC from a copy of the audit logs."
    yield "Subjects are policy subjects; no free text is shown.</p></footer>\n</body>\n</html>\n"


def _headline(report: Report) -> Iterator[str]:
    good = report.verification.verdict is Verdict.GOOD
    role, kind = ("status", "good") if good else ("alert", "bad")
    yield f'<div class="verdict {kind}" role="{role}">'
    yield f"<p><strong>{escape(report.headline)}</strong></p>"
    if not good:
        yield "<ul>"
        yield from (f"<li>{escape(line)}</li>" for line in report.alarm)
        yield "</ul>"
    yield "</div>"


def _contents(report: Report, parts: tuple[Section, ...]) -> Iterator[str]:
    yield '<nav aria-label="Contents"><ul>'
    for part in parts:
        yield f'<li><a href="#{part.anchor}">{escape(part.title)}</a></li>'
    for result in report.frameworks:
        found = result.framework
        yield f'<li><a href="#{found.id}">{escape(found.name)}</a></li>'
    yield "</ul></nav>"


def _overview(report: Report) -> Iterator[str]:
    yield '<section aria-labelledby="overview"><h2 id="overview">At a glance</h2><dl class=numbers>'
    for name, value in summary(report):
        yield f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    yield "</dl>"
    yield from _table(overview(report), "articles")
    yield "</section>"


def _section(part: Section) -> Iterator[str]:
    yield f'<section aria-labelledby="{part.anchor}">'
    yield f'<h2 id="{part.anchor}">{escape(part.title)}</h2><p>{escape(part.lead)}</p>'
    if part.bars:
        yield from _bars(part.bars)
    if part.shares:
        yield from _shares(part.shares)
    for position, each in enumerate(part.tables):
        yield from _table(each, f"{part.anchor}-{position}")
    yield "</section>"


def _table(shown: Table, anchor: str) -> Iterator[str]:
    name = escape(shown.title)
    yield f'<h3 id="{anchor}-title">{name}</h3>'
    if not shown.rows:
        yield f"<p class=empty>{escape(shown.empty)}</p>"
        return
    yield f'<div class=scroll role=region aria-labelledby="{anchor}-title" tabindex=0>'
    yield "<table><thead><tr>"
    kinds = [_kind(column) for column in shown.columns]
    for column, kind in zip(shown.columns, kinds, strict=True):
        yield f"<th scope=col{kind}>{escape(column.rstrip('#='))}</th>"
    yield "</tr></thead><tbody>"
    for row in shown.rows:
        cells = [f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)]
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"
    if shown.note:
        yield f"<p class=note>{escape(shown.note)}</p>"


def _kind(column: str) -> str:
    return {"#": " class=number", "=": " class=digest"}.get(column[-1], "")


def _bars(found: tuple[Bar, ...]) -> Iterator[str]:
    most = max(bar.allowed + bar.denied for bar in found) or 1
    allowed, denied = (sum(getattr(bar, each) for bar in found) for each in ("allowed", "denied"))
    step = _WIDTH / len(found)
    width = min(step * 0.8, 28)
    days = found[0].days
    each = "day" if days == 1 else f"{days} days"
    last = found[-1].first
    yield f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT + 24}" role="img" aria-labelledby="bars">'
    yield (
        f'<title id="bars">Decisions from {found[0].first} on: {allowed:,} allowed,'
        f" {denied:,} denied</title>"
    )
    yield f'<line class=axis x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
    for position, bar in enumerate(found):
        left = position * step + (step - width) / 2
        tall = [(_HEIGHT - 14) * count / most for count in (bar.allowed, bar.denied)]
        text = f"{bar.first}: {bar.allowed:,} allowed, {bar.denied:,} denied"
        yield f"<g><title>{text}</title>"
        for kind, height, foot in (
            ("allowed", tall[0], _HEIGHT),
            ("denied", tall[1], _HEIGHT - tall[0]),
        ):
            if height:
                yield (
                    f'<rect class={kind} x="{left:.1f}" y="{foot - height:.1f}"'
                    f' width="{width:.1f}" height="{height:.1f}"/>'
                )
        yield "</g>"
    yield f'<text x="0" y="{_HEIGHT + 18}">{found[0].first}</text>'
    if len(found) > 1:
        yield f'<text x="{_WIDTH}" y="{_HEIGHT + 18}" text-anchor=end>{last}</text>'
    yield "</svg><figcaption><span class=key-allowed></span>allowed"
    yield f"<span class=key-denied></span>denied · one bar a {each}, the tallest {most:,}"
    yield "</figcaption></figure>"


def _shares(found: tuple[Share, ...]) -> Iterator[str]:
    yield "<figure><ul class=shares>"
    for share in found:
        filled = min(max(share.part, 0), 1) * 100
        kind = "full" if share.part >= 0.9 else "part"
        text = f"ε {share.spent:.3g} of {share.limit:.3g} ({share.part:.0%})"
        yield f"<li><span>{escape(share.dataset)}</span><span>{text}</span>"
        yield '<svg viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true">'
        yield '<rect class=track width="100" height="3"/>'
        yield f'<rect class={kind} width="{filled:.2f}" height="3"/></svg></li>'
    yield "</ul><figcaption>Privacy budget spent at the end of the period</figcaption></figure>"


def _framework(result: FrameworkResult) -> Iterator[str]:
    found = result.framework
    yield f'<section class=framework aria-labelledby="{found.id}">'
    yield f'<h2 id="{found.id}">{escape(found.name)}</h2>'
    yield f"<p><strong>{escape(found.source)}.</strong> {escape(found.scope)}</p>"
    for each in result.articles:
        yield from _article(each)
    yield "</section>"


def _article(result: ArticleResult) -> Iterator[str]:
    article, status = result.article, result.status
    kind = status.replace(" ", "-")
    yield f"<article class={kind}><h3><span class=which>{escape(article.number)}</span>"
    word = _STATUS.get(status, status)
    yield f"{escape(article.title)} <span class=status>{word}</span></h3><dl>"
    if article.facts:
        yield f"<dt>The records show</dt><dd><p>{escape(article.shows)}</p><ul>"
        for statement in result.statements:
            empty = "" if statement.found else " class=empty"
            yield f"<li{empty}>{escape(statement.text)}</li>"
        yield "</ul></dd>"
    yield f"<dt>Not covered</dt><dd><p>{escape(article.not_covered)}</p></dd></dl></article>"
